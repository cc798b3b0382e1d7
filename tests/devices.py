"""The fixture `device`: a CUDA device, and the host in its place, where CuPy's part is played by the kernels' CUDA text.

A test that takes it is two tests. The one marked gpu waits for a CUDA device; the other runs everywhere, so that nothing in it is
tried for the first time on the day when there is one.
"""

import contextlib
from collections.abc import Iterator

import pytest

from spiky_rl.kernels import dispatch
from tests.kernels import fake_cupy
from tests.kernels.cases import CPU, CUPY

CUDA = "cuda:0"
REASON = CUPY.get_unavailable_reason()
GPU = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"backend cupy: {REASON}")]


@pytest.fixture(params=[pytest.param(CUDA, marks=GPU), pytest.param("cpu", id="host")])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where tensors are made; the backend cupy takes them there."""
    if request.param == CUDA:
        yield CUDA
        return
    if reason := CPU.get_unavailable_reason():
        pytest.skip(f"no compiled kernels: {reason}")
    with fake_cupy.on_the_host():
        yield "cpu"


@contextlib.contextmanager
def made_by_the_cpu() -> Iterator[None]:
    """What is made inside is made by the CPU's own kernels, also where the host plays the device: a reservoir's calibration there
    takes minutes."""
    caches = (dispatch.require_backend, dispatch.resolve_auto)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.list_compiled_backends(), "cpu", "cpu")
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()
