"""The checkpoint that a command goes on with or plays: found, and refused where it is of another task, agent or network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config.options import UserError
from spiky_rl.config.plan import Plan
from spiky_rl.config.schema import ANN_KEYS
from spiky_rl.config.spec import AgentSpec, flatten
from spiky_rl.hosts.common import checkpoints, runs

TRAINED_ALONG = (".quantize",)
"""Ends of paths that a training may go on with changed: they decide how weights are trained, and not which there are."""


def check_network(
    loaded: Mapping[str, Any], spec: AgentSpec, checkpoint: Path, goes_on: bool = False
) -> None:
    """Refuse to go on with a checkpoint whose network is described differently, even where the weights would fit.

    Args:
        loaded: The checkpoint's content.
        spec: The agent now.
        checkpoint: The file, for messages.
        goes_on: Whether it is trained on, which may be finer than the training before.
    """
    theirs = checkpoints.identity_of(loaded).get("spec")
    if theirs is None:
        return
    old, new = shape(theirs), shape(spec.tree())
    defaults = {path for path, _, origin in spec.rows() if origin == "default"}
    for path in {**old, **new}:
        if path not in old and path in defaults:
            continue  # an option that there was not yet; its default is what there was
        if goes_on and path.endswith(TRAINED_ALONG):
            continue
        if old.get(path) != new.get(path):
            remedy = f"; pass agent.{path}={old[path]}" if path in old else ""
            raise UserError(
                f"{checkpoint}: was trained with {path}={old.get(path)}, not {new.get(path)}{remedy}"
            )


def shape(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a specification that decide the function which the weights compute, by dotted path."""
    kept: dict[str, Any] = {"history": tree.get("history", 1)}
    for network, role in (("network", "actor"), ("critic_network", "critic")):
        model = tree.get(role) or {}
        keys = ["obs_normalization"]
        if tree.get(network):
            kept |= flatten({network: tree[network]})
        else:
            keys += ANN_KEYS
        kept |= {f"{role}.{key}": model[key] for key in keys if key in model}
    return kept


def find_checkpoint(plan: Plan, goes_on: bool = False) -> Path:
    """The checkpoint that a plan's request names, if it is one of this task, agent and network. Raises UserError.

    Args:
        plan: The plan.
        goes_on: Whether it is trained on, with the seed that was given; else that may be the environments' alone.
    """
    asked = plan.request
    assert asked.checkpoint is not None
    seed = None if asked.seed == -1 else asked.seed
    checkpoint = runs.find_checkpoint(
        asked.checkpoint, asked.log_root, plan.experiment, plan.task, plan.agent, plan.library, seed, goes_on
    )
    loaded = checkpoints.read_checkpoint(str(checkpoint), library=plan.library)
    checkpoints.check_identity(loaded, plan.identity, str(checkpoint))
    check_network(loaded, plan.spec, checkpoint, goes_on)
    checkpoints.warn_of_other_robots(loaded, plan.assets, str(checkpoint))
    return checkpoint
