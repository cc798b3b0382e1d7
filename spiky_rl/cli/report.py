"""``report.py``: a study's page, from its result files alone."""

from __future__ import annotations

import os
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.config import files
from spiky_rl.config.optional_dependencies import require_module
from spiky_rl.config.options import UserError
from spiky_rl.experiments.report import FIGURES, TENSORBOARD


def parser() -> common.Parser:
    """The command line."""
    made = common.Parser("report.py", "Write a study's report from its result files.")
    made.add_argument("folder", type=Path, help="the study's folder: what compare.py calls --out")
    return made


def report(argv: list[str]) -> int:
    """Write report.html, report.md, figures/ and tensorboard/."""
    folder = parser().parse_args(argv).folder
    if not os.path.isfile(folder / "study.json"):
        raise UserError(f"{str(folder)!r}: is no study's folder; there is no study.json")
    files.require_writable("folder", folder)
    require_report(folder)
    write_and_print_report(folder)
    return 0


def require_report(folder: Path) -> None:
    """Raise UserError where what writes a report is not installed, or something lies in the way of it in its ``folder``."""
    for module in ("jinja2", "matplotlib", "tensorboard"):
        require_module(module, "experiments")
    for name in (FIGURES, TENSORBOARD):
        files.require_own_folder(folder / name)


def write_and_print_report(folder: Path) -> None:
    """Write it, from what is finished, and say where it lies."""
    from spiky_rl.experiments.report.hparams import write_hparams
    from spiky_rl.experiments.report.sections import write_report

    for path in (*write_report(folder), write_hparams(folder)):
        print(path)
