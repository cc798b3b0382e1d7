"""``evaluate.py``: measure the final policy, undisturbed and under conditions, in one simulation.

Every condition has as many environments as there are episodes, and gets one whole episode from each. Episode i of every
condition begins in the same state, and random actions are the same in all of them: what differs is the condition.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.checkpoint import find_checkpoint
from spiky_rl.cli.common import Plan, log
from spiky_rl.cli.display import Bar
from spiky_rl.config import files, registry, sizes
from spiky_rl.config.options import UserError
from spiky_rl.hosts.common.devices import memory_of
from spiky_rl.hosts.common.stopping import started

RANDOM = "random"
"""In the place of a checkpoint: actions of N(0, 1), PPO's initial noise."""


def parser() -> common.Parser:
    """The command line."""
    from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, ROBUSTNESS

    found = common.Parser(
        prog="evaluate.py", description="Measure a trained policy, undisturbed and under other conditions."
    )
    common.add_run_arguments(found)
    found.set_defaults(checkpoint="latest")
    found.add_argument("--episodes", type=common.positive, default=64, help="episodes per condition")
    found.add_argument(
        "--conditions",
        default="all",
        help=f"comma-separated, of {', '.join(CONDITIONS)}; or all: {', '.join(ROBUSTNESS)}; or stress: all others that task and"
        " agent can have. nominal is always measured",
    )
    found.add_argument(
        "--quantize",
        choices=["int8"],
        help="measure the network that `export.py --to c-int8` writes: weights of 8 bits, states in integers",
    )
    found.add_argument(
        "--out",
        type=Path,
        help="result file; default: evaluation.json (with --quantize: evaluation_int8.json) beside the checkpoint",
    )
    return found


def evaluate(argv: list[str]) -> int:
    """Evaluate as the arguments say; everything that can be refused is refused before a simulator starts."""
    return begin(parser().parse_intermixed_args(argv))


def begin(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say."""
    common.setup_logging(args.verbose)
    check(args)

    from spiky_rl.hosts.isaaclab.conditions import chosen, require

    chosen(args.conditions)
    plan = common.prepare(args)
    subject = common.subject_of(plan)
    names = chosen(args.conditions, subject)
    if args.quantize is not None:
        names = for_integers(args, plan, names)
    require(names, subject)
    checkpoint = None if args.checkpoint == RANDOM else find_checkpoint(args, plan)
    file = "evaluation.json" if args.quantize is None else f"evaluation_{args.quantize}.json"
    out = args.out if checkpoint is None or args.out else checkpoint.parent / file
    adapts = checkpoint is not None and is_plastic(plan)
    plan.num_envs = len(names) * args.episodes * (1 + adapts)
    rows = f"--episodes {args.episodes} under {len(names)} conditions"
    sizes.require(sizes.models(plan.spec, rows, plan.num_envs), memory_of(plan.device))
    log.info(
        "%s on %s, %d conditions x %d episodes, %s",
        plan.agent,
        plan.task,
        len(names),
        args.episodes,
        plan.device,
    )
    log.info("checkpoint: %s", checkpoint or "none: random actions")
    log.info("starting the simulator")
    if adapts:
        log.info("the policy is plastic: measured with its weights as they are, and changing as it acts")
    found, cost = simulate(args, plan, names, checkpoint, adapts)

    from spiky_rl.hosts.common import runs

    result = {
        "version": 1,
        "task": plan.task,
        "agent": plan.agent,
        "library": plan.library,
        "checkpoint": str(checkpoint or RANDOM),
        "quantize": args.quantize,
        "device": plan.device,
        "seed": plan.seed,
        "assets": plan.assets,
        "physics": plan.physics,
        "episodes": args.episodes,
        "conditions": found[0],
        "adapting": found[1] if adapts else None,
        "cost": cost,
        "energy_per_metre": energy_per_metre(cost, found[0]["nominal"]),
        "solved": plan.task_spec.solved if plan.task_spec else None,
        "versions": runs.versions(),
    }
    files.write_json(out, result)
    measure = plan.task_spec.measure if plan.task_spec else ""
    for title, conditions in zip(("", "changing as it acts:"), found, strict=False):
        if title:
            print(title)
        print_table(conditions, measure)
        print_recovery(conditions)
    print(out)
    return 0


def for_integers(args: argparse.Namespace, plan: Plan, names: list[str]) -> list[str]:
    """The conditions that a network in integers can be measured under: it is what it is, and nothing in it is changed.

    Raises UserError where the agent has no such network, or where a condition that is named changes it.
    """
    from spiky_rl.hosts.isaaclab.conditions import CONDITIONS
    from spiky_rl.hosts.isaaclab.conditions.faults import Fault

    registry.configure("targets", f"c_{args.quantize}", "--quantize").build().refuse(plan.spec.network)
    faults = [name for name in names if issubclass(CONDITIONS[name], Fault)]
    if faults and args.conditions != "stress":
        raise UserError(
            f"--quantize {args.quantize}: {faults[0]!r} changes a network in single precision; leave it out of --conditions"
        )
    if faults:
        log.info("--quantize %s leaves out: %s", args.quantize, ", ".join(faults))
    return [name for name in names if name not in faults]


def is_plastic(plan: Plan) -> bool:
    """Whether something in the agent's network changes while it acts."""
    return plan.spec.network is not None and plan.spec.network.parts.get("plasticity") is not None


def energy_per_metre(cost: Mapping[str, Any] | None, nominal: Mapping[str, Any]) -> dict[str, float] | None:
    """What a metre costs undisturbed, in µJ by the name of the prices; None where nothing is known of the cost or the way."""
    from spiky_rl.metrics.energy import per_metre

    distance = nominal["measures"].get("distance")
    if cost is None or distance is None:
        return None
    return per_metre(cost["energy_nj"], nominal["mean_length"], distance)


def check(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together, and for a result file that cannot be written."""
    if args.num_envs is not None:
        raise UserError(
            "--num_envs: there are as many environments as episodes and conditions; use --episodes"
        )
    if args.video:
        raise UserError("--video: evaluate.py films nothing; use play.py")
    if args.quantize is not None and (args.checkpoint == RANDOM or args.rl_library != "rsl_rl"):
        what = "--checkpoint random" if args.checkpoint == RANDOM else f"--rl_library {args.rl_library}"
        raise UserError(f"--quantize {args.quantize}: needs a checkpoint of rsl_rl's, not {what}")
    if args.checkpoint == RANDOM and args.out is None:
        raise UserError("--checkpoint random: there is no run folder to write to; use --out FILE")
    if args.out is not None:
        files.require_file("--out", args.out)


def simulate(
    args: argparse.Namespace, plan: Plan, names: list[str], checkpoint: Path | None, adapts: bool
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The conditions' results by name, where it ``adapts`` in a second table those of the policy that changes as it acts, and
    what an action costs under nominal (None: not known)."""
    import torch

    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv, simulation
    from spiky_rl.hosts.isaaclab.evaluation import Evaluation, make_ready

    make_ready(plan.env_cfg, names)
    launched = simulation(
        plan.env_cfg, task_id=plan.gym_id, device=plan.device, num_envs=plan.num_envs, seed=plan.seed,
        deterministic=args.deterministic,
    )  # fmt: skip
    with started(launched) as gym_env:
        env = TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
        common.settle(plan, gym_env)
        policy = None
        if checkpoint is not None:
            runner = common.runner_of(plan)(env, plan.config, None, plan.device, plan.identity)
            runner.load(str(checkpoint), {"actor": True, "critic": True}, map_location=plan.device)
            policy = runner.get_inference_policy(plan.device)
            if args.quantize is not None:
                policy = quantised(policy, env, args.quantize)
        groups = plan.config["obs_groups"].get("actor") or ["policy"]
        with torch.inference_mode():
            leg = plan.task_spec.leg if plan.task_spec else ""
            evaluation = Evaluation(env, names, args.episodes, groups, plan.seed, leg, adapts)
            with Bar("evaluating", f"{len(names)} conditions x {args.episodes} episodes") as shown:
                return evaluation.run(policy, shown)


def quantised(policy: Any, env: Any, bits: str) -> Any:
    """A policy with its network in integers, calibrated on an episode that it acts in before it is measured."""
    from spiky_rl.deploy._calibration import record

    target = registry.configure("targets", f"c_{bits}", "--quantize").build()
    with Bar("recording", "an episode") as shown:
        target.calibrate(record(policy.model, env, shown))
    return type(policy)(target.reference(policy.model))


def print_table(conditions: Mapping[str, Mapping[str, Any]], measure: str) -> None:
    """A line per condition."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    titles = {"distance": "went [m]", "upright": "up [s]", "velocity_error": "off [m/s]"}
    measure = measure if measure in conditions["nominal"]["measures"] else ""
    table = Table(box=SIMPLE, padding=0)
    table.add_column("condition", no_wrap=True)
    columns = ["return", "share", "steps", *([titles[measure]] if measure else []), "firing", "operations"]
    for title in columns:
        table.add_column(escape(title), justify="right", no_wrap=True)
    nominal = conditions["nominal"]["mean_return"]
    for name, found in conditions.items():
        cells = [f"{found['mean_return']:.2f} ± {found['std_return']:.2f}"]
        # a share of a punishment would rise where the return falls
        cells.append(f"{found['mean_return'] / nominal:.0%}" if nominal > 0.0 else "-")
        cells.append(f"{found['mean_length']:,.0f}")
        cells += [f"{found['measures'][measure]:.2f}"] if measure else []
        cells.append(f"{found['firing_rate']:.1%}" if found["firing_rate"] else "-")
        cells.append(f"{found['operations']:,.0f}" if found["operations"] else "-")
        table.add_row(name, *cells)
    Console().print(table)


def print_recovery(conditions: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for nominal and for everything that happens in mid-episode, if something does."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    found = {name: results["recovery"] for name, results in conditions.items() if results.get("recovery")}
    if not set(found) - {"nominal"}:
        return
    table = Table(box=SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("reward of a control step", no_wrap=True)
    for title in ("episodes", "before", "last third", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in found.items():
        share = "-" if row["share"] is None else f"{row['share']:.0%}"
        table.add_row(name, str(row["episodes"]), f"{row['before']:.4f}", f"{row['after']:.4f}", share)
    Console().print(table)


def main() -> int:
    """Entry point of ``scripts/evaluate.py``."""
    return common.run(evaluate)
