"""Reading of a study's folder: its design, its plan and the results of its cells.

A result file that is damaged, of another version or of another plan is skipped, with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spiky_rl.config.options import RegistryError, Settings, UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.safe_loading import ReadingError, read_json_record
from spiky_rl.experiments.design.grid import PlannedCell, StudyPlanFile
from spiky_rl.experiments.design.study import StudyFile
from spiky_rl.experiments.run.cells import RESULT, read_error_lines
from spiky_rl.experiments.run.records import CellResult

ERROR_LINES = 8
"""Number of lines from the end of an error that a report shows."""


class ResultsError(UserError):
    """A folder without a study, or a file with invalid content."""


@dataclass(frozen=True)
class SkippedCell:
    """A cell without numbers."""

    cell: str
    status: str
    """``failed``, ``corrupt``, ``missing``, or ``stale`` (of another plan)."""
    reason: str
    label: str | None = None
    task: str | None = None
    seed: int | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)


def skip_cell(name: str, status: str, reason: str, cell: PlannedCell | CellResult | None) -> SkippedCell:
    """Return the cell ``name`` as skipped; ``cell`` is None if only its name is known."""
    if cell is None:
        return SkippedCell(name, status, reason)
    return SkippedCell(name, status, reason, cell.label, cell.task, cell.seed, cell.variant)


def read_design(folder: Path) -> StudyFile:
    """Return the study in ``folder``. Raises ResultsError if its study.json is invalid."""
    return _read(folder / "study.json", StudyFile)


def read_plan(folder: Path) -> tuple[PlannedCell, ...]:
    """Return the planned cells in a study's ``folder``. Raises ResultsError if its plan.json is invalid."""
    return _read(folder / "plan.json", StudyPlanFile).cells


def read_results(
    folder: Path, anns: Collection[str] = ()
) -> tuple[tuple[CellResult, ...], tuple[SkippedCell, ...]]:
    """Return the results in a study's ``folder`` in the order of the plan, and the skipped cells with reasons.

    ``anns`` are the agents that the study names as ANNs. Without a valid plan, cells that never began are unknown; see `read_plan`.
    """
    try:
        planned = {cell.name: cell for cell in read_plan(folder)}
    except ResultsError:
        planned = {}
    names = sorted(path.name for path in (folder / "cells").glob("*") if path.is_dir())
    results: dict[tuple[str, str, int], CellResult] = {}
    skipped: list[SkippedCell] = []
    physics: dict[str, str] = {}  # of the first result of each task
    for name in dict.fromkeys([*planned, *names]):
        outcome = _read_cell(folder / "cells" / name, planned.get(name), bool(planned))
        if isinstance(outcome, CellResult):
            key = (outcome.label, outcome.task, outcome.seed)
            first_physics = physics.setdefault(outcome.task, outcome.physics)
            reason = ""
            if key in results:
                reason = f"the same label, task and seed as {results[key].cell}"
            elif outcome.physics != first_physics:
                reason = f"its physics is {outcome.physics}, that of others {first_physics}"
            if reason:
                skipped.append(skip_cell(name, "corrupt", reason, outcome))
            else:
                results[key] = outcome.model_copy(update={"is_ann": outcome.agent in anns})
        else:
            skipped.append(outcome)
    return tuple(results.values()), tuple(skipped)


def _read_cell(folder: Path, planned: PlannedCell | None, has_plan: bool) -> CellResult | SkippedCell:
    """Return the result of the cell in ``folder``, or the reason why it has none.

    ``planned`` is the cell's entry in the plan; None if it has no entry, or if there is no plan (``has_plan`` is False).
    """
    error_lines = read_error_lines(folder)
    error = "\n".join((error_lines or [])[-ERROR_LINES:])
    if not (folder / RESULT).is_file():
        if error_lines is not None:
            return skip_cell(folder.name, "failed", error or "error.txt is empty", planned)
        reason = "begun, not finished" if folder.is_dir() else "not begun"
        return skip_cell(folder.name, "missing", reason, planned)
    try:
        result = read_result(folder)
    except ResultsError as problem:
        reason = str(problem).replace(f"{folder}/", "")
        return skip_cell(folder.name, "corrupt", "\n".join(filter(None, [reason, error])), planned)
    if planned is not None and planned.hash != result.hash:
        reason = f"its hash is {result.hash}, the plan's {planned.hash}"
        return skip_cell(folder.name, "stale", reason, planned)
    if planned is None and has_plan:
        return skip_cell(folder.name, "stale", "it is not in plan.json", result)
    return result


def read_result(folder: Path) -> CellResult:
    """Return the result of the cell in ``folder``. Raises ResultsError if its result.json is invalid."""
    result = _read(folder / RESULT, CellResult)
    if result.cell != folder.name:
        raise ResultsError(f"{folder / RESULT}: cell: {result.cell!r} is not the folder's name")
    return result


def parse_result(data: PlainMapping) -> CellResult:
    """Return the result from the content ``data`` of a file. Raises ResultsError that names the key."""
    try:
        return CellResult.check("", data)
    except RegistryError as error:
        raise ResultsError(f"{RESULT}: {error}") from None


def _read[R: Settings](path: Path, kind: type[R]) -> R:
    try:
        return read_json_record(path, kind)
    except ReadingError as error:
        raise ResultsError(str(error)) from None
