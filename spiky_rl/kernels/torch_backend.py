"""Torch backend: the reference. Runs everywhere torch does; autograd gives the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from spiky_rl.kernels.feedback import Feedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron


def available() -> str | None:
    """None: this backend runs; else the reason why not, with the remedy."""
    return None


def unroll(
    neuron: Neuron,
    ops: TorchOps,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None = None,
    trace: list[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a neuron over T environment steps of K inner steps each.

    Args:
        neuron: Whose step is run.
        ops: The surrogate, its slope, and whether spikes are soft.
        current: [T, K, B, N], or [T, 1, B, N]: constant over the environment step.
        steps: K.
        state: One [B, N] tensor per state, before the first step. Never written to. None: rest, and no state comes out.
        params: The neuron's parameters in the order of its ``params``: numbers or [N] tensors.
        keep: [T, B]; 0 where the environment starts a new episode with this step: its states start from rest.
        trace: If given, gets the first state after every step, [B, N] each.

    Returns:
        Outputs [T, K, B, N] and the states after the last step.
    """
    outputs, carried = [], state is not None
    named, values = neuron.named_states, neuron.named_params(*params)
    if state is None:
        state = tuple(torch.zeros_like(current[0, 0]) for _ in neuron.states)
    for t in range(current.shape[0]):
        if keep is not None:
            state = tuple(s * keep[t].unsqueeze(-1) for s in state)
        for k in range(steps):
            drive = current[t, k if current.shape[1] > 1 else 0]
            output, state = neuron.step(ops, drive, named(*state), values)
            outputs.append(output)
            if trace is not None:
                trace.append(state[0])
    return torch.stack(outputs).view(current.shape[0], steps, *current.shape[2:]), state if carried else ()


def recurrent(
    neuron: Neuron,
    ops: TorchOps,
    feedback: Feedback,
    synapses: Tensor,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None = None,
    trace: list[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `unroll`, with the layer's own output returned into its current by ``synapses`` [D N, N].

    ``state`` has the neuron's states, then those of the ``feedback``.
    """
    count, D, outputs = len(neuron.states), feedback.delays, []
    named, values = neuron.named_states, neuron.named_params(*params)
    rest = torch.zeros_like(current[0, 0])
    states = (rest,) * (count + feedback.states) if state is None else state
    for t in range(current.shape[0]):
        if keep is not None:
            states = tuple(s * keep[t].unsqueeze(-1) for s in states)
        for k in range(steps):
            own, past, arrived = states[:count], states[count : count + D], states[count + D :]
            arriving = torch.cat(past, -1) @ synapses
            if feedback.decay is not None:
                arriving = feedback.decay * arrived[0] + arriving
                arrived = (arriving,)
            drive = current[t, k if current.shape[1] > 1 else 0] + arriving
            output, own = neuron.step(ops, drive, named(*own), values)
            outputs.append(output)
            if trace is not None:
                trace.append(own[0])
            states = (*own, output.detach() if feedback.cut else output, *past[:-1], *arrived)
    found = torch.stack(outputs).view(current.shape[0], steps, *current.shape[2:])
    return found, () if state is None else states
