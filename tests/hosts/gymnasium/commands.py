"""Commands in the tests' own process."""

import pytest

from spiky_rl.cli import common
from spiky_rl.cli.evaluate import evaluate
from spiky_rl.cli.export import export
from spiky_rl.cli.play import play
from spiky_rl.cli.train import train

COMMANDS = {"train": train, "play": play, "evaluate": evaluate, "export": export}


@pytest.fixture
def command(capsys):
    """Runs a command; returns its exit code, stdout and stderr."""

    def run(name: str, *argv: object) -> tuple[int, str, str]:
        try:
            code = common.run(COMMANDS[name], [str(argument) for argument in argv])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run
