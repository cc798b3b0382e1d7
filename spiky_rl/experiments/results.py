"""Reading a study's folder: its design, its plan and what each cell measured, each checked key by key.

A result file that is damaged, of another version or of another plan is named with the reason and left out; it never stops
what reads the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spiky_rl.config.reading import ReadingError, parse_json
from spiky_rl.experiments.budget import parse as parse_budget
from spiky_rl.experiments.cells import ERROR, VERSION
from spiky_rl.experiments.cells import RESULT as RESULT_FILE
from spiky_rl.experiments.grid import EARLIER_PHYSICS
from spiky_rl.experiments.study import Study
from spiky_rl.metrics.energy import Cost
from spiky_rl.registry import UserError, nearest

LARGEST = 1e100
"""Of a number that somebody measured, so that its square is one too."""
LAST_LINES = 8
"""Of an error's traceback, for who reads the report."""

Check = Callable[[str, Any], None]


class ResultsError(UserError):
    """A study's folder that says nothing, or a file whose content is not what it has to be."""


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


def expects(what: str, fits: Callable[[Any], bool], each: Check | None = None) -> Check:
    """A check that names the path and the value; ``each`` is that of a list's elements, or of a mapping's values."""

    def check(path: str, value: Any) -> None:
        if not fits(value):
            raise ResultsError(f"{path}: expected {what}, got {value!r}")
        if each is not None:
            for key, element in value.items() if isinstance(value, dict) else enumerate(value):
                each(f"{path}.{key}", element)

    return check


def is_number(value: Any) -> bool:
    """Whether it is a finite one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_name(value: Any) -> bool:
    """Whether it is a plain name of a file or folder, which leads nowhere else."""
    return (
        isinstance(value, str) and Path(value).name == value and value not in ("", "..") and "\0" not in value
    )


anything: Check = expects("anything", lambda value: True)
text: Check = expects("text", lambda value: isinstance(value, str))
number: Check = expects("a finite number", is_number)
whole: Check = expects("a whole number", lambda value: isinstance(value, int) and is_number(value))


def rows(each: Check) -> Check:
    """Of a list."""
    return expects("a list", lambda value: isinstance(value, list), each)


def table(each: Check) -> Check:
    """Of a mapping with any keys."""
    return expects("a mapping", lambda value: isinstance(value, dict), each)


def optional(check: Check) -> Check:
    """Of what may be null."""
    return lambda path, value: None if value is None else check(path, value)


def record(fields: Mapping[str, Check], later: Mapping[str, Check] | None = None) -> Check:
    """Of a mapping that has at least these keys, and may have those that came ``later``."""

    def checked(path: str, value: Any) -> None:
        table(anything)(path, value)
        if missing := [key for key in fields if key not in value]:
            others = [key for key in value if key not in fields]
            raise ResultsError(f"{path}: missing {', '.join(missing)}{nearest(missing[0], others)}")
        for key, check in {**fields, **(later or {})}.items():
            if key in value:
                check(f"{path}.{key}" if path else key, value[key])

    return checked


BUDGET = record({"kind": text, "amount": number})
CONDITION = record(
    {
        "text": text,
        "mean_return": number,
        "std_return": number,
        "returns": rows(number),
        "mean_length": number,
    }
    | {"lengths": rows(number), "firing_rate": optional(number), "operations": optional(number)}
    | {"measures": table(number)}
)
COST = record(
    {f.name: number for f in dataclasses.fields(Cost)}
    | {"effective_operations": number, "energy_nj": table(number)}
    | {"ann_dense_operations": optional(number), "actions_per_second": optional(number)}
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
RESULT = record(
    {
        key: text
        for key in "cell agent label task kind hash outcome device assets library machine date".split()
    }
    | {"variant": table(anything), "seed": whole, "spec_hash": optional(text), "commands": rows(text)}
    | {"resumed": whole, "budget": optional(BUDGET), "solved": optional(number), "num_envs": whole}
    | {"training": optional(TRAINING), "curve": optional(CURVE), "cost": optional(COST)}
    | {"evaluation": record({"episodes": whole, "conditions": table(CONDITION)}), "versions": table(text)},
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
        "conditions": {
            name: Condition(**{f.name: value[f.name] for f in dataclasses.fields(Condition)})
            for name, value in conditions.items()
        },
    }
    plain = {f.name: data[f.name] for f in dataclasses.fields(Result) if f.name not in made}
    return Result(**plain, **made)


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
