"""The trials of a tuning: begun in turn, brought from rung to rung, told to Optuna.

What a trial is comes from its number and the storage alone, so that a command that was killed goes on with what is there: a trial
that is running there, and whose lock nobody holds, is taken over.
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

from spiky_rl.experiments.run.results import read_result
from spiky_rl.experiments.design.grid import Cell, hash_data
from spiky_rl.experiments.run.cells import (
    ERROR,
    RESULT,
    TrainingOutcome,
    is_finished,
    lock_cell,
    read_if_valid,
)
from spiky_rl.experiments.run.engines.base import RUNNING, WAITING
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

DIVERGED = re.compile(r"failed: (iteration|environment step) \d+: ")
"""How a training ends whose numbers are none any more: that is the trial's own doing, and would happen again."""
PAUSE = 5.0
"""Seconds between two looks for trials that another command has left."""

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
        return f"{self.pair.stem} trial{self.trial.number}"


def start_search(
    asked: TuningDesign, checked: CheckedTuning, check: Callable[[TuningDesign], CheckedTuning], site: TuningEnvironment, parallel: int, storage: str | None
) -> TuningSearch:  # fmt: skip
    """The search of a tuning, whose folder says from here on what is tuned.

    Another command may have begun in the folder since it was read for ``asked``: the two are one tuning then.

    Args:
        asked: The tuning.
        checked: What of it has trials of its own.
        check: Tells the same of the tuning that it is together with another command's.
        site: Where and how trials run.
        parallel: Cells at once.
        storage: URL of Optuna's storage; None: a file of the folder.

    Raises:
        StudyError: The storage is not there or damaged, or the folder's trials are made from something else.
    """
    with lock_cell(site.out):
        merged = load_or_extend_tuning(site.out, asked)
        if merged != replace(asked, id=merged.id):
            checked = check(merged)
        connected = connect(storage or f"sqlite:///{site.out / DATABASE}")
        write_tuning(site.out, merged, checked.facts)
        return TuningSearch(merged, checked.pairs, connected, site, parallel)


class TuningSearch:
    """Hands out the cells of trials, and decides with their results how it goes on."""

    def __init__(
        self, tuning: TuningDesign, pairs: Sequence[AgentTask], storage: optuna.storages.BaseStorage, site: TuningEnvironment, parallel: int
    ) -> None:  # fmt: skip
        self.tuning, self.site, self.out, self.parallel = tuning, site, site.out, parallel
        where = tuning.storage or str(site.out / DATABASE)
        begun_before = {pair: self.count_begun(pair) for pair in pairs}
        self.studies = open_studies(tuning, pairs, storage, where, begun_before)
        self.open: list[RunningTrial] = []
        self.taken: set[tuple[AgentTask, int]] = set()
        """Trials that this command has worked on."""
        self.broken: dict[str, str] = {}
        """Names of trials that failed, which the next command tries again, and why."""
        self.looked = 0.0

    def count_begun(self, pair: AgentTask) -> int:
        """Number of trials of a ``pair`` that the storage has at least: a trial's lock is made just before it."""
        name = f"{pair.label}.{pair.stem}."
        folders = (path.name for path in (self.out / TRIALS).glob(f"{glob.escape(name)}*"))
        return max((int(n) for folder in folders if (n := folder.removeprefix(name)).isdecimal()), default=0)

    def next_cells(self, states: Mapping[str, str]) -> list[Cell]:
        """Cells to begin now; ``states`` are those of all cells so far."""
        busy = {name for name, state in states.items() if state in (WAITING, RUNNING)}
        cells: list[Cell] = []
        for trial in list(self.open):
            if busy.isdisjoint(cell.name for cell in trial.cells):
                cells += self.on_cells_ended(trial)
        while len(busy) + len(cells) < self.parallel and (trial := self.start_trial()) is not None:
            cells += self.start_rung(trial)
        return cells

    def start_trial(self) -> RunningTrial | None:
        """The next trial: one that was left, else a new one of the pair that has the fewest."""
        if self.open and time.monotonic() < self.looked + PAUSE:
            return None
        with lock_cell(self.out):  # so that no other command takes the same
            for pair, study in self.studies.items():
                for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    if (pair, left.number) not in self.taken and (lock := self.lock_trial(pair, left.number)):
                        now = get_frozen_trial(study, left.number)
                        if now.state == TrialState.RUNNING:
                            return self.open_trial(pair, left.number, lock, now)
                        lock.close()  # who held it has told its end since
            counts = {pair: len(study.get_trials(deepcopy=False)) for pair, study in self.studies.items()}
            pair = min(counts, key=lambda pair: counts[pair])
            if counts[pair] < self.tuning.trials and (lock := self.lock_trial(pair, counts[pair])):
                return self.open_trial(pair, counts[pair], lock)
        self.looked = time.monotonic()
        return None

    def lock_trial(self, pair: AgentTask, number: int) -> ExitStack | None:
        """The lock of a ``pair``'s trial ``number``, for as long as this process works on it; None where another one does."""
        stack = ExitStack()
        try:
            stack.enter_context(
                lock_cell(self.out / TRIALS / f"{pair.label}.{pair.stem}.{number}", wait=False)
            )
        except BlockingIOError:
            return None
        return stack

    def open_trial(
        self, pair: AgentTask, number: int, lock: ExitStack, left: FrozenTrial | None = None
    ) -> RunningTrial:
        """A new trial, or one that was left.

        Args:
            pair: Agent and task.
            number: The trial's. Its sampler is made of it, so that it draws the same from the same trials before it, whoever
                was killed in between.
            lock: Held until the trial is closed.
            left: As the storage has one that was left, and which may hold all, some or none of its values.
        """
        study, overrides = self.studies[pair], list[str]()
        seed = int(hash_data([self.tuning.study.seeds, pair.label, pair.stem, number])[:8], 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # groups, for the first trial has no parameters at all
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, seed=seed, multivariate=True, group=True, constant_liar=True
            )
        trial = study.ask() if left is None else Trial(study, left._trial_id)
        if number > 0:
            chosen = {d: d.suggest(trial) for d in pair.dimensions}
            values = (text for d, value in chosen.items() for text in d.assignments(value))
            overrides = [*self.tuning.space.fixed, *values]
        self.taken.add((pair, number))
        self.open.append(
            RunningTrial(pair, trial, overrides, left.user_attrs.get("rung", 0) if left else 0, lock)
        )
        return self.open[-1]

    def start_rung(self, trial: RunningTrial) -> Sequence[Cell]:
        """The cells of the trial's rung that are not finished; the next rung's where all are."""
        trial.cells = self.tuning.cells(self.site, trial.pair, trial.overrides, trial.rung, trial.name)
        return [c for c in trial.cells if not self.is_finished(c)] or self.on_cells_ended(trial)

    def on_cells_ended(self, trial: RunningTrial) -> Sequence[Cell]:
        """Go on after a trial's cells have ended: the cells of its next rung, or nothing."""
        where = f"{trial.name} on {trial.pair.label}"
        unfinished = [cell for cell in trial.cells if not self.is_finished(cell)]
        if unfinished:
            reason = self.get_failure_reason(unfinished[0])
            if any(self.has_diverged(cell) for cell in unfinished):
                state = TrialState.FAIL if self.tuning.activity else TrialState.PRUNED
                trial.trial.set_user_attr("diverged", reason)
                log.info("%s: diverged; %s", where, reason)
                return self.finish_trial(trial, state=state)
            self.broken[where] = reason
            log.error("%s: failed; %s", where, reason)
            return self.finish_trial(trial)
        values = self.compute_objectives(trial.cells)
        said = f"return {values[0]:.3g}" + "".join(f", {self.tuning.activity} {v:.3g}" for v in values[1:])
        share = self.tuning.rungs[trial.rung]
        log.info("%s: %s after %.0f %% of its budget", where, said, 100 * share)
        ids = trial.trial.study, trial.trial.number
        if not self.tuning.activity and trial.rung not in get_frozen_trial(*ids).intermediate_values:
            trial.trial.report(values[0], trial.rung)
        if trial.rung + 1 == len(self.tuning.rungs):
            return self.finish_trial(trial, values=values)
        if trial.trial.number > 0 and trial.trial.should_prune():
            return self.finish_trial(trial, state=TrialState.PRUNED)
        trial.rung += 1
        trial.trial.set_user_attr("rung", trial.rung)
        return self.start_rung(trial)

    def finish_trial(
        self, trial: RunningTrial, values: Sequence[float] | None = None, state: TrialState | None = None
    ) -> Sequence[Cell]:
        """Tell the storage how a trial ended, if it did, and let go of it; nothing follows.

        Args:
            trial: The trial.
            values: Its objectives, where it is complete.
            state: Else how it ended; None: it failed, and the next command tries it again.
        """
        if values is not None or state is not None:
            trial.trial.study.tell(trial.trial, values, state)
        self.open.remove(trial)
        trial.lock.close()
        self.looked = 0.0
        return ()

    def compute_objectives(self, cells: Sequence[Cell]) -> list[float]:
        """The objectives, means over the ``cells`` of all seeds."""
        nominal = [read_result(self.out / "cells" / cell.name).nominal for cell in cells]
        keys = ["mean_return", *([self.tuning.activity] if self.tuning.activity else [])]
        return [fmean(getattr(evaluation, key) for evaluation in nominal) for key in keys]

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell has its result."""
        return is_finished(self.out / "cells" / cell.name, cell.hash)

    def get_failure_reason(self, cell: Cell) -> str:
        """Why a cell failed: the last line of what it said."""
        path = self.out / "cells" / cell.name / ERROR
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else ["it left no word"]
        return next((line for line in reversed(lines) if line.strip()), "it left no word")

    def has_diverged(self, cell: Cell) -> bool:
        """Whether a cell's training ended because its numbers were none any more."""
        paths = (self.out / "cells" / cell.name).glob(f"run/*/*/*/{RESULT}")
        return any(
            (held := read_if_valid(path, TrainingOutcome)) and DIVERGED.match(held.outcome) for path in paths
        )


def get_frozen_trial(study: optuna.Study, number: int) -> FrozenTrial:
    """Trial ``number`` of a ``study`` as the storage has it."""
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)
