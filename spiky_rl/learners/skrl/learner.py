"""skrl as a learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, override

from spiky_rl.config.options import UserError
from spiky_rl.config.spec import SpecError
from spiky_rl.learners.base import EXPORTS, Learner

if TYPE_CHECKING:
    from torch import nn

    from spiky_rl.config.spec import AgentSpec
    from spiky_rl.learners.common.runner import BaseRunner


CRITICS = ("critic_1", "critic_2", "target_critic_1", "target_critic_2")


class Skrl(Learner):
    """skrl: PPO of recurrent and feed-forward policies and values; TD3 and SAC of stateless actors."""

    name, distribution, module, extra = "skrl", "skrl", "skrl", "skrl"
    abilities = frozenset()
    algorithm_abilities = {"td3": frozenset({EXPORTS}), "sac": frozenset({EXPORTS})}
    loggers = ("tensorboard", "wandb")
    algorithms = ("ppo", "td3", "sac")
    checkpoint_keys = {
        "ppo": ("policy", "value", "iter"),
        "td3": ("policy", "target_policy", *CRITICS, "iter"),
        "sac": ("policy", *CRITICS, "entropy", "iter"),
    }
    scaling_keys = ("observation_preprocessor", "state_preprocessor", "value_preprocessor", "reward_scaler")

    @override
    def make_runner_cfg(self, spec: AgentSpec) -> dict[str, Any]:
        if spec.algorithm == "ppo":
            from spiky_rl.learners.skrl.config import make_runner_cfg
        else:
            from spiky_rl.learners.skrl.replay_config import make_runner_cfg

        return make_runner_cfg(spec)

    @override
    def get_runner_class(self, algorithm: str) -> type[BaseRunner]:
        if algorithm == "ppo":
            from spiky_rl.learners.skrl.runner import SkrlRunner

            return SkrlRunner
        from spiky_rl.learners.skrl.replay_runner import ReplayRunner

        return ReplayRunner

    @override
    def load_actor(self, spec: AgentSpec, loaded: Mapping[str, Any]) -> nn.Module:
        if spec.algorithm == "ppo":
            return super().load_actor(spec, loaded)
        from spiky_rl.learners.skrl.trained_actor import load_actor

        return load_actor(spec, loaded)

    @override
    def read_registered_cfg(self, registered: Mapping[str, Any], task: str) -> dict[str, Any]:
        from spiky_rl.learners.skrl.config import to_agent_layout

        return to_agent_layout(registered, task)

    @override
    def make_registered_cfg(self, spec: AgentSpec, registered: Mapping[str, Any]) -> dict[str, Any]:
        from spiky_rl.learners.skrl.config import make_registered_cfg
        from spiky_rl.learners.skrl.runner import register_components

        if spec.algorithm != "ppo":
            raise SpecError(
                f"agent.algorithm.class_name: {spec.algorithm.upper()}: not available with a host's own skrl command; allowed:"
                " PPO; spiky train has no such limit"
            )
        config = make_registered_cfg(spec, registered)
        register_components()
        return config

    @override
    def check_minibatches(self, spec: AgentSpec, num_envs: int, batches: int) -> None:
        from spiky_rl.learners.skrl.config import is_recurrent, make_input_cfg

        samples = num_envs * spec.get_setting("num_steps_per_env")
        _, scalers, _ = make_input_cfg(spec)
        # skrl's scaler takes the variance of every minibatch; that of one sample is nan
        if samples < 2 * batches and any(scalers.values()):
            raise UserError(
                f"agent.algorithm.num_mini_batches: {batches} given for the {samples} samples of a rollout; allowed with"
                f" obs_normalization in skrl: at most {samples // 2}, two samples per minibatch"
            )
        if is_recurrent(spec) and num_envs % batches:
            raise UserError(
                f"--num_envs {num_envs}: a recurrent agent needs a multiple of {batches} with --rl_library skrl, whose"
                " minibatches are whole rollouts of as many environments each; or set agent.algorithm.num_mini_batches"
            )


LEARNER = Skrl()
