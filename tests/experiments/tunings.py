"""Tunings with cells that take no time: an engine computes the result of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from spiky_rl.config import files
from spiky_rl.config.budget import Budget
from spiky_rl.experiments.design import study, tuning_space
from spiky_rl.experiments.design.grid import Cell, CellResources
from spiky_rl.experiments.run import tuning
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, Engine, WorkOrder
from spiky_rl.experiments.run.tuning import SHARE, AgentTask, TuningDesign, TuningEnvironment
from spiky_rl.experiments.run.tuning_plan import CheckedTuning
from spiky_rl.experiments.run.tuning_search import TuningSearch, start_search
from spiky_rl.run.run_plan import RunPlan
from tests.experiments.plans import plan
from tests.experiments.results import TRUTHS, cell_of

SPACE = {
    "set": {"agent.algorithm.schedule": "fixed"},
    "shared": {"agent.algorithm.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
    "own": {
        "lif_ppo": {"agent.network.steps": {"low": 1, "high": 8}},
        "mlp_ppo": {"agent.actor.activation": {"choices": ["elu", "relu", "tanh"]}},
    },
}
WHOLE = Budget("env_steps", 120_000)


def asked(agents="lif_ppo,mlp_ppo", trials=6, activity="", space=None, **more) -> TuningDesign:
    given = study.build_study("tuning", {"agents": agents, "tasks": ["cartpole"], "seeds": "90000", **more})
    return TuningDesign(given, tuning_space.build_space("test", space or SPACE), trials, activity)


def resolver(given: study.Study):
    """As Isaac Lab's configurations would tell it, in short."""

    def resolve(task: str, agent: str, variant: Mapping) -> RunPlan:
        return plan(task, {"agent": agent, "overrides": list(given.overrides)})

    return resolve


def checked(wanted: TuningDesign) -> CheckedTuning:
    """As tune.py checks a tuning."""
    budget = Budget("env_steps", WHOLE.amount * SHARE)
    agents = wanted.study.agents
    pairs = [
        AgentTask("cartpole", a, "Isaac-Cartpole", a, wanted.space.get_dimensions(a), budget) for a in agents
    ]
    return CheckedTuning(pairs, {"lif_ppo on Isaac-Cartpole": "a" * 16})


def search(out: Path, wanted: TuningDesign, parallel: int = 1, storage: str | None = None) -> TuningSearch:
    """As tune.py makes it."""
    asked_for = tuning.load_or_extend_tuning(out, wanted)
    return start_search(
        asked_for,
        checked(asked_for),
        checked,
        TuningEnvironment(out, resolver, CellResources("cpu")),
        parallel,
        storage,
    )


def value(cell: Cell, name: str, default: str) -> str:
    """The value of an option in a cell."""
    return dict(text.split("=", 1) for text in cell.specification.overrides).get(name, default)


def outcome(cell: Cell) -> dict[str, float]:
    """The higher the nearer the learning rate is to 0.01, and the longer the training; spikes for every inner step."""
    rate = float(value(cell, "agent.algorithm.learning_rate", "1e-3"))
    steps = int(value(cell, "agent.network.steps", "4"))
    amount = cell.env_steps or 0
    near = 1.0 / (1.0 + abs(math.log10(rate) + 2.0))
    return {
        "mean_return": 5.0 * near * amount / (amount + 5_000),
        "firing_rate": 0.05 * steps,
        "operations": 100.0 * steps,
    }


class Computed(Engine):
    """Takes ``seconds`` for a cell; notes when cells begin and end in ``cells.log``; breaks where ``breaks`` says so."""

    def __init__(self, seconds: float = 0.0, breaks=lambda cell: None) -> None:
        self.seconds, self.breaks = seconds, breaks
        self.running: dict[str, tuple[Cell, float]] = {}

    def log(self, order: WorkOrder, line: str) -> None:
        with open(order.out / "cells.log", "a", encoding="utf-8", buffering=1) as file:
            file.write(f"{line}\n")

    def start(self, order: WorkOrder, cell: Cell) -> None:
        self.log(order, f"begin {cell.name}")
        self.running[cell.name] = cell, time.monotonic() + self.seconds

    def stop(self) -> None:
        raise AssertionError("no test stops a tuning")

    def wait(self, order: WorkOrder) -> dict[str, str]:
        ended = [name for name, (_, end) in self.running.items() if time.monotonic() >= end]
        return {name: self.end(order, self.running.pop(name)[0]) for name in ended}

    def end(self, order: WorkOrder, cell: Cell) -> str:
        """Write what a cell leaves, and return its state."""
        folder = order.out / "cells" / cell.name
        if (error := self.breaks(cell)) is not None:
            self.fail(folder, error)
            return BROKEN
        found = cell_of("lif_ppo", cell.task, cell.seed, {}, ["nominal"], TRUTHS["lif_ppo"])
        found["evaluation"]["conditions"]["nominal"] |= outcome(cell)
        found |= {"cell": cell.name, "hash": cell.hash}
        files.write_json(folder / "result.json", found)
        self.log(order, f"end {cell.name}")
        return DONE

    def fail(self, folder: Path, error: str) -> None:
        """As a training that ended with an error."""
        files.write_atomically(
            folder / "error.txt", lambda beside: beside.write_text(f"the training ended\n{error}\n")
        )
        files.write_json(folder / "run" / "rsl_rl" / "cartpole" / "first" / "result.json", {"outcome": error})


def run(
    out: Path,
    wanted: TuningDesign,
    parallel: int = 1,
    engine: Engine | None = None,
    storage: str | None = None,
) -> TuningSearch:
    """A tuning to its end."""
    made = search(out, wanted, parallel, storage)
    (engine or Computed()).run(
        WorkOrder((), out, parallel, lambda states: None, lambda: False, more_cells=made.take_next_cells)
    )
    return made


def trials(made: TuningSearch) -> dict[str, list[tuple]]:
    """Number, state, parameters and values of all trials, by agent."""
    return {
        pair.agent_name: [
            (t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in held.get_trials()
        ]
        for pair, held in made.studies.items()
    }
