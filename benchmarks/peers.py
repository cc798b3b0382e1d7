"""The neurons of other libraries, each in its fastest form, for ``bench.py``.

Each function takes the contender with the weights, and the neuron's decay and threshold, and returns the library's cell: a function over
time if the library has one, else a function of one step. In recurrent networks the contender adds the recurrent feedback to the current
between single steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.contenders import Copy
    from benchmarks.recurrent_contenders import ReservoirCopy

    Holder = Copy | ReservoirCopy

Cell = Callable[..., Any]


def spikingjelly(peer: Holder, decay: float, threshold: float) -> Cell:
    """Return SpikingJelly's LIF in its functional multi-step form; on GPUs it runs on Triton."""
    from spikingjelly.activation_based import functional, surrogate

    settings = (1.0 / (1.0 - decay), False, threshold, None, surrogate.ATan(alpha=peer.ops.slope), True)
    return lambda x: functional.lif_multi_step(x, torch.zeros_like(x[0]), *settings)[0]


def spikingjelly_step(peer: Holder, decay: float, threshold: float, *_: float) -> Cell:
    """Return SpikingJelly's LIF for one step, in its functional form.

    It is faster than the library's `LinearRecurrentContainer`, which concatenates input and spikes and multiplies both in every step.
    """
    from spikingjelly.activation_based import functional, surrogate

    settings = (1.0 / (1.0 - decay), False, threshold, None, surrogate.ATan(alpha=peer.ops.slope), True)
    return lambda x, v: functional.lif_step(x, v, *settings)


def sinabs(peer: Holder, decay: float, threshold: float) -> Cell:
    """Return sinabs' LIF over time with at most one spike per step and our surrogate; gradients pass through its reset."""
    activation = importlib.import_module("sinabs.activation")
    lif, ops = importlib.import_module("sinabs.layers.functional").lif_forward, peer.ops

    def derivative(v: Tensor, threshold: float) -> Tensor:
        return ops.surrogate.derivative(ops, v - threshold, ops.slope)  # type: ignore[return-value]

    settings = (threshold, activation.SingleSpike, activation.MembraneSubtract(), derivative, None, False)
    return lambda x: lif(x, decay, None, {"v_mem": torch.zeros_like(x[:, 0])}, *settings)[0]


def snntorch(peer: Holder, decay: float, threshold: float, *_: float) -> Cell:
    """Return snnTorch's Leaky with its own dynamics: it resets one step later than all others.

    The library's recurrent RLeaky computes the same from a current that includes the feedback, but is slower.
    """
    leaky = importlib.import_module("snntorch").Leaky
    gradient = importlib.import_module("snntorch.surrogate").atan(alpha=peer.ops.slope)
    return leaky(beta=decay, threshold=threshold, spike_grad=gradient).to(peer.readout.weight.device)


def norse(peer: Holder, decay: float, threshold: float) -> Cell:
    """Return Norse's LIF without synaptic current, with its own surrogate; gradients pass through its reset.

    It scales the input by 1 - decay; the threshold is scaled by the same factor, so that it spikes at the same times as the others.
    """
    lif_box = importlib.import_module("norse.torch.functional.lif_box")
    reset = importlib.import_module("norse.torch.functional.reset").reset_subtract
    gain, state = 1.0 - decay, lif_box.LIFBoxFeedForwardState
    slope = torch.tensor(peer.ops.slope / gain, device=peer.readout.weight.device)
    settings = lif_box.LIFBoxParameters(gain, 0.0, gain * threshold, 0.0, "super", slope, reset)

    def cell(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        spikes, new = lif_box.lif_box_feed_forward_step(x, state(v), settings, 1.0)
        return spikes, new.v

    return cell


def norse_adaptive(
    peer: Holder, decay: float, threshold: float, decay_adaptation: float, adaptation: float
) -> Cell:
    """Return Norse's adaptive LIF, the neuron of its LSNNRecurrentCell; its current arrives one step later and lasts one step.

    LSNNRecurrentCell itself multiplies its input in every step, which is slower than a precomputed current. Potentials are scaled as in
    `norse`; a spike resets them to 0. The initial state is a tensor of zeros.
    """
    lsnn = importlib.import_module("norse.torch.functional.lsnn")
    gain, state = 1.0 - decay, lsnn.LSNNFeedForwardState
    slope = torch.tensor(peer.ops.slope / gain, device=peer.readout.weight.device)
    settings = lsnn.LSNNParameters(
        1.0, gain, 1.0 - decay_adaptation, 0.0, gain * threshold, 0.0, gain * adaptation, "super", slope
    )

    def cell(x: Tensor, before: Any) -> tuple[Tensor, Any]:
        if isinstance(before, Tensor):
            before = state(before, before, before + gain * threshold)
        return lsnn.lsnn_feed_forward_step(x, before, settings, 1.0)

    return cell
