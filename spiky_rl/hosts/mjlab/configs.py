# pyright: reportMissingImports=false
"""Our agents as mjlab's runner configurations, for mjlab's own commands and for the user's own tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mjlab.rl import MjlabOnPolicyRunner, RslRlModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

from spiky_rl.config.spec import SpecError, resolve_agent
from spiky_rl.learners import DEFAULT_LEARNER, get_learner

TITLE = "mjlab"
"""Name of the host for users."""


@dataclass
class SpikingModelCfg(RslRlModelCfg):
    """Actor or critic with a spiking network: `spiky_rl.learners.rsl_rl.SpikingModel`."""

    class_name: str = "spiky_rl.learners.rsl_rl:SpikingModel"
    network: dict[str, Any] | None = None
    """Settings of the network, as in agent files; None for feed-forward LIF layers with the widths ``hidden_dims``."""
    burn_in: int = 0
    """Number of first control steps of each replayed rollout without loss; the same in all models and the algorithm."""

    def __post_init__(self) -> None:
        if self.network is None:
            self.network = {"name": "feedforward"}


@dataclass
class BurnInMLPModelCfg(RslRlModelCfg):
    """Actor or critic with an MLP beside a spiking model with burn-in: `spiky_rl.learners.rsl_rl.BurnInMLPModel`."""

    class_name: str = "spiky_rl.learners.rsl_rl:BurnInMLPModel"
    burn_in: int = 0
    """Number of first control steps of each replayed rollout without loss."""


@dataclass
class SpikingPpoAlgorithmCfg(RslRlPpoAlgorithmCfg):
    """PPO with our options: `spiky_rl.learners.rsl_rl.SpikingPPO`."""

    class_name: str = "spiky_rl.learners.rsl_rl:SpikingPPO"
    learning_rate_floor: float = 0.0
    """Minimum of the adaptive learning rate."""
    critic_learning_rate: float | None = None
    """Learning rate of the critic, and of the action noise, under the fixed schedule; None for ``learning_rate``."""
    std_learning_rate: float | None = None
    """Learning rate of the action noise under the fixed schedule; None for the critic's."""
    burn_in: int = 0
    """Number of first control steps of every rollout that recurrent models replay without loss."""
    rnd_cfg: dict[str, Any] | None = None
    """Random network distillation; None for none."""
    symmetry_cfg: dict[str, Any] | None = None
    """Learning from mirrored samples; None for none."""


class ExportingRunner(MjlabOnPolicyRunner):
    """mjlab's runner that writes the policy as ONNX beside every checkpoint, as its runners of single tasks do."""

    def save(self, path: str, infos: Any = None) -> None:
        """Write a checkpoint to ``path`` and the policy beside it; ``infos``: further content of the checkpoint."""
        super().save(path, infos)
        folder, filename, _ = self._get_export_paths(path)
        self.export_policy_to_onnx(str(folder), filename)


def make_agent_cfg(agent: str, rl_cfg: RslRlOnPolicyRunnerCfg, task: str = "") -> RslRlOnPolicyRunnerCfg:
    """Return a copy of a task's runner configuration ``rl_cfg`` with one of our agents in it.

    Args:
        agent: Name of a file in ``agents/``, or the path of one.
        rl_cfg: The task's configuration; it is not changed.
        task: Id of the task, for the agent's overrides for it; empty for no overrides.

    Raises:
        SpecError: There is no such agent, or mjlab's command cannot train it.
    """
    defaults = convert_to_agent_layout(rl_cfg)
    spec = resolve_agent(agent, task, defaults, host=TITLE)
    if spec.runner["algorithm"].get("distillation_cfg"):
        raise SpecError(
            f"{agent}: needs a teacher, for which mjlab's train has no option; use spiky train --teacher RUN"
        )
    if spec.runner.get("history", 1) > 1:
        raise SpecError(
            f"{agent}: needs the history of observations in the task's own groups; use spiky train"
        )
    config = get_learner(DEFAULT_LEARNER).make_registered_cfg(spec, defaults)
    values = {field.name: config[field.name] for field in dataclasses.fields(rl_cfg) if field.name in config}
    for role in ("actor", "critic"):
        values[role] = _make_part(config[role], (RslRlModelCfg, SpikingModelCfg, BurnInMLPModelCfg))
    values["algorithm"] = _make_part(config["algorithm"], (RslRlPpoAlgorithmCfg, SpikingPpoAlgorithmCfg))
    return dataclasses.replace(rl_cfg, **values)


def _make_part(settings: Mapping[str, Any], classes: tuple[type[Any], ...]) -> Any:
    """Return an instance of the first of ``classes`` that has a field for every key of ``settings``."""
    fitting = [cls for cls in classes if set(settings) <= {field.name for field in dataclasses.fields(cls)}]
    if not fitting:
        known = {field.name for cls in classes for field in dataclasses.fields(cls)}
        raise SpecError(
            f"{', '.join(sorted(set(settings) - known))}: not available with mjlab's train; use spiky train"
        )
    return fitting[0](**settings)


def convert_to_agent_layout(rl_cfg: RslRlOnPolicyRunnerCfg) -> dict[str, Any]:
    """Convert mjlab's configuration of a runner to the layout of agent files.

    Options of recurrent, CNN and distribution classes are left out if they are not set.
    """
    defaults = dataclasses.asdict(rl_cfg)
    defaults["obs_groups"] = {role: list(groups) for role, groups in defaults["obs_groups"].items()}
    for model in (defaults["actor"], defaults["critic"]):
        if model["rnn_type"] is None:
            for key in ("rnn_type", "rnn_hidden_dim", "rnn_num_layers"):
                del model[key]
        for key in ("cnn_cfg", "distribution_cfg"):
            if model[key] is None:
                del model[key]
        model["hidden_dims"] = list(model["hidden_dims"])
    return defaults
