"""skrl's PPO and recurrent PPO, with what spiking actors need and with the states that the rollout really used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, override

import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG, PPO_RNN
from skrl.memories.torch import Memory
from torch import Tensor, nn

from spiky_rl.learners.skrl.models import SequenceModel, SpikingPolicy


class SpikingAgent:
    """Additions of our agents to skrl's. Abstract: comes before one of skrl's agents."""

    cfg: PPO_CFG
    policy: SpikingPolicy
    value: SequenceModel
    optimizer: torch.optim.Optimizer
    checkpoint_modules: dict[str, Any]
    memory: Memory
    _observation_preprocessor: Callable[[Tensor], Tensor]

    def __init__(self, **arguments: Any) -> None:
        """Arguments as skrl's agent's.

        Of the learning rates in skrl's configuration its PPO uses the first for everything. Here the second is that of what
        does not spike, the value function and the action noise, and a third, if there is one, that of the action noise alone.
        """
        super().__init__(**arguments)
        first, second, *third = self.cfg.learning_rate  # type: ignore[misc]
        if third or first != second:
            noise = self.policy.log_std
            groups = [{"params": [p for p in self.policy.parameters() if p is not noise], "lr": first}]
            if third:
                groups.append({"params": list(self.value.parameters()), "lr": second})
                groups.append({"params": [noise], "lr": third[0]})
            else:
                groups.append({"params": [noise, *self.value.parameters()], "lr": second})
            self.optimizer = torch.optim.Adam(groups)
            self.checkpoint_modules["optimizer"] = self.optimizer

    def update(self, *, timestep: int, timesteps: int) -> None:
        """Learn from the rollout; the networks count it: slopes and encoder noise go by that.

        Args:
            timestep: Control steps done so far.
            timesteps: That there will be in all.
        """
        super().update(timestep=timestep, timesteps=timesteps)  # type: ignore[misc]  # pylint: disable=no-member
        for model in (self.policy, self.value):
            if model.network is not None:
                model.network.count_update()

    def reset_rollout(self) -> None:
        """Begin a rollout anew, whatever of one there was."""
        self.memory.reset()
        self._rollout = 0

    def normalize_observations(self, observations: Tensor) -> Tensor:
        """``observations`` [..., O] as the policy sees them."""
        return self._observation_preprocessor(observations)

    def copy_normalisation(self) -> Callable[[Tensor], Tensor]:
        """Return a copy of the normalisation of observations, which later training does not change."""
        normalise = self._observation_preprocessor
        return copy.deepcopy(normalise) if isinstance(normalise, nn.Module) else normalise

    def get_rollout_tensor(self, name: str) -> Tensor:
        """A tensor of the latest rollout, [T, B, ...], by skrl's ``name``."""
        return self.memory.get_tensor_by_name(name)


class SkrlSpikingPPO(SpikingAgent, PPO):  # type: ignore[misc]
    """skrl's PPO, unchanged but for a second learning rate and networks that count updates."""


class SpikingRecurrentPPO(SpikingAgent, PPO_RNN):  # type: ignore[misc]
    """skrl's PPO_RNN with the same, and with a memory of the states that the policy really had.

    skrl 2.1 lets the dictionaries of initial and final states become one object after the first control step. From the
    second on, ``act`` overwrites the initial policy state before it is stored: a replay that begins anywhere but in the
    first step then starts from a state one step late. Here they stay two.
    """

    @override
    def record_transition(self, **transition: Any) -> None:
        super().record_transition(**transition)
        self._rnn_initial_states = dict(self._rnn_final_states)
