"""What every spiking network is: layers, and two nested clocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import Component

State = tuple[Tensor, ...]
"""One [1, B, N] tensor per state, in a fixed order; rest is zero."""
SpikeChannel = Callable[[Tensor], Tensor]
"""What becomes of a layer's spikes [..., N] on their way to whoever gets them, the layer itself among them."""


@dataclass
class ForwardRecord:
    """Tensors recorded during a forward pass, for plots and operation counts. T and K as in the call."""

    signal: list[Tensor] = field(default_factory=list)
    """Input of every layer, [T, K or 1, B, C], then that of the decoder."""
    potentials: list[Tensor] = field(default_factory=list)
    """First state of every layer after each step, [T, K, B, N]."""
    operations: list[Tensor] = field(default_factory=list)
    """Operations of encoder, of every layer and of the decoder, [T, B] each."""
    only_signal: bool = False
    """Whether ``signal`` alone is wanted: the rest of a whole rollout is gigabytes."""


class SpikingNetwork(Component, torch.nn.Module):
    """T environment steps outside, K inner steps inside; state goes in and comes out."""

    renamed = {
        "replayed": "is_recurrent",
        "cached": "caches_features",
        "widths": "layer_sizes",
        "disturb": "set_spike_channels",
        "extract": "compute_features",
        "read": "apply_readout",
        "learn": "apply_local_rules",
        "run_on": "set_backend",
        "advance": "count_update",
    }

    backend: str
    """What runs it: a name, or auto."""
    steps: int
    """K, inner steps per environment step."""
    stateful: bool
    """Whether the state is carried from one environment step to the next."""
    state_sizes: tuple[int, ...]
    """Width of every state tensor."""
    local: bool = False
    """Whether `learn` is to be called after every rollout."""
    features: int | None = None
    """Width of what `extract` gives; None: nothing in this network is fixed, and a host has nothing to cache."""
    updates: int = 0
    """PPO updates so far. A number of Python's, so that no forward pass waits for a device to read it."""

    @classmethod
    @abstractmethod
    def is_recurrent(cls, options: Settings) -> bool:
        """Whether a network with these ``options`` is trained by replaying a rollout from its stored states."""

    @classmethod
    def caches_features(cls, options: Settings) -> bool:  # pylint: disable=unused-argument
        """Whether a host may keep what `extract` gives, because with these ``options`` only what `read` does is trained."""
        return False

    @property
    @abstractmethod
    def layer_sizes(self) -> tuple[int, ...]:
        """Neurons of every layer."""

    @abstractmethod
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        """Let the spikes of every layer pass through its own of the ``channels`` from now on; for acting, not for training."""

    @property
    @abstractmethod
    def readout(self) -> torch.nn.Linear:
        """The linear map that gives the features."""

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        """Observations -> features [T, B, F] and the state after the last step.

        Args:
            x: [T, B, O]. A stateless network takes T = 1 only.
            state: Before the first step; None: from rest, and no state comes out.
            keep: [T, B]; 0 where an episode begins with that step: its states start from rest.
            record: If given, is filled.
        """

    def compute_features(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, adapt: bool = False
    ) -> tuple[Tensor, State]:
        """The part of `forward` that is not trained -> [T, B, `features`] and the new state.

        Args:
            x: Observations [T, B, O].
            state: As `forward`'s.
            keep: As `forward`'s.
            adapt: What is plastic changes by what it sees, as in a rollout; `forward` never changes anything.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no compute_features; a network with features must"
        )

    def apply_readout(self, cached: Tensor) -> Tensor:
        """The rest of it: ``cached``, what `extract` gave, [..., `features`] -> features [..., F]."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no apply_readout; a network with features must"
        )

    def apply_local_rules(self, x: Tensor, state: State | None, keep: Tensor | None, credit: Tensor) -> None:
        """Let local rules change the weights that are theirs, by a rollout.

        Args:
            x: Its observations [T, B, O].
            state: Before its first step.
            keep: [T, B]; 0 where an episode begins with that step.
            credit: What its steps were worth, [T, B].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no apply_local_rules; a local network must")

    def zero_state(self, batch: int, like: Tensor) -> State:
        """Rest, for ``batch`` environments, in the device and type of ``like``."""
        return tuple(like.new_zeros(1, batch, size) for size in self.state_sizes)

    @abstractmethod
    def set_backend(self, backend: str) -> None:
        """Let another ``backend`` run everything from now on."""

    def count_update(self) -> None:
        """Count one update: slope schedules and the noise of random encoders go by it."""
        self.updates += 1

    def get_extra_state(self) -> Tensor:
        """The number of updates for ``state_dict``: a tensor, as rsl_rl sends every value of it to its other processes."""
        return torch.tensor(self.updates, device=self.readout.weight.device)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of updates over from a checkpoint's ``state``."""
        self.updates = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        # in older checkpoints the number of updates is a buffer of this name
        if prefix + "updates" in state_dict:
            state_dict[prefix + "_extra_state"] = state_dict.pop(prefix + "updates")
        super()._load_from_state_dict(state_dict, prefix, *args)
