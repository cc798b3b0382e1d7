"""``grow.py``: evolve a rule that grows a graph, scored as a spiking reservoir."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.flags import add_flags, picked
from spiky_rl.reservoirs.growth.settings import Growth

if TYPE_CHECKING:
    from spiky_rl.reservoirs.growth.evolution import Progress


def parser() -> common.Parser:
    """The command line."""
    made = common.Parser("grow.py", "Evolve a graph for a spiking reservoir; Ctrl-C keeps the best.")
    add_flags(made, Growth)
    return made


def grow(argv: list[str]) -> int:
    """Evolve, and keep the best graph in its file."""
    asked = picked(Growth, parser().read(argv)).seeded()
    asked.require()

    from spiky_rl.reservoirs.growth.scoring import Score
    from spiky_rl.reservoirs.growth.search import search

    score = Score(asked.task, asked.seed)
    with announced(asked.out), Bar("evolving", f"{asked.tournaments} tournaments") as tell:
        best = search(asked, score, Shown(tell, asked.tournaments, score.settings()["unit"]))
    edges = int(best.cells.adjacency.sum())
    print(f"{asked.out}: {best.cells.size} nodes, {edges} edges, seed {asked.seed}")
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


main = partial(common.run, grow)
"""Entry point of ``scripts/grow.py``."""
