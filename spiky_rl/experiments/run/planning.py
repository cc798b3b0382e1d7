"""Where the cells of a study run, and what each of them is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spiky_rl.config.optional_dependencies import require_module
from spiky_rl.config.options import Settings, UserError, option, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.registry import PACKAGE
from spiky_rl.config.run_plan import RANDOM, Assets, RunPlan, RunRequest
from spiky_rl.config.spec import TaskSpec, load_task
from spiky_rl.experiments.analysis.comparisons import ALPHA, compute_min_p_value
from spiky_rl.experiments.design import grid
from spiky_rl.experiments.design.controls import find_uncontrolled
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.planned import count_deciding_seeds
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.run import engines
from spiky_rl.experiments.run.engines.base import Engine, count_cores, list_visible_gpus, make_environment
from spiky_rl.run.prepare import make_condition_subject, make_plan

log = logging.getLogger(__name__)

FEW = 4096
"""Cells at once, and processes of one, at most."""


class ExecutionOptions(Settings):
    """Where and how cells run."""

    parallel: int = option(1, "cells at once", low=1, high=FEW)
    device: str | None = option(
        None, "cpu, cuda or cuda:N; null: the GPU if there is one; a --dry-run may plan for a GPU elsewhere"
    )
    assets: Assets = option("auto", "where robots come from, of all cells")
    engine: Literal["local", "ray"] = option("local", "what runs the cells")
    ray_address: str | None = option(
        None, "address of a Ray cluster (auto, or host:port); null: one on this machine"
    )
    cell_cpus: float | None = option(
        None, "with ray: cores of a cell; null: one for each of its processes", low=0.0
    )
    cell_gpus: float | None = option(
        None, "with ray: GPUs of a cell; null: one per process on cuda, else 0", low=0.0
    )
    distributed: int = option(
        1, "processes of a training, one per GPU or core, through torchrun", low=1, high=FEW, metavar="N"
    )
    dry_run: bool = option(
        False, "check everything, show the plan and run nothing", flags=["--dry-run", "--dry_run"]
    )

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is the plan for a machine with a GPU, made on one without."""
        import torch

        return self.dry_run and (self.device or "").startswith("cuda") and not torch.cuda.is_available()

    @property
    def threads(self) -> int:
        """Threads of a cell that runs on the CPU. Raises UserError where OMP_NUM_THREADS is no number."""
        available = count_cores()
        if self.engine == "ray":
            available = self.parallel * max(1, int(cell_share(False, self.distributed, self.cell_cpus)[0]))
        given = make_environment(self.parallel, available)["OMP_NUM_THREADS"]
        first = given.partition(",")[0].strip()  # the others are for nested regions
        if not first.isdecimal() or int(first) < 1:
            raise UserError(f"OMP_NUM_THREADS: {given!r} given; allowed: a number of threads, from 1")
        return int(first)

    def open_engine(self, library: str) -> tuple[Engine | None, tuple[str, ...]]:
        """The engine, None where everything is only planned, and this machine's GPUs for it to spread cells over.

        Args:
            library: The study's host.

        Raises:
            UserError: The engine or the GPUs are not there, or the host trains in one process only.
        """
        if self.distributed > 1 and library != "rsl_rl":
            raise UserError("--distributed: only with --rl_library rsl_rl")
        if self.dry_run:
            return None, ()
        options: dict[str, Any] = {}
        if self.engine == "ray":
            from spiky_rl.run.devices import resolve_device

            on_cuda = resolve_device(self.device).startswith("cuda")
            cpus, gpus = cell_share(on_cuda, self.distributed, self.cell_cpus, self.cell_gpus)
            options = {"address": self.ray_address, "cpus": cpus, "gpus": gpus}
        return engines.create(self.engine, **options), self._gpus()

    def _gpus(self) -> tuple[str, ...]:
        """None where the device is the CPU or one that was named. Raises UserError for fewer than a cell has processes."""
        import torch

        if self.engine != "local" or self.device not in (None, "cuda") or not torch.cuda.is_available():
            return ()
        gpus = list_visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        if self.distributed > len(gpus):
            raise UserError(f"--distributed {self.distributed}: there are {len(gpus)} GPUs here")
        if self.parallel > 1 and len(gpus) > 1:
            log.info("cells are spread over %d GPUs: %s", len(gpus), ", ".join(gpus))
        return gpus

    def resolve_assets(self) -> tuple[ExecutionOptions, str]:
        """The place with the robots that all cells have, asked for once, and which those are, in words.

        ``auto`` remains where the user's environment says it.
        """
        require_module("isaaclab", "isaaclab")
        from spiky_rl.hosts.isaaclab.assets import configure_assets

        robots = configure_assets(self.assets)
        source = robots.partition(" ")[0]
        return self.with_changes(assets=source if source in ("local", "nucleus") else "auto"), robots


def cell_share(
    on_cuda: bool, processes: int, cpus: float | None = None, gpus: float | None = None
) -> tuple[float, float]:
    """Cores and GPUs of a cell.

    Args:
        on_cuda: Whether it runs on a GPU.
        processes: Number of processes of its training.
        cpus: What is given; None: one for each process, and so for ``gpus``.
        gpus: What is given.

    Raises:
        UserError: Its processes would have less than a GPU each.
    """
    cpus = float(processes) if cpus is None else cpus
    gpus = float(processes if on_cuda else 0) if gpus is None else gpus
    if on_cuda and 1 < processes > gpus:
        raise UserError(
            f"--cell_gpus {gpus:g}: --distributed {processes} takes a GPU for each process; give {processes}"
        )
    return cpus, gpus


def default_folder(asked: Study, file: Path | None) -> Path:
    """Where a study lies that was not told where: beside its file, or below logs/compare by name or content.

    Args:
        asked: The study.
        file: Its file; None: it was made of flags.
    """
    if file is not None:
        return file.parent if file.stem == "study" else Path("logs/compare") / file.stem
    design = {key: value for key, value in asked.to_dict().items() if key != "seeds"}
    return Path("logs/compare") / f"{'-'.join(asked.agent_names)[:40]}-{grid.hash_data(design)[:6]}"


def list_bundled_studies() -> list[Path]:
    """Studies that came with the project: their speeds are a first guess."""
    return sorted(path for path in (PACKAGE.parent / "studies").glob("*") if (path / "cells").is_dir())


class AgentResolver:
    """Tells what a combination of task, agent and variation is, by merging it as ``train.py`` does, once."""

    def __init__(self, asked: Study, place: ExecutionOptions) -> None:
        """Begin with nothing merged.

        Args:
            asked: The study.
            place: Where its cells run.
        """
        self.asked, self.place = asked, place
        self.specs: dict[str, dict[str, Any]] = {}
        """Merged specifications by hash."""
        self.tasks: dict[str, TaskSpec] = {}
        """Task files by label."""
        self.known: dict[tuple[str, str], RunPlan] = {}

    def __call__(self, task: str, agent: str, variant: Mapping[str, Any]) -> RunPlan:
        """The plan of a training; that of random actions is any of the task's.

        Args:
            task: As the study names it, and so is the agent.
            agent: Agent of the study, or `RANDOM`.
            variant: Values of what varies, by key.

        Raises:
            UserError: It cannot be, as ``train.py`` or ``evaluate.py`` would say.
        """
        if agent == RANDOM:
            return self(task, self.asked.agents[0], self.asked.list_variants(self.asked.agents[0])[0])
        varied = tuple(grid.format_override(key, value) for key, value in variant.items())
        key = (task, " ".join((agent, *varied)))
        if key not in self.known:
            self.known[key] = self._planned(task, agent, varied)
        return self.known[key]

    def _planned(self, task: str, agent: str, varied: Sequence[str]) -> RunPlan:
        asked, place, elsewhere = self.asked, self.place, self.place.is_elsewhere
        number = asked.num_envs
        if elsewhere and number is None and (known := load_task(task)) is not None:
            number = known.num_envs["cuda"]
        plan = make_plan(
            RunRequest(
                task=task,
                agent=agent,
                library=asked.library,
                tuning=Path(tuning) if (tuning := find_tuning(asked.tuning, agent)) else None,
                num_envs=number,
                device="cpu" if elsewhere else place.device,
                assets=place.assets,
                overrides=(*asked.overrides, *varied),
            )
        )

        from spiky_rl.hosts.isaaclab import conditions
        from spiky_rl.hosts.isaaclab import physics_selection as selection
        from spiky_rl.run.train import require_whole_minibatches

        require_whole_minibatches(plan)
        subject = make_condition_subject(plan)
        chosen = conditions.parse_conditions(",".join(asked.conditions), subject)
        conditions.require_conditions(chosen, subject)
        if asked.plan is not None and (
            absent := [name for name in asked.plan.conditions if name not in chosen]
        ):
            raise UserError(
                f"plan.endpoints: kept: {absent[0]!r} given; allowed: {', '.join(chosen)}{suggest_name(absent[0], chosen)}"
            )
        self.specs[plan.spec.digest] = plan.spec.to_dict()
        if plan.task_spec is not None:
            self.tasks[plan.task] = plan.task_spec
        if elsewhere:
            assert place.device is not None
            plan.device = place.device
            plan.physics = selection.WARP if plan.physics == selection.NATIVE else plan.physics
        return plan


def warn_of_undecidable_tests(asked: Study) -> None:
    """Say where no result of the planned comparisons of a study could count, and how many seeds it takes."""
    if (plan := asked.plan) is None:
        return
    tests, pairs = plan.count_tests(len(asked.tasks)), len(asked.seeds)
    if (lowest := compute_min_p_value(pairs, tests)) >= ALPHA:
        log.warning(
            "plan: with %d seeds and %d tests that Holm corrects together no p can be below %.3g; %d seeds can decide",
            pairs, tests, lowest, count_deciding_seeds(tests, ALPHA),
        )  # fmt: skip


def warn_of_missing_controls(cells: Sequence[Cell], specs: Mapping[str, PlainMapping]) -> None:
    """Say which spiking agents have no ANN of their widths and rates beside them: a difference is then not one of spikes.

    Args:
        cells: All cells of the study.
        specs: Merged specifications by hash.
    """
    for task in dict.fromkeys(cell.task for cell in cells):
        own = {cell.label: cell for cell in cells if cell.task == task and cell.is_trained}
        named = {label: specs[str(cell.spec_hash)] for label, cell in own.items()}
        tuned = [label for label, cell in own.items() if cell.specification.tuned]
        for label, widths in find_uncontrolled(named, tuned).items():
            log.warning("%s on %s: no ANN of its widths (%s) and rates stands beside it", label, task, widths)


def warn_of_unequal_steps(asked: Study, cells: Sequence[Cell]) -> None:
    """Say where agents train for different numbers of environment steps: such scores are not to be compared.

    Args:
        asked: The study.
        cells: All of its cells.
    """
    for task in dict.fromkeys(cell.task for cell in cells):
        steps = {c.env_steps for c in cells if c.task == task and c.is_trained}
        if asked.budget is None and len(steps) > 1:
            log.warning("%s: agents train for different numbers of steps; pass --budget env_steps=N", task)
