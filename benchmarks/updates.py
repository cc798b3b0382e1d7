"""``spiky bench updates``: time of one gradient step of PPO and TD3, with spikes and with an MLP of the same widths.

A step is the learner's own: sampling, losses, both networks forward and backward, clipping and the optimiser. PPO's update has one epoch of
one minibatch; the environment only fills the rollout or the replay buffer, and is not timed. Agents take turns, on one thread with process
time, so that other load slows all alike.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import compute_median_and_spread
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int
from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.kernels import stack_operator

if TYPE_CHECKING:
    from spiky_rl.run.run_plan import RunRequest

AGENTS = {
    ("PPO", "rsl_rl"): ("mlp_matched_ppo", "lif_ppo"),
    ("PPO", "skrl"): ("mlp_matched_ppo", "lif_ppo"),
    ("TD3", "skrl"): ("mlp_td3", "lif_td3"),
}
"""MLP and spiking agent by algorithm and library."""
MIN_MEASUREMENT_S = 0.05
"""Minimum duration of one measurement in seconds."""
MAX_ENVS = 1024


@dataclass
class Row:
    """One agent at one size of minibatch."""

    algorithm: str
    library: str
    agent: str
    minibatch: int
    ms: float
    """Median over the rounds."""
    spread: float
    """Interquartile range over median."""
    ratio: float
    """This time over that of the MLP."""


def build_parser() -> common.Parser:
    """The command line."""
    command_line = common.Parser(
        "bench updates",
        description="Time gradient steps of PPO and TD3 with a spiking actor and with an MLP of its widths.",
    )
    command_line.add_argument(
        "--task", default="HalfCheetah-v5", help="a Gymnasium task with continuous actions"
    )
    command_line.add_argument(
        "--minibatch",
        type=positive_int,
        nargs="+",
        default=[64, 256, 1024, 24576],
        metavar="N",
        help="samples of a gradient step",
    )
    command_line.add_argument(
        "--layers", type=positive_int, nargs="+", default=[400, 200], metavar="N", help="hidden widths"
    )
    command_line.add_argument("--rounds", type=positive_int, default=9, help="interleaved rounds")
    command_line.add_argument("--json", type=Path, metavar="FILE", help="also write all rows there")
    return command_line


def bench(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    args = build_parser().parse_args(argv)
    if args.json:
        files.require_file("--json", args.json, (".json",))
    for size in args.minibatch:
        split_minibatch(size)
    common.setup_logging(False)
    common.log.setLevel(logging.WARNING)
    check_task(args)
    torch.set_num_threads(1)
    stack_operator.use_operator()  # as after the first minutes of a training
    print(f"{args.task}, hidden layers {'-'.join(map(str, args.layers))}, one thread, {args.rounds} rounds\n")
    print(f"{'':<16}{'minibatch':>10}{'MLP, ms':>12}{'spiking, ms':>14}{'times the MLP':>16}")
    rows: list[Row] = []
    for (algorithm, library), agents in AGENTS.items():
        for size in args.minibatch:
            times = measure(args, algorithm, library, agents, size)
            middles = [compute_median_and_spread(values) for values in times]
            for agent, (ms, spread) in zip(agents, middles, strict=True):
                rows.append(Row(algorithm, library, agent, size, ms, spread / ms, ms / middles[0][0]))
            (ann, _), (spiking, _) = middles
            print(
                f"{algorithm + ', ' + library:<16}{size:>10}{ann:>12.2f}{spiking:>14.2f}{rows[-1].ratio:>16.2f}",
                flush=True,
            )
            if args.json:
                files.write_json(args.json, [asdict(row) for row in rows])
    return 0


def check_task(args: Any) -> None:
    """Raise UserError unless all agents can train on the task."""
    from spiky_rl.hosts import find_host
    from spiky_rl.run.prepare import make_plan

    if (host := find_host(args.task, "--task")).name != "gymnasium":
        raise UserError(f"--task {args.task}: a task of {host.title}; allowed: tasks of Gymnasium")
    for (algorithm, library), agents in AGENTS.items():
        for agent in agents:
            make_plan(make_request(args, algorithm, library, agent, args.minibatch[0]))


def split_minibatch(size: int) -> tuple[int, int]:
    """Return environments and control steps of a rollout of ``size`` samples. Raises UserError if they have no product of that size."""
    envs = 1
    while envs * 16 <= size and envs < MAX_ENVS:
        envs *= 2
    if size % envs:
        raise UserError(f"--minibatch: {size} given; allowed: multiples of {envs}")
    return envs, size // envs


def measure(args: Any, algorithm: str, library: str, agents: Sequence[str], size: int) -> list[list[float]]:
    """Return the milliseconds of a gradient step in every round, by agent."""
    with contextlib.ExitStack() as stack:
        steps = [stack.enter_context(open_step(args, algorithm, library, agent, size)) for agent in agents]
        counts: list[int] = []
        times: list[list[float]] = [[] for _ in steps]
        for step in steps:
            count = 2  # and its doubles: TD3 trains the actor at every second step
            while time_calls(step, count) < MIN_MEASUREMENT_S:
                count *= 2
            counts.append(count)
        for _ in range(args.rounds):
            gc.collect()
            for step, count, values in zip(steps, counts, times, strict=True):
                values.append(time_calls(step, count) / count * 1e3)
    return times


def time_calls(step: Callable[[], Any], count: int) -> float:
    """Return the process time of ``count`` calls in seconds, after one call that warms the caches."""
    step()
    start = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - start


def make_request(args: Any, algorithm: str, library: str, agent: str, size: int) -> RunRequest:
    """Return the request of a training whose update is one gradient step of ``size`` samples."""
    from spiky_rl.run.run_plan import RunRequest

    envs, steps = 8, 128
    if algorithm == "PPO":
        envs, steps = split_minibatch(size)
    widths = "[" + ",".join(map(str, args.layers)) + "]"
    actor = "network.layers" if agent.startswith("lif") else "actor.hidden_dims"
    settings = {actor: widths, "critic.hidden_dims": widths, "num_steps_per_env": steps}
    if algorithm == "PPO":
        settings |= {"algorithm.num_learning_epochs": 1, "algorithm.num_mini_batches": 1}
    else:
        settings |= {"algorithm.batch_size": size, "algorithm.learning_starts": envs * steps + 1}
    overrides = tuple(f"agent.{key}={value}" for key, value in settings.items())
    return RunRequest(
        task=args.task,
        agent=agent,
        library=library,
        num_envs=envs,
        seed=1,
        device="cpu",
        overrides=overrides,
    )


@contextlib.contextmanager
def open_step(args: Any, algorithm: str, library: str, agent: str, size: int) -> Iterator[Callable[[], Any]]:
    """Open an environment, fill the agent's buffer, and return a function that makes one gradient step."""
    from spiky_rl.run.prepare import make_plan
    from spiky_rl.run.simulate import open_env

    plan = make_plan(make_request(args, algorithm, library, agent, size))
    with open_env(plan) as env:
        torch.manual_seed(1)
        runner = plan.learner.get_runner_class(plan.spec.algorithm)(
            env, plan.config, None, "cpu", identity=plan.identity
        )
        with contextlib.redirect_stdout(None):
            runner.learn(1)
        if library == "rsl_rl":
            yield runner.alg.update
        else:
            runner.alg.enable_models_training_mode(True)
            yield lambda: runner.alg.update(timestep=0, timesteps=1)
