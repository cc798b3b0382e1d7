"""How a command that is refused answers, for the tests of all commands."""

from spiky_rl.cli import common


def refused(command, arguments, capsys) -> str:
    """The one line of a command that is refused with exit code 2."""
    try:
        code = common.run(command, [str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err.splitlines()
    assert code == 2
    errors = [line for line in said if "error:" in line]
    assert len(errors) == 1 and errors[0] == said[-1]
    return errors[0]
