"""A module in the place of CuPy, for a machine without a GPU: it takes what the CuPy backend gives CuPy and refuses what CuPy, NVRTC or
a kernel would not take or would misread, then runs the kernels' text on the host.

`on_the_host` lets the CuPy backend, as it is, run on tensors of the CPU.
"""

import contextlib
import re
import sys
import types
from collections import Counter

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
CAST = re.compile(r"\b(const|unsigned|signed|__restrict__)\b")


def signature(code: str, name: str) -> list[type]:
    """What a kernel takes, parameter by parameter, as its text says."""
    begin = re.search(rf"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?{name}\s*\(", code)
    assert begin, f"the text has no kernel {name}"
    text = code[begin.end() : code.index(")", begin.end())]
    for macro, meaning in re.findall(r"^#define (\w+)[ \t]+(.*)$", code, re.MULTILINE):
        text = re.sub(rf"\b{macro}\b", lambda _, meaning=meaning: meaning, text)
    parameters = [CAST.sub("", parameter).split() for parameter in text.split(",")]
    return [int if any("*" in word for word in words) else KINDS[words[0]] for words in parameters]


class Cupy(types.ModuleType):
    """The module. ``executes``: whether kernels run, or are only looked at."""

    def __init__(self, executes: bool = True) -> None:
        super().__init__("cupy")
        self.executes = executes
        self.launches: Counter[str] = Counter()
        self.shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self.devices: list[int | None] = []
        self.streams: list[int] = []
        self.current_stream = STREAM
        self.RawModule = lambda **given: RawModule(self, **given)
        self.cuda = types.SimpleNamespace(
            Device=self.device, Stream=types.SimpleNamespace(from_external=self.stream)
        )
        self.nvrtc = types.ModuleType("cupy.cuda.nvrtc")

    @contextlib.contextmanager
    def device(self, index):
        self.devices.append(index)
        yield
        self.devices.pop()

    @contextlib.contextmanager
    def stream(self, external):
        assert (
            self.devices
        ), "CuPy holds a stream for one of the device that is current: it is taken inside of it"
        version, handle = external.__cuda_stream__()
        assert version == 0, "the version of the protocol"
        self.streams.append(handle)
        yield
        self.streams.pop()


class RawModule:
    """A module of kernels."""

    def __init__(self, cupy: Cupy, *, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == "nvrtc"
        assert {"-DGPU", "--fmad=false"} <= set(options), "the text's own lanes, and no products contracted"
        self.cupy, self.code, self.devices = cupy, code, list(cupy.devices)
        assert self.devices, "a module is loaded on the device that is current"

    def get_function(self, name: str) -> "Function":
        return Function(self, name)


class Function:
    """A kernel."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name, self.takes = module, name, signature(module.code, name)

    def __call__(self, grid, block, args, *, shared_mem=0) -> None:
        cupy, name = self.module.cupy, self.name
        assert (
            cupy.devices and cupy.devices[-1] == self.module.devices[-1]
        ), f"{name} runs on its module's device"
        assert (
            cupy.streams and cupy.streams[-1] == cupy.current_stream
        ), f"{name} runs on torch's current stream"
        for sizes, most in ((grid, 2**31), (block, MOST_THREADS)):
            assert all(type(size) is int and size > 0 for size in sizes) and np.prod(sizes) <= most, (
                grid,
                block,
            )
        assert shared_mem <= MOST_SHARED
        assert len(args) == len(self.takes), f"{name} takes {len(self.takes)} arguments, not {len(args)}"
        for i, (value, kind) in enumerate(zip(args, self.takes, strict=True)):
            assert (
                type(value) is kind
            ), f"argument {i} of {name} is {kind.__name__}, not {type(value).__name__}"
        cupy.launches[name] += 1
        cupy.shapes.append((name, grid, block))
        if cupy.executes:
            library = host_device.compiled(self.module.code, name)
            host_device.run(library, name, grid, block, args, shared_mem)


def forget() -> None:
    """What is remembered of a CuPy that was there, or was not."""
    for cached in (cupy_backend.kernels, cupy_backend.bit_kernels, dispatch.backend, dispatch.automatic):
        cached.cache_clear()


@contextlib.contextmanager
def installed(executes: bool = True):
    """CuPy and a device for it, as far as the CuPy backend asks; gives the module."""
    cupy = Cupy(executes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        patch.setattr(CUPY, "available", lambda: None)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
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
    """The CuPy backend computes on tensors of the CPU; gives the module in CuPy's place."""
    with installed() as cupy, pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.compiled(), "cpu", "cupy")
        patch.setattr(CUPY, "device", "cpu")
        yield cupy
