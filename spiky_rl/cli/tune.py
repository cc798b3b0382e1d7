"""``tune.py``: the same number of trials for every agent on every task, to a file of tuned values and a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.compare import (
    Resolver,
    add_cell_arguments,
    own_gpus,
    ray_options,
    settled,
)  # fmt: skip
from spiky_rl.cli.report import require_report
from spiky_rl.config import files
from spiky_rl.config.arguments import up_to
from spiky_rl.config.extras import require
from spiky_rl.config.options import UserError
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.experiments.design import grid, study, tuning_space
from spiky_rl.config.budget import Budget
from spiky_rl.experiments.run import engines, tuning
from spiky_rl.experiments.run.engines.base import Order
from spiky_rl.experiments.run.tuning import ACTIVITIES, SHARE, Pair, Site, Tuning
from spiky_rl.hosts.common.stopping import stoppable

MOST_TRIALS = 10_000
SEEDS = "90000"
"""The seed of trials, far from those of studies."""
FIELDS = ("agents", "tasks", "seeds", "budget", "num_envs", "episodes", "library", "overrides")
"""Keys of a study that are flags here."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="tune.py",
        description="Tune agents on tasks, all by equally many trials; run it again to go on, or with more trials to add them.",
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
    add("--num_envs", type=up_to(study.MOST["num_envs"]), help="parallel environments of a training")
    add("--episodes", type=up_to(study.MOST["episodes"]), default=64, help="of an evaluation")
    add("--rl_library", dest="library", default="rsl_rl", choices=common.LIBRARIES, help="host library")
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
    add_cell_arguments(found)
    add(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="check everything and show what would be tuned, run nothing",
    )
    add("--verbose", action="store_true", help="show the libraries' own messages")
    add("overrides", nargs="*", metavar="key=value", help="agent.x.y=v or env.x.y=v, for every trial")
    return found


def tune(argv: list[str]) -> int:
    """Check, run the trials that are left, write the tuned values and the page."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    require("optuna", "experiments")
    require_report()
    asked = read_tuning(args)
    agents = "-".join(asked.study.stems)[:40]
    out = (args.out or Path("logs/tune") / f"{agents}-{grid.digest(asked.data())[:6]}").absolute()
    files.require_writable("--out", out)
    asked = tuning.prepare(out, asked)
    if args.distributed > 1 and asked.study.library != "rsl_rl":
        raise UserError("--distributed: only with --rl_library rsl_rl")
    gpus = () if args.dry_run else own_gpus(args)
    engine = None if args.dry_run else engines.create(args.engine, **ray_options(args))
    args.assets, robots = settled(args.assets)
    pairs, facts = checked(asked, args)
    facts["robots"] = robots
    print_plan(asked, pairs, out)
    if engine is None:
        return 0

    from spiky_rl.experiments.analysis.tuning_outcome import write_tuned
    from spiky_rl.experiments.report.tuning_page import write_tuning_page
    from spiky_rl.experiments.run.tuning_search import Search, connect

    out.mkdir(parents=True, exist_ok=True)
    storage = connect(args.storage or f"sqlite:///{out / 'tuning.db'}")
    tuning.write(out, asked, facts)
    site = Site(out, partial(Resolver, args=args), args.device, args.assets, robots, args.distributed)
    search = Search(asked, pairs, storage, site, args.parallel)
    with stoppable("stopping; running trials keep a checkpoint") as stopped:
        engine.run(Order((), out, args.parallel, lambda states: None, stopped, gpus, search.more))
        interrupted = stopped()
    for path in write_tuning_page(search, facts):
        print(path)
    unfinished = "not all trials have ended: run the same command again to go on"
    print(out / TUNED if write_tuned(search) else unfinished)
    if interrupted:
        return stopped.exit_code
    return 1 if search.broken else 0


def read_tuning(args: argparse.Namespace) -> Tuning:
    """What the flags ask for. Raises UserError."""
    common.split_overrides(args.overrides)
    data = {key: getattr(args, key) for key in FIELDS if getattr(args, key) is not None}
    space = tuning_space.read(args.space)
    asked = study.build("tuning", {**data, "conditions": ["nominal"]})
    space.require_equal(asked.agents)
    given = {text.partition("=")[0] for text in asked.overrides}
    for dimension in (d for agent in asked.agents for d in space.of(agent)):
        if both := given & {dimension.key, *dimension.also}:
            raise UserError(f"{both.pop()}: is a dimension of --space {space.name}; a trial sets it")
    return Tuning(asked, space, args.trials, args.activity or "", tuning.without_password(args.storage or ""))


def checked(asked: Tuning, args: argparse.Namespace) -> tuple[list[Pair], dict[str, str]]:
    """What has trials of its own, with its budget; and what its trials are made from, by name.

    Raises UserError for a dimension whose ends or choices an agent does not take.
    """
    pairs, facts = list[Pair](), dict[str, str]()
    resolve = Resolver(asked.study, args)
    for task in asked.study.tasks:
        found = {agent: resolve(task, agent, {}) for agent in asked.study.agents}
        whole = asked.study.budget or Budget(
            "env_steps",
            max(
                p.setting("max_iterations") * p.num_envs * p.setting("num_steps_per_env")
                for p in found.values()
            )
            * args.distributed,
        )
        for agent, plan in found.items():
            if asked.activity and plan.spec.network is None:
                raise UserError(f"--activity {asked.activity}: {agent} does not spike")
            dimensions = asked.space.of(agent)
            pair = Pair(
                task, agent, plan.task, Path(agent).stem, dimensions, Budget(whole.kind, whole.amount * SHARE)
            )
            for i in range(max(len(d.ends) for d in dimensions)):
                values = [text for d in dimensions for text in d.assignments(d.ends[min(i, len(d.ends) - 1)])]
                Resolver(asked.of(pair, [*asked.space.fixed, *values]), args)(task, agent, {})
            pairs.append(pair)
            facts[f"specification of {pair.stem} on {pair.label}"] = plan.spec.digest
            facts |= {f"budget on {pair.label}": str(pair.budget), f"physics of {pair.label}": plan.physics}
    return pairs, facts


def print_plan(asked: Tuning, pairs: Sequence[Pair], out: Path) -> None:
    """What is tuned, and how."""
    agents, tasks = asked.study.agents, asked.study.tasks
    print(
        f"{len(agents)} agents x {len(tasks)} tasks x {asked.trials} trials, seeds {', '.join(map(str, asked.study.seeds))}"
    )
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
