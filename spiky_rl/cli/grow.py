"""``grow.py``: evolve a rule that grows a graph, scored as a spiking reservoir."""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.config import files, sizes
from spiky_rl.config.arguments import positive, seed_number
from spiky_rl.config.options import UserError

if TYPE_CHECKING:
    from spiky_rl.reservoirs.growth.evolution import Progress

TASKS = ("narma10", "narma30", "memory")
"""Those of `spiky_rl.reservoirs.growth.scoring`, which imports torch."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(
        prog="grow.py", description="Evolve a graph for a spiking reservoir; Ctrl-C keeps the best."
    )
    add = found.add_argument
    add("--out", type=Path, required=True, help="the best graph: FILE.json, written whenever it is bettered")
    add("--task", default="narma10", choices=TASKS, help="what the reservoir is scored on")
    add("--tournaments", type=positive, default=200, help="pairs of rules that compete")
    add("--population", type=positive, default=10, help="chromosomes of each kind")
    add("--hidden", type=positive, help="neurons in a hidden layer of the rules; default: no such layer")
    add("--min_size", type=positive, default=20, help="nodes that its largest connected part has at least")
    add("--max_size", type=positive, default=200, help="nodes that a graph has at most")
    add("--seed", type=seed_number, default=0, help="of rules, reservoirs and task; -1: a random one")
    return found


def check(args: argparse.Namespace) -> None:
    """Raise UserError for what does not go together."""
    files.require_file("--out", args.out, (".json",))
    if args.population < 2:
        raise UserError(f"--population {args.population}: a tournament needs at least 2")
    if not 2 <= args.min_size <= args.max_size:
        raise UserError(
            f"--min_size {args.min_size}: must be between 2 and --max_size, which is {args.max_size}"
        )
    needed = {f"--max_size {args.max_size}": 8 * args.max_size**2}  # a matrix of all its edges
    needed[f"--population {args.population}"] = 1000 * args.population  # objects of a rule, at least
    needed[f"--hidden {args.hidden}"] = 8 * args.population * (args.hidden or 0)
    sizes.require(needed, sizes.machine_memory())


def grow(argv: list[str]) -> int:
    """Evolve, and keep the best graph in its file."""
    args = parser().parse_args(argv)
    common.setup_logging(verbose=False)
    check(args)

    from spiky_rl.reservoirs.growth.evolution import Limits
    from spiky_rl.reservoirs.growth.scoring import Score
    from spiky_rl.reservoirs.growth.search import search

    seed = random.randrange(2**31) if args.seed == -1 else args.seed
    score, limits = Score(args.task, seed), Limits(args.min_size, args.max_size)
    with announced(args.out), Bar("evolving", f"{args.tournaments} tournaments") as tell:
        shown = Shown(tell, args.tournaments, score.settings()["unit"])
        best = search(args.out, score, args.tournaments, args.population, args.hidden or 0, limits, shown)
    print(f"{args.out}: {best.cells.size} nodes, {int(best.cells.adjacency.sum())} edges, seed {seed}")
    return 0


@contextmanager
def announced(out: Path) -> Iterator[None]:
    """Say what an interruption leaves."""
    before = out.stat().st_mtime_ns if out.exists() else None
    try:
        yield
    except KeyboardInterrupt:
        saved = out.exists() and out.stat().st_mtime_ns != before
        sys.stderr.write(
            f"the best so far is in {out}\n" if saved else "there is no valid graph to keep yet\n"
        )
        raise


class Shown:
    """How far the evolution is: a bar, and a line for every better graph."""

    def __init__(self, tell: Bar, tournaments: int, unit: str) -> None:
        self.tell, self.tournaments, self.unit = tell, tournaments, unit

    def __call__(self, progress: Progress) -> None:
        """Show where the evolution stands."""
        best, words = progress.best, "no valid graph yet"
        if best is not None and math.isfinite(best.fitness):
            words = f"{self.unit} {best.fitness:.4f} with {best.cells.size} nodes"
        if progress.improved:
            where = f"tournament {progress.tournament:4d}/{self.tournaments}"
            log.info("%s  %s  %d growths, %d measured", where, words, progress.growths, progress.measured)
        self.tell(progress.tournament / self.tournaments, words)


def main() -> int:
    """Entry point of ``scripts/grow.py``."""
    return common.run(grow)
