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
from spiky_rl.learners.rsl_rl.export import JitPolicy, OnnxPolicy
from spiky_rl.learners.rsl_rl.flat_state import FlatState
from spiky_rl.metrics.synops import dense_operations
from spiky_rl.networks.base import SpikingNetwork, State


class SpikingModel(MLPModel):
    """An `MLPModel` whose network spikes; a drop-in for every place of rsl_rl that takes a model.

    A stateless network is reset in every control step and trains on shuffled samples. A stateful one is recurrent to
    rsl_rl: its state, a tuple of [1, B, N] tensors, is stored with the rollout and replayed over padded trajectories. A
    stateful one of which only the readout is trained is not replayed: `SpikingPPO` keeps its features with the rollout.
    """

    is_recurrent: bool = False
    """Whether membranes are carried from one control step to the next (set per instance from the network)."""
    input_shape: tuple[int, ...]
    """(O,), or (C, H, W) of an image: what the network is built for."""

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
        """Arguments as `MLPModel`'s, and the network.

        Args:
            network: Settings of the network, as `spiky_rl.config.registry.configure` takes them. Where they name no layers,
                ``hidden_dims`` are the layers; ``activation`` has no meaning here and is accepted because Isaac Lab's
                configurations carry it.
            burn_in: The first control steps of each replayed rollout that warm the state up and carry no loss. Needs a
                stateful network, `SpikingPPO`, and the same number in the other model.
            cnn_cfg: Configuration of the `CNNModel` in whose place this one stands, where observations are images; only its cost is of use.
        """
        if obs_normalization and any(obs[group].ndim == 4 for group in obs_groups[obs_set]):
            raise registry.RegistryError(
                f"agent.{obs_set}.obs_normalization: true is for vectors, not for images; set it to false"
            )
        # the parent insists on an MLP: give it the smallest, then put the spiking network in its place
        super().__init__(
            obs, obs_groups, obs_set, output_dim, (1,), activation, obs_normalization, distribution_cfg
        )
        del self.mlp
        self.output_shape = (
            [output_dim] if self.distribution is None else _as_list(self.distribution.input_dim)
        )
        named = {"name": network} if isinstance(network, str) else dict(network)
        settings = spec.add_default_layers(named, hidden_dims)
        configured = registry.configure("networks", settings, f"{obs_set}.network")
        self.network: SpikingNetwork = configured.build(
            inputs=self.input_shape, outputs=math.prod(self.output_shape)
        )
        self.settings = configured.settings()
        widths = [self.obs_dim, *hidden_dims, math.prod(self.output_shape)]
        self.ann_operations = sum(a * b for a, b in itertools.pairwise(widths))
        if cnn_cfg is not None:
            # built to be counted: what comes after is drawn as without it
            with torch.random.fork_rng(devices=[]):
                ann = CNNModel(obs, obs_groups, obs_set, widths[-1], hidden_dims, activation, cnn_cfg=cnn_cfg)
            self.ann_operations = dense_operations(ann)
        self.cache = f"{obs_set}_features" if self.network.features is not None else None
        """Where in the observations the features of this model stand that were computed in the rollout; None: nowhere."""
        self.is_recurrent = self.network.stateful and self.cache is None
        self.burn_in = burn_in
        if burn_in and not self.is_recurrent:
            raise registry.RegistryError(
                f"{obs_set}.burn_in: {burn_in} control steps of burn-in need a stateful network"
            )
        if self.distribution is not None:
            self.distribution.init_mlp_weights(nn.Sequential(self.network.readout, nn.Identity()))
        self.state: State | None = None
        """State of the network before the next control step; None: rest."""
        self.flat = False
        """Whether a host has given the state as one tensor, and gets it back as that."""

    @override
    def _get_obs_dim(
        self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str
    ) -> tuple[list[str], int]:
        """As the parent's, and for one group of images [B, C, H, W] too, which the network takes as maps."""
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
        # an image comes out flat, with its columns fastest
        if len(self.input_shape) == 1:
            x = super().get_latent(obs, masks, hidden_state)
        else:
            x = obs[self.obs_groups[0]].flatten(-len(self.input_shape))
        # while it learns nothing is put right: what is not finite then has to be seen
        return x if self.training else clamp_observations(x)

    @override
    def forward(
        self,
        obs: TensorDict,
        masks: Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        """Output of the model for observations, in float32 even under autocast.

        Args:
            obs: Observations of a control step, [B, ...]; with ``masks``, of padded trajectories, [T, trajectories, ...]: the output is
                then [T - burn_in, B, ...].
            masks: Which steps of each trajectory there are, [T, trajectories].
            hidden_state: Before each trajectory's first step; None: rest.
            stochastic_output: Draw from the distribution instead of taking its mean.
        """
        device = self.network.readout.weight.device.type
        if torch.is_autocast_enabled(device):
            # rsl_rl has it in updates alone, and a current rounded to bfloat16 flips spikes of the rollout
            with torch.autocast(device, enabled=False):
                return self.forward(obs, masks, hidden_state, stochastic_output)
        if masks is not None and not self.is_recurrent:
            flat: Any = unpad_trajectories(obs, masks)  # type: ignore[arg-type]
            obs = flat
        if self.cache is not None and (cached := obs.get(self.cache, None)) is not None:
            output = self.network.apply_readout(cached).unflatten(-1, self.output_shape)
        else:
            output = self._output(self.get_latent(obs), masks, hidden_state)
        if self.distribution is None:
            return output
        if stochastic_output:
            self.distribution.update(output)
            return self.distribution.sample()
        return self.distribution.deterministic_output(output)

    def _output(self, x: Tensor, masks: Tensor | None, hidden_state: HiddenState) -> Tensor:
        """Observations [..., O] -> what the distribution reads, [..., *output_shape]; advances the state it carries."""
        if not self.network.stateful:
            features, _ = self.network(x.reshape(1, -1, x.shape[-1]), None)
            return features.reshape(*x.shape[:-1], *self.output_shape)
        if masks is None:
            features, state = self.network(x.unsqueeze(0), self._get_state(x))
            self.state = state if self.training else reset_nonfinite(state)
            return features.squeeze(0).unflatten(-1, self.output_shape)
        features, _ = self.network(x, _as_state(hidden_state) or self.network.zero_state(x.shape[1], x))
        output: Tensor = unpad_trajectories(features, masks)  # type: ignore[assignment]
        return output[self.burn_in :].unflatten(-1, self.output_shape)

    def _get_state(self, x: Tensor) -> State:
        """The state before the next step, for observations x [B, O]."""
        state = self.state if self.state is not None else self.network.zero_state(x.shape[0], x)
        if state[0].shape[1] != x.shape[0]:
            if (
                self.cache is not None and torch.is_grad_enabled()
            ):  # an update: what a rollout computed is not there
                raise registry.RegistryError(
                    f"agent.algorithm.class_name: keeps no features of the {type(self.network).__name__.lower()} for its update;"
                    " allowed: class_name: spiky_rl.learners.rsl_rl:SpikingPPO"
                )
            raise ValueError(
                f"the state is that of {state[0].shape[1]} environments, the observation of {x.shape[0]}; reset first"
            )
        return state

    def add_features(self, obs: TensorDict, advance: bool = True, adapt: bool | None = None) -> TensorDict:
        """The observations and, where this model caches them, the features of its network for them.

        Args:
            obs: Observations of a control step, [B, ...].
            advance: Whether the state goes on by it.
            adapt: Whether what is plastic changes by it; None: in training.
        """
        if self.cache is None:
            return obs
        x = self.get_latent(obs)
        features, state = self.network.compute_features(
            x.unsqueeze(0), self._get_state(x), adapt=advance and (self.training if adapt is None else adapt)
        )
        if advance:
            self.state = state if self.training else reset_nonfinite(state)
        found = obs.copy()
        found[self.cache] = features.squeeze(0)
        return found

    @override
    def reset(self, dones: Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Put the environments that are ``dones`` at rest; without ``dones``, take over ``hidden_state`` (None: rest)."""
        if dones is None:
            self.state, self.flat = _as_state(hidden_state), False
        elif self.state is not None:
            self.state = reset_state(self.state, dones)

    def learn(self, obs: TensorDict, dones: Tensor, credit: Tensor, hidden_state: HiddenState) -> None:
        """Let the network's local rules learn from a rollout.

        Args:
            obs: [T, B, ...].
            dones: Whether the episode ended with a control step, [T, B, 1].
            credit: What each step was worth, [T, B, 1].
            hidden_state: Before its first step; None: rest.
        """
        x = self.get_latent(obs)
        if not self.network.stateful:
            self.network.apply_local_rules(x.flatten(0, 1).unsqueeze(0), None, None, credit.reshape(1, -1))
            return
        keep = 1.0 - torch.cat([torch.zeros_like(dones[:1]), dones[:-1]]).view(x.shape[:2]).to(x.dtype)
        state = _as_state(hidden_state) or self.network.zero_state(x.shape[1], x)
        self.network.apply_local_rules(x, state, keep, credit.view(x.shape[:2]))

    @property
    def rnn(self) -> FlatState | None:
        """The recurrent module that a host looks for; None: nothing is carried that it could know of."""
        return FlatState(self) if self.is_recurrent else None

    @override
    def get_hidden_state(self) -> HiddenState:
        """The state before the next step, for a rollout to store: None at rest and where nothing is replayed."""
        if self.flat:
            return FlatState(self).hidden_state
        return self.state if self.is_recurrent else None  # type: ignore[return-value]

    @override
    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        if self.state is not None:
            self.state = tuple(s.detach() for s in self.state)

    @override
    def update_normalization(self, obs: TensorDict) -> None:
        super().update_normalization(obs)
        if self.training:  # rsl_rl calls it once after every update: slopes and encoder noise advance with it
            self.network.count_update()

    @override
    def as_jit(self) -> nn.Module:
        """The deterministic policy, ready for ``torch.jit.script``: ``forward(obs [1, O])`` and ``reset()``."""
        return JitPolicy(self)

    @override
    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """The deterministic policy for ONNX: ``obs -> actions``, with ``state_in`` and ``state_out`` if stateful.

        ``verbose``: let torch say what it does.
        """
        return OnnxPolicy(self, verbose)


class BurnInMLPModel(MLPModel):
    """rsl_rl's MLP beside a recurrent model with burn-in: it leaves out the same control steps."""

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


def _as_state(hidden_state: HiddenState) -> State | None:
    """rsl_rl unwraps a tuple of one: wrap it again."""
    if hidden_state is None:
        return None
    return hidden_state if isinstance(hidden_state, tuple) else (hidden_state,)


def _as_list(size: int | list[int]) -> list[int]:
    return list(size) if isinstance(size, list | tuple) else [size]
