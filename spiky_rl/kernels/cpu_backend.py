"""CPU backend: neurons compiled by the host's C++ compiler, and linear layers whose cost follows the spikes."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import compiler, programs
from spiky_rl.kernels.compiler import CompileError
from spiky_rl.kernels.feedback import Loop
from spiky_rl.kernels.structures import Job, Layer, Stack

DEVICE = "cpu"
LAUNCHES: Counter[str] = Counter()
"""How often each kernel ran in this process: the proof that it did."""


@cache
def available() -> str | None:
    """None: this backend runs; else the reason why not, with the remedy."""
    try:
        core()
    except CompileError as error:
        return str(error)
    return None


@cache
def core() -> ctypes.CDLL:
    """The kernels that do not depend on a neuron."""
    text = "\n".join(
        programs.header(name)
        for name in ("lanes", "job", "events", "bfloat16", "recurrent", "layers", "stack")
    )
    found = compiler.library(text, "linear layers and stacks")
    pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    found.spiky_linear.argtypes = [*[pointer] * 5, *[long] * 3, integer, integer]
    found.spiky_linear_gradient.argtypes = [*[pointer] * 4, *[long] * 3]
    found.spiky_pack.argtypes = found.spiky_unpack.argtypes = [pointer, pointer, long, long]
    found.spiky_stack_forward.argtypes = found.spiky_stack_backward.argtypes = [pointer]
    for name in ("linear_gradient", "pack", "unpack"):
        getattr(found, f"spiky_{name}").restype = None
    return found


@cache
def convolutions() -> ctypes.CDLL:
    """The kernels of convolutions, which not every network has."""
    text = "\n".join(programs.header(name) for name in ("lanes", "events", "convolution"))
    found = compiler.library(text, "convolutions")
    pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    found.spiky_convolution.argtypes = [*[pointer] * 7, long, integer]
    found.spiky_convolution_gradient.argtypes = [*[pointer] * 9, long, integer]
    return found


@cache
def kernels(key: str) -> ctypes.CDLL:
    """A neuron's compiled program. Raises `CompileError` that names the neuron."""
    name = key.partition("-")[0]
    try:
        found = compiler.library(programs.source(programs.KNOWN[key]), f"neuron {name!r}")
    except CompileError as error:
        raise CompileError(f"neuron {name!r} cannot be compiled: {error}; backend: torch runs it") from error
    found.spiky_forward.argtypes = found.spiky_backward.argtypes = [ctypes.POINTER(Job)]
    found.spiky_forward.restype = None
    return found


def forward(
    key: str,
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    uniforms: Sequence[float],
    steps: int,
    last: bool,
    trace: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [T, K, B, N], the last states [S, B, N] and the traced potentials [T, K, B, N] (empty: not asked for)."""
    job, held = _job(current, state, params, keep, uniforms, steps)
    T, _, B, N = current.shape
    states = programs.KNOWN[key].states
    output = current.new_empty(T, steps, B, N)
    final = current.new_empty((states, B, N) if last else (0,))
    potentials = current.new_empty((T, steps, B, N) if trace else (0,))
    job.output = output.data_ptr()
    job.last = final.data_ptr() if last else None
    job.trace = potentials.data_ptr() if trace else None
    kernels(key).spiky_forward(ctypes.byref(job))
    LAUNCHES[key] += 1
    del held
    return output, final, potentials


def backward(
    key: str,
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    uniforms: Sequence[float],
    steps: int,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of current, state and params, as large as they are (empty: there is none)."""
    job, held = _job(current, state, params, keep, uniforms, steps)
    _, _, B, N = current.shape
    grad_current = torch.empty_like(current, memory_format=torch.contiguous_format)
    grad_state = current.new_empty(0) if state is None else torch.empty_like(state)
    grad_params = current.new_empty((0,) if params is None else (params.shape[0], B, N))
    for name, gradient in (("grad_output", grad_output), ("grad_last", grad_last)):
        if gradient is not None:
            held.append(gradient.contiguous())
            setattr(job, name, held[-1].data_ptr())
    job.grad_current = grad_current.data_ptr()
    job.grad_state = None if state is None else grad_state.data_ptr()
    job.grad_params = None if params is None else grad_params.data_ptr()
    if kernels(key).spiky_backward(ctypes.byref(job)):
        raise MemoryError(f"no memory for the states of {steps * current.shape[0]} steps")
    LAUNCHES[f"{key} backward"] += 1
    return grad_current, grad_state, grad_params if params is None else grad_params.sum(1)


def recurrent_forward(loop: Loop, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """As `forward`, of a neuron whose output returns into its current."""
    current, steps = loop.current, loop.steps
    T, _, B, N = current.shape
    output = current.new_empty(T, steps, B, N)
    count = programs.KNOWN[loop.key].states + loop.feedback.states
    final = current.new_empty((count, B, N) if last else (0,))
    potentials = current.new_empty((T, steps, B, N) if trace else (0,))
    layer, stack, held = _as_stack(loop)
    layer.within.trace = potentials.data_ptr() if trace else None
    stack.output, layer.last = output.data_ptr(), final.data_ptr() if last else None
    if B and core().spiky_stack_forward(ctypes.addressof(stack)):
        raise MemoryError(f"no memory to run {B} samples")
    LAUNCHES[f"{loop.key} recurrent"] += 1
    del held
    return output, final, potentials


def recurrent_backward(
    loop: Loop, grad_output: Tensor | None, grad_last: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of current, state, params and synapses, as large as they are (empty: there is none)."""
    current = loop.current
    T, _, B, N = current.shape
    layer, stack, held = _as_stack(loop)
    of_current, of_state, of_params, of_synapses = (
        current.new_zeros((0,) if x is None else x.shape)
        for x in (current, loop.state, loop.params, loop.synapses)
    )
    gradients = [current.new_zeros(T, loop.steps, B, N) if grad_output is None else grad_output.contiguous()]
    stack.grad_output = gradients[0].data_ptr()
    if grad_last is not None:
        gradients.append(grad_last.contiguous())
        layer.grad_last = gradients[1].data_ptr()
    stack.grad_x, layer.within.grad_weight = of_current.data_ptr(), of_synapses.data_ptr()
    layer.grad_state = None if loop.state is None else of_state.data_ptr()
    layer.grad_params = None if loop.params is None else of_params.data_ptr()
    if B and core().spiky_stack_backward(ctypes.addressof(stack)):
        raise MemoryError(f"no memory for the gradients of {B} samples")
    LAUNCHES[f"{loop.key} recurrent backward"] += 1
    del held
    return of_current, of_state, of_params, of_synapses


def _as_stack(loop: Loop) -> tuple[Layer, Stack, list[Any]]:
    """A stack of one layer without a map, and what must outlive it."""
    refuse_unfit(loop.synapses)
    T, inner, B, N = loop.current.shape
    x, own = loop.current.contiguous(), loop.synapses.contiguous()
    others = [None if t is None else t.to(x.dtype).contiguous() for t in (loop.state, loop.params, loop.keep)]
    numbers = (ctypes.c_float * max(1, len(loop.uniforms)))(*loop.uniforms)
    library = kernels(loop.key)
    layer = Layer(C=N, N=N, states=programs.KNOWN[loop.key].states, uniforms=ctypes.addressof(numbers))
    layer.state, layer.params, at_start = (None if t is None else t.data_ptr() for t in others)
    layer.parameters = 0 if loop.params is None else loop.params.shape[0]
    layer.forward = ctypes.cast(library.spiky_forward, ctypes.c_void_p).value
    layer.backward = ctypes.cast(library.spiky_backward, ctypes.c_void_p).value
    layer.within.fill(loop.feedback, own)
    stack = Stack(ctypes.addressof(layer), x.data_ptr(), at_start, count=1, T=T, K=loop.steps, B=B)
    stack.constant, stack.threads = inner == 1, torch.get_num_threads()
    return layer, stack, [layer, x, own, *others, numbers]


def _job(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    uniforms: Sequence[float],
    steps: int,
) -> tuple[Job, list[Tensor]]:
    """A job, and the tensors that must outlive it."""
    held = [current.contiguous()]
    numbers = (ctypes.c_float * max(1, len(uniforms)))(*uniforms)
    job = Job(current=held[0].data_ptr(), uniforms=ctypes.addressof(numbers))
    job.numbers = numbers  # keeps the buffer alive
    for name, tensor in (("state", state), ("params", params), ("keep", keep)):
        if tensor is not None:
            held.append(tensor.to(current.dtype).contiguous())
            setattr(job, name, held[-1].data_ptr())
    job.T, job.B, job.N = current.shape[0], current.shape[2], current.shape[3]
    job.K = steps
    job.batch = job.current_batch = job.output_batch = job.B
    job.constant = int(current.shape[1] == 1)
    job.threads = torch.get_num_threads()
    return job, held


def linear(
    x: Tensor | None, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
) -> Tensor:
    """x [rows, C] times weight [N, C] -> [rows, N]; with ``bits``, fills them, or reads them where x is None."""
    refuse_unfit(weight)
    inputs_major = weight.t().contiguous()
    rows = x.shape[0] if x is not None else bits.shape[0]  # type: ignore[union-attr]
    y = weight.new_empty(rows, weight.shape[0])
    x = None if x is None else x.contiguous()
    failed = core().spiky_linear(
        *(None if t is None else t.data_ptr() for t in (x, bits, inputs_major, bias, y)),
        *(rows, weight.shape[1], weight.shape[0], int(binary), torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for the events of {rows} samples")
    LAUNCHES["linear"] += 1
    return y


def refuse_unfit(weight: Tensor) -> None:
    """Raise `TypeError` for weights that the kernels would read as something else, as torch does for unlike types."""
    if weight.dtype != torch.float32:
        raise TypeError(
            f"the signal is torch.float32, the weights are {weight.dtype}; convert one to the other's type"
        )
    if not weight.is_cpu:
        raise TypeError(
            f"the signal is on cpu, the weights are on {weight.device}; move one to the other's device"
        )


def linear_gradient(bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
    """Gradients of weight [N, C] and bias [N] from events [rows, words] and the gradient [rows, N] of the output."""
    grad = grad.contiguous()
    grad_weight = grad.new_empty(inputs, grad.shape[1])
    grad_bias = grad.new_empty(grad.shape[1] if bias else 0)
    core().spiky_linear_gradient(
        *(bits.data_ptr(), grad.data_ptr(), grad_weight.data_ptr(), grad_bias.data_ptr() if bias else None),
        *(grad.shape[0], inputs, grad.shape[1]),
    )
    LAUNCHES["linear backward"] += 1
    return grad_weight.t(), grad_bias


def convolution(
    x: Tensor,
    bits: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    place: Tensor | None,
    shape: Sequence[int],
) -> None:
    """Fill y [rows, N] with the pooled currents of x [rows, C], and where they are given its ``bits`` and each maximum's ``place``."""
    refuse_unfit(weight)
    held = (x.contiguous(), bits, weight.contiguous(), bias.contiguous(), y, place)
    failed = convolutions().spiky_convolution(
        (ctypes.c_long * len(shape))(*shape),
        *(None if t is None else t.data_ptr() for t in held),
        *(x.shape[0], torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for the currents of {x.shape[0]} samples")
    LAUNCHES["convolution"] += 1


def convolution_gradient(
    saved: Tensor, place: Tensor, weight: Tensor, grad: Tensor, found: Sequence[Tensor], shape: Sequence[int]
) -> None:
    """Fill ``found``, the gradients of x (empty: not wanted), weight and bias; ``saved`` is x, or its bits."""
    x, bits = (None, saved) if saved.dtype == torch.int64 else (saved.contiguous(), None)
    grad_x, grad_weight, grad_bias = found
    held = (x, bits, place, weight.contiguous(), grad.contiguous(), grad_weight, grad_bias)
    failed = convolutions().spiky_convolution_gradient(
        (ctypes.c_long * len(shape))(*shape),
        *(None if t is None else t.data_ptr() for t in held),
        grad_x.data_ptr() if grad_x.numel() else None,
        *(place.shape[0], torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for the gradients of {place.shape[0]} samples")
    LAUNCHES["convolution backward"] += 1


def pack(x: Tensor) -> Tensor:
    """Non-zero elements of x [rows, C] as bits, [rows, words]."""
    x = x.contiguous()
    bits = x.new_empty(x.shape[0], words(x.shape[1]), dtype=torch.int64)
    core().spiky_pack(x.data_ptr(), bits.data_ptr(), *x.shape)
    return bits


def unpack(bits: Tensor, inputs: int) -> Tensor:
    """The inverse of `pack`: [rows, inputs], 0 and 1."""
    x = bits.new_empty(bits.shape[0], inputs, dtype=torch.float32)
    core().spiky_unpack(bits.data_ptr(), x.data_ptr(), *x.shape)
    return x


def words(inputs: int) -> int:
    """64-bit words that hold the events of a row."""
    return (inputs + 63) // 64
