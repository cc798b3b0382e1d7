"""CPU: neurons compiled by the host's C++ compiler, linear layers that visit only spikes, and stacks of both."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, override

import torch
from torch import Tensor

from spiky_rl.kernels import compiler, operators, programs, structures
from spiky_rl.kernels import convolution as event_driven
from spiky_rl.kernels.backends._compiled import CompiledBackend
from spiky_rl.kernels.backends.base import Geometry
from spiky_rl.kernels.compiler import CompileError
from spiky_rl.kernels.launch import KernelLaunch, RecurrentLaunch
from spiky_rl.kernels.stack import LayerStack, StackStage, make_struct, run_backward, run_forward
from spiky_rl.kernels.structures import JobStruct, LayerStruct, get_pointer


@cache
def find_unavailable_reason() -> str | None:
    """Return the reason why kernels cannot be compiled here, with a remedy; None if they can."""
    try:
        load_core_kernels()
    except CompileError as error:
        return str(error)
    return None


@cache
def load_core_kernels() -> ctypes.CDLL:
    """Compile and load the kernels that do not depend on a neuron."""
    text = "\n".join(
        programs.read_header(name)
        for name in ("lanes", "job", "events", "bfloat16", "recurrent", "layers", "stack")
    )
    library = compiler.compile_library(text, "linear layers and stacks")
    pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.spiky_linear.argtypes = [*[pointer] * 5, *[long] * 3, integer, integer]
    library.spiky_linear_gradient.argtypes = [*[pointer] * 4, *[long] * 3]
    library.spiky_pack.argtypes = library.spiky_unpack.argtypes = [pointer, pointer, long, long]
    library.spiky_count.argtypes = [pointer, pointer, long, long]
    library.spiky_stack_forward.argtypes = library.spiky_stack_backward.argtypes = [pointer]
    for name in ("linear_gradient", "pack", "unpack", "count"):
        getattr(library, f"spiky_{name}").restype = None
    return library


@cache
def load_convolution_kernels() -> ctypes.CDLL:
    """Compile and load the kernels of convolutions; only networks with convolutions need them."""
    text = "\n".join(
        programs.read_header(name)
        for name in ("lanes", "events", "bfloat16", "convolution", "convolution_gradient")
    )
    library = compiler.compile_library(text, "convolutions")
    pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.spiky_convolution.argtypes = [*[pointer] * 7, long, integer]
    library.spiky_convolution_gradient.argtypes = [*[pointer] * 9, long, integer, integer]
    return library


@cache
def load_kernels(key: str) -> ctypes.CDLL:
    """Compile and load the program ``key``. Raises `CompileError` that names the neuron."""
    name = key.partition("-")[0]
    try:
        library = compiler.compile_library(programs.build_source(programs.PROGRAMS[key]), f"neuron {name!r}")
    except CompileError as error:
        raise CompileError(f"neuron {name!r} cannot be compiled: {error}; backend: torch runs it") from error
    library.spiky_forward.argtypes = library.spiky_backward.argtypes = [ctypes.POINTER(JobStruct)]
    library.spiky_forward.restype = None
    return library


class Cpu(CompiledBackend):
    """Kernels for the vector registers of this CPU."""

    device = "cpu"

    def get_unavailable_reason(self) -> str | None:
        return find_unavailable_reason()

    @override
    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        return operators.linear(x, weight, bias, binary, bfloat16)

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
        maps, *others, pool = geometry
        if pool > event_driven.LARGEST_POOL:
            return super().convolution(x, weight, bias, geometry, binary, bfloat16)
        shape = [*maps, weight.shape[0], weight.shape[-1], *others, pool]
        return event_driven.convolution(x, weight, bias, shape, binary, bfloat16)

    @override
    def stack(self, stages: Sequence[StackStage], bfloat16: bool, recompute: bool) -> LayerStack:
        return LayerStack(load_core_kernels(), load_kernels, self.launches, stages, bfloat16, recompute)

    @override
    def forward(self, run: KernelLaunch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        job, kept_alive = _make_job(run)
        output, final, potentials = self.allocate_outputs(run, programs.PROGRAMS[run.key].states, last, trace)
        job.output = output.data_ptr()
        job.last = final.data_ptr() if last else None
        job.trace = potentials.data_ptr() if trace else None
        load_kernels(run.key).spiky_forward(ctypes.byref(job))
        self.launches[run.key] += 1
        del kept_alive
        return output, final, potentials

    @override
    def backward(
        self, run: KernelLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        job, kept_alive = _make_job(run)
        current, state, params = run.current, run.state, run.params
        T, _, B, N = current.shape
        grad_current = torch.empty_like(current, memory_format=torch.contiguous_format)
        grad_state = current.new_empty((0,) if state is None else state.shape)
        grad_params = current.new_empty((0,) if params is None else (params.shape[0], B, N))
        for name, gradient in (("grad_output", grad_output), ("grad_last", grad_last)):
            if gradient is not None:
                kept_alive.append(gradient.contiguous())
                setattr(job, name, kept_alive[-1].data_ptr())
        job.grad_current = grad_current.data_ptr()
        job.grad_state = None if state is None else grad_state.data_ptr()
        job.grad_params = None if params is None else grad_params.data_ptr()
        if load_kernels(run.key).spiky_backward(ctypes.byref(job)):
            raise MemoryError(f"no memory for the states of {run.steps * T} steps")
        self.launches[f"{run.key} backward"] += 1
        return grad_current, grad_state, grad_params if params is None else grad_params.sum(1)

    @override
    def recurrent_forward(
        self, run: RecurrentLaunch, last: bool, trace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = programs.PROGRAMS[run.key].states + run.feedback.states
        output, final, potentials = self.allocate_outputs(run, count, last, trace)
        layer, stack, kept_alive = _make_stack_struct(run)
        layer.within.trace = potentials.data_ptr() if trace else None
        stack.output, layer.last = output.data_ptr(), final.data_ptr() if last else None
        run_forward(load_core_kernels(), stack)
        self.launches[f"{run.key} recurrent"] += 1
        del kept_alive
        return output, final, potentials

    @override
    def recurrent_backward(
        self, run: RecurrentLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        current = run.current
        T, _, B, N = current.shape
        layer, stack, kept_alive = _make_stack_struct(run)
        grad_current, grad_state, grad_params, grad_synapses = (
            current.new_zeros((0,) if x is None else x.shape)
            for x in (current, run.state, run.params, run.synapses)
        )
        gradients = [
            current.new_zeros(T, run.steps, B, N) if grad_output is None else grad_output.contiguous()
        ]
        stack.grad_output = gradients[0].data_ptr()
        if grad_last is not None:
            gradients.append(grad_last.contiguous())
            layer.grad_last = gradients[1].data_ptr()
        stack.grad_x, layer.within.grad_weight = grad_current.data_ptr(), grad_synapses.data_ptr()
        layer.grad_state = None if run.state is None else grad_state.data_ptr()
        layer.grad_params = None if run.params is None else grad_params.data_ptr()
        run_backward(load_core_kernels(), stack)
        self.launches[f"{run.key} recurrent backward"] += 1
        del kept_alive
        return grad_current, grad_state, grad_params, grad_synapses

    @override
    def linear_forward(
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        operators.check_weight(weight)
        inputs_major = weight.t().contiguous()
        rows = x.shape[0]
        y = weight.new_empty(rows, weight.shape[0])
        x, bias = x.contiguous(), None if bias is None else bias.contiguous()
        failed = load_core_kernels().spiky_linear(
            *map(get_pointer, (x, bits, inputs_major, bias, y)),
            rows,
            weight.shape[1],
            weight.shape[0],
            int(binary),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(f"no memory for the events of {rows} samples")
        self.launches["linear"] += 1
        return y

    @override
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        grad = grad.contiguous()
        grad_weight = grad.new_empty(inputs, grad.shape[1])
        grad_bias = grad.new_empty(grad.shape[1] if bias else 0)
        load_core_kernels().spiky_linear_gradient(
            bits.data_ptr(),
            grad.data_ptr(),
            grad_weight.data_ptr(),
            grad_bias.data_ptr() if bias else None,
            grad.shape[0],
            inputs,
            grad.shape[1],
        )
        self.launches["linear backward"] += 1
        return grad_weight.t(), grad_bias

    def convolution_forward(
        self,
        x: Tensor,
        bits: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        place: Tensor | None,
        shape: Sequence[int],
    ) -> None:
        operators.check_weight(weight)
        kept_alive = (x.contiguous(), bits, weight.contiguous(), bias.contiguous(), y, place)
        failed = load_convolution_kernels().spiky_convolution(
            (ctypes.c_long * len(shape))(*shape),
            *map(get_pointer, kept_alive),
            x.shape[0],
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(f"no memory for the currents of {x.shape[0]} samples")
        self.launches["convolution"] += 1

    def convolution_backward(
        self,
        saved: Tensor,
        place: Tensor,
        weight: Tensor,
        grad: Tensor,
        gradients: Sequence[Tensor],
        shape: Sequence[int],
        bfloat16: bool,
    ) -> None:
        x, bits = (None, saved) if saved.dtype == torch.int64 else (saved.contiguous(), None)
        grad_x, grad_weight, grad_bias = gradients
        kept_alive = (x, bits, place, weight.contiguous(), grad.contiguous(), grad_weight, grad_bias)
        failed = load_convolution_kernels().spiky_convolution_gradient(
            (ctypes.c_long * len(shape))(*shape),
            *map(get_pointer, kept_alive),
            grad_x.data_ptr() if grad_x.numel() else None,
            place.shape[0],
            int(bfloat16),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(f"no memory for the gradients of {place.shape[0]} samples")
        self.launches["convolution backward"] += 1

    @override
    def pack(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        bits = x.new_empty(x.shape[0], programs.count_words(x.shape[1]), dtype=torch.int64)
        load_core_kernels().spiky_pack(x.data_ptr(), bits.data_ptr(), *x.shape)
        return bits

    @override
    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        x = bits.new_empty(bits.shape[0], inputs, dtype=torch.float32)
        load_core_kernels().spiky_unpack(bits.data_ptr(), x.data_ptr(), *x.shape)
        return x


def _make_stack_struct(run: RecurrentLaunch) -> tuple[LayerStruct, structures.StackStruct, list[Any]]:
    """Return the run as a stack of one layer without a map, and the objects that must outlive it."""
    operators.check_weight(run.synapses)
    N = run.current.shape[-1]
    x, synapses = run.current.contiguous(), run.synapses.contiguous()
    others = [None if t is None else t.to(x.dtype).contiguous() for t in (run.state, run.params, run.keep)]
    layers = (LayerStruct * 1)(LayerStruct(C=N, N=N, states=programs.PROGRAMS[run.key].states))
    layer = layers[0]
    numbers = layer.set_neuron(load_kernels(run.key), run.uniforms)
    layer.state, layer.params, keep = map(get_pointer, others)
    layer.parameters = 0 if run.params is None else run.params.shape[0]
    layer.within.fill(run.feedback, synapses)
    stack = make_struct(load_core_kernels(), layers, run.current.shape, run.steps)
    stack.x, stack.keep = x.data_ptr(), keep
    return layer, stack, [layers, x, synapses, *others, numbers]


def _make_job(run: KernelLaunch) -> tuple[JobStruct, list[Any]]:
    """Return the run as a job, and the objects that must outlive it."""
    current, numbers = run.current, (ctypes.c_float * max(1, len(run.uniforms)))(*run.uniforms)
    kept_alive = [current.contiguous(), numbers]
    job = JobStruct(current=kept_alive[0].data_ptr(), uniforms=ctypes.addressof(numbers))
    for name, tensor in (("state", run.state), ("params", run.params), ("keep", run.keep)):
        if tensor is not None:
            kept_alive.append(tensor.to(current.dtype).contiguous())
            setattr(job, name, kept_alive[-1].data_ptr())
    job.T, job.B, job.N = current.shape[0], current.shape[2], current.shape[3]
    job.K = run.steps
    job.batch = job.current_batch = job.output_batch = job.B
    job.constant = int(current.shape[1] == 1)
    job.threads = torch.get_num_threads()
    return job, kept_alive
