"""Commands in the tests' own process, and how one that is refused answers."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from spiky_rl.cli import common
from tests import processes


def run_command(command: Callable[..., int], arguments: Iterable[object]) -> Any:
    """Run a command in this process, and return its exit code."""
    try:
        return common.run(command, [str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def refused(
    command: Callable[..., int], arguments: Iterable[object], capsys: pytest.CaptureFixture[str]
) -> str:
    """The one line of a command that is refused with exit code 2."""
    code = run_command(command, arguments)
    said = capsys.readouterr().err.splitlines()
    assert code == 2
    errors = [line for line in said if "error:" in line]
    assert len(errors) == 1 and errors[0] == said[-1]
    return errors[0]


def run_lines(lines: Mapping[str, object]) -> dict[str, tuple[int, str]]:
    """Exit codes and stderr of command lines, {case: (command, arguments)}, that Isaac Lab must be imported for: in one process."""
    done = processes.run("-m", "tests.cli.refused", stdin=json.dumps(lines))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("RESULTS")[2])
