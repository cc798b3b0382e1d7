"""A call for the tests marked gpu fails where torch sees a device and none of them ran on it."""

import pytest
import torch

from tests.gpu_session import leaves_out, selects
from tests.kernels.cases import CUPY

pytest_plugins = ["pytester"]

SKIPPED = """
import pytest
pytestmark = pytest.mark.gpu
@pytest.mark.parametrize("number", range(3))
@pytest.mark.skipif(True, reason="the stars are wrong")
def test_kernels(number): pass
"""
RUNS = SKIPPED + "\ndef test_runs(): pass\n"
FAILS = SKIPPED + "\ndef test_fails(): assert False\n"
BROKEN = SKIPPED + "\n@pytest.fixture\ndef no_memory(): raise MemoryError\ndef test_broken(no_memory): pass\n"
REFUSES = "CuPy is not installed; pip install it"

CASES = {
    "nothing ran": (
        True,
        None,
        SKIPPED,
        (),
        1,
        "error: torch sees a CUDA device, and 0 tests ran on it: Skipped: the stars",
    ),
    "the backend refuses": (True, REFUSES, SKIPPED, (), 1, f"0 tests ran on it: backend cupy: {REFUSES}"),
    "it refuses beside tests that ran": (
        True,
        REFUSES,
        RUNS,
        (),
        1,
        f"1 tests ran on it: backend cupy: {REFUSES}",
    ),
    "some ran": (True, None, RUNS, (), 0, ""),
    "one failed": (True, None, FAILS, (), 1, ""),
    "one broke before it ran": (True, None, BROKEN, (), 1, ""),
    "no device": (
        False,
        REFUSES,
        SKIPPED,
        (),
        0,
        "No test marked gpu ran (3 skipped): torch sees no CUDA device.",
    ),
    "others are asked for": (True, REFUSES, SKIPPED, ("-m", "not gpu"), 5, ""),
    "all are asked for": (True, REFUSES, RUNS, ("-m", ""), 0, ""),
    "they are only listed": (True, REFUSES, SKIPPED, ("--collect-only",), 0, ""),
}
WORKERS = {
    "workers run none": (
        True,
        None,
        SKIPPED,
        ("-n", "1"),
        1,
        "and 0 tests ran on it: Skipped: the stars are wrong",
    ),
    "workers run some": (True, None, RUNS, ("-n", "1"), 0, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *WORKERS])
def test_a_call_for_gpu_tests_fails_where_a_device_is_seen_and_none_ran(case, pytester, monkeypatch):
    device, reason, text, arguments, code, line = (CASES | WORKERS)[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(CUPY, "get_unavailable_reason", lambda: reason)
    pytester.makepyfile(test_small=text)
    plugins = ("-p", "no:cacheprovider", "-p", "no:dash", "-p", "tests.gpu_session")
    done = pytester.runpytest_inprocess(*plugins, "-m", "gpu", *arguments)
    output = done.stdout.str()
    assert done.ret == code
    assert not line or line in output.splitlines()[-1], "the last line says it"
    assert ("tests ran on it" in output or "ran (" in output) == bool(line)


def test_the_mark_is_asked_for_by_name():
    asked = {"gpu": True, "gpu and not slow": True, "": False, "not gpu": False, "slow and not gpu": False}
    assert {expression: selects(expression) for expression in asked} == asked


def test_a_call_without_any_test_of_the_mark_sees_no_device(pytester, monkeypatch):
    left_out = {"not slow and not gpu": True, "slow and not gpu": True, "not gpu": True}
    left_out |= {"": False, "gpu": False, "slow": False, "gpu and not slow": False, "gpu and slow": False}
    assert {expression: leaves_out(expression) for expression in left_out} == left_out
    pytester.makepyfile("import os\ndef test_asks(): assert os.environ['CUDA_VISIBLE_DEVICES'] == ''")
    for expression, failed in (("not gpu", 0), ("", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        plugins = ("-p", "no:cacheprovider", "-p", "no:dash", "-p", "tests.gpu_session")
        done = pytester.runpytest_inprocess(*plugins, "-m", expression)
        done.assert_outcomes(passed=1 - failed, failed=failed)
