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
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.hosts.common.stopping import started


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
        help=f"one or more of {', '.join(registry.names('targets'))}, with commas; c-int8 is c_int8",
    )
    found.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the files go; if not given, exported/ in the run's folder",
    )
    found.add_argument(
        "--report",
        metavar="CHIP",
        help="print what the targets in C take of a chip, counted by its compiler: cortex-m4",
    )
    return found


def run(argv: list[str]) -> int:
    """Export as the arguments say."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.rl_library != "rsl_rl":
        raise UserError(f"export.py: not available with --rl_library {args.rl_library}, only with rsl_rl")
    targets = [name.strip().replace("-", "_") for name in args.to.split(",")]
    for name in targets:
        registry.check_name("targets", name, "--to")
        registry.configure("targets", name, "--to").build().require()
    if args.report is not None:
        check_report(args.report, targets)
    plan = common.prepare(args)
    for name in targets:
        registry.configure("targets", name, "--to").build().refuse(plan.spec.network)

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
    if args.report is not None:
        print_report(args.report, [path for path in written if path.suffix == ".c"])
    return 0


def check_report(chip: str, targets: Sequence[str]) -> None:
    """Raise UserError for a chip that is not known, whose compiler is missing, or for which nothing is written."""
    from spiky_rl.deploy import _chip

    if chip not in _chip.CHIPS:
        hint = registry.nearest(chip, _chip.CHIPS)
        raise UserError(f"--report {chip}: not known; choose from {', '.join(_chip.CHIPS)}{hint}")
    in_c = [name for name in registry.names("targets") if registry.resolve("targets", name).in_c]  # type: ignore[attr-defined]
    if not set(in_c) & set(targets):
        raise UserError(f"--report {chip}: is for targets in C; choose --to {' or '.join(in_c)}")
    _chip.require(chip)


def print_report(chip: str, files: Sequence[Path]) -> None:
    """A line per file: bytes of flash, of the struct and of the stack."""
    from spiky_rl.deploy import _chip

    print(f"{'bytes on a ' + chip:<40}{'flash':>10}{'state':>10}{'stack':>10}")
    for path in files:
        found = _chip.footprint(path, chip)
        label = "/".join(path.parts[-2:])
        print(f"{label:<40}{found.flash:>10,}{found.state:>10,}{found.stack:>10,}")


def export(policy: Any, env: Any, folder: Path, targets: Sequence[str]) -> dict[Path, Any]:
    """Write the targets into a folder and prove them; returns the files, each with its agreement."""
    from spiky_rl.deploy import _calibration
    from spiky_rl.deploy._proof import prove

    built = {name: registry.configure("targets", name, "--to").build() for name in targets}
    files = {}
    if watching := [target for target in built.values() if target.observes]:
        with Bar("recording", "an episode") as shown:
            rollout = _calibration.record(policy, env, shown)
        for target in watching:
            target.calibrate(rollout)
    with Bar("exporting", ", ".join(targets)) as shown:
        for i, target in enumerate(built.values()):
            files[target.write(policy, folder)] = target
            shown((i + 1) / len(built))
    with Bar("comparing exports", "over an episode") as shown:
        return prove(policy, env, files, shown)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``scripts/export.py``."""
    return common.run(run, argv)
