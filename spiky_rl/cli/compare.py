"""``compare.py``: agents x tasks x seeds, from a plan through its cells to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import Table, add_cell_arguments, print_end, print_plan, require_report
from spiky_rl.cli.report import print_report
from spiky_rl.config import files
from spiky_rl.config.arguments import up_to
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import split_overrides
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import MOST, Study
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.comparison import planned
from spiky_rl.experiments.run.engines.base import BROKEN
from spiky_rl.experiments.run.planning import Place, default_folder, warn_of_unequal_steps
from spiky_rl.hosts.common.stopping import stoppable

DESIGN = (
    *("agents", "tasks", "seeds", "question", "budget", "num_envs", "episodes", "conditions", "baseline"),
    *("library", "tuning"),
)
"""Keys of a study that are flags as well."""


def parser() -> common.Parser:
    """The command line. Flags that say what is compared go over the study file's keys."""
    found = common.Parser(
        "compare.py",
        "Compare agents on tasks over seeds; run it again to go on, or with more seeds to add them.",
    )
    add = found.add_argument
    add("study", nargs="?", metavar="STUDY.yaml", help="a study file; flags change what it says")
    add("--agents", help="file stems of agents/ or YAML files, as A,B,C")
    add("--tasks", help="gym ids or file stems of tasks/, as A,B")
    add("--seeds", help="as 0-9 or 0,1,2; default: 0-4")
    add(
        "--vary",
        action="append",
        default=[],
        metavar="agent.key=v,v",
        help="compare values of an option; repeatable",
    )
    add(
        "--budget",
        metavar="KIND=AMOUNT",
        help="of every training: env_steps, wall (seconds) or synops (effective synaptic operations);"
        " default: the tasks' own numbers of iterations",
    )
    add("--question", help="what the study asks")
    add(
        "--baseline",
        help="the agent to compare with and to normalise by; default: mlp_ppo if there, else the first",
    )
    add("--num_envs", type=up_to(MOST["num_envs"]), help="parallel environments of a training")
    add("--episodes", type=up_to(MOST["episodes"]), help="of an evaluation, per condition; default: 64")
    add("--conditions", help="what policies are evaluated under, as A,B, or all, or stress; default: all")
    add(
        "--tuning",
        help="what tune.py wrote, or its folder: every agent has the values that it found for each task",
    )
    common.add_library(found, "host library", default=None)
    add("--out", type=Path, help="the study's folder; default: beside a study.yaml, else in logs/compare")
    add_cell_arguments(found, "show the plan and its time, run nothing")
    add("overrides", nargs="*", metavar="key=value", help="agent.x.y=v or env.x.y=v, for every cell")
    return found


def compare(argv: list[str]) -> int:
    """Plan, run what is not finished, report."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    asked = read_study(args)
    require_report()
    out = (args.out or default_folder(asked, args.study and Path(args.study))).absolute()
    files.require_writable("--out", out)
    asked = study.with_baseline(folders.prepare(out, asked))
    study.check(asked)
    place = common.picked(Place, args)
    engine, gpus = place.open(asked.library)
    found = planned(asked, out, place)
    print_plan(found, args.dry_run)
    warn_of_unequal_steps(asked, found.cells)
    if engine is None:
        return 0
    found.write()
    with stoppable("stopping; running cells keep a checkpoint") as stop, Table(found) as table:
        states = found.run(engine, gpus, table, stop)
        interrupted = stop()
    print_end(out, states, interrupted)
    print_report(out)
    return stop.exit_code if interrupted else int(BROKEN in states.values())


def read_study(args: argparse.Namespace) -> Study:
    """The study file, under what the flags say. Raises UserError."""
    if args.study is not None and "=" in args.study:  # no study file, but an override
        args.overrides.insert(0, args.study)
        args.study = None
    flags = {key: getattr(args, key) for key in DESIGN if getattr(args, key) is not None}
    if args.vary:
        flags["vary"] = study.parse_vary(args.vary)
    split_overrides(args.overrides)
    if args.study is not None:
        asked = study.read(Path(args.study), flags, args.overrides)
        split_overrides(asked.overrides)
        return asked
    for key in ("agents", "tasks"):
        if not flags.get(key):
            raise UserError(f"--{key}: name at least one, or a study file; there would be no cell")
    return study.build("study", {**flags, "overrides": args.overrides})


def main() -> int:
    """Entry point of ``scripts/compare.py``."""
    return common.run(compare)
