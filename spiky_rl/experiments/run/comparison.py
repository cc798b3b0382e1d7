"""A study's cells in its folder: planning them and running the unfinished ones."""

from __future__ import annotations

import datetime
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import yaml

from spiky_rl.config import files
from spiky_rl.config.options import RegistryError
from spiky_rl.config.plain_data import PlainMapping, get_section
from spiky_rl.config.progress import format_count, format_duration
from spiky_rl.config.schema import TaskSpec, get_algorithm
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.experiments.design import grid
from spiky_rl.experiments.design import study as study_design
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.planned import check_agents
from spiky_rl.experiments.design.seeds import format_seeds, refuse_reused_seeds
from spiky_rl.experiments.design.study import Study, StudyError
from spiky_rl.experiments.design.tunings import find_copy, find_tuning
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.arms import find_uncontrolled_agents, read_arms, refuse_other_arms
from spiky_rl.experiments.run.engines.base import DONE, Engine, WorkOrder
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from spiky_rl.experiments.run.records import CellResult
from spiky_rl.run.provenance import find_commit, find_compiler_version

log = logging.getLogger(__name__)

NO_PROVENANCE = {"provenance": None, "versions": {}}
"""Fields of the cells of earlier versions, which did not record provenance."""


@dataclass(frozen=True)
class StudyRun:
    """A study with its cells."""

    study: Study
    folder: Path
    """Absolute path of its folder."""
    place: ExecutionOptions
    resolve: AgentResolver
    cells: Sequence[Cell]
    finished: set[str]
    """Names of finished cells."""

    @property
    def remaining(self) -> list[Cell]:
        """Unfinished cells."""
        return [cell for cell in self.cells if cell.name not in self.finished]

    @property
    def time_left(self) -> str:
        """The estimated time of the remaining trainings, as text."""
        trained = [cell.seconds for cell in self.remaining if cell.trains_agent]
        known = [seconds for seconds in trained if seconds is not None]
        text = f"{format_duration(sum(known) / self.place.parallel)} with {self.place.parallel} at once"
        unknown = len(trained) - len(known)
        return text + (f", and {format_count(unknown, 'cell')} of unknown length" if unknown else "")

    def check(self) -> None:
        """Raise UserError if the folder has cells of something else, or if seeds or arms of the study are not allowed."""
        refuse_reused_seeds(self.folder, self.study)
        refuse_other_arms(self.folder, self.study, self.cells)
        folders.refuse_other_cells(self.folder, self.cells)

    def write(self) -> None:
        """Write the plan: study, cells, specifications and copies of tuned values. Raises UserError if the folder has another plan."""
        for digest, spec in self.resolve.specs.items():
            path = self.folder / "specs" / f"{digest}.yaml"
            files.write_text(path, yaml.safe_dump(spec, sort_keys=False))
        folders.write_plan(self.folder, self.study, self.cells)
        tunings = self.study.tuning
        copies = {find_copy(tunings, agent): find_tuning(tunings, agent) for agent in self.study.agents}
        for copy, source in copies.items():
            if copy:
                tuned = read_tuned(Path(source)).path
                files.write_atomically(self.folder / copy, partial(shutil.copyfile, tuned))

    def run(
        self,
        engine: Engine,
        gpus: Sequence[str],
        changed: Callable[[Mapping[str, str]], None],
        stop: Callable[[], bool],
    ) -> dict[str, str]:
        """Run the remaining cells, over all ``gpus`` of this machine; return the states of all cells by name.

        ``changed`` is called with the states of running cells; ``stop`` returns whether to stop.
        """
        done = dict.fromkeys(self.finished, DONE)
        return done | engine.run(
            WorkOrder(
                self.remaining,
                self.folder,
                self.place.parallel,
                changed,
                stop,
                gpus,
                processes=self.place.distributed,
            )
        )


def plan_study(study: Study, out: Path, place: ExecutionOptions) -> StudyRun:
    """Return all cells of a study in the absolute folder ``out`` with their estimated times. Raises UserError for an invalid combination."""
    place, _ = place.resolve_assets(study.tasks[0])
    resolve = AgentResolver(study, place)
    planned_cells = grid.build_cells(study, resolve, place.cell_resources)
    if study.tuning:
        planned_cells = add_base_hashes(planned_cells, study, place)
    _check_planned_agents(study, planned_cells, resolve.specs)
    cells = estimate_cells(out, planned_cells, resolve.tasks)
    earlier = [cell.model_copy(update=NO_PROVENANCE | {"hash": cell.earlier_hash}) for cell in cells]
    # a study that an earlier version finished stays as it is: nothing is left to run with other kernels
    if all(folders.is_finished(out / "cells" / c.name, c.hash) for c in earlier):
        cells = earlier
    finished = {c.name for c in cells if folders.is_finished(out / "cells" / c.name, c.hash)}
    return StudyRun(study=study, folder=out, place=place, resolve=resolve, cells=cells, finished=finished)


def _check_planned_agents(study: Study, cells: Iterable[Cell], specs: Mapping[str, PlainMapping]) -> None:
    """Raise StudyError if the plan of a ``study`` does not fit its agents, which have ``cells`` or are arms.

    ``specs`` are merged specifications by hash.
    """
    if study.plan is None:
        return
    own = [cell for cell in cells if cell.trains_agent]
    labels = dict.fromkeys([*(cell.label for cell in own), *study.arm_agents])
    anns = {c.label for c in own if c.agent in study.anns or not specs[str(c.spec_hash)].get("network")}
    try:
        check_agents(study.plan, list(labels), anns)
    except RegistryError as error:
        raise StudyError(f"plan.{error}") from None


def log_kept_entries(requested: Study, merged: Study) -> None:
    """Log the agents, tasks and seeds that only the folder's study has: ``merged`` keeps them although ``requested`` leaves them out."""
    for key in ("agents", "tasks", "seeds"):
        kept = [entry for entry in getattr(merged, key) if entry not in getattr(requested, key)]
        if kept:
            text = format_seeds(kept) if key == "seeds" else ", ".join(kept)
            log.info(
                "%s: %s kept from the study in the folder; to leave them out, choose another --out", key, text
            )


def warn_of_missing_controls(plan: StudyRun) -> None:
    """Warn of spiking agents without an ANN of their widths and rates: a difference is then not due to spikes alone."""
    arms = read_arms(plan.folder, plan.study, {cell.task for cell in plan.cells})
    uncontrolled = find_uncontrolled_agents(plan.study, plan.cells, plan.resolve.specs, arms)
    for task, agents in uncontrolled.items():
        for label, widths in agents.items():
            log.warning("%s on %s: the study has no ANN of its widths (%s) and rates", label, task, widths)


def warn_of_other_code(plan: StudyRun) -> None:
    """Warn if finished cells of a study with remaining ones ran at another commit or with another compiler than those will."""
    paths = (
        [plan.folder / "cells" / name / folders.RESULT for name in plan.finished] if plan.remaining else []
    )
    results = (folders.read_if_valid(path, folders.CellIdentity) for path in paths)
    origins = [
        result.provenance for result in results if result is not None and result.provenance is not None
    ]
    for key, here in (("commit", find_commit()), ("compiler", find_compiler_version())):
        others = {str(getattr(origin, key)) for origin in origins} - {str(here)}
        if others:
            log.warning("%s: %s here, %s in finished cells", key, here, ", ".join(sorted(others)))


def merge_study(study: Study, out: Path) -> Study:
    """Return the ``study`` merged with the one in the folder ``out``, with baseline, and with date, commit and seeds of its plan.

    Raises UserError.
    """
    merged = study_design.choose_baseline(folders.load_or_extend_study(out, study))
    study_design.check_study(merged)
    plan = merged.plan
    if plan is None:
        return merged
    if plan.date and plan.seeds and (out / "study.json").exists():
        return merged  # without tasks too: that plan was written before plans kept them
    origin = {
        "date": plan.date or datetime.date.today().isoformat(),
        "commit": plan.commit or find_commit() or "",
        "seeds": plan.seeds or merged.seeds,
        "tasks": plan.tasks or merged.tasks,
    }
    return merged.with_changes(plan=plan.with_changes(**origin))


def write_plan(study: Study, plan: StudyRun) -> StudyRun:
    """Write the ``plan`` of a ``study``, as the user gave it, into its folder, and return the written plan.

    It is merged with the plan of another command that has written there in the meantime. Raises UserError if the folder has cells of
    something else.
    """
    with folders.lock_cell(plan.folder):
        merged = merge_study(study, plan.folder)
        if merged != plan.study:
            plan = plan_study(merged, plan.folder, plan.place)
        plan.write()
    return plan


def add_base_hashes(cells: Sequence[Cell], study: Study, place: ExecutionOptions) -> list[Cell]:
    """Return the ``cells`` of a ``study`` at a ``place``, each with the digest of its agent without tuned values."""
    resolve = AgentResolver(study.with_changes(tuning="", vary={}, plan=None, conditions=("nominal",)), place)

    def compute_base_hash(cell: Cell) -> str | None:
        specification = cell.specification
        is_tuned = cell.trains_agent and specification.tuned
        return resolve(specification.task, specification.agent, {}).spec.digest if is_tuned else None

    return [cell.model_copy(update={"base_hash": compute_base_hash(cell)}) for cell in cells]


def estimate_cells(folder: Path, cells: Iterable[Cell], tasks: Mapping[str, TaskSpec]) -> list[Cell]:
    """Return the ``cells`` of the study in ``folder`` with their estimated seconds; ``tasks`` are task files by label.

    A training takes as long as the finished ones of its agent on the task, else of its algorithm, else as the task's file says for PPO.
    """
    all_cells = list(cells)
    trained = [cell for cell in all_cells if cell.trains_agent]
    finished = defaultdict[tuple[str, ...], list[float]](list)
    for cell in trained:
        result = folders.read_if_valid(folder / "cells" / cell.name / folders.RESULT, CellResult)
        if result is None or result.training is None:
            continue
        if result.hash in (cell.hash, cell.earlier_hash):
            for key in (cell.task, cell.label), (cell.task, _get_cell_algorithm(cell)):
                finished[key].append(result.training.seconds_total)

    def estimate(cell: Cell) -> float | None:
        if not cell.trains_agent:
            return None
        algorithm = _get_cell_algorithm(cell)
        if seconds := finished.get((cell.task, cell.label)) or finished.get((cell.task, algorithm)):
            return fmean(seconds)
        if cell.budget is not None and cell.budget.kind == "wall":
            return cell.budget.amount
        task = tasks.get(cell.task)
        speeds = task.steps_per_second if task is not None and algorithm == "ppo" else {}
        speed = speeds.get(cell.device.partition(":")[0])
        return None if cell.env_steps is None or not speed else cell.env_steps / cell.processes / speed

    return [cell.model_copy(update={"seconds": estimate(cell)}) for cell in all_cells]


def _get_cell_algorithm(cell: Cell) -> str:
    """Return the name of the algorithm that trains a ``cell``."""
    return get_algorithm(get_section(cell.specification.spec, "algorithm"))
