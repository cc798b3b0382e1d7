"""Arms from other studies: finished cells that a study compares with its own, if everything that must agree does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.study import Arm, Study, StudyError, label_tasks
from spiky_rl.experiments.run.cells import find_differences
from spiky_rl.experiments.run.results import CellResult, SkippedCell, read_design, read_results
from spiky_rl.run.provenance import list_deciding

SAME = ("budget", "num_envs", "library", "physics", "episodes", "assets")
"""Attributes that must be equal, beside the environment's overrides, kernels and versions."""


@dataclass(frozen=True)
class ArmResult:
    """A finished cell of another study."""

    arm: Arm
    design: Study
    """The other study."""
    result: CellResult


def find_folder(folder: Path, arm: Arm) -> Path:
    """Return the folder of an ``arm``'s study, relative to a folder around ``folder``. Raises StudyError if there is none."""
    for around in folder.absolute().parents:
        if (around / arm.study / "study.json").is_file():
            return around / arm.study
    raise StudyError(
        f"arms: {arm.study!r} given; allowed: a folder with study.json, relative to a folder around {folder.name}"
    )


def read_arms(folder: Path, study: Study) -> Iterator[ArmResult]:
    """Yield the finished cells of the arms of a ``study`` in ``folder``, on its tasks and seeds. Raises UserError for an arm without a study."""
    labels = label_tasks(study)
    for arm in study.arms:
        other = find_folder(folder, arm)
        design = read_design(other)
        for result in read_results(other)[0]:
            if result.agent in arm.agents and result.task in labels and result.seed in study.seeds:
                yield ArmResult(arm, design, result)


def find_conflict(study: Study, ours: Cell | CellResult, theirs: ArmResult) -> tuple[str, str, str] | None:
    """Return key, their value and our value of the first difference that forbids a comparison; None if there is none.

    Args:
        study: The study that compares the cell.
        ours: One of its cells on the same task, with its robots.
        theirs: The cell of the other study.
    """
    result = theirs.result
    for key in SAME:
        other, own = str(getattr(result, key)), str(getattr(ours, key))
        if other != own:
            return key, other, own
    if (other := _format_overrides(theirs.design)) != (own := _format_overrides(study)):
        return "overrides", other, own
    for name in study.conditions:
        if name not in result.conditions and name not in theirs.design.conditions:
            return "conditions", ", ".join(theirs.design.conditions), name
    return _find_provenance_conflict(ours, result)


def _find_provenance_conflict(ours: Cell | CellResult, theirs: CellResult) -> tuple[str, str, str] | None:
    """Return the first difference in kernels and deciding versions, as `find_conflict`; another number of threads is none."""
    if theirs.provenance is None or ours.provenance is None:
        other, own = ("none" if p is None else "known" for p in (theirs.provenance, ours.provenance))
        return "provenance", other, own
    names = list_deciding(ours.task, ours.library)
    versions = {name: ours.versions[name].partition("+")[0] for name in names if name in ours.versions}
    kernels = ours.provenance.model_copy(update={"threads": None})
    differing = find_differences(theirs.provenance, theirs.versions, kernels, versions)
    return next(((key, *pair) for key, pair in differing.items()), None)


def _format_overrides(study: Study) -> str:
    """Return the environment's overrides of a ``study`` without physics, which is compared on its own."""
    own = [text for text in study.overrides if not text.startswith(("agent.", "physics="))]
    return " ".join(sorted(own)) or "none"


def refuse_other_arms(folder: Path, study: Study, cells: Sequence[Cell], robots: str) -> None:
    """Raise StudyError if an arm has no finished cell, or a cell that conflicts with the study.

    Args:
        folder: The study's folder.
        robots: Source of their robots.
    """
    ours = {cell.task: cell.model_copy(update={"assets": robots}) for cell in cells if cell.is_trained}
    found = list(read_arms(folder, study))
    for theirs in found:
        if conflict := find_conflict(study, ours[theirs.result.task], theirs):
            key, other, own = conflict
            raise StudyError(f"arms: {theirs.result.cell} of {theirs.arm.study}: {key}: {other}; here {own}")
    finished = [(theirs.arm, theirs.result.agent, theirs.result.task) for theirs in found]
    wanted = [(arm, agent, task) for arm in study.arms for agent in arm.agents for task in ours]
    for arm, agent, task in wanted:
        if (arm, agent, task) not in finished:
            raise StudyError(f"arms: {agent} of {arm.study}: no finished cell on {task} with these seeds")


def take_arms(
    folder: Path, study: Study, own: Sequence[CellResult]
) -> tuple[list[CellResult], list[SkippedCell], dict[str, str]]:
    """Return the arms' results that agree with a ``study``, skipped cells, and the study of each label.

    Args:
        folder: The study's folder.
        own: Its own results; a task needs one to tell whether an arm agrees.
    """
    taken, skipped, sources = list[CellResult](), list[SkippedCell](), dict[str, str]()
    labels = {result.label for result in own}
    for theirs in read_arms(folder, study):
        result, name = theirs.result, f"{theirs.arm.study}: {theirs.result.cell}"
        ours = next((r for r in own if r.task == result.task and r.kind == result.kind), None)
        if ours is None:
            reason = f"this study has no result on {result.task} yet to compare it with"
        elif result.label in labels:
            reason = f"{result.label} is also an agent of this study"
        elif conflict := find_conflict(study, ours, theirs):
            key, other, here = conflict
            reason = f"{key}: {other}; here {here}"
        else:
            taken.append(result)
            sources[result.label] = theirs.arm.study
            continue
        skipped.append(
            SkippedCell(name, "stale", reason, result.label, result.task, result.seed, result.variant)
        )
    return taken, skipped, sources
