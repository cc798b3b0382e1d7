"""The LIF of other libraries, each in the form in which it is fastest: what ``bench.py`` runs beside ours.

Each function takes the contender that holds the weights, and the neuron's decay and threshold, and returns the library's cell:
over whole sequences of currents, or for one step where the library has nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.cli.contenders import Copy

Cell = Callable[..., Any]


def spikingjelly(peer: Copy, decay: float, threshold: float) -> Cell:
    """SpikingJelly's LIF in its multi-step, state-in form; the device decides what runs it (Triton on GPUs)."""
    from spikingjelly.activation_based import functional, surrogate

    settings = (1.0 / (1.0 - decay), False, threshold, None, surrogate.ATan(alpha=peer.ops.slope), True)
    return lambda x: functional.lif_multi_step(x, torch.zeros_like(x[0]), *settings)[0]


def sinabs(peer: Copy, decay: float, threshold: float) -> Cell:
    """sinabs' LIF over time with at most one spike per step, and our surrogate; gradients pass through its reset."""
    activation = importlib.import_module("sinabs.activation")
    lif, ops = importlib.import_module("sinabs.layers.functional").lif_forward, peer.ops

    def derivative(v: Tensor, threshold: float) -> Tensor:
        return ops.surrogate.derivative(ops, v - threshold, ops.slope)

    settings = (threshold, activation.SingleSpike, activation.MembraneSubtract(), derivative, None, False)
    return lambda x: lif(x, decay, None, {"v_mem": torch.zeros_like(x[:, 0])}, *settings)[0]


def snntorch(peer: Copy, decay: float, threshold: float) -> Cell:
    """snnTorch's Leaky with its own dynamics: it resets one step later than all others."""
    leaky = importlib.import_module("snntorch").Leaky
    gradient = importlib.import_module("snntorch.surrogate").atan(alpha=peer.ops.slope)
    return leaky(beta=decay, threshold=threshold, spike_grad=gradient).to(peer.readout.weight.device)


def norse(peer: Copy, decay: float, threshold: float) -> Cell:
    """Norse's LIF without synaptic current, with its own surrogate; gradients pass through its reset.

    It scales the input by 1 - decay; the threshold is scaled likewise, so that it spikes where the others do.
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
