"""``spiky bench physics``: times of Isaac Lab's MuJoCo-Warp and of native MuJoCo, by task, environments and threads.

Each physics backend with each number of threads has its own process, because a process holds one simulation. They take turns, a slice of
control steps each, so that other load slows all alike. If all have one thread, process time counts, else wall time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int
from spiky_rl.config import files
from spiky_rl.config.errors import require_module
from spiky_rl.config.options import UserError, check_number

TASKS = {"Isaac-Cartpole": 4096, "Isaac-Ant": 1024, "Isaac-Humanoid": 512}
"""Default tasks with their numbers of environments."""
WARM_UP = 10
"""Control steps before the first slice."""
SEED = 1


def build_parser() -> Any:
    """The command line."""
    from spiky_rl.hosts.isaaclab.physics_selection import NATIVE, WARP

    command_line = common.Parser(
        "bench physics",
        description="Time a task's environment, with its managers and random actions, on both physics backends.",
    )
    command_line.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="gym ids")
    command_line.add_argument(
        "--num_envs", type=positive_int, nargs="+", metavar="N", help="default: by task"
    )
    command_line.add_argument(
        "--threads", type=positive_int, nargs="+", default=[1], metavar="N", help="CPU threads"
    )
    command_line.add_argument(
        "--physics", nargs="+", choices=[WARP, NATIVE], default=[WARP, NATIVE], help="physics backends"
    )
    command_line.add_argument("--rounds", type=positive_int, default=5, help="slices of each")
    command_line.add_argument("--slice", type=positive_int, default=30, help="control steps in a slice")
    command_line.add_argument(
        "--assets", default="auto", choices=["auto", "local", "nucleus"], help="the robots' source"
    )
    command_line.add_argument("--json", type=Path, metavar="FILE", help="also write all rows there")
    return command_line


def bench(argv: list[str]) -> int:
    """Run the benchmark."""
    if argv[:1] == ["serve"]:
        return serve(json.loads(argv[1]))
    args = build_parser().parse_args(argv)
    require_module("isaaclab", "isaaclab")
    common.setup_logging(False)
    for threads in args.threads:
        check_number("--threads", threads, int, low=1, high=len(os.sched_getaffinity(0)))
    if args.json:
        files.require_file("--json", args.json, (".json",))
    from spiky_rl.hosts.isaaclab.assets import configure_assets

    robots = configure_assets(args.assets)
    from spiky_rl.hosts.isaaclab.environment import resolve_task

    tasks = [resolve_task(task) for task in args.tasks]
    print(f"robots: {robots}; {args.rounds} rounds of {args.slice} control steps, random actions\n")
    print(
        f"{'task':<22}{'envs':>6}{'threads':>8}  {'physics':<14}{'env-steps/s':>12}{'physics alone':>15}{'of all':>8}{'ratio':>8}"
    )
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for count in args.num_envs or [TASKS.get(task, 512)]:
            rows += race(task, count, args)
            if args.json:
                files.write_json(args.json, rows)
    return 0


def _summarize(
    times: Sequence[Mapping[str, float]], first: Sequence[Mapping[str, float]], clock: str, steps: int
) -> dict[str, float]:
    """Return steps per second with and without the environment, the physics' share, and the ratio to the ``first`` racer.

    ``times`` are the seconds of each slice of ``steps``, by the ``clock`` wall or cpu; all results are medians.
    """
    total = statistics.median(slice_[clock] for slice_ in times)
    alone = statistics.median(slice_[f"physics_{clock}"] for slice_ in times)
    ratio = statistics.median(a[clock] / b[clock] for a, b in zip(first, times, strict=True))
    return {
        "env_steps_per_second": steps / total,
        "physics_alone": steps / alone,
        "physics_share": alone / total,
        "ratio": ratio,
    }


def race(task: str, count: int, args: Any) -> list[dict[str, Any]]:
    """Time all physics backends and numbers of threads in turns; print a line and return a row for each, relative to the first."""
    request = {"task": task, "num_envs": count, "assets": args.assets}
    entries = [(threads, name) for threads in args.threads for name in args.physics]
    racers = [Racer({**request, "threads": threads, "physics": name}) for threads, name in entries]
    slices: list[list[dict[str, float]]] = [[] for _ in racers]
    try:
        for _ in range(args.rounds):
            for racer, times in zip(racers, slices, strict=True):
                times.append(racer.run(args.slice))
    finally:
        for racer in racers:
            racer.close()
    clock = "wall" if max(args.threads) > 1 else "cpu"
    steps = count * args.slice
    rows: list[dict[str, Any]] = []
    for (threads, name), times in zip(entries, slices, strict=True):
        measures = _summarize(times, slices[0], clock, steps)
        row = {**request, "threads": threads, "physics": name, "clock": clock, **measures}
        print(
            f"{task:<22}{count:>6,}{threads:>8}  {name:<14}{row['env_steps_per_second']:>12,.0f}"
            f"{row['physics_alone']:>15,.0f}{row['physics_share']:>8.0%}{row['ratio']:>8.2f}",
            flush=True,
        )
        rows.append(row)
    return rows


class Racer:
    """A process with one simulation that runs slices of it on request."""

    def __init__(self, request: dict[str, Any]) -> None:
        line = [sys.executable, "-m", "benchmarks.physics", "serve", json.dumps(request)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(request["threads"]), "PYTHONPATH": path}
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.read_answer()

    def read_answer(self) -> dict[str, float]:
        """Return the times that the process prints after a slice. Raises UserError if it has ended."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith("{"):
                return json.loads(text)
        raise UserError(f"spiky bench physics: a simulation ended with exit code {self.process.wait()}")

    def run(self, steps: int) -> dict[str, float]:
        """Let the process run a slice of ``steps`` control steps; return its times."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended; read_answer reports it
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return self.read_answer()

    def close(self) -> None:
        """End the process and wait for its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def serve(request: dict[str, Any]) -> int:
    """Run a simulation in a racer's process: a slice for every number of steps that it reads from stdin."""
    import torch

    from spiky_rl.hosts.isaaclab.assets import configure_assets

    common.setup_logging(False)
    torch.set_num_threads(request["threads"])
    configure_assets(request["assets"])
    from spiky_rl.hosts.isaaclab import physics_selection as selection
    from spiky_rl.hosts.base import SimulationOptions
    from spiky_rl.hosts.isaaclab.environment import load_configs, open_simulation

    physics, overrides = selection.split_physics_override([f"physics={request['physics']}"])
    env_cfg, _ = load_configs(request["task"], None, overrides)
    selection.apply_physics(env_cfg, physics, "cpu")
    options = SimulationOptions(seed=SEED)
    launched = open_simulation(env_cfg, request["task"], "cpu", request["num_envs"], options)
    with launched as env:
        env.reset(seed=SEED)
        clocks = Clocks(env.unwrapped.sim.physics_manager._solver)  # pylint: disable=protected-access
        shape, generator = env.action_space.shape, torch.Generator().manual_seed(SEED)
        for steps in itertools.chain([WARM_UP], map(int, iter(sys.stdin.readline, ""))):
            clocks.begin()
            for _ in range(steps):
                env.step(2.0 * torch.rand(shape, generator=generator) - 1.0)
            print(json.dumps(clocks.read()), flush=True)
    return 0


class Clocks:
    """CPU and wall seconds of a slice, in total and in the solver's own steps, whose method it replaces to time its calls."""

    def __init__(self, solver: Any) -> None:
        # run_substeps, which only the native solver has, makes all substeps in one call
        name = "run_substeps" if hasattr(solver, "run_substeps") else "step"
        self.solver_step = getattr(solver, name)
        setattr(solver, name, self)
        self.begin()

    def now(self) -> tuple[float, float]:
        """Return the present CPU and wall seconds."""
        return time.process_time(), time.perf_counter()

    def begin(self) -> None:
        """Begin a slice."""
        self.physics_cpu = self.physics_wall = 0.0
        self.start_cpu, self.start_wall = self.now()

    def __call__(self, *arguments: Any) -> None:
        """Make the solver's step and add its time."""
        start_cpu, start_wall = self.now()
        self.solver_step(*arguments)
        cpu, wall = self.now()
        self.physics_cpu += cpu - start_cpu
        self.physics_wall += wall - start_wall

    def read(self) -> dict[str, float]:
        """Return the seconds since the slice began."""
        cpu, wall = self.now()
        return {
            "cpu": cpu - self.start_cpu,
            "wall": wall - self.start_wall,
            "physics_cpu": self.physics_cpu,
            "physics_wall": self.physics_wall,
        }


if __name__ == "__main__":
    raise SystemExit(common.run(bench))
