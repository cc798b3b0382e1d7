"""Sessions with and without the tests marked gpu.

A call that selects them fails at its end where torch sees a device and they did not run, and says so without one. A call that leaves
all of them out sees no device: the other tests are written for the CPU, where commands without ``--device`` run.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from _pytest.mark.expression import Expression

MARK = "gpu"


def selects(expression: str) -> bool:
    """Whether an ``expression`` of ``-m`` asks for the tests with the mark, and not just for all."""
    return bool(expression) and Expression.compile(expression).evaluate(lambda name, **_: name == MARK)


def leaves_out(expression: str) -> bool:
    """Whether an ``expression`` of ``-m`` selects no test with the mark, slow or not."""
    if not expression:
        return False
    compiled = Expression.compile(expression)
    return not any(compiled.evaluate(lambda name, **_: name in marks) for marks in ({MARK}, {MARK, "slow"}))


class GpuSession:
    """Counts the marked tests that ran, and judges the session by them."""

    def __init__(self) -> None:
        self.ran = 0
        self.reasons: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if MARK not in report.keywords:
            return
        if report.skipped:
            self.reasons[str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "xfail")] += 1
        elif report.when == "call" or report.failed:
            self.ran += 1

    def find_refusal(self) -> str | None:
        """Return why tests on the device that torch sees are worth nothing, or None if they are or there is no device."""
        from spiky_rl.kernels import dispatch

        if not torch.cuda.is_available():
            return None
        if reason := dispatch.get_backend("cupy").get_unavailable_reason():
            return f"backend cupy: {reason}"
        return None if self.ran else (self.reasons.most_common(1) or [("none was selected", 0)])[0][0]

    def describe(self) -> str:
        """Return the line that closes the session, empty if there is nothing to say."""
        if refusal := self.find_refusal():
            return f"error: torch sees a CUDA device, and {self.ran} tests ran on it: {refusal}"
        if self.ran or torch.cuda.is_available():
            return ""
        return f"No test marked {MARK} ran ({self.reasons.total()} skipped): torch sees no CUDA device."

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if session.exitstatus == pytest.ExitCode.OK and self.find_refusal():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield
        if line := self.describe():  # below pytest's own last line
            session.config.get_terminal_writer().line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Judge the sessions that select the mark; workers of pytest-xdist report to their controller, which does. Hide devices from others."""
    if leaves_out(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for devices
    if selects(config.option.markexpr) and not (config.option.collectonly or hasattr(config, "workerinput")):
        config.pluginmanager.register(GpuSession(), "gpu session")
