"""Where the cells of a study run, and the run plan of each."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spiky_rl.config.options import Settings, UserError, option, suggest_name
from spiky_rl.config.plain_data import format_override
from spiky_rl.config.spec import TaskSpec, read_algorithm
from spiky_rl.experiments.design import grid
from spiky_rl.experiments.design.grid import Cell, CellResources
from spiky_rl.experiments.design.planned import count_deciding_seeds, list_measures
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.run import engines
from spiky_rl.experiments.run.engines.base import Engine, count_cores, list_visible_gpus, make_environment
from spiky_rl.hosts import find_host
from spiky_rl.learners import choose_library, get_learner
from spiky_rl.learners.base import DISTRIBUTED
from spiky_rl.run.prepare import choose_num_envs, make_plan
from spiky_rl.run.run_plan import RANDOM, Assets, RunPlan, RunRequest

log = logging.getLogger(__name__)

MAX_PROCESSES = 4096
"""Maximum number of parallel cells, and of processes of a cell."""


class ExecutionOptions(Settings):
    """Where and how cells run."""

    parallel: int = option(1, "number of parallel cells", low=1, high=MAX_PROCESSES)
    device: str | None = option(
        None,
        "cpu, cuda or cuda:N; null: the GPU if there is one; a --dry-run may plan for a GPU of another machine",
    )
    assets: Assets = option("auto", "source of the robots of all cells")
    engine: Literal["local", "ray"] = option("local", "engine that runs the cells")
    ray_address: str | None = option(
        None, "address of a Ray cluster (auto, or host:port); null: starts one on this machine"
    )
    cell_cpus: float | None = option(
        None, "with ray: cores of a cell; null: one for each of its processes", low=0.0
    )
    cell_gpus: float | None = option(
        None, "with ray: GPUs of a cell; null: one per process on cuda, else 0", low=0.0
    )
    distributed: int = option(
        1, "processes of a training, one per GPU or core, by torchrun", low=1, high=MAX_PROCESSES, metavar="N"
    )
    dry_run: bool = option(
        False, "check everything, print the plan and run nothing", flags=["--dry-run", "--dry_run"]
    )

    @property
    def is_elsewhere(self) -> bool:
        """Whether this plans for a machine with a GPU on a machine without one."""
        import torch

        return self.dry_run and (self.device or "").startswith("cuda") and not torch.cuda.is_available()

    @property
    def cell_resources(self) -> CellResources:
        """Device, source of robots, processes and threads of every cell."""
        return CellResources(self.device, self.assets, self.distributed, self.threads)

    @property
    def threads(self) -> int:
        """CPU threads of each process of a cell. Raises UserError if OMP_NUM_THREADS is not a number."""
        available = count_cores()
        if self.engine == "ray":
            available = self.parallel * max(1, int(self.compute_cell_share(on_cuda=False)[0]))
        environment = make_environment(self.parallel, available, processes=self.distributed)
        setting = environment["OMP_NUM_THREADS"]
        first = setting.partition(",")[0].strip()  # the others are for nested regions
        if not first.isdecimal() or int(first) < 1:
            raise UserError(f"OMP_NUM_THREADS: {setting!r} given; allowed: a number of threads, from 1")
        return int(first)

    def open_engine(self, library: str) -> tuple[Engine | None, tuple[str, ...]]:
        """Return the engine, or None for a dry run, and the GPUs of this machine that it distributes cells over.

        Raises UserError if there are too few GPUs, if the engine cannot run, if an option has no effect on the engine, or if the study's
        ``library`` trains in one process only.
        """
        for key in ("ray_address", "cell_cpus", "cell_gpus"):
            if self.engine != "ray" and (value := getattr(self, key)) is not None:
                raise UserError(f"--{key} {value}: has no effect with --engine {self.engine}; allowed: ray")
        if self.distributed > 1:
            get_learner(library).require_ability(DISTRIBUTED, "--distributed")
        if self.dry_run:
            return None, ()
        options: dict[str, Any] = {}
        if self.engine == "ray":
            from spiky_rl.run.devices import resolve_device

            on_cuda = resolve_device(self.device).startswith("cuda")
            cpus, gpus = self.compute_cell_share(on_cuda)
            options = {"address": self.ray_address, "cpus": cpus, "gpus": gpus}
        return engines.create(self.engine, **options), self._list_gpus()

    def compute_cell_share(self, on_cuda: bool) -> tuple[float, float]:
        """Return cores and GPUs of a cell. Raises UserError if its processes on CUDA would have less than a GPU each."""
        processes = self.distributed
        cpus = float(processes) if self.cell_cpus is None else self.cell_cpus
        gpus = float(processes if on_cuda else 0) if self.cell_gpus is None else self.cell_gpus
        if on_cuda and processes > 1 and processes > gpus:
            raise UserError(
                f"--cell_gpus {gpus:g}: --distributed {processes} takes a GPU for each process; give {processes}"
            )
        return cpus, gpus

    def _list_gpus(self) -> tuple[str, ...]:
        """Return the visible GPUs; empty on the CPU or with a named device. Raises UserError if a cell needs more."""
        import torch

        if self.engine != "local" or self.device not in (None, "cuda") or not torch.cuda.is_available():
            return ()
        gpus = list_visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        if self.distributed > len(gpus):
            raise UserError(f"--distributed {self.distributed}: only {len(gpus)} GPUs are visible")
        if self.parallel > 1 and len(gpus) > 1:
            log.info("cells are distributed over %d GPUs: %s", len(gpus), ", ".join(gpus))
        return gpus

    def resolve_assets(self, task: str) -> tuple[ExecutionOptions, str]:
        """Return the options with the source of robots resolved once for all cells, and its description.

        ``auto`` remains if the user's environment variables choose the source.
        """
        host = find_host(task)
        host.require_installed()
        robots = host.configure_assets(self.assets)
        source = robots.partition(" ")[0]
        return self.with_changes(assets=source if source in ("local", "nucleus") else "auto"), robots


def get_default_folder(study: Study, file: Path | None) -> Path:
    """Return the default folder of a study: that of its ``file``, or one in logs/compare by name, or by content if ``file`` is None."""
    if file is not None:
        return file.parent if file.stem == "study" else Path("logs/compare") / file.stem
    design = {key: value for key, value in study.to_dict().items() if key != "seeds"}
    return Path("logs/compare") / f"{'-'.join(study.agent_names)[:40]}-{grid.hash_data(design)[:6]}"


class AgentResolver:
    """The run plans of a study: each combination of task, agent and variant is merged once, as ``train.py`` does."""

    def __init__(self, study: Study, place: ExecutionOptions) -> None:
        self.study, self.place = study, place
        self.specs: dict[str, dict[str, Any]] = {}
        """Merged specifications by hash."""
        self.tasks: dict[str, TaskSpec] = {}
        """Task files by label."""
        self.known: dict[tuple[str, str], RunPlan] = {}

    def __call__(self, task: str, agent: str, variant: Mapping[str, Any]) -> RunPlan:
        """Return the run plan of a training; for the agent `RANDOM`, that of the study's first agent.

        Raises UserError if the combination is invalid, as ``train.py`` or ``evaluate.py`` would.
        """
        if agent == RANDOM:
            return self(task, self.study.agents[0], self.study.list_variants(self.study.agents[0])[0])
        varied = tuple(format_override(key, value) for key, value in variant.items())
        key = (task, " ".join((agent, *varied)))
        if key not in self.known:
            self.known[key] = self._make_plan(task, agent, varied)
        return self.known[key]

    def _require_endpoints(self, plan: RunPlan) -> None:
        """Raise UserError if the task of ``plan`` does not have a condition of the study, or what an endpoint of its plan measures."""
        conditions, test_plan = ",".join(self.study.conditions), self.study.plan
        chosen = plan.host_task.select_conditions(conditions, plan.conditioned_policy)
        if test_plan is None:
            return
        for name in test_plan.conditions:
            if name not in chosen:
                raise UserError(
                    f"plan.endpoints: kept: {name!r} given; allowed: {', '.join(chosen)}{suggest_name(name, chosen)}"
                )
        for endpoint in test_plan.endpoints:
            if plan.task_spec is not None and not endpoint.fits(plan.task_spec.measure):
                allowed = ", ".join(list_measures(plan.task_spec.measure))
                raise UserError(
                    f"plan.endpoints: {endpoint.label!r} given; {plan.task} does not measure it; allowed: {allowed}"
                )

    def _make_plan(self, task: str, agent: str, varied: Sequence[str]) -> RunPlan:
        study, place, elsewhere = self.study, self.place, self.place.is_elsewhere
        agent_overrides = [text for text in study.overrides if text.startswith("agent.")]
        tuning = find_tuning(study.tuning, agent)
        plan = make_plan(
            RunRequest(
                task=task,
                agent=agent,
                library=choose_library(study.library, read_algorithm(agent, [*agent_overrides, *varied])),
                tuning=Path(tuning) if tuning else None,
                num_envs=study.num_envs,
                device="cpu" if elsewhere else place.device,
                assets=place.assets,
                overrides=(*study.overrides, *varied),
            )
        )

        from spiky_rl.run.train import require_whole_minibatches

        if elsewhere:
            assert place.device is not None
            plan.device = place.device
            plan.physics = plan.host_task.get_physics_on(place.device)
            plan.num_envs = study.num_envs or choose_num_envs(
                plan.task_spec, plan.host_task, place.device, plan.spec.algorithm
            )
        if place.distributed > 1:  # the study's library may lack the agent's algorithm
            plan.learner.require_ability(DISTRIBUTED, f"--distributed {place.distributed}: {agent}")
        require_whole_minibatches(plan)
        self._require_endpoints(plan)
        self.specs[plan.spec.digest] = plan.spec.to_dict()
        if plan.task_spec is not None:
            self.tasks[plan.task] = plan.task_spec
        return plan


def warn_of_undecidable_tests(study: Study) -> None:
    """Warn if a study has too few seeds to show any planned difference; name the seeds that a difference and equivalence need."""
    if (plan := study.plan) is None:
        return
    tests, pairs = plan.count_tests(len(study.tasks)), len(study.seeds)
    difference, equivalence = count_deciding_seeds(tests), count_deciding_seeds(tests, sides=1)
    if pairs < difference:
        log.warning(
            "plan: %d seeds and %d tests that Holm corrects together can show %s; a difference needs %d seeds, equivalence %d",
            pairs, tests, "equivalence alone" if pairs >= equivalence else "neither difference nor equivalence",
            difference, equivalence,
        )  # fmt: skip


def warn_of_unequal_steps(study: Study, cells: Sequence[Cell]) -> None:
    """Warn if agents train for different numbers of environment steps, which makes their scores incomparable."""
    for task in dict.fromkeys(cell.task for cell in cells):
        steps = {c.env_steps for c in cells if c.task == task and c.trains_agent and not c.teacher}
        if study.budget is None and len(steps) > 1:
            log.warning("%s: agents train for different numbers of steps; pass --budget env_steps=N", task)
