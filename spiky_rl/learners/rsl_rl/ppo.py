"""rsl_rl's PPO for spiking actors.

It adds separate learning rates for critic and action noise, a minimum learning rate, burn-in, scaled rewards and local learning rules.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, override

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.learners.common.optimizers import fuse_optimizer
from spiky_rl.learners.common.reward_scaling import RewardScaler
from spiky_rl.learners.rsl_rl.model import SpikingModel, get_state

REWARD_SCALER = "reward_scaler_state_dict"
"""Key of the reward scaler in a checkpoint."""


class RslRlSpikingPPO(PPO):
    """rsl_rl's PPO with five more options, without effect by default, and support for local learning rules."""

    def __init__(
        self,
        actor: MLPModel,
        critic: MLPModel,
        storage: RolloutStorage,
        *args: Any,
        learning_rate_floor: float = 0.0,
        critic_learning_rate: float | None = None,
        std_learning_rate: float | None = None,
        burn_in: int = 0,
        reward_normalization: bool = False,
        **kwargs: Any,
    ) -> None:
        """Initialise with the arguments of `PPO` and five more.

        Args:
            actor: The actor.
            critic: The critic.
            storage: Storage of the rollouts.
            learning_rate_floor: Minimum of the adaptive learning rate. One flipped spike moves the action mean by a finite
                amount, so the measured KL divergence does not vanish with the step size as for an ANN, and without a minimum
                the schedule can shrink the learning rate until nothing is learned.
            critic_learning_rate: Learning rate of critic and action std under the fixed schedule. Both learn well at rates that
                are too high for a spiking network; rsl_rl has one rate for all.
            std_learning_rate: Learning rate of the action std alone under the fixed schedule; None for the critic's. At a high
                rate the std shrinks within tens of iterations; the steps of the mean do not shrink with it and then change the
                policy more than PPO's clipping can undo.
            burn_in: Number of first control steps of every rollout that recurrent models replay without loss.
            reward_normalization: Whether to learn from rewards that a `RewardScaler` has scaled.
        """
        is_adaptive = kwargs.get("schedule", "adaptive") == "adaptive"
        self.learning_rate_floor = learning_rate_floor if is_adaptive else 0.0
        _check_burn_in(burn_in, actor=actor, critic=critic)
        if burn_in:
            storage = BurnInStorage(storage, burn_in)
        super().__init__(actor, critic, storage, *args, **kwargs)
        self.reward_scaler: RewardScaler | None = None
        if reward_normalization:
            self.reward_scaler = RewardScaler(storage.num_envs, self.gamma).to(self.device)
        self._caching_models = [
            model
            for model in (actor, critic)
            if isinstance(model, SpikingModel) and model.features_key is not None
        ]
        for model in self._caching_models:
            _reserve_features(storage, model)
        if critic_learning_rate is not None or std_learning_rate is not None:
            groups = self._group_parameters(critic_learning_rate, std_learning_rate)
            self.optimizer = type(self.optimizer)(groups)
        fuse_optimizer(self.optimizer)

    def _group_parameters(self, critic_rate: float | None, std_rate: float | None) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters: the actor's network, critic and action std, or each of them alone."""
        if self.schedule != "fixed":
            raise ValueError(
                f"critic_learning_rate, std_learning_rate: need the fixed schedule, not {self.schedule!r}"
            )
        critic_rate = self.learning_rate if critic_rate is None else critic_rate
        std = [] if self.actor.distribution is None else list(self.actor.distribution.parameters())
        own = [p for p in self.actor.parameters() if p not in set(std)]
        network = {"params": own, "lr": self.learning_rate}
        # the critic may share the actor's CNN encoders
        critic = [p for p in self.critic.parameters() if p not in set(own)]
        if std_rate is None:
            return [network, {"params": [*std, *critic], "lr": critic_rate}]
        return [network, {"params": critic, "lr": critic_rate}, {"params": std, "lr": std_rate}]

    @override
    def act(self, obs: TensorDict) -> Tensor:
        if self.storage.step == 0:
            self._clear_first_states()
        # models that cache features compute them once, here; they are stored with the step
        for model in self._caching_models:
            obs = model.add_features(obs)
        return super().act(obs)

    def _clear_first_states(self) -> None:
        """Zero the stored first state of a model that was reset since the last rollout: rsl_rl does not store a zero state."""
        stored = (self.storage.saved_hidden_state_a, self.storage.saved_hidden_state_c)
        for model, states in zip((self.get_policy(), self._raw_critic), stored, strict=True):
            if states is not None and model.get_hidden_state() is None:
                for state in states:
                    state[0].zero_()

    @override
    def process_env_step(
        self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: dict[str, Any]
    ) -> None:
        """Record a control step as `PPO` does, with scaled rewards if ``reward_normalization`` is set.

        Where only the time limit ended an episode, rsl_rl adds the value of the observation before the step to the reward. If the
        host gives the observation after the step (``final_observations``), its value is added instead.
        """
        is_time_out = extras.get("time_outs", torch.zeros_like(dones)).to(self.device) > 0
        if self.reward_scaler is not None:
            ended = dones > 0
            rewards = self.reward_scaler(rewards, ended & ~is_time_out, ended)
        if (final := extras.get("final_observations")) is not None:
            rewards = rewards + self.gamma * self._compute_values(final.to(self.device)) * is_time_out
            extras = {key: value for key, value in extras.items() if key != "time_outs"}
        super().process_env_step(obs, rewards, dones, extras)

    def _compute_values(self, obs: TensorDict) -> Tensor:
        """Return the critic's values [B] of observations, without advancing a state."""
        with self._hold_critic(obs) as critic_obs:
            return self.critic(critic_obs).detach().squeeze(-1)

    @contextmanager
    def _hold_critic(self, obs: TensorDict) -> Iterator[TensorDict]:
        """Yield ``obs`` for the critic, with features if it caches them; restore the critic's state at the end."""
        critic = self._raw_critic  # torch.compile wraps self.critic
        state = get_state(critic)
        yield critic.add_features(obs, advance=False) if isinstance(critic, SpikingModel) else obs
        critic.reset(hidden_state=state)  # type: ignore[arg-type]  # our models take any number of states

    @override
    def save(self) -> dict[str, Any]:
        scaler = {} if self.reward_scaler is None else {REWARD_SCALER: self.reward_scaler.state_dict()}
        return super().save() | scaler

    @override
    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        if self.reward_scaler is not None and REWARD_SCALER in loaded_dict:
            self.reward_scaler.load_state_dict(loaded_dict[REWARD_SCALER])
        return super().load(loaded_dict, load_cfg, strict)

    @override
    def compute_returns(self, obs: TensorDict) -> None:
        with self._hold_critic(obs) as critic_obs:
            super().compute_returns(critic_obs)

    @override
    def update(self) -> dict[str, float]:
        """Update as `PPO.update`, and apply the actor's local rules to the same rollout and its advantages.

        The local rules run first, because `PPO.update` changes the normalisation, noise and weights of the rollout. Their weight
        changes are applied after `PPO.update`, whose ratios need the weights that acted.
        """
        actor = self.get_policy()  # torch.compile wraps self.actor
        local_weights = self._compute_local_weights(actor)
        with _penalize_samples_alone(actor):
            losses = super().update()
        for model in (actor, self._raw_critic):
            # rsl_rl 5.4 does not end the update; rsl_rl 5.5 has ended it
            if isinstance(model, SpikingModel) and model.is_updating:
                model.end_update()
        with torch.no_grad():
            for weight, value in local_weights:
                weight.copy_(value)
        return losses

    def _compute_local_weights(self, actor: MLPModel) -> Sequence[tuple[Tensor, Tensor]]:
        """Return each weight that only local rules change, with the value that they give it; the weights themselves stay as they are."""
        if not isinstance(actor, SpikingModel) or not actor.network.has_local_rules:
            return ()
        rollout = self.storage
        states = rollout.saved_hidden_state_a
        first = None if states is None else tuple(s[0] for s in states)
        # normalised, to be independent of the scale of rewards
        credit = rollout.advantages
        credit = (credit - credit.mean()) / (credit.std() + 1e-8)
        weights = [p for p in actor.network.parameters() if not p.requires_grad]
        before = [w.clone() for w in weights]
        try:
            actor.learn(rollout.observations, rollout.dones, credit, first)  # type: ignore[arg-type]
            return [(w, w.clone()) for w in weights]
        finally:  # also after an interrupt
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next minibatch, at least ``learning_rate_floor``."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = max(value, self.learning_rate_floor)


@contextmanager
def _penalize_samples_alone(actor: MLPModel) -> Iterator[None]:
    """Let the ``actor``'s penalty count once per minibatch: the loss on symmetry has a second pass, for the means of mirrored samples."""
    if not isinstance(actor, SpikingModel):
        yield
        return
    actor.penalizes_means = False
    try:
        yield
    finally:
        actor.penalizes_means = True


def _check_burn_in(burn_in: int, **models: MLPModel) -> None:
    """Raise ValueError if one of the ``models``, by role, has another burn-in."""
    for role, model in models.items():
        if (theirs := getattr(model, "burn_in", 0)) != burn_in:
            raise ValueError(f"burn_in: {burn_in} of the algorithm differs from {theirs} of the {role}")


def _reserve_features(storage: RolloutStorage, model: SpikingModel) -> None:
    """Add a place for the features of ``model`` to the observations, so that every sample has its features in any order."""
    assert model.features_key is not None and model.network.fixed_size is not None
    shape = (*storage.observations.shape, model.network.fixed_size)
    storage.observations[model.features_key] = torch.zeros(shape, device=storage.device)


class BurnInStorage(RolloutStorage):
    """Rollout storage whose replayed targets start after the burn-in, like the models' outputs."""

    # pylint: disable-next=super-init-not-called
    def __init__(self, storage: RolloutStorage, burn_in: int) -> None:
        if burn_in >= storage.num_transitions_per_env:
            raise ValueError(
                f"burn_in: {burn_in} given; it must be below the {storage.num_transitions_per_env} control steps of a rollout"
            )
        # shares the buffers that rsl_rl has already allocated
        self.__dict__.update(storage.__dict__)
        self.burn_in = burn_in

    @override
    def recurrent_mini_batch_generator(
        self, num_mini_batches: int, num_epochs: int = 8
    ) -> Generator[RolloutStorage.Batch, None, None]:
        # observations, masks and states stay whole; everything that the loss reads is cut
        n = self.burn_in
        for batch in super().recurrent_mini_batch_generator(num_mini_batches, num_epochs):
            for name in ("actions", "values", "advantages", "returns", "old_actions_log_prob"):
                setattr(batch, name, getattr(batch, name)[n:])
            batch.old_distribution_params = tuple(p[n:] for p in batch.old_distribution_params or ())
            yield batch
