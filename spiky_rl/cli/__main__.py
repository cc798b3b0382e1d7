"""The command ``spiky``: ``spiky train ...`` is the same as ``python -m spiky_rl.cli train ...`` and ``scripts/train.py ...``."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import spiky_rl
from spiky_rl.cli.common import run
from spiky_rl.config.registry import PACKAGE, suggest_name

COMMANDS = (
    "classify",
    "compare",
    "demo",
    "evaluate",
    "export",
    "grow",
    "play",
    "publish",
    "report",
    "show",
    "train",
    "tune",
)
CHECKOUT_COMMANDS = {"bench": "benchmarks.start", "verify_gpu": "benchmarks.verify_packages"}
"""Command -> module outside the wheel; available in a checkout of the repository."""


def find_file(command: str) -> Path | None:
    """Return the file of a command; None if it is not part of the installed package."""
    module = CHECKOUT_COMMANDS.get(command)
    if module is None:
        return Path(__file__).with_name(f"{command}.py")
    path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def get_summary(command: str) -> str:
    """Return the one-line description of a command without importing it."""
    if (path := find_file(command)) is None:
        return "only in a checkout of the repository"
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return first.partition(": ")[2]


def main() -> int:
    """Run the command named by the first argument; without an argument, list the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"spiky_rl {spiky_rl.__version__}")
        return 0
    commands = sorted({*COMMANDS, *CHECKOUT_COMMANDS})
    if name in ("-h", "--help"):
        lines = [f"  {command:<12}{get_summary(command)}" for command in commands]
        usage = ["usage: spiky COMMAND ...", "       spiky --version"]
        print("\n".join([*usage, "", *lines, "", "for help: spiky COMMAND --help"]))
        return 0
    if name not in commands:
        sys.stderr.write(
            f"error: command {name!r}: unknown; choose from {', '.join(commands)}{suggest_name(name, commands)}\n"
        )
        return 2
    del sys.argv[1]
    if name in CHECKOUT_COMMANDS:
        return run_checkout_command(name)
    return run(getattr(importlib.import_module(f"spiky_rl.cli.{name}"), name))


def run_checkout_command(name: str) -> int:
    """Run a command of the repository's folder benchmarks/; without the folder, end with one line and exit code 2."""
    if find_file(name) is None:
        sys.stderr.write(
            f"error: {name}: not part of the installed package; run it in a checkout of the repository\n"
        )
        return 2
    if importlib.util.find_spec("benchmarks") is None:
        sys.path.insert(0, str(PACKAGE.parent))
    return importlib.import_module(CHECKOUT_COMMANDS[name]).main()


if __name__ == "__main__":
    raise SystemExit(main())
