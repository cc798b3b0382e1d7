"""Evolution of growth rules: a microbial genetic algorithm on two populations of chromosomes.

A tournament draws two action networks and two state networks, which make two individuals; each grows a graph, and the
fitness of the graphs' largest connected parts decides (whole graphs evolve into crowds of unconnected neurons). The
loser's chromosomes get half the winner's columns and then mutate, except for one that has been part of something better
than this winner. Where neither graph is valid, both individuals are drawn anew, weight by weight, until one is.

Source: Harvey (2011), The microbial genetic algorithm; Barandiaran & Stovold (2025).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spiky_rl.reservoirs.growth.dgca import MAX_STEPS, CellGraph, GrowthRule, grow, largest_part, random_rule

Fitness = Callable[[CellGraph], float]
"""Lower is better: an error such as the NRMSE of a task. Infinite or not a number: not valid."""

CROSSOVER, MUTATION = 0.5, 0.02
"""Share of the winner's columns, and probability of a new weight, in a loser."""
ATTEMPTS = 200
"""Pairs of rules in one tournament of which neither may grow a valid graph."""


@dataclass(frozen=True)
class GraphLimits:
    """Which graphs are valid."""

    min_size: int = 20
    """Least size of the largest connected part,"""
    max_size: int = 200
    """and of the whole graph."""
    max_steps: int = MAX_STEPS


@dataclass(frozen=True)
class Individual:
    """A rule, the largest connected part of what it grew and how good that is."""

    rule: GrowthRule
    cells: CellGraph
    fitness: float


@dataclass(frozen=True)
class EvolutionProgress:
    """The state of an evolution after a tournament."""

    tournament: int
    """From 1."""
    growths: int
    """Graphs grown so far, valid or not."""
    measured: int
    """Different graphs whose fitness was measured so far."""
    best: Individual | None
    """None: no valid graph yet."""
    improved: bool
    """The best is this tournament's."""


@dataclass
class _Chromosome:
    layers: tuple[np.ndarray, ...]
    record: float = math.inf
    """Best fitness of what it was part of."""


def evolve(
    fitness: Fitness,
    generator: np.random.Generator,
    tournaments: int = 1000,
    population: int = 10,
    hidden: int = 0,
    limits: GraphLimits = GraphLimits(),
    progress: Callable[[EvolutionProgress], None] = lambda _: None,
) -> Individual | None:
    """The best individual of an evolution; None where no rule grew a valid graph.

    Args:
        fitness: Function that scores a valid graph; the score has to be the same for the same graph.
        generator: Random generator of everything drawn here.
        tournaments: How many.
        population: Chromosomes of each kind, at least 2.
        hidden: Neurons in the action network; 0: it has a single layer.
        limits: What makes a graph valid.
        progress: Called after every tournament; what it raises ends the evolution.
    """
    if population < 2:
        raise ValueError(f"population: {population} is out of range; a tournament needs at least 2")
    drawn = [random_rule(generator, hidden) for _ in range(population)]
    actions = [_Chromosome(rule.action) for rule in drawn]
    states = [_Chromosome(rule.state) for rule in drawn]
    best: Individual | None = None
    growths = 0
    known: dict[bytes, float] = {}
    for tournament in range(1, tournaments + 1):
        before = best
        pair = list(zip(_draw_pair(actions, generator), _draw_pair(states, generator), strict=True))
        for attempt in range(ATTEMPTS):
            if attempt:
                for action, state in pair:
                    _renew(action, generator)
                    _renew(state, generator)
            individuals = []
            for action, state in pair:
                individuals.append(_individual(action, state, fitness, limits, known))
                growths += 1
            if any(math.isfinite(individual.fitness) for individual in individuals):
                break
        for individual in individuals:
            if math.isfinite(individual.fitness) and (best is None or individual.fitness < best.fitness):
                best = individual
        won = int(individuals[1].fitness < individuals[0].fitness)
        if math.isfinite(individuals[won].fitness):
            for winner, loser in zip(pair[won], pair[1 - won], strict=True):
                if loser.record >= individuals[won].fitness:
                    _recombine(loser, winner, generator)
        progress(EvolutionProgress(tournament, growths, len(known), best, best is not before))
    return best


def _draw_pair(chromosomes: list[_Chromosome], generator: np.random.Generator) -> list[_Chromosome]:
    return [chromosomes[i] for i in generator.choice(len(chromosomes), 2, replace=False)]


def _individual(
    action: _Chromosome, state: _Chromosome, fitness: Fitness, limits: GraphLimits, known: dict[bytes, float]
) -> Individual:
    rule = GrowthRule(action.layers, state.layers)
    cells = largest_part(grow(rule, limits.max_size, limits.max_steps).cells)
    value = math.inf
    if cells.size >= limits.min_size:
        # the same rules meet again and again
        key = hashlib.sha256(cells.adjacency.tobytes() + cells.states.tobytes()).digest()
        if key not in known:
            measured = fitness(cells)
            known[key] = math.inf if math.isnan(measured) else measured
        value = known[key]
    for chromosome in (action, state):
        chromosome.record = min(chromosome.record, value)
    return Individual(rule, cells, value)


def _renew(chromosome: _Chromosome, generator: np.random.Generator) -> None:
    chromosome.layers = tuple(generator.uniform(-1.0, 1.0, layer.shape) for layer in chromosome.layers)
    chromosome.record = math.inf


def _recombine(loser: _Chromosome, winner: _Chromosome, generator: np.random.Generator) -> None:
    """Half the winner's columns, then mutation. What the loser has become has no record."""
    layers = []
    for mine, theirs in zip(loser.layers, winner.layers, strict=True):
        columns = generator.random(mine.shape[1]) < CROSSOVER
        layer = np.where(columns, theirs, mine)
        mutated = generator.random(mine.shape) < MUTATION
        layers.append(np.where(mutated, generator.uniform(-1.0, 1.0, mine.shape), layer))
    loser.layers, loser.record = tuple(layers), math.inf
