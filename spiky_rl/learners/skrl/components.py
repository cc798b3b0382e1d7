"""skrl's runner extended by our classes, because its own table of classes is closed."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any, override

from skrl.envs.wrappers.torch import Wrapper
from skrl.utils.runner import torch as runners
from skrl.utils.runner.torch.runner import Runner as SkrlRunner

from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO


class ComponentRunner(SkrlRunner):
    """skrl's runner for configurations of `spiky_rl.learners.skrl.config`; other configurations run as with skrl's runner."""

    def __init__(self, env: Wrapper, cfg: Mapping[str, Any], *, verbose: bool = False) -> None:
        """Initialise with skrl's arguments, and pass the number of environments to our models."""
        models = {
            role: {**model, "num_envs": env.num_envs} if ":" in _get_class_name(model) else model
            for role, model in cfg["models"].items()
        }
        super().__init__(env, {**cfg, "models": models}, verbose=verbose)

    @override
    def _component(self, name: str) -> type:
        """Return the class for skrl's ``name`` or for ``module:Class``; with our models, PPO means our agents."""
        if ":" in name:
            return pkgutil.resolve_name(name)
        if name.lower() == "ppo" and any(":" in _get_class_name(m) for m in self._cfg["models"].values()):
            recurrent = any(model.stateful for model in self._models["agent"].values())  # type: ignore[union-attr]
            return SpikingRecurrentPPO if recurrent else SkrlSpikingPPO
        return super()._component(name)


def register_components() -> None:
    """Replace skrl's runner class for the rest of the process, so that Isaac Lab's own skrl command can build our models.

    That command imports skrl's runner by name and has no option for another class.
    """
    runners.Runner = ComponentRunner


def _get_class_name(model: object) -> str:
    """Return the class name of a model; empty for an option among the models, such as ``separate``."""
    return str(model.get("class", "")) if isinstance(model, Mapping) else ""
