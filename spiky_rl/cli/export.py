"""``export.py``: write a trained policy for other programs and chips, and prove that it is the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.hosts.run.prepare import prepare


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser("export.py", "Write a trained policy for other programs and chips.")
    common.add_run_arguments(found)
    found.set_defaults(checkpoint="latest", num_envs=1)
    add = found.add_argument
    add(
        "--to",
        default="c",
        metavar="TARGETS",
        help=f"one or more of {', '.join(registry.names('targets'))}, with commas; c-int8 is c_int8",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the files go; if not given, exported/ in the run's folder",
    )
    add(
        "--report",
        metavar="CHIP",
        help="print what the targets in C take of a chip, counted by its compiler: cortex-m4",
    )
    return found


def run(argv: list[str]) -> int:
    """Export as the arguments say."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.library != "rsl_rl":
        raise UserError(f"export.py: not available with --rl_library {args.library}, only with rsl_rl")

    from spiky_rl.deploy import _export

    targets = _export.targets([name.strip().replace("-", "_") for name in args.to.split(",")])
    if args.report is not None:
        _export.require_chip(args.report, list(targets))
    plan = prepare(common.request(args))
    _export.refuse(targets, plan.spec.network)

    from spiky_rl.hosts.run.checkpoint import find_checkpoint
    from spiky_rl.hosts.run.simulate import opened

    checkpoint = find_checkpoint(plan)
    folder = args.out or checkpoint.parent / "exported"
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator, for an episode that proves the files equal")
    with opened(plan, checkpoint) as (env, runner, _):
        written = _export.export(runner.alg.get_policy(), env, folder, targets, Bar)
    for path in written:
        print(path)
    if args.report is not None:
        print_report(args.report, [path for path in written if path.suffix == ".c"])
    return 0


def print_report(chip: str, files: Sequence[Path]) -> None:
    """A line per file: bytes of flash, of the struct and of the stack."""
    from spiky_rl.deploy import _chip

    print(f"{'bytes on a ' + chip:<40}{'flash':>10}{'state':>10}{'stack':>10}")
    for path in files:
        found = _chip.footprint(path, chip)
        label = "/".join(path.parts[-2:])
        print(f"{label:<40}{found.flash:>10,}{found.state:>10,}{found.stack:>10,}")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``scripts/export.py``."""
    return common.run(run, argv)
