"""``export.py``: write a trained policy for other programs and chips, and prove that it is the policy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.checkpoint import find_checkpoint
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.stopping import started
from spiky_rl.config import registry


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="export.py", description="Write a trained policy for other programs and chips."
    )
    common.add_run_arguments(found)
    found.set_defaults(checkpoint="latest", num_envs=1)
    found.add_argument(
        "--to",
        default="c",
        metavar="TARGETS",
        help=f"one or more of {', '.join(registry.names('targets'))}, with commas",
    )
    found.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the files go; if not given, exported/ in the run's folder",
    )
    return found


def run(argv: list[str]) -> int:
    """Export as the arguments say."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.rl_library != "rsl_rl":
        raise common.UsageError(
            f"export.py: not available with --rl_library {args.rl_library}, only with rsl_rl"
        )
    targets = [name.strip() for name in args.to.split(",")]
    for name in targets:
        registry.check_name("targets", name, "--to")
        registry.configure("targets", name, "--to").build().require()
    plan = common.prepare(args)
    for name in targets:
        registry.configure("targets", name, "--to").build().check(plan.spec.network)

    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv, simulation

    checkpoint = find_checkpoint(args, plan)
    folder = args.out or checkpoint.parent / "exported"
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator, for an episode that proves the files equal")
    launched = simulation(
        plan.env_cfg,
        task_id=plan.gym_id,
        device=plan.device,
        num_envs=plan.num_envs,
        seed=plan.seed,
        deterministic=args.deterministic,
    )
    with started(launched) as gym_env:
        env = TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
        common.settle(plan, gym_env)
        runner = common.runner_of(plan)(env, plan.config, None, plan.device, plan.identity)
        runner.load(str(checkpoint), {"actor": True, "critic": True}, map_location=plan.device)
        runner.get_inference_policy(plan.device)
        written = export(runner.alg.get_policy(), env, folder, targets)
    for path in written:
        print(path)
    return 0


def export(policy: Any, env: Any, folder: Path, targets: Sequence[str]) -> dict[Path, Any]:
    """Write the targets into a folder and prove them; returns the files, each with its agreement."""
    from spiky_rl.deploy._proof import prove

    built = {name: registry.configure("targets", name, "--to").build() for name in targets}
    files = {}
    with Bar("exporting", ", ".join(targets)) as shown:
        for i, target in enumerate(built.values()):
            files[target.write(policy, folder)] = target
            shown((i + 1) / len(built))
    with Bar("comparing exports", "over an episode") as shown:
        return prove(policy, env, files, shown)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``scripts/export.py``."""
    return common.run(run, argv)
