"""Requests to a backend and to its kernels: run neurons over time, with or without a recurrent loop.

A recurrent loop feeds a layer's output z back. In inner step k the neurons get the current x_k from outside plus the synaptic current I_k:

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
    """Settings of a recurrent loop. Its weights are separate: [D N, N], one input-major block per delay from 1 on.

    The loop's states follow the neuron's: the outputs of the last D inner steps, latest first, then I if it has a decay.
    """

    delays: int
    """D."""
    binary: bool
    """Whether the layer's output is 0 or 1."""
    decay: float | None = None
    """Factor of the synaptic current I per inner step; None if I lasts for one inner step only and is no state."""
    cut: bool = False
    """Whether the gradient stops at the output that feeds back."""

    @property
    def states(self) -> int:
        """Number of state tensors [B, N] besides the neuron's."""
        return self.delays + (self.decay is not None)


class NeuronRun(NamedTuple):
    """Neurons that run over T control steps of K inner steps each: the argument of a backend."""

    neuron: Neuron
    ops: TorchOps
    """The surrogate, its slope, and whether spikes are soft."""
    current: Tensor
    """[T, K, B, N], or [T, 1, B, N] if it is constant over the control step."""
    steps: int
    """K."""
    state: tuple[Tensor, ...] | None
    """State before the first step, one [B, N] tensor each: the neuron's, then the feedback's. Never written to. With None the run
    starts from the zero state and returns no state."""
    params: tuple[Tensor | float, ...]
    """The neuron's parameters in the order of its ``params``: numbers or [N] tensors."""
    keep: Tensor | None = None
    """[T, B]; 0 where an environment starts a new episode with this step, so that its states start from zero."""
    trace: list[Tensor] | None = None
    """If given, receives the neuron's first state, such as its potential, after every inner step, [B, N] each."""
    feedback: RecurrentFeedback | None = None
    """Settings of the recurrent loop, None without one."""
    synapses: Tensor | None = None
    """Weights of the recurrent loop, [D N, N]."""


@dataclass(frozen=True)
class KernelLaunch:
    """A `NeuronRun` in the form that kernels take; the shapes are the same, except for those given here."""

    key: str
    """Key of the neuron's program in `programs.PROGRAMS`."""
    current: Tensor
    state: Tensor | None
    """[states, B, N]: the neuron's, then the feedback's; None for the zero state."""
    params: Tensor | None
    """[P, N]: the parameters that differ between neurons."""
    keep: Tensor | None
    uniforms: Sequence[float]
    """Values that are the same for all neurons and steps, computed on the host; see `spiky_rl.kernels.trace`."""
    steps: int


@dataclass(frozen=True)
class RecurrentLaunch(KernelLaunch):
    """A launch with a recurrent loop."""

    feedback: RecurrentFeedback
    synapses: Tensor
    """[D N, N]."""
