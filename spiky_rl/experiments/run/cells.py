"""Folder of a study: its plan, and a folder for each cell, in which one process at a time works.

    study.json  plan.json  cells/NAME/{cell.json, log.txt, run/..., evaluation.json, result.json or error.txt}

Files are written atomically. A cell is finished if its ``result.json`` is complete, names the cell and has the hash of the plan. Only the
holder of the cell's lock may work on an unfinished cell. The kernel of the operating system releases a lock when the last process that
inherited it ends. So if a killed command left a cell running, the next command waits for it and does not run it twice.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiky_rl.config import files
from spiky_rl.config.options import FileRecord, RegistryError, Settings
from spiky_rl.config.safe_loading import ReadingError, read_json_record, read_text
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS, EVALUATION, Cell, StudyPlanFile
from spiky_rl.experiments.design.study import Study, StudyError, StudyFile, merge_studies
from spiky_rl.experiments.run.records import CellResult
from spiky_rl.run.provenance import Provenance

log = logging.getLogger(__name__)

CELL, RESULT, ERROR, LOG, LOCK = "cell.json", "result.json", "error.txt", "log.txt", "lock"
SHARED_LOCK = "workers.lock"
"""Lock that the processes of a distributed training share, because torchrun does not pass on file descriptors."""
VERSION = 1
"""Version of the format of ``result.json`` and of a tuning's file."""
REMEDY = "choose another --out, or move that cell away to run it again"
"""Remedy for a cell in the folder that differs from the plan."""


def load_or_extend_study(folder: Path, study: Study) -> Study:
    """Return the study to run in ``folder``: the given one merged with the folder's own. Raises StudyError."""
    path = folder / "study.json"
    if path.exists():
        if read_json(path) is None:
            log.warning("%s: damaged; it is written again from the given study", path)
            return study
        existing = read_study_record(path, StudyFile, "study")
        return keep_plan(folder, existing, merge_studies(existing, study))
    if (folder / "cells").exists():
        raise StudyError(f"{folder}: has cells/ without study.json; choose another --out")
    return study


def keep_plan(folder: Path, existing: Study, study: Study) -> Study:
    """Return the ``study`` with the plan of the ``existing`` one in ``folder``, including its date and seeds.

    A plan without seeds gets those of the existing study, so that a report can name the seeds that were added later. Raises StudyError if
    the plans differ and a cell has begun: comparisons must be planned before that.
    """
    if study.plan is None or study.plan.has_same_tests(existing.plan):
        plan = existing.plan
        if plan is not None and not plan.seeds:
            plan = plan.with_changes(seeds=existing.seeds)
        return study.with_changes(plan=plan)
    for cell in sorted((folder / "cells").glob("*")):
        if (cell / RESULT).exists() or has_begun(cell):
            was = "another plan" if existing.plan else "none"
            raise StudyError(
                f"plan: changed after {cell.name} has begun; the study in the folder has {was}; choose another --out"
            )
    return study


def read_study_record[R: Settings](path: Path, kind: type[R], label: str) -> R:
    """Return the content of ``path`` as a ``kind``. Raises StudyError that names file and key; ``label`` says what the file is."""
    try:
        return read_json_record(path, kind)
    except ReadingError as error:
        hint = f"the file is damaged, or not a {label} of this version; move it away or choose another --out"
        raise StudyError(f"{error}; {hint}") from None


def refuse_other_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Raise StudyError if cells in the study's ``folder`` conflict with the plan.

    A cell conflicts if its hash differs from the plan's, or if cells are still to run and would use other robots, physics or task files.
    """
    for cell in cells:
        _refuse_other_hash(folder / "cells" / cell.name, cell)
    if all(is_finished(folder / "cells" / cell.name, cell.hash) for cell in cells):
        return
    for cell in cells:
        path = folder / "cells" / cell.name
        existing = read_cell_identity(path)
        if existing is None:
            continue
        planned = read_if_valid(path / CELL, CellIdentity) or existing
        pairs = {
            "robots": (existing.assets, cell.assets),
            "physics": (existing.physics, cell.physics),
            "task file": (planned.task_hash, cell.task_hash),
        }
        for key, (before, now) in pairs.items():
            if before not in (None, now):
                raise StudyError(
                    f"{path}: {key}: {before!r}, but cells that begin now would have {now!r};"
                    f" choose another --out, or move cells of other {key} away to run them again"
                )


def _refuse_other_hash(folder: Path, cell: Cell) -> None:
    """Raise StudyError if the result in ``folder``, or the file of a cell that has begun there, has another hash than ``cell``."""
    for path in (folder / RESULT, *([folder / CELL] if has_begun(folder) else [])):
        existing = read_if_valid(path, CellIdentity)
        if existing is not None and existing.hash not in ("", cell.hash):
            refuse_other_provenance(path, existing, cell)
            raise StudyError(
                f"{path}: hash: {existing.hash}, now {cell.hash}; agent, a file that it names, task or evaluation changed since; {REMEDY}"
            )


def refuse_other_provenance(path: Path, existing: CellIdentity, cell: Cell) -> None:
    """Raise StudyError if the result in ``path`` was computed with other kernels, threads or versions than planned.

    A ``cell`` without provenance does not require equal bits.
    """
    if cell.provenance is None:
        return
    if existing.provenance is None:
        raise StudyError(
            f"{path}: provenance: none, as in files of earlier versions; kernels or versions may have changed; {REMEDY}"
        )
    differing = find_differences(existing.provenance, existing.versions, cell.provenance, cell.versions)
    if differing:
        text = "; ".join(f"{key}: {before}, now {now}" for key, (before, now) in differing.items())
        remedy = REMEDY
        if list(differing) == ["provenance.threads"]:
            remedy = f"set OMP_NUM_THREADS={existing.provenance.threads}"
        raise StudyError(f"{path}: computed with {text}; {remedy}")


def find_differences(
    theirs: Provenance, their_versions: Mapping[str, str], ours: Provenance, our_versions: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return the kernels, threads and versions that differ, by key: (theirs, ours); threads are not compared if ours are None."""
    pairs = {"provenance.kernels": (theirs.kernels, ours.kernels)}
    if ours.threads is not None:
        pairs["provenance.threads"] = (str(theirs.threads), str(ours.threads))
    for name, version in our_versions.items():
        pairs[f"versions.{name}"] = (their_versions.get(name, "absent").partition("+")[0], version)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def write_plan(folder: Path, study: Study, cells: Sequence[Cell]) -> None:
    """Write the study, its plan and a file for each cell into its ``folder``. Raises StudyError like `refuse_other_cells`."""
    refuse_other_cells(folder, cells)
    files.write_json(folder / "study.json", study.to_dict())
    plan = StudyPlanFile(version=1, cells=tuple(cells))
    files.write_json(folder / "plan.json", plan.model_dump(by_alias=True))
    for cell in cells:
        write_cell(folder, cell)


def write_cell(folder: Path, cell: Cell) -> None:
    """Write ``cell.json`` of a ``cell``, with everything that its worker needs, into the study's ``folder``."""
    files.write_json(folder / "cells" / cell.name / CELL, cell.model_dump(by_alias=True))


def read_cell(folder: Path) -> Cell:
    """Return the cell in ``folder``. Raises StudyError that names file and key."""
    try:
        return read_json_record(folder / CELL, Cell)
    except ReadingError as error:
        hint = "the file is damaged, or of an earlier version; run the study's command again to rewrite it"
        raise StudyError(f"{error}; {hint}") from None


class CellIdentity(FileRecord):
    """Keys of a cell's file or result that identify its specification, robots, physics, kernels and versions."""

    hash: str = ""
    assets: str | None = None
    physics: str = EARLIER_PHYSICS
    provenance: Provenance | None = None
    versions: dict[str, str] = {}
    task_hash: str | None = None
    """None in a result."""


class TrainingOutcome(FileRecord):
    """How a training ended, in its result."""

    outcome: str


class Heartbeat(FileRecord):
    """Content of ``progress.json``, which a training updates after each iteration."""

    share: float
    """Completed share of the training, in [0, 1]."""
    steps_per_second: float
    mean_return: float | None = None


def read_if_valid[R: FileRecord](path: Path, kind: type[R]) -> R | None:
    """Return the content of ``path`` as a ``kind``; None if the file is missing or damaged."""
    try:
        return kind.check("", read_json(path))
    except RegistryError:
        return None


def read_cell_identity(folder: Path) -> CellIdentity | None:
    """Return the identity of the cell in ``folder``; None if it has not begun or its file is damaged."""
    if (folder / RESULT).exists():
        return read_if_valid(folder / RESULT, CellIdentity)
    return read_if_valid(folder / CELL, CellIdentity) if has_begun(folder) else None


def has_begun(folder: Path) -> bool:
    """Return whether the cell in ``folder`` has files of a training or an evaluation, which another cell cannot use."""
    return (folder / "run").exists() or (folder / EVALUATION).exists()


def read_json(path: Path) -> Any:
    """Return the content of ``path``; None if the file is missing or is not JSON. Raises OSError if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def is_finished(folder: Path, cell_hash: str) -> bool:
    """Return whether a cell's ``folder`` has a complete result of this cell, with the hash ``cell_hash``."""
    result = read_if_valid(folder / RESULT, CellResult)
    return result is not None and (result.cell, result.hash) == (folder.name, cell_hash)


def move_damaged_result(folder: Path) -> Path | None:
    """Rename the result in a cell's ``folder`` to an unused name and return its new path; None if there is no result."""
    path = folder / RESULT
    return move_away(path, "result.corrupt", ".json") if path.exists() else None


def move_away(path: Path, stem: str, suffix: str = "") -> Path:
    """Rename ``path`` to ``stem`` + ``suffix``, with a number between them if that name is used; return the new path."""
    names = (f"{stem}{number or ''}{suffix}" for number in itertools.count())
    new_path = next(new for name in names if not (new := path.with_name(name)).exists())
    os.replace(path, new_path)
    return new_path


def read_error_lines(folder: Path) -> list[str] | None:
    """Return the lines of the error of the cell in ``folder``, without empty ones; None if it left no error."""
    path = folder / ERROR
    if not path.is_file():
        return None
    return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]


@contextmanager
def lock_cell(folder: Path, wait: bool = True) -> Iterator[int]:
    """Hold the lock of the cell in ``folder``, created if needed; yield its file descriptor, for children to inherit.

    Without ``wait`` it raises BlockingIOError if the lock is not free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, mode)
        if (folder / SHARED_LOCK).exists():
            # free as soon as the processes of a killed command have ended; those of this command start later
            workers = os.open(folder / SHARED_LOCK, os.O_RDWR)
            try:
                fcntl.flock(workers, mode)
            finally:
                os.close(workers)
        yield descriptor
    finally:
        os.close(descriptor)


def share_lock(folder: Path) -> None:
    """Share the lock of the cell in ``folder`` with the other processes of its training until this process ends."""
    descriptor = os.open(folder / SHARED_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def find_run_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files called ``pattern`` in the runs of the cell in ``folder``, one run for each attempt of its training."""
    return folder.glob(f"run/*/*/*/{pattern}")


def read_progress(folder: Path) -> Heartbeat | None:
    """Return the last heartbeat of the training in a cell's ``folder``; None before its first iteration."""
    from spiky_rl.run.run_folders import get_creation_time

    reports = find_run_files(folder, "progress.json")
    newest = max(reports, key=lambda path: (get_creation_time(path.parent), path), default=None)
    return None if newest is None else read_if_valid(newest, Heartbeat)
