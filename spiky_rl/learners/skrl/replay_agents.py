"""skrl's TD3 and SAC with spiking actors, and their replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, override

import torch
from skrl.agents.torch.sac import SAC
from skrl.agents.torch.td3 import TD3
from skrl.memories.torch import RandomMemory
from torch import nn

from spiky_rl.learners.common.optimizers import fuse_optimizer
from spiky_rl.learners.skrl.models import NormalizingAgent
from spiky_rl.learners.skrl.replay_files import ReplayFiles, UpdateCounters
from spiky_rl.learners.skrl.replay_models import ActionValue, ProxyActor, ReplayActor


class ReplayAgent(NormalizingAgent):
    """Mixin with our extensions of skrl's off-policy agents; comes before a skrl agent in the bases."""

    policy: ReplayActor
    critic_1: ActionValue
    critic_2: ActionValue
    memory: RandomMemory
    training: bool
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    write_interval: int
    _update_counter: int = 0
    """Gradient steps of the critics, which skrl's TD3 counts for its delay of the actor's; SAC has no delay and leaves 0."""

    def __init__(self, *, learning_starts: int, updates_per_step: float, **arguments: Any) -> None:
        """Initialise with the arguments of skrl's agent, and options of ``agent.algorithm``."""
        super().__init__(**arguments)
        fuse_optimizer(self.policy_optimizer)
        fuse_optimizer(self.critic_optimizer)
        self.learning_starts, self.updates_per_step = learning_starts, updates_per_step
        self.files = ReplayFiles(self.memory)
        self._due_updates = 0.0  # gradient steps, less than one, that are left for the next control step

    @property
    def counters(self) -> UpdateCounters:
        """Counters of gradient steps; in TD3, every ``policy_delay``-th step also trains the actor."""
        return UpdateCounters(critic_updates=self._update_counter, due_updates=self._due_updates)

    @counters.setter
    def counters(self, counters: UpdateCounters) -> None:
        self._update_counter, self._due_updates = counters.critic_updates, counters.due_updates

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Optimiser of the actor."""
        return self.policy_optimizer

    @property
    def critics(self) -> Sequence[ActionValue]:
        """Both critics."""
        return self.critic_1, self.critic_2

    @property
    def is_learning(self) -> bool:
        """Whether the replay buffer holds enough transitions to learn from."""
        return len(self.memory) >= max(self.learning_starts, 1)

    def record_transition(self, **transition: Any) -> None:
        """Store a transition. Raises RuntimeError outside training mode, where skrl would silently store nothing."""
        if not self.training:
            raise RuntimeError(
                "the agent is not in training mode, so it would store and learn nothing; call enable_training_mode(True) first"
            )
        super().record_transition(**transition)  # type: ignore[misc]  # pylint: disable=no-member
        self.files.count_step()

    def post_interaction(self, *, timestep: int, timesteps: int) -> None:
        """Make the gradient steps that are due after a control step of all environments."""
        self._due_updates += self.updates_per_step * self.memory.num_envs
        count = int(self._due_updates)
        self._due_updates -= count
        if count:
            agent: Any = self
            agent.cfg.gradient_steps = count
            if not self.critic_1.training:
                # critics and targets compute in gradient steps alone, so their modules are not visited before every one
                agent.enable_models_training_mode(True)
            self.policy.enable_training_mode(True)
            self.write_interval = 1  # SAC records its losses only with an interval above 0
            agent.update(timestep=timestep, timesteps=timesteps)
            self.write_interval = 0
            self.policy.enable_training_mode(False)

    def count_update(self) -> None:
        """Count an iteration in the networks, as PPO counts its updates: slopes and encoder noise depend on it."""
        for model in (self.policy, *self.critics):
            if model.network is not None:
                model.network.count_update()


class SpikingTD3(ReplayAgent, TD3):  # type: ignore[misc]
    """skrl's TD3 with the extensions of `ReplayAgent`."""

    def __init__(self, **arguments: Any) -> None:
        """Initialise with the arguments of `ReplayAgent`."""
        super().__init__(**arguments)
        if isinstance(self.target_policy, ProxyActor):
            self.checkpoint_modules["proxy_optimizer"] = self.target_policy.optimizer


class EntropyWeight(nn.Module):
    """Module with the logarithm of the weight of SAC's entropy, so that checkpoints hold it."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.log_value = nn.Parameter(value)


class SpikingSAC(ReplayAgent, SAC):  # type: ignore[misc]
    """skrl's SAC with the extensions of `ReplayAgent`; checkpoints hold the weight of the entropy, which skrl's do not."""

    def __init__(self, **arguments: Any) -> None:
        """Initialise with the arguments of `ReplayAgent`."""
        super().__init__(**arguments)
        first = torch.full((1,), float(self.cfg.initial_entropy_value), device=self.device).log()
        self.entropy = EntropyWeight(first)
        self.checkpoint_modules["entropy"] = self.entropy
        if self.cfg.learn_entropy:
            self.log_entropy_coefficient = self.entropy.log_value
            self.entropy_optimizer = torch.optim.Adam(
                [self.log_entropy_coefficient], lr=self.cfg.learning_rate[2]  # type: ignore[index]
            )
            self.checkpoint_modules["entropy_optimizer"] = self.entropy_optimizer

    @override
    def post_interaction(self, *, timestep: int, timesteps: int) -> None:
        # a checkpoint may have changed the weight of the entropy
        self._entropy_coefficient = self.entropy.log_value.detach().exp()
        super().post_interaction(timestep=timestep, timesteps=timesteps)
