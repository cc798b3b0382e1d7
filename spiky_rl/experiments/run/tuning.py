"""A tuning: agents and tasks, search space, number of trials, budget; and its folder.

    tuning.json  tuning.db  cells/TASK.AGENT.trial7.rung1.seed90000/...  trials/...  tuned.yaml  report.html

A trial trains with a third of a whole budget. A rung is a training length after which the trial is evaluated, and may end early; each
rung is a cell (one training and its evaluation), which resumes from the checkpoint of the rung before.
Trial 0 is the agent as its file has it. Optuna's storage and the cells' results hold all state: a command that was killed continues if
it is run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spiky_rl.config import files
from spiky_rl.config.budget import Budget
from spiky_rl.config.options import FileRecord
from spiky_rl.config.spec import flatten
from spiky_rl.config.tuned_values import FILE_NAME as TUNED
from spiky_rl.experiments.design import grid
from spiky_rl.experiments.design.grid import Cell, CellResources, Resolve
from spiky_rl.experiments.design.study import Study, StudyError, StudyFile, merge_studies
from spiky_rl.experiments.design.tuning_space import SearchDimension, SearchSpace
from spiky_rl.experiments.run.cells import VERSION, read_study_record, write_cell

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

KERNELS = "kernels"
"""Prefix of the facts with the digests of kernels."""
FILE, DATABASE, TRIALS = "tuning.json", "tuning.db", "trials"
"""Names in a tuning's folder: its file, its storage unless another one is named, and the folder of the locks of trials."""
SHARE = 1 / 3
"""Share of a whole training's budget that a trial has."""
RUNGS = (0.25, 0.5, 1.0)
"""Shares of a trial's budget at which it is evaluated, and continues or ends."""
STARTUP = 10
"""Trials that must end before the sampler models them; until then values are random."""
PRUNED_FROM = 4
"""Complete trials from which on others may be ended early."""
Activity = Literal["firing_rate", "operations"]
ACTIVITIES = {
    "firing_rate": "share of inner steps with a spike",
    "operations": "number of synaptic operations per control step",
}
"""Activities of the actor that may be a second objective."""


@dataclass(frozen=True)
class AgentTask:
    """An agent on a task, which has trials of its own."""

    task: str
    """As the study names it; likewise the agent."""
    agent: str
    task_label: str
    """Label of the task in cells and reports."""
    agent_name: str
    """File stem of the agent."""
    dimensions: tuple[SearchDimension, ...]
    budget: Budget
    """Budget of a trial."""

    @property
    def facts(self) -> dict[str, str]:
        """Names in tuning.json of the facts that tuned.yaml holds, by their names there."""
        return {
            "specification": f"specification of {self.agent_name} on {self.task_label}",
            "physics": f"physics of {self.task_label}",
        }


@dataclass(frozen=True)
class TuningEnvironment:
    """Where and how trials run."""

    out: Path
    """Absolute path of the tuning's folder."""
    resolver: Callable[[Study], Resolve]
    """Returns the resolver of a study, as `grid.build_cells` takes it."""
    resources: CellResources


@dataclass(frozen=True)
class TuningDesign:
    """The design of a tuning: agents, tasks, search space, number of trials and objectives."""

    study: Study
    """Agents, tasks, tuning seeds, budget of a whole training, and evaluation of trials."""
    space: SearchSpace
    trials: int
    """Number of trials of every agent on every task."""
    minimized_activity: str = ""
    """Second objective, one of `ACTIVITIES`; empty if the return is the only objective."""
    storage: str = ""
    """URL of Optuna's storage without its password; empty for a file in the folder."""
    id: str = ""
    """Distinguishes its trials from other tunings in the same storage."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Shares of a trial's budget; with two objectives no trial ends early, because a low return may buy a low activity."""
        return (1.0,) if self.minimized_activity else RUNGS

    def make_trial_study(self, pair: AgentTask, overrides: Sequence[str], share: float = 1.0) -> Study:
        """Return the study of a trial with a ``share`` of its budget; overrides of the command line follow its values."""
        budget = replace(pair.budget, amount=pair.budget.amount * share)
        all_overrides = (*overrides, *self.study.overrides)
        return self.study.with_changes(
            agents=(pair.agent,), tasks=(pair.task,), budget=budget, overrides=all_overrides
        )

    def write_cells(
        self, site: TuningEnvironment, pair: AgentTask, overrides: Sequence[str], rung: int, name: str
    ) -> list[Cell]:
        """Write the files of the cells of the trial ``name`` at a ``rung``, one cell for each seed, and return the cells.

        They resume from the cells of the rung before.
        """
        trial_study = self.make_trial_study(pair, overrides, self.rungs[rung])
        written: list[Cell] = []
        for cell in grid.build_cells(
            trial_study, site.resolver(trial_study), site.resources, f"{name} rung{rung}"
        ):
            if cell.trains_agent:
                goes_on = grid.name_cell(cell.task, f"{name} rung{rung - 1}", cell.seed) if rung else ""
                written.append(cell.model_copy(update={"goes_on": goes_on}))
                write_cell(site.out, written[-1])
        return written

    def to_dict(self) -> dict[str, Any]:
        """Return the design as plain data."""
        return {
            "version": VERSION,
            "id": self.id,
            "study": self.study.to_dict(),
            "space": self.space.select(self.study.agents),
            "trials": self.trials,
            "activity": self.minimized_activity,
            "storage": self.storage,
        }


class SearchSpaceRecord(FileRecord):
    """Searched part of a space: `SearchSpace.select`."""

    set: dict[str, Any]
    shared: dict[str, Any]
    own: dict[str, dict[str, Any]]


class TuningFile(FileRecord):
    """Content of tuning.json: `TuningDesign.to_dict` and the facts of its trials."""

    version: Literal[1]
    id: str
    study: StudyFile
    space: SearchSpaceRecord
    trials: int
    activity: Literal["", Activity]
    storage: str
    facts: dict[str, str]


def read_tuning(folder: Path) -> TuningFile | None:
    """Return the tuning in ``folder``; None if there is none. Raises StudyError that names file and key."""
    path = folder / FILE
    return read_study_record(path, TuningFile, "tuning") if path.exists() else None


def load_or_extend_tuning(folder: Path, design: TuningDesign) -> TuningDesign:
    """Return the tuning to run in ``folder``: ``design`` merged with the agents, tasks and trials that the folder has.

    Raises StudyError if the folder has another tuning, because trials of two spaces are not comparable, and names the key; also if the
    folder has lost a part, because all trials would run again.
    """
    existing = read_tuning(folder)
    _require_complete(folder, existing)
    if existing is None:
        return replace(design, id=secrets.token_hex(4))
    study = merge_studies(existing.study, design.study)
    design.space.require_equal(study.agents)
    new_values: dict[str, Any] = {"activity": design.minimized_activity, "storage": design.storage}
    new_values |= {"seeds": sorted(design.study.seeds), "space": design.space.select(existing.study.agents)}
    old_values: dict[str, Any] = existing.model_dump(include={"activity", "storage", "space"})
    old_values["storage"] = redact_url(existing.storage)
    old_values["seeds"] = sorted(existing.study.seeds)
    old, new = flatten(old_values), flatten(new_values)
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            raise StudyError(
                f"{key}: {new.get(key)!r} given; the tuning in {folder} has {old.get(key)!r}; choose another --out"
            )
    study = study.with_changes(seeds=existing.study.seeds)  # their order decides the sampler's draws
    return replace(design, study=study, trials=max(design.trials, existing.trials), id=existing.id)


def _require_complete(folder: Path, existing: TuningFile | None) -> None:
    """Raise StudyError that names a missing or empty file if the tuning in ``folder``, with an ``existing`` tuning.json, has lost a part."""
    remedy = "bring it back, or choose another --out"
    if existing is None:
        for name in (TRIALS, TUNED):
            if (folder / name).exists():
                raise StudyError(f"{folder / FILE}: missing, though {name} is there; {remedy}")
        if (folder / "cells").exists():
            raise StudyError(f"{folder}: has cells/ without {FILE}; choose another --out")
    elif not existing.storage:
        database = folder / DATABASE
        fault = "missing" if not database.exists() else "empty" if not database.stat().st_size else ""
        if fault:  # tables are made before tuning.json is written
            raise StudyError(f"{database}: {fault}, though it held the trials of the tuning; {remedy}")


def write_tuning(folder: Path, tuning: TuningDesign, facts: Mapping[str, str]) -> None:
    """Write tuning.json with the ``facts`` of its trials. Raises StudyError if one of them has changed since the tuning began."""
    old_facts = existing.facts if (existing := read_tuning(folder)) else {}
    had_kernels = any(key.startswith(KERNELS) for key in old_facts)
    has_kernels = any(key.startswith(KERNELS) for key in facts)
    if old_facts and has_kernels and not had_kernels:
        raise StudyError(
            f"{folder / FILE}: facts: no {KERNELS}, as in files of earlier versions; they may have changed; choose another --out"
        )
    for key, value in old_facts.items():
        if facts.get(key, value) != value:
            raise StudyError(
                f"{folder}: {key}: {value!r} when the tuning began, now {facts[key]!r}; choose another --out"
            )
    files.write_json(folder / FILE, {**tuning.to_dict(), "facts": {**old_facts, **facts}})


def redact_url(url: str) -> str:
    """Return the ``url`` of a storage without its password and the values of its query."""
    parsed = _parse_url(url)
    if parsed is None:
        scheme, separator, _ = url.partition("://")
        if separator:
            return f"{scheme}://***"
        may_have_secret = any(character in url for character in ":@?=")
        return "***" if may_have_secret else url
    user = f"{parsed.username}@" if parsed.username else ""
    port = f":{parsed.port}" if parsed.port is not None else ""
    database = f"/{parsed.database}" if parsed.database else ""
    query = "&".join(f"{key}=***" for key in parsed.query)
    return f"{parsed.drivername}://{user}{parsed.host or ''}{port}{database}{'?' if query else ''}{query}"


def list_secrets(url: str) -> list[str]:
    """Return the secret parts of the ``url`` of a storage."""
    parsed = _parse_url(url)
    if parsed is None:
        return [url] if url else []
    query_values = [[value] if isinstance(value, str) else value for value in parsed.query.values()]
    return [text for texts in ([parsed.password], *query_values) for text in texts if text]


def _parse_url(url: str) -> URL | None:
    """Return the parts of the ``url`` of a storage; None if it is invalid, or has an @ in password or name."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        return None
    is_split = parsed.host is not None and "@" in f"{parsed.host}{parsed.database}"
    return None if is_split else parsed
