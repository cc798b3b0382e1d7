"""``grow.py``: evolve a rule that grows a graph, scored as a spiking reservoir."""

from __future__ import annotations


from spiky_rl.cli import common
from spiky_rl.cli.display import Bar
from spiky_rl.cli.flags import picked
from spiky_rl.reservoirs.growth.settings import Growth


def parser() -> common.Parser:
    """The command line."""
    return common.Parser("grow.py", "Evolve a graph for a spiking reservoir; Ctrl-C keeps the best.", Growth)


def grow(argv: list[str]) -> int:
    """Evolve, and keep the best graph in its file."""
    asked = picked(Growth, parser().read(argv)).seeded()
    asked.require()

    from spiky_rl.reservoirs.growth.search import search

    best = search(asked, Bar)
    edges = int(best.cells.adjacency.sum())
    print(f"{asked.out}: {best.cells.size} nodes, {edges} edges, seed {asked.seed}")
    return 0
