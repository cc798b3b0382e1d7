"""``report.py``: a study's page, from its result files alone."""

from __future__ import annotations

import os
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import require_report
from spiky_rl.config import files
from spiky_rl.config.options import UserError


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(prog="report.py", description="Write a study's report from its result files.")
    found.add_argument("folder", type=Path, help="the study's folder: what compare.py calls --out")
    return found


def report(argv: list[str]) -> int:
    """Write report.html, report.md, figures/ and tensorboard/."""
    folder = parser().parse_args(argv).folder
    if not os.path.isfile(folder / "study.json"):
        raise UserError(f"{str(folder)!r}: is no study's folder; there is no study.json")
    require_report()
    files.require_writable("folder", folder)
    print_report(folder)
    return 0


def print_report(folder: Path) -> None:
    """Write it, from what is finished, and say where it lies."""
    from spiky_rl.experiments.report.hparams import write_hparams
    from spiky_rl.experiments.report.sections import write_report

    for path in (*write_report(folder), write_hparams(folder)):
        print(path)


def main() -> int:
    """Entry point of ``scripts/report.py``."""
    return common.run(report)
