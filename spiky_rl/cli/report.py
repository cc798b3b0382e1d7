"""``spiky report``: write a study's report from its result files."""

from __future__ import annotations

import os
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.config import files
from spiky_rl.config.errors import require_module
from spiky_rl.config.options import UserError
from spiky_rl.experiments.report import FIGURES, TENSORBOARD


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    command_parser = common.Parser("report", "Write a study's report from its result files.")
    command_parser.add_argument("folder", type=Path, help="folder of the study, the --out of spiky compare")
    return command_parser


def report(argv: list[str]) -> int:
    """Write report.html, report.md, figures/ and tensorboard/ into the study's folder."""
    folder = build_parser().parse(argv).folder
    common.announce(f"writing the report of {folder}")
    if not os.path.isfile(folder / "study.json"):
        raise UserError(f"{str(folder)!r}: not the folder of a study; it has no study.json")
    files.require_writable("folder", folder)
    require_report(folder)
    write_and_print_report(folder)
    return 0


def require_report(folder: Path) -> None:
    """Raise UserError if a library for reports is missing, or if a file or link in ``folder`` blocks a folder of the report."""
    for module in ("jinja2", "matplotlib", "tensorboard"):
        require_module(module, "experiments")
    for name in (FIGURES, TENSORBOARD):
        files.require_own_folder(folder / name)


def write_and_print_report(folder: Path) -> None:
    """Write the report on the finished cells and print the paths of its files."""
    from spiky_rl.experiments.analysis.outcome import analyze_study
    from spiky_rl.experiments.report.hparams import write_hparams
    from spiky_rl.experiments.report.sections import write_report

    analysis = analyze_study(folder)
    for path in (*write_report(folder, analysis=analysis), write_hparams(folder, analysis)):
        print(path)
