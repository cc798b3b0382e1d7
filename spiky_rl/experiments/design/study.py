"""A study: its question, agents, tasks, variants and seeds.

A cell is one training and its evaluation: one agent, task, variant and seed. An arm is a set of agents whose finished cells come from
another study.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from spiky_rl.config.budget import Budget, OptionalBudget
from spiky_rl.config.options import (
    RegistryError,
    Settings,
    UserError,
    error_path,
    find_repeated,
    get_options,
    option,
    shorten,
    suggest_name,
)
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_override, make_hashable
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.config.schema import NETWORKS
from spiky_rl.config.spec import load_task, parse_overrides, read_agent, read_yaml, strip_version
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.experiments.design.planned import StudyPlan
from spiky_rl.experiments.design.tunings import (
    Tunings,
    find_tuning,
    get_agent_name,
    merge_tunings,
    require_agents,
)
from spiky_rl.hosts import get_host, list_hosts
from spiky_rl.learners import DEFAULT_LEARNER
from spiky_rl.run.run_plan import RANDOM, Library

BASELINE = "mlp_ppo"
"""Default baseline if it is an agent of the study; otherwise the study's first agent."""
MAX_CELLS = 100_000
MAX_COMBINATIONS = 2000
"""Maximum of agents x tasks x values of ``vary``; merging and checking each takes some 0.05 s."""
SEED_LIMIT = 2**31
"""Seeds are below it."""
LIMITS = {"num_envs": 10**7, "episodes": 10**5}
"""Upper limits that only a typo exceeds."""


class StudyError(UserError):
    """An invalid study, or a folder that does not fit it."""


def parse_names(value: object) -> tuple[str, ...]:
    """Return the names in ``value``, a list or a comma-separated text. Raises RegistryError."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n.strip() for n in names):
        raise RegistryError(f"{shorten(value)} given; allowed: a list of names")
    if not names:
        raise RegistryError("nothing given; allowed: at least one")
    return tuple(name.strip() for name in names)


def parse_seeds(value: object) -> tuple[int, ...]:
    """Return the seeds in ``value``: ``0-9``, ``0,3,7``, ``0-4,10`` or a list of integers. Raises StudyError."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    seeds: list[int] = []
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?", str(part))
        if match is None:
            raise StudyError(f"{shorten(part)} given; allowed: 0-9 or 0,1,2, from 0 to below 2^31")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= SEED_LIMIT:
            raise StudyError(f"{str(part)!r} given; allowed: ranges with the lower seed first, below 2^31")
        if last - first >= 10_000:
            raise StudyError(
                f"{str(part)!r} given, which are {last - first + 1:,} seeds; allowed: at most 10,000"
            )
        seeds += range(first, last + 1)
    if not seeds:
        raise StudyError("nothing given; allowed: at least one")
    return tuple(seeds)


def _join_lines(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


NamesOrText = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_names, json_schema_input_type=Annotated[list[str], Field(min_length=1)]),
]
Seeds = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_seeds, json_schema_input_type=int | str | list[int]),
]
Line = Annotated[str, BeforeValidator(_join_lines, json_schema_input_type=str)]
"""Text on one line."""


class Arm(Settings):
    """Agents of another study, whose finished cells this study also compares."""

    study: str
    """Folder of the other study, relative to any folder that contains this study, such as ``studies/ant_pilot``."""
    agents: NamesOrText
    """File stems."""


class Study(Settings):
    """The design of a study: agents, tasks, variants, seeds and conditions."""

    name: str = option("", "name of its file or folder", flags=[])
    question: Line = option("", "question of the study; title of the report")
    agents: NamesOrText = option(..., "file stems of agents/, or paths to YAML files")
    tasks: NamesOrText = option(..., "file stems of tasks/, gym ids, or paths")
    seeds: Seeds = option((0, 1, 2, 3, 4), "seeds: 0-9, or a list", metavar="0-9")
    vary: dict[str, Annotated[tuple[Any, ...], Field(strict=False)]] = option(
        {},
        "values of agent keys; several keys give all combinations",
        propertyNames={"pattern": r"^agent\."},
        flags=[],
    )
    budget: OptionalBudget = option(
        None,
        "budget of every training: env_steps=N, wall=SECONDS or synops=N (effective synaptic operations); null: the task's"
        " number of iterations",
        metavar="KIND=AMOUNT",
    )
    num_envs: int | None = option(
        None, "parallel environments; null: the task's number for the device", low=1, high=LIMITS["num_envs"]
    )
    overrides: tuple[str, ...] = option(
        (), "agent.key=value and env.key=value, in every cell", flags=["overrides"], metavar="key=value"
    )
    episodes: int = option(
        64, "episodes of every evaluation, for each condition", low=1, high=LIMITS["episodes"]
    )
    conditions: NamesOrText = option(("all",), "conditions of the evaluation: nominal, names, all or stress")
    baseline: Line = option(
        "",
        "agent that all others are compared with and that normalises scores; empty: mlp_ppo if the study has it, else the first",
    )
    library: Library = option(
        DEFAULT_LEARNER,
        "library of the trainings; agents with an algorithm that it lacks use the library that has it",
        flags=["--rl_library"],
    )
    tuning: Tunings = option(
        "",
        "tuned values of the agents: the file that spiky tune wrote, or its folder (in a study file also {agent: file or folder}, which"
        " leaves out agents that are not tuned); empty: no tuned values",
    )
    plan: StudyPlan | None = option(
        None, "comparisons planned before the first cell begins; null: none", flags=[]
    )
    arms: Annotated[tuple[Arm, ...], Field(strict=False)] = option(
        (),
        "agents of other studies with finished cells to compare: [{study: studies/ant_pilot, agents: [mlp_ppo]}]",
        flags=[],
    )
    teachers: dict[str, str] = option(
        {},
        "teachers of the agents that learn from one, both agents of the study: {lif_distilled: mlp_ppo}; a training takes the final"
        " policy of its teacher with the same task and seed",
        flags=[],
    )
    anns: tuple[str, ...] = option(
        (),
        "agents of the study that are ANNs although their file has a network, such as one of ReLU units: controls of spiking agents of"
        " equal widths",
        flags=[],
    )
    reused_seeds: Line = option(
        "",
        "reason for testing on seeds that were used for tuning or choosing; see studies/seeds.yaml",
        flags=[],
    )

    @field_validator("vary")
    @classmethod
    def _check_vary(cls, vary: dict[str, tuple[PlainValue, ...]]) -> dict[str, tuple[PlainValue, ...]]:
        for key, values in vary.items():
            if not key.startswith("agent.") or not values:
                raise RegistryError(f"{key}: {shorten(values)} given; allowed: agent.key: [value, value]")
            if find_repeated(map(make_hashable, values)) is not None:
                raise RegistryError(f"{key}: {shorten(values)} given; allowed: each value once")
        return vary

    def to_dict(self) -> dict[str, Any]:
        """Return the content of study.json as plain data."""
        data = {"version": 1, **self.model_dump(mode="json")}
        # a plan that was written before plans kept their tasks stays as it is
        if self.plan is not None and not self.plan.tasks:
            del data["plan"]["tasks"]
        return {key: value for key, value in data.items() if value or key not in OPTIONAL_KEYS}

    @property
    def agent_names(self) -> list[str]:
        """File stems of the agents."""
        return [get_agent_name(agent) for agent in self.agents]

    @property
    def arm_agents(self) -> list[str]:
        """File stems of the agents of its arms."""
        return [agent for arm in self.arms for agent in arm.agents]

    def list_variants(self, agent: str) -> list[dict[str, Any]]:
        """Return all combinations of varied values for an ``agent``; keys of a network are skipped for an agent without one."""
        data = read_agent(agent)[1]
        sections = {key: key.split(".")[1] for key in self.vary}
        keys = [key for key, section in sections.items() if section not in NETWORKS or data.get(section)]
        return [
            dict(zip(keys, values, strict=True))
            for values in itertools.product(*(self.vary[key] for key in keys))
        ]


KEYS = tuple(key for key in get_options(Study) if key != "name")
OPTIONAL_KEYS = ("tuning", "plan", "arms", "teachers", "anns", "reused_seeds")
"""Keys that a file omits if they are empty; studies of earlier versions have none of them."""


class StudyFile(Study):
    """Content of study.json: a complete study; unknown keys of later versions are ignored."""

    model_config = ConfigDict(extra="ignore")
    version: Literal[1]

    @model_validator(mode="before")
    @classmethod
    def _require_keys(cls, data: object) -> object:
        required = [key for key in ("version", "name", *KEYS) if key not in OPTIONAL_KEYS]
        if isinstance(data, dict) and (missing := [key for key in required if key not in data]):
            raise RegistryError(f"missing {', '.join(missing)}")
        return data


def read_study(path: Path, flags: PlainMapping | None = None, overrides: Sequence[str] = ()) -> Study:
    """Return the study in the YAML file ``path``; ``flags`` replace its keys, ``overrides`` follow its own.

    Raises UserError that names the key, with the file if the file holds the key.
    """
    data, flags = read_yaml(path), flags or {}
    try:
        file_overrides = data.get("overrides") or []
        merged = [*file_overrides, *overrides] if isinstance(file_overrides, list) else file_overrides
        name = path.absolute().parent.name if path.stem == "study" else path.stem
        return build_study(name, {**data, **flags, "overrides": merged})
    except UserError as error:
        key = str(error).partition(":")[0]  # every message about a study begins with its key
        if key in flags or (key == "overrides" and overrides):
            raise
        raise StudyError(f"{path}: {error}") from None


def build_study(name: str, data: PlainMapping) -> Study:
    """Return the study ``name`` from plain ``data``, with all checks that need no simulator. Raises UserError."""
    if "name" in data:
        raise StudyError(f"name: unknown key; allowed: {', '.join(KEYS)}")
    try:
        values = {key: value for key, value in data.items() if value is not None}
        study = Study.check("", {"name": name, **values})
    except RegistryError as error:
        raise StudyError(str(error)) from None
    check_study(study)
    return study


def check_study(study: Study) -> None:
    """Raise UserError if a ``study`` names something unknown, names something twice, or has too many cells."""
    for agent in study.agents:
        if get_agent_name(agent) == RANDOM:
            raise StudyError(
                f"agents: {agent!r} given; every study measures random actions anyway, under that name"
            )
        with error_path("agents"):
            read_agent(agent)  # raises if the agent is unknown or its file is invalid
    stems = study.agent_names
    with error_path("tasks"):
        labels = label_tasks(study)
    for key, names in (("agents", stems), ("tasks", labels), ("seeds", study.seeds)):
        if (repeated := find_repeated(names)) is not None:
            raise StudyError(f"{key}: {repeated!r} given twice; its cells would be the same")
    n_variants = math.prod(map(len, study.vary.values()))
    n_combinations = len(study.agents) * len(study.tasks) * n_variants
    n_cells = n_combinations * len(study.seeds)
    if n_cells > MAX_CELLS:
        raise StudyError(
            f"agents x tasks x seeds x values of vary: {n_cells:.3g} cells; allowed: at most {MAX_CELLS:,}"
        )
    if n_combinations > MAX_COMBINATIONS:
        raise StudyError(
            f"agents x tasks x values of vary: {n_combinations:,} combinations; allowed: at most {MAX_COMBINATIONS}"
        )
    _check_arms(study)
    _check_teachers(study)
    for ann in study.anns:
        if ann not in stems:
            raise StudyError(f"anns: {ann!r} given; allowed: {', '.join(stems)}{suggest_name(ann, stems)}")
    _check_tuned(study, labels)
    used_keys = {key for agent in study.agents for variant in study.list_variants(agent) for key in variant}
    for key, values in study.vary.items():
        if key not in used_keys:
            raise StudyError(
                f"vary: {key!r} given; allowed: keys of a section that an agent of the study has"
            )
        for value in values:
            with error_path("vary"):
                parse_overrides([format_override(key, value)])  # raises if the override is invalid
    for text in study.overrides:
        if (key := text.partition("=")[0]) in study.vary:
            raise StudyError(
                f"overrides: {text!r} given; allowed: keys that vary does not set; vary: {shorten(study.vary[key])}"
            )


def _check_arms(study: Study) -> None:
    """Raise StudyError for arms named twice, or with paths that a copy of the study would not find."""
    for arm in study.arms:
        if Path(arm.study).is_absolute() or ".." in Path(arm.study).parts:
            raise StudyError(
                f"arms: study: {arm.study!r} given; allowed: a path below a folder that contains this study"
            )
    if (repeated := find_repeated((*study.agent_names, *study.arm_agents))) is not None:
        raise StudyError(
            f"arms: {repeated!r} given twice; allowed: once, among the study's agents and all arms"
        )


def _check_teachers(study: Study) -> None:
    """Raise StudyError for a student or a teacher that is not an agent of the study, or a teacher with several variants."""
    stems = study.agent_names
    teachers = [stem for stem in stems if stem not in study.teachers]
    for student, teacher in study.teachers.items():
        if student not in stems:
            raise StudyError(
                f"teachers: {student!r} given; allowed: {', '.join(stems)}{suggest_name(student, stems)}"
            )
        if teacher not in teachers:
            allowed = f"{', '.join(teachers) or 'none'}{suggest_name(teacher, teachers)}"
            raise StudyError(f"teachers: {student}: {teacher!r} given; allowed: {allowed}")
        if len(study.list_variants(study.agents[stems.index(teacher)])) > 1:
            raise StudyError(
                f"vary: gives the teacher {teacher} several variants; allowed: keys that only other agents have"
            )


def label_tasks(study: Study) -> list[str]:
    """Return the labels of the tasks of a ``study``, as in its cells."""
    known = {task for host in list_hosts() for task in get_host(host).list_tasks()}
    return [_label_task(name, known) for name in study.tasks]


def _label_task(name: str, known: Collection[str]) -> str:
    """Return the label of the task ``name``, without importing the module that it may name; ``known`` are registered ids."""
    if (task := load_task(name)) is not None:
        return task.label
    module, _, stem = name.rpartition(":")
    plain = strip_version(stem)
    if stem in known:  # Gymnasium registers Ant-v4 and Ant-v5 as two tasks
        return stem
    if versions := [task for task in known if task.startswith(f"{stem}-v") and strip_version(task) == stem]:
        return max(versions, key=lambda task: int(task.rpartition("-v")[2]))
    if module and plain not in known:  # a task that only the module registers; it may have a version
        return stem
    return plain


def _check_tuned(study: Study, labels: Sequence[str]) -> None:
    """Raise UserError if tuned values are missing, or were found with the seeds of this study."""
    require_agents(study.tuning, study.agent_names)
    sources = {agent: source for agent in study.agent_names if (source := find_tuning(study.tuning, agent))}
    try:
        tunings = {source: read_tuned(Path(source)) for source in dict.fromkeys(sources.values())}
        for task, (agent, source) in itertools.product(labels, sources.items()):
            tunings[source].get_layer(task, agent)  # raises if there are no values
    except UserError as error:
        raise StudyError(f"tuning: {error}") from None
    for tuned in tunings.values():
        if shared_seeds := sorted({*tuned.seeds} & {*study.seeds}):
            raise StudyError(
                f"seeds: {shared_seeds[0]} given, which is a seed of the tuning {tuned.path}; choose other seeds"
            )


def choose_baseline(study: Study) -> Study:
    """Return the ``study`` with its baseline set. Raises StudyError if the named baseline is not an agent of the study."""
    if not study.baseline:
        return study.with_changes(
            baseline=BASELINE if BASELINE in study.agent_names else study.agent_names[0]
        )
    known = [*study.agent_names, *study.arm_agents]
    if get_agent_name(study.baseline) not in known:
        raise StudyError(
            f"baseline: {study.baseline!r} given; allowed: {', '.join(known)}"
            f"{suggest_name(study.baseline, known)}"
        )
    return study


def parse_vary(texts: Iterable[str]) -> dict[str, list[PlainValue]]:
    """Return the variants in ``texts``, each ``agent.key=v1,v2``; a value may be a list or a mapping. Raises StudyError."""
    values_by_key: dict[str, list[PlainValue]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        try:
            parsed_values = parse_yaml(f"[{values}]") if equals else None
        except ReadingError as error:
            raise StudyError(f"vary: {shorten(text)}: {error}") from None
        if not parsed_values or key in values_by_key:
            raise StudyError(f"vary: {text!r} given; allowed: every key once, as agent.key=value,value")
        values_by_key[key] = parsed_values
    return values_by_key


EQUAL_KEYS = ("name", "budget", "num_envs", "overrides", "episodes", "conditions", "baseline", "library")
"""Keys in which the studies of a folder must agree."""


def merge_studies(old: Study, study: Study) -> Study:
    """Return the ``old`` study of a folder extended by the agents, tasks, seeds and values of a new ``study``.

    Raises StudyError if they differ in a key that makes their cells incomparable.
    """
    if not study.baseline:
        study = study.with_changes(baseline=old.baseline)
    shared_agents = [stem for stem in study.agent_names if stem in old.agent_names]
    tuning = merge_tunings(old.tuning, study.tuning, shared_agents)
    # the tunings differ and cannot be merged if the result is None
    _require_comparable(old, study, EQUAL_KEYS if tuning is not None else (*EQUAL_KEYS, "tuning"))
    _require_same_text("agents", old.agent_names, old.agents, study.agent_names, study.agents)
    _require_same_text("tasks", label_tasks(old), old.tasks, label_tasks(study), study.tasks)
    return study.with_changes(
        plan=study.plan or old.plan,
        question=study.question or old.question,
        reused_seeds=study.reused_seeds or old.reused_seeds,
        arms=_merge_arms(old.arms, study.arms),
        teachers={**old.teachers, **study.teachers},
        anns=_unite(old.anns, study.anns),
        agents=_unite(old.agents, study.agents),
        tasks=_unite(old.tasks, study.tasks),
        seeds=tuple(sorted(_unite(old.seeds, study.seeds))),
        vary={key: _unite(values, study.vary[key]) for key, values in old.vary.items()},
        tuning=tuning,
    )


def _require_comparable(old: Study, study: Study, keys: Sequence[str]) -> None:
    """Raise StudyError if the two studies differ in one of the ``keys``, in the varied keys, or in the question."""
    old_values, values = old.to_dict(), study.to_dict()
    for key in keys:
        if old_values.get(key) != values.get(key):
            pair = (getattr(study, key), getattr(old, key))
            given, before = (str(value) if isinstance(value, Budget) else repr(value) for value in pair)
            raise StudyError(
                f"{key}: {given} given; the study in the folder has {before}; choose another --out"
            )
    if set(old.vary) != set(study.vary):
        raise StudyError(
            f"vary: {sorted(study.vary) or 'nothing'} given; the study in the folder varies {sorted(old.vary) or 'nothing'};"
            " choose another --out"
        )
    if old.question and study.question and old.question != study.question:
        raise StudyError(
            f"question: another one given; the study in the folder asks {old.question!r}; choose another --out"
        )


def _require_same_text(
    key: str, old_names: Sequence[str], old: Sequence[str], names: Sequence[str], texts: Sequence[str]
) -> None:
    """Raise StudyError if two studies write the same agent or task in two ways, such as its name and its file."""
    old_texts = dict(zip(old_names, old, strict=True))
    for name, text in zip(names, texts, strict=True):
        if (old_text := old_texts.get(name, text)) != text:
            raise StudyError(
                f"{key}: {text!r} given; the study in the folder has {old_text!r}; write it the same way, or choose another --out"
            )


def _merge_arms(old: Sequence[Arm], new: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the ``old`` arms extended by the studies and agents of the ``new`` ones, one arm for each study."""
    agents: dict[str, tuple[str, ...]] = {}
    for arm in (*old, *new):
        agents[arm.study] = _unite(agents.get(arm.study, ()), arm.agents)
    return tuple(Arm(study=study, agents=names) for study, names in agents.items())


def _unite[T](first: Sequence[T], second: Sequence[T]) -> tuple[T, ...]:
    """Return all items of ``first``, then those of ``second`` that are not among them."""
    return (*first, *(item for item in second if item not in first))
