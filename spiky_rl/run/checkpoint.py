"""The checkpoint that a command goes on with or plays: found, and refused where it is of another task, agent or network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config.options import UserError
from spiky_rl.config.schema import ANN_KEYS
from spiky_rl.config.spec import AgentSpec, flatten
from spiky_rl.learners.common import checkpoints
from spiky_rl.run import run_folders
from spiky_rl.run.run_plan import RunPlan

TRAINING_ONLY_KEYS = (".quantize",)
"""Ends of paths that a training may go on with changed: they decide how weights are trained, and not which there are."""


def check_network(loaded: Mapping[str, Any], spec: AgentSpec, checkpoint: Path, resume: bool = False) -> None:
    """Refuse to go on with a checkpoint whose network is described differently, even where the weights would fit.

    Args:
        loaded: The checkpoint's content.
        spec: The agent now.
        checkpoint: The file, for messages.
        goes_on: Whether it is trained on, which may be finer than the training before.
    """
    theirs = checkpoints.get_identity(loaded).get("spec")
    if theirs is None:
        return
    old, new = get_function_values(theirs), get_function_values(spec.to_dict())
    defaults = {path for path, _, origin in spec.list_values() if origin == "default"}
    for path in {**old, **new}:
        if path not in old and path in defaults:
            continue  # an option that there was not yet; its default is what there was
        if resume and path.endswith(TRAINING_ONLY_KEYS):
            continue
        if old.get(path) != new.get(path):
            remedy = f"; pass agent.{path}={old[path]}" if path in old else ""
            raise UserError(
                f"{checkpoint}: was trained with {path}={old.get(path)}, not {new.get(path)}{remedy}"
            )


def get_function_values(tree: Mapping[str, Any]) -> dict[str, Any]:
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


def find_checkpoint(plan: RunPlan, resume: bool = False) -> Path:
    """The checkpoint that a plan's request names, if it is one of this task, agent and network. Raises UserError.

    Args:
        plan: The plan.
        goes_on: Whether it is trained on, with the seed that was given; else that may be the environments' alone.
    """
    asked = plan.request
    assert asked.checkpoint is not None
    seed = None if asked.seed == -1 else asked.seed
    checkpoint = run_folders.find_checkpoint(
        asked.checkpoint, asked.log_root, plan.experiment, plan.task, plan.agent, plan.library, seed, resume
    )
    loaded = checkpoints.read_checkpoint(str(checkpoint), library=plan.library)
    checkpoints.check_identity(loaded, plan.identity, str(checkpoint))
    check_network(loaded, plan.spec, checkpoint, resume)
    checkpoints.warn_if_assets_differ(loaded, plan.assets, str(checkpoint))
    return checkpoint
