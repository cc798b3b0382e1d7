"""An evolution of graphs that writes its best graph to a file at every improvement."""

from __future__ import annotations

import logging

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
    """Evolve a rule that grows a graph, and write the best graph to a file at every improvement.

    Raises UserError if no rule grew a valid graph.
    """
    torch.set_num_threads(1)  # small reservoirs are slower with more threads
    score = ReservoirScore(request.task, request.seed)
    limits = GraphLimits(request.min_size, request.max_size)
    unit = score.settings()["unit"]
    written = False
    with open_progress("evolving", f"{request.tournaments} tournaments") as report_progress:

        def save_best(progress: EvolutionProgress) -> None:
            nonlocal written
            best, status = progress.best, "no valid graph yet"
            if best is not None:
                status = f"{unit} {best.fitness:.4f} with {best.cells.size} nodes"
            if best is not None and progress.improved:
                write(request.out, make_graph_file(best.cells, best.rule, score, best.fitness))
                written = True
                label = f"tournament {progress.tournament:4d}/{request.tournaments}"
                log.info(
                    "%s  %s  %d growths, %d measured", label, status, progress.growths, progress.measured
                )
            report_progress(progress.tournament / request.tournaments, status)

        generator, hidden = np.random.default_rng(request.seed), request.hidden or 0
        try:
            best = evolve(
                score, generator, request.tournaments, request.population, hidden, limits, save_best
            )
        except KeyboardInterrupt:
            log.info(f"the best graph so far is in {request.out}" if written else "no valid graph yet")
            raise
    if best is None:
        raise UserError(
            f"no rule grew a connected graph of {limits.min_size} to {limits.max_size} nodes;"
            " try more --tournaments or another --seed"
        )
    return best
