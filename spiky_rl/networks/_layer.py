"""A layer: a connection, a neuron with the parameters that its step takes, and connections among its neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.options import OptionInfo
from spiky_rl.connections._quantised import WeightQuantizer
from spiky_rl.connections.base import Connection, IntraLayerConnection
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.checkpointing import run_with_recomputation
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack import StackStage
from spiky_rl.networks.base import SpikeChannel
from spiky_rl.neurons.base import Neuron, is_time_constant

LARGEST = 1e9
"""Upper bound of a learned parameter that declares none: beyond it float32 overflows on the way."""


class NeuronParameters(torch.nn.Module):
    """A neuron's parameters: numbers, or learned values per neuron.

    A learned parameter is stored as its logarithm where it must be positive, and read within its range, so no step of the
    optimiser leaves it; a time constant enters the step as its decay exp(-dt/tau). With ``spread`` time constants start apart.

    Source: Perez-Nieves et al. (2021), neural heterogeneity promotes robust learning, for time constants that differ from the start.
    """

    def __init__(self, neuron: Neuron, width: int) -> None:
        super().__init__()
        self.neuron = neuron
        for name in neuron.learn:
            param = neuron.params[name]
            values = torch.full((width,), neuron.chosen[name], dtype=torch.float64)
            if is_time_constant(param) and neuron.spread > 1:
                values *= neuron.spread ** torch.empty_like(values).uniform_(-1.0, 1.0)
            stored = values.log() if _positive(param) else values
            self.register_parameter(name, torch.nn.Parameter(stored.to(torch.get_default_dtype())))

    def forward(self) -> tuple[Tensor | float, ...]:
        """The values as the step takes them, in the order of ``neuron.params``: numbers or [N] tensors."""
        values: list[Tensor | float] = []
        for name, param in self.neuron.params.items():
            if name in self.neuron.learn:
                value = self._in_range(name, param)
                values.append(torch.exp(-self.neuron.dt / value) if is_time_constant(param) else value)
            else:
                values.append(self.neuron.get_step_value(name))
        return tuple(values)

    def _in_range(self, name: str, param: OptionInfo) -> Tensor:
        stored, (low, high) = self.get_parameter(name), self.neuron.get_parameter_range(name)
        if _positive(param):
            top = LARGEST if high is None else high
            return stored.clamp(math.log(low or 1.0), math.log(top)).exp()
        return stored if low is None and high is None else stored.clamp(low, high)


class LayerRule(Protocol):
    """Interface of learning rules that a layer uses; see `spiky_rl.learning.base.LearningRule`."""

    plain: bool
    cut_recurrent: bool

    def on_layer_input(self, signal: Tensor, /) -> Tensor: ...

    def on_layer_output(
        self, layer: SpikingLayer, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None, /
    ) -> Tensor: ...


class SpikingLayer(torch.nn.Module):
    """Connection -> neuron, run over time by a backend."""

    def __init__(
        self,
        connection: Connection,
        neuron: Neuron,
        recurrent: IntraLayerConnection | None,
        backend: str,
        binary: bool,
        bfloat16: bool,
        recompute: bool,
        rule: LayerRule,
    ) -> None:
        """Join a connection, a neuron and what runs them.

        Args:
            connection: Signal [..., C] -> current [..., N].
            neuron: Run over time.
            recurrent: The layer's own spikes -> a part of its current, if it has such a connection.
            backend: What runs connection and neuron.
            binary: The signal is 0 or 1.
            bfloat16: The gradient of the signal may be computed in bfloat16.
            recompute: Keep of the forward pass only the signal (one bit per event where it is binary), and run the layer
                again in the backward pass.
            rule: What becomes of errors on their way back; see `spiky_rl.learning.base`.
        """
        super().__init__()
        object.__setattr__(self, "rule", rule)  # the network's, not this layer's: saved once
        self.rule: LayerRule
        self.connection = connection
        self.neuron = neuron
        self.recurrent = recurrent
        self.width = connection.width
        self.parameters_of_neuron = NeuronParameters(neuron, self.width)
        self.loop = (
            RecurrentFeedback(recurrent.delays, binary=not neuron.graded, cut=rule.cut_recurrent)
            if recurrent
            else None
        )
        self.states = len(neuron.states) + (self.loop.states if self.loop else 0)
        """Tensors [B, N] of state: the neuron's, then the feedback's."""
        self.channel: SpikeChannel | None = None
        """What the output passes through; None: it arrives as it is."""
        self.backend, self.binary, self.bfloat16_gradient, self.recompute = (
            backend,
            binary,
            bfloat16,
            recompute,
        )

    def forward(
        self,
        ops: TorchOps,
        signal: Tensor,
        steps: int,
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
        trace: list[Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run over time.

        Args:
            ops: The vocabulary that the neuron runs on.
            signal: [T, K or 1, B, C].
            steps: K.
            state: [B, N] each, before the first step; None: from rest, and no state comes out.
            keep: [T, B]; 0 where an episode begins with this step.
            trace: Gets the first state after every inner step, if given.

        Returns:
            The output [T, K, B, N], and the states after the last step.
        """

        def run(signal: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            seen = signal if self.rule.plain else self.rule.on_layer_input(signal)
            current = self.connection(seen, self.backend, self.binary, self.bfloat16_gradient)
            within = None if self.recurrent is None else self.recurrent.synapses()
            output, new = run_neuron(
                *(self.backend, self.channel, self.neuron, ops, current, steps),
                *(state if carried else None, self.parameters_of_neuron(), keep, trace, self.loop, within),
            )
            if not self.rule.plain:
                output = self.rule.on_layer_output(self, signal, current, output, keep)
            return output, *new

        carried = state is not None
        if self.recompute and trace is None and torch.is_grad_enabled():
            given = (tuple(self.parameters()), signal, *(state or ()))
            output, *new = run_with_recomputation(run, self.backend, self.binary, *given)
        else:
            output, *new = run(signal, *(state or ()))
        return output, tuple(new)

    def make_stage(self) -> StackStage:
        """As a backend takes it that runs all layers in one call."""
        return StackStage(
            *(self.connection, self.neuron, self.parameters_of_neuron, None, self.binary),
            feedback=self.loop,
            synapses=None if self.recurrent is None else self.recurrent.synapses,
        )

    def fan_out(self, reader: Connection | Decoder) -> float:
        """Synapses that one of this layer's events reaches, on the mean; ``reader``: the next layer's connection, or the decoder."""
        events = torch.ones(1, 1, 1, self.width)
        within = 0.0 if self.recurrent is None else float(self.recurrent.operations(events).sum())
        return (float(reader.operations(events).sum()) + within) / self.width

    def operations(self, signal: Tensor, output: Tensor) -> Tensor:
        """Effective operations of the connections for ``signal`` [T, K or 1, B, C] and ``output`` [T, K, B, N]: [T, B]."""
        total = self.connection.operations(signal).sum(1)
        return total if self.recurrent is None else total + self.recurrent.operations(output).sum(1)


def has_trainable_parameters(*modules: torch.nn.Module) -> bool:
    """Whether a gradient changes anything in these ``modules``."""
    return any(p.requires_grad for module in modules for p in module.parameters())


def quantize_weights(layers: Sequence[SpikingLayer], decoder: Decoder) -> None:
    """Round the weights of ``layers`` and ``decoder`` from now on, those that lead to the same neurons in the same unit."""
    for layer in layers:
        links = [layer.connection, *([] if layer.recurrent is None else [layer.recurrent])]
        quantiser = WeightQuantizer(*(link.unrounded_weights for link in links))
        for link in links:
            link.quantiser = quantiser
    decoder.quantiser = WeightQuantizer(decoder.unrounded_weights)


def run_neuron(
    backend: str,
    channel: SpikeChannel | None,
    neuron: Neuron,
    ops: TorchOps,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None,
    trace: list[Tensor] | None,
    loop: RecurrentFeedback | None,
    synapses: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`dispatch.unroll`, with a channel that the output passes through: before it returns, in every inner step.

    Args:
        channel: None: the output stays as it is.
        loop: `dispatch.unroll`'s ``feedback``; the other arguments are its own, too.
    """
    if channel is None or loop is None:
        output, new = dispatch.unroll(
            *(backend, neuron, ops, current, steps, state, params, keep, trace, loop, synapses)
        )
        return output if channel is None else channel(output), new
    if current.shape[0] != 1:
        raise ValueError(
            f"a disturbed recurrent layer takes one control step at a time, not {current.shape[0]}"
        )
    latest, outputs, carried = len(neuron.states), [], state is not None
    if state is None:
        state = (current.new_zeros(current.shape[2:]),) * (latest + loop.states)
    for k in range(steps):
        part = current[:, min(k, current.shape[1] - 1)].unsqueeze(1)
        output, new = dispatch.unroll(
            *(backend, neuron, ops, part, 1, state, params, keep if k == 0 else None, trace, loop, synapses)
        )
        output = channel(output)
        outputs.append(output)
        state = (*new[:latest], output[0, 0], *new[latest + 1 :])
    return torch.cat(outputs, 1), state if carried else ()


def _positive(param: OptionInfo) -> bool:
    return param.low is not None and param.low > 0
