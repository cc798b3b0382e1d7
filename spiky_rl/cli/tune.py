"""``tune.py``: the same number of trials for every agent on every task, to a file of tuned values and a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import add_cell_arguments, require_report
from spiky_rl.config import files
from spiky_rl.config.arguments import up_to
from spiky_rl.config.extras import require
from spiky_rl.config.plan import split_overrides
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.experiments.design.study import MOST
from spiky_rl.experiments.run import tuning, tuning_plan
from spiky_rl.experiments.run.engines.base import Order
from spiky_rl.experiments.run.planning import Place, Resolver
from spiky_rl.experiments.run.tuning import ACTIVITIES, Pair, Site, Tuning
from spiky_rl.hosts.common.stopping import stoppable

MOST_TRIALS = 10_000
SEEDS = "90000"
"""The seed of trials, far from those of studies."""
FIELDS = ("agents", "tasks", "seeds", "budget", "num_envs", "episodes", "library", "overrides")
"""Keys of a study that are flags here."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(
        "tune.py",
        "Tune agents on tasks, all by equally many trials; run it again to go on, or with more trials to add them.",
    )
    add = found.add_argument
    add("--agents", required=True, help="file stems of agents/ or YAML files, as A,B,C")
    add("--tasks", required=True, help="gym ids or file stems of tasks/, as A,B")
    add(
        "--trials",
        type=up_to(MOST_TRIALS),
        default=30,
        help="of every agent on every task; the first is the agent as it is",
    )
    add("--space", default="pilot", help="what is tuned: file stem of spaces/, or a YAML file")
    add("--seeds", default=SEEDS, help="of every trial; studies that use the tuning need other seeds")
    add(
        "--budget", metavar="KIND=AMOUNT",
        help="of a whole training, of which a trial has a third; default: the task's own number of iterations",
    )  # fmt: skip
    add(
        "--activity",
        choices=tuple(ACTIVITIES),
        help="of the actor, to be lowest: a second objective beside the return",
    )
    add("--num_envs", type=up_to(MOST["num_envs"]), help="parallel environments of a training")
    add("--episodes", type=up_to(MOST["episodes"]), default=64, help="of an evaluation")
    common.add_library(found, "host library")
    add(
        "--storage",
        metavar="URL",
        help="of Optuna, a database's for commands on many machines; default: a file in --out",
    )
    add(
        "--out",
        type=Path,
        help="the tuning's folder; default: in logs/tune; on many machines, one that all share",
    )
    add_cell_arguments(found, "check everything and show what would be tuned, run nothing")
    add("overrides", nargs="*", metavar="key=value", help="agent.x.y=v or env.x.y=v, for every trial")
    return found


def tune(argv: list[str]) -> int:
    """Check, run the trials that are left, write the tuned values and the page."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    require("optuna", "experiments")
    require_report()
    split_overrides(args.overrides)
    data = {key: getattr(args, key) for key in FIELDS if getattr(args, key) is not None}
    asked = tuning_plan.read(data, args.space, args.trials, args.activity or "", args.storage or "")
    out = (args.out or tuning_plan.default_folder(asked)).absolute()
    files.require_writable("--out", out)
    asked = tuning.prepare(out, asked)
    place = common.picked(Place, args)
    engine, gpus = place.open(asked.study.library)
    place, robots = place.settled()
    found = tuning_plan.checked(asked, place, robots)
    print_plan(asked, found.pairs, out)
    if engine is None:
        return 0

    from spiky_rl.experiments.analysis.tuning_outcome import write_tuned
    from spiky_rl.experiments.report.tuning_page import write_tuning_page
    from spiky_rl.experiments.run.tuning_search import Search, connect

    out.mkdir(parents=True, exist_ok=True)
    storage = connect(args.storage or f"sqlite:///{out / 'tuning.db'}")
    tuning.write(out, asked, found.facts)
    resolver = partial(Resolver, place=place)
    site = Site(out, resolver, place.device, place.assets, robots, place.distributed)
    search = Search(asked, found.pairs, storage, site, place.parallel)
    with stoppable("stopping; running trials keep a checkpoint") as stop:
        engine.run(Order((), out, place.parallel, lambda states: None, stop, gpus, search.more))
        interrupted = stop()
    for path in write_tuning_page(search, found.facts):
        print(path)
    unfinished = "not all trials have ended: run the same command again to go on"
    print(out / TUNED if write_tuned(search) else unfinished)
    return stop.exit_code if interrupted else int(bool(search.broken))


def print_plan(asked: Tuning, pairs: Sequence[Pair], out: Path) -> None:
    """What is tuned, and how."""
    agents, tasks, seeds = asked.study.agents, asked.study.tasks, ", ".join(map(str, asked.study.seeds))
    print(f"{len(agents)} agents x {len(tasks)} tasks x {asked.trials} trials, seeds {seeds}")
    for pair in {pair.label: pair for pair in pairs}.values():
        print(f"{pair.label}: {pair.budget.text} per trial")
    print(f"space {asked.space.name}: {len(asked.space.shared)} shared dimensions, of each agent's own:")
    for pair in {pair.stem: pair for pair in pairs}.values():
        own = pair.dimensions[len(asked.space.shared) :]
        print(f"  {pair.stem}: {', '.join(d.key.removeprefix('agent.') for d in own)}")
    print(f"folder: {out}\n")


def main() -> int:
    """Entry point of ``scripts/tune.py``."""
    return common.run(tune)
