"""The suite passes in any order: a test's leftovers are put back, and --shuffle runs files and tests in another order."""

import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import processes

SEED = 1
LEAKING = """
import importlib.util, logging, os, signal, sys
import pytest, torch

log = logging.getLogger("spiky_rl")
pyglet = importlib.util.find_spec("pyglet")


def headless():
    return "pyglet" in sys.modules and bool(sys.modules["pyglet"].options["headless"])


def state():
    draws = torch.rand(3, dtype=torch.float32).tolist()
    loggers = [(list(item.handlers), item.level, item.propagate) for item in (log, logging.getLogger("other"))]
    return (
        draws, loggers, [os.environ.get(name) for name in ("SPIKY_RL_CACHE", "PATH")], os.getcwd(),
        list(sys.argv), list(sys.path), signal.getsignal(signal.SIGTERM), torch.get_default_dtype(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, headless(),
    )


torch.manual_seed(0)
BEFORE = state()


def leave_everything_changed(folder):
    assert state() == BEFORE
    log.addHandler(logging.NullHandler())
    log.propagate = False
    log.setLevel(logging.DEBUG)
    os.environ["SPIKY_RL_CACHE"] = "nowhere"
    del os.environ["PATH"]
    os.chdir(folder)
    sys.argv.append("more")
    sys.path.append("more")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # as another library that has torch's newer switches
    torch.backends.cudnn.fp32_precision = "tf32"
    if pyglet is not None:
        import pyglet as drawing
        drawing.options["headless"] = True


def test_one(tmp_path):
    leave_everything_changed(tmp_path)


def test_other(tmp_path):
    leave_everything_changed(tmp_path)
"""
SHARING = '''
import os
import pytest


@pytest.fixture(scope="module", params=["a", "b"])
def simulator(request):
    """Leaves a variable behind, as a file's own fixture may do while the file lasts."""
    os.environ["LEFT"] = "STARTED"
    with open("started.txt", "a") as file:
        file.write("started")


@pytest.mark.parametrize("number", range(3))
def test_shares(simulator, number):
    assert os.environ["LEFT"] == "STARTED"
'''
AFTER = """
import os


def test_of_another_file():
    assert "LEFT" not in os.environ
"""
FILES = {"leaking_a": LEAKING, "leaking_b": LEAKING, "sharing": SHARING, "that_follows": AFTER}


@dataclass(frozen=True)
class Order:
    """What one run of the small suite did."""

    said: str
    tests: list[str]
    """Those that passed, as they ran."""
    started: str


def ran(folder: Path, *more: str) -> Order:
    """A run of a small suite that stands on the real conftest."""
    folder.mkdir()
    (folder / "conftest.py").write_text((processes.ROOT / "tests" / "conftest.py").read_text())
    for name, text in FILES.items():
        (folder / f"test_{name}.py").write_text(text)
    plain = ["-p", "no:cacheprovider", "-p", "no:dash", "-p", "no:xdist", "-v"]
    said = processes.run("-m", "pytest", *plain, *more, cwd=folder).stdout
    tests = [line.split()[0] for line in said.splitlines() if " PASSED " in line]
    return Order(said, tests, (folder / "started.txt").read_text())


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> dict[str, Order]:
    folder = tmp_path_factory.mktemp("suites")
    seeds = {"one": SEED, "again": SEED, "other": SEED + 1}
    shuffled = {name: ran(folder / name, "--shuffle", str(seed)) for name, seed in seeds.items()}
    return {"plain": ran(folder / "plain"), **shuffled}


@pytest.mark.slow
def test_what_a_test_or_a_file_changes_no_other_feels(orders):
    for order in orders.values():
        assert len(order.tests) == 2 + 2 + 6 + 1, order.said


@pytest.mark.slow
def test_a_shuffle_draws_the_order_of_files_and_of_tests_from_its_seed(orders):
    plain, one, again, other = (orders[name].tests for name in ("plain", "one", "again", "other"))
    assert plain == sorted(plain) == sorted(one)
    assert one == again and len({tuple(plain), tuple(one), tuple(other)}) == 3
    files = [name.partition("::")[0] for name in one]
    assert sum(a != b for a, b in itertools.pairwise(files)) == len(set(files)) - 1, "a file stays together"


@pytest.mark.slow
def test_a_shuffle_starts_nothing_twice_that_tests_share(orders):
    assert {order.started for order in orders.values()} == {"started" * 2}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_suite_passes_in_another_order_on_other_workers():
    line = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "--shuffle", str(SEED), "--numprocesses", "2"]
    line += [
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]  # which would sort the files by their number of tests
    done = subprocess.run(
        [sys.executable, *line], cwd=processes.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
