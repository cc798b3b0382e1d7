"""CuPy backend: neurons compiled by NVRTC and launched on torch's stream; matrix products are torch's own.

Every tensor is torch's, so kernels can be captured into a CUDA graph: run forward and backward once before the capture,
because a module cannot be loaded during it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiky_rl.kernels import programs

DEVICE = "cuda"
LAUNCHES: Counter[str] = Counter()
"""How often each kernel ran in this process: the proof that it did."""
OPTIONS = ("-std=c++17", "--fmad=false", "-DGPU")
"""No fused multiply-add: the forward is bit-equal to torch's where a neuron needs only arithmetic. CuPy adds -ftz=true, so that
what is below 1.2e-38 is 0 here."""
BLOCK = 128


def extra() -> str:
    """What installs the CuPy for the CUDA that this torch is built for, which the driver supports if torch sees a device."""
    return "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda"


@cache
def available() -> str | None:
    """None: this backend runs; else the reason why not, with the remedy."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; on a machine with one, install NVIDIA's driver and a CUDA build of torch"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; pip install 'spiky-rl[{extra()}]'"
    try:
        import cupy

        if not cupy.is_available():
            return (
                "CuPy sees no CUDA device, although torch does; its build must match the driver's CUDA version:"
                f" remove it (pip uninstall cupy-cuda12x cupy-cuda13x) and pip install 'spiky-rl[{extra()}]'"
            )
        importlib.import_module("cupy.cuda.nvrtc").getVersion()
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a CuPy that does not fit its libraries fails in many ways, each of them a reason
        return f"CuPy does not load ({type(error).__name__}: {error}); reinstall it with pip install 'spiky-rl[{extra()}]'"
    return None


@cache
def kernels(key: str, device: int) -> tuple[Any, Any]:
    """A neuron's compiled forward and backward on one device."""
    import cupy

    with cupy.cuda.Device(device):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("run the network once, forward and backward, before capturing a CUDA graph")
        module = cupy.RawModule(code=programs.source(programs.KNOWN[key]), options=OPTIONS, backend="nvrtc")
        return module.get_function("spiky_forward"), module.get_function("spiky_backward")


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
    """As `cpu_backend.forward`."""
    current, state, params, keep = _whole(current, state, params, keep)
    T, _, B, N = current.shape
    output = current.new_empty(T, steps, B, N)
    final = current.new_empty((programs.KNOWN[key].states, B, N) if last else (0,))
    potentials = current.new_empty((T, steps, B, N) if trace else (0,))
    pointers = [current, state, params, keep, output, final if last else None, potentials if trace else None]
    _launch(key, 0, arguments(pointers, current, steps, uniforms), current)
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
    """As `cpu_backend.backward`."""
    current, state, params, keep, grad_output, grad_last = _whole(
        current, state, params, keep, grad_output, grad_last
    )
    T, _, B, N = current.shape
    grad_current = torch.empty_like(current)
    grad_state = current.new_empty(0) if state is None else torch.empty_like(state)
    grad_params = current.new_empty((0,) if params is None else (params.shape[0], B, N))
    scratch = current.new_empty(T * steps * programs.KNOWN[key].states * B * N)
    pointers = [current, state, params, keep, grad_output, grad_last, grad_current]
    pointers += [None if state is None else grad_state, None if params is None else grad_params, scratch]
    _launch(key, 1, arguments(pointers, current, steps, uniforms), current)
    return grad_current, grad_state, grad_params if params is None else grad_params.sum(1)


def _whole(*tensors: Tensor | None) -> list[Any]:
    """Contiguous, in the type of the first."""
    first = tensors[0]
    assert first is not None
    return [None if t is None else t.to(first.dtype).contiguous() for t in tensors]


def arguments(
    pointers: Sequence[Tensor | None], current: Tensor, steps: int, uniforms: Sequence[float]
) -> tuple[Any, ...]:
    """What a kernel is launched with, in the order of its text: addresses, sizes and numbers."""
    T, K, B, N = current.shape
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in pointers]
    # CuPy passes a Python int as 64 bits, which suits an address, and a float as a double: numbers have their type
    return (*addresses, *map(np.int64, (T, steps, B, N)), np.int32(K == 1), *map(np.float32, uniforms))


def blocks(current: Tensor) -> int:
    """How many blocks of `BLOCK` threads have a thread for every lane."""
    lanes = current.shape[2] * current.shape[3]
    return (lanes + BLOCK - 1) // BLOCK


@dataclass(frozen=True)
class _Stream:
    """Torch's current stream of a device, in the protocol by which CuPy takes it; torch's own has it from 2.10 on."""

    device: torch.device

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream(self.device).cuda_stream


def _launch(key: str, which: int, values: tuple[Any, ...], current: Tensor) -> None:
    """One kernel on torch's current stream: autograd runs backwards on threads whose CuPy stream is another."""
    import cupy

    if current.shape[2] * current.shape[3] == 0:
        return
    device = current.device
    function = kernels(key, device.index)[which]
    # the stream is taken inside of the device, because CuPy holds it for one of the device that is current
    with cupy.cuda.Device(device.index), cupy.cuda.Stream.from_external(_Stream(device)):
        function((blocks(current),), (BLOCK,), values)
    LAUNCHES[key if which == 0 else f"{key} backward"] += 1
