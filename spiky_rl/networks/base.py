"""Base class of spiking networks.

A network maps observations [T, B, O] to features [T, B, F], with K inner steps in each of the T control steps. It keeps no state:
`SpikingNetwork.forward` takes the state and returns the new one, and the initial state is zero. `ForwardRecord` collects the
signals of a forward pass for plots and counts of operations. If a part of the network is fixed, `compute_fixed_part` computes it
without a gradient, a learner may store the result, and only `apply_readout` is trained. Each file of this folder defines a network, which
agents name by the file's name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import Component
from spiky_rl.connections._cost import ConnectionCost
from spiky_rl.neurons.base import Neuron

State = tuple[Tensor, ...]
"""Hidden state: one [1, B, N] tensor per state, in a fixed order; the initial value is zero."""
SpikeChannel = Callable[[Tensor], Tensor]
"""Function applied to a layer's spikes [..., N] before any receiver gets them, the layer itself included."""


@dataclass
class ForwardRecord:
    """Tensors recorded in a forward pass, for plots and counts of operations."""

    signals: list[Tensor] = field(default_factory=list)
    """The encoder's signal [T, K or 1, B, C], then the output of every layer [T, K, B, N]: the input of each layer, then the decoder's."""
    potentials: list[Tensor] = field(default_factory=list)
    """First state of every layer after each inner step [T, K, B, N]."""
    operations: list[Tensor] = field(default_factory=list)
    """Effective operations [T, B] of the encoder, of every layer and of the decoder."""
    splits_spikes: bool = False
    """Whether every neuron spreads the charge of a spike, which is 1, over two inner steps: see `Neuron.splits_spikes`."""
    only_signals: bool = False
    """Record ``signals`` only: potentials and operations would need gigabytes for a whole rollout."""

    @property
    def layer_spikes(self) -> list[Tensor]:
        """Output of every layer [T, K, B, N]: ``signals`` without the encoder's."""
        return self.signals[1:]

    @property
    def encoder_operations(self) -> Tensor:
        """Effective operations [T, B] of the encoder."""
        return self.operations[0]


@dataclass(frozen=True)
class UnitGroup:
    """Units of a network that have the same update: neurons, or activations of a readout."""

    unit: Neuron | torch.nn.Module
    """A neuron, or the module of an activation."""
    updates: int
    """Updates of all units in a control step."""
    states: int
    """State values that an update reads and writes."""
    traces: int | None = None
    """Number of traces of its spikes that a neuron with an exponential synapse updates; None if it has no such synapse."""


@dataclass(frozen=True)
class NetworkCost:
    """Costs of a network that are the same in every control step."""

    connections: list[ConnectionCost]
    """All connections, the readout's included, with their present weights."""
    units: list[UnitGroup]
    biases: int
    """Constant currents of all layers; a convolutional layer has one per channel."""
    observations_per_channel: float
    """Observations divided by channels of the encoder."""


class SpikingNetwork(Component, torch.nn.Module):
    """Spiking network with K inner steps in each of T control steps; the state is an argument and a result."""

    backend: str
    """Kernel backend: a name, or auto."""
    steps: int
    """K: inner steps per control step."""
    stateful: bool
    """Whether the state is carried from one control step to the next."""
    state_sizes: tuple[int, ...]
    """Width of every state tensor."""
    has_local_rules: bool = False
    """Whether a learner must call `apply_local_rules` after every rollout."""
    is_quantized: bool = False
    """Whether every pass rounds the weights, so that small ones are zero."""
    fixed_size: int | None = None
    """Number of outputs of `compute_fixed_part`; None if no part of the network is fixed."""
    updates: int = 0
    """Number of updates so far: of PPO, iterations of off-policy learning, or optimiser steps of a classifier.

    It is a Python number, so that no forward pass waits for a device.
    """

    @classmethod
    @abstractmethod
    def is_recurrent(cls, options: Settings) -> bool:
        """Return whether training must replay a rollout from its stored states, with these ``options``."""

    @classmethod
    def caches_fixed_part(cls, options: Settings) -> bool:  # pylint: disable=unused-argument
        """Return whether a learner may store the results of `compute_fixed_part`, because only `apply_readout` is trained."""
        return False

    @property
    @abstractmethod
    def layer_sizes(self) -> tuple[int, ...]:
        """Number of neurons of every layer."""

    def measure_cost(self) -> NetworkCost:
        """Return the costs of a control step. A network without this method acts and learns, but its energy is not estimated."""
        raise NotImplementedError(f"{type(self).__name__} defines no measure_cost; a network with costs must")

    @abstractmethod
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        """Apply ``channels``, one per layer in order, to the layers' spikes from now on; for inference only."""

    @property
    @abstractmethod
    def readout(self) -> torch.nn.Linear:
        """Linear map to the features."""

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        """Compute features [T, B, F]; return them and the state after the last step.

        Args:
            x: Observations [T, B, O].
            state: State before the first step; None to start from zero and return no state.
            keep: [T, B]; 0 where an episode begins with that step, which resets the state.
            record: Record to fill, or None.
        """

    def compute_fixed_part(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, adapt: bool = False
    ) -> tuple[Tensor, State]:
        """Compute the fixed part of the network; return the input of `apply_readout` [T, B, ``fixed_size``] and the new state.

        ``x``, ``state`` and ``keep`` are as in `forward`. With ``adapt``, plasticity changes the network, as in a rollout;
        `forward` never changes it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no compute_fixed_part; a network with a fixed part must"
        )

    def apply_readout(self, fixed: Tensor) -> Tensor:
        """Compute features [..., F] from the output ``fixed`` [..., ``fixed_size``] of `compute_fixed_part`."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no apply_readout; a network with a fixed part must"
        )

    def apply_local_rules(self, x: Tensor, state: State | None, keep: Tensor | None, credit: Tensor) -> None:
        """Let local learning rules change their weights after a rollout.

        Args:
            x: Observations [T, B, O] of the rollout.
            state: State before its first step.
            keep: [T, B]; 0 where an episode begins with that step.
            credit: Credit of each step, such as its advantage, [T, B].
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no apply_local_rules; a network with local rules must"
        )

    def zero_state(self, batch: int, like: Tensor) -> State:
        """Return the initial state of ``batch`` environments, with the device and dtype of ``like``."""
        return tuple(like.new_zeros(1, batch, size) for size in self.state_sizes)

    @abstractmethod
    def set_backend(self, backend: str) -> None:
        """Use another kernel backend from now on."""

    def count_update(self) -> None:
        """Count one update, for slope schedules and the noise of random encoders."""
        self.updates += 1

    def get_extra_state(self) -> Tensor:
        """Return the number of updates for ``state_dict``; a tensor, because rsl_rl broadcasts every value."""
        return torch.tensor(self.updates, device=self.readout.weight.device)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the number of updates from a checkpoint."""
        self.updates = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        # in older checkpoints the number of updates is a buffer of this name
        if prefix + "updates" in state_dict:
            state_dict[prefix + "_extra_state"] = state_dict.pop(prefix + "updates")
        super()._load_from_state_dict(state_dict, prefix, *args)
