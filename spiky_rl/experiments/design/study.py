"""A study: the question, and the agents x tasks x variations x seeds that are to answer it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from spiky_rl.config.budget import OptionalBudget
from spiky_rl.config.options import (
    RegistryError,
    Settings,
    UserError,
    find_repeated,
    get_options,
    option,
    shorten,
    suggest_name,
)
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_override, hashable
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.config.spec import load_task, parse_overrides, read_agent, read_yaml
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.experiments.design.planned import StudyPlan
from spiky_rl.experiments.design.tunings import Tunings, find_tuning, merge_tunings, require_agents
from spiky_rl.learners import DEFAULT_LEARNER
from spiky_rl.run.run_plan import RANDOM, Library

BASELINE = "mlp_ppo"
"""The agent to compare with where none is named, if it is one of the study's; else the study's first."""
MAX_CELLS = 100_000
MOST_COMBINATIONS = 2000
"""Agents x tasks x values of ``vary``: each is merged and checked before anything runs, in some 0.05 s."""
MOST = {"num_envs": 10**7, "episodes": 10**5}
"""What no machine of today has room for is a slip of the keyboard."""


class StudyError(UserError):
    """A study that does not describe a comparison."""


def parse_names(value: object) -> tuple[str, ...]:
    """The names that ``value`` lists; a command line writes them with commas. Raises RegistryError."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(n, str) and n.strip() for n in listed):
        raise RegistryError(f"expected a list of names, got {shorten(value)}")
    return tuple(name.strip() for name in listed)


def require_not_empty[T](listed: tuple[T, ...]) -> tuple[T, ...]:
    """The tuple ``listed`` unchanged. Raises RegistryError if it is empty."""
    if not listed:
        raise RegistryError("name at least one; there would be no cell")
    return listed


def parse_seeds(value: object) -> tuple[int, ...]:
    """The seeds that ``value`` names: ``0-9``, ``0,3,7``, ``0-4,10`` or a list of whole numbers. Raises StudyError."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    seeds: list[int] = []
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?", str(part))
        if match is None:
            raise StudyError(
                f"{shorten(part)} is no seed and no range; write them as 0-9 or 0,1,2, from 0 to below 2^31"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 2**31:
            raise StudyError(f"{str(part)!r} is an empty range; write the lower seed first, below 2^31")
        if last - first >= 10_000:
            raise StudyError(f"{str(part)!r} are {last - first + 1:,} seeds; at most 10,000")
        seeds += range(first, last + 1)
    if not seeds:
        raise StudyError("name at least one; there would be no cell")
    return tuple(seeds)


def _check_one_line(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


NamesOrText = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_names, json_schema_input_type=Annotated[list[str], Field(min_length=1)]),
    AfterValidator(require_not_empty),
]
Seeds = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_seeds, json_schema_input_type=int | str | list[int]),
]
Line = Annotated[str, BeforeValidator(_check_one_line, json_schema_input_type=str)]
"""Text on one line."""


class Arm(Settings):
    """Agents of another study, whose finished cells stand in this one."""

    study: str
    """Its folder, relative to one around this study's, such as ``studies/ant_pilot``."""
    agents: NamesOrText
    """File stems."""


class Study(Settings):
    """The design of a study: agents, tasks, variants, seeds and conditions that are compared."""

    name: str = option("", "that of its file or folder", flags=[])
    question: Line = option("", "what the study is to answer; the report's title")
    agents: NamesOrText = option(..., "file stems of agents/, or paths to YAML files")
    tasks: NamesOrText = option(..., "file stems of tasks/, gym ids, or paths")
    seeds: Seeds = option((0, 1, 2, 3, 4), "0-9, or a list", metavar="0-9")
    vary: dict[str, Annotated[tuple[Any, ...], Field(strict=False)]] = option(
        {},
        "values of an agent's key; with several keys, all combinations",
        propertyNames={"pattern": r"^agent\."},
        flags=[],
    )
    budget: OptionalBudget = option(
        None,
        "budget of every training: env_steps=N, wall=SECONDS or synops=N (effective synaptic operations); null: the task's"
        " own number of iterations",
        metavar="KIND=AMOUNT",
    )
    num_envs: int | None = option(
        None, "parallel environments; null: what the task says for the device", low=1, high=MOST["num_envs"]
    )
    overrides: tuple[str, ...] = option(
        (), "agent.key=value and env.key=value of every cell", flags=["overrides"], metavar="key=value"
    )
    episodes: int = option(64, "episodes of every evaluation, per condition", low=1, high=MOST["episodes"])
    conditions: NamesOrText = option(("all",), "nominal, names of conditions, all or stress")
    baseline: Line = option(
        "",
        "the agent that all others are compared with, and scores are normalised by; empty: mlp_ppo if it is there, else the first",
    )
    library: Library = option(DEFAULT_LEARNER, "library that trains", flags=["--rl_library"])
    tuning: Tunings = option(
        "",
        "what tune.py wrote, or its folder, whose values every agent takes, or a mapping of agents to that, in which agents that"
        " stay as their files say are left out; empty: agents as their files say",
    )
    plan: StudyPlan | None = option(
        None, "comparisons that are planned before the first cell begins; null: none is planned", flags=[]
    )
    arms: Annotated[tuple[Arm, ...], Field(strict=False)] = option(
        (),
        "agents of other studies whose finished cells are compared with too: [{study: studies/ant_pilot, agents: [mlp_ppo]}]",
        flags=[],
    )
    reused_seeds: Line = option(
        "", "reason for testing on seeds that were tuned or chosen with, see studies/seeds.yaml", flags=[]
    )

    @field_validator("vary")
    @classmethod
    def _values_of_agents(cls, vary: dict[str, tuple[PlainValue, ...]]) -> dict[str, tuple[PlainValue, ...]]:
        for key, values in vary.items():
            if not key.startswith("agent.") or not values:
                raise RegistryError(f"{key}: expected agent.key: [value, value], got {shorten(values)}")
            if find_repeated(map(hashable, values)) is not None:
                raise RegistryError(f"{key}: a value stands twice in {shorten(values)}")
        return vary

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what `study.json` holds."""
        data = {"version": 1, **self.model_dump(mode="json")}
        return {key: value for key, value in data.items() if value or key not in LATER}

    @property
    def agent_names(self) -> list[str]:
        """The agents' names, which their files give them."""
        return [Path(agent).stem for agent in self.agents]

    def list_variants(self, agent: str) -> list[dict[str, Any]]:
        """All combinations of what varies of an ``agent``; what varies in a network leaves one without any as it is."""
        data = read_agent(agent)[1]
        roots = {"network", "critic_network"}
        keys = [key for key in self.vary if key.split(".")[1] not in roots or data.get(key.split(".")[1])]
        return [
            dict(zip(keys, values, strict=True))
            for values in itertools.product(*(self.vary[key] for key in keys))
        ]


KEYS = tuple(key for key in get_options(Study) if key != "name")
LATER = ("tuning", "plan", "arms", "reused_seeds")
"""Keys that a file has only where they say something: studies of earlier versions have none of them."""


class StudyFile(Study):
    """study.json: `Study.data`, whole; keys that came later than this program are left alone."""

    model_config = ConfigDict(extra="ignore")
    version: Literal[1]

    @model_validator(mode="before")
    @classmethod
    def _is_whole(cls, data: object) -> object:
        wanted = [key for key in ("version", "name", *KEYS) if key not in LATER]
        if isinstance(data, dict) and (missing := [key for key in wanted if key not in data]):
            raise RegistryError(f"missing {', '.join(missing)}")
        return data


def read_study(path: Path, flags: PlainMapping | None = None, overrides: Sequence[str] = ()) -> Study:
    """The study in the YAML file ``path``, with ``flags`` in the place of its keys and more ``overrides`` behind its own.

    Raises UserError that names the key, and the file where it is the file's.
    """
    data, flags = read_yaml(path), flags or {}
    try:
        own = data.get("overrides") or []
        merged = [*own, *overrides] if isinstance(own, list) else own
        name = path.parent.name if path.stem == "study" else path.stem
        return build_study(name, {**data, **flags, "overrides": merged})
    except UserError as error:
        if str(error).partition(":")[0] in flags:
            raise
        raise StudyError(f"{path}: {error}") from None


def build_study(name: str, data: PlainMapping) -> Study:
    """The study called ``name`` from plain ``data``, checked as far as that is possible without Isaac Lab. Raises UserError."""
    if "name" in data:
        raise StudyError(f"name: no such key; known: {', '.join(KEYS)}")
    try:
        given = {key: value for key, value in data.items() if value is not None}
        study = Study.check("", {"name": name, **given})
    except RegistryError as error:
        raise StudyError(str(error)) from None
    check_study(study)
    return study


def check_study(study: Study) -> None:
    """Refuse a ``study`` that names what is not there, or twice the same. Raises UserError."""
    for agent in study.agents:
        if agent == RANDOM:
            raise StudyError("agents: 'random' is measured in every study; it need not be named")
        read_agent(agent)
    stems = study.agent_names
    labels = label_tasks(study)
    for key, listed in (("agents", stems), ("tasks", labels), ("seeds", study.seeds)):
        for name, times in Counter(listed).items():
            if times > 1:
                raise StudyError(f"{key}: {name!r} stands twice; its cells would be the same")
    _check_arms(study)
    _check_tuned(study, labels)
    combinations = math.prod(map(len, study.vary.values()))
    count = len(study.agents) * len(study.tasks) * len(study.seeds) * combinations
    if count > MAX_CELLS:
        raise StudyError(
            f"agents x tasks x seeds x values of vary are {count:.3g} cells; at most {MAX_CELLS:,} make a study"
        )
    if (plans := count // len(study.seeds)) > MOST_COMBINATIONS:
        raise StudyError(
            f"agents x tasks x values of vary are {plans:,} combinations; at most {MOST_COMBINATIONS} make a study"
        )
    for key, values in study.vary.items():
        for value in values:
            parse_overrides([format_override(key, value)])


def _check_arms(study: Study) -> None:
    """Refuse arms that are named twice, or whose paths lead elsewhere in a copy of the study. Raises StudyError."""
    for arm in study.arms:
        if Path(arm.study).is_absolute() or ".." in Path(arm.study).parts:
            raise StudyError(
                f"arms: study: {arm.study!r} given; allowed: a path below a folder around this study"
            )
    for name, times in Counter(
        [*study.agent_names, *(agent for arm in study.arms for agent in arm.agents)]
    ).items():
        if times > 1 and name not in (
            stem for stem, count in Counter(study.agent_names).items() if count > 1
        ):
            raise StudyError(f"arms: {name!r} is an agent of this study, or of two arms")


def label_tasks(study: Study) -> list[str]:
    """Return the labels of the tasks of a ``study``, as its cells have them."""
    return [task.label if (task := load_task(name)) else re.sub(r"-v\d+$", "", name) for name in study.tasks]


def _check_tuned(study: Study, labels: Sequence[str]) -> None:
    """Refuse tuned values that are not there, or that were found with the study's own seeds. Raises UserError."""
    require_agents(study.tuning, study.agent_names)
    sources = {agent: source for agent in study.agent_names if (source := find_tuning(study.tuning, agent))}
    try:
        tunings = {source: read_tuned(Path(source)) for source in dict.fromkeys(sources.values())}
    except UserError as error:
        raise StudyError(f"tuning: {error}") from None
    for task, (agent, source) in itertools.product(labels, sources.items()):
        tunings[source].get_layer(task, agent)
    for tuned in tunings.values():
        if both := sorted({*tuned.seeds} & {*study.seeds}):
            raise StudyError(
                f"seeds: {both[0]} was trained with while tuning ({tuned.path}); tests need other seeds"
            )


def with_baseline(study: Study) -> Study:
    """The ``study`` with its baseline chosen. Raises StudyError for one that is no agent of it: there would be nothing to compare."""
    if not study.baseline:
        return study.with_changes(
            baseline=BASELINE if BASELINE in study.agent_names else study.agent_names[0]
        )
    known = [*study.agent_names, *(agent for arm in study.arms for agent in arm.agents)]
    if Path(study.baseline).stem not in known:
        raise StudyError(
            f"baseline: {study.baseline!r} is no agent of the study; choose from {', '.join(known)}"
            f"{suggest_name(study.baseline, known)}"
        )
    return study


def parse_vary(texts: Iterable[str]) -> dict[str, list[PlainValue]]:
    """The variations that ``texts`` describe, ``agent.key=v1,v2`` each; lists and mappings may stand among the values. Raises StudyError."""
    values_by_key: dict[str, list[PlainValue]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        try:
            listed = parse_yaml(f"[{values}]") if equals else None
        except ReadingError as error:
            raise StudyError(f"vary: {shorten(text)}: {error}") from None
        if not listed or key in values_by_key:
            raise StudyError(f"vary: {text!r}: write every key once, as agent.key=value,value")
        values_by_key[key] = listed
    return values_by_key


def merge_studies(old: Study, study: Study) -> Study:
    """The study that a folder holds, grown by what the new one adds: agents, tasks, seeds, values.

    Args:
        old: The folder's.
        study: The new one.

    Raises StudyError where the two ask different things, naming the key: their cells are not comparable.
    """
    if not study.baseline:
        study = study.with_changes(baseline=old.baseline)
    held, new = old.to_dict(), study.to_dict()
    same = ["name", "budget", "num_envs", "overrides", "episodes", "conditions", "baseline", "library"]
    tuning = merge_tunings(
        old.tuning, study.tuning, [stem for stem in study.agent_names if stem in old.agent_names]
    )
    for key in [*same, *(["tuning"] if tuning is None else [])]:
        if held.get(key) != new.get(key):
            raise StudyError(
                f"the folder holds a study with {key}: {held.get(key)!r}, not {new.get(key)!r}; ask for the same, or choose another"
                " --out"
            )
    if set(old.vary) != set(study.vary):
        raise StudyError(
            f"the folder holds a study that varies {sorted(old.vary) or 'nothing'},"
            f" not {sorted(study.vary) or 'nothing'}; choose another --out"
        )
    if old.question and study.question and old.question != study.question:
        raise StudyError(f"the folder holds a study that asks {old.question!r}; choose another --out")

    def union[T](first: Sequence[T], second: Sequence[T]) -> tuple[T, ...]:
        return (*first, *(item for item in second if item not in first))

    return study.with_changes(
        plan=study.plan or old.plan,
        question=study.question or old.question,
        reused_seeds=study.reused_seeds or old.reused_seeds,
        arms=union(old.arms, study.arms),
        agents=union(old.agents, study.agents),
        tasks=union(old.tasks, study.tasks),
        seeds=tuple(sorted(union(old.seeds, study.seeds))),
        vary={key: union(old.vary[key], values) for key, values in study.vary.items()},
        tuning=tuning,
    )
