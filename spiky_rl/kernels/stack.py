"""A stack of linear maps and neurons that runs in one call: a feed-forward network on the CPU.

It runs the same kernels as layer by layer, so the bits are the same. But a few samples pass through the whole stack before the
next ones: signals between two layers stay in the cache, and a rollout step of one environment is one call into C.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import operators, programs, structures
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.structures import LayerStruct
from spiky_rl.neurons.base import Neuron

_PER_STAGE = 5
"""Number of tensors per stage that may have a gradient."""


@dataclass(frozen=True)
class StackStage:
    """One layer of a stack."""

    map: Any
    """The linear map, with ``in_features``, ``out_features``, ``weight`` and ``bias``."""
    neuron: Neuron
    parameters: Callable[[], tuple[Tensor | float, ...]]
    """Returns the neuron's parameters in the form that its step takes."""
    ops: TorchOps | None
    """Op vocabulary of this layer; None to use the network's."""
    binary: bool
    """Whether the input is 0 or 1."""
    biased: bool = True
    """Whether the map's bias is part of the current."""
    output_major: bool = False
    """Whether the map's weight is [N, C], as in torch, instead of [C, N]."""
    feedback: RecurrentFeedback | None = None
    """Settings of the recurrent loop, None without one."""
    synapses: Callable[[], Tensor] | None = None
    """Returns the weights of the recurrent loop, [D N, N]."""

    @property
    def masked(self) -> bool:
        """Whether a mask applies to the map's weights."""
        return getattr(self.map, "mask", None) is not None

    @property
    def weight(self) -> Tensor:
        """The effective weights, after the mask."""
        return self.map.synapses() if self.masked else self.map.weight

    @property
    def states(self) -> int:
        """Number of state tensors [B, N]."""
        return len(self.neuron.states) + (self.feedback.states if self.feedback else 0)


class LayerStack:
    """Layers that run together, and the C structures that stay the same from call to call.

    Args:
        core: The compiled kernels that do not depend on a neuron.
        load_kernels: Returns the compiled program of a neuron by its key.
        launches: Counts the calls, by name.
        stages: The layers, in order.
        bfloat16: Whether the gradients of signals are computed in bfloat16.
        recompute: Whether the backward pass computes the currents again.
    """

    def __init__(
        self,
        core: ctypes.CDLL,
        load_kernels: Callable[[str], ctypes.CDLL],
        launches: Counter[str],
        stages: Sequence[StackStage],
        bfloat16: bool,
        recompute: bool,
    ) -> None:
        self.core, self.load_kernels, self.launches, self.stages = core, load_kernels, launches, tuple(stages)
        self.bfloat16, self.recompute = bfloat16, recompute
        self.inputs = stages[0].map.in_features
        self.states = sum(stage.states for stage in stages)
        self.recurrent = any(stage.feedback for stage in stages)
        self.learned = any(stage.neuron.learn for stage in stages)
        self.events = all(stage.binary for stage in stages[1:])
        self._layers = (LayerStruct * len(stages))()
        self._stack = structures.StackStruct(layers=ctypes.addressof(self._layers), count=len(stages))
        self._forward = core.spiky_stack_forward
        self._maps: list[Any] = [
            stage.map._parameters for stage in stages
        ]  # pylint: disable=protected-access
        self._held: list[Any] = []
        self._seen: tuple[Any, ...] = ()

    @property
    def masked(self) -> bool:
        """Whether any stage has a mask."""
        return any(stage.masked for stage in self.stages)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a LayerStack cannot be copied or pickled; build a new one")

    def __call__(
        self,
        x: Tensor,
        steps: int,
        ops: TorchOps,
        states: Sequence[Tensor] | None,
        keep: Tensor | None,
        counted: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the last stage's output [T, K, B, N], the states [B, N] of all stages in order, and the rates of all but the last.

        Args:
            x: Signal [T, K or 1, B, C].
            steps: K.
            ops: The network's op vocabulary.
            states: States before the first step, [B, N] each. With None the run starts from the zero state and returns no states.
            keep: [T, B]; 0 where an episode begins with this step.
            counted: Whether to return rates: mean events per inner step, [N] per stage, with gradients. Possible only if every
                stage but the first reads binary signals.
        """
        if states is not None and len(states) < self.states:
            raise _make_shape_error("states", len(states), self.states)
        calls, tensors, rest = [], [], None if states is None else list(states)
        for stage in self.stages:
            own = stage.ops or ops
            calls.append(programs.prepare_call(stage.neuron, own, stage.parameters(), stage.map.out_features))
            count = stage.states
            state = None if rest is None else torch.stack(rest[:count]).to(x.dtype)
            rest = None if rest is None else rest[count:]
            tensors += [stage.weight, stage.map.bias if stage.biased else None, calls[-1].params, state]
            tensors.append(None if stage.synapses is None else stage.synapses())
        # read the gradient mode here: inside of the autograd function it is always off
        recorded = torch.is_grad_enabled()
        output, *found = _Run.apply(self, calls, steps, recorded, counted, x, keep, *tensors)  # type: ignore[misc]
        count = len(found) - (len(self.stages) - 1) * counted
        return output, [s for layer in found[:count] for s in layer.unbind(0)], found[count:]

    def run_last_step(self, x: Tensor, steps: int, ops: TorchOps, offset: Tensor) -> Tensor:
        """Return the output of the last stage's last inner step plus ``offset``: [T, B, N].

        This is the fast path of a rollout: it starts from the zero state and supports no gradients, learned neurons, masks or
        recurrence, so that the C structures are filled only once.

        Args:
            x: Signal [T, K or 1, B, C].
            steps: K.
            ops: The network's op vocabulary.
            offset: [N].
        """
        maps = self._maps
        seen = (ops.slope, *[m["weight"].data_ptr() for m in maps], *[m["bias"].data_ptr() for m in maps])
        if seen != self._seen:
            self._prepare(ops)
            # _prepare copies a weight that is not contiguous; the copy misses later changes, so prepare again in the next call
            self._seen = seen if all(m["weight"].is_contiguous() for m in maps) else ()
        x = x.contiguous()
        T, K, B, C = x.shape
        if C != self.inputs:
            raise _make_shape_error("channels", C, self.inputs)
        features = x.new_empty(T, B, offset.shape[0])
        if B == 0:
            return features
        stack = structures.StackStruct.from_buffer_copy(
            self._stack
        )  # a copy, because other threads may run the same network
        stack.x, stack.last_step, stack.offset = x.data_ptr(), features.data_ptr(), offset.data_ptr()
        stack.T, stack.K, stack.B = T, steps, B
        stack.constant, stack.threads = K == 1, torch.get_num_threads()
        if self._forward(ctypes.addressof(stack)):
            raise MemoryError(f"no memory to run {B} samples")
        self.launches["stack"] += 1
        return features

    def _prepare(self, ops: TorchOps) -> None:
        self._held = []
        for layer, stage in zip(self._layers, self.stages, strict=True):
            call = programs.prepare_call(
                stage.neuron, stage.ops or ops, stage.parameters(), stage.map.out_features
            )
            bias = stage.map.bias if stage.biased else None
            self._held.append(
                _fill(self.load_kernels, layer, stage, call, stage.map.weight, bias, None, None)
            )


def _fill(
    load_kernels: Callable[[str], ctypes.CDLL],
    layer: LayerStruct,
    stage: StackStage,
    call: programs.NeuronCall,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    synapses: Tensor | None,
) -> list[Any]:
    """Fill the layer's input fields; return the objects that must stay alive while the layer runs."""
    operators.check_weight(weight)
    library = load_kernels(call.key)
    numbers = (ctypes.c_float * max(1, len(call.uniforms)))(*call.uniforms)
    weight = weight.detach().contiguous()
    params = None if call.params is None else call.params.detach().contiguous()
    layer.weight, layer.bias = weight.data_ptr(), _get_pointer(bias)
    layer.params, layer.state, layer.uniforms = (
        _get_pointer(params),
        _get_pointer(state),
        ctypes.addressof(numbers),
    )
    layer.forward = ctypes.cast(library.spiky_forward, ctypes.c_void_p).value
    layer.backward = ctypes.cast(library.spiky_backward, ctypes.c_void_p).value
    layer.N, layer.C = stage.map.out_features, stage.map.in_features
    layer.states, layer.parameters = len(stage.neuron.states), 0 if params is None else params.shape[0]
    layer.binary, layer.output_major = stage.binary, stage.output_major
    if stage.feedback is not None and synapses is not None:
        synapses = synapses.detach().contiguous()
        layer.within.fill(stage.feedback, synapses)
    return [numbers, weight, params, state, bias, synapses]


def _make_shape_error(name: str, given: int, expected: int) -> ValueError:
    return ValueError(f"{name}: {given} given; expected: {expected}")


def _get_pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _compute_rates(core: ctypes.CDLL, bits: Tensor, neurons: int, like: Tensor) -> Tensor:
    """Return the mean number of events [N] in ``bits`` [T, K, B, words]."""
    counts, rows = torch.zeros(neurons, dtype=torch.long), bits.shape[0] * bits.shape[1] * bits.shape[2]
    core.spiky_count(bits.data_ptr(), counts.data_ptr(), rows, neurons)
    return (counts.double() / max(rows, 1)).to(like)


class _Run(torch.autograd.Function):
    """A call of the stack with states and gradients; tensors per stage: weight, bias, params, state, synapses."""

    @staticmethod
    def forward(
        ctx: Any,
        stack: LayerStack,
        calls: Sequence[programs.NeuronCall],
        steps: int,
        recorded: bool,
        counted: bool,
        x: Tensor,
        keep: Tensor | None,
        *tensors: Any,
    ) -> Any:
        x = x.contiguous()
        keep = None if keep is None else keep.to(x.dtype).contiguous()
        T, K, B, C = x.shape
        if C != stack.inputs:
            raise _make_shape_error("channels", C, stack.inputs)
        wanted = recorded and any(ctx.needs_input_grad)
        output = x.new_empty(T, steps, B, stack.stages[-1].map.out_features)
        layers, held, last, signals, currents = (LayerStruct * len(calls))(), [], [], [], []
        for i, (layer, stage, call) in enumerate(zip(layers, stack.stages, calls, strict=True)):
            weight, bias, params, state, synapses = tensors[_PER_STAGE * i : _PER_STAGE * (i + 1)]
            operators.check_shapes(T, B, stage.map.out_features, state, params, keep, stage.states)
            state = None if state is None else state.contiguous()
            held.append(_fill(stack.load_kernels, layer, stage, call, weight, bias, state, synapses))
            inner = K if i == 0 else steps
            if state is not None:
                last.append(torch.empty_like(state))
                layer.last = last[-1].data_ptr()
            C = stage.map.in_features
            if stage.binary:
                kept = wanted or (counted and i > 0)
                words = x.new_empty(T, inner, B, programs.count_words(C), dtype=torch.int64) if kept else None
                signals.append(words)
                layer.bits = _get_pointer(signals[-1])
            else:
                signals.append(x.new_empty(T, inner, B, C) if wanted and i > 0 else None)
                layer.input = _get_pointer(signals[-1])
            # a first current that is constant over the control step is cheap to compute again
            saves = wanted and not stack.recompute and not (i == 0 and K == 1 and stage.feedback is None)
            shape = (T, inner if stage.feedback is None else steps, B, stage.map.out_features)
            currents.append(x.new_empty(shape) if saves else None)
            layer.current = _get_pointer(currents[-1])
        c = structures.StackStruct(
            *(ctypes.addressof(layers), x.data_ptr(), _get_pointer(keep), output.data_ptr()),
            count=len(calls),
            T=T,
            K=steps,
            B=B,
            constant=K == 1,
            threads=torch.get_num_threads(),
        )
        if B > 0 and stack.core.spiky_stack_forward(ctypes.addressof(c)):
            raise MemoryError(f"no memory to run {B} samples")
        stack.launches["stack"] += 1
        sent = zip(signals[1:], stack.stages[1:], strict=True) if counted else ()
        rates = [_compute_rates(stack.core, bits, stage.map.in_features, x) for bits, stage in sent]
        if wanted:
            ctx.set_materialize_grads(False)
            ctx.stack, ctx.calls, ctx.steps, ctx.count = stack, calls, steps, len(tensors)
            first = None if stack.stages[0].binary else x
            ctx.shape, ctx.states = x.shape, len(last)
            ctx.save_for_backward(first, keep, *tensors, *signals, *currents)
        return output, *last, *rates

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        operators.refuse_second_derivative()
        stack, calls, n = ctx.stack, ctx.calls, len(ctx.calls)
        x, keep, *saved = ctx.saved_tensors
        tensors, signals, currents = (
            saved[: ctx.count],
            saved[ctx.count : ctx.count + n],
            saved[ctx.count + n :],
        )
        grad_output, grad_last, grad_rates = grads[0], grads[1 : 1 + ctx.states], grads[1 + ctx.states :]
        T, K, B, _ = ctx.shape
        like = tensors[0]
        if grad_output is None:
            grad_output = like.new_zeros(T, ctx.steps, B, stack.stages[-1].map.out_features)
        grad_output = grad_output.contiguous()
        gradients: list[Tensor | None] = []
        layers, held = (LayerStruct * n)(), []
        for i, (layer, stage, call) in enumerate(zip(layers, stack.stages, calls, strict=True)):
            weight, bias, params, state, synapses = tensors[_PER_STAGE * i : _PER_STAGE * (i + 1)]
            state = None if state is None else state.contiguous()
            held.append(_fill(stack.load_kernels, layer, stage, call, weight, bias, state, synapses))
            setattr(layer, "bits" if stage.binary else "input", _get_pointer(signals[i]))
            layer.current = _get_pointer(currents[i])
            if state is not None and grad_last[i] is not None:
                held.append([grad_last[i].contiguous()])
                layer.grad_last = held[-1][0].data_ptr()
            if i > 0 and grad_rates and grad_rates[i - 1] is not None:
                held.append([(grad_rates[i - 1] / (T * ctx.steps * B)).contiguous()])
                layer.charge = held[-1][0].data_ptr()
            grad_weight = like.new_empty(stage.map.in_features, stage.map.out_features)
            grad_bias, grad_params, grad_state, grad_synapses = (
                None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
                for t in (bias, params, state, synapses)
            )
            layer.grad_weight, layer.grad_bias = grad_weight.data_ptr(), _get_pointer(grad_bias)
            layer.grad_params, layer.grad_state = _get_pointer(grad_params), _get_pointer(grad_state)
            layer.within.grad_weight = _get_pointer(grad_synapses)
            gradients += [
                grad_weight.t() if stage.output_major else grad_weight,
                grad_bias,
                grad_params,
                grad_state,
                grad_synapses,
            ]
        grad_x = like.new_empty(ctx.shape) if ctx.needs_input_grad[5] else None
        c = structures.StackStruct(
            *(ctypes.addressof(layers), _get_pointer(x), _get_pointer(keep)),
            grad_output=grad_output.data_ptr(),
            grad_x=_get_pointer(grad_x),
            count=n,
            T=T,
            K=ctx.steps,
            B=B,
            constant=K == 1,
            bfloat16=stack.bfloat16,
            threads=torch.get_num_threads(),
        )
        if B == 0:
            gradients = [None if t is None else torch.zeros_like(t) for t in gradients]
        elif stack.core.spiky_stack_backward(ctypes.addressof(c)):
            raise MemoryError(f"no memory for the gradients of {B} samples")
        stack.launches["stack backward"] += 1
        return None, None, None, None, None, grad_x, None, *gradients
