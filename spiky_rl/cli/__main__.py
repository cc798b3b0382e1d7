"""The command ``spiky``: ``spiky train ...`` is the same as ``python -m spiky_rl.cli train ...`` and ``scripts/train.py ...``."""

import ast
import importlib
import sys
from pathlib import Path

from spiky_rl.cli.common import run
from spiky_rl.config.registry import suggest_name

COMMANDS = ("classify", "compare", "evaluate", "export", "grow", "play", "report", "show", "train", "tune")


def get_summary(command: str) -> str:
    """Return the one-line description of a command without importing it."""
    text = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return first.partition(": ")[2]


def main() -> int:
    """Run the command named by the first argument; without an argument, list the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {command:<10}{get_summary(command)}" for command in COMMANDS]
        print("\n".join(["usage: spiky COMMAND ...", "", *lines, "", "for help: spiky COMMAND --help"]))
        return 0
    if name not in COMMANDS:
        sys.stderr.write(
            f"error: command {name!r}: unknown; choose from {', '.join(COMMANDS)}{suggest_name(name, COMMANDS)}\n"
        )
        return 2
    del sys.argv[1]
    return run(getattr(importlib.import_module(f"spiky_rl.cli.{name}"), name))


if __name__ == "__main__":
    raise SystemExit(main())
