"""Reading a study's folder: its design, its plan and what each cell measured, each checked key by key.

A result file that is damaged, of another version or of another plan is named with the reason and left out; it never stops
what reads the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spiky_rl.config.reading import ReadingError, parse_json
from spiky_rl.experiments.design.budget import parse as parse_budget
from spiky_rl.experiments.design.checks import (  # fmt: skip
    Check,
    ResultsError,
    anything,
    expects,
    is_name,
    number,
    optional,
    record,
    rows,
    table,
    text,
    whole,
)
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.cells import ERROR, VERSION
from spiky_rl.experiments.run.cells import RESULT as RESULT_FILE
from spiky_rl.metrics.energy import Cost

LAST_LINES = 8
"""Of an error's traceback, for who reads the report."""


@dataclass(frozen=True)
class Planned:
    """One cell of plan.json."""

    cell: str
    agent: str
    label: str
    task: str
    variant: Mapping[str, Any]
    seed: int
    hash: str


@dataclass(frozen=True)
class Training:
    """What training came to."""

    env_steps: int
    iterations: int
    mean_return_final: float | None
    mean_return_best: float | None
    seconds_total: float
    seconds_simulation: float
    seconds_inference: float
    seconds_learning: float
    seconds_cpu: float | None
    """Of all processors together; None where they were not counted, as in a resumed training."""


@dataclass(frozen=True)
class Curve:
    """One entry per iteration; a return is None until an episode has ended."""

    env_steps: tuple[int, ...]
    returns: tuple[float | None, ...]
    seconds: tuple[float, ...]
    operations: tuple[float | None, ...]
    firing_rate: tuple[float | None, ...]


@dataclass(frozen=True)
class Condition:
    """One evaluation of the final policy."""

    text: str
    mean_return: float
    std_return: float
    mean_length: float
    """Control steps."""
    firing_rate: float | None
    operations: float | None
    """Effective synaptic operations per control step."""
    measures: Mapping[str, float]
    recovery: Mapping[str, float | None] | None = None
    """How far reward came back after damage in mid-episode (`spiky_rl.hosts.isaaclab.recovery`); None: not measured."""


@dataclass(frozen=True)
class Result:
    """What one cell measured."""

    cell: str
    agent: str
    label: str
    variant: Mapping[str, Any]
    task: str
    seed: int
    kind: str
    hash: str
    spec_hash: str | None
    commands: tuple[str, ...]
    resumed: int
    budget: Mapping[str, Any] | None
    solved: float | None
    training: Training | None
    curve: Curve | None
    episodes: int
    conditions: Mapping[str, Condition]
    adapting: Mapping[str, Condition]
    """The same of a plastic policy that changes as it acts; empty of others."""
    cost: Mapping[str, Any] | None
    """Per control step: `spiky_rl.metrics.energy.Cost.as_dict`."""
    device: str
    num_envs: int
    assets: str
    physics: str
    library: str
    versions: Mapping[str, str]
    machine: str
    date: str

    @property
    def nominal(self) -> Condition:
        """The undisturbed evaluation."""
        return self.conditions["nominal"]

    @property
    def score(self) -> float:
        """Mean return of the final policy, undisturbed."""
        return self.nominal.mean_return


@dataclass(frozen=True)
class Skipped:
    """A cell that gives no numbers."""

    cell: str
    status: str
    """``failed``, ``corrupt``, ``missing``, or ``stale``: of another plan."""
    reason: str
    label: str | None = None
    task: str | None = None
    seed: int | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)


BUDGET = record({"kind": text, "amount": number})
RECOVERY = record({"episodes": whole, "before": number, "after": number, "share": optional(number)})
CONDITION = record(
    {
        "text": text,
        "mean_return": number,
        "std_return": number,
        "returns": rows(number),
        "mean_length": number,
    }
    | {"lengths": rows(number), "firing_rate": optional(number), "operations": optional(number)}
    | {"measures": table(number)},
    {"recovery": optional(RECOVERY)},
)
LATER = ("state_accesses", "rival")
"""Fields of `Cost` that results of earlier versions do not have, or that no result has."""
COST = record(
    {f.name: number for f in dataclasses.fields(Cost) if f.name not in LATER}
    | {"effective_operations": number, "energy_nj": table(number)}
    | {"ann_dense_operations": optional(number), "actions_per_second": optional(number)},
    {"state_accesses": number, "ann_skipping_zeros_energy_nj": table(number)},
)
CURVE = record(
    {"env_steps": rows(whole), "return": rows(optional(number)), "seconds": rows(number)}
    | {"operations": rows(optional(number)), "firing_rate": rows(optional(number))}
)
TRAINING = record(
    {"env_steps": whole, "iterations": whole}
    | {"mean_return_final": optional(number), "mean_return_best": optional(number)}
    | {f"seconds_{part}": number for part in ("total", "simulation", "inference", "learning")},
    {"seconds_cpu": optional(number)},
)
EVALUATION = record(
    {"episodes": whole, "conditions": table(CONDITION)}, {"adapting": optional(table(CONDITION))}
)
RESULT = record(
    {
        key: text
        for key in "cell agent label task kind hash outcome device assets library machine date".split()
    }
    | {"variant": table(anything), "seed": whole, "spec_hash": optional(text), "commands": rows(text)}
    | {"resumed": whole, "budget": optional(BUDGET), "solved": optional(number), "num_envs": whole}
    | {"training": optional(TRAINING), "curve": optional(CURVE), "cost": optional(COST)}
    | {"evaluation": EVALUATION, "versions": table(text)},
    {"physics": text},
)
DESIGN = record(
    {"name": text, "question": text, "agents": rows(text), "tasks": rows(text), "seeds": rows(whole)}
    | {"vary": table(rows(anything)), "budget": optional(BUDGET), "num_envs": optional(whole)}
    | {"overrides": rows(text)}
    | {"episodes": whole, "conditions": rows(text), "baseline": text, "library": text},
    {"tuning": text},
)
PLAN = record(
    {
        "cells": rows(
            record(
                {"cell": expects("a folder's name", is_name)}
                | {key: text for key in "agent label task hash".split()}
                | {"seed": whole, "variant": table(anything)}
            )
        )
    }
)


def read_design(folder: Path) -> Study:
    """The design. Raises ResultsError where study.json is not one."""
    data = _read(folder / "study.json", DESIGN)
    kept: dict[str, Any] = {f.name: data[f.name] for f in dataclasses.fields(Study) if f.name in data}
    for key in ("agents", "tasks", "seeds", "overrides", "conditions"):
        kept[key] = tuple(kept[key])
    if (spent := kept["budget"]) is not None:
        kept["budget"] = parse_budget({spent["kind"]: spent["amount"]}, "study.json: budget")
    return Study(**kept)


def read_plan(folder: Path) -> tuple[Planned, ...]:
    """The cells that there have to be. Raises ResultsError where plan.json is not one."""
    names = [f.name for f in dataclasses.fields(Planned)]
    cells = _read(folder / "plan.json", PLAN)["cells"]
    return tuple(Planned(**{name: cell[name] for name in names}) for cell in cells)


def read_results(folder: Path) -> tuple[tuple[Result, ...], tuple[Skipped, ...]]:
    """What the cells measured, in the plan's order, and those that give no numbers with the reason.

    A plan that cannot be read only means that cells that never started are not known; see `read_plan`.
    """
    try:
        planned = {cell.cell: cell for cell in read_plan(folder)}
    except ResultsError:
        planned = {}
    found = sorted(path.name for path in (folder / "cells").glob("*") if path.is_dir())
    results: list[Result] = []
    skipped: list[Skipped] = []
    taken: dict[tuple[str, str, int], str] = {}
    physics: dict[str, str] = {}
    for cell in [*planned, *(name for name in found if name not in planned)]:
        plan = planned.get(cell)
        outcome = _read_cell(folder / "cells" / cell, plan, bool(planned))
        if isinstance(outcome, Result):
            key = (outcome.label, outcome.task, outcome.seed)
            first = physics.setdefault(outcome.task, outcome.physics)
            if key not in taken and outcome.physics == first:
                taken[key] = cell
                results.append(outcome)
                continue
            other = f"its physics is {outcome.physics}, that of others {first}"
            reason = f"the same label, task and seed as {taken[key]}" if key in taken else other
            outcome = Skipped(cell, "corrupt", reason, *key)
        elif plan is not None:
            names = {name: getattr(plan, name) for name in ("label", "task", "seed", "variant")}
            outcome = dataclasses.replace(outcome, **names)
        skipped.append(outcome)
    return tuple(results), tuple(skipped)


def _read_cell(folder: Path, planned: Planned | None, has_plan: bool) -> Result | Skipped:
    cell, error = folder.name, folder / ERROR
    last = (
        [line for line in error.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if error.is_file()
        else []
    )
    if not (folder / RESULT_FILE).is_file():
        if error.is_file():
            return Skipped(cell, "failed", "\n".join(last[-LAST_LINES:]) or "error.txt is empty")
        begun = folder.is_dir()
        return Skipped(cell, "missing", "begun, not finished" if begun else "not begun")
    try:
        result = result_from(_read(folder / RESULT_FILE, RESULT))
        if result.cell != cell:
            raise ResultsError(f"result.json: cell: {result.cell!r} is not the folder's name")
    except ResultsError as problem:
        return Skipped(cell, "corrupt", "\n".join([str(problem), *last[-LAST_LINES:]]))
    if planned is not None and planned.hash != result.hash:
        return Skipped(cell, "stale", f"its hash is {result.hash}, the plan's {planned.hash}")
    if planned is None and has_plan:
        return Skipped(
            cell, "stale", "it is not in plan.json", label=result.label, task=result.task, seed=result.seed
        )
    return result


def result_from(data: Mapping[str, Any]) -> Result:
    """The result that checked data stand for. Raises ResultsError where they contradict each other."""
    if data["outcome"] != "finished":
        raise ResultsError(f"result.json: outcome: {data['outcome']!r}, not 'finished'")
    if data["kind"] not in ("trained", "random"):
        raise ResultsError(f"result.json: kind: {data['kind']!r} is neither 'trained' nor 'random'")
    if data["kind"] == "trained" and (data["training"] is None or data["curve"] is None):
        raise ResultsError("result.json: training, curve: null in a cell that was trained")
    conditions = data["evaluation"]["conditions"]
    if "nominal" not in conditions:
        raise ResultsError("result.json: evaluation.conditions: missing nominal")
    data = {"physics": EARLIER_PHYSICS, **data}
    curve = data["curve"]
    if curve is not None:
        lengths = {key: len(values) for key, values in curve.items() if isinstance(values, list)}
        if len(set(lengths.values())) != 1:
            raise ResultsError(f"result.json: curve: unequal lengths {lengths}")
        names = {"returns": "return"}
        curve = Curve(**{f.name: tuple(curve[names.get(f.name, f.name)]) for f in dataclasses.fields(Curve)})
    training = data["training"]
    made = {
        "commands": tuple(data["commands"]),
        "training": training
        and Training(**{f.name: training.get(f.name) for f in dataclasses.fields(Training)}),
        "curve": curve,
        "episodes": data["evaluation"]["episodes"],
        "conditions": _conditions(conditions),
        "adapting": _conditions(data["evaluation"].get("adapting") or {}),
    }
    plain = {f.name: data[f.name] for f in dataclasses.fields(Result) if f.name not in made}
    return Result(**plain, **made)


def _conditions(data: Mapping[str, Any]) -> dict[str, Condition]:
    names = [f.name for f in dataclasses.fields(Condition)]
    return {
        key: Condition(**{name: value[name] for name in names if name in value})
        for key, value in data.items()
    }


def _read(path: Path, check: Check) -> dict[str, Any]:
    """The JSON file's content. Raises ResultsError that names the file and what is wrong with it."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path}: there is no such file") from None
    except ReadingError as error:
        raise ResultsError(f"{path.name}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path.name}: no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        version = data.get("version") if isinstance(data, dict) else None
        raise ResultsError(f"{path.name}: version {version!r}; this program reads version {VERSION}")
    try:
        check("", data)
    except ResultsError as error:
        raise ResultsError(f"{path.name}: {str(error).removeprefix(': ')}") from None
    return data
