"""skrl's PPO and recurrent PPO with extensions for spiking actors, and with correctly stored rollout states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, override

import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG, PPO_RNN
from skrl.memories.torch import Memory
from torch import Tensor

from spiky_rl.learners.common.optimizers import fuse_optimizer
from spiky_rl.learners.common.reward_scaling import RewardScaler
from spiky_rl.learners.skrl.models import CategoricalPolicy, NormalizingAgent, SequenceModel, SpikingPolicy


class SpikingAgent(NormalizingAgent):
    """Mixin with our extensions of skrl's agents; comes before a skrl agent in the bases."""

    cfg: PPO_CFG
    policy: SpikingPolicy | CategoricalPolicy
    value: SequenceModel
    optimizer: torch.optim.Optimizer
    checkpoint_modules: dict[str, Any]
    memory: Memory
    reward_scaler: RewardScaler | None = None
    """Scaler of the rewards in training; None if they are not scaled."""
    _state_preprocessor: Callable[..., Any]
    _value_preprocessor: Callable[..., Tensor]
    _rnn_initial_states: dict[str, list[Tensor]]

    def __init__(self, **arguments: Any) -> None:
        """Initialise with the arguments of skrl's agent.

        skrl's PPO uses only the first learning rate of its configuration. Here, the second one is for the value function and the
        action noise, and an optional third one for the action noise alone.
        """
        super().__init__(**arguments)
        first, second, *third = self.cfg.learning_rate  # type: ignore[misc]
        if third or first != second:
            noise = list(self.policy.noise_parameters)
            others = [p for p in self.policy.parameters() if not any(p is q for q in noise)]
            groups = [{"params": others, "lr": first}]
            if third:
                groups.append({"params": list(self.value.parameters()), "lr": second})
                groups.append({"params": noise, "lr": third[0]})
            else:
                groups.append({"params": [*noise, *self.value.parameters()], "lr": second})
            self.optimizer = torch.optim.Adam(groups)
            self.checkpoint_modules["optimizer"] = self.optimizer
        fuse_optimizer(self.optimizer)

    def record_transition(self, **transition: Any) -> None:
        """Record a control step as skrl does, with rewards scaled by `reward_scaler`; ``transition``: skrl's arguments.

        skrl's advantages continue across a time limit into the next episode. If the environment gives the observation after the
        step, which `SkrlEnv.get_successors` returns, its value is added to the reward instead, and the time limit counts as an end.
        """
        rewards, terminated, truncated = (transition[key] for key in ("rewards", "terminated", "truncated"))
        ended = terminated | truncated
        if self.reward_scaler is not None:
            scaled = self.reward_scaler(rewards.squeeze(-1), terminated.squeeze(-1), ended.squeeze(-1))
            rewards = scaled.unsqueeze(-1)
        if "final_observations" in transition["infos"]:
            shaper: Any = self.cfg.rewards_shaper
            # skrl scales the sum of reward and value, so the value is divided by that factor first
            factor = 1.0 if shaper is None else shaper(torch.ones(1), 0, 0).item()
            values = self._compute_next_values(transition)
            rewards = rewards + self.cfg.discount_factor * values * truncated / factor
            transition |= {"terminated": ended, "truncated": torch.zeros_like(truncated)}
        super().record_transition(**(transition | {"rewards": rewards}))  # type: ignore[misc]  # pylint: disable=no-member

    def _compute_next_values(self, transition: Mapping[str, Any]) -> Tensor:
        """Return the values [B, 1] of the observations and states after a step, without advancing a state."""
        inputs = self._preprocess(transition["next_observations"], transition["next_states"])
        if self.value.stateful:
            # skrl advances the value function's state later, with the observations and states before the step
            current = self._preprocess(transition["observations"], transition["states"])
            current["rnn"] = self._rnn_initial_states["value"]
            inputs["rnn"] = self.value.act(current, role="value")[1]["rnn"]
        values, _ = self.value.act(inputs, role="value")
        return self._value_preprocessor(values, inverse=True)

    def _preprocess(self, observations: Tensor, states: Tensor | None) -> dict[str, Any]:
        """Return the input of the value function, normalised."""
        return {
            "observations": self._observation_preprocessor(observations),
            "states": self._state_preprocessor(states),
        }

    def update(self, *, timestep: int, timesteps: int) -> None:
        """Update from the rollout; the networks count the update, which slopes and encoder noise depend on."""
        super().update(timestep=timestep, timesteps=timesteps)  # type: ignore[misc]  # pylint: disable=no-member
        for model in (self.policy, self.value):
            if model.network is not None:
                model.network.count_update()

    def reset_rollout(self) -> None:
        """Discard the current rollout and start a new one."""
        self.memory.reset()
        self._rollout = 0


class SkrlSpikingPPO(SpikingAgent, PPO):  # type: ignore[misc]
    """skrl's PPO with the extensions of `SpikingAgent`."""


class SpikingRecurrentPPO(SpikingAgent, PPO_RNN):  # type: ignore[misc]
    """skrl's PPO_RNN with the extensions of `SpikingAgent`, and with correctly stored policy states.

    In skrl 2.1, the dictionaries of initial and final states become one object after the first control step. From the second
    step on, ``act`` overwrites the initial policy state before it is stored, so a replay that does not begin at the first step
    starts from a state one step late. Here, they stay separate objects.
    """

    @override
    def record_transition(self, **transition: Any) -> None:
        super().record_transition(**transition)
        self._rnn_initial_states = dict(self._rnn_final_states)
