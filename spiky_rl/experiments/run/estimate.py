"""Estimates of how long cells train: the mean of finished ones on the same task, before that the speed in the task's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from spiky_rl.config.options import FileRecord
from spiky_rl.config.schema import TaskSpec
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.cells import RESULT, read_if_valid


class TrainingSeconds(FileRecord):
    """The duration of a training in its result."""

    seconds_total: float


class FinishedCell(FileRecord):
    """The keys of a cell's result that tell how long it trained."""

    hash: str
    training: TrainingSeconds | None


def estimate_cells(folder: Path, cells: Iterable[Cell], tasks: Mapping[str, TaskSpec]) -> list[Cell]:
    """Return the ``cells`` of the study in ``folder`` with their estimated seconds; ``tasks`` are task files by label."""
    listed, finished = list(cells), dict[str, list[float]]()
    for cell in listed:
        held = read_if_valid(folder / "cells" / cell.name / RESULT, FinishedCell)
        if held is not None and held.training is not None and held.hash in (cell.hash, cell.earlier_hash):
            finished.setdefault(cell.task, []).append(held.training.seconds_total)

    def estimate(cell: Cell) -> float | None:
        if not cell.is_trained:
            return None
        if cell.task in finished:
            return fmean(finished[cell.task])
        if cell.budget is not None and cell.budget.kind == "wall":
            return cell.budget.amount
        task = tasks.get(cell.task)
        speed = task.steps_per_second.get(cell.device.partition(":")[0]) if task is not None else None
        return None if cell.env_steps is None or not speed else cell.env_steps / cell.processes / speed

    return [cell.model_copy(update={"seconds": estimate(cell)}) for cell in listed]
