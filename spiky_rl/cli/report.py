"""``report.py``: a study's page, from its result files alone."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from spiky_rl.cli import common


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(prog="report.py", description="Write a study's report from its result files.")
    found.add_argument("folder", type=Path, help="the study's folder: what compare.py calls --out")
    return found


def report(argv: list[str]) -> int:
    """Write report.html, report.md, figures/ and tensorboard/."""
    folder = parser().parse_args(argv).folder
    if not os.path.isfile(folder / "study.json"):
        raise common.UsageError(f"{str(folder)!r}: is no study's folder; there is no study.json")
    require_report()
    require_writable("folder", folder)
    print_report(folder)
    return 0


def require_report() -> None:
    """Raise UsageError where what writes a report is not installed."""
    for module in ("jinja2", "matplotlib", "tensorboard"):
        common.require(module, "experiments")


def require_writable(name: str, folder: Path) -> None:
    """Raise UsageError where a study's folder, which ``name`` gives, can neither be written to nor made."""
    probe = folder.absolute()
    while not os.path.lexists(probe):
        probe = probe.parent
    if not os.path.isdir(probe):
        raise common.UsageError(f"{name}: {str(folder)!r}: {str(probe)!r} is no folder")
    try:
        with tempfile.TemporaryFile(dir=probe):  # as root, or on some file systems, permissions do not tell
            pass
        with suppress(FileNotFoundError):
            folder.lstat()  # a name may be too long
    except OSError as error:
        raise common.UsageError(f"{name}: cannot write to {str(folder)!r}: {error.strerror}") from None


def print_report(folder: Path) -> None:
    """Write it, from what is finished, and say where it lies."""
    from spiky_rl.experiments.hparams import write_hparams
    from spiky_rl.experiments.report import write_report

    for path in (*write_report(folder), write_hparams(folder)):
        print(path)


def main() -> int:
    """Entry point of ``scripts/report.py``."""
    return common.run(report)
