"""skrl's runner as a builder of our parts: its table of classes is closed, and ours stand beside it by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, override

from skrl.envs.wrappers.torch import Wrapper
from skrl.utils.runner import torch as runners
from skrl.utils.runner.torch.runner import Runner as SkrlRunner

from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO


class ComponentRunner(SkrlRunner):
    """skrl's runner for configurations of `spiky_rl.learners.skrl.config`; those of skrl's own parts it runs as skrl does."""

    def __init__(self, env: Wrapper, cfg: Mapping[str, Any], *, verbose: bool = False) -> None:
        """Arguments as skrl's; our models are told how many environments there are."""
        models = {
            role: {**model, "num_envs": env.num_envs} if ":" in _get_class_name(model) else model
            for role, model in cfg["models"].items()
        }
        super().__init__(env, {**cfg, "models": models}, verbose=verbose)

    @override
    def _component(self, name: str) -> type:
        """As skrl's, and ``module:Class``; where models are ours, our agents stand in the place of its PPO."""
        module, colon, attribute = name.partition(":")
        if colon:
            return getattr(importlib.import_module(module), attribute)
        if name.lower() == "ppo" and any(":" in _get_class_name(m) for m in self._cfg["models"].values()):
            recurrent = any(model.stateful for model in self._models["agent"].values())  # type: ignore[union-attr]
            return SpikingRecurrentPPO if recurrent else SkrlSpikingPPO
        return super()._component(name)


def register_components() -> None:
    """Let Isaac Lab's own skrl command, which names no runner class but imports skrl's by this name, build our models.

    For the rest of the process; what skrl could do before, it does as before.
    """
    runners.Runner = ComponentRunner


def _get_class_name(model: object) -> str:
    """The name of a model's class; an option beside the models, such as ``separate``, has none."""
    return str(model.get("class", "")) if isinstance(model, Mapping) else ""
