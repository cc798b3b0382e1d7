"""A tuning: agents and tasks, the space to search, how many trials of which budget; and the folder that it lies in.

    tuning.json  tuning.db  cells/TASK.AGENT.trial7.rung1.seed90000/...  trials/...  tuned.yaml  report.html

A trial's training has a third of a whole one's budget and is evaluated at rungs on the way, each a cell of its own that goes on from the
checkpoint of the one before. Trial 0 is the agent as its file has it. All that decides what comes next lies in Optuna's storage
and in the cells' results: a command that is killed anywhere and run again goes on from there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spiky_rl.config import files
from spiky_rl.config.options import Record
from spiky_rl.config.spec import flatten
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.experiments.design import grid
from spiky_rl.config.budget import Budget
from spiky_rl.experiments.design.grid import Cell, Resolve
from spiky_rl.experiments.design.study import Study, StudyError, StudyFile, extended
from spiky_rl.experiments.design.tuning_space import Dimension, Space
from spiky_rl.experiments.run.cells import VERSION, held_in, write_cell

FILE, DATABASE = "tuning.json", "tuning.db"
"""In a tuning's folder; the second where no other storage is named."""
SHARE = 1 / 3
"""Share of a whole training's budget that a trial has."""
RUNGS = (0.25, 0.5, 1.0)
"""Shares of a trial's budget after which it is evaluated, and goes on or ends."""
Activity = Literal["firing_rate", "operations"]
ACTIVITIES = {
    "firing_rate": "share of inner steps with a spike",
    "operations": "number of synaptic operations per control step",
}
"""What may be a second objective, of the actor."""


@dataclass(frozen=True)
class Pair:
    """An agent on a task: what has trials of its own."""

    task: str
    """As it was asked for, and so is the agent."""
    agent: str
    label: str
    """The task's."""
    stem: str
    """The agent's file's."""
    dimensions: tuple[Dimension, ...]
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
class Site:
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


@dataclass(frozen=True)
class Tuning:
    """The design of a tuning: agents, tasks, search space, number of trials and objectives."""

    study: Study
    """Agents, tasks, tuning seeds, budget of a whole training, and how trials are evaluated."""
    space: Space
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

    def of(self, pair: Pair, overrides: Sequence[str], share: float = 1.0) -> Study:
        """The study of a pair's trial; what the command line says stands behind its values.

        Args:
            pair: Agent and task.
            overrides: What the trial changes of the agent.
            share: Share of the trial's budget, up to which it goes.
        """
        budget = replace(pair.budget, amount=pair.budget.amount * share)
        own = (*overrides, *self.study.overrides)
        return self.study.with_changes(agents=(pair.agent,), tasks=(pair.task,), budget=budget, overrides=own)

    def cells(self, site: Site, pair: Pair, overrides: Sequence[str], rung: int, name: str) -> list[Cell]:
        """The cells of a trial at a rung, one for each seed, each with its folder.

        Args:
            site: Where they run.
            pair: Agent and task.
            overrides: What the trial changes of the agent.
            rung: Place in `rungs`; each goes on from the one before.
            name: The trial's.
        """
        given, written = self.of(pair, overrides, self.rungs[rung]), list[Cell]()
        title, before = f"{name} rung{rung}", f".rung{rung - 1}."
        for cell in grid.cells(given, site.resolver(given), site.device, site.assets, site.processes, title):
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
            "study": self.study.data(),
            "space": self.space.part(self.study.agents),
            "trials": self.trials,
            "activity": self.activity,
            "storage": self.storage,
        }


class Searched(Record):
    """What of a space a tuning searches: `Space.part`."""

    set: dict[str, Any]
    shared: dict[str, Any]
    own: dict[str, dict[str, Any]]


class TuningFile(Record):
    """tuning.json: `Tuning.data`, and what its trials are made from."""

    version: Literal[1]
    id: str
    study: StudyFile
    space: Searched
    trials: int
    activity: Literal["", Activity]
    storage: str
    facts: dict[str, str]


def read(folder: Path) -> TuningFile | None:
    """What the ``folder`` of a tuning says; None where there is no tuning. Raises StudyError that names file and key."""
    path = folder / FILE
    return held_in(path, TuningFile, "tuning") if path.exists() else None


def prepare(folder: Path, asked: Tuning) -> Tuning:
    """The tuning to work on in ``folder``: the ``asked`` one, with the agents, tasks and trials that it has already.

    Raises StudyError where the folder holds something else, naming the key: trials of two spaces are not to be compared; and where
    it holds tuned values without the trials that they are from, which would all be run again.
    """
    held = read(folder)
    database = folder / DATABASE
    if not (held or asked).storage and (folder / TUNED).exists() and not database.exists():
        raise StudyError(
            f"{database}: is not there, which has the trials that {TUNED} beside it is from; bring it back, or choose another --out"
        )
    if held is None:
        if (folder / "cells").exists():
            raise StudyError(f"{folder}: has cells/, but no {FILE} that says of what; choose another --out")
        return replace(asked, id=secrets.token_hex(4))
    study = extended(held.study, asked.study)
    both = [stem for stem in asked.study.stems if stem in held.space.own]
    ours: dict[str, Any] = {"activity": asked.activity, "storage": asked.storage}
    ours |= {"seeds": list(asked.study.seeds), "space": asked.space.part(both)}
    theirs: dict[str, Any] = held.model_dump(include={"activity", "storage", "space"})
    theirs["seeds"] = list(held.study.seeds)
    theirs["space"]["own"] = {stem: held.space.own[stem] for stem in both}
    old, new = flatten(theirs), flatten(ours)
    for key in (key for key in {**old, **new} if old.get(key) != new.get(key)):
        raise StudyError(
            f"{folder}: holds a tuning with {key}: {old.get(key)!r}, not {new.get(key)!r}; ask for the same, or choose another"
            " --out"
        )
    asked.space.require_equal(study.agents)
    return replace(asked, study=study, trials=max(asked.trials, held.trials), id=held.id)


def write(folder: Path, tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write tuning.json.

    Args:
        folder: The tuning's.
        tuning: What is tuned.
        facts: What its trials are made from, by name: hashes of agents on tasks, robots, physics.

    Raises StudyError where one of the facts was another when the tuning began.
    """
    held = begun.facts if (begun := read(folder)) else {}
    for key, value in held.items():
        if facts.get(key, value) != value:
            raise StudyError(
                f"{folder}: was begun with {key} {value!r}, which is {facts[key]!r} now; choose another --out"
            )
    files.write_json(folder / FILE, {**tuning.data(), "facts": {**held, **facts}})


def without_password(url: str) -> str:
    """The ``url`` of a storage as it may be shown."""
    return re.sub(r"(^[^:/@]*|://[^:/@]*):(?!//)[^@]*@", r"\1@", url)
