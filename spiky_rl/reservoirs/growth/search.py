"""A search for a graph: an evolution whose best is in its file at any time."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.reservoirs.graphs.grown import write
from spiky_rl.reservoirs.growth.evolution import EvolutionProgress, GraphLimits, Individual, evolve
from spiky_rl.reservoirs.growth.scoring import ReservoirScore, make_graph_file
from spiky_rl.reservoirs.growth.settings import GrowRequest

log = logging.getLogger(__name__)


def evolve_graph(request: GrowRequest, open_progress: ProgressFactory = no_progress) -> Individual:
    """Evolve a rule that grows a graph; the best graph is written whenever it is bettered.

    Args:
        asked: Its file, what it is scored on, how long the search is and which graphs are valid.
        shown: Shows how far it is.

    Raises:
        UserError: No rule grew a valid graph.
    """
    torch.set_num_threads(1)  # small reservoirs are slower on more
    score, limits = ReservoirScore(request.task, request.seed), GraphLimits(
        request.min_size, request.max_size
    )
    unit, written = score.settings()["unit"], False
    with open_progress("evolving", f"{request.tournaments} tournaments") as tell:

        def keep(progress: EvolutionProgress) -> None:
            nonlocal written
            best, words = progress.best, "no valid graph yet"
            if best is not None and math.isfinite(best.fitness):
                words = f"{unit} {best.fitness:.4f} with {best.cells.size} nodes"
            if progress.improved and best is not None:
                write(request.out, make_graph_file(best.cells, best.rule, score, best.fitness))
                written = True
                where = f"tournament {progress.tournament:4d}/{request.tournaments}"
                log.info("%s  %s  %d growths, %d measured", where, words, progress.growths, progress.measured)
            tell(progress.tournament / request.tournaments, words)

        generator, hidden = np.random.default_rng(request.seed), request.hidden or 0
        try:
            best = evolve(score, generator, request.tournaments, request.population, hidden, limits, keep)
        except KeyboardInterrupt:
            kept = (
                f"the best so far is in {request.out}" if written else "there is no valid graph to keep yet"
            )
            log.info(kept)
            raise
    if best is None:
        raise UserError(
            f"no rule grew a connected graph of {limits.min_size} to {limits.max_size} nodes;"
            " more --tournaments or another --seed may"
        )
    return best
