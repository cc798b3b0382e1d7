"""Torch: the reference. It supports everything, on every device of torch; autograd computes the gradient."""

from __future__ import annotations

import math
from typing import override

import torch
from torch import Tensor
from torch.nn import functional

from spiky_rl.kernels.backends.base import Backend, Geometry
from spiky_rl.kernels.launch import NeuronRun
from spiky_rl.kernels.ops import get_reference_step
from spiky_rl.kernels.programs import count_words


class Torch(Backend):
    """The reference: runs each neuron step by step, and each map with torch's own functions."""

    @override
    def run_neuron(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        neuron, ops, current, steps, state, params, keep, trace, loop, synapses = run
        step, named, values = get_reference_step(neuron), neuron.named_states, neuron.named_params(*params)
        count, outputs = len(neuron.states), []
        delays, loop_states = (0, 0) if loop is None else (loop.delays, loop.states)
        states = (torch.zeros_like(current[0, 0]),) * (count + loop_states) if state is None else state
        for t in range(current.shape[0]):
            if keep is not None:
                states = tuple(s * keep[t].unsqueeze(-1) for s in states)
            for k in range(steps):
                own, past, filtered = states[:count], states[count : count + delays], states[count + delays :]
                drive = current[t, k if current.shape[1] > 1 else 0]
                if loop is not None and synapses is not None:
                    synaptic_current = torch.cat(past, -1) @ synapses
                    if loop.decay is not None:
                        synaptic_current = loop.decay * filtered[0] + synaptic_current
                        filtered = (synaptic_current,)
                    drive = drive + synaptic_current
                output, own = step(ops, drive, named(*own), values)
                outputs.append(output)
                if trace is not None:
                    trace.append(own[0])
                if loop is not None:
                    past = (output.detach() if loop.cut else output, *past[:-1])
                states = (*own, *past, *filtered)
        whole = torch.stack(outputs).view(current.shape[0], steps, *current.shape[2:])
        return whole, () if state is None else states

    @override
    def run_recurrent(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.run_neuron(run)

    @override
    def stack(self, stages: object, bfloat16: bool, recompute: bool) -> None:
        return None  # the reference runs one layer after the other

    @override
    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        return functional.linear(x, weight, bias)

    @override
    def convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        geometry: Geometry,
        binary: bool = False,
        bfloat16: bool = False,
    ) -> Tensor:
        maps, stride, padding, pool = geometry
        current = functional.conv2d(x.reshape(-1, *maps), weight, bias, stride, padding)
        pooled = functional.max_pool2d(current, pool)
        # not -1, which is unknown for no samples
        return pooled.reshape(*x.shape[:-1], math.prod(pooled.shape[1:]))

    @override
    def pack(self, x: Tensor) -> Tensor:
        count = count_words(x.shape[1])
        padded = functional.pad(x != 0, (0, count * 64 - x.shape[1]))
        place = torch.arange(64, device=x.device)
        return (padded.view(-1, count, 64).long() << place).sum(-1)

    @override
    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        place = torch.arange(64, device=bits.device)
        return ((bits.unsqueeze(-1) >> place) & 1).flatten(1)[:, :inputs].float()
