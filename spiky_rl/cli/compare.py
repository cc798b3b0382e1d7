"""``compare.py``: agents x tasks x seeds, from a plan through its cells to a report."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from spiky_rl.cli import common
from spiky_rl.cli.common import Plan, log
from spiky_rl.cli.compare_show import Table, print_end, print_plan
from spiky_rl.cli.report import print_report, require_report
from spiky_rl.config import extras, files
from spiky_rl.config.arguments import up_to
from spiky_rl.config.options import UserError
from spiky_rl.config.registry import PACKAGE
from spiky_rl.config.spec import TaskSpec, load_task
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.config.tuned import read_tuned
from spiky_rl.experiments.design import grid, study
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.study import RANDOM, Study
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run import engines
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, Order, visible
from spiky_rl.experiments.run.estimate import Speeds, estimated
from spiky_rl.hosts.common.stopping import stoppable

DESIGN = (
    "agents",
    "tasks",
    "seeds",
    "question",
    "budget",
    "num_envs",
    "episodes",
    "conditions",
    "baseline",
    "library",
    "tuning",
)
"""Keys of a study that are flags as well."""
FEW = 4096
"""Cells at once, and processes of one, at most."""


def parser() -> argparse.ArgumentParser:
    """The command line. Flags that say what is compared go over the study file's keys."""
    found = common.Parser(
        prog="compare.py",
        description="Compare agents on tasks over seeds; run it again to go on, or with more seeds to add them.",
    )
    found.add_argument(
        "study", nargs="?", metavar="STUDY.yaml", help="a study file; flags change what it says"
    )
    found.add_argument("--agents", help="file stems of agents/ or YAML files, as A,B,C")
    found.add_argument("--tasks", help="gym ids or file stems of tasks/, as A,B")
    found.add_argument("--seeds", help="as 0-9 or 0,1,2; default: 0-4")
    found.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="agent.key=v,v",
        help="compare values of an option; repeatable",
    )
    found.add_argument(
        "--budget",
        metavar="KIND=AMOUNT",
        help="of every training: env_steps, wall (seconds) or synops (effective synaptic operations);"
        " default: the tasks' own numbers of iterations",
    )
    found.add_argument("--question", help="what the study asks")
    found.add_argument(
        "--baseline",
        help="the agent to compare with and to normalise by; default: mlp_ppo if there, else the first",
    )
    found.add_argument(
        "--num_envs", type=up_to(study.MOST["num_envs"]), help="parallel environments of a training"
    )
    found.add_argument(
        "--episodes", type=up_to(study.MOST["episodes"]), help="of an evaluation, per condition; default: 64"
    )
    found.add_argument(
        "--conditions", help="what policies are evaluated under, as A,B, or all, or stress; default: all"
    )
    found.add_argument(
        "--tuning",
        help="what tune.py wrote, or its folder: every agent has the values that it found for each task",
    )
    found.add_argument("--rl_library", dest="library", choices=common.LIBRARIES, help="host library")
    found.add_argument(
        "--out", type=Path, help="the study's folder; default: beside a study.yaml, else in logs/compare"
    )
    add_cell_arguments(found)
    found.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="show the plan and its time, run nothing"
    )
    found.add_argument("--verbose", action="store_true", help="show the libraries' own messages")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="agent.x.y=v or env.x.y=v, for every cell"
    )
    return found


def add_cell_arguments(found: argparse.ArgumentParser) -> None:
    """Where and how cells run."""
    found.add_argument("--parallel", type=up_to(FEW), default=1, help="cells at once")
    found.add_argument(
        "--device",
        help="cpu, cuda or cuda:N; default: the GPU if there is one; a --dry-run may plan for a GPU elsewhere",
    )
    found.add_argument(
        "--assets",
        default="auto",
        choices=["auto", "local", "nucleus"],
        help="where robots come from, of all cells",
    )
    found.add_argument("--engine", default="local", choices=["local", "ray"], help="what runs the cells")
    found.add_argument(
        "--ray_address", help="of a Ray cluster (auto, or host:port); default: one on this machine"
    )
    found.add_argument(
        "--cell_cpus", type=share, help="with ray: cores of a cell; default: one for each of its processes"
    )
    found.add_argument(
        "--cell_gpus", type=share, help="with ray: GPUs of a cell; default: one per process on cuda, else 0"
    )
    found.add_argument(
        "--distributed",
        type=up_to(FEW),
        default=1,
        metavar="N",
        help="processes of a training, one per GPU or core, through torchrun",
    )


def compare(argv: list[str]) -> int:
    """Plan, run what is not finished, report."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    asked = read_study(args)
    require_report()
    out = (args.out or default_folder(args, asked)).absolute()
    files.require_writable("--out", out)
    asked = study.with_baseline(folders.prepare(out, asked))
    study.check(asked)
    if args.distributed > 1 and asked.library != "rsl_rl":
        raise UserError("--distributed: only with --rl_library rsl_rl")
    engine = engines.create(args.engine, **ray_options(args)) if not args.dry_run else None
    gpus = () if args.dry_run else own_gpus(args)
    args.assets, robots = settled(args.assets)
    resolve = Resolver(asked, args)
    found = grid.cells(asked, resolve, args.device, args.assets, args.distributed)
    speeds = Speeds().read([out, *recorded()])
    found, sources = estimated(found, asked, speeds, resolve.tasks)
    finished = {c.name for c in found if folders.is_finished(out / "cells" / c.name, c.hash)}
    print_plan(asked, found, finished, sources, args.parallel, out, args.dry_run)
    resolve.warn_of_unequal_steps(asked, found)
    if engine is None:
        return 0
    for digest, spec in resolve.specs.items():
        text = yaml.safe_dump(spec, sort_keys=False)
        files.write(
            out / "specs" / f"{digest}.yaml",
            lambda beside, text=text: beside.write_text(text, encoding="utf-8"),
        )
    folders.write_plan(out, asked, found, robots)
    if asked.tuning:
        files.write(out / TUNED, lambda beside: shutil.copyfile(read_tuned(Path(asked.tuning)).path, beside))
    states = dict.fromkeys(finished, DONE)
    left = [cell for cell in found if cell.name not in finished]
    with (
        stoppable("stopping; running cells keep a checkpoint") as stopped,
        Table(out, found, finished, args.parallel) as table,
    ):
        states |= engine.run(Order(left, out, args.parallel, table, stopped, gpus))
        interrupted = stopped()
    print_end(out, states, interrupted)
    print_report(out)
    if interrupted:
        return stopped.exit_code
    return 1 if BROKEN in states.values() else 0


def read_study(args: argparse.Namespace) -> Study:
    """The study file, under what the flags say. Raises UserError."""
    if args.study is not None and "=" in args.study:  # no study file, but an override
        args.overrides.insert(0, args.study)
        args.study = None
    flags = {key: getattr(args, key) for key in DESIGN if getattr(args, key) is not None}
    if args.vary:
        flags["vary"] = study.parse_vary(args.vary)
    common.split_overrides(args.overrides)
    if args.study is not None:
        asked = study.read(Path(args.study), flags, args.overrides)
        common.split_overrides(asked.overrides)
        return asked
    for key in ("agents", "tasks"):
        if not flags.get(key):
            raise UserError(f"--{key}: name at least one, or a study file; there would be no cell")
    return study.build("study", {**flags, "overrides": args.overrides})


def default_folder(args: argparse.Namespace, asked: Study) -> Path:
    """Where a study lies that was not told where: beside its file, or below logs/compare by name or content."""
    if args.study is not None:
        path = Path(args.study)
        return path.parent if path.stem == "study" else Path("logs/compare") / path.stem
    design = {key: value for key, value in asked.data().items() if key != "seeds"}
    return (
        Path("logs/compare")
        / f"{'-'.join(Path(a).stem for a in asked.agents)[:40]}-{grid.digest(design)[:6]}"
    )


def settled(assets: str) -> tuple[str, str]:
    """Where all cells take their robots from, asked once, and which those are, in words.

    ``auto`` remains where the user's environment says it.
    """
    extras.require("isaaclab", "isaaclab")
    from spiky_rl.hosts.isaaclab.assets import configure_assets

    robots = configure_assets(assets)
    source = robots.partition(" ")[0]
    return source if source in ("local", "nucleus") else "auto", robots


def is_elsewhere(device: str | None) -> bool:
    """Whether a device is a GPU that this machine does not have."""
    import torch

    return bool(device) and str(device).startswith("cuda") and not torch.cuda.is_available()


def share(text: str) -> float:
    """A finite number of 0 or more: what a cell takes of something."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, got {text}")
    return value


def ray_options(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's options."""
    if args.engine != "ray":
        return {}
    from spiky_rl.hosts.common.devices import check_device

    on_cuda = check_device(args.device).startswith("cuda")
    cpus, gpus = cell_share(on_cuda, args.distributed, args.cell_cpus, args.cell_gpus)
    return {"address": args.ray_address, "cpus": cpus, "gpus": gpus}


def cell_share(
    on_cuda: bool, processes: int, cpus: float | None = None, gpus: float | None = None
) -> tuple[float, float]:
    """Cores and GPUs of a cell: one for each of its processes, unless others are given.

    Raises UserError where its processes would have less than a GPU each.
    """
    cpus = float(processes) if cpus is None else cpus
    gpus = float(processes if on_cuda else 0) if gpus is None else gpus
    if on_cuda and 1 < processes > gpus:
        raise UserError(
            f"--cell_gpus {gpus:g}: --distributed {processes} takes a GPU for each process; give {processes}"
        )
    return cpus, gpus


def own_gpus(args: argparse.Namespace) -> tuple[str, ...]:
    """This machine's GPUs, for its engine to spread cells over; none where the device is the CPU or one that was named.

    Raises UserError where there are fewer than a cell has processes.
    """
    import torch

    if args.engine != "local" or args.device not in (None, "cuda") or not torch.cuda.is_available():
        return ()
    gpus = visible(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if args.distributed > len(gpus):
        raise UserError(f"--distributed {args.distributed}: there are {len(gpus)} GPUs here")
    if args.parallel > 1 and len(gpus) > 1:
        log.info("cells are spread over %d GPUs: %s", len(gpus), ", ".join(gpus))
    return gpus


def recorded() -> list[Path]:
    """Studies that came with the project: their speeds are a first guess."""
    return sorted(path for path in (PACKAGE.parent / "studies").glob("*") if (path / "cells").is_dir())


class Resolver:
    """Tells what a combination of task, agent and variation is, by merging it as ``train.py`` does, once."""

    def __init__(self, asked: Study, args: argparse.Namespace) -> None:
        self.asked, self.args = asked, args
        self.elsewhere = args.dry_run and is_elsewhere(args.device)
        """Whether this is the plan for a machine with a GPU, made on one without."""
        self.specs: dict[str, dict[str, Any]] = {}
        """Merged specifications by hash."""
        self.tasks: dict[str, TaskSpec] = {}
        """Task files by label."""
        self.known: dict[tuple[str, str], Plan] = {}

    def __call__(self, task: str, agent: str, variant: Mapping[str, Any]) -> Plan:
        from spiky_rl.cli import train
        from spiky_rl.hosts.isaaclab.conditions import chosen, require
        from spiky_rl.hosts.isaaclab.mujoco import choice

        if agent == RANDOM:
            return self(task, self.asked.agents[0], self.asked.variants(self.asked.agents[0])[0])
        varied = tuple(grid.assignment(key, value) for key, value in variant.items())
        key = (task, " ".join((agent, *varied)))
        if key not in self.known:
            number = self.asked.num_envs
            if self.elsewhere and number is None and (known := load_task(task)) is not None:
                number = known.num_envs["cuda"]
            plan = common.prepare(
                train.parser().namespace(
                    task=task,
                    agent=agent,
                    rl_library=self.asked.library,
                    num_envs=number,
                    device="cpu" if self.elsewhere else self.args.device,
                    assets=self.args.assets,
                    tuning=Path(self.asked.tuning) if self.asked.tuning else None,
                    overrides=[*self.asked.overrides, *varied],
                )
            )
            train.require_whole_minibatches(plan)
            subject = common.subject_of(plan)
            require(chosen(",".join(self.asked.conditions), subject), subject)
            self.specs[plan.spec.digest] = plan.spec.tree()
            if plan.task_spec is not None:
                self.tasks[plan.task] = plan.task_spec
            if self.elsewhere:
                plan.device = self.args.device
                plan.physics = choice.WARP if plan.physics == choice.NATIVE else plan.physics
            self.known[key] = plan
        return self.known[key]

    def warn_of_unequal_steps(self, asked: Study, cells: Sequence[Cell]) -> None:
        """Say where agents train for different numbers of environment steps: such scores are not to be compared."""
        for task in dict.fromkeys(cell.task for cell in cells):
            steps = {c.env_steps for c in cells if c.task == task and c.is_trained}
            if asked.budget is None and len(steps) > 1:
                log.warning(
                    "%s: agents train for different numbers of steps; pass --budget env_steps=N", task
                )


def main() -> int:
    """Entry point of ``scripts/compare.py``."""
    return common.run(compare)
