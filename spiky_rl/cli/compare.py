"""``compare.py``: agents x tasks x seeds, from a plan through its cells to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import CellTable, print_end, print_missing_lines, print_plan
from spiky_rl.cli.flags import add_flags, get_given_values, parse_settings
from spiky_rl.cli.report import require_report, write_and_print_report
from spiky_rl.config import files
from spiky_rl.config.options import UserError, get_options
from spiky_rl.config.run_plan import split_overrides
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.comparison import merge_study, plan_study, write_plan
from spiky_rl.experiments.run.engines.base import BROKEN
from spiky_rl.experiments.run.planning import (
    ExecutionOptions,
    get_default_folder,
    warn_of_missing_controls,
    warn_of_undecidable_tests,
    warn_of_unequal_steps,
)
from spiky_rl.run.signals import handle_stop_signals


def parser() -> common.Parser:
    """The command line. Flags that say what is compared go over the study file's keys."""
    made = common.Parser(
        "compare.py",
        "Compare agents on tasks over seeds; run it again to go on, or with more seeds to add them.",
        verbose=True,
    )
    add = made.add_argument
    add("study", nargs="?", metavar="STUDY.yaml", help="a study file; flags change what it says")
    add_flags(made, Study, optional=True)
    vary = f"{get_options(Study)['vary'].meaning}; repeatable"
    add("--vary", action="append", default=argparse.SUPPRESS, metavar="agent.key=v,v", help=vary)
    add("--out", type=Path, help="the study's folder; default: beside a study.yaml, else in logs/compare")
    add_flags(made, ExecutionOptions)
    return made


def compare(argv: list[str]) -> int:
    """Plan, run what is not finished, report."""
    args = parser().parse(argv)
    asked = read_study(args)
    out = (args.out or get_default_folder(asked, args.study and Path(args.study))).absolute()
    files.require_writable("--out", out)
    require_report(out)
    merged = merge_study(asked, out)
    place = parse_settings(ExecutionOptions, args)
    engine, gpus = place.open_engine(merged.library)
    plan = plan_study(merged, out, place)
    plan.check()
    if engine is not None:
        plan = write_plan(asked, plan)
    print_plan(plan, place.dry_run)
    print_missing_lines(out, plan.study)
    warn_of_unequal_steps(plan.study, plan.cells)
    warn_of_undecidable_tests(plan.study)
    warn_of_missing_controls(plan.cells, plan.resolve.specs)
    if engine is None:
        return 0
    with handle_stop_signals("stopping; running cells keep a checkpoint") as stop, CellTable(plan) as table:
        states = plan.run(engine, gpus, table, stop)
        interrupted = stop()
    print_end(out, states, interrupted)
    write_and_print_report(out)
    return stop.exit_code if interrupted else int(BROKEN in states.values())


def read_study(args: argparse.Namespace) -> Study:
    """The study file, under what the flags say. Raises UserError."""
    if args.study is not None and "=" in args.study:  # no study file, but an override
        args.overrides.insert(0, args.study)
        args.study = None
    flags = get_given_values(Study, args)
    if "vary" in flags:
        flags["vary"] = study.parse_vary(flags["vary"])
    overrides = flags.pop("overrides")
    split_overrides(overrides)
    if args.study is not None:
        asked = study.read_study(Path(args.study), flags, overrides)
        split_overrides(asked.overrides)
        return asked
    for key in ("agents", "tasks"):
        if not flags.get(key):
            raise UserError(f"--{key}: name at least one, or a study file; there would be no cell")
    return study.build_study("study", {**flags, "overrides": overrides})
