"""A study's folder: the plan, and of every cell a folder that one process at a time works in.

    study.json  plan.json  cells/NAME/{cell.json, log.txt, run/..., evaluation.json, result.json or error.txt}

Everything is written whole or not at all. A cell is finished when its ``result.json`` is there with the hash of the plan; until
then whoever holds its lock may work on it. The kernel releases a lock when the last process that inherited it has ended, so a
cell that a killed command left running is waited for, not run twice.
"""

from __future__ import annotations

import fcntl
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
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS, Cell, StudyPlanFile
from spiky_rl.experiments.design.study import Study, StudyError, StudyFile, merge_studies
from spiky_rl.run.provenance import Provenance

log = logging.getLogger(__name__)

CELL, RESULT, ERROR, LOG, LOCK = "cell.json", "result.json", "error.txt", "log.txt", "lock"
SHARED_LOCK = "workers.lock"
"""Held together by the processes of a distributed training, which torchrun lets inherit nothing."""
VERSION = 1


def load_or_extend_study(folder: Path, study: Study) -> Study:
    """The study to work on in ``folder``: the given one, with what the folder's own has beside it. Raises StudyError."""
    path = folder / "study.json"
    if path.exists():
        if read_json(path) is None:
            log.warning("%s: is damaged; it is written anew, from what is asked for now", path)
            return study
        held = read_study_record(path, StudyFile, "study")
        return keep_plan(folder, held, merge_studies(held, study))
    if folder.is_dir() and (folder / "cells").exists():
        raise StudyError(f"{folder}: has cells/, but no study.json that says of what; choose another --out")
    return study


def keep_plan(folder: Path, held: Study, study: Study) -> Study:
    """Return the ``study`` with the plan that its ``folder`` holds, when and for which seeds it was made.

    Raises StudyError for another plan than the ``held`` one once a cell has begun: what is compared after that was not planned.
    """
    if study.plan is None or study.plan.asks_the_same(held.plan):
        return study.with_changes(plan=held.plan)
    folders = sorted((folder / "cells").glob("*"))
    begun = next((path.name for path in folders if (path / RESULT).exists() or (path / "run").exists()), "")
    if begun:
        was = "the folder's study has another" if held.plan else "the folder's study has none"
        raise StudyError(
            f"plan: {was}, and {begun} has begun; a plan is made before the first cell: choose another --out"
        )
    return study


def read_study_record[R: Settings](path: Path, kind: type[R], label: str) -> R:
    """What the file ``path`` of a folder says of a ``kind``, which is called ``what``. Raises StudyError that names file and key."""
    try:
        return read_json_record(path, kind)
    except ReadingError as error:
        hint = f"it is damaged, or no {label} of this version; move it away or choose another --out"
        raise StudyError(f"{error}: {hint}") from None


def refuse_other_cells(folder: Path, cells: Sequence[Cell], assets: str) -> None:
    """Raise StudyError where a cell was finished or begun as something else, or would begin with other robots or physics than the rest.

    Args:
        folder: The study's.
        cells: All of its cells.
        assets: Which robots cells that begin now run with, in words.
    """
    left = False
    for cell in cells:
        place = folder / "cells" / cell.name
        for path in [place / RESULT, *([place / CELL] if (place / "run").exists() else [])]:
            if (held := read_if_valid(path, CellIdentity)) is not None and held.hash not in ("", cell.hash):
                refuse_other_provenance(path, held, cell)
                raise StudyError(
                    f"{path}: is of another specification (hash {held.hash}, now {cell.hash}): agent, task or"
                    " evaluation changed since; choose another --out, or move that cell away to run it again"
                )
        left |= not is_finished(place, cell.hash)
    if left:
        for cell in cells:
            held = read_cell_identity(folder / "cells" / cell.name)
            robots, physics = (held.assets, held.physics) if held else (None, None)
            for what, theirs, ours in (("robots", robots, assets), ("physics", physics, cell.physics)):
                if theirs not in (None, ours):
                    raise StudyError(
                        f"{folder / 'cells' / cell.name}: ran with the {what} {theirs!r}, and cells that begin now would have"
                        f" {ours!r}; choose another --out, or move cells of other {what} away to run them again"
                    )


def refuse_other_provenance(path: Path, held: CellIdentity, cell: Cell) -> None:
    """Raise StudyError that names what a result was computed with, where that decides its bits and is something else now.

    Args:
        path: The file that says so.
        held: Its keys.
        cell: What would be run now.
    """
    remedy = "choose another --out, or move that cell away to run it again"
    if cell.provenance is None:
        return
    if held.provenance is None:
        raise StudyError(
            f"{path}: provenance: none, as in all files of earlier versions; kernels or versions may be others now; {remedy}"
        )
    if differing := find_differences(held.provenance, held.versions, cell.provenance, cell.versions):
        told = "; ".join(f"{key}: {theirs}, now {ours}" for key, (theirs, ours) in differing.items())
        if list(differing) == ["provenance.threads"]:
            remedy = f"set OMP_NUM_THREADS={held.provenance.threads}"
        raise StudyError(f"{path}: was computed with {told}; {remedy}")


def find_differences(
    theirs: Provenance, their_versions: Mapping[str, str], ours: Provenance, our_versions: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return what decides bits and differs, by key: theirs and ours.

    Args:
        theirs: Provenance of a result.
        their_versions: Versions that it was computed with.
        ours: What we have; threads of None decide nothing.
        our_versions: Versions that decide bits; others do not count.
    """
    pairs = {"provenance.kernels": (theirs.kernels, ours.kernels)}
    if ours.threads is not None:
        pairs["provenance.threads"] = (str(theirs.threads), str(ours.threads))
    for name, version in our_versions.items():
        pairs[f"versions.{name}"] = (their_versions.get(name, "absent").partition("+")[0], version)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def write_plan(folder: Path, study: Study, cells: Sequence[Cell], assets: str) -> None:
    """Write the study, its plan, and every cell's own line. Raises StudyError where `refuse_other_cells` does.

    Args:
        folder: The study's.
        study: What is compared.
        cells: All of its cells.
        assets: Which robots cells that begin now run with, in words.
    """
    refuse_other_cells(folder, cells, assets)
    files.write_json(folder / "study.json", study.to_dict())
    files.write_json(
        folder / "plan.json", StudyPlanFile(version=1, cells=tuple(cells)).model_dump(by_alias=True)
    )
    for cell in cells:
        write_cell(folder, cell, assets)


def write_cell(folder: Path, cell: Cell, assets: str) -> None:
    """Write a cell's own file, which is all that who works it needs to know.

    Args:
        folder: The study's.
        cell: One of its cells.
        assets: Which robots it runs with, in words.
    """
    own = cell.model_copy(update={"assets": assets})
    files.write_json(folder / "cells" / cell.name / CELL, own.model_dump(by_alias=True))


def read_cell(folder: Path) -> Cell:
    """The cell whose ``folder`` this is. Raises StudyError that names the file and the key."""
    try:
        return read_json_record(folder / CELL, Cell)
    except ReadingError as error:
        hint = "it is damaged, or of an earlier version; run the study's command again, which writes it anew"
        raise StudyError(f"{error}: {hint}") from None


class CellIdentity(FileRecord):
    """The keys of a cell's file or result that identify its specification, robots and physics, and what decides its bits besides."""

    hash: str = ""
    assets: str | None = None
    physics: str = EARLIER_PHYSICS
    provenance: Provenance | None = None
    versions: dict[str, str] = {}


class TrainingOutcome(FileRecord):
    """What the result of a training says of its end."""

    outcome: str


class Heartbeat(FileRecord):
    """What ``progress.json`` says of a training from its first iteration on."""

    share: float
    """How much of the training is done, in [0, 1]."""
    steps_per_second: float
    mean_return: float | None = None


def read_if_valid[R: FileRecord](path: Path, kind: type[R]) -> R | None:
    """What the file ``path`` says of a ``kind``; None where there is no such file, or a damaged one."""
    try:
        return kind.check("", read_json(path))
    except RegistryError:
        return None


def read_cell_identity(folder: Path) -> CellIdentity | None:
    """The identifying keys of the cell in ``folder`` that was measured or has begun to train; None if it has not begun or does not say."""
    name = RESULT if (folder / RESULT).exists() else CELL if (folder / "run").exists() else None
    return None if name is None else read_if_valid(folder / name, CellIdentity)


def read_json(path: Path) -> Any:
    """The content of the file ``path``; None where there is no such file, or one that is no JSON. Raises OSError for what is no file."""
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def is_finished(folder: Path, cell_hash: str) -> bool:
    """Whether a cell's ``folder`` holds a result of the hash ``wanted``."""
    return (held := read_if_valid(folder / RESULT, CellIdentity)) is not None and held.hash == cell_hash


def move_damaged_result(folder: Path) -> Path | None:
    """Move a result that cannot be read out of the way in a cell's ``folder``, and keep it; where it went."""
    path = folder / RESULT
    if not path.exists():
        return None
    taken = 0
    while (to := folder / f"result.corrupt{taken or ''}.json").exists():
        taken += 1
    os.replace(path, to)
    return to


def read_error(folder: Path) -> str:
    """The reason why a cell failed, as its ``folder`` tells it."""
    path = folder / ERROR
    if not path.exists():
        return "it was killed, and left no word"
    return path.read_text(encoding="utf-8", errors="replace")


@contextmanager
def lock_cell(folder: Path, wait: bool = True) -> Iterator[int]:
    """Hold a cell; gives the lock's file descriptor, for children to inherit.

    Args:
        folder: The cell's; made where there is none.
        wait: Until nobody else holds it; else raise BlockingIOError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, mode)
        if (folder / SHARED_LOCK).exists():
            workers = os.open(folder / SHARED_LOCK, os.O_RDWR)
            try:
                fcntl.flock(workers, mode)  # until those of a killed command have ended; ours come later
            finally:
                os.close(workers)
        yield descriptor
    finally:
        os.close(descriptor)


def join(folder: Path) -> None:
    """Hold the cell in ``folder`` together with the other processes of its training, until this process ends."""
    descriptor = os.open(folder / SHARED_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def read_progress(folder: Path) -> Heartbeat | None:
    """How far the training in a cell's ``folder`` is, as ``train.py`` last said; None before its first iteration."""
    reports = sorted(folder.glob("run/*/*/*/progress.json"), key=lambda path: path.parent.name)
    return read_if_valid(reports[-1], Heartbeat) if reports else None
