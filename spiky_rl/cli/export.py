"""``export.py``: write a trained policy for other programs and chips, and prove that it is the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import CHECKPOINT_FLAGS, parse_settings
from spiky_rl.deploy._options import ExportOptions
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest


def parser() -> common.Parser:
    """The command line."""
    about = "Write a trained policy for other programs and chips."
    return common.Parser("export.py", about, RunRequest, ExportOptions, num_envs=1, **CHECKPOINT_FLAGS)


def export(argv: list[str]) -> int:
    """Export as the arguments say."""
    args = parser().parse(argv)
    asked, options = parse_settings(RunRequest, args), parse_settings(ExportOptions, args)
    targets = options.check_request(asked)
    plan = make_plan(asked)

    from spiky_rl.deploy import _export

    written = _export.run_export(plan, options, targets, ProgressBar)
    for path in written:
        print(path)
    if options.report is not None:
        print_report(options.report, [path for path in written if path.suffix == ".c"])
    return 0


def print_report(chip: str, files: Sequence[Path]) -> None:
    """A line per file: bytes of flash, of the struct and of the stack."""
    from spiky_rl.deploy import _footprint

    print(f"{'bytes on a ' + chip:<40}{'flash':>10}{'state':>10}{'stack':>10}")
    for path in files:
        found = _footprint.measure_footprint(path, chip)
        label = "/".join(path.parts[-2:])
        print(f"{label:<40}{found.flash:>10,}{found.state:>10,}{found.stack:>10,}")
