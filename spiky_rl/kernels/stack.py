"""A stack of linear maps and neurons that runs in one call: a feed-forward network on the CPU.

It runs the same kernels as layer by layer, so the bits are the same. But a few samples pass through the whole stack before the
next ones: signals between two layers stay in the cache, and a rollout step of one environment is one call into C.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch, operators, programs, structures
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack_operator import PlanStruct, find_operator, make_plan
from spiky_rl.kernels.structures import LayerStruct, get_pointer
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

log = logging.getLogger(__name__)

_SHAPES = 16
"""Number of input shapes whose layouts a stack remembers."""
_ALIGNMENT = 64
"""Bytes; vectors do not cross cache lines."""
OPENMP = "omp_get_thread_num"
"""A function that kernels with OpenMP have."""


@dataclass
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
    _last_call: tuple[Surrogate, float, programs.NeuronCall] | None = field(default=None, init=False)
    """The last call with its surrogate and slope; None if neurons have parameters of their own."""

    def prepare_call(self, ops: TorchOps) -> programs.NeuronCall:
        """Return the call of the neuron, with the network's ``ops`` unless the stage has its own.

        It stays the same until surrogate or slope change, unless neurons have parameters of their own.
        """
        ops, known = self.ops or ops, self._last_call
        if known is not None and known[0] is ops.surrogate and known[1] == ops.slope:
            return known[2]
        call = programs.prepare_call(self.neuron, ops, self.parameters(), self.map.out_features)
        self._last_call = (ops.surrogate, ops.slope, call) if call.params is None else None
        return call

    @property
    def weight(self) -> Tensor:
        """The effective weights, after the mask."""
        if self.map._buffers.get("mask") is not None:  # pylint: disable=protected-access
            return self.map.synapses()
        # twice as fast as the module's attribute
        return self.map._parameters["weight"]  # pylint: disable=protected-access

    @property
    def bias(self) -> Tensor | None:
        """The bias, if it is part of the current."""
        return self.map._parameters["bias"] if self.biased else None  # pylint: disable=protected-access

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
        self.supports_penalty = all(stage.binary for stage in stages[1:])
        self._template: _Template | None = None
        self._filled: _FilledLayers | None = None
        self._layouts: dict[tuple[int, int, int, int, bool, bool], _Layout] = {}
        # pylint: disable-next=protected-access
        self._maps: list[Any] = [stage.map._parameters for stage in stages]
        # pylint: disable-next=protected-access
        self._buffers: list[Any] = [stage.map._buffers for stage in stages]
        self._rollout: _Rollout | None = None
        self._plans: dict[tuple[Any, ...], tuple[Sequence[programs.NeuronCall], Tensor]] = {}
        """The last calls and the plan of the compiled operator, by shape and settings."""

    @property
    def masked(self) -> bool:
        """Whether any stage has a mask."""
        return any(buffers.get("mask") is not None for buffers in self._buffers)

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
        offset: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run all stages; return the output, the states [B, N] of all stages in order, and the rates of all but the last.

        The output is the last stage's, [T, K, B, N]; with ``offset`` it is [T, B, N], every control step's last one plus ``offset``.

        Args:
            x: Signal [T, K or 1, B, C].
            steps: K.
            ops: The network's op vocabulary.
            states: States before the first step, [B, N] each. With None the run starts from the zero state and returns no states.
            keep: [T, B]; 0 where an episode begins with this step.
            counted: Whether to return rates: mean events per inner step, [N] per stage, with gradients. Possible only if every
                stage but the first reads binary signals.
            offset: [N].
        """
        if states is not None and len(states) < self.states:
            raise _make_shape_error("states", len(states), self.states)
        calls = [stage.prepare_call(ops) for stage in self.stages]
        tensors: list[Tensor | None] = []
        if states is None and not self.recurrent and all(call.params is None for call in calls):
            for stage in self.stages:
                tensors += (stage.weight, stage.bias)
            if keep is None and (found := self._run_operator(x, steps, calls, counted, offset, tensors)):
                return found[0], [], found[1:]
        else:
            remaining = None if states is None else list(states)
            for stage, call in zip(self.stages, calls, strict=True):
                state = None
                if remaining is not None:
                    count = stage.states
                    state, remaining = torch.stack(remaining[:count]).to(x.dtype), remaining[count:]
                params = None if call.params is None else call.params.to(x.dtype)
                synapses = None if stage.synapses is None else stage.synapses()
                tensors += (stage.weight, stage.bias, params, state, synapses)
        # read the gradient mode here: inside of the autograd function it is always off
        request = _Request(self, calls, steps, torch.is_grad_enabled(), counted)
        output, *others = _Run.apply(request, x, keep, offset, *tensors)  # type: ignore[misc]
        # states of the stages, if there are any, then the rates of all but the last, if they are counted
        n_states = len(others) - (len(self.stages) - 1 if counted else 0)
        return output, [s for layer in others[:n_states] for s in layer.unbind(0)], others[n_states:]

    def _run_operator(
        self,
        x: Tensor,
        steps: int,
        calls: Sequence[programs.NeuronCall],
        counted: bool,
        offset: Tensor | None,
        tensors: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """Return the output and the rates of the stack from the compiled operator; empty if it is not used or refuses the ``tensors``."""
        T, inner, B, _ = x.shape
        if B == 0 or not torch.is_grad_enabled() or (run := find_operator(T * B)) is None:
            return []
        key = (x.shape, steps, counted)
        plan = self._plans.get(key)
        if plan is None or plan[0] != calls:
            self.check_signal(x, steps)
            layers = self._get_template(calls).copy()
            for layer, bias in zip(layers, tensors[1::2], strict=True):
                layer.bias = None if bias is None else bias.data_ptr()
            layout = self.get_layout(T, inner, steps, B, True, counted)
            sizes = PlanStruct(T=T, inner=inner, K=steps, B=B, width=layers[-1].N, memory=layout.size)
            sizes.counted, sizes.bfloat16 = counted, self.bfloat16
            sizes.has_openmp = hasattr(self.core, OPENMP)
            if len(self._plans) >= _SHAPES:
                self._plans.clear()
            plan = self._plans[key] = calls, make_plan(self.core, calls, layers, layout.places, sizes)
        found = run(plan[1], x, offset, [tensor for tensor in tensors if tensor is not None])
        if found:
            self.launches["stack"] += 1
        else:
            self._plans.pop(key, None)
        return found

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
        x, offset = x.contiguous(), offset.contiguous()
        weights = [m["weight"] for m in self._maps]
        biases = [m["bias"] for m in self._maps if m["bias"] is not None]
        key = (
            *(x.shape, steps, ops.slope, torch.get_num_threads()),
            # a view, of a part or in strides, may have the same address
            *[(t.data_ptr(), t.nbytes, t.is_contiguous()) for t in (*weights, *biases, offset)],
        )
        rollout = self._rollout
        if rollout is None or rollout.key != key:
            rollout = self._rollout = self._prepare_rollout(key, x, steps, ops, offset)
        features = x.new_empty(*rollout.shape)  # faster than with a tuple
        # a structure of this call's own, because other threads may run the same network
        stack = structures.StackStruct.from_buffer_copy(rollout.struct)
        stack.x, stack.last_step = x.data_ptr(), features.data_ptr()
        run_forward(self.core, stack)
        self.launches["stack"] += 1
        return features

    def _prepare_rollout(
        self, key: tuple[Any, ...], x: Tensor, steps: int, ops: TorchOps, offset: Tensor
    ) -> _Rollout:
        """Return the filled structures of `run_last_step` for its arguments."""
        self.check_signal(x, steps)
        _check_tensor("bias", offset, (self.stages[-1].map.out_features,))
        calls = [stage.prepare_call(ops) for stage in self.stages]
        tensors = []
        for stage, call in zip(self.stages, calls, strict=True):
            tensors += [stage.weight, stage.bias, call.params, None, None]
        layers, kept_alive = self.fill_layers(calls, tensors)
        T, _, B, _ = x.shape
        struct = make_struct(self.core, layers, x.shape, steps)
        struct.offset = offset.data_ptr()
        # after the first object come copies, of parameters and of weights and biases that are not contiguous. Copies miss later
        # changes, so the next call fills the structures again
        has_copies = len(kept_alive) > 1
        return _Rollout(() if has_copies else key, struct, (T, B, offset.shape[0]), [layers, *kept_alive])

    def check_signal(self, x: Tensor, steps: int) -> None:
        """Raise `ValueError` if the kernels would read the signal ``x`` out of bounds; ``steps`` is K."""
        dispatch.check_steps(x, steps)
        if x.shape[-1] != self.inputs:
            raise _make_shape_error("channels", x.shape[-1], self.inputs)

    def fill_layers(
        self, calls: Sequence[programs.NeuronCall], tensors: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """Return an array of `LayerStruct` with its inputs, and the objects that must stay alive while it is used.

        The first of these objects is the template or the kept array; the others are copies of tensors.
        ``tensors`` has weight and bias of each stage, or weight, bias, parameters, state and synapses.
        """
        filled, key = self._filled, None
        if len(tensors) == 2 * len(self.stages):
            key = [
                None if x is None else (x.data_ptr(), x.dtype, x.shape, x.is_contiguous()) for x in tensors
            ]
            if filled is not None and filled.key == key and filled.calls == calls:
                return filled.copy(), [filled]
        template = self._get_template(calls)
        layers, kept_alive = template.copy(), [template]
        for layer, stage, part in zip(layers, self.stages, self.divide(tensors), strict=True):
            weight, bias, params, state, synapses = part
            C, N = stage.map.in_features, stage.map.out_features
            _check_tensor("weight", weight, (N, C) if stage.output_major else (C, N))
            if not weight.is_contiguous():
                kept_alive.append(weight := weight.detach().contiguous())
            layer.weight = weight.data_ptr()
            if bias is not None:
                _check_tensor("bias", bias, (N,))
                if not bias.is_contiguous():
                    kept_alive.append(bias := bias.detach().contiguous())
                layer.bias = bias.data_ptr()
            if params is not None:
                kept_alive.append(params := params.detach().contiguous())
                layer.params, layer.parameters = params.data_ptr(), params.shape[0]
            layer.state = get_pointer(state)
            if stage.feedback is not None and synapses is not None:
                _check_tensor("synapses", synapses, (stage.feedback.delays * N, N))
                kept_alive.append(synapses := synapses.detach().contiguous())
                layer.within.fill(stage.feedback, synapses)
        if key is not None and len(kept_alive) == 1:  # no copies
            # other threads may set another one meanwhile
            filled = self._filled = _FilledLayers(calls, key, layers, template)
            return filled.copy(), [filled]
        return layers, kept_alive

    def _get_template(self, calls: Sequence[programs.NeuronCall]) -> _Template:
        """Return the template for ``calls``; the last one is kept."""
        key = [(call.key, call.numbers) for call in calls]
        template = self._template
        if template is None or template.key != key:
            template = self._template = _Template(self, key, calls)
        return template

    def divide(self, tensors: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return weight, bias, parameters, state and synapses of each stage; ``tensors`` is as in `fill_layers`."""
        count = len(tensors) // len(self.stages)
        return [(*part, None, None, None)[:5] for part in itertools.batched(tensors, count)]

    def get_layout(
        self, T: int, inner: int, steps: int, B: int, needs_backward: bool, counted: bool
    ) -> _Layout:
        """Return the places of the tensors that a forward pass keeps; ``inner`` is the number of inner steps of the input."""
        shape = T, inner, steps, B, needs_backward, counted
        layout = self._layouts.get(shape)
        if layout is None:
            if len(self._layouts) >= _SHAPES:
                self._layouts.clear()
            layout = self._layouts[shape] = _Layout(self, *shape)
        return layout


class _Rollout(NamedTuple):
    """Filled C structures of `LayerStack.run_last_step`."""

    key: tuple[Any, ...]
    """Arguments and weights that they were filled for; empty if the next call must fill them again."""
    struct: structures.StackStruct
    """All but the addresses of the signal and of the output."""
    shape: tuple[int, int, int]
    """Shape of the output."""
    kept_alive: list[Any]
    """The objects that they point to."""


class _FilledLayers(NamedTuple):
    """The last `LayerStruct` array that points to weights and biases alone, without copies."""

    calls: Sequence[programs.NeuronCall]
    key: list[Any]
    """Contents that the array was filled for: address, type and shape of each weight and bias, and whether it is contiguous."""
    layers: Any
    template: _Template
    """The layers point into it."""

    def copy(self) -> Any:
        """Return a copy of the array; it is valid while this object lives."""
        return type(self.layers).from_buffer_copy(self.layers)


class _Template:
    """The fields of a stack's `LayerStruct` array that depend on its neurons alone."""

    def __init__(self, stack: LayerStack, key: list[Any], calls: Sequence[programs.NeuronCall]) -> None:
        self.key = key
        self._layers = (LayerStruct * len(calls))()
        self._numbers = []  # the layers point to them
        for layer, stage, call in zip(self._layers, stack.stages, calls, strict=True):
            self._numbers.append(layer.set_neuron(stack.load_kernels(call.key), call.uniforms))
            layer.N, layer.C = stage.map.out_features, stage.map.in_features
            layer.states = len(stage.neuron.states)
            layer.binary, layer.output_major = stage.binary, stage.output_major

    def copy(self) -> Any:
        """Return a copy of the array; it is valid while this template lives."""
        return type(self._layers).from_buffer_copy(self._layers)


class _Layout:
    """Layout of the memory that a forward pass keeps for the backward pass: every stage's input, as bits or floats, and its current."""

    def __init__(
        self, stack: LayerStack, T: int, inner: int, steps: int, B: int, needs_backward: bool, counted: bool
    ) -> None:
        self.size = 0
        self.places: list[tuple[int | None, int | None]] = []
        """Offsets in bytes of input and current of each stage; None if it is not kept."""
        for i, stage in enumerate(stack.stages):
            C, N = stage.map.in_features, stage.map.out_features
            rows = T * (inner if i == 0 else steps) * B
            signal = current = None
            if stage.binary and (needs_backward or (counted and i > 0)):
                signal = self._take(8 * rows * programs.count_words(C))
            elif needs_backward and not stage.binary and i > 0:
                signal = self._take(4 * rows * C)
            # a first current that is constant over the control step is cheap to compute again
            is_cheap = i == 0 and inner == 1 and stage.feedback is None
            if needs_backward and not stack.recompute and not is_cheap:
                current = self._take(4 * (rows if stage.feedback is None else T * steps * B) * N)
            self.places.append((signal, current))

    def _take(self, count: int) -> int:
        start, self.size = self.size, self.size + -(-count // _ALIGNMENT) * _ALIGNMENT
        return start

    def fill(self, layers: Any, stages: Sequence[StackStage], start: int) -> None:
        """Set the fields of ``layers`` whose memory begins at the address ``start``."""
        for layer, stage, (signal, current) in zip(layers, stages, self.places, strict=True):
            if signal is not None and stage.binary:
                layer.bits = start + signal
            elif signal is not None:
                layer.input = start + signal
            if current is not None:
                layer.current = start + current


class _Request(NamedTuple):
    """Arguments of one call of a stack that are not tensors."""

    stack: LayerStack
    calls: Sequence[programs.NeuronCall]
    steps: int
    recorded: bool
    """Whether autograd was on when the stack was called."""
    counted: bool
    """Whether rates are returned."""


def _make_shape_error(name: str, given: int, expected: int) -> ValueError:
    return ValueError(f"{name}: {given} given; expected: {expected}")


def _check_tensor(name: str, given: Tensor, expected: tuple[int, ...]) -> None:
    """Raise `TypeError` or `ValueError` if the kernels cannot read the weights or bias ``given``."""
    operators.check_weight(given)
    if given.shape != expected:
        raise ValueError(f"{name}: shape {[*given.shape]} given; expected: {[*expected]}")


def make_struct(core: ctypes.CDLL, layers: Any, shape: Sequence[int], steps: int) -> structures.StackStruct:
    """Return the structure for a run of ``layers``, an array of `LayerStruct`; the signal has this ``shape``, ``steps`` is K."""
    T, K, B, _ = shape
    struct = structures.StackStruct(ctypes.addressof(layers), count=len(layers), T=T, K=steps, B=B)
    struct.constant, struct.threads = K == 1, count_threads(core)
    return struct


def run_forward(core: ctypes.CDLL, struct: structures.StackStruct) -> None:
    """Run the stack ``struct`` forward, unless it has no samples. Raises `MemoryError` without memory."""
    if struct.B and core.spiky_stack_forward(ctypes.addressof(struct)):
        raise MemoryError(f"no memory to run {struct.B} samples")


def run_backward(core: ctypes.CDLL, struct: structures.StackStruct) -> None:
    """Run the stack ``struct`` backward, unless it has no samples. Raises `MemoryError` without memory."""
    if struct.B and core.spiky_stack_backward(ctypes.addressof(struct)):
        raise MemoryError(f"no memory for the gradients of {struct.B} samples")


def count_threads(core: ctypes.CDLL) -> int:
    """Return the number of threads that the kernels ``core`` may divide a batch among: torch's, or 1 if they have no OpenMP.

    Kernels without OpenMP run on one thread, and would take the sums of the other threads, which are 0, for the gradients.
    """
    threads = torch.get_num_threads()
    return threads if threads == 1 or _has_openmp(core) else 1


@cache
def _has_openmp(core: ctypes.CDLL) -> bool:
    """Return whether the kernels ``core`` have OpenMP; log a warning if they have not."""
    if hasattr(core, OPENMP):
        return True
    log.warning("kernels run on one thread, because the C++ compiler has no OpenMP")
    return False


def _compute_rates(core: ctypes.CDLL, bits: int, rows: int, neurons: int, like: Tensor) -> Tensor:
    """Return the mean number of events [N] in the ``rows`` of words at the address ``bits``."""
    counts = like.new_zeros(neurons, dtype=torch.long)
    core.spiky_count(bits, counts.data_ptr(), rows, neurons)
    return (counts.double() / max(rows, 1)).to(like)


class _Run(torch.autograd.Function):
    """A call of the stack with gradients. ``tensors`` is as in `LayerStack.fill_layers`."""

    @staticmethod
    def forward(
        ctx: Any, request: _Request, x: Tensor, keep: Tensor | None, offset: Tensor | None, *tensors: Any
    ) -> Any:
        stack, steps = request.stack, request.steps
        x = x.contiguous()
        keep = None if keep is None else keep.to(x.dtype).contiguous()
        stack.check_signal(x, steps)
        T, K, B, _ = x.shape
        needs_backward = request.recorded and any(ctx.needs_input_grad)
        if offset is not None:
            _check_tensor("bias", offset, (stack.stages[-1].map.out_features,))
            offset = offset.contiguous()
        last = []
        for stage, (*_, params, state, _) in zip(stack.stages, stack.divide(tensors), strict=True):
            if state is not None or params is not None or keep is not None:
                width = stage.map.out_features
                operators.check_shapes(T, B, width, state, params, keep, stage.states, x.device)
            if state is not None:
                last.append(torch.empty_like(state))
        layers, _kept_alive = stack.fill_layers(request.calls, tensors)
        for layer, state in zip(layers, last, strict=False):  # all stages have a state, or none has
            layer.last = state.data_ptr()
        layout = stack.get_layout(T, K, steps, B, needs_backward, request.counted)
        memory = x.new_empty(layout.size, dtype=torch.uint8)
        layout.fill(layers, stack.stages, memory.data_ptr())
        width = stack.stages[-1].map.out_features
        output = x.new_empty((T, steps, B, width) if offset is None else (T, B, width))
        c = make_struct(stack.core, layers, x.shape, steps)
        c.x, c.keep = x.data_ptr(), get_pointer(keep)
        if offset is None:
            c.output = output.data_ptr()
        else:
            c.last_step, c.offset = output.data_ptr(), offset.data_ptr()
        run_forward(stack.core, c)
        stack.launches["stack"] += 1
        rates = []
        if request.counted:
            rows = T * steps * B
            rates = [_compute_rates(stack.core, layer.bits, rows, layer.C, x) for layer in layers[1:]]
        if needs_backward:
            ctx.set_materialize_grads(False)
            ctx.request, ctx.layout, ctx.shape, ctx.states = request, layout, x.shape, len(last)
            first = None if stack.stages[0].binary else x
            ctx.save_for_backward(first, keep, memory, offset, *tensors)
        return output, *last, *rates

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        operators.refuse_second_derivative()
        request: _Request = ctx.request
        stack = request.stack
        x, keep, memory, offset, *tensors = ctx.saved_tensors
        grad_output, grad_last, grad_rates = grads[0], grads[1 : 1 + ctx.states], grads[1 + ctx.states :]
        T, _, B, _ = ctx.shape
        like = tensors[0]
        layers, kept_alive = stack.fill_layers(request.calls, tensors)
        ctx.layout.fill(layers, stack.stages, memory.data_ptr())
        if grad_output is None:
            width = stack.stages[-1].map.out_features
            grad_output = like.new_zeros((T, request.steps, B, width) if offset is None else (T, B, width))
        grad_output = grad_output.contiguous()
        gradients: list[Tensor | None] = []
        per_stage = len(tensors) // len(stack.stages)
        for i, (layer, part) in enumerate(zip(layers, stack.divide(tensors), strict=True)):
            if grad_last and grad_last[i] is not None:
                kept_alive.append(grad := grad_last[i].contiguous())
                layer.grad_last = grad.data_ptr()
            if i > 0 and grad_rates and grad_rates[i - 1] is not None:
                per_event = grad_rates[i - 1] / (T * request.steps * B)
                kept_alive.append(per_event := per_event.contiguous())
                layer.charge = per_event.data_ptr()
            of_part = [
                None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
                for t in part
            ]
            pointers = map(get_pointer, of_part)
            layer.grad_weight, layer.grad_bias, layer.grad_params, layer.grad_state, of_synapses = pointers
            if of_synapses is not None:
                layer.within.grad_weight = of_synapses
            gradients += of_part[:per_stage]
        grad_x = like.new_empty(ctx.shape) if ctx.needs_input_grad[1] else None
        c = make_struct(stack.core, layers, ctx.shape, request.steps)
        c.x, c.keep, c.grad_x = map(get_pointer, (x, keep, grad_x))
        c.bfloat16 = stack.bfloat16
        if offset is None:
            c.grad_output = grad_output.data_ptr()
        else:
            c.grad_last_step = grad_output.data_ptr()
        run_backward(stack.core, c)
        if B == 0:
            gradients = [None if t is None else torch.zeros_like(t) for t in gradients]
        stack.launches["stack backward"] += 1
        grad_offset = None if offset is None else grad_output.sum((0, 1))
        return None, grad_x, None, grad_offset, *gradients
