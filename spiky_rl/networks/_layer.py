"""A layer: a connection, a neuron with its parameters, and optionally a connection among its neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.options import OptionInfo
from spiky_rl.connections._quantization import WeightQuantizer
from spiky_rl.connections.base import Connection, IntraLayerConnection
from spiky_rl.kernels import dispatch, operators
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.launch import NeuronRun, RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack import StackStage
from spiky_rl.networks.base import SpikeChannel
from spiky_rl.neurons.base import Neuron, is_time_constant


class NeuronParameters(torch.nn.Module):
    """Parameters of a layer's neurons: a number for all neurons, or one learned value per neuron.

    A learned parameter with a positive lower bound is stored as its logarithm. Values are clamped to their range when they are
    read, with a gradient that leads back into it. A time constant enters the step as its decay exp(-dt/tau); with ``spread`` the
    neurons' initial time constants differ.

    Source: Perez-Nieves et al. (2021), neural heterogeneity promotes robust learning, for different initial time constants.
    """

    def __init__(self, neuron: Neuron, width: int) -> None:
        super().__init__()
        self.neuron = neuron
        for name in neuron.learn:
            param = neuron.params[name]
            values = torch.full((width,), neuron.chosen[name], dtype=torch.float64)
            if is_time_constant(param) and neuron.spread > 1:
                values *= neuron.spread ** torch.empty_like(values).uniform_(-1.0, 1.0)
            stored = values.log() if _is_positive(param) else values
            self.register_parameter(name, torch.nn.Parameter(stored.to(torch.get_default_dtype())))

    def forward(self) -> tuple[Tensor | float, ...]:
        """Return the values for the step, in the order of ``neuron.params``: numbers or [N] tensors."""
        values: list[Tensor | float] = []
        for name, param in self.neuron.params.items():
            if name in self.neuron.learn:
                value = self._clamp_to_range(name, param)
                values.append(torch.exp(-self.neuron.dt / value) if is_time_constant(param) else value)
            else:
                values.append(self.neuron.get_step_value(name))
        return tuple(values)

    def _clamp_to_range(self, name: str, param: OptionInfo) -> Tensor:
        stored, (low, high) = getattr(self, name), self.neuron.get_parameter_range(name)
        if _is_positive(param):
            return _clamp(stored, math.log(low), math.log(high)).exp()
        return _clamp(stored, low, high)


def _clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Return the clamped ``x``; a trace gets torch's own operation, since TorchScript cannot save a call of a Python function."""
    is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return x.clamp(low, high) if is_tracing else _Clamp.apply(x, low, high)  # type: ignore[return-value]


class _Clamp(torch.autograd.Function):
    """Clamp whose gradient is zero only for values out of the range that descent would move further away: others can return."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        clamped = x.clamp(low, high)
        ctx.save_for_backward(x - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (excess,) = ctx.saved_tensors  # below 0 under the range
        return grad[0].masked_fill(excess * grad[0] < 0.0, 0.0), None, None


class SpikingLayer(torch.nn.Module):
    """Connection and neuron, run over time by a kernel backend."""

    def __init__(
        self,
        connection: Connection,
        neuron: Neuron,
        recurrent: IntraLayerConnection | None,
        backend: str,
        binary: bool,
        bfloat16: bool,
        recompute: bool,
        rule: Any,
    ) -> None:
        """Build the layer.

        Args:
            connection: Signal [..., C] -> current [..., N].
            recurrent: Connection from the layer's own spikes to its current, or None.
            binary: Whether the signal is 0 or 1.
            bfloat16: Whether the gradient of the signal may be computed in bfloat16.
            recompute: Whether the forward pass keeps only the signal (one bit per event if it is binary) and the backward pass
                runs the layer again.
            rule: Learning rule, which may change the gradients; a `spiky_rl.learning.base.LearningRule`, which this package may not import.
        """
        super().__init__()
        # object.__setattr__ does not register the rule as a submodule: the network owns it and saves it once
        object.__setattr__(self, "rule", rule)
        self.rule: Any
        self.connection = connection
        self.neuron = neuron
        self.recurrent = recurrent
        self.width = connection.width
        self.parameters_of_neuron = NeuronParameters(neuron, self.width)
        self.loop: RecurrentFeedback | None = None
        """Delays and states of the recurrent connection; None without one."""
        self.states = len(neuron.states)
        """Number of state tensors [B, N]: the neuron's, then those of the recurrent connection."""
        if recurrent:
            self.loop = RecurrentFeedback(recurrent.delays, binary=not neuron.graded, cut=rule.cut_recurrent)
            self.states += self.loop.states
        self.channel: SpikeChannel | None = None
        """Function applied to the output, or None."""
        self.backend, self.binary = backend, binary
        self.bfloat16_gradient, self.recompute = bfloat16, recompute

    def forward(
        self,
        ops: TorchOps,
        signal: Tensor,
        steps: int,
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
        recorded_potentials: list[Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the layer over time; return the output [T, K, B, N] and the states after the last step.

        Args:
            ops: Functions for the neuron's step.
            signal: [T, K or 1, B, C].
            steps: K.
            state: Tensors [B, N] before the first step; None to start from zero and return no state.
            keep: [T, B]; 0 where an episode begins with this step.
            recorded_potentials: List to which the neuron's first state is appended after every inner step, or None.
        """
        is_stateful = state is not None
        # taken before `run`, which a recomputed layer calls again in the backward pass
        on_layer_output = self.rule.get_output_hook() if self.rule.has_hooks else None

        def run(signal: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            rule_input = self.rule.on_layer_input(signal) if self.rule.has_hooks else signal
            current = self.connection(rule_input, self.backend, self.binary, self.bfloat16_gradient)
            neuron_run = NeuronRun(
                self.neuron,
                ops,
                current,
                steps,
                state=states if is_stateful else None,
                params=self.parameters_of_neuron(),
                keep=keep,
                trace=recorded_potentials,
                feedback=self.loop,
                synapses=None if self.recurrent is None else self.recurrent.synapses(),
            )
            output, new = run_neuron(self.backend, self.channel, neuron_run)
            if on_layer_output is not None:
                output = on_layer_output(self, signal, current, output, keep)
            return output, *new

        old_states = state or ()
        if self.recompute and recorded_potentials is None and torch.is_grad_enabled():
            # soft spikes do not fit into bits
            is_binary = self.binary and not ops.soft_spike
            output, *new = self._run_with_recomputation(run, is_binary, signal, *old_states)
        else:
            output, *new = run(signal, *old_states)
        return output, tuple(new)

    def _run_with_recomputation(
        self, run: Callable[..., tuple[Tensor, ...]], is_binary: bool, signal: Tensor, *states: Tensor
    ) -> tuple[Tensor, ...]:
        """Return ``run(signal, *states)`` and keep only its inputs for the backward pass, which runs it again.

        If the signal ``is_binary``, one bit per event is kept. The backward pass raises RuntimeError if the layer's parameters are
        other tensors than in the forward pass.
        """
        if dispatch.is_traced():
            # a tracer can only follow torch's own checkpointing, which keeps floats
            return checkpoint(run, signal, *states, use_reentrant=False)  # type: ignore[return-value]
        packs = dispatch.choose_backend(self.backend, signal) if is_binary else None
        learned = tuple(self.parameters())
        return _Recomputation.apply(run, packs, self.parameters, learned, signal, *states, *learned)  # type: ignore[return-value]

    def make_stage(self) -> StackStage:
        """Return the layer as a stage for backends that run all layers in one call."""
        return StackStage(
            map=self.connection,
            neuron=self.neuron,
            parameters=self.parameters_of_neuron,
            ops=None,
            binary=self.binary,
            feedback=self.loop,
            synapses=None if self.recurrent is None else self.recurrent.synapses,
        )

    def fan_out(self, reader: Connection | Decoder) -> float:
        """Return the mean number of synapses that an output event reaches: in the layer and in ``reader``, which gets the output."""
        events = torch.ones(1, 1, 1, self.width)
        recurrent = 0.0 if self.recurrent is None else float(self.recurrent.operations(events).sum())
        return (float(reader.operations(events).sum()) + recurrent) / self.width

    def operations(self, signal: Tensor, output: Tensor, stateful: bool) -> Tensor:
        """Count effective operations [T, B] of the connections for ``signal`` [T, K or 1, B, C] and ``output`` [T, K, B, N].

        ``stateful`` says whether the network is: if not, a control step's end drops spikes that have not arrived.
        """
        total = self.connection.operations(signal).sum(1)
        if self.recurrent is None:
            return total
        arrivals = self.recurrent.count_arrivals(output.shape[1], stateful)
        return total + ((output != 0) * arrivals.unsqueeze(1)).sum((1, 3))


class _Recomputation(torch.autograd.Function):
    """``run(signal, *others)`` that saves only its inputs; the last of the others are the ``learned`` parameters, which ``run`` reads."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., tuple[Tensor, ...]],
        packs: Backend | None,
        list_parameters: Callable[[], Iterable[Tensor]],
        learned: tuple[Tensor, ...],
        signal: Tensor,
        *others: Tensor,
    ) -> Any:
        ctx.run, ctx.packs, ctx.list_parameters, ctx.learned = run, packs, list_parameters, learned
        ctx.shape, ctx.dtype, device = signal.shape, signal.dtype, signal.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        saved = signal if packs is None else packs.pack(signal.reshape(-1, signal.shape[-1]))
        ctx.save_for_backward(saved, *others)
        return run(signal, *others[: len(others) - len(learned)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        operators.refuse_second_derivative()
        if [*map(id, ctx.learned)] != [*map(id, ctx.list_parameters())]:
            raise RuntimeError(
                "recompute: the layer's parameters were replaced after the forward pass, as torch.func.functional_call does; use"
                " recompute: false"
            )
        saved, *others = ctx.saved_tensors
        signal = saved
        if ctx.packs is not None:
            signal = ctx.packs.unpack(saved, ctx.shape[-1]).view(ctx.shape).to(ctx.dtype)
        count = len(others) - len(ctx.learned)
        inputs = [x.detach().requires_grad_() for x in (signal, *others[:count])]
        wanted = [*inputs, *others[count:]]
        needs = ctx.needs_input_grad[4:]
        inputs[0].requires_grad_(needs[0])
        # torch runs a backward pass outside of the forward pass's autocast
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            outputs = ctx.run(*inputs)
        # a rule may cut the gradient of an output, as e-prop does of the spikes that a recurrent layer carries on
        differentiable = [(y, grad) for y, grad in zip(outputs, grads, strict=True) if y.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                [y for y, _ in differentiable],
                [x for x, need in zip(wanted, needs, strict=True) if need],
                [grad for _, grad in differentiable],
                allow_unused=True,
            )
        )
        return None, None, None, None, *(next(gradients) if need else None for need in needs)


def quantize_weights(layers: Sequence[SpikingLayer], decoder: Decoder) -> None:
    """Round the weights of ``layers`` and ``decoder`` from now on, with a common scale for weights to the same neuron."""
    for layer in layers:
        links: list[Any] = [link for link in (layer.connection, layer.recurrent) if link is not None]
        quantiser = WeightQuantizer(*(link.unrounded_weights for link in links))
        for link in links:
            link.quantiser = quantiser
    decoder.quantiser = WeightQuantizer(decoder.unrounded_weights)


def run_neuron(
    backend: str, channel: SpikeChannel | None, run: NeuronRun
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Call `dispatch.run_neuron`; apply ``channel`` to the output, and to recurrent spikes before they return to the layer."""
    if channel is None or run.feedback is None:
        output, new = dispatch.run_neuron(backend, run)
        return output if channel is None else channel(output), new
    current, state = run.current, run.state
    if current.shape[0] != 1:
        raise ValueError(
            f"a recurrent layer with a spike channel needs one control step per call, not {current.shape[0]}"
        )
    # the loop's states follow the neuron's, and the first one is the latest output
    latest_output = len(run.neuron.states)
    if state is None:
        state = (current.new_zeros(current.shape[2:]),) * (latest_output + run.feedback.states)
    outputs = []
    for k in range(run.steps):
        step_current = current[:, min(k, current.shape[1] - 1)].unsqueeze(1)
        step_keep = run.keep if k == 0 else None
        step = run._replace(current=step_current, steps=1, state=state, keep=step_keep)
        output, new = dispatch.run_neuron(backend, step)
        output = channel(output)
        outputs.append(output)
        state = (*new[:latest_output], output[0, 0], *new[latest_output + 1 :])
    return torch.cat(outputs, 1), () if run.state is None else state


def _is_positive(param: OptionInfo) -> bool:
    return param.low is not None and param.low > 0
