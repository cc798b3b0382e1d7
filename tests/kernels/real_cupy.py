"""The CuPy of the environment, told of a device that is not there: it compiles for one along its own path, up to the driver.

What asks for a device is answered in its place; all else is CuPy's own code. A kernel that is got from a module is its name: to load
it takes a driver.
"""

import contextlib
import io
import tempfile
from pathlib import Path

import pytest
import torch

from spiky_rl.kernels.backends import cupy as cupy_backend

ARCHITECTURE = "90"
"""H100 and H200."""


def find_reason() -> str:
    """Return why CuPy's compiler does not run here, empty if it does."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # whatever keeps a CuPy from its libraries
        return f"no NVRTC: {type(error).__name__}: {error}"
    return ""


def tell_of_a_device(patch: pytest.MonkeyPatch) -> None:
    """Let torch and CuPy see one device, as far as they are asked how many there are."""
    import cupy

    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    patch.setattr(cupy.cuda, "_available", None)


@contextlib.contextmanager
def compiling(cache: str | Path, architecture: str = ARCHITECTURE):
    """CuPy compiles for an ``architecture`` and keeps what it compiles in the folder ``cache``; gives the cubins that it would load."""
    import cupy
    from cupy._core import raw
    from cupy.cuda import compiler, function

    cubins: list[bytes] = []

    class Module(function.Module):
        def load(self, cubin):
            cubins.append(cubin)

    class RawModule(cupy.RawModule):
        def get_function(self, name):
            assert isinstance(self.module, Module)  # compiled, or found compiled
            return name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(cupy_backend, "DeviceGuard", contextlib.nullcontext)
        patch.setattr(cupy, "RawModule", RawModule)
        patch.setattr(function, "Module", Module)
        patch.setattr(compiler, "_get_arch", lambda: architecture)
        # both are kept per device, which is asked for
        patch.setattr(raw, "_get_raw_module", raw._get_raw_module.__wrapped__)
        options = compiler._get_arch_for_options_for_nvrtc.__wrapped__
        patch.setattr(compiler, "_get_arch_for_options_for_nvrtc", options)
        patch.setattr(compiler, "_kernel_cache_backend", compiler._DiskKernelCacheBackend(str(cache)))
        yield cubins


def compile_code(code: str, architecture: str, *options: str) -> tuple[bytes, str]:
    """Return the cubin of ``code`` and what the compiler said; ``options``: besides the backend's own."""
    from cupy._core import core

    said, options = io.StringIO(), (*cupy_backend.OPTIONS, *options)
    with tempfile.TemporaryDirectory() as folder, compiling(folder, architecture) as cubins:
        # what a RawModule calls
        core.compile_with_cache(code, options, prepend_cupy_headers=False, log_stream=said)
    return cubins[0], said.getvalue()
