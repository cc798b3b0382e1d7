"""CuPy: neurons compiled by NVRTC and launched on torch's stream; matrix products are torch's own.

All tensors are torch tensors, so kernels can be captured into a CUDA graph. Run forward and backward once before the capture,
because no module can be loaded during a capture.

A lane is one neuron in one sample; there are B N of them. The adjoint of a lane runs backwards through the states before every step,
which it keeps in registers or in scratch memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, reduce
from typing import Any, override

import numpy as np
import torch
from torch import Tensor

from spiky_rl.config.errors import format_install_command
from spiky_rl.config.registry import UserError
from spiky_rl.kernels import compiler, cuda_driver, operators, programs
from spiky_rl.kernels.backends._compiled import CompiledBackend
from spiky_rl.kernels.gpu_stack import GpuStack, LayerKernels
from spiky_rl.kernels.launch import KernelLaunch, RecurrentFeedback, RecurrentLaunch
from spiky_rl.kernels.stack import StackStage

OPTIONS = ("-std=c++17", "--fmad=false", "-DGPU")
"""Options of NVRTC. Without fused multiply-adds the forward is bit-equal to torch's for neurons that only use arithmetic. CuPy adds
-ftz=true, which flushes numbers below 1.2e-38 to 0."""
BLOCK = 128
"""Threads per block of a neuron's kernel."""
MAX_THREADS = 256
"""Maximum threads per block for a row of a recurrent layer; the registers suffice for any neuron."""
SHARED_BYTES = 48 * 1024
"""Shared memory that a block may use without an explicit request."""
SCRATCH_FLOATS = 1 << 26
"""Scratch memory of the adjoint of a stack's layer: 256 MiB, on every device. Other adjoints: see `count_scratch_floats`."""
SCRATCH_SHARE = 1 / 32
"""Share of a device's memory that is scratch memory of any other adjoint, if it is more than `SCRATCH_FLOATS`."""
SUMMING_THREADS = 1 << 20
"""Maximum threads of a layer's kernel that adds up over samples: four waves of an H100. It is the same on every device, because it
determines the order of addition, and so the bits of the sums."""
REGISTER_STEPS = 8
"""Maximum inner steps K of a call whose adjoint keeps everything in registers; such a call is of one control step."""
READERS = 16
"""Maximum outputs F of a linear map for which the kernel of the layer below computes the gradient of the map's input itself."""
REGISTER_FLOATS = 28
"""Maximum floats that a thread keeps in registers: the states of `REGISTER_STEPS` steps, and its neuron's weights in such a map."""


def get_extra_name() -> str:
    """Return the extra that installs CuPy for this torch build's CUDA version; the driver supports it if torch sees a device."""
    return "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda"


def has_cuda_headers() -> bool:
    """Return whether CuPy finds CUDA's headers. It compiles nothing without them, although no kernel includes one."""
    from cuda import pathfinder  # CuPy's own dependency

    return pathfinder.find_nvidia_header_directory("cudart") is not None


@cache
def find_unavailable_reason() -> str | None:
    """Return the reason why kernels cannot run here, with a remedy; None if they can."""
    if torch.version.hip:  # torch calls AMD's devices cuda as well
        return "torch is built for ROCm, and these kernels are for CUDA; on AMD's GPUs use network.backend: torch"
    if not torch.cuda.is_available():
        usual = "on a machine with one, install NVIDIA's driver and a CUDA build of torch"
        return f"torch sees no CUDA device; {cuda_driver.find_driver_fault() or usual}"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; install it {format_install_command(f'.[{get_extra_name()}]')}"
    try:
        import cupy

        if not cupy.is_available():
            return (
                "CuPy sees no CUDA device, although torch does; its build must match the driver's CUDA version:"
                f" {get_reinstall_remedy()}"
            )
        cupy.cuda.nvrtc.getVersion()  # loads NVRTC; cupy.cuda.nvrtc is an attribute, so an import statement would fail
        if not has_cuda_headers():
            package = "cupy-cuda12x" if get_extra_name() == "cuda12" else "cupy-cuda13x"
            return (
                f"CuPy finds no CUDA headers, without which it compiles nothing; pip install '{package}[ctk]', or set CUDA_PATH to the"
                " folder of NVIDIA's CUDA toolkit"
            )
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a CuPy whose libraries do not match fails in many ways; report each
        return f"CuPy does not load ({type(error).__name__}: {error}); {suggest_remedy(error)}"
    return None


def suggest_remedy(error: Exception) -> str:
    """Return a remedy for an ``error`` of CuPy. An OSError with a file name comes from CuPy's cache, written on import and compilation."""
    if isinstance(error, OSError) and error.filename is not None:
        return "set CUPY_CACHE_DIR to a folder that can be written"
    return get_reinstall_remedy()


def get_reinstall_remedy() -> str:
    """Return the remedy for a CuPy that does not fit. It removes both builds, because one beside the other overwrites its files."""
    install = format_install_command(f".[{get_extra_name()}]")
    return f"remove it (pip uninstall cupy-cuda12x cupy-cuda13x) and install it {install}"


@cache
def compile_kernels(key: str, device: int, recurrent: bool = False) -> tuple[Any, ...]:
    """Compile and load forward and backward of the neuron ``key`` on a ``device``, with or without a ``recurrent`` loop."""
    name = "spiky_recurrent" if recurrent else "spiky"
    names = (f"{name}_forward", f"{name}_backward")
    return load_functions(build_source(key, recurrent), names, device)


@cache
def load_layer_kernels(key: str, register_steps: int, readers: int, device: int) -> tuple[Any, ...]:
    """Compile and load forward and backward of a stack's layer of the neuron ``key`` on a ``device``."""
    names = ("spiky_layer_forward", "spiky_layer_backward")
    return load_functions(build_layer_source(key, register_steps, readers), names, device)


@cache
def load_bit_kernels(device: int) -> dict[str, Any]:
    """Load the kernels of `bits_gpu.h` on one ``device``, by name."""
    names = ("spiky_pack", "spiky_unpack")
    return dict(zip(names, load_functions(programs.read_header("bits_gpu"), names, device), strict=True))


def load_functions(code: str, names: Sequence[str], device: int) -> tuple[Any, ...]:
    """Compile ``code`` for a ``device`` and load the kernels called ``names``.

    Raises `CompileError` if CuPy, its libraries or the driver fail.
    """
    cupy = _load_cupy()
    with DeviceGuard(device):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("run the network once, forward and backward, before capturing a CUDA graph")
        try:
            module = cupy.RawModule(code=code, options=OPTIONS, backend="nvrtc")
            return tuple(module.get_function(name) for name in names)
        except Exception as error:
            # missing headers, a device or driver that does not support NVRTC's code, an unwritable cache
            raise compiler.CompileError(
                f"backend 'cupy' loads no kernels on cuda:{device} ({type(error).__name__}: {compiler.find_error_line(str(error))});"
                f" {suggest_remedy(error)}, or use network.backend: torch"
            ) from error


def build_source(key: str, recurrent: bool = False) -> str:
    """Return the text that `compile_kernels` compiles."""
    text = programs.build_source(programs.PROGRAMS[key])
    return f"{text}\n{programs.read_header('recurrent_gpu')}" if recurrent else text


def build_layer_source(key: str, register_steps: int, readers: int) -> str:
    """Return the text that `load_layer_kernels` compiles.

    ``register_steps`` and ``readers`` are ``REGISTER_STEPS`` and ``READERS`` of `layer_gpu.h`.
    """
    constants = f"#define REGISTER_STEPS {register_steps}\n#define READERS {readers}"
    text = programs.build_source(programs.PROGRAMS[key])
    return f"{text}\n{constants}\n{programs.read_header('layer_gpu')}"


class Cupy(LayerKernels, CompiledBackend):
    """Kernels for CUDA devices: neurons and bit packing; torch's own functions do the rest."""

    device = "cuda"

    def get_unavailable_reason(self) -> str | None:
        return find_unavailable_reason()

    @override
    def stack(self, stages: Sequence[StackStage], bfloat16: bool, recompute: bool) -> GpuStack | None:
        # bfloat16 is for CPUs
        if recompute or any(stage.feedback for stage in stages):
            return None
        return GpuStack(self, stages)

    @override
    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        # the product is torch's own; the operator only packs the input for the backward pass
        if binary and torch.is_grad_enabled():
            return operators.linear(x, weight, bias, binary, bfloat16=False)  # bfloat16 is for CPUs
        return _multiply_weights(x, weight, bias)

    @override
    def forward(self, run: KernelLaunch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        key, steps = run.key, run.steps
        current, state, params, keep = _make_contiguous(run.current, run.state, run.params, run.keep)
        B, N = current.shape[2:]
        output, final, potentials = self.allocate_outputs(run, programs.PROGRAMS[key].states, last, trace)
        pointers = [current, state, params, keep, output]
        pointers += [final if last else None, potentials if trace else None]
        values = build_arguments(pointers, current, steps, run.uniforms)
        self._launch(key, 0, values, current, count_blocks(B * N))
        return output, final, potentials

    @override
    def backward(
        self, run: KernelLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        key, steps = run.key, run.steps
        inputs = (run.current, run.state, run.params, run.keep)
        current, state, params, keep, grad_output, grad_last = _make_contiguous(
            *inputs, grad_output, grad_last
        )
        T, _, B, N = current.shape
        grad_current = torch.empty_like(current)
        grad_state = current.new_empty(0) if state is None else torch.empty_like(state)
        grad_params = current.new_empty((0,) if params is None else (params.shape[0], B, N))
        floats_per_lane = T * steps * programs.PROGRAMS[key].states
        max_lanes = choose_part_size(B * N, count_scratch_floats(current.device) // floats_per_lane, BLOCK)
        scratch = current.new_empty(floats_per_lane * min(max_lanes, B * N))
        pointers = [current, state, params, keep, grad_output, grad_last, grad_current]
        pointers += [None if state is None else grad_state, None if params is None else grad_params, scratch]
        for first in range(0, B * N, max_lanes):
            lanes = min(max_lanes, B * N - first)
            part = (np.int64(first), np.int64(lanes))
            values = build_arguments(pointers, current, steps, run.uniforms, part)
            self._launch(key, 1, values, current, count_blocks(lanes))
        return grad_current, grad_state, grad_params if params is None else grad_params.sum(1)

    @override
    def recurrent_forward(
        self, run: RecurrentLaunch, last: bool, trace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        key, steps, feedback = run.key, run.steps, run.feedback
        tensors = _make_contiguous(run.current, run.state, run.params, run.keep, run.synapses)
        current = tensors[0]
        B, N = current.shape[2:]
        states = programs.PROGRAMS[key].states
        output, final, potentials = self.allocate_outputs(run, states + feedback.states, last, trace)
        # scratch memory for the states and the filtered synaptic current in the present inner step
        now = current.new_empty(states + (feedback.decay is not None), B, N)
        pointers = [*tensors, output, now, final if last else None, potentials if trace else None]
        values = build_arguments(pointers, current, steps, run.uniforms, _format_feedback(feedback))
        self._launch(
            key, 0, values, current, B, choose_block_size(N), count_shared_bytes(N, feedback), recurrent=True
        )
        return output, final, potentials

    @override
    def recurrent_backward(
        self, run: RecurrentLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = (run.current, run.state, run.params, run.keep, run.synapses)
        current, state, params, keep, synapses, grad_output, grad_last = _make_contiguous(
            *inputs, grad_output, grad_last
        )
        run = replace(run, current=current, state=state, params=params, keep=keep, synapses=synapses)
        T, _, B, N = current.shape
        # per inner step and neuron: the states, and one float each of output, grad_spikes, grad_drive and grad_synaptic in _backward_rows
        floats_per_row = T * run.steps * N * (programs.PROGRAMS[run.key].states + 4)
        max_rows = choose_part_size(B, count_scratch_floats(current.device) // floats_per_row, 1)
        transposed = synapses.t().contiguous()
        masks = _make_delay_masks(run.keep, T, run.steps, run.feedback.delays)
        parts = [
            self._backward_rows(
                run, grad_output, grad_last, transposed, masks, slice(first, min(first + max_rows, B))
            )
            for first in range(0, B, max_rows)
        ]
        if not parts:  # B = 0
            grad_state, grad_params = (
                current.new_empty(0) if x is None else torch.zeros_like(x) for x in (state, params)
            )
            return torch.zeros_like(current), grad_state, grad_params, torch.zeros_like(synapses)
        grad_currents, grad_states, all_params, all_weights = zip(*parts, strict=True)
        return (
            _concat_parts(grad_currents, 2),
            current.new_empty(0) if state is None else _concat_parts(grad_states, 1),
            current.new_empty(0) if params is None else reduce(torch.add, all_params),
            reduce(torch.add, all_weights),
        )

    def _backward_rows(
        self,
        run: RecurrentLaunch,
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        transposed: Tensor,
        masks: list[Tensor] | None,
        part: slice,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Return the gradients of current, state, parameters and synapses, for a ``part`` of the rows (samples).

        It takes one launch, and one matrix product per delay.

        Args:
            run: The launch, with contiguous tensors.
            grad_output: [T, K, B, N]; None for zero.
            grad_last: Gradient of the states after the last step, [S, B, N]; None for zero.
            transposed: The synapses' transpose [N, D N], contiguous.
            masks: From `_make_delay_masks`.
            part: The rows.
        """
        key, steps, feedback, current, state = run.key, run.steps, run.feedback, run.current, run.state
        T, _, _, N = current.shape
        rows, filtered = part.stop - part.start, feedback.decay is not None
        S, D, count = programs.PROGRAMS[key].states, feedback.delays, T * steps
        # outputs and their gradients, beginning D inner steps before the first step
        output, grad_spikes = (current.new_empty(D + count, rows, N) for _ in range(2))
        output[:D] = 0.0 if state is None else _reverse_delays(state[S : S + D, part])
        grad_spikes[:D] = 0.0
        grad_spikes[D:] = 0.0 if grad_output is None else grad_output[:, :, part].flatten(0, 1)
        # states and filtered current of the present step, and their gradients, which the kernel moves backwards in time: from after the
        # last step to before the first
        now = current.new_empty(S + filtered, rows, N)
        grad_now = torch.zeros_like(now)
        if grad_last is not None:
            grad_now[:S] = grad_last[:S, part]
            grad_now[S:] = grad_last[S + D :, part]
            for d in range(1, D + 1):
                if not feedback.cut or d > count:
                    grad_delayed = grad_last[S + d - 1, part]
                    reached = grad_delayed if masks is None else grad_delayed * masks[d - 1][-1, part, None]
                    grad_spikes[D + count - d] += reached
        path = current.new_empty(count, S, rows, N)  # the states before every step
        # gradients of the neurons' whole current and of the synaptic current I
        grad_drive, grad_synaptic = (current.new_empty(count, rows, N) for _ in range(2))
        grad_params = None if run.params is None else current.new_zeros(run.params.shape[0], rows, N)
        pointers = [current, state, run.params, run.keep, run.synapses, transposed, output[D:], now]
        pointers += [path, grad_drive, grad_synaptic, grad_spikes, grad_now, grad_params]
        others = _format_feedback(feedback)
        others += (np.int32(feedback.cut), np.int64(part.start), np.int64(rows))
        values = build_arguments(pointers, current, steps, run.uniforms, others)
        gradient_bytes = 2 * 4 * N  # the gradient of I in the present and the previous step
        shared_bytes = max(count_shared_bytes(N, feedback), gradient_bytes)
        self._launch(key, 1, values, current, rows, choose_block_size(N), shared_bytes, recurrent=True)
        grad_weights = []
        for d in range(1, D + 1):
            past = output[D - d : D - d + count]
            past = past if masks is None else past * masks[d - 1][:-1, part, None]
            grad_weights.append(past.flatten(0, 1).t() @ grad_synaptic.flatten(0, 1))
        grad_current = grad_drive.view(T, steps, rows, N)
        grad_state = None
        if state is not None:
            grad_state = torch.cat([grad_now[:S], _reverse_delays(grad_spikes[:D]), grad_now[S:]])
        return (
            grad_current.sum(1, keepdim=True) if current.shape[1] == 1 else grad_current,
            grad_state,
            None if grad_params is None else grad_params.sum(1),
            grad_weights[0] if D == 1 else torch.cat(grad_weights),
        )

    @override
    def allocate_activity(self, like: Tensor, widths: Sequence[int]) -> Tensor:
        return like.new_empty(count_rows(like.shape[2], max(widths)), sum(widths))

    @override
    def layer_forward(
        self, run: KernelLaunch, offset: Tensor | None, activity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        current, state, steps = run.current, run.state, run.steps
        T, _, B, N = current.shape
        output = current.new_empty((T, steps, B, N) if offset is None else (T, B, N))
        last = None if state is None else torch.empty_like(state)
        rows = B if activity is None else activity.shape[0]
        row_stride = 0 if activity is None else activity.stride(0)
        # weight of an event in its row; the mean of the rows is then the mean over all samples and inner steps
        share = rows / max(T * steps * B, 1)
        values = build_arguments(
            (current, state, run.params, run.keep, offset, output, last, activity),
            current,
            steps,
            run.uniforms,
            _format_layer(offset is not None, rows * N, row_stride, share),
        )
        self._launch_layer(run, 0, values, rows * N, 0)
        return output, last

    @override
    def layer_backward(
        self,
        run: KernelLaunch,
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        grad_activity: Tensor | None,
        last_step: bool,
        needs_state: bool,
        needs_sums: bool,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        current, state, steps = run.current, run.state, run.steps
        T, _, B, N = current.shape
        in_registers = self.count_register_steps(run) > 0
        floats_per_lane = 0 if in_registers else T * steps * programs.PROGRAMS[run.key].states
        rows = count_rows(B, N, floats_per_lane) if needs_sums or floats_per_lane else B
        grad_current = torch.empty_like(current)
        grad_state = torch.empty_like(state) if needs_state and state is not None else None
        params = 0 if run.params is None else run.params.shape[0]
        sums = current.new_empty(1 + params, rows, N) if needs_sums else None
        scratch = current.new_empty(floats_per_lane * rows * N) if floats_per_lane else None
        given = (grad_output, weight, grad_last, grad_activity)
        given = [None if x is None else x.contiguous() for x in given]
        pointers = [current, state, run.params, run.keep, *given, grad_current, grad_state, sums, scratch]
        share = 1.0 / max(T * steps * B, 1)  # weight of an event in the mean over all samples and inner steps
        others = _format_layer(last_step, rows * N, None, share)
        values = build_arguments(pointers, current, steps, run.uniforms, others)
        self._launch_layer(run, 1, values, rows * N, 0 if weight is None else weight.shape[0])
        return grad_current, grad_state, sums

    @override
    def can_read_back(self, run: KernelLaunch, outputs: int) -> bool:
        fits = outputs <= READERS and count_register_floats(run) + outputs <= REGISTER_FLOATS
        return self.count_register_steps(run) > 0 and fits

    @staticmethod
    def count_register_steps(run: KernelLaunch) -> int:
        """Return the inner steps of a ``run`` whose adjoint fits into registers, 0 if it does not."""
        fits = run.steps <= REGISTER_STEPS and count_register_floats(run) <= REGISTER_FLOATS
        return run.steps if run.current.shape[0] == 1 and fits else 0

    @override
    def linear_forward(  # pylint: disable=unused-argument
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        if bits is not None:
            self.pack(x, bits)
        return _multiply_weights(x, weight, bias)

    @override
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        x = self.unpack(bits, inputs)
        return (x.t() @ grad).t(), grad.sum(0) if bias else grad.new_empty(0)

    def pack(self, x: Tensor, bits: Tensor | None = None) -> Tensor:
        """Run `Backend.pack`; write into ``bits`` if given."""
        if bits is None:
            bits = x.new_empty(x.shape[0], programs.count_words(x.shape[1]), dtype=torch.int64)
        self._run_bit_kernel("spiky_pack", x.contiguous(), bits, x.shape)
        return bits

    @override
    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        x = bits.new_empty(bits.shape[0], inputs, dtype=torch.float32)
        self._run_bit_kernel("spiky_unpack", bits.contiguous(), x, x.shape)
        return x

    def _run_bit_kernel(self, name: str, source: Tensor, to: Tensor, shape: Sequence[int]) -> None:
        """Run the kernel ``name`` of `bits_gpu.h` on floats of this ``shape`` [rows, C]."""
        rows, inputs = shape
        if rows * inputs == 0:
            return
        width = programs.count_words(inputs) * 64
        threads = count_rows(rows, width) * width
        values = (source.data_ptr(), to.data_ptr(), *map(np.int64, (rows, inputs, threads)))
        kernel = load_bit_kernels(to.device.index)[name]
        self._run(kernel, name, values, to.device, count_blocks(threads), BLOCK, 0)

    def _launch(
        self,
        key: str,
        which: int,
        values: tuple[np.generic | int, ...],
        current: Tensor,
        grid: int,
        block: int = BLOCK,
        shared_bytes: int = 0,
        recurrent: bool = False,
    ) -> None:
        """Launch the forward (``which`` 0) or backward (1) kernel of the neuron ``key``, with or without a ``recurrent`` loop."""
        if current.shape[2] * current.shape[3] == 0:
            return
        device = current.device
        function = compile_kernels(key, device.index, recurrent=recurrent)[which]
        if shared_bytes > SHARED_BYTES:
            try:
                # CuPy sets it for the kernel on its current device, which may not be that of the tensors
                with DeviceGuard(device.index):
                    function.max_dynamic_shared_size_bytes = shared_bytes
            except RuntimeError as error:  # CuPy's error for a failed driver call
                if "CUDA_ERROR_INVALID_VALUE" not in str(error):
                    raise
                raise UserError(
                    f"network.recurrent: {current.shape[3]} neurons in this loop need {shared_bytes} bytes of shared memory per"
                    f" block, more than {device} has; use fewer neurons or delays, or network.backend: torch"
                ) from error
        label = f"{key} recurrent" if recurrent else key
        self._run(
            function, label if which == 0 else f"{label} backward", values, device, grid, block, shared_bytes
        )

    def _launch_layer(
        self, run: KernelLaunch, which: int, values: tuple[np.generic | int, ...], threads: int, readers: int
    ) -> None:
        """Launch the forward (``which`` 0) or backward (1) kernel of a stack's layer."""
        if threads == 0:
            return
        device, steps = run.current.device, self.count_register_steps(run)
        function = load_layer_kernels(run.key, steps, readers, device.index)[which]
        label = f"{run.key} layer" if which == 0 else f"{run.key} layer backward"
        self._run(function, label, values, device, count_blocks(threads), BLOCK, 0)

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
        """Run ``function`` on torch's current stream, because in autograd's backward threads CuPy's current stream is another one."""
        index = device.index
        stream = wrap_stream(index, torch.cuda.current_stream(device).cuda_stream)
        if is_current_device(index):
            function((grid,), (block,), values, shared_mem=shared_bytes, stream=stream)
        else:
            with DeviceGuard(index):
                function((grid,), (block,), values, shared_mem=shared_bytes, stream=stream)
        self.launches[label] += 1


def _multiply_weights(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the linear map of ``x`` in float32, in which the neurons' kernels compute, also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.linear(x, weight, bias)


def _format_feedback(feedback: RecurrentFeedback) -> tuple[np.generic, ...]:
    """Format the feedback settings as kernel arguments."""
    filtered, decay = np.int32(feedback.decay is not None), np.float32(feedback.decay or 0.0)
    return np.int64(feedback.delays), filtered, decay, np.int32(feedback.binary)


def choose_block_size(N: int) -> int:
    """Return the number of threads of the block that runs a row of ``N`` neurons."""
    return min(MAX_THREADS, (N + 31) // 32 * 32)


def count_shared_bytes(N: int, feedback: RecurrentFeedback) -> int:
    """Return the shared memory of a block for ``N`` neurons: their outputs in the last D inner steps and in the present one."""
    return 4 * (feedback.delays + 1) * ((N + 31) // 32 if feedback.binary else N)


def _make_contiguous(*tensors: Tensor | None) -> list[Any]:
    """Return the tensors contiguous and in the type of the first."""
    first = tensors[0]
    assert first is not None
    return [None if t is None else t.to(first.dtype).contiguous() for t in tensors]


def build_arguments(
    pointers: Sequence[Tensor | None],
    current: Tensor,
    steps: int,
    uniforms: Sequence[float],
    others: tuple[np.generic, ...] = (),
) -> tuple[np.generic | int, ...]:
    """Return the arguments of a kernel in the order of its text: addresses, sizes and numbers.

    Args:
        pointers: Tensors to pass by address; None is address 0.
        current: [T, K or 1, B, N], for the sizes.
        steps: K.
        uniforms: The last arguments, as floats.
        others: Arguments between the sizes and the uniforms.
    """
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in pointers]
    T, K, B, N = current.shape
    return (*addresses, *_format_sizes(T, steps, B, N, K == 1), *others, *_format_numbers(tuple(uniforms)))


# CuPy passes a Python int as 64 bits, which suits an address, and a Python float as a double, so all other numbers need numpy types.
# Making them takes longer than a look-up in a cache.
@lru_cache(maxsize=4096)
def _format_sizes(T: int, K: int, B: int, N: int, constant: bool) -> tuple[np.generic, ...]:
    return *map(np.int64, (T, K, B, N)), np.int32(constant)


@lru_cache(maxsize=4096)
def _format_numbers(numbers: tuple[float, ...]) -> tuple[np.generic, ...]:
    return tuple(map(np.float32, numbers))


@lru_cache(maxsize=4096)
def _format_layer(
    last_step: bool, threads: int, row_stride: int | None, share: float
) -> tuple[np.generic, ...]:
    """Format the numbers of a layer's kernel: ``last_step threads width share`` of `layer_gpu.h`.

    ``row_stride`` is the stride of the rows of activity; the backward kernel has no such argument, so it is None there.
    """
    width = () if row_stride is None else (np.int64(row_stride),)
    return np.int32(last_step), np.int64(threads), *width, np.float32(share)


def count_register_floats(run: KernelLaunch) -> int:
    """Return the number of floats that the states of one lane take, over all inner steps of a control step of ``run``."""
    return run.steps * programs.PROGRAMS[run.key].states


def count_scratch_floats(device: torch.device) -> int:
    """Return the size of the scratch memory of an adjoint on a ``device``, in floats, except for the layers of a stack.

    It follows the device's whole memory, not the free memory, so that equal runs on equal devices add in the same order.
    """
    return max(SCRATCH_FLOATS, int(get_device_memory(device) * SCRATCH_SHARE) // 4)


def get_device_memory(device: torch.device) -> int:
    """Return the whole memory of a GPU in bytes; 0 on the host, where tests run the text of the kernels."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def choose_part_size(count: int, limit: int, unit: int) -> int:
    """Return the size of one part if ``count`` is divided into the fewest parts of at most ``limit``, as equal as possible.

    The size is a multiple of ``unit``. It exceeds ``limit`` only if the limit is less than one unit.
    """
    largest = max(unit, limit // unit * unit)
    parts = max(1, _ceil_div(count, largest))
    return max(unit, _ceil_div(count, parts * unit) * unit)


def count_rows(B: int, N: int, scratch_floats: int = 0) -> int:
    """Return the rows of ``N`` threads, one per neuron, that share the ``B`` samples in a kernel that adds up over samples.

    ``scratch_floats`` is the number of floats of scratch memory per thread.
    """
    threads = SUMMING_THREADS
    if scratch_floats:
        threads = min(threads, SCRATCH_FLOATS // scratch_floats)
    rows = max(1, min(B, threads // max(N, 1)))
    # the fewest rows with this many samples per thread, so that all threads have almost equally many
    samples_per_thread = _ceil_div(B, rows)
    return _ceil_div(B, samples_per_thread) if B else 1


def count_blocks(lanes: int) -> int:
    """Return how many blocks of `BLOCK` threads cover ``lanes``."""
    return _ceil_div(lanes, BLOCK)


def _ceil_div(count: int, size: int) -> int:
    """Return how many groups of ``size`` hold ``count``."""
    return -(-count // size)


def _concat_parts(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Return ``parts`` concatenated along ``dim``."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _reverse_delays(past: Tensor) -> Tensor:
    """Return ``past`` [D, ...] in reverse order: latest first becomes earliest first, and back."""
    return past if len(past) == 1 else past.flip(0)


def _make_delay_masks(keep: Tensor | None, T: int, steps: int, delays: int) -> list[Tensor] | None:
    """Return one mask [T K + 1, B] per delay: 1 where a step still receives the delayed output, 0 where an episode began in between.

    The last row is for the step after the run, which reads the final state.

    Args:
        keep: [T, B]; 0 where an episode begins. With None no episode begins, and the result is None.
        T: Control steps.
        steps: K.
        delays: D.
    """
    if keep is None:
        return None
    B = keep.shape[1]
    keep_inner = keep.new_ones(T * steps + 1, B)
    keep_inner[:-1].view(T, steps, B)[:, 0] = keep
    masks = [keep_inner]
    for d in range(1, delays):
        shifted = torch.cat([keep_inner.new_ones(min(d, len(keep_inner)), B), keep_inner])[: len(keep_inner)]
        masks.append(masks[-1] * shifted)
    return masks


@cache
def _load_cupy() -> Any:
    """Return the module ``cupy``; an import statement in every launch takes longer."""
    import cupy

    return cupy


def is_current_device(index: int | None) -> bool:
    """Return whether torch and CuPy both launch on device ``index`` in this thread, so that no device must be made current."""
    return torch.cuda.current_device() == index and _load_cupy().cuda.runtime.getDevice() == index


class DeviceGuard:
    """Context in which torch and CuPy launch on device ``index``.

    It is torch's guard, which on exit creates no context (hundreds of MB) on the earlier device. CuPy's guard would, so it is entered only
    if CuPy does not follow torch. A generator function in place of the class would add a microsecond to a launch.
    """

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.torch_guard, self.cupy_guard = torch.cuda.device(index), None

    def __enter__(self) -> None:
        self.torch_guard.__enter__()
        cupy = _load_cupy()
        if cupy.cuda.runtime.getDevice() != self.index:
            self.cupy_guard = cupy.cuda.Device(self.index)
            self.cupy_guard.__enter__()

    def __exit__(self, *exception: object) -> None:
        if self.cupy_guard is not None:
            self.cupy_guard.__exit__(*exception)
        self.torch_guard.__exit__(*exception)


@cache
def wrap_stream(device: int, handle: int) -> Any:
    """Return torch's stream with this ``handle`` as a stream of CuPy. Torch never destroys a stream, so a handle stays valid."""
    cupy = _load_cupy()
    # inside the guard, because CuPy assigns a stream to the current device
    with DeviceGuard(device):
        return cupy.cuda.Stream.from_external(_Stream(handle))


@dataclass(frozen=True)
class _Stream:
    """A stream with the protocol that CuPy needs; torch's own streams have it from 2.10 on."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle
