"""CuPy: neurons compiled by NVRTC and launched on torch's stream; matrix products are torch's own.

Every tensor is torch's, so kernels can be captured into a CUDA graph: run forward and backward once before the capture,
because a module cannot be loaded during it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, override

import numpy as np
import torch
from torch import Tensor

from spiky_rl.config.registry import UserError
from spiky_rl.kernels import compiler, operators, programs, recurrent_adjoint
from spiky_rl.kernels.backends._compiled import Compiled
from spiky_rl.kernels.launch import KernelLaunch, RecurrentFeedback, RecurrentLaunch

OPTIONS = ("-std=c++17", "--fmad=false", "-DGPU")
"""No fused multiply-add: the forward is bit-equal to torch's where a neuron needs only arithmetic. CuPy adds -ftz=true, so that
what is below 1.2e-38 is 0 here."""
BLOCK = 128
MOST_THREADS = 256
"""Threads of a block that has a row of a recurrent layer, at most: as many as there are registers for, whatever the neuron."""
SHARED = 48 * 1024
"""Bytes that the threads of a block may share without being asked for."""
SCRATCH = 1 << 26
"""Floats that an adjoint works in at once: 256 MiB."""


def get_extra_name() -> str:
    """Name of the extra that installs CuPy for the CUDA that this torch is built for, which the driver supports if torch sees a device."""
    return "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda"


@cache
def get_missing_reason() -> str | None:
    """The reason why no kernel can run here, with the remedy; None: it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; on a machine with one, install NVIDIA's driver and a CUDA build of torch"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; pip install 'spiky-rl[{get_extra_name()}]'"
    try:
        import cupy

        if not cupy.is_available():
            return (
                "CuPy sees no CUDA device, although torch does; its build must match the driver's CUDA version:"
                f" remove it (pip uninstall cupy-cuda12x cupy-cuda13x) and pip install 'spiky-rl[{get_extra_name()}]'"
            )
        cupy.cuda.nvrtc.getVersion()  # an attribute of cupy.cuda, which holds no module of that name
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a CuPy that does not fit its libraries fails in many ways, each of them a reason
        return f"CuPy does not load ({type(error).__name__}: {error}); {remedy(error)}"
    return None


def remedy(error: Exception) -> str:
    """Name what helps against an ``error`` of CuPy, which writes a cache wherever it is imported and compiles."""
    if isinstance(error, OSError) and error.filename is not None:
        return "set CUPY_CACHE_DIR to a folder that can be written"
    return f"reinstall it with pip install 'spiky-rl[{get_extra_name()}]'"


@cache
def compile_kernels(key: str, device: int, recurrent: bool = False) -> tuple[Any, Any]:
    """Load forward and backward of the neuron ``key`` on a ``device``; ``recurrent``: those of its recurrent run."""
    name = "spiky_recurrent" if recurrent else "spiky"
    forward, backward = load(source(key, recurrent), (f"{name}_forward", f"{name}_backward"), device)
    return forward, backward


@cache
def bit_kernels(device: int) -> dict[str, Any]:
    """Load the kernels of `bits_gpu.h` on one ``device``, by name."""
    names = ("spiky_pack", "spiky_unpack")
    return dict(zip(names, load(programs.read_header("bits_gpu"), names, device), strict=True))


def load(code: str, names: Sequence[str], device: int) -> list[Any]:
    """Compile ``code`` for a ``device`` and load the kernels called ``names``.

    Raises `CompileError` where CuPy, its libraries or the driver do not do that.
    """
    import cupy

    with cupy.cuda.Device(device):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("run the network once, forward and backward, before capturing a CUDA graph")
        try:
            module = cupy.RawModule(code=code, options=OPTIONS, backend="nvrtc")
            return [module.get_function(name) for name in names]
        except Exception as error:
            # headers that are missing, a device or a driver that NVRTC's code is not for, a cache that cannot be written
            raise compiler.CompileError(
                f"backend 'cupy' loads no kernels on cuda:{device} ({type(error).__name__}: {compiler.complaint(str(error))});"
                f" {remedy(error)}, or take network.backend: torch"
            ) from error


def source(key: str, recurrent: bool = False) -> str:
    """The text that `kernels` compiles for ``key`` and ``recurrent``."""
    text = programs.source(programs.PROGRAMS[key])
    return f"{text}\n{programs.read_header('recurrent_gpu')}" if recurrent else text


class Cupy(Compiled):
    """Kernels for CUDA devices; what it compiles no kernels for is torch's own."""

    device = "cuda"

    def get_unavailable_reason(self) -> str | None:
        return get_missing_reason()

    @override
    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        # the product is torch's own, and only what is kept for the backward pass is ours
        if binary and torch.is_grad_enabled():
            return operators.linear(x, weight, bias, binary, bfloat16=False)  # that is for CPUs
        return torch.nn.functional.linear(x, weight, bias)

    @override
    def forward(self, run: KernelLaunch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        key, steps = run.key, run.steps
        current, state, params, keep = _whole(run.current, run.state, run.params, run.keep)
        B, N = current.shape[2:]
        output, final, potentials = self.outputs(run, programs.PROGRAMS[key].states, last, trace)
        pointers = [current, state, params, keep, output]
        pointers += [final if last else None, potentials if trace else None]
        self._launch(key, 0, arguments(pointers, current, steps, run.uniforms), current, count_blocks(B * N))
        return output, final, potentials

    @override
    def backward(
        self, run: KernelLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        key, steps = run.key, run.steps
        current, state, params, keep, grad_output, grad_last = _whole(
            *(run.current, run.state, run.params, run.keep, grad_output, grad_last)
        )
        T, _, B, N = current.shape
        grad_current = torch.empty_like(current)
        grad_state = current.new_empty(0) if state is None else torch.empty_like(state)
        grad_params = current.new_empty((0,) if params is None else (params.shape[0], B, N))
        floats = T * steps * programs.PROGRAMS[key].states
        most = max(BLOCK, SCRATCH // floats // BLOCK * BLOCK)
        scratch = current.new_empty(floats * min(most, B * N))
        pointers = [current, state, params, keep, grad_output, grad_last, grad_current]
        pointers += [None if state is None else grad_state, None if params is None else grad_params, scratch]
        for first in range(0, B * N, most):
            lanes = min(most, B * N - first)
            values = arguments(pointers, current, steps, run.uniforms, (np.int64(first), np.int64(lanes)))
            self._launch(key, 1, values, current, count_blocks(lanes))
        return grad_current, grad_state, grad_params if params is None else grad_params.sum(1)

    @override
    def recurrent_forward(
        self, run: RecurrentLaunch, last: bool, trace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        # one launch
        key, steps, feedback = run.key, run.steps, run.feedback
        tensors = current, *_ = _whole(run.current, run.state, run.params, run.keep, run.synapses)
        B, N, states = *current.shape[2:], programs.PROGRAMS[key].states
        output, final, potentials = self.outputs(run, states + feedback.states, last, trace)
        now = current.new_empty(states + (feedback.decay is not None), B, N)
        pointers = [*tensors, output, now, final if last else None, potentials if trace else None]
        values = arguments(pointers, current, steps, run.uniforms, _format_feedback(feedback))
        self._launch(
            f"{key} recurrent", 0, values, current, B, count_threads(N), count_shared_bytes(N, feedback)
        )
        return output, final, potentials

    @override
    def recurrent_backward(
        self, run: RecurrentLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # a launch, and a matrix product per delay, for every chunk of rows
        key, steps, feedback = run.key, run.steps, run.feedback
        current, state, params, keep, synapses, grad_output, grad_last = _whole(
            *(run.current, run.state, run.params, run.keep, run.synapses, grad_output, grad_last)
        )
        T, inner, B, N = current.shape
        S, D, count = programs.PROGRAMS[key].states, feedback.delays, T * steps
        filtered = feedback.decay is not None
        turned, recalled = synapses.t().contiguous(), recurrent_adjoint.make_delay_masks(keep, T, steps, D)
        most = max(1, SCRATCH // (count * N * (S + 4)))
        parts: list[tuple[Tensor, Tensor | None, Tensor | None, Tensor]] = []
        for first in range(0, B, most):
            rows = min(most, B - first)
            part = slice(first, first + rows)
            output, of_output = (current.new_empty(D + count, rows, N) for _ in range(2))
            output[:D] = 0.0 if state is None else recurrent_adjoint.reverse_delays(state[S : S + D, part])
            of_output[:D] = 0.0
            of_output[D:] = 0.0 if grad_output is None else grad_output[:, :, part].flatten(0, 1)
            now = current.new_empty(S + filtered, rows, N)
            grad_now = torch.zeros_like(now)
            if grad_last is not None:
                grad_now[:S] = grad_last[:S, part]
                grad_now[S:] = grad_last[S + D :, part]
                for d in range(1, D + 1):
                    if not feedback.cut or d > count:
                        sent = grad_last[S + d - 1, part]
                        of_output[D + count - d] += (
                            sent if recalled is None else sent * recalled[d - 1][-1, part, None]
                        )
            path = current.new_empty(count, S, rows, N)
            grad_drive, arrived = (current.new_empty(count, rows, N) for _ in range(2))
            of_params = None if params is None else current.new_zeros(params.shape[0], rows, N)
            pointers = [current, state, params, keep, synapses, turned, output[D:], now]
            pointers += [path, grad_drive, arrived, of_output, grad_now, of_params]
            whole = (np.int32(feedback.cut), np.int64(first), np.int64(rows))
            values = arguments(pointers, current, steps, run.uniforms, (*_format_feedback(feedback), *whole))
            self._launch(
                f"{key} recurrent",
                1,
                values,
                current,
                rows,
                count_threads(N),
                max(count_shared_bytes(N, feedback), 8 * N),
            )
            of_current, of_weights = grad_drive.view(T, steps, rows, N), []
            for d in range(1, D + 1):
                past = output[D - d : D - d + count]
                past = past if recalled is None else past * recalled[d - 1][:-1, part, None]
                of_weights.append(past.flatten(0, 1).t() @ arrived.flatten(0, 1))
            parts.append(
                (
                    of_current.sum(1, keepdim=True) if inner == 1 else of_current,
                    (
                        None
                        if state is None
                        else torch.cat(
                            [grad_now[:S], recurrent_adjoint.reverse_delays(of_output[:D]), grad_now[S:]]
                        )
                    ),
                    None if of_params is None else of_params.sum(1),
                    of_weights[0] if D == 1 else torch.cat(of_weights),
                )
            )
        if not parts:
            zeros = (
                torch.zeros_like(x) if x is not None else current.new_empty(0)
                for x in (current, state, params)
            )
            return next(zeros), next(zeros), next(zeros), torch.zeros_like(synapses)
        of_currents, of_states, all_params, all_weights = zip(*parts, strict=True)
        return (
            recurrent_adjoint.concat_parts(of_currents, 2),
            current.new_empty(0) if state is None else recurrent_adjoint.concat_parts(of_states, 1),
            current.new_empty(0) if params is None else recurrent_adjoint.sum_parts(all_params),
            recurrent_adjoint.sum_parts(all_weights),
        )

    @override
    def linear_forward(  # pylint: disable=unused-argument
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        if bits is not None:
            self.pack(x, bits)
        return torch.nn.functional.linear(x, weight, bias)

    @override
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        x = self.unpack(bits, inputs)
        return (x.t() @ grad).t(), grad.sum(0) if bias else grad.new_empty(0)

    def pack(self, x: Tensor, bits: Tensor | None = None) -> Tensor:
        """As `Backend.pack` of ``x``; into ``bits``, if given."""
        packed = x.new_empty(x.shape[0], (x.shape[1] + 63) // 64, dtype=torch.int64) if bits is None else bits
        self._bits("spiky_pack", x.contiguous(), packed, x.shape, packed.numel() * 64)
        return packed

    @override
    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        x = bits.new_empty(bits.shape[0], inputs, dtype=torch.float32)
        self._bits("spiky_unpack", bits.contiguous(), x, x.shape, x.numel())
        return x

    def _bits(self, name: str, source_of: Tensor, to: Tensor, shape: Sequence[int], lanes: int) -> None:
        """One of the kernels of `bits_gpu.h`, with as many threads as ``lanes``."""
        values = (source_of.data_ptr(), to.data_ptr(), *map(np.int64, shape))
        if lanes:
            self._run(
                bit_kernels(to.device.index)[name], name, values, to.device, count_blocks(lanes), BLOCK, 0
            )

    def _launch(
        self,
        key: str,
        which: int,
        values: tuple[np.generic | int, ...],
        current: Tensor,
        grid: int,
        block: int = BLOCK,
        shared_bytes: int = 0,
    ) -> None:
        """One kernel on torch's current stream: autograd runs backwards on threads whose CuPy stream is another."""
        if current.shape[2] * current.shape[3] == 0:
            return
        device, name = current.device, key.removesuffix(" recurrent")
        function = compile_kernels(name, device.index, recurrent=name != key)[which]
        if shared_bytes > SHARED:
            try:
                function.max_dynamic_shared_size_bytes = shared_bytes
            except RuntimeError as error:  # what CuPy makes of an error of the driver
                if "CUDA_ERROR_INVALID_VALUE" not in str(error):
                    raise
                raise UserError(
                    f"network.recurrent: {current.shape[3]} neurons in this loop need {shared_bytes} bytes that a block of threads"
                    f" shares, more than {device} has; take fewer neurons or delays, or network.backend: torch"
                ) from error
        label = key if which == 0 else f"{key} backward"
        self._run(function, label, values, device, grid, block, shared_bytes)

    def _run(
        self,
        function: Callable[..., None],
        label: str,
        values: tuple[np.generic | int, ...],
        device: torch.device,
        grid: int,
        block: int,
        shared_bytes: int,
    ) -> None:
        import cupy

        # the stream is taken inside of the device, because CuPy holds it for one of the device that is current
        with cupy.cuda.Device(device.index), cupy.cuda.Stream.from_external(_Stream(device)):
            function((grid,), (block,), values, shared_mem=shared_bytes)
        self.launches[label] += 1


def _format_feedback(feedback: RecurrentFeedback) -> tuple[np.generic, ...]:
    """What the kernels of a recurrent loop are told of it."""
    filtered, decay = np.int32(feedback.decay is not None), np.float32(feedback.decay or 0.0)
    return np.int64(feedback.delays), filtered, decay, np.int32(feedback.binary)


def count_threads(N: int) -> int:
    """Threads of the block that has a row of ``N`` neurons."""
    return min(MOST_THREADS, (N + 31) // 32 * 32)


def count_shared_bytes(N: int, feedback: RecurrentFeedback) -> int:
    """Bytes that they share for ``N`` neurons and a ``feedback``: the output of the last inner steps and of the one at work."""
    return 4 * (feedback.delays + 1) * ((N + 31) // 32 if feedback.binary else N)


def _whole(*tensors: Tensor | None) -> list[Any]:
    """Contiguous, in the type of the first."""
    first = tensors[0]
    assert first is not None
    return [None if t is None else t.to(first.dtype).contiguous() for t in tensors]


def arguments(
    pointers: Sequence[Tensor | None],
    current: Tensor,
    steps: int,
    uniforms: Sequence[float],
    others: tuple[np.generic, ...] = (),
) -> tuple[np.generic | int, ...]:
    """Arguments of a kernel in the order of its text: addresses, sizes and numbers.

    Args:
        pointers: Whose addresses; None: 0.
        current: [T, K or 1, B, N], for the sizes.
        steps: K.
        uniforms: What the kernel computes with besides, the last of all.
        others: What stands before them.
    """
    T, K, B, N = current.shape
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in pointers]
    # CuPy passes a Python int as 64 bits, which suits an address, and a float as a double: numbers have their type
    return (
        *addresses,
        *map(np.int64, (T, steps, B, N)),
        np.int32(K == 1),
        *others,
        *map(np.float32, uniforms),
    )


def count_blocks(lanes: int) -> int:
    """How many blocks of `BLOCK` threads have a thread for every one of so many ``lanes``."""
    return (lanes + BLOCK - 1) // BLOCK


@dataclass(frozen=True)
class _Stream:
    """Torch's current stream of a device, in the protocol by which CuPy takes it; torch's own has it from 2.10 on."""

    device: torch.device

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream(self.device).cuda_stream
