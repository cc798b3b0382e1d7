"""``export.py``: write a trained policy for other programs and chips, and prove that it is the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.display import Bar
from spiky_rl.cli.flags import TRAINED, picked
from spiky_rl.config.plan import Request
from spiky_rl.deploy._asked import Export
from spiky_rl.hosts.run.prepare import prepare


def parser() -> common.Parser:
    """The command line."""
    about = "Write a trained policy for other programs and chips."
    return common.Parser("export.py", about, Request, Export, num_envs=1, **TRAINED)


def export(argv: list[str]) -> int:
    """Export as the arguments say."""
    args = parser().read(argv)
    asked, options = picked(Request, args), picked(Export, args)
    targets = options.require(asked)
    plan = prepare(asked)

    from spiky_rl.deploy import _export

    written = _export.exported(plan, options, targets, Bar)
    for path in written:
        print(path)
    if options.report is not None:
        print_report(options.report, [path for path in written if path.suffix == ".c"])
    return 0


def print_report(chip: str, files: Sequence[Path]) -> None:
    """A line per file: bytes of flash, of the struct and of the stack."""
    from spiky_rl.deploy import _chip

    print(f"{'bytes on a ' + chip:<40}{'flash':>10}{'state':>10}{'stack':>10}")
    for path in files:
        found = _chip.footprint(path, chip)
        label = "/".join(path.parts[-2:])
        print(f"{label:<40}{found.flash:>10,}{found.state:>10,}{found.stack:>10,}")
