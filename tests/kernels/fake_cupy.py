"""A module in the place of CuPy, for a machine without a GPU: it takes what the CuPy backend gives CuPy and refuses what CuPy, NVRTC or
a kernel would not take or would misread, then runs the kernels' text on the host.

`on_the_host` lets the CuPy backend, as it is, run on tensors of the CPU. The module offers nothing that the real CuPy does not offer in
the same shape: `tests/kernels/test_real_cupy.py` compares the two.
"""

import contextlib
import re
import sys
import types
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch

from spiky_rl.kernels import dispatch
from spiky_rl.kernels.backends import cupy as cupy_backend
from tests.kernels import host_device
from tests.kernels.cases import CUPY

STREAM = 0x5714
"""What torch's current stream is called; a test may make another one current by setting `current_stream`."""
KINDS = {"long": np.int64, "int": np.int32, "float": np.float32}
"""Of a kernel's parameters: what is passed as each of them. A pointer is a plain int."""
MOST_THREADS, MOST_SHARED = 1024, 227 * 1024
"""Of a block, on every device that is compiled for."""
UNASKED_SHARED = 48 * 1024
"""Bytes that a launch may share without `max_dynamic_shared_size_bytes`."""
CAST = re.compile(r"\b(const|unsigned|signed|__restrict__)\b")


def signature(code: str, name: str) -> list[type]:
    """What a kernel takes, parameter by parameter, as its text says."""
    return list(parameters(code, name)[0])


def parameters(code: str, name: str) -> tuple[list[type], list[str]]:
    """The types and names of a kernel's parameters."""
    begin = re.search(rf"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?{name}\s*\(", code)
    assert begin, f"the text has no kernel {name}"
    text = code[begin.end() : code.index(")", begin.end())]
    for macro, meaning in re.findall(r"^#define (\w+)[ \t]+(.*)$", code, re.MULTILINE):
        text = re.sub(rf"\b{macro}\b", lambda _, meaning=meaning: meaning, text)
    words = [CAST.sub("", parameter).split() for parameter in text.split(",")]
    kinds = [int if any("*" in word for word in each) else KINDS[each[0]] for each in words]
    return kinds, [each[-1].lstrip("*") for each in words]


class Cupy:
    """The record of what a fake CuPy was asked for, and the module itself. ``executes``: whether kernels run, or are only looked at."""

    def __init__(self, executes: bool = True) -> None:
        self.executes = executes
        self.launches: Counter[str] = Counter()
        self.on_launch: Callable[[str, dict[str, int]], None] = lambda name, pointers: None
        """Called with the name of each kernel and its pointers, by the names of its parameters."""
        self.shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self.sources: list[str] = []
        """Of the modules that were loaded."""
        self.devices: list[int | None] = []
        """Of the guards that are entered, the innermost last."""
        self.restored: list[int | None] = []
        """Devices that CuPy's guard made current again on exit: it creates a context on each."""
        self.current_device: int | None = 0
        self.current_stream = STREAM
        self.memory = 80 << 30
        """Bytes that the device has: an H100."""
        self.module = make_module(self)

    def find_device(self) -> int | None:
        """The device that is current: torch and CuPy follow each other's guards."""
        return self.devices[-1] if self.devices else self.current_device


def make_torch_guard(record: Cupy) -> type:
    """Make ``torch.cuda.device``, which creates no context on exit."""

    class TorchGuard:
        def __init__(self, device: int) -> None:
            self.idx = device

        def __enter__(self) -> None:
            record.devices.append(self.idx)

        def __exit__(self, *_) -> None:
            record.devices.pop()

    return TorchGuard


def make_module(record: Cupy) -> types.ModuleType:
    """Make the module ``cupy`` that keeps ``record``."""

    class Device:
        def __init__(self, device: int) -> None:
            self.id = device

        def __enter__(self):
            record.devices.append(self.id)
            return self

        def __exit__(self, *_) -> None:
            record.devices.pop()
            record.restored.append(record.find_device())

    class Stream:
        ptr: int

        @classmethod
        def from_external(cls, obj):
            assert (
                record.devices
            ), "CuPy holds a stream for one of the device that is current: it is taken inside of it"
            version, handle = obj.__cuda_stream__()
            assert version == 0, "the version of the protocol"
            stream = cls()
            stream.ptr = handle
            return stream

    class RawKernel:
        __slots__ = (
            "_bytes",
            "_module",
            "_names",
            "_takes",
            "name",
        )  # a name that CuPy's kernel does not have is refused

        def __init__(self, module: "RawModule", name: str) -> None:
            self._module, self.name = module, name
            self._takes, self._names = parameters(module.code, name)
            self._bytes = UNASKED_SHARED

        @property
        def max_dynamic_shared_size_bytes(self) -> int:
            return self._bytes

        @max_dynamic_shared_size_bytes.setter
        def max_dynamic_shared_size_bytes(self, value: int) -> None:
            # CuPy's kernel is one per device: on another one it is compiled anew, and this one's limit stays
            assert (
                record.find_device() == self._module._devices[-1]
            ), f"{self.name}: set on its module's device"
            if value > MOST_SHARED:
                raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
            self._bytes = value

        def __call__(self, grid, block, args, *, shared_mem=0, stream=None) -> None:
            name, module = self.name, self._module
            assert record.find_device() == module._devices[-1], f"{name} runs on its module's device"
            assert (
                type(stream) is Stream and stream.ptr == record.current_stream
            ), f"{name} runs on torch's current stream"
            for sizes, most in ((grid, 2**31), (block, MOST_THREADS)):
                assert type(sizes) is tuple
                assert all(type(size) is int and size > 0 for size in sizes) and np.prod(sizes) <= most, (
                    grid,
                    block,
                )
            assert shared_mem <= self._bytes, f"{name} was not allowed to share {shared_mem} bytes"
            assert len(args) == len(
                self._takes
            ), f"{name} takes {len(self._takes)} arguments, not {len(args)}"
            for i, (value, kind) in enumerate(zip(args, self._takes, strict=True)):
                assert (
                    type(value) is kind
                ), f"argument {i} of {name} is {kind.__name__}, not {type(value).__name__}"
            record.launches[name] += 1
            pairs = zip(self._names, args, self._takes, strict=True)
            record.on_launch(name, {label: value for label, value, kind in pairs if kind is int})
            record.shapes.append((name, grid, block))
            if record.executes:
                library = host_device.compiled(module.code, name)
                host_device.run(library, name, grid, block, args, shared_mem)

    class RawModule:
        def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
            assert type(code) is str and type(options) is tuple, "CuPy takes no other types"
            assert backend == "nvrtc"
            assert {"-DGPU", "--fmad=false"} <= set(
                options
            ), "the text's own lanes, and no products contracted"
            assert record.devices, "a module is loaded on the device that is current"
            self.code, self._devices = code, list(record.devices)
            record.sources.append(code)

        def get_function(self, name: str) -> RawKernel:
            return RawKernel(self, name)

    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    nvrtc = types.ModuleType("cupy_backends.cuda.libs.nvrtc")
    cupy.__spec__, cuda.__spec__ = ModuleSpec("cupy", None), ModuleSpec("cupy.cuda", None)
    nvrtc.getVersion = lambda: (13, 0)
    cuda.Device, cuda.Stream, cuda.nvrtc = Device, Stream, nvrtc
    cuda.runtime = types.ModuleType("cupy_backends.cuda.api.runtime")
    cuda.runtime.getDevice = record.find_device
    cupy.cuda, cupy.RawModule, cupy.RawKernel = cuda, RawModule, RawKernel
    cupy.is_available = lambda: True
    return cupy


def put_in_place(patch: pytest.MonkeyPatch, cupy: types.ModuleType) -> None:
    """Let ``import cupy`` find ``cupy`` and no part of another one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        patch.delitem(sys.modules, name)
    for module in (cupy, cupy.cuda):
        patch.setitem(sys.modules, module.__name__, module)


def forget() -> None:
    """What is remembered of a CuPy that was there, or was not."""
    for cached in (
        cupy_backend.compile_kernels,
        cupy_backend.load_bit_kernels,
        cupy_backend.load_layer_kernels,
        cupy_backend._load_cupy,
        cupy_backend.wrap_stream,
        dispatch.require_backend,
        dispatch.resolve_auto,
    ):
        cached.cache_clear()


@contextlib.contextmanager
def installed(executes: bool = True):
    """CuPy and a device for it, as far as the CuPy backend asks; gives its record."""
    cupy = Cupy(executes)
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, cupy.module)
        patch.setattr(CUPY, "get_unavailable_reason", lambda: None)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.cuda, "current_device", cupy.find_device)
        patch.setattr(torch.cuda, "device", make_torch_guard(cupy))
        patch.setattr(cupy_backend, "get_device_memory", lambda device: cupy.memory)
        patch.setattr(
            torch.cuda,
            "current_stream",
            lambda device: types.SimpleNamespace(device=device, cuda_stream=cupy.current_stream),
        )
        forget()
        try:
            yield cupy
        finally:
            forget()


@contextlib.contextmanager
def on_the_host():
    """The CuPy backend computes on tensors of the CPU; gives the record of what it asked CuPy for."""
    with installed() as cupy, pytest.MonkeyPatch.context() as patch:
        cupy.current_device = None  # the index of a tensor of the CPU
        patch.setitem(dispatch.list_compiled_backends(), "cpu", "cupy")
        patch.setattr(CUPY, "device", "cpu")
        yield cupy
