"""A run of neurons over time, as backends and their kernels take it, and how a layer's own output returns into its current.

I_k = decay I_(k-1) + sum_d W_d z_(k-d),  d = 1 .. D;   z_k = neuron(x_k + I_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron


@dataclass(frozen=True)
class RecurrentFeedback:
    """Everything about a recurrent loop but its weights [D N, N]: a block for every delay from 1 on, input-major.

    Its states follow the neuron's: the output of the last D inner steps, the latest first, then I where it is filtered.
    """

    delays: int
    """D."""
    binary: bool
    """The layer's output is 0 or 1."""
    decay: float | None = None
    """Factor of the synapses' current I per inner step; None: what arrives is gone with its step, and I is no state."""
    cut: bool = False
    """Whether output that returns carries no gradient."""

    @property
    def states(self) -> int:
        """Tensors [B, N] of state besides the neuron's."""
        return self.delays + (self.decay is not None)


class NeuronRun(NamedTuple):
    """Neurons over T environment steps of K inner steps each, as a backend takes them."""

    neuron: Neuron
    """Whose step is run."""
    ops: TorchOps
    """The surrogate, its slope, and whether spikes are soft."""
    current: Tensor
    """[T, K, B, N], or [T, 1, B, N]: constant over the environment step."""
    steps: int
    """K."""
    state: tuple[Tensor, ...] | None
    """One [B, N] tensor per state before the first step, the neuron's and then the feedback's. Never written to. None: rest, and no
    state comes out."""
    params: tuple[Tensor | float, ...]
    """The neuron's parameters in the order of its ``params``: numbers or [N] tensors."""
    keep: Tensor | None = None
    """[T, B]; 0 where the environment starts a new episode with this step: its states start from rest."""
    trace: list[Tensor] | None = None
    """If given, gets the first state after every step, [B, N] each."""
    feedback: RecurrentFeedback | None = None
    """How the output returns into the current, if it does."""
    synapses: Tensor | None = None
    """By what weights it then does, [D N, N]."""


@dataclass(frozen=True)
class KernelLaunch:
    """A run as kernels take it; shapes as a `Run`'s."""

    key: str
    """Names the neuron's program in `programs.PROGRAMS`."""
    current: Tensor
    state: Tensor | None
    """[states, B, N]: the neuron's and the feedback's; None: rest."""
    params: Tensor | None
    """[P, N]: the neuron's parameters that differ between neurons."""
    keep: Tensor | None
    uniforms: Sequence[float]
    """What the kernel computes with besides."""
    steps: int


@dataclass(frozen=True)
class RecurrentLaunch(KernelLaunch):
    """A launch whose output returns into its current."""

    feedback: RecurrentFeedback
    synapses: Tensor
    """[D N, N]."""
