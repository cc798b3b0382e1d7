"""skrl's runner of PPO, with models from our configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, override

import torch
from torch import Tensor, nn

from spiky_rl.learners.common.activity import PolicyActivity, write_figures
from spiky_rl.learners.common.interfaces import VectorEnv
from spiky_rl.learners.common.reward_scaling import RewardScaler
from spiky_rl.learners.common.runner import IterationSummary
from spiky_rl.learners.skrl.activity import compute_last_activity, draw_raster
from spiky_rl.learners.skrl.base_runner import SkrlBaseRunner, silence_skrl
from spiky_rl.learners.skrl.components import ComponentRunner
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO


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

    def __init__(
        self,
        env: VectorEnv,
        config: Mapping[str, Any],
        log_dir: str | None = None,
        device: str = "cpu",
        identity: Mapping[str, object] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
        on_iteration: Callable[[IterationSummary], None] | None = None,
    ) -> None:
        """Initialise with the arguments of `SkrlBaseRunner` and `spiky_rl.learners.skrl.config.make_runner_cfg`."""
        SkrlBaseRunner.__init__(
            self, env, config, log_dir, device, identity, picture_interval, notes, on_iteration
        )
        settings = {key: config[key] for key in ("models", "memory", "agent", "trainer")}
        # skrl seeds every generator; use torch's seed, which the caller has set
        seed = torch.initial_seed() % 2**32
        with silence_skrl():
            ComponentRunner.__init__(self, self.environment, {"seed": seed, **settings})
        self.alg: SkrlSpikingPPO | SpikingRecurrentPPO = self.agent  # type: ignore[assignment]
        self.policy, self.value = self.alg.policy, self.alg.value
        if config["reward_normalization"]:
            gamma = self.alg.cfg.discount_factor
            self.alg.reward_scaler = RewardScaler(env.num_envs, gamma).to(device)
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
        steps, agent, environment = self.cfg["num_steps_per_env"], self.alg, self.environment
        begun = collected = time.time()
        for step in range(steps):
            clock = {"timestep": index * steps + step, "timesteps": (index + 1) * steps}
            states = environment.state()
            agent.pre_interaction(**clock)
            with torch.no_grad():
                actions, _ = agent.act(observations, states, **clock)
                following, rewards, terminated, truncated, extras = environment.step(actions)
                self.episodes.add_step(rewards, terminated | truncated, extras)
                agent.record_transition(
                    observations=observations,
                    states=states,  # type: ignore[arg-type]
                    actions=actions,
                    rewards=rewards.clone(),  # skrl writes into them
                    next_observations=following,
                    next_states=environment.state(),  # type: ignore[arg-type]
                    terminated=terminated,
                    truncated=truncated,
                    infos=extras,
                    **clock,
                )
            observations = following
            if step == steps - 1:
                collected = time.time()
                self.is_recorded = False  # the update follows
            agent.post_interaction(**clock)
        return observations, collected - begun, time.time() - collected

    @override
    def _write_figures(self, index: int) -> None:
        write_figures(self.writer, index, self.alg.get_rollout_tensor("actions"), draw_raster(self.alg))

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
        found = {"value": tracked["Loss / Value loss"], "surrogate": tracked["Loss / Policy loss"]}
        means = {name: sum(values) / len(values) for name, values in found.items()}
        tracked.clear()
        return {
            "value": means["value"] / weight,
            "surrogate": means["surrogate"],
            "entropy": agent.policy.mean_entropy,
        }
