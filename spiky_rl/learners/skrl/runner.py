"""skrl's runner of PPO, with our classes and with models from our configuration."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Iterable, Mapping
from typing import Any, override

import torch
from skrl.envs.wrappers.torch import Wrapper
from skrl.utils.runner import torch as runners
from skrl.utils.runner.torch.runner import Runner
from torch import Tensor, nn

from spiky_rl.learners.common.activity import PolicyActivity, write_figures
from spiky_rl.learners.common.reward_scaling import RewardScaler
from spiky_rl.learners.skrl.activity import compute_last_activity, draw_raster
from spiky_rl.learners.skrl.base_runner import SkrlBaseRunner
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO


class ComponentRunner(Runner):
    """skrl's runner for configurations of `spiky_rl.learners.skrl.config`; other configurations run as with skrl's runner.

    skrl's own table of classes is closed.
    """

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


class SkrlRunner(SkrlBaseRunner, ComponentRunner):
    """Runner with skrl's PPO and update, and models from our configuration."""

    parts = {
        "actor": ("policy", "observation_preprocessor"),
        "critic": ("value", "value_preprocessor", "state_preprocessor", "reward_scaler"),
        "optimizer": ("optimizer",),
    }
    same_settings = (
        "reward_normalization and value_normalization of agent.algorithm, and agent.actor.obs_normalization,"
    )

    @override
    def _build_agent(self) -> None:
        settings = {key: self.cfg[key] for key in ("models", "memory", "agent", "trainer")}
        # skrl seeds every generator; use torch's seed, which the caller has set
        ComponentRunner.__init__(self, self.environment, {"seed": torch.initial_seed() % 2**32, **settings})
        self.alg: SkrlSpikingPPO | SpikingRecurrentPPO = self.agent  # type: ignore[assignment]
        self.policy, self.value = self.alg.policy, self.alg.value
        if self.cfg["reward_normalization"]:
            gamma = self.alg.cfg.discount_factor
            self.alg.reward_scaler = RewardScaler(self.env.num_envs, gamma).to(self.device)
            self.alg.checkpoint_modules["reward_scaler"] = self.alg.reward_scaler

    @property
    def models(self) -> Iterable[nn.Module]:
        """Policy and value function."""
        return self.policy, self.value

    @override
    def _start(self) -> None:
        self.alg.enable_training_mode(True)
        self.alg.reset_rollout()

    @override
    def _run_iteration(self, index: int, observations: Tensor) -> tuple[Tensor, float, float]:
        # a rollout, and its update at its end
        steps, agent = self.cfg["num_steps_per_env"], self.alg
        begun = collected = time.perf_counter()
        for step in range(steps):
            clock = {"timestep": index * steps + step, "timesteps": (index + 1) * steps}
            agent.pre_interaction(**clock)
            observations = self._run_control_step(observations, clock)
            if step == steps - 1:
                collected = time.perf_counter()
                self.is_recorded = False  # the update follows
            agent.post_interaction(**clock)
        return observations, collected - begun, time.perf_counter() - collected

    @override
    def _write_figures(self, index: int) -> None:
        write_figures(
            self.writer, index, self.alg.memory.get_tensor_by_name("actions"), draw_raster(self.alg)
        )

    @override
    def _compute_activity(self) -> PolicyActivity:
        return compute_last_activity(self.alg, self.meter)

    @property
    @override
    def action_std(self) -> Tensor:
        return self.alg.policy.action_std

    @override
    def compute_losses(self) -> dict[str, float]:
        tracked, agent = self.alg.tracking_data, self.alg
        weight = agent.cfg.value_loss_scale or 1.0
        losses = {"value": tracked["Loss / Value loss"], "surrogate": tracked["Loss / Policy loss"]}
        means = {name: sum(values) / len(values) for name, values in losses.items()}
        tracked.clear()
        return {
            "value": means["value"] / weight,
            "surrogate": means["surrogate"],
            "entropy": agent.policy.mean_entropy,
        }
