"""A spiking network as rsl_rl's actor or critic."""

from __future__ import annotations

import itertools
import math
from typing import Any, override

import torch
from rsl_rl.models import CNNModel, MLPModel
from rsl_rl.modules import HiddenState
from rsl_rl.utils import unpad_trajectories
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.config import registry, spec
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.learners.common.inference_policy import clamp_observations, reset_nonfinite, reset_state
from spiky_rl.learners.common.penalties import leave_out_penalty
from spiky_rl.metrics.synops import dense_operations
from spiky_rl.networks.base import SpikingNetwork, State


class SpikingModel(MLPModel):
    """`MLPModel` with a spiking network; a drop-in replacement for rsl_rl's models.

    A stateless network starts from zero in every control step and is trained on shuffled samples. rsl_rl treats a stateful network
    as recurrent: it stores the state, a tuple of [1, B, N] tensors, with the rollout, and replays the network over padded
    trajectories, from which this class removes the padding. If only the readout of a stateful network is trained, there is no replay:
    `SpikingPPO` stores the network's features with the rollout instead.
    """

    is_recurrent: bool = False
    """Whether rsl_rl stores the hidden state and replays the network from it; set per instance."""
    penalizes_means: bool = True
    """Whether a pass without sampling adds the network's penalty. False for an actor in `PPO.update`: there the pass that samples adds it,
    and a second pass, for the loss on symmetry, would add it again."""
    input_shape: tuple[int, ...]
    """Input shape of the network: (O,), or (C, H, W) for an image."""

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict | None = None,
        network: PlainMapping | str = "feedforward",
        burn_in: int = 0,
        cnn_cfg: dict[str, object] | None = None,
    ) -> None:
        """Initialise with the arguments of `MLPModel`, and the network.

        Args:
            hidden_dims: Layers of the network if ``network`` names none.
            activation: Activation of the ANN that this model replaces; the network does not use it.
            network: Settings of the network for `spiky_rl.config.registry.configure`.
            burn_in: Number of control steps at the start of each replayed rollout that only warm up the state and have no loss.
                Needs a stateful network, `SpikingPPO`, and the same number in the other model.
            cnn_cfg: Configuration of the `CNNModel` that this model replaces if observations are images; used only to count
                the operations of that model.
        """
        # the parent always builds an MLP: build the smallest one, then replace it by the spiking network
        super().__init__(
            obs, obs_groups, obs_set, output_dim, (1,), activation, obs_normalization, distribution_cfg
        )
        del self.mlp
        if obs_normalization and len(self.input_shape) > 1:
            raise registry.RegistryError(
                f"agent.{obs_set}.obs_normalization: true is not available with images; set it to false"
            )
        size = output_dim if self.distribution is None else self.distribution.input_dim
        self.output_shape = list(size) if isinstance(size, list | tuple) else [size]
        settings = {"name": network} if isinstance(network, str) else dict(network)
        configured = registry.configure(
            "networks", spec.add_default_layers(settings, hidden_dims), f"{obs_set}.network"
        )
        self.network: SpikingNetwork = configured.build(
            inputs=self.input_shape, outputs=math.prod(self.output_shape)
        )
        self.settings = configured.settings()
        self.ann_operations = self._count_ann_operations(obs, hidden_dims, activation, cnn_cfg)
        self.features_key = f"{obs_set}_features" if self.network.fixed_size is not None else None
        """Key of this model's cached features in the observations of a rollout; None if features are not cached."""
        self.is_recurrent = self.network.stateful and self.features_key is None
        self.burn_in = burn_in
        if burn_in and not self.is_recurrent:
            raise registry.RegistryError(
                f"{obs_set}.burn_in: {burn_in} control steps of burn-in need a stateful network"
            )
        if self.distribution is not None:
            self.distribution.init_mlp_weights(nn.Sequential(self.network.readout, nn.Identity()))
        self.state: State | None = None
        """State of the network before the next control step; None for the zero state."""
        self.is_updating = False
        """Whether an update has begun and `end_update` has not been called for it."""
        self.has_flat_state = False
        """Whether the state was set as one tensor by `FlatState`; `get_hidden_state` then returns it as one tensor too."""

    def _count_ann_operations(
        self,
        obs: TensorDict,
        hidden_dims: tuple[int, ...] | list[int],
        activation: str,
        cnn_cfg: dict[str, object] | None,
    ) -> float:
        """Return the multiply-accumulates of the ANN that this model replaces."""
        outputs = math.prod(self.output_shape)
        if cnn_cfg is None:
            return sum(a * b for a, b in itertools.pairwise([self.obs_dim, *hidden_dims, outputs]))
        # the CNN must not change the random numbers that are drawn later
        with torch.random.fork_rng(devices=[]):
            groups = {"cnn": self.obs_groups}
            return dense_operations(
                CNNModel(obs, groups, "cnn", outputs, hidden_dims, activation, cnn_cfg=cnn_cfg)
            )

    @override
    def _get_obs_dim(
        self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str
    ) -> tuple[list[str], int]:
        """Return groups and observation size, and set `input_shape`.

        The parent knows vectors only; this method also takes one group of images [B, C, H, W].
        """
        groups = obs_groups[obs_set]
        shapes = {group: tuple(obs[group].shape[1:]) for group in groups}
        if all(len(shape) == 1 for shape in shapes.values()):
            groups, size = super()._get_obs_dim(obs, obs_groups, obs_set)
            shape = (size,)
        elif len(groups) == 1 and len(shapes[groups[0]]) == 3:
            shape = shapes[groups[0]]
        else:
            raise registry.RegistryError(
                f"agent.obs_groups.{obs_set}: a spiking network takes vectors, or one group of images; "
                f"got {', '.join(f'{group}: {list(shape)}' for group, shape in shapes.items())}"
            )
        self.input_shape = shape
        return groups, math.prod(shape)

    @override
    def get_latent(
        self, obs: TensorDict, masks: Tensor | None = None, hidden_state: HiddenState = None
    ) -> Tensor:
        # an image is flattened in row-major order
        if len(self.input_shape) == 1:
            x = super().get_latent(obs, masks, hidden_state)
        else:
            x = obs[self.obs_groups[0]].flatten(-len(self.input_shape))
        # training must detect non-finite values, so it does not clamp them
        return x if self.training else clamp_observations(x)

    @override
    def forward(
        self,
        obs: TensorDict,
        masks: Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        """Return the model's output for observations, in float32 even under autocast.

        Args:
            obs: Observations of a control step, [B, ...], for an output [B, ...]; with ``masks``, observations of padded
                trajectories, [T, trajectories, ...], for an output [T - burn_in, B, ...].
            masks: Whether each step of a trajectory exists, [T, trajectories].
            hidden_state: State before the first step of each trajectory; None for the zero state.
            stochastic_output: Whether to sample from the distribution instead of taking its mean.
        """
        device = self.network.readout.weight.device.type
        if torch.is_autocast_enabled(device):
            # rsl_rl uses autocast only in updates; currents in bfloat16 would cause other spikes there than in the rollout
            with torch.autocast(device, enabled=False):
                return self.forward(obs, masks, hidden_state, stochastic_output)
        if self.training:
            self._follow_updates()
        if masks is not None and not self.is_recurrent:
            unpadded: Any = unpad_trajectories(obs, masks)  # type: ignore[arg-type]
            obs = unpadded
        if self.features_key is not None and (cached := obs.get(self.features_key, None)) is not None:
            output = self.network.apply_readout(cached).unflatten(-1, self.output_shape)
        elif stochastic_output or self.penalizes_means:
            output = self._compute_output(self.get_latent(obs), masks, hidden_state)
        else:
            with leave_out_penalty(self.network):
                output = self._compute_output(self.get_latent(obs), masks, hidden_state)
        if self.distribution is None:
            return output
        if stochastic_output:
            self.distribution.update(output)
            return self.distribution.sample()
        return self.distribution.deterministic_output(output)

    def _follow_updates(self) -> None:
        """Note that an update has begun if this pass has gradients; if not, end the update before it."""
        if torch.is_grad_enabled():
            self.is_updating = True
        elif self.is_updating:
            # the first control step after an update by rsl_rl 5.4's own PPO, which does not tell when an update ends
            self.end_update()

    def _compute_output(self, x: Tensor, masks: Tensor | None, hidden_state: HiddenState) -> Tensor:
        """Return the distribution's input [..., *output_shape] for the network input [..., O], and advance the state."""
        if not self.network.stateful:
            features, _ = self.network(x.reshape(1, -1, x.shape[-1]), None)
            return features.reshape(*x.shape[:-1], *self.output_shape)
        if masks is None:
            features, state = self.network(x.unsqueeze(0), self._get_state(x))
            self.state = state if self.training else reset_nonfinite(state)
            return features.squeeze(0).unflatten(-1, self.output_shape)
        samples, state, keep = _unpad_replay(x, masks, _as_state(hidden_state))
        features, _ = self.network(samples, state or self.network.zero_state(samples.shape[1], x), keep)
        return features[self.burn_in :].unflatten(-1, self.output_shape)

    def _get_state(self, x: Tensor) -> State:
        """Return the state before the next step, for the network input ``x`` [B, O]."""
        state = self.state if self.state is not None else self.network.zero_state(x.shape[0], x)
        if state[0].shape[1] != x.shape[0]:
            if self.features_key is not None and torch.is_grad_enabled():
                # this is an update, and the rollout has no features of the network
                raise registry.RegistryError(
                    f"agent.algorithm.class_name: does not store the features of the {type(self.network).__name__.lower()};"
                    " allowed: class_name: spiky_rl.learners.rsl_rl:SpikingPPO"
                )
            raise ValueError(
                f"the state has {state[0].shape[1]} environments, the observation {x.shape[0]}; call reset first"
            )
        return state

    def add_features(self, obs: TensorDict, advance: bool = True, adapt: bool | None = None) -> TensorDict:
        """Return the observations ``obs`` [B, ...], with the network's features added if this model caches them.

        Args:
            obs: Observations of a control step.
            advance: Whether the state advances; without it, plastic weights do not change either.
            adapt: Whether plastic weights change; None for in training alone.
        """
        if self.features_key is None:
            return obs
        if adapt is None:
            adapt = self.training
        x = self.get_latent(obs)
        features, state = self.network.compute_fixed_part(
            x.unsqueeze(0), self._get_state(x), adapt=advance and adapt
        )
        if advance:
            self.state = state if self.training else reset_nonfinite(state)
        with_features = obs.copy()
        with_features[self.features_key] = features.squeeze(0)
        return with_features

    @override
    def reset(self, dones: Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Reset the state of environments with ``dones``; if ``dones`` is None, set all of it to ``hidden_state`` (None: zero)."""
        if dones is None:
            self.state, self.has_flat_state = _as_state(hidden_state), False
        elif self.state is not None:
            self.state = reset_state(self.state, dones)

    def learn(self, obs: TensorDict, dones: Tensor, credit: Tensor, hidden_state: HiddenState) -> None:
        """Apply the network's local rules to a rollout with observations [T, B, ...] and ends of episodes [T, B, 1].

        ``credit`` is the third factor of each step, such as its advantage, [T, B, 1]; ``hidden_state`` is before the first step.
        """
        x = self.get_latent(obs)
        if not self.network.stateful:
            self.network.apply_local_rules(x.flatten(0, 1).unsqueeze(0), None, None, credit.reshape(1, -1))
            return
        # an episode begins with a step if it ended with the step before
        episode_starts = torch.cat([torch.zeros_like(dones[:1]), dones[:-1]]).view(x.shape[:2])
        keep = 1.0 - episode_starts.to(x.dtype)
        state = _as_state(hidden_state) or self.network.zero_state(x.shape[1], x)
        self.network.apply_local_rules(x, state, keep, credit.view(x.shape[:2]))

    @property
    def rnn(self) -> FlatState | None:
        """Recurrent module for hosts; None if the model is not recurrent."""
        return FlatState(self) if self.is_recurrent else None

    @override
    def get_hidden_state(self) -> HiddenState:
        """Return the state to store in a rollout; None for the zero state, or if nothing is replayed."""
        if self.has_flat_state:
            return FlatState(self).hidden_state
        return self.state if self.is_recurrent else None  # type: ignore[return-value]

    @override
    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        # without ``dones``, of all environments; rsl_rl's distillation calls it with ``dones`` in every control step
        if self.state is None:
            return
        cut = tuple(s.detach() for s in self.state)
        if dones is not None:
            ended = dones.view(1, -1, 1) > 0
            cut = tuple(torch.where(ended, c, s) for c, s in zip(cut, self.state, strict=True))
        self.state = cut

    @override
    def update_normalization(self, obs: TensorDict) -> None:
        super().update_normalization(obs)
        # rsl_rl 5.5 calls this once after every update; rsl_rl 5.4 calls it in every control step of a rollout, without gradients
        if self.training and torch.is_grad_enabled():
            self.end_update()

    def end_update(self) -> None:
        """Count an update, for slope schedules and encoder noise."""
        self.is_updating = False
        self.network.count_update()

    @override
    def as_jit(self) -> nn.Module:
        """Return the deterministic policy for ``torch.jit.script``, with ``forward(obs [1, O])`` and ``reset()``."""
        from spiky_rl.learners.rsl_rl.export import JitPolicy

        return JitPolicy(self)

    @override
    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return the deterministic policy for ONNX: ``obs -> actions``, with ``state_in`` and ``state_out`` if stateful."""
        from spiky_rl.learners.rsl_rl.export import OnnxPolicy

        return OnnxPolicy(self)


class BurnInMLPModel(MLPModel):
    """rsl_rl's MLP beside a recurrent model with burn-in: its output leaves out the same control steps."""

    def __init__(self, *args: Any, burn_in: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.burn_in = burn_in

    @override
    def forward(
        self,
        obs: TensorDict,
        masks: Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        # with masks the output starts after the burn-in
        output = super().forward(obs, masks, hidden_state, stochastic_output)
        return output if masks is None else output[self.burn_in :]


class FlatState:
    """Hidden state of a spiking model as one tensor, for hosts that expect a recurrent module: Isaac Lab's LEAPP export.

    To export a policy with an attribute ``rnn``, Isaac Lab makes a zero state of the size in ``rnn.rnn``, assigns it to
    ``rnn.hidden_state`` before a control step, and reads the next state from `SpikingModel.get_hidden_state`. So this class has the
    attributes of rsl_rl's `RNN` and of `torch.nn.GRU` that Isaac Lab reads.
    """

    num_layers = 1

    def __init__(self, model: SpikingModel) -> None:
        self._model = model
        self.rnn = self
        self.hidden_size = sum(model.network.state_sizes)
        """Size S of the whole hidden state, with potentials and all other values."""

    @property
    def hidden_state(self) -> Tensor | None:
        """Concatenated states, [1, B, S]; None for the zero state."""
        state = self._model.state
        return None if state is None else torch.cat(state, -1)

    @hidden_state.setter
    def hidden_state(self, value: Tensor | None) -> None:
        sizes = list(self._model.network.state_sizes)
        self._model.state = None if value is None else tuple(value.split(sizes, -1))
        self._model.has_flat_state = value is not None


def get_state(model: MLPModel) -> HiddenState | State:
    """Return the state of a ``model``, also a state that is not stored with the rollout; None for the zero state."""
    return model.state if isinstance(model, SpikingModel) else model.get_hidden_state()


def _as_state(hidden_state: HiddenState) -> State | None:
    """Return ``hidden_state`` as a tuple; rsl_rl unwraps a tuple of one, and rsl_rl 5.4 replays several states as a list."""
    if hidden_state is None:
        return None
    return tuple(hidden_state) if isinstance(hidden_state, tuple | list) else (hidden_state,)


def _unpad_replay(x: Tensor, masks: Tensor, state: State | None) -> tuple[Tensor, State | None, Tensor]:
    """Return samples [T, B, O], the state before them, and `keep` [T, B] for rsl_rl's padded trajectories ``x`` [T, trajectories, O].

    The network then computes no padding, which would count in the means of a penalty. ``state`` is the one before each trajectory: the
    rollout's for the first trajectory of an environment, zero for every other one.
    """
    samples: Tensor = unpad_trajectories(x, masks)  # type: ignore[assignment]
    steps, envs = samples.shape[:2]
    lengths = masks.sum(0)
    starts = lengths.cumsum(0) - lengths  # in the order of environments, then of steps
    rollout_starts = torch.arange(0, steps * envs, steps, device=x.device)
    keep = x.new_ones(envs * steps).index_fill(0, starts, 0.0).index_fill(0, rollout_starts, 1.0)
    first = torch.searchsorted(starts, rollout_starts)
    if state is not None:
        state = tuple(part[:, first] for part in state)
    return samples, state, keep.view(envs, steps).t()
