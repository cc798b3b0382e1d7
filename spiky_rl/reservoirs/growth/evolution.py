"""Evolution of growth rules: a microbial genetic algorithm on two populations of chromosomes.

A growth rule has two networks, see `dgca`: one decides what a node does (action), one decides its next state. A tournament draws two
of each, which form two individuals. Each grows a graph, and the individual whose largest connected part has the better fitness wins
(whole graphs would evolve into crowds of unconnected neurons). The loser's chromosomes take half of the winner's columns and then
mutate; a chromosome that was part of a better individual than this winner is left unchanged. If neither graph is valid, both
individuals are drawn again, weight by weight, until one is valid.

Source: Harvey (2011), The microbial genetic algorithm; Barandiaran & Stovold (2025).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.reservoirs.graphs.grown import write
from spiky_rl.reservoirs.growth.dgca import (
    CellGraph,
    GrowthRule,
    draw_rule,
    extract_largest_part,
    grow,
)
from spiky_rl.reservoirs.growth.scoring import ReservoirScore, make_grown_graph
from spiky_rl.reservoirs.growth.settings import GrowRequest

log = logging.getLogger(__name__)

Fitness = Callable[[CellGraph], float]
"""Fitness function. Its value is a score such as the NRMSE of a task; lower is better, and a non-finite score is invalid."""

CROSSOVER, MUTATION = 0.5, 0.02
"""In a loser: share of the winner's columns, and probability of a new weight."""
ATTEMPTS = 200
"""Maximum pairs of rules drawn in one tournament until one of them grows a valid graph."""


@dataclass(frozen=True)
class GraphLimits:
    """Limits of valid graphs."""

    min_size: int = 20
    """Minimum nodes of the largest connected part."""
    max_size: int = 200
    """Maximum nodes of the whole graph."""


@dataclass(frozen=True)
class Individual:
    """A rule, the largest connected part of its graph, and the fitness of that part."""

    rule: GrowthRule
    cells: CellGraph
    fitness: float

    @property
    def is_valid(self) -> bool:
        """Whether its graph has a fitness."""
        return math.isfinite(self.fitness)


@dataclass(frozen=True)
class EvolutionProgress:
    """The state of an evolution after a tournament."""

    tournament: int
    """From 1."""
    growths: int
    """Number of graphs grown so far, valid or not."""
    measured: int
    """Number of different graphs with a measured fitness so far."""
    best: Individual | None
    """None if there is no valid graph yet."""
    improved: bool
    """Whether the best is from this tournament."""


@dataclass
class _Chromosome:
    layers: tuple[np.ndarray, ...]
    best_fitness: float = math.inf
    """Best fitness of the individuals that it was part of."""


_RulePair = list[tuple[_Chromosome, _Chromosome]]
"""Chromosomes of action and state, for each of the two rules of a tournament."""


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
                write(request.out, make_grown_graph(best.cells, best.rule, score, best.fitness))
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


def evolve(
    fitness: Fitness,
    generator: np.random.Generator,
    tournaments: int = 1000,
    population: int = 10,
    hidden: int = 0,
    limits: GraphLimits = GraphLimits(),
    progress: Callable[[EvolutionProgress], None] = lambda _: None,
) -> Individual | None:
    """Run an evolution and return its best individual; None if no rule grew a valid graph.

    Args:
        fitness: Scores a valid graph; the score must be the same for the same graph.
        generator: Random generator of the evolution.
        tournaments: Number of tournaments.
        population: Chromosomes of each kind, at least 2.
        hidden: Hidden neurons in the action network; 0 for a single layer.
        limits: Limits of valid graphs.
        progress: Called after every tournament; an exception from it ends the evolution.
    """
    if population < 2:
        raise ValueError(f"population: {population} is out of range; a tournament needs at least 2")
    rules = [draw_rule(generator, hidden) for _ in range(population)]
    actions = [_Chromosome(rule.action) for rule in rules]
    states = [_Chromosome(rule.state) for rule in rules]
    best: Individual | None = None
    growths = 0
    scores: dict[bytes, float] = {}
    for tournament in range(1, tournaments + 1):
        old_best = best
        pair = list(zip(_draw_two(actions, generator), _draw_two(states, generator), strict=True))
        individuals, grown = _grow_pair(pair, fitness, limits, scores, generator)
        growths += grown
        for individual in individuals:
            if individual.is_valid and (best is None or individual.fitness < best.fitness):
                best = individual
        winner = 1 if individuals[1].fitness < individuals[0].fitness else 0
        if individuals[winner].is_valid:
            for mine, theirs in zip(pair[1 - winner], pair[winner], strict=True):
                if mine.best_fitness >= individuals[winner].fitness:
                    _recombine(mine, theirs, generator)
        progress(EvolutionProgress(tournament, growths, len(scores), best, best is not old_best))
    return best


def _grow_pair(
    pair: _RulePair,
    fitness: Fitness,
    limits: GraphLimits,
    scores: dict[bytes, float],
    generator: np.random.Generator,
) -> tuple[list[Individual], int]:
    """Return the individuals of a pair of rules, and the number of graphs grown for them.

    If both graphs are invalid, all chromosomes of the pair are drawn again, in place. At most `ATTEMPTS` pairs are grown.
    """
    individuals: list[Individual] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            for action, state in pair:
                _renew(action, generator)
                _renew(state, generator)
        individuals = [_grow_individual(action, state, fitness, limits, scores) for action, state in pair]
        if any(individual.is_valid for individual in individuals):
            return individuals, 2 * (attempt + 1)
    return individuals, 2 * ATTEMPTS


def _draw_two(chromosomes: list[_Chromosome], generator: np.random.Generator) -> list[_Chromosome]:
    return [chromosomes[i] for i in generator.choice(len(chromosomes), 2, replace=False)]


def _grow_individual(
    action: _Chromosome, state: _Chromosome, fitness: Fitness, limits: GraphLimits, scores: dict[bytes, float]
) -> Individual:
    """Grow the graph of two chromosomes and measure its fitness, and record it in the chromosomes.

    ``scores`` holds the fitness of every graph by its digest, so that no graph is measured twice.
    """
    rule = GrowthRule(action.layers, state.layers)
    cells = extract_largest_part(grow(rule, limits.max_size).cells)
    value = math.inf
    if cells.size >= limits.min_size:
        # the same two chromosomes meet in several tournaments
        key = hashlib.sha256(cells.adjacency.tobytes() + cells.states.tobytes()).digest()
        if key not in scores:
            measured = fitness(cells)
            scores[key] = math.inf if math.isnan(measured) else measured
        value = scores[key]
    for chromosome in (action, state):
        chromosome.best_fitness = min(chromosome.best_fitness, value)
    return Individual(rule, cells, value)


def _renew(chromosome: _Chromosome, generator: np.random.Generator) -> None:
    """Draw all weights of a ``chromosome`` again."""
    chromosome.layers = tuple(generator.uniform(-1.0, 1.0, layer.shape) for layer in chromosome.layers)
    chromosome.best_fitness = math.inf


def _recombine(loser: _Chromosome, winner: _Chromosome, generator: np.random.Generator) -> None:
    """Give the loser half of the winner's columns, then mutate it. The result has not been part of an individual yet."""
    layers = []
    for mine, theirs in zip(loser.layers, winner.layers, strict=True):
        columns = generator.random(mine.shape[1]) < CROSSOVER
        layer = np.where(columns, theirs, mine)
        mutated = generator.random(mine.shape) < MUTATION
        layers.append(np.where(mutated, generator.uniform(-1.0, 1.0, mine.shape), layer))
    loser.layers, loser.best_fitness = tuple(layers), math.inf
