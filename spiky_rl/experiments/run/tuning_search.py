"""The trials of a tuning: started in turn, trained from rung to rung, reported to Optuna.

A trial follows from its number and the storage alone, so that a command that was killed can continue: a trial that runs in the storage
and has no lock holder is taken over.
"""

# pylint: disable=protected-access  # Optuna has no other way to a trial that another process has left

from __future__ import annotations

import glob
import logging
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import fmean

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from spiky_rl.config.options import UserError
from spiky_rl.experiments.design.grid import Cell, hash_data
from spiky_rl.experiments.run.cells import (
    RESULT,
    TrainingOutcome,
    is_finished,
    lock_cell,
    find_run_files,
    read_error_lines,
    read_if_valid,
)
from spiky_rl.experiments.run.engines.base import RUNNING, WAITING
from spiky_rl.experiments.run.results import read_result
from spiky_rl.experiments.run.tuning import (
    DATABASE,
    STARTUP,
    TRIALS,
    AgentTask,
    TuningDesign,
    TuningEnvironment,
    load_or_extend_tuning,
    write_tuning,
)
from spiky_rl.experiments.run.tuning_plan import CheckedTuning
from spiky_rl.experiments.run.tuning_storage import connect, open_studies

NON_FINITE = r"((iteration|environment step) \d+: |an action is not finite|(a reward|an observation) of \S+ is not finite)"
"""Beginning of the reason of a training or an evaluation that ended with non-finite values: the trial's own fault, which would happen again."""
DIVERGED_TRAINING = re.compile(f"failed: {NON_FINITE}")
"""Outcome of a training that ended with non-finite values."""
DIVERGED_EVALUATION = re.compile(f"error: {NON_FINITE}")
"""Line in the error of an evaluation that ended with non-finite values."""
SEARCH_INTERVAL_S = 5.0
"""Seconds between two searches for trials that another command has left."""

log = logging.getLogger(__name__)


@dataclass
class RunningTrial:
    """A trial at work."""

    pair: AgentTask
    trial: Trial
    overrides: list[str]
    rung: int
    lock: ExitStack
    cells: Sequence[Cell] = ()

    @property
    def name(self) -> str:
        """``lif_ppo trial7``."""
        return f"{self.pair.agent_name} trial{self.trial.number}"

    @property
    def title(self) -> str:
        """``lif_ppo trial7 on Isaac-Ant``."""
        return f"{self.name} on {self.pair.task_label}"


def start_search(
    design: TuningDesign,
    checked: CheckedTuning,
    check: Callable[[TuningDesign], CheckedTuning],
    site: TuningEnvironment,
    parallel: int,
    storage: str | None,
) -> TuningSearch:
    """Return the search of a tuning and write the tuning into its folder.

    It merges the tuning of another command that has begun in the folder since ``design`` was made, and applies ``check`` to it. A
    ``storage`` of None is a file in the folder. Raises StudyError if the storage is missing or damaged, or the folder's trials have other
    facts.
    """
    with lock_cell(site.out):
        merged = load_or_extend_tuning(site.out, design)
        if merged != replace(design, id=merged.id):
            checked = check(merged)
        connected = connect(storage or f"sqlite:///{site.out / DATABASE}")
        write_tuning(site.out, merged, checked.facts)
        return TuningSearch(merged, checked.pairs, connected, site, parallel)


class TuningSearch:
    """The open trials of a tuning: it hands out their cells, and decides by the results how each trial continues."""

    def __init__(
        self,
        tuning: TuningDesign,
        pairs: Sequence[AgentTask],
        storage: optuna.storages.BaseStorage,
        site: TuningEnvironment,
        parallel: int,
    ) -> None:
        self.tuning, self.site, self.out, self.parallel = tuning, site, site.out, parallel
        storage_label = tuning.storage or str(site.out / DATABASE)
        begun_before = {pair: self.count_begun(pair) for pair in pairs}
        self.studies = open_studies(tuning, pairs, storage, storage_label, begun_before)
        self.open: list[RunningTrial] = []
        self.taken: set[tuple[AgentTask, int]] = set()
        """Trials that this command has worked on."""
        self.broken: dict[str, str] = {}
        """Reasons of failed trials, which the next command tries again, by name."""
        self.searched_at = 0.0
        """Time, by the monotonic clock, of the last search that found no trial; 0 to search at once."""

    def count_begun(self, pair: AgentTask) -> int:
        """Return how many trials of a ``pair`` the storage must have at least.

        A trial's lock is created just before the trial, so the trials before the last lock's must be there.
        """
        path = self.out / TRIALS / f"{pair.task_label}.{pair.agent_name}."  # a task's label may have a /
        names = (folder.name for folder in path.parent.glob(f"{glob.escape(path.name)}*"))
        return max((int(n) for name in names if (n := name.removeprefix(path.name)).isdecimal()), default=0)

    def take_next_cells(self, states: Mapping[str, str]) -> list[Cell]:
        """Return the cells to begin now, from the ``states`` of all cells so far."""
        busy = {name for name, state in states.items() if state in (WAITING, RUNNING)}
        cells: list[Cell] = []
        for trial in list(self.open):
            if busy.isdisjoint(cell.name for cell in trial.cells):
                cells += self.on_cells_ended(trial)
        while len(busy) + len(cells) < self.parallel and (trial := self.start_trial()) is not None:
            cells += self.start_rung(trial)
        return cells

    def start_trial(self) -> RunningTrial | None:
        """Return the next trial: one that was left, otherwise a new one of the pair with the fewest; None if there is none."""
        if self.open and time.monotonic() < self.searched_at + SEARCH_INTERVAL_S:
            return None
        with lock_cell(self.out):  # so that no other command takes the same
            trial = self.take_over_trial() or self.add_trial()
        if trial is None:
            self.searched_at = time.monotonic()
        return trial

    def take_over_trial(self) -> RunningTrial | None:
        """Return a trial that another command has left at work; None if there is none."""
        for pair, study in self.studies.items():
            for orphan in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if (pair, orphan.number) not in self.taken and (lock := self.lock_trial(pair, orphan.number)):
                    now = get_frozen_trial(study, orphan.number)
                    if now.state == TrialState.RUNNING:
                        return self.open_trial(pair, orphan.number, lock, now)
                    lock.close()  # its former holder has reported its end
        return None

    def add_trial(self) -> RunningTrial | None:
        """Return a new trial of the pair with the fewest trials; None if all pairs have all trials."""
        counts = {pair: len(study.get_trials(deepcopy=False)) for pair, study in self.studies.items()}
        pair = min(counts, key=counts.__getitem__)
        if counts[pair] < self.tuning.trials and (lock := self.lock_trial(pair, counts[pair])):
            return self.open_trial(pair, counts[pair], lock)
        return None

    def lock_trial(self, pair: AgentTask, number: int) -> ExitStack | None:
        """Return the held lock of trial ``number`` of a ``pair``; None if another process holds it."""
        stack = ExitStack()
        try:
            stack.enter_context(
                lock_cell(self.out / TRIALS / f"{pair.task_label}.{pair.agent_name}.{number}", wait=False)
            )
        except BlockingIOError:
            return None
        return stack

    def open_trial(
        self, pair: AgentTask, number: int, lock: ExitStack, orphan: FrozenTrial | None = None
    ) -> RunningTrial:
        """Return a new trial, or the ``orphan`` that was left in the storage; the values that the orphan lacks are drawn.

        The ``number`` seeds the sampler, so that equal earlier trials give equal values even after a command was killed. The ``lock`` is
        held until the trial is closed.
        """
        study, overrides = self.studies[pair], list[str]()
        seed = int(hash_data([self.tuning.study.seeds, pair.task_label, pair.agent_name, number])[:8], 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # groups, because the first trial has no parameters
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, seed=seed, multivariate=True, group=True, constant_liar=True
            )
        trial = study.ask() if orphan is None else Trial(study, orphan._trial_id)
        if number > 0:
            chosen = {d: d.suggest(trial) for d in pair.dimensions}
            values = (text for d, value in chosen.items() for text in d.make_overrides(value))
            overrides = [*self.tuning.space.fixed_overrides, *values]
        self.taken.add((pair, number))
        self.open.append(
            RunningTrial(pair, trial, overrides, orphan.user_attrs.get("rung", 0) if orphan else 0, lock)
        )
        return self.open[-1]

    def start_rung(self, trial: RunningTrial) -> Sequence[Cell]:
        """Return the unfinished cells of the trial's rung, or of the next rung if all are finished.

        A trial whose values the agent refuses ends as one that diverges: it would be refused again. Raises UserError if the agent is
        refused without these values too.
        """
        pair = trial.pair
        try:
            trial.cells = self.tuning.write_cells(self.site, pair, trial.overrides, trial.rung, trial.name)
        except UserError as error:
            default = self.tuning.make_trial_study(pair, ())
            self.site.resolver(default)(pair.task, pair.agent, {})  # raises if the trial is not at fault
            return self.end_bad_trial(trial, f"refused: {error}")
        return [c for c in trial.cells if not self.is_finished(c)] or self.on_cells_ended(trial)

    def on_cells_ended(self, trial: RunningTrial) -> Sequence[Cell]:
        """Return the cells of a trial's next rung after the cells of its rung have ended; empty if the trial ends."""
        if unfinished := [cell for cell in trial.cells if not self.is_finished(cell)]:
            return self.on_cells_failed(trial, unfinished)
        values = self.compute_objectives(trial.cells)
        text = f"return {values[0]:.3g}" + "".join(
            f", {self.tuning.minimized_activity} {v:.3g}" for v in values[1:]
        )
        share = self.tuning.rungs[trial.rung]
        log.info("%s: %s after %.0f %% of its budget", trial.title, text, 100 * share)
        if not self.tuning.minimized_activity:  # Optuna prunes by one objective only
            stored = get_frozen_trial(trial.trial.study, trial.trial.number)
            if trial.rung not in stored.intermediate_values:
                trial.trial.report(values[0], trial.rung)
        if trial.rung + 1 == len(self.tuning.rungs):
            return self.finish_trial(trial, values=values)
        if trial.trial.number > 0 and trial.trial.should_prune():
            return self.finish_trial(trial, state=TrialState.PRUNED)
        trial.rung += 1
        trial.trial.set_user_attr("rung", trial.rung)
        return self.start_rung(trial)

    def on_cells_failed(self, trial: RunningTrial, unfinished: Sequence[Cell]) -> Sequence[Cell]:
        """End a trial with ``unfinished`` cells: as diverged, or to be tried again by the next command; return no cells."""
        diverged = [cell for cell in unfinished if self.has_diverged(cell)]
        failed = (diverged or unfinished)[0]
        reason = (read_error_lines(self.out / "cells" / failed.name) or ["it left no message"])[-1]
        if diverged:
            return self.end_bad_trial(trial, reason)
        self.broken[trial.title] = reason
        log.error("%s: failed; %s", trial.title, reason)
        return self.finish_trial(trial)

    def end_bad_trial(self, trial: RunningTrial, reason: str) -> Sequence[Cell]:
        """End a trial that diverged, or whose values were refused, for a ``reason``; return no cells."""
        trial.trial.set_user_attr("diverged", reason)
        log.info("%s: counts as a bad one; %s", trial.title, reason)
        return self.finish_trial(
            trial, state=TrialState.FAIL if self.tuning.minimized_activity else TrialState.PRUNED
        )

    def finish_trial(
        self, trial: RunningTrial, values: Sequence[float] | None = None, state: TrialState | None = None
    ) -> Sequence[Cell]:
        """Report a trial's end to the storage, if it has ended, and release it; return no cells.

        ``values`` are its objectives if it is complete, ``state`` says how it ended otherwise; if both are None it failed, and the next
        command tries it again.
        """
        if values is not None or state is not None:
            trial.trial.study.tell(trial.trial, values, state)
        self.open.remove(trial)
        trial.lock.close()
        self.searched_at = 0.0
        return ()

    def compute_objectives(self, cells: Sequence[Cell]) -> list[float]:
        """Return the objectives: means over the ``cells`` of all seeds."""
        nominal = [read_result(self.out / "cells" / cell.name).nominal for cell in cells]
        keys = ["mean_return", *([self.tuning.minimized_activity] if self.tuning.minimized_activity else [])]
        return [fmean(getattr(evaluation, key) for evaluation in nominal) for key in keys]

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a ``cell`` has its result."""
        return is_finished(self.out / "cells" / cell.name, cell.hash)

    def has_diverged(self, cell: Cell) -> bool:
        """Return whether training or evaluation of a ``cell`` ended with non-finite values."""
        folder = self.out / "cells" / cell.name
        outcomes = (read_if_valid(path, TrainingOutcome) for path in find_run_files(folder, RESULT))
        return any(outcome and DIVERGED_TRAINING.match(outcome.outcome) for outcome in outcomes) or any(
            map(DIVERGED_EVALUATION.match, read_error_lines(folder) or ())
        )


def get_frozen_trial(study: optuna.Study, number: int) -> FrozenTrial:
    """Return trial ``number`` of a ``study`` from the storage."""
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)
