"""No test feels another, in whatever order and worker they run: the process starts with the same settings for all of them,
draws the same random numbers for each, and is put back after each test and each file.
"""

import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec

# One thread: small tensors are slower on more, and a busy machine makes it forty times so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import pytest
import torch

from spiky_rl.hosts.isaaclab.assets import configure_assets
from tests.gpu_session import pytest_configure  # noqa: F401  # a hook

torch.set_num_threads(1)

# Products and convolutions in float32, in which results are compared. A GPU's convolutions are in TF32 by torch's default, its products
# where TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set, as by verify_gpu.py and in NVIDIA's containers.
torch.set_float32_matmul_precision("highest")
torch.backends.cudnn.allow_tf32 = False

# Isaac Lab reads once, at its import, where its robots lie: said here, before any test can import it.
if find_spec("isaaclab") and find_spec("newton"):
    configure_assets("local")

IMPORTED = ("PXR_PLUGINPATH_NAME", "PYGAME_HIDE_SUPPORT_PROMPT", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that Isaac Lab's packages set when they are imported, which happens once: they stay."""
LOGGERS = (None, "spiky_rl", "isaaclab_mujoco")
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in IMPORTED}


def set_environment(values: dict[str, str]) -> None:
    for name in set(environment()) - set(values):
        del os.environ[name]
    os.environ.update(values)


def logs() -> list[tuple]:
    loggers = map(logging.getLogger, LOGGERS)
    return [(log, list(log.handlers), log.level, log.propagate, log.disabled) for log in loggers]


def set_logs(values: list[tuple]) -> None:
    for log, handlers, level, log.propagate, log.disabled in values:
        log.handlers[:] = handlers
        log.setLevel(level)


def set_handlers(values: list) -> None:
    for number, handler in zip(SIGNALS, values, strict=True):
        if handler is not None:  # none that Python set
            signal.signal(number, handler)


def headless() -> bool | None:
    """Whether pyglet, which keeps it for the process, draws without a screen; None where nothing has imported it."""
    pyglet = sys.modules.get("pyglet")
    return None if pyglet is None else pyglet.options["headless"]


def set_headless(value: bool | None) -> None:
    if headless() is not None:
        sys.modules["pyglet"].options["headless"] = bool(value)


def matmul_precision() -> str | None:
    """The precision of products; None where torch's newer switch says another than the older one, as after mjlab's own commands."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def set_matmul_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


STATE = [
    (headless, set_headless),
    (environment, set_environment),
    (os.getcwd, os.chdir),
    (logs, set_logs),
    (lambda: list(map(signal.getsignal, SIGNALS)), set_handlers),
    (lambda: list(sys.argv), lambda values: sys.argv.__setitem__(slice(None), values)),
    (lambda: list(sys.path), lambda values: sys.path.__setitem__(slice(None), values)),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (matmul_precision, set_matmul_precision),
    (
        lambda: torch.backends.cudnn.fp32_precision,
        lambda value: setattr(torch.backends.cudnn, "fp32_precision", value),
    ),
]
"""What all tests of a process share: how it is read and how it is set."""


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put the process back as it was at the start: what differs, because some of it is slow to set."""
    before = [(read(), read, write) for read, write in STATE]
    try:
        yield
    finally:
        for values, read, write in before:
            if read() != values:
                write(values)


@pytest.fixture(autouse=True, scope="module")
def _file_leaves_no_trace() -> Iterator[None]:
    with restored():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_no_trace(_file_leaves_no_trace) -> Iterator[None]:
    with restored():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before a test's own fixtures, so that what they draw depends on no other test."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffle",
        type=int,
        metavar="SEED",
        help="run the files in an order drawn by SEED, and the tests of each file too",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("shuffle")
    return None if seed is None else f"shuffled: --shuffle {seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The shuffle; pytest then brings together what shares a parametrised fixture of a file."""
    if config.getoption("shuffle") is None:
        return
    draw = random.Random(config.getoption("shuffle"))
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    order = list(files.values())
    draw.shuffle(order)
    for tests in order:
        draw.shuffle(tests)
    items[:] = [item for tests in order for item in tests]
