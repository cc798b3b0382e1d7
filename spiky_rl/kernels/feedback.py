"""How a layer's own output returns into its current.

I_k = decay I_(k-1) + sum_d W_d z_(k-d),  d = 1 .. D;   z_k = neuron(x_k + I_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Feedback:
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


@dataclass(frozen=True)
class Loop:
    """A loop and what it runs on, as the kernels of a backend take it; shapes as `torch_backend.recurrent`'s."""

    key: str
    """Names the neuron's program in `programs.KNOWN`."""
    current: Tensor
    state: Tensor | None
    """[states, B, N]: the neuron's and the feedback's; None: rest."""
    params: Tensor | None
    """[P, N]: the neuron's parameters that differ between neurons."""
    keep: Tensor | None
    synapses: Tensor
    """[D N, N]."""
    uniforms: Sequence[float]
    """What the kernel computes with besides."""
    steps: int
    feedback: Feedback
