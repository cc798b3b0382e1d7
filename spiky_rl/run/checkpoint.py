"""Find the checkpoint that a command resumes or plays; refuse it if its task, agent or network differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.named_code import list_texts
from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import format_override
from spiky_rl.config.schema import ANN_KEYS
from spiky_rl.config.spec import AgentSpec, flatten, follow_moved_files
from spiky_rl.learners.common import checkpoints
from spiky_rl.run import run_folders
from spiky_rl.run.run_plan import RunPlan

TRAINING_ONLY_KEYS = (".quantize", "clip_actions")
"""Ends of agent keys that a resumed training may change: they affect how weights are trained, but add or remove none."""

GROUPS = "obs_groups."
"""Prefix of the paths of a model's observation groups."""


def check_network(loaded: Mapping[str, Any], spec: AgentSpec, checkpoint: Path, resume: bool = False) -> None:
    """Raise UserError if the network settings in a ``checkpoint`` differ from those of ``spec``, even if the weights would fit.

    A training may ``resume`` with other `TRAINING_ONLY_KEYS`.
    """
    trained_spec = checkpoints.get_identity(loaded).get("spec")
    if trained_spec is None:
        return
    present_spec = spec.to_dict()
    trained_spec = follow_moved_files(trained_spec, list_texts(present_spec))
    old, new = get_policy_settings(trained_spec), get_policy_settings(present_spec)
    # the default of an option that the file does not have yet equals the earlier behaviour
    ignored = {path for path, _, origin in spec.list_values() if origin == "default"} - old.keys()
    # without groups in the specification, the host chooses them
    ignored |= {path for path in old.keys() ^ new.keys() if path.startswith(GROUPS)}
    for path in {**old, **new}:
        may_differ = path in ignored or (resume and path.endswith(TRAINING_ONLY_KEYS))
        if not may_differ and not registry.is_same_entry(old.get(path), new.get(path)):
            remedy = f"; pass {format_override(f'agent.{path}', old[path])}" if path in old else ""
            raise UserError(f"{checkpoint}: trained with {path}={old.get(path)}, not {new.get(path)}{remedy}")


def get_policy_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a specification that define the networks' function and the bound of their actions, by dotted path."""
    values: dict[str, Any] = {"history": tree.get("history", 1), "clip_actions": tree.get("clip_actions")}
    for network, role in (("network", "actor"), ("critic_network", "critic")):
        model = tree.get(role) or {}
        keys = ["obs_normalization"]
        if tree.get(network):
            values |= flatten({network: tree[network]})
        else:
            keys += ANN_KEYS
        values |= {f"{role}.{key}": model[key] for key in keys if key in model}
        # a distribution may map the network's outputs to actions, and groups in another order may have the same width
        values |= _get_action_map(role, model.get("distribution_cfg") or {})
        if groups := (tree.get("obs_groups") or {}).get(role):
            values[f"{GROUPS}{role}"] = list(groups)
    return values


def _get_action_map(role: str, distribution: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model's ``distribution`` that its noise-free actions depend on, by dotted path."""
    path = f"{role}.distribution_cfg"
    values: dict[str, Any] = {}
    if name := distribution.get("class_name"):
        values[f"{path}.class_name"] = name
    if limits := distribution.get("action_range"):
        values[f"{path}.action_range"] = list(limits)
    return values


def read_requested_checkpoint(plan: RunPlan, requires_seed: bool = True) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint that a plan's request names, and its content. Raises UserError if its task or agent differs.

    ``requires_seed`` is that of `run_folders.find_checkpoint`.
    """
    request = plan.request
    assert request.checkpoint is not None
    path = run_folders.find_checkpoint(
        request.checkpoint,
        request.log_root,
        plan.experiment,
        plan.task,
        agent=plan.agent,
        library=plan.library,
        seed=None if request.seed == -1 else request.seed,
        requires_seed=requires_seed,
    )
    loaded = checkpoints.read_checkpoint(str(path), library=plan.library)
    checkpoints.check_identity(loaded, plan.identity, str(path))
    return path, loaded


def find_checkpoint(plan: RunPlan, resume: bool = False) -> Path:
    """Return the checkpoint that a plan's request names. Raises UserError if its task, agent or network differs.

    To ``resume``, the run must have the request's seed. Otherwise a run of another seed will do if there is none: that seed may be meant
    for the environments alone.
    """
    checkpoint, loaded = read_requested_checkpoint(plan, requires_seed=resume)
    check_network(loaded, plan.spec, checkpoint, resume)
    checkpoints.warn_if_assets_differ(loaded, plan.assets, str(checkpoint))
    return checkpoint
