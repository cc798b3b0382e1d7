"""A driver too old for torch's CUDA build is answered in one line that says so."""

import ctypes
import types

import pytest
import torch

from spiky_rl.config.options import UserError
from spiky_rl.kernels import cuda_driver
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.run.devices import resolve_device


@pytest.fixture
def machine(monkeypatch):
    """A machine without a usable GPU, whose driver has a version, for a torch built for CUDA 13.0."""

    def of_version(number, built="13.0", code=0):
        class Driver:
            def cuDriverGetVersion(self, place):
                place._obj.value = number
                return code

        def load(name):
            assert name == "libcuda.so.1"
            if number is None:
                raise OSError(name)
            return Driver()

        monkeypatch.setattr(
            cuda_driver, "ctypes", types.SimpleNamespace(CDLL=load, c_int=ctypes.c_int, byref=ctypes.byref)
        )
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return of_version


@pytest.mark.parametrize(
    ("number", "built", "code", "is_old"),
    [
        (12080, "13.0", 0, True),
        (12080, "12.8", 0, False),
        (12020, "12.8", 0, False),
        (13000, "13.0", 0, False),
        (13010, "12.8", 0, False),
        (None, "13.0", 0, False),
        (12080, None, 0, False),
        (12080, "13.0", 3, False),
    ],
)
def test_a_driver_of_an_older_major_version_is_too_old(machine, number, built, code, is_old):
    machine(number, built, code)
    fault = cuda_driver.find_driver_fault()
    assert (fault is not None) == is_old
    if fault:
        assert "CUDA 12.8" in fault and "CUDA 13.0" in fault and "\n" not in fault
    assert ("too old" in (cupy_backend.find_unavailable_reason.__wrapped__() or "")) == is_old


def test_a_run_says_so_once_whether_or_not_it_names_a_device(machine, caplog):
    machine(12080)
    with pytest.raises(UserError, match=r"^--device cuda: .* too old"):
        resolve_device("cuda")
    assert not caplog.records
    assert resolve_device("cpu") == "cpu" and not caplog.records
    assert resolve_device(None) == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "too old" in caplog.text


def test_a_machine_without_a_driver_is_no_fault(machine, caplog):
    machine(None)
    assert resolve_device(None) == "cpu" and not caplog.records
