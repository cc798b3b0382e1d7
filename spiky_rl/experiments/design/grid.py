"""The cells of a study: what each one runs, under which name, and a hash of all that defines it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer

from spiky_rl.config.options import FileRecord, RegistryError, Settings
from spiky_rl.config.plain_data import PlainMapping, format_override
from spiky_rl.config.run_plan import RunPlan
from spiky_rl.config.spec import TaskSpec
from spiky_rl.experiments.design.study import RANDOM, OptionalBudget, Study
from spiky_rl.experiments.design.tunings import find_copy
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.run.provenance import Provenance, compute_kernels_digest, get_deciding_versions

OUT = "$OUT"
"""What stands for the study's folder in recorded commands."""
EVALUATION = "evaluation.json"
"""In a cell's folder."""
EVALUATION_SEED = 100_000
"""Added to a cell's seed for its evaluation, so that it starts from states that training did not."""

EARLIER_PHYSICS = "newton_mjwarp"
"""Physics of cells that do not say what stepped their worlds."""


type Resolve = Callable[[str, str, PlainMapping], RunPlan]
"""Tells what a combination of task, agent and variation is; raises UserError for one that cannot be."""


def folder_name(name: str) -> str:
    """The ``name``, if it is that of a file or folder and leads nowhere else. Raises RegistryError."""
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise RegistryError(f"expected a folder's name, got {name!r}")
    return name


Texts = Annotated[tuple[str, ...], Field(strict=False)]


class CellSpecification(Settings):
    """The complete specification of a cell's training and evaluation."""

    task: str
    """As it was asked for, and so is the agent."""
    agent: str
    library: str
    assets: str
    device: str | None
    """None: the one that is chosen where the cell is worked on."""
    seed: int
    num_envs: int
    budget: str | None
    """None: the merged specification's own number of iterations."""
    overrides: Texts
    """Overrides of agent and environment; those of the agent are in ``spec`` already."""
    tuned: str
    """Path in the study's folder of the tuned values that ``spec`` has; empty if it has none."""
    episodes: int
    conditions: Texts
    spec: dict[str, Any]
    """The agent: all layers merged, complete."""
    origins: dict[str, str]

    @property
    def evaluation_seed(self) -> int:
        """Seed of the states that the evaluation starts from, which training did not see."""
        return EVALUATION_SEED + self.seed


class PlannedCell(FileRecord):
    """A cell's line of the plan: one training and its evaluation."""

    name: Annotated[str, AfterValidator(folder_name)] = Field(alias="cell")
    """Name of its folder."""
    agent: str
    """File stem."""
    label: str
    """Agent and variation in words, for tables and plots."""
    task: str
    """The task's label."""
    variant: dict[str, Any]
    seed: int
    kind: Literal["trained", "random"]
    hash: str
    spec_hash: str | None
    base_hash: str | None = None
    """Digest of the agent's specification without the study's tuned values and variation; None where there are no tuned values."""
    env_steps: int | None
    """That it trains for; None where another budget ends it, 0 for random actions."""
    num_envs: int
    device: str
    physics: str = EARLIER_PHYSICS
    """What steps the worlds."""
    processes: int
    """Processes of a data-parallel training, by torchrun."""
    commands: Texts
    """What reproduces it by hand, for people: no program reads it."""
    seconds: Annotated[float | None, PlainSerializer(lambda s: s if s is None else round(s))] = Field(
        default=None, alias="seconds_estimated"
    )

    @property
    def is_trained(self) -> bool:
        """Whether it is no cell of random actions."""
        return self.kind != RANDOM


class StudyPlanFile(FileRecord):
    """plan.json."""

    version: Literal[1]
    cells: Annotated[tuple[PlannedCell, ...], Field(strict=False)]


class Cell(PlannedCell):
    """A cell as its own file has it: its line of the plan, and all that who works it needs to know."""

    specification: CellSpecification
    budget: OptionalBudget
    library: str
    assets: str = ""
    """Which robots it runs with, in words; empty before its file is written."""
    provenance: Provenance | None = None
    """Kernels, and on a CPU threads, that it runs with; None in files of earlier versions."""
    versions: dict[str, str] = {}
    """Versions that may change its bits."""
    earlier_hash: str = ""
    """Its hash without provenance and versions, which results of earlier versions have."""
    goes_on: str = ""
    """The cell of this study whose last checkpoint its training begins with."""


def build_cells(
    study: Study,
    resolve_agent: Resolve,
    device: str | None = None,
    assets: str = "auto",
    processes: int = 1,
    title: str = "",
    threads: int | None = None,
) -> list[Cell]:
    """All cells, a seed of every agent before the next seed, so that a study cut short is still balanced.

    Args:
        study: What is compared.
        resolve: Tells what its combinations are.
        device: That cells ask for; None lets each choose.
        assets: Robots that cells ask for.
        processes: How many train a cell.
        title: Goes in the place of labels; empty: agents and variations are named.
        threads: Threads of a cell on the CPU.
    """
    given = _SharedCellInputs(study, device, assets, processes, title, threads)
    combinations = [
        (task, agent, variant, resolve_agent(task, agent, variant))
        for task in study.tasks
        for agent in study.agents
        for variant in study.list_variants(agent)
    ]
    planned = [_build_random_cell(given, task, resolve_agent(task, RANDOM, {})) for task in study.tasks]
    for seed in study.seeds:
        planned += [_build_trained_cell(given, *combination, seed) for combination in combinations]
    return planned


def format_label(agent: str, variant: PlainMapping) -> str:
    """``lif_ppo network.steps=2``: the file stem of an ``agent``, and the values of its ``variant``."""
    parts = [format_override(key.removeprefix("agent."), value) for key, value in variant.items()]
    return " ".join((Path(agent).stem, *parts))


def quote_arguments(arguments: Iterable[str]) -> str:
    """The ``arguments`` as a shell takes them; `OUT` stays a variable."""
    return " ".join(f'"{a}"' if a.startswith(OUT) else shlex.quote(a) for a in arguments)


def format_commands(given: CellSpecification, name: str, kind: str, processes: int = 1) -> tuple[str, ...]:
    """Command lines that reproduce a cell by hand.

    Args:
        given: What it is made from.
        name: Its folder's.
        kind: ``trained``, or ``random``.
        processes: How many train it.
    """
    folder, is_trained = f"{OUT}/cells/{name}", kind != RANDOM
    common = ["--task", given.task, "--agent", given.agent]
    common += ["--device", given.device] if given.device else []
    common += ["--assets", given.assets] if given.assets != "auto" else []
    common += ["--rl_library", given.library] if given.library != "rsl_rl" else []
    common += ["--tuning", f"{OUT}/{given.tuned}"] if given.tuned else []
    root = ["--log_root", f"{folder}/run"] if is_trained else []
    run = "python scripts/train.py"
    if processes > 1:
        run = f"torchrun --standalone --nproc_per_node {processes} scripts/train.py --distributed"
    train = [*common, "--seed", str(given.seed), "--num_envs", str(given.num_envs)]
    train += ["--budget", given.budget] if given.budget else []
    train += ["--no-choose_best"]  # the last policy is measured
    measured = ["--seed", str(given.evaluation_seed), "--episodes", str(given.episodes)]
    measured += ["--conditions", ",".join(given.conditions), "--out", f"{folder}/{EVALUATION}"]
    measured += ["--checkpoint", "latest" if is_trained else RANDOM]
    evaluate = quote_arguments([*common, *measured, *root, *given.overrides])
    trained = (f"{run} {quote_arguments([*train, *root, *given.overrides])}",) if is_trained else ()
    return (*trained, f"python scripts/evaluate.py {evaluate}")


@dataclass(frozen=True)
class _SharedCellInputs:
    """What all cells share."""

    study: Study
    device: str | None
    assets: str
    processes: int
    title: str = ""
    threads: int | None = None

    def specification(
        self, task: str, agent: str, plan: RunPlan, seed: int, overrides: Sequence[str]
    ) -> CellSpecification:
        """That of a cell, which names the physics that was chosen, so that no other is chosen where it is worked on."""
        study = self.study
        named = any(text.startswith("physics=") for text in overrides)
        physics = [] if named or plan.physics == EARLIER_PHYSICS else [f"physics={plan.physics}"]
        return CellSpecification(
            task=task, agent=agent, library=study.library, assets=self.assets, device=self.device, seed=seed,
            num_envs=plan.num_envs, budget=None if study.budget is None else str(study.budget),
            overrides=(*overrides, *physics), tuned=find_copy(study.tuning, agent), episodes=study.episodes,
            conditions=study.conditions, spec=plan.spec.to_dict(), origins=plan.spec.origins,
        )  # fmt: skip


def _build_trained_cell(
    given: _SharedCellInputs, task: str, agent: str, variant: PlainMapping, plan: RunPlan, seed: int
) -> Cell:
    study, processes = given.study, given.processes
    label = given.title or format_label(agent, variant)
    varied = [format_override(key, value) for key, value in variant.items()]
    per_iteration = plan.num_envs * plan.get_setting("num_steps_per_env") * processes
    counted = (
        plan.get_setting("max_iterations")
        if study.budget is None
        else study.budget.to_iterations(per_iteration)
    )
    defining = {
        "spec": plan.spec.to_dict(neutral=False),
        "environment": [text for text in study.overrides if not text.startswith("agent.")],
        "seed": seed,
        "num_envs": plan.num_envs,
        "processes": processes,
        "budget": None if study.budget is None else str(study.budget),
        **_measurement(given, plan),
    }
    name = _folder_name(f"{plan.task}.{label.replace(' ', '.')}.seed{seed}")
    specification = given.specification(task, agent, plan, seed, [*study.overrides, *varied])
    return Cell(
        cell=name, agent=Path(agent).stem, label=label, task=plan.task, variant=dict(variant), seed=seed, kind="trained",
        **_origin(defining, plan, given.threads), spec_hash=plan.spec.digest, env_steps=None if counted is None else counted * per_iteration,
        num_envs=plan.num_envs, device=plan.device, physics=plan.physics, processes=processes,
        commands=format_commands(specification, name, "trained", processes), specification=specification,
        budget=study.budget, library=study.library,
    )  # fmt: skip


def _build_random_cell(given: _SharedCellInputs, task: str, plan: RunPlan) -> Cell:
    study = given.study
    overrides = [text for text in study.overrides if not text.startswith("agent.")]
    defining = {"environment": overrides, **_measurement(given, plan)}
    # any agent of the task's will do: what it would have done is not looked at
    specification = given.specification(task, study.agents[0], plan, 0, overrides)
    name = _folder_name(f"{plan.task}.{RANDOM}")
    return Cell(
        cell=name, agent=RANDOM, label=RANDOM, task=plan.task, variant={}, seed=0, kind="random", **_origin(defining, plan, given.threads),
        spec_hash=None, env_steps=0, num_envs=plan.num_envs, device=plan.device, physics=plan.physics, processes=1,
        commands=format_commands(specification, name, RANDOM), specification=specification, budget=study.budget,
        library=study.library,
    )  # fmt: skip


def plan_provenance(plan: RunPlan, threads: int | None) -> Provenance:
    """Return the kernels, and on a CPU the ``threads``, that cells of a ``plan`` run with; they decide bits as versions do."""
    on_gpu = plan.device.startswith("cuda")
    kernels = compute_kernels_digest(on_gpu, plan.physics == selection.NATIVE)
    return Provenance(kernels=kernels, threads=None if on_gpu else threads)


def _origin(defining: PlainMapping, plan: RunPlan, threads: int | None) -> dict[str, Any]:
    """Return a cell's hashes, and what counts in them besides what is ``defining``: kernels, ``threads`` and versions."""
    provenance, versions = plan_provenance(plan, threads), get_deciding_versions(plan.library)
    bits = {"provenance": provenance.model_dump(include={"kernels", "threads"}), "versions": versions}
    return {
        "hash": hash_data({**defining, **bits}),
        "earlier_hash": hash_data(defining),
        "provenance": provenance,
        "versions": versions,
    }


def _measurement(given: _SharedCellInputs, plan: RunPlan) -> dict[str, Any]:
    return {
        "task": plan.task,
        "task_file": _task_data(plan.task_spec),
        "assets": given.assets,
        "library": given.study.library,
        "episodes": given.study.episodes,
        "conditions": list(given.study.conditions),
    }


def _task_data(task: TaskSpec | None) -> dict[str, Any]:
    """What of a task's file decides a result."""
    return {} if task is None else {"id": task.id, "env": dict(task.env), "agent": dict(task.agent)}


def hash_data(data: object) -> str:
    """16 hexadecimal digits that stand for plain ``data``."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _folder_name(text: str) -> str:
    """Letters, digits and ``._=-``; what was something else or too long is told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", text)
    if plain == text and len(text) <= 150:
        return text
    return f"{plain[:120]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
