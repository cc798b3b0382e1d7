"""A study: the question, and the agents x tasks x variations x seeds that are to answer it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.reading import ReadingError, parse_yaml
from spiky_rl.config.registry import UserError, nearest, short
from spiky_rl.config.spec import load_task, parse_overrides, read_agent, read_yaml
from spiky_rl.config.tuned import read_tuned
from spiky_rl.experiments.design.budget import Budget
from spiky_rl.experiments.design.budget import parse as parse_budget

BASELINE = "mlp_ppo"
"""The agent to compare with where none is named, if it is one of the study's; else the study's first."""
MOST_CELLS = 100_000
MOST = {"num_envs": 10**7, "episodes": 10**5}
"""What no machine of today has room for is a slip of the keyboard."""
RANDOM = "random"
"""The agent whose actions are noise, measured once per task: what normalised scores count from."""


class StudyError(UserError):
    """A study that does not describe a comparison."""


@dataclass(frozen=True)
class Study:
    """What is compared with what, and under which conditions."""

    name: str
    agents: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    question: str = ""
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """``agent.key`` -> the values to compare; with several keys, all combinations."""
    budget: Budget | None = None
    """Of every training; None: the task's own number of iterations."""
    num_envs: int | None = None
    """None: what the task says for the device."""
    overrides: tuple[str, ...] = ()
    """``agent.key=value`` and ``env.key=value`` of every cell."""
    episodes: int = 64
    """Of every evaluation, per condition."""
    conditions: tuple[str, ...] = ("all",)
    """What policies are evaluated under."""
    baseline: str = ""
    """The agent that scores are normalised by and tests compare with; empty until `with_baseline` chooses."""
    library: str = "rsl_rl"
    tuning: str = ""
    """The file of tuned values that every agent has; empty: agents are as their own files say."""

    def data(self) -> dict[str, Any]:
        """As plain data: what `study.json` holds."""
        return {
            "version": 1,
            "name": self.name,
            "question": self.question,
            "agents": list(self.agents),
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
            "vary": {key: list(values) for key, values in self.vary.items()},
            "budget": None if self.budget is None else vars(self.budget),
            "num_envs": self.num_envs,
            "overrides": list(self.overrides),
            "episodes": self.episodes,
            "conditions": list(self.conditions),
            "baseline": self.baseline,
            "library": self.library,
            **({"tuning": self.tuning} if self.tuning else {}),
        }

    @property
    def stems(self) -> list[str]:
        """The agents' names, which their files give them."""
        return [Path(agent).stem for agent in self.agents]

    def variants(self, agent: str) -> list[dict[str, Any]]:
        """All combinations of what varies. What varies in a network leaves an agent without one as it is."""
        data = read_agent(agent)[1]
        roots = {"network", "critic_network"}
        keys = [key for key in self.vary if key.split(".")[1] not in roots or data.get(key.split(".")[1])]
        return [
            dict(zip(keys, values, strict=True))
            for values in itertools.product(*(self.vary[key] for key in keys))
        ]


KEYS = tuple(key.name for key in fields(Study) if key.name != "name")


def read(path: Path, flags: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> Study:
    """The study in a YAML file, with ``flags`` in the place of its keys and more ``overrides`` behind its own.

    Raises UserError that names the key, and the file where it is the file's.
    """
    data, flags = read_yaml(path), flags or {}
    try:
        own = _names("overrides", data.get("overrides") or [])
        return build(
            path.parent.name if path.stem == "study" else path.stem,
            {**data, **flags, "overrides": [*own, *overrides]},
        )
    except UserError as error:
        if str(error).partition(":")[0] in flags:
            raise
        raise StudyError(f"{path}: {error}") from None


def build(name: str, data: Mapping[str, Any]) -> Study:
    """A study from plain data, checked as far as that is possible without Isaac Lab. Raises UserError."""
    for key in data:
        if key not in KEYS:
            raise StudyError(
                f"{key}: no such key of a study{nearest(key, KEYS) or '; known: ' + ', '.join(KEYS)}"
            )
    for key in ("agents", "tasks"):
        if not data.get(key):
            raise StudyError(f"{key}: name at least one; there would be no cell")
    readers: dict[str, Callable[[Any], Any]] = {
        **{key: partial(_names, key) for key in ("agents", "tasks", "overrides", "conditions")},
        **{key: partial(_text, key) for key in ("question", "baseline", "library", "tuning")},
        **{key: partial(_count, key) for key in ("num_envs", "episodes")},
        "seeds": parse_seeds,
        "vary": _varied,
        "budget": lambda value: parse_budget(value, "budget"),
    }
    given = {key: readers[key](value) for key, value in data.items() if value is not None}
    study = Study(name=name, **given)
    check(study)
    return study


def check(study: Study) -> None:
    """Refuse what names nothing, or twice the same. Raises UserError."""
    for agent in study.agents:
        if agent == RANDOM:
            raise StudyError("agents: 'random' is measured in every study; it need not be named")
        read_agent(agent)
    stems = study.stems
    labels = [
        task.label if (task := load_task(name)) else re.sub(r"-v\d+$", "", name) for name in study.tasks
    ]
    for key, names in (("agents", stems), ("tasks", labels), ("seeds", study.seeds)):
        for name, times in Counter(names).items():
            if times > 1:
                raise StudyError(f"{key}: {name!r} stands twice; its cells would be the same")
    if study.tuning:
        _check_tuned(study, labels)
    combinations = math.prod(map(len, study.vary.values()))
    count = len(study.agents) * len(study.tasks) * len(study.seeds) * combinations
    if count > MOST_CELLS:
        raise StudyError(
            f"agents x tasks x seeds x values of vary are {count:.3g} cells; at most {MOST_CELLS:,} make a study"
        )
    for key, values in study.vary.items():
        for value in values:
            parse_overrides([f"{key}={value if isinstance(value, str) else _plain(value)}"])
    if study.library not in ("rsl_rl", "skrl"):
        raise StudyError(
            f"library: {study.library!r} is none; choose rsl_rl or skrl{nearest(study.library, ('rsl_rl', 'skrl'))}"
        )


def _check_tuned(study: Study, labels: Sequence[str]) -> None:
    """Refuse tuned values that are not there, or that were found with the study's own seeds. Raises UserError."""
    tuned = read_tuned(Path(study.tuning))
    for task, agent in itertools.product(labels, study.stems):
        tuned.layer(task, agent)
    if both := sorted({*tuned.seeds} & {*study.seeds}):
        raise StudyError(
            f"seeds: {both[0]} was trained with while tuning ({tuned.path}); tests need other seeds"
        )


def with_baseline(study: Study) -> Study:
    """The study with its baseline chosen. Raises StudyError for one that is no agent of it: there would be nothing to compare."""
    if not study.baseline:
        return replace(study, baseline=BASELINE if BASELINE in study.stems else study.stems[0])
    if Path(study.baseline).stem not in study.stems:
        raise StudyError(
            f"baseline: {study.baseline!r} is no agent of the study; choose from {', '.join(study.stems)}"
            f"{nearest(study.baseline, study.stems)}"
        )
    return study


def parse_seeds(value: Any) -> tuple[int, ...]:
    """``0-9``, ``0,3,7``, ``0-4,10`` or a list of whole numbers. Raises StudyError."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    seeds: list[int] = []
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?", str(part))
        if match is None:
            raise StudyError(
                f"seeds: {short(part)} is no seed and no range; write them as 0-9 or 0,1,2, from 0 to below 2^31"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 2**31:
            raise StudyError(
                f"seeds: {str(part)!r} is an empty range; write the lower seed first, below 2^31"
            )
        if last - first >= 10_000:
            raise StudyError(f"seeds: {str(part)!r} are {last - first + 1:,} seeds; at most 10,000")
        seeds += range(first, last + 1)
    if not seeds:
        raise StudyError("seeds: name at least one; there would be no cell")
    return tuple(seeds)


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """``agent.key=v1,v2`` arguments; lists and mappings may stand among the values. Raises StudyError."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        try:
            listed = parse_yaml(f"[{values}]") if equals else None
        except ReadingError as error:
            raise StudyError(f"vary: {short(text)}: {error}") from None
        if not listed or key in found:
            raise StudyError(f"vary: {text!r}: write every key once, as agent.key=value,value")
        found[key] = listed
    return found


def extended(old: Mapping[str, Any], study: Study) -> Study:
    """The study that a folder holds, grown by what the new one adds: agents, tasks, seeds, values.

    Raises StudyError where the two ask different things, naming the key: their cells are not comparable.
    """
    if not study.baseline:
        study = replace(study, baseline=str(old.get("baseline", "")))
    new = study.data()
    same = ("name", "budget", "num_envs", "overrides", "episodes", "conditions", "baseline", "library")
    for key in (*same, "tuning"):
        if old.get(key) != new.get(key):
            raise StudyError(
                f"the folder holds a study with {key}: {old.get(key)!r}, not {new.get(key)!r}; ask for the same, or choose another"
                " --out"
            )
    if set(old.get("vary", {})) != set(new["vary"]):
        raise StudyError(
            f"the folder holds a study that varies {sorted(old.get('vary', {})) or 'nothing'},"
            f" not {sorted(new['vary']) or 'nothing'}; choose another --out"
        )
    if old.get("question") and new["question"] and old["question"] != new["question"]:
        raise StudyError(f"the folder holds a study that asks {old['question']!r}; choose another --out")

    def union(first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
        return (*first, *(item for item in second if item not in first))

    return replace(
        study,
        question=new["question"] or old.get("question", ""),
        agents=union(old["agents"], study.agents),
        tasks=union(old["tasks"], study.tasks),
        seeds=tuple(sorted(union(old["seeds"], study.seeds))),
        vary={key: union(old["vary"][key], values) for key, values in study.vary.items()},
    )


def _plain(value: Any) -> str:
    """A value as a command line writes it."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _names(key: str, value: Any) -> tuple[str, ...]:
    listed = (
        value.split(",") if isinstance(value, str) and key in ("agents", "tasks", "conditions") else value
    )
    if not isinstance(listed, list | tuple) or not all(
        isinstance(name, str) and name.strip() for name in listed
    ):
        raise StudyError(f"{key}: expected a list of names, got {short(value)}")
    return tuple(name.strip() for name in listed)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise StudyError(f"{key}: expected text, got {short(value)}")
    return " ".join(value.split())


def _count(key: str, value: Any) -> int:
    return registry.Option(1, "", low=1, high=MOST[key]).check(key, value)


def _varied(value: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(value, Mapping):
        raise StudyError(f"vary: expected a mapping of keys to lists of values, got {short(value)}")
    for key, values in value.items():
        if not str(key).startswith("agent.") or not isinstance(values, list | tuple) or not values:
            raise StudyError(f"vary: {key}: expected agent.key: [value, value], got {short(values)}")
        if any(v in values[:i] for i, v in enumerate(values)):
            raise StudyError(f"vary: {key}: a value stands twice in {values!r}")
    return {key: tuple(values) for key, values in value.items()}
