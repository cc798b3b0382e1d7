"""A search for a graph: an evolution whose best is in its file at any time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spiky_rl.config.options import UserError
from spiky_rl.reservoirs.graphs.grown import write
from spiky_rl.reservoirs.growth.evolution import Individual, Limits, Progress, evolve
from spiky_rl.reservoirs.growth.scoring import Score, as_file
from spiky_rl.reservoirs.growth.settings import Growth


def search(asked: Growth, score: Score, shown: Callable[[Progress], None]) -> Individual:
    """Evolve a rule that grows a graph; the best graph is written whenever it is bettered.

    Args:
        asked: Its file, how long the search is and which graphs are valid.
        score: The fitness; its seed draws rules, reservoirs and the task.
        shown: Is told where the evolution stands after every tournament.

    Raises:
        UserError: No rule grew a valid graph.
    """
    torch.set_num_threads(1)  # small reservoirs are slower on more

    def keep(progress: Progress) -> None:
        if progress.improved and (best := progress.best) is not None:
            write(asked.out, as_file(best.cells, best.rule, score, best.fitness))
        shown(progress)

    limits = Limits(asked.min_size, asked.max_size)
    generator = np.random.default_rng(score.seed)
    best = evolve(score, generator, asked.tournaments, asked.population, asked.hidden or 0, limits, keep)
    if best is None:
        raise UserError(
            f"no rule grew a connected graph of {limits.min_size} to {limits.max_size} nodes;"
            " more --tournaments or another --seed may"
        )
    return best
