"""The commands without a checkout's scripts: ``python -m spiky_rl.cli train --task Isaac-Ant-v0``."""

import importlib
import sys

from spiky_rl.config.registry import nearest

COMMANDS = ("classify", "compare", "evaluate", "export", "grow", "play", "report", "show", "train", "tune")


def main() -> int:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.stderr.write(
            f"error: command {name!r}: choose from {', '.join(COMMANDS)}{nearest(name, COMMANDS)}\n"
        )
        return 2
    del sys.argv[1]
    return importlib.import_module(f"spiky_rl.cli.{name}").main()


if __name__ == "__main__":
    raise SystemExit(main())
