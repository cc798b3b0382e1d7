"""Arms: agents of another study, whose finished cells a study compares with its own if everything agrees that must.

A cell is one training and its evaluation: one agent, task, variant and seed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.spec import read_yaml
from spiky_rl.experiments.design.grid import Cell, PlannedCell
from spiky_rl.experiments.design.planned import find_uncontrolled
from spiky_rl.experiments.design.study import Arm, Study, StudyError
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.run.cells import find_differences
from spiky_rl.experiments.run.records import CellResult
from spiky_rl.experiments.run.results import SkippedCell, read_design, read_results, skip_cell
from spiky_rl.run.provenance import list_deciding_distributions

log = logging.getLogger(__name__)

EQUAL_ATTRIBUTES = ("budget", "num_envs", "library", "physics", "episodes", "assets")
"""Attributes of a cell that must be equal, as must the environment's overrides, kernels and versions."""


@dataclass(frozen=True)
class ArmResult:
    """A finished cell of another study."""

    arm: Arm
    folder: Path
    """Folder of the other study."""
    design: Study
    """The other study."""
    result: CellResult

    def read_specs(self) -> dict[str, PlainMapping]:
        """Return its merged specification by hash; empty if the other study's folder does not have it."""
        return read_specs(self.folder, f"{self.result.spec_hash}")


def read_specs(folder: Path, name: str = "*") -> dict[str, PlainMapping]:
    """Return the merged specifications in a study's ``folder`` by hash, of all hashes that match ``name``; warn of damaged files."""
    specs = dict[str, PlainMapping]()
    for path in sorted((folder / "specs").glob(f"{name}.yaml")):
        try:
            specs[path.stem] = read_yaml(path)
        except UserError as error:
            log.warning(
                "%s: %s; the report does not know whether its agent has a control", path.parent, error
            )
    return specs


def find_folder(folder: Path, arm: Arm) -> Path:
    """Return the folder of an ``arm``'s study, whose path is relative to the nearest parent of ``folder`` that has it.

    Raises StudyError if no parent has it.
    """
    for parent in folder.absolute().parents:
        if (parent / arm.study / "study.json").is_file():
            return parent / arm.study
    raise StudyError(
        f"arms: {arm.study!r} given; allowed: a folder with study.json, relative to a folder that contains {folder.name}"
    )


def read_arms(folder: Path, study: Study, tasks: Collection[str]) -> Iterator[ArmResult]:
    """Yield the finished cells of the arms of a ``study`` in ``folder``, on its seeds and the ``tasks``, given by their labels.

    Raises UserError for an arm without a study.
    """
    for arm in study.arms:
        other = find_folder(folder, arm)
        design = read_design(other)
        for result in read_results(other, design.anns)[0]:
            if result.agent in arm.agents and result.task in tasks and result.seed in study.seeds:
                yield ArmResult(arm, other, design, result)


def find_conflict(study: Study, ours: Iterable[Cell | CellResult], theirs: ArmResult) -> str | None:
    """Return the first difference that forbids a comparison, as text; None if there is none.

    ``ours`` are cells of the ``study`` on the same task. It is enough that one of them agrees, because agents of different algorithms may
    have different numbers of environments.
    """
    by_label = {cell.label: cell for cell in ours}  # seeds of an agent agree in everything that is compared
    found = [_find_conflict_with(study, cell, theirs) for cell in by_label.values()]
    conflicts = [conflict for conflict in found if conflict is not None]
    if len(conflicts) < len(found):
        return None
    key, their_value, our_value = conflicts[0]
    return f"{key}: {their_value}; here {our_value}"


def _find_conflict_with(
    study: Study, ours: Cell | CellResult, theirs: ArmResult
) -> tuple[str, str, str] | None:
    """Return (key, their value, our value) of the first difference between ``theirs`` and one of our cells; None if there is none."""
    result = theirs.result
    for key in EQUAL_ATTRIBUTES:
        their_value, our_value = str(getattr(result, key)), str(getattr(ours, key))
        if their_value != our_value:
            return key, their_value, our_value
    their_overrides, our_overrides = _format_overrides(theirs.design), _format_overrides(study)
    if their_overrides != our_overrides:
        return "overrides", their_overrides, our_overrides
    for name in study.conditions:
        if name not in result.conditions and name not in theirs.design.conditions:
            return "conditions", ", ".join(theirs.design.conditions), name
    return _find_provenance_conflict(ours, result)


def _find_provenance_conflict(ours: Cell | CellResult, theirs: CellResult) -> tuple[str, str, str] | None:
    """Return the first difference in kernels and deciding versions, like `_find_conflict_with`; the number of threads may differ."""
    if theirs.provenance is None or ours.provenance is None:
        their_value = "none" if theirs.provenance is None else "known"
        our_value = "none" if ours.provenance is None else "known"
        return "provenance", their_value, our_value
    names = list_deciding_distributions(ours.task, ours.library)
    versions = {name: ours.versions[name].partition("+")[0] for name in names if name in ours.versions}
    kernels = ours.provenance.model_copy(update={"threads": None})
    differing = find_differences(theirs.provenance, theirs.versions, kernels, versions)
    return next(((key, *pair) for key, pair in differing.items()), None)


def _format_overrides(study: Study) -> str:
    """Return the environment's overrides of a ``study`` without physics, which is compared separately."""
    overrides = [text for text in study.overrides if not text.startswith(("agent.", "physics="))]
    return " ".join(sorted(overrides)) or "none"


def refuse_other_arms(folder: Path, study: Study, cells: Sequence[Cell]) -> None:
    """Raise StudyError if an arm of the study in ``folder`` has no finished cell, or a cell that conflicts with the study."""
    ours = defaultdict[str, list[Cell]](list)
    for cell in cells:
        if cell.trains_agent:
            ours[cell.task].append(cell)
    arm_results = list(read_arms(folder, study, ours))
    for theirs in arm_results:
        if conflict := find_conflict(study, ours[theirs.result.task], theirs):
            raise StudyError(f"arms: {theirs.result.cell} of {theirs.arm.study}: {conflict}")
    finished = [(theirs.arm, theirs.result.agent, theirs.result.task) for theirs in arm_results]
    required = [(arm, agent, task) for arm in study.arms for agent in arm.agents for task in ours]
    for arm, agent, task in required:
        if (arm, agent, task) not in finished:
            raise StudyError(f"arms: {agent} of {arm.study}: no finished cell on {task} with these seeds")


def find_uncontrolled_agents(
    study: Study, cells: Iterable[PlannedCell], specs: Mapping[str, PlainMapping], arms: Iterable[ArmResult]
) -> dict[str, dict[str, str]]:
    """Return, by task, the spiking agents of a ``study`` and its ``arms`` without a control, which may be an arm: see `find_uncontrolled`.

    ``specs`` are merged specifications by hash; cells without one are left out.
    """
    agents = [(cell, study, specs) for cell in cells if cell.trains_agent]
    agents += [(theirs.result, theirs.design, theirs.read_specs()) for theirs in arms]
    specs_by_task = defaultdict[str, dict[str, PlainMapping]](dict)
    tuned, anns = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for cell, design, known_specs in agents:
        if (spec := known_specs.get(str(cell.spec_hash))) is not None:
            specs_by_task[cell.task][cell.label] = spec
            if find_tuning(design.tuning, cell.agent):
                tuned[cell.task].add(cell.label)
            if cell.agent in design.anns:
                anns[cell.task].add(cell.label)
    return {
        task: find_uncontrolled(by_label, tuned[task], anns[task]) for task, by_label in specs_by_task.items()
    }


def take_arms(
    folder: Path, study: Study, tasks: Collection[str], own_results: Sequence[CellResult]
) -> tuple[list[ArmResult], list[SkippedCell]]:
    """Return the arms' results on the ``tasks`` that agree with a ``study``, and skipped cells.

    A task needs one of the study's ``own_results`` to tell whether an arm agrees.
    """
    taken, skipped = list[ArmResult](), list[SkippedCell]()
    labels = {result.label for result in own_results}
    for theirs in read_arms(folder, study, tasks):
        result, name = theirs.result, f"{theirs.arm.study}: {theirs.result.cell}"
        ours = [r for r in own_results if r.task == result.task and r.kind == result.kind]
        if not ours:
            reason = f"this study has no result on {result.task} yet to compare it with"
        elif result.label in labels:
            reason = f"{result.label} is also an agent of this study"
        elif conflict := find_conflict(study, ours, theirs):
            reason = conflict
        else:
            taken.append(theirs)
            continue
        skipped.append(skip_cell(name, "stale", reason, result))
    return taken, skipped
