"""``spiky bench latency``: time of one action of one robot, for trained policies and for their exports.

The observations are those of one episode. Exports and agents take turns, one control step at a time, in one process on one thread, each
with its own state, so that all run under the same load. Then each policy in C acts in a loop of its own, ``loop.c``, as on a robot.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import CHECKPOINT_FLAGS, parse_settings, positive_int
from spiky_rl.config import files, registry
from spiky_rl.config.options import UserError
from spiky_rl.deploy import _calibration
from spiky_rl.run.command import start_simulation
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunPlan, RunRequest

LIVE = "live"
"""The policy itself, on the backend that ``auto`` chooses."""
WARM_UP = 50
"""Control steps before the measurement."""
LOOP = Path(__file__).with_name("loop.c")
IN_LOOP = "{}, in a loop"
"""Form of a target in C that acts in a loop of its own."""
type Times = dict[tuple[str, str], list[int]]
"""Nanoseconds of every control step by agent and form."""


def build_parser() -> common.Parser:
    """Return the parser of the command line."""
    # fields of RunRequest that are not flags of this command
    without = (*CHECKPOINT_FLAGS["without"], "agent", "video", "video_length")
    about = "Time one action of one robot, of trained policies and of their exports."
    flags = {**CHECKPOINT_FLAGS, "without": without}
    command_line = common.Parser("bench latency", about, RunRequest, num_envs=1, device="cpu", **flags)
    command_line.add_argument(
        "--agents",
        default="lif_ppo,mlp_ppo",
        help="agents, separated by commas; their latest checkpoints are timed",
    )
    command_line.add_argument(
        "--steps", type=positive_int, default=2000, help="number of timed control steps"
    )
    command_line.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    return command_line


def bench(argv: Sequence[str]) -> int:
    """Run the benchmark of the command line ``argv``; return 0."""
    args = build_parser().parse(argv)
    if args.json:
        files.require_file("--json", args.json, (".json",))
    plans = []

    from spiky_rl.run.checkpoint import find_checkpoint
    from spiky_rl.run.simulate import load_inference_policy, open_env

    for agent in args.agents.split(","):
        plan = make_plan(resolve_pretrained(parse_settings(RunRequest, args, agent=agent.strip())))
        plans.append((plan, find_checkpoint(plan)))
    require_same_observations([plan for plan, _ in plans])
    torch.set_num_threads(1)

    first = plans[0][0]
    with start_simulation(open_env(first)) as env, tempfile.TemporaryDirectory() as folder:
        contenders: dict[tuple[str, str], Callable[[np.ndarray], Any]] = {}
        sources: dict[tuple[str, str], Path] = {}
        policies = []
        for plan, checkpoint in plans:
            policies.append(load_inference_policy(plan, env, checkpoint)[0].alg.get_policy())
            with ProgressBar("recording", plan.agent) as report_progress:
                rollout = _calibration.record_rollout(policies[-1], env, report_progress)
            contenders |= build_contenders(plan, policies[-1], Path(folder) / plan.agent, rollout, sources)
        observations = record_observations(env, policies[0])
        times = race(contenders, observations, args.steps)
        for (agent, name), path in sources.items():
            times[agent, IN_LOOP.format(name)] = time_loop(path, observations, args.steps)
    rows = print_table(times)
    if args.json:
        files.write_json(args.json, {"task": first.task, "steps": args.steps, "rows": rows})
    return 0


def require_same_observations(plans: Sequence[RunPlan]) -> None:
    """Raise UserError unless the agents observe equally many control steps, since one environment serves all."""
    histories = {plan.agent: plan.spec.runner.get("history", 1) for plan in plans}
    if len(set(histories.values())) > 1:
        given = ", ".join(f"{agent} has agent.history={value}" for agent, value in histories.items())
        raise UserError(f"--agents: {given}; allowed: agents with the same history")


def build_contenders(
    plan: RunPlan,
    policy: Any,
    folder: Path,
    rollout: _calibration.CalibrationRollout,
    sources: dict[tuple[str, str], Path],
) -> dict[tuple[str, str], Callable[[np.ndarray], Any]]:
    """Return functions from an observation [1, O] to an action, by agent and form: the policy itself and each export that it allows.

    The files in C are added to ``sources``.
    """
    from tensordict import TensorDict

    agent = plan.agent
    policy.reset()
    groups = policy.obs_groups

    def live(x: np.ndarray) -> Any:
        with torch.inference_mode():
            return policy(TensorDict({groups[0]: torch.from_numpy(x)}, batch_size=[1]))

    contenders: dict[tuple[str, str], Callable[[np.ndarray], Any]] = {(agent, LIVE): live}
    for name in registry.list_names("targets"):
        target = registry.configure("targets", name, "targets").build()
        try:
            target.check_network(plan.spec.to_dict())
        except registry.UserError as error:
            common.log.info("%s cannot be exported to %s: %s", agent, name, error)
            continue
        target.calibrate(rollout)
        path = target.write(policy, folder)
        if target.is_c:
            sources[agent, name] = path
        session = target.open_session(path)
        if session is not None:
            contenders[agent, name] = make_stateful(session, policy)
    return contenders


def make_stateful(session: Any, policy: Any) -> Callable[[np.ndarray], Any]:
    """Return a function that runs a ``session`` and passes the state that a call returns to the next call."""
    from spiky_rl.deploy._verification import get_flat_state

    state = get_flat_state(policy)

    def step(x: np.ndarray) -> Any:
        returned = session(x, state)
        if len(returned) > 1:
            state[:] = returned[1:]
        return returned[0]

    return step


def record_observations(env: Any, policy: Any) -> list[np.ndarray]:
    """Return the observations [1, O] of the first robot in one episode."""
    env.reset()
    policy.reset()
    observations = []
    with torch.inference_mode(), ProgressBar("recording", "an episode") as report_progress:
        while True:
            obs = env.get_observations()
            x = torch.cat([obs[group] for group in policy.obs_groups], dim=-1)
            observations.append(x[:1].numpy().copy())
            _, _, dones, _ = env.step(policy(obs))
            if dones[0]:
                return observations
            report_progress(len(observations) / env.max_episode_length)


def race(
    contenders: dict[tuple[str, str], Callable[[np.ndarray], Any]], observations: list[np.ndarray], steps: int
) -> Times:
    """Time all contenders in turns, one step each at a time."""
    times: Times = {key: [] for key in contenders}
    for i in range(WARM_UP + steps):
        x = observations[i % len(observations)]
        for key, step in contenders.items():
            start = time.perf_counter_ns()
            step(x)
            times[key].append(time.perf_counter_ns() - start)
    return {key: spent[WARM_UP:] for key, spent in times.items()}


def time_loop(path: Path, observations: list[np.ndarray], steps: int) -> list[int]:
    """Return the nanoseconds of every action of ``path``, a policy.c, in a C program that does nothing else."""
    from spiky_rl.deploy.c import FLAGS, find_compiler, run_compiler

    program, recorded = path.with_name("loop"), path.with_name("observations.bin")
    np.concatenate(observations).astype(np.float32).tofile(recorded)
    compiler = [*find_compiler(), "-std=c99", *FLAGS, f"-I{path.parent}"]
    run_compiler([*compiler, "-o", str(program), str(LOOP), str(path), "-lm"], f"{LOOP}: compiling")
    line = [str(program), str(recorded), str(WARM_UP + steps)]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return [int(spent) for spent in printed.split()][WARM_UP:]


def print_table(times: Times) -> list[dict[str, Any]]:
    """Print a line for each contender, and return its row."""
    rows = []
    print(f"{'agent':<22}{'form':<20}{'best, us':>12}{'median, us':>12}{'99 %, us':>12}")
    for (agent, form), spent in times.items():
        best, median, high = np.percentile(np.array(spent) / 1e3, (0, 50, 99))
        rows.append(
            {"agent": agent, "form": form, "best_us": best, "median_us": median, "percentile_99_us": high}
        )
        print(f"{agent:<22}{form:<20}{best:>12.1f}{median:>12.1f}{high:>12.1f}")
    return rows
