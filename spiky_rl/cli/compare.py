"""``spiky compare``: run a study, agents x tasks x seeds, and write its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import CellTable, print_end, print_missing_lines, print_plan
from spiky_rl.cli.flags import add_flags, get_given_values, parse_settings
from spiky_rl.cli.report import require_report, write_and_print_report
from spiky_rl.config import files
from spiky_rl.config.options import UserError, get_options
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.comparison import (
    log_kept_entries,
    merge_study,
    plan_study,
    warn_of_missing_controls,
    warn_of_other_code,
    write_plan,
)
from spiky_rl.experiments.run.engines.base import BROKEN
from spiky_rl.experiments.run.planning import (
    ExecutionOptions,
    get_default_folder,
    warn_of_undecidable_tests,
    warn_of_unequal_steps,
)
from spiky_rl.run.command import handle_stop_signals
from spiky_rl.run.run_plan import split_overrides


def build_parser() -> common.Parser:
    """Build the parser of the command; flags override keys of the study file."""
    command_parser = common.Parser(
        "compare",
        "Compare agents on tasks over seeds. Run the same command again to resume, or with more seeds to add them.",
        verbose=True,
        epilog="--dry-run prints a line per agent and task; with --verbose, every cell and its commands.",
    )
    add = command_parser.add_argument
    add("study", nargs="?", metavar="STUDY.yaml", help="study file; flags override its keys")
    add_flags(command_parser, Study, optional=True)
    vary = f"{get_options(Study)['vary'].description}; repeatable"
    add("--vary", action="append", default=argparse.SUPPRESS, metavar="agent.key=v,v", help=vary)
    add(
        "--out",
        type=Path,
        help="folder of the study; default: the folder of a study.yaml, else in logs/compare",
    )
    add_flags(command_parser, ExecutionOptions)
    return command_parser


def compare(argv: list[str]) -> int:
    """Plan the study, run its unfinished cells and write the report."""
    args = build_parser().parse(argv)
    requested = read_study(args)
    place = parse_settings(ExecutionOptions, args)
    common.announce(
        f"{'planning' if place.dry_run else 'running'} {args.study or 'a study'}:"
        f" {', '.join(requested.agents)} on {', '.join(requested.tasks)}"
    )
    out = (args.out or get_default_folder(requested, args.study and Path(args.study))).absolute()
    files.require_writable("--out", out)
    require_report(out)
    merged = merge_study(requested, out)
    engine, gpus = place.open_engine(merged.library)
    plan = plan_study(merged, out, place)
    plan.check()
    if engine is not None:
        plan = write_plan(requested, plan)
    print_plan(plan, place.dry_run, args.verbose)
    print_missing_lines(out, plan.study)
    log_kept_entries(requested, plan.study)
    warn_of_unequal_steps(plan.study, plan.cells)
    warn_of_undecidable_tests(plan.study)
    warn_of_missing_controls(plan)
    warn_of_other_code(plan)
    if engine is None:
        return 0
    with handle_stop_signals("stopping; running cells keep a checkpoint") as stop, CellTable(plan) as table:
        states = plan.run(engine, gpus, table, stop)
        interrupted = stop()
    print_end(out, states, interrupted)
    write_and_print_report(out)
    return stop.exit_code if interrupted else int(BROKEN in states.values())


def read_study(args: argparse.Namespace) -> Study:
    """Build the study from the study file and the flags. Raises UserError."""
    if args.study is not None and "=" in args.study and not Path(args.study).is_file():  # an override
        args.overrides.insert(0, args.study)
        args.study = None
    flags = get_given_values(Study, args)
    if "vary" in flags:
        flags["vary"] = study.parse_vary(flags["vary"])
    overrides = flags.pop("overrides")
    split_overrides(overrides)  # raises if an override is invalid
    if args.study is not None:
        requested = study.read_study(Path(args.study), flags, overrides)
        split_overrides(requested.overrides)
        return requested
    for key in ("agents", "tasks"):
        if not flags.get(key):
            raise UserError(f"--{key}: missing; give at least one, or a study file")
    return study.build_study("study", {**flags, "overrides": overrides})
