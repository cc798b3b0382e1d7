"""Commands in the tests' own process."""

from collections.abc import Callable

import pytest

from spiky_rl.cli.evaluate import evaluate
from spiky_rl.cli.export import export
from spiky_rl.cli.play import play
from spiky_rl.cli.show import show
from spiky_rl.cli.train import train
from tests.cli.refusals import run_command

COMMANDS = {"train": train, "play": play, "evaluate": evaluate, "export": export, "show": show}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code, stdout and stderr."""

    return lambda name, *argv: (run_command(COMMANDS[name], argv), *capsys.readouterr())
