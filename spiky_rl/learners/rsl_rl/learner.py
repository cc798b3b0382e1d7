"""rsl_rl as a learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, override

from spiky_rl.config.options import UserError
from spiky_rl.learners.base import DISTILLS, DISTRIBUTED, EXPORTS, Learner

if TYPE_CHECKING:
    from torch import nn

    from spiky_rl.config.spec import AgentSpec
    from spiky_rl.learners.common.runner import BaseRunner


class RslRl(Learner):
    """rsl_rl: PPO of recurrent and feed-forward actor-critics, with distillation."""

    name, distribution, module, extra = "rsl_rl", "rsl-rl-lib", "rsl_rl", "isaaclab"
    abilities = frozenset({DISTRIBUTED, EXPORTS, DISTILLS})
    loggers = ("tensorboard", "wandb", "neptune")
    algorithms = ("ppo",)
    checkpoint_keys = {"ppo": ("actor_state_dict", "critic_state_dict", "iter")}
    scaling_keys = ("reward_scaler_state_dict",)  # normalisation is part of the models
    uses_tf32 = True

    @override
    def make_runner_cfg(self, spec: AgentSpec) -> dict[str, Any]:
        from spiky_rl.learners.rsl_rl.config import make_runner_cfg

        return {"experiment_name": "", **make_runner_cfg(spec)}

    @override
    def get_runner_class(self, algorithm: str) -> type[BaseRunner]:
        from spiky_rl.learners.rsl_rl.runner import RslRlRunner

        return RslRlRunner

    @override
    def load_actor(self, spec: AgentSpec, loaded: Mapping[str, Any]) -> nn.Module:
        from spiky_rl.learners.common.checkpoints import get_actor_sizes
        from spiky_rl.learners.rsl_rl.actor import load_actor

        return load_actor(spec, loaded["actor_state_dict"], get_actor_sizes(loaded))

    @override
    def read_registered_cfg(self, registered: Mapping[str, Any], task: str) -> dict[str, Any]:
        return dict(registered)

    @override
    def make_registered_cfg(self, spec: AgentSpec, registered: Mapping[str, Any]) -> dict[str, Any]:
        from spiky_rl.learners.rsl_rl.config import make_runner_cfg

        return make_runner_cfg(spec)

    @override
    def check_minibatches(self, spec: AgentSpec, num_envs: int, batches: int) -> None:
        from spiky_rl.learners.rsl_rl.config import is_recurrent

        pairs = ((spec.runner["actor"], spec.network), (spec.runner["critic"], spec.critic_network))
        # rsl_rl's losses need two environments per minibatch
        if num_envs < 2 * batches and any(is_recurrent(*pair) for pair in pairs):
            raise UserError(
                f"--num_envs {num_envs}: a recurrent agent needs at least {2 * batches}, two per minibatch"
            )
        samples = num_envs * spec.get_setting("num_steps_per_env")
        # the standard deviation of one sample is nan
        if samples < 2 * batches and spec.runner["algorithm"].get("normalize_advantage_per_mini_batch"):
            raise UserError(
                f"agent.algorithm.num_mini_batches: {batches} given for the {samples} samples of a rollout; allowed with"
                f" normalize_advantage_per_mini_batch: at most {samples // 2}, two samples per minibatch"
            )


LEARNER = RslRl()
