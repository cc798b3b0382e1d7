"""A tuning: agents and tasks, the space to search, how many trials of which budget; and the folder that it lies in.

    tuning.json  tuning.db  cells/TASK.AGENT.trial7.rung1.seed90000/...  trials/...  tuned.yaml  report.html

A trial's training has a third of a whole one's budget and is evaluated at rungs on the way, each a cell of its own that goes on from the
checkpoint of the one before. Trial 0 is the agent as its file has it. All that decides what comes next lies in Optuna's storage
and in the cells' results: a command that is killed anywhere and run again goes on from there.
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
from spiky_rl.experiments.design.grid import Cell, Resolve
from spiky_rl.experiments.design.study import Study, StudyError, StudyFile, merge_studies
from spiky_rl.experiments.design.tuning_space import SearchDimension, SearchSpace
from spiky_rl.experiments.run.cells import VERSION, read_study_record, write_cell

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

KERNELS = "kernels"
"""Beginning of the facts' names of kernels' digests."""
FILE, DATABASE, TRIALS = "tuning.json", "tuning.db", "trials"
"""In a tuning's folder; the second where no other storage is named, the third with the locks of trials that were begun."""
SHARE = 1 / 3
"""Share of a whole training's budget that a trial has."""
RUNGS = (0.25, 0.5, 1.0)
"""Shares of a trial's budget after which it is evaluated, and goes on or ends."""
STARTUP = 10
"""Trials that are over before the sampler models any; until then it draws values at random."""
PRUNED_FROM = 4
"""Complete trials from which on others are ended early."""
Activity = Literal["firing_rate", "operations"]
ACTIVITIES = {
    "firing_rate": "share of inner steps with a spike",
    "operations": "number of synaptic operations per control step",
}
"""What may be a second objective, of the actor."""


@dataclass(frozen=True)
class AgentTask:
    """An agent on a task: what has trials of its own."""

    task: str
    """As it was asked for, and so is the agent."""
    agent: str
    label: str
    """The task's."""
    stem: str
    """The agent's file's."""
    dimensions: tuple[SearchDimension, ...]
    budget: Budget
    """Budget of a trial."""

    @property
    def facts(self) -> dict[str, str]:
        """What tuning.json calls the facts that trials are made from, by what tuned.yaml calls them."""
        return {
            "specification": f"specification of {self.stem} on {self.label}",
            "physics": f"physics of {self.label}",
        }


@dataclass(frozen=True)
class TuningEnvironment:
    """Where and how trials run."""

    out: Path
    """The tuning's folder, absolute."""
    resolver: Callable[[Study], Resolve]
    """Tells what a combination of task, agent and variation is in a study, as `grid.cells` asks."""
    device: str | None = None
    assets: str = "auto"
    robots: str = ""
    """Which those are, in words."""
    processes: int = 1
    """How many processes train a cell."""
    threads: int | None = None
    """Threads of a cell on the CPU."""


@dataclass(frozen=True)
class TuningDesign:
    """The design of a tuning: agents, tasks, search space, number of trials and objectives."""

    study: Study
    """Agents, tasks, tuning seeds, budget of a whole training, and how trials are evaluated."""
    space: SearchSpace
    trials: int
    """Number of trials that every agent has on every task."""
    activity: str = ""
    """One of `ACTIVITIES`, to be as low as it can; empty: there is the return alone."""
    storage: str = ""
    """URL of Optuna's storage, without its password; empty: a file of the folder."""
    id: str = ""
    """Tells its trials from those of other tunings in the same storage."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """With two objectives no trial is ended early: a low return may be what a low activity costs."""
        return (1.0,) if self.activity else RUNGS

    def make_trial_study(self, pair: AgentTask, overrides: Sequence[str], share: float = 1.0) -> Study:
        """The study of a pair's trial; what the command line says stands behind its values.

        Args:
            pair: Agent and task.
            overrides: What the trial changes of the agent.
            share: Share of the trial's budget, up to which it goes.
        """
        budget = replace(pair.budget, amount=pair.budget.amount * share)
        own = (*overrides, *self.study.overrides)
        return self.study.with_changes(agents=(pair.agent,), tasks=(pair.task,), budget=budget, overrides=own)

    def cells(
        self, site: TuningEnvironment, pair: AgentTask, overrides: Sequence[str], rung: int, name: str
    ) -> list[Cell]:
        """The cells of a trial at a rung, one for each seed, each with its folder.

        Args:
            site: Where they run.
            pair: Agent and task.
            overrides: What the trial changes of the agent.
            rung: Place in `rungs`; each goes on from the one before.
            name: The trial's.
        """
        given, written = self.make_trial_study(pair, overrides, self.rungs[rung]), list[Cell]()
        title, before = f"{name} rung{rung}", f".rung{rung - 1}."
        for cell in grid.build_cells(
            given, site.resolver(given), site.device, site.assets, site.processes, title, site.threads
        ):
            if cell.is_trained:
                goes_on = cell.name.replace(f".rung{rung}.", before) if rung else ""
                written.append(cell.model_copy(update={"goes_on": goes_on}))
                write_cell(site.out, written[-1], site.robots)
        return written

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "version": VERSION,
            "id": self.id,
            "study": self.study.to_dict(),
            "space": self.space.select(self.study.agents),
            "trials": self.trials,
            "activity": self.activity,
            "storage": self.storage,
        }


class SearchSpaceRecord(FileRecord):
    """What of a space a tuning searches: `Space.part`."""

    set: dict[str, Any]
    shared: dict[str, Any]
    own: dict[str, dict[str, Any]]


class TuningFile(FileRecord):
    """tuning.json: `Tuning.data`, and what its trials are made from."""

    version: Literal[1]
    id: str
    study: StudyFile
    space: SearchSpaceRecord
    trials: int
    activity: Literal["", Activity]
    storage: str
    facts: dict[str, str]


def read_tuning(folder: Path) -> TuningFile | None:
    """What the ``folder`` of a tuning says; None where there is no tuning. Raises StudyError that names file and key."""
    path = folder / FILE
    return read_study_record(path, TuningFile, "tuning") if path.exists() else None


def load_or_extend_tuning(folder: Path, design: TuningDesign) -> TuningDesign:
    """The tuning to work on in ``folder``: the ``asked`` one, with the agents, tasks and trials that it has already.

    Raises StudyError where the folder holds something else, naming the key: trials of two spaces are not to be compared; and where
    its tuning has lost a part without which all trials would be run again.
    """
    held = read_tuning(folder)
    _check_is_whole(folder, held, (held or design).storage)
    if held is None:
        return replace(design, id=secrets.token_hex(4))
    study = merge_studies(held.study, design.study)
    both = [stem for stem in design.study.agent_names if stem in held.space.own]
    ours: dict[str, Any] = {"activity": design.activity, "storage": design.storage}
    ours |= {"seeds": list(design.study.seeds), "space": design.space.select(both)}
    theirs: dict[str, Any] = held.model_dump(include={"activity", "storage", "space"})
    theirs["storage"] = redact_url(held.storage)
    theirs["seeds"] = list(held.study.seeds)
    theirs["space"]["own"] = {stem: held.space.own[stem] for stem in both}
    old, new = flatten(theirs), flatten(ours)
    for key in (key for key in {**old, **new} if old.get(key) != new.get(key)):
        raise StudyError(
            f"{folder}: holds a tuning with {key}: {old.get(key)!r}, not {new.get(key)!r}; ask for the same, or choose another"
            " --out"
        )
    design.space.require_equal(study.agents)
    return replace(design, study=study, trials=max(design.trials, held.trials), id=held.id)


def _check_is_whole(folder: Path, held: TuningFile | None, storage: str) -> None:
    """Refuse a ``folder`` that has lost a part of its tuning: its trials would silently be run again.

    Args:
        folder: The tuning's.
        held: What its tuning.json says; None if it has none.
        storage: URL of the storage; empty: a file of the folder.

    Raises:
        StudyError: It names the file that is missing or empty.
    """
    remedy = "bring it back, or choose another --out"
    if held is None:
        for name in (TRIALS, TUNED):
            if (folder / name).exists():
                raise StudyError(
                    f"{folder / FILE}: is not there, which says of what {name} beside it is; {remedy}"
                )
        if (folder / "cells").exists():
            raise StudyError(f"{folder}: has cells/, but no {FILE} that says of what; choose another --out")
    elif not storage:
        database = folder / DATABASE
        what = "is not there" if not database.exists() else "is empty" if not database.stat().st_size else ""
        if what:  # tables are made before tuning.json is written
            raise StudyError(f"{database}: {what}, and has the trials of the tuning; {remedy}")


def write_tuning(folder: Path, tuning: TuningDesign, facts: Mapping[str, str]) -> None:
    """Write tuning.json.

    Args:
        folder: The tuning's.
        tuning: What is tuned.
        facts: What its trials are made from, by name: hashes of agents on tasks, robots, physics.

    Raises StudyError where one of the facts was another when the tuning began.
    """
    held = begun.facts if (begun := read_tuning(folder)) else {}
    told, known = (any(key.startswith(KERNELS) for key in some) for some in (held, facts))
    if held and known and not told:
        raise StudyError(
            f"{folder / FILE}: facts: no {KERNELS}, as in all files of earlier versions; they may be others now; choose another --out"
        )
    for key, value in held.items():
        if facts.get(key, value) != value:
            raise StudyError(
                f"{folder}: was begun with {key} {value!r}, which is {facts[key]!r} now; choose another --out"
            )
    files.write_json(folder / FILE, {**tuning.data(), "facts": {**held, **facts}})


def redact_url(url: str) -> str:
    """Return the ``url`` of a storage as it may be shown and stored: without its password and the values of its query."""
    parsed = _parse_url(url)
    if parsed is None:
        scheme, separator, _ = url.partition("://")
        return f"{scheme}://***" if separator else "***" if set(url) & set(":@?=") else url
    user = f"{parsed.username}@" if parsed.username else ""
    port = f":{parsed.port}" if parsed.port is not None else ""
    database = f"/{parsed.database}" if parsed.database else ""
    query = "&".join(f"{key}=***" for key in parsed.query)
    return f"{parsed.drivername}://{user}{parsed.host or ''}{port}{database}{'?' if query else ''}{query}"


def list_secrets(url: str) -> list[str]:
    """Return the texts of the ``url`` of a storage that are not to be shown."""
    parsed = _parse_url(url)
    if parsed is None:
        return [url] if url else []
    listed = [[value] if isinstance(value, str) else value for value in parsed.query.values()]
    return [text for texts in ([parsed.password], *listed) for text in texts if text]


def _parse_url(url: str) -> URL | None:
    """Return the parts of the ``url`` of a storage; None if it has none, or an @ tells a part of its password from the host."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        return None
    is_split = parsed.host is not None and "@" in f"{parsed.host}{parsed.database}"
    return None if is_split else parsed
