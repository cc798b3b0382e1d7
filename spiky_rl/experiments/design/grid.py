"""The cells of a study: specification, name and hash of each.

A cell is one training and its evaluation: one agent, task, variant and seed; or the evaluation of random actions on a task.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from spiky_rl.config.options import FileRecord, RegistryError, Settings
from spiky_rl.config.plain_data import PlainMapping, format_override, get_section
from spiky_rl.config.spec import TaskSpec
from spiky_rl.experiments.design.study import RANDOM, SEED_LIMIT, OptionalBudget, Study, StudyError
from spiky_rl.experiments.design.tunings import find_copy, get_agent_name
from spiky_rl.learners import DEFAULT_LEARNER, choose_library
from spiky_rl.run.provenance import (
    Provenance,
    compute_kernels_digest,
    get_deciding_versions,
    hash_named_files,
)
from spiky_rl.run.run_plan import RunPlan

OUT = "$OUT"
"""Placeholder of the study's folder in recorded commands."""
EVALUATION = "evaluation.json"
"""File name in a cell's folder."""
EVALUATION_SEED = 100_000
"""Added to a cell's seed for its evaluation, modulo `SEED_LIMIT`, so that its initial states differ from training."""

EARLIER_PHYSICS = "newton_mjwarp"
"""Physics backend of cells of earlier versions, which do not name it."""


type Resolve = Callable[[str, str, PlainMapping], RunPlan]
"""Returns the run plan of a task, an agent and a variant; raises UserError if they do not go together."""


def check_folder_name(name: str) -> str:
    """Return ``name`` if it is a plain name of a file or folder, without a path. Raises RegistryError."""
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise RegistryError(f"expected a folder's name, got {name!r}")
    return name


def keep_integer(value: float, check: ValidatorFunctionWrapHandler) -> float:
    """Return ``value`` as it is if it passes the ``check`` of its type.

    An integer is not converted to a float, so that a file is written as it was read.
    """
    check(value)
    return value


Number = Annotated[float, WrapValidator(keep_integer)]
"""A float, or an integer that stays one."""
Texts = Annotated[tuple[str, ...], Field(strict=False)]


class CellSpecification(Settings):
    """The complete specification of a cell's training and evaluation."""

    task: str
    """As the study names it; likewise the agent."""
    agent: str
    library: str
    assets: str
    device: str | None
    """None lets the machine that runs the cell choose."""
    seed: int
    num_envs: int
    budget: str | None
    """None takes the number of iterations of the merged specification."""
    overrides: Texts
    """Overrides of agent and environment; the agent's are in ``spec`` already."""
    tuned: str
    """Path in the study's folder of the tuned values in ``spec``; empty if there are none."""
    episodes: int
    conditions: Texts
    spec: dict[str, Any]
    """The complete agent, all layers merged."""
    origins: dict[str, str]

    @property
    def evaluation_seed(self) -> int:
        """Seed of the evaluation's initial states, which training has not seen."""
        return (EVALUATION_SEED + self.seed) % SEED_LIMIT


class PlannedCell(FileRecord):
    """A cell's entry in the plan: one training and its evaluation."""

    name: Annotated[str, AfterValidator(check_folder_name)] = Field(alias="cell")
    """Name of the cell's folder."""
    agent: str
    """File stem."""
    label: str
    """Agent and variant for tables and figures."""
    task: str
    """The task's label."""
    variant: dict[str, Any]
    seed: int
    kind: Literal["trained", "random"]
    hash: str
    spec_hash: str | None
    base_hash: str | None = None
    """Digest of the agent's specification without tuned values and variant; None without tuned values."""
    env_steps: int | None
    """Environment steps of the training; None if another budget ends it, 0 for random actions."""
    num_envs: int
    device: str
    physics: str = EARLIER_PHYSICS
    """Physics backend."""
    processes: int
    """Processes of a data-parallel training (torchrun)."""
    commands: Texts
    """Command lines that reproduce the cell, for people; no program reads them."""
    seconds: Annotated[float | None, PlainSerializer(lambda s: s if s is None else round(s))] = Field(
        default=None, alias="seconds_estimated"
    )

    @property
    def trains_agent(self) -> bool:
        """Whether the cell trains an agent; False for a cell of random actions."""
        return self.kind != RANDOM


class StudyPlanFile(FileRecord):
    """Content of plan.json."""

    version: Literal[1]
    cells: Annotated[tuple[PlannedCell, ...], Field(strict=False)]


class Cell(PlannedCell):
    """A cell's own file: its entry in the plan and everything that its worker needs."""

    specification: CellSpecification
    budget: OptionalBudget
    library: str
    assets: str = ""
    """Source of its robots, in words."""
    provenance: Provenance | None = None
    """Kernels, and on a CPU threads, that it runs with; None in files of earlier versions."""
    versions: dict[str, str] = {}
    """Versions of packages that may change its bits."""
    files: dict[str, str] = {}
    """Digests of the files that its agent names, such as a grown graph: see `hash_named_files`."""
    task_hash: str | None = None
    """Digest of what decides results in its task's file, which a cell reads again; None in files of earlier versions."""
    earlier_hash: str = ""
    """Hash without provenance and versions, as in results of earlier versions."""
    goes_on: str = ""
    """Name of the cell of this study whose last checkpoint the training resumes; empty if it starts anew."""
    teacher: str = ""
    """Name of the cell of this study whose final policy the training learns from; empty without a teacher."""

    @property
    def episodes(self) -> int:
        """Episodes of every evaluation."""
        return self.specification.episodes


@dataclass(frozen=True)
class CellResources:
    """Device, source of robots, processes and threads of every cell of a study."""

    device: str | None = None
    """None lets each cell choose."""
    assets: str = "auto"
    processes: int = 1
    """Processes of a training."""
    threads: int | None = None
    """CPU threads of each process of a cell."""


def build_cells(
    study: Study, resolve_agent: Resolve, resources: CellResources, title: str = ""
) -> list[Cell]:
    """Return all cells, one seed of all agents before the next seed, so that an interrupted study is balanced.

    ``resolve_agent`` returns the run plan of each combination. A ``title`` replaces the label of every trained cell, and so the agent and
    variant in its folder's name.
    """
    builder = _CellBuilder(study, resources, title)
    combinations = [
        (task, agent, variant, resolve_agent(task, agent, variant))
        for task in study.tasks
        for agent in study.agents
        for variant in study.list_variants(agent)
    ]
    planned = [builder.build_random(task, resolve_agent(task, RANDOM, {})) for task in study.tasks]
    # teachers first; the keys of ``study.teachers`` are the students
    combinations.sort(key=lambda combination: get_agent_name(combination[1]) in study.teachers)
    for seed in study.seeds:
        cells_of_seed: dict[tuple[str, str], Cell] = {}
        for task, agent, variant, plan in combinations:
            teacher = cells_of_seed.get((plan.task, study.teachers.get(get_agent_name(agent), "")))
            check_teacher(agent, plan, teacher)
            cell = builder.build_trained(task, agent, variant, plan, seed, teacher)
            cells_of_seed[cell.task, cell.agent] = cell
            planned.append(cell)
    return planned


def check_teacher(agent: str, plan: RunPlan, teacher: Cell | None) -> None:
    """Raise StudyError unless an ``agent`` that learns from a teacher has a suitable ``teacher``, and any other agent has none."""
    needs_teacher = bool(get_section(plan.spec.runner, "algorithm").get("distillation_cfg"))
    name = get_agent_name(agent)
    if needs_teacher and teacher is None:
        raise StudyError(
            f"teachers: none given for {name}, which learns from one; allowed, in a study's file: {{{name}: AGENT}}"
        )
    if teacher is not None and not needs_teacher:
        raise StudyError(
            f"teachers: {name}: {teacher.agent!r} given; allowed: none, for it learns from no teacher"
        )
    if teacher is None:
        return
    pairs = {
        "--rl_library": (teacher.library, plan.library),
        "agent.history": (teacher.specification.spec.get("history", 1), plan.get_setting("history")),
    }
    for key, (of_teacher, of_student) in pairs.items():
        if of_teacher != of_student:
            raise StudyError(
                f"teachers: {name}: {teacher.agent!r} given, with {key} {of_teacher}; allowed: {of_student}"
            )


def format_label(agent: str, variant: PlainMapping) -> str:
    """Return the file stem of ``agent`` and the values of its ``variant``: ``lif_ppo network.steps=2``."""
    parts = [format_override(key.removeprefix("agent."), value) for key, value in variant.items()]
    return " ".join((get_agent_name(agent), *parts))


def quote_arguments(arguments: Iterable[str]) -> str:
    """Return ``arguments`` quoted for a shell; `OUT` stays a variable."""
    return " ".join(f'"{a}"' if a.startswith(OUT) else shlex.quote(a) for a in arguments)


def format_commands(
    specification: CellSpecification, name: str, kind: str, processes: int = 1, teacher: str = ""
) -> tuple[str, ...]:
    """Return the command lines that reproduce the cell ``name`` of a ``kind``, trained or random.

    ``teacher`` is the name of its teacher's folder; empty if it has no teacher.
    """
    folder = f"{OUT}/cells/{name}"
    trains_agent = kind != RANDOM
    common = _list_flags(
        task=specification.task,
        agent=specification.agent,
        device=specification.device,
        assets=specification.assets if specification.assets != "auto" else None,
        rl_library=specification.library if specification.library != DEFAULT_LEARNER else None,
        tuning=f"{OUT}/{specification.tuned}" if specification.tuned else None,
    )
    root = _list_flags(log_root=f"{folder}/run" if trains_agent else None)
    evaluation_flags = _list_flags(
        seed=specification.evaluation_seed,
        episodes=specification.episodes,
        conditions=",".join(specification.conditions),
        out=f"{folder}/{EVALUATION}",
        checkpoint="latest" if trains_agent else RANDOM,
    )
    words = quote_arguments([*common, *evaluation_flags, *root, *specification.overrides])
    evaluate = f"python scripts/evaluate.py {words}"
    if not trains_agent:
        return (evaluate,)
    training_flags = _list_flags(
        seed=specification.seed, num_envs=specification.num_envs, budget=specification.budget
    )
    # the last policy is measured
    words = quote_arguments([*common, *training_flags, "--no-choose_best", *root, *specification.overrides])
    run = "python scripts/train.py"
    if processes > 1:
        run = f"torchrun --standalone --nproc_per_node {processes} scripts/train.py --distributed"
    # the shell finds the run folder
    teacher_flag = f' --teacher "{OUT}/cells/{teacher}"/run/*/*/*' if teacher else ""
    return (f"{run} {words}{teacher_flag}", evaluate)


def _list_flags(**values: object) -> list[str]:
    """Return each flag and its value as words; a flag whose value is None is left out."""
    return [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]


@dataclass(frozen=True)
class _CellBuilder:
    """Builder of a study's cells, with the inputs that they share."""

    study: Study
    resources: CellResources
    title: str

    @property
    def environment_overrides(self) -> list[str]:
        """Overrides of the study that are not of an agent."""
        return [text for text in self.study.overrides if not text.startswith("agent.")]

    def _make_specification(
        self, task: str, agent: str, plan: RunPlan, seed: int, overrides: Sequence[str]
    ) -> CellSpecification:
        """Return a cell's specification; it names the physics of ``plan``, so that the cell's machine chooses no other."""
        study = self.study
        # the study's library may lack the agent's algorithm
        library = choose_library(study.library, plan.spec.algorithm) or plan.library
        names_physics = any(text.startswith("physics=") for text in overrides)
        physics = [] if names_physics or plan.physics == EARLIER_PHYSICS else [f"physics={plan.physics}"]
        return CellSpecification(
            task=task, agent=agent, library=library, assets=self.resources.assets,
            device=self.resources.device, seed=seed,
            num_envs=plan.num_envs, budget=None if study.budget is None else str(study.budget),
            overrides=(*overrides, *physics), tuned=find_copy(study.tuning, agent), episodes=study.episodes,
            conditions=study.conditions, spec=plan.spec.to_dict(), origins=plan.spec.origins,
        )  # fmt: skip

    def _make_cell(
        self,
        plan: RunPlan,
        name: str,
        specification: CellSpecification,
        defining: PlainMapping,
        named_files: dict[str, str],
        **own: Any,
    ) -> Cell:
        """Return a cell from its ``own`` fields and its run plan.

        Its hash depends on the ``defining`` data, environment, evaluation, kernels, threads, versions and digests of ``named_files``.
        """
        task_data = get_task_data(plan.task_spec)
        defining = {
            **defining, "environment": self.environment_overrides, "task": plan.task, "task_file": task_data,
            "assets": specification.assets, "library": specification.library,
            "episodes": specification.episodes, "conditions": list(specification.conditions),
        }  # fmt: skip
        provenance = plan_provenance(plan, self.resources.threads)
        versions = get_deciding_versions(plan.request.task, plan.library)
        bits = {"provenance": provenance.model_dump(include={"kernels", "threads"}), "versions": versions}
        if named_files:  # absent, so that the hashes of other agents are those of earlier versions
            bits["files"] = named_files
        return Cell(
            cell=name, task=plan.task, num_envs=plan.num_envs, device=plan.device, physics=plan.physics, assets=plan.assets,
            task_hash=hash_task(plan.task_spec), specification=specification, budget=self.study.budget, library=specification.library,
            hash=hash_data({**defining, **bits}), earlier_hash=hash_data(defining),
            provenance=provenance, versions=versions, files=named_files, **own,
        )  # fmt: skip

    def build_trained(
        self,
        task: str,
        agent: str,
        variant: PlainMapping,
        plan: RunPlan,
        seed: int,
        teacher: Cell | None,
    ) -> Cell:
        """Return the cell of an ``agent`` on a ``task`` as the study names them, with their ``plan``; the ``teacher`` is a cell too."""
        study, processes = self.study, self.resources.processes
        label = self.title or format_label(agent, variant)
        varied = [format_override(key, value) for key, value in variant.items()]
        per_iteration = plan.num_envs * plan.get_setting("num_steps_per_env") * processes
        budget, all_iterations = study.budget, plan.get_setting("max_iterations")
        iterations = all_iterations if budget is None else budget.to_iterations(per_iteration)
        name = name_cell(plan.task, label, seed)
        specification = self._make_specification(task, agent, plan, seed, [*study.overrides, *varied])
        defining = {
            "spec": plan.spec.to_dict(for_digest=True),
            "seed": seed,
            "num_envs": plan.num_envs,
            "processes": processes,
            "budget": specification.budget,
        }
        if teacher is not None:
            defining["teacher"] = teacher.hash
        teacher_name = "" if teacher is None else teacher.name
        return self._make_cell(
            plan, name, specification, defining, hash_named_files(specification.spec),
            agent=get_agent_name(agent), label=label, variant=dict(variant), seed=seed, kind="trained", spec_hash=plan.spec.digest,
            env_steps=None if iterations is None else iterations * per_iteration, processes=processes,
            commands=format_commands(specification, name, "trained", processes, teacher_name), teacher=teacher_name,
        )  # fmt: skip

    def build_random(self, task: str, plan: RunPlan) -> Cell:
        """Return the cell of random actions on a ``task`` of the study; ``plan`` is that of any of its agents, which does not act."""
        specification = self._make_specification(
            task, self.study.agents[0], plan, 0, self.environment_overrides
        )
        name = make_folder_name(f"{plan.task}.{RANDOM}")
        return self._make_cell(
            plan, name, specification, {}, {},
            agent=RANDOM, label=RANDOM, variant={}, seed=0, kind="random", spec_hash=None, env_steps=0, processes=1,
            commands=format_commands(specification, name, RANDOM),
        )  # fmt: skip


def plan_provenance(plan: RunPlan, threads: int | None) -> Provenance:
    """Return the kernels, and on a CPU the ``threads``, that cells of a ``plan`` run with; both decide bits."""
    on_gpu = plan.device.startswith("cuda")
    kernels = compute_kernels_digest(on_gpu, plan.request.task, plan.physics)
    return Provenance(kernels=kernels, threads=None if on_gpu else threads)


def get_task_data(task: TaskSpec | None) -> dict[str, Any]:
    """Return the parts of a task's file that decide results."""
    return {} if task is None else {"id": task.id, "env": dict(task.env), "agent": dict(task.agent)}


def hash_task(task: TaskSpec | None) -> str:
    """Return a digest of `get_task_data` and the robot's leg, which a cell's hash leaves out, so that hashes of earlier cells stay."""
    leg = {} if task is None or not task.leg else {"leg": task.leg}
    return hash_data({**get_task_data(task), **leg})


def hash_data(data: object) -> str:
    """Return 16 hexadecimal digits that identify plain ``data``."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_cell(task: str, label: str, seed: int) -> str:
    """Return the name of the folder of a trained cell."""
    return make_folder_name(f"{task}.{label.replace(' ', '.')}.seed{seed}")


def make_folder_name(text: str) -> str:
    """Return ``text`` with letters, digits and ``._=-`` only; a hash makes changed or long names unique."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", text)
    if plain == text and len(text) <= 150:
        return text
    return f"{plain[:120]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
