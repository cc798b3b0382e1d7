"""Evolution of rules: it gets better, is the same for a seed, and can be interrupted."""

import itertools
import math

import numpy as np
import pytest

from spiky_rl.reservoirs.growth import evolution, scoring
from spiky_rl.reservoirs.growth.dgca import grow, extract_largest_part
from spiky_rl.reservoirs.growth.evolution import GraphLimits, evolve

LIMITS = GraphLimits(min_size=5, max_size=60)


def density(cells):
    """Far from five synapses a neuron is bad."""
    return abs(cells.adjacency.sum() / cells.size - 5.0)


def run(seed=0, tournaments=40, **settings):
    seen = []
    generator = np.random.default_rng(seed)
    best = evolve(density, generator, tournaments, limits=LIMITS, progress=seen.append, **settings)
    return best, seen


def test_evolution_improves_and_tells_of_it():
    best, seen = run()
    assert best is not None
    assert [p.tournament for p in seen] == list(range(1, 41))
    curve = [p.best.fitness for p in seen if p.best is not None]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] < curve[0]
    for before, now in itertools.pairwise(seen):
        assert now.improved == (before.best is not now.best)
    assert seen[-1].best is best
    assert seen[-1].growths >= seen[-1].measured > 10


@pytest.mark.slow
def test_selection_does_better_than_chance(monkeypatch):
    def wanted(cells):
        return abs(cells.adjacency.sum() / cells.size - 3.37) + abs(cells.size - 41) / 10

    def mean():
        found = [evolve(wanted, np.random.default_rng(s), 80, limits=LIMITS) for s in range(4)]
        return np.mean([best.fitness for best in found if best])

    evolved = mean()
    # the same search, whose losers learn nothing from winners
    monkeypatch.setattr(evolution, "CROSSOVER", 0.0)
    monkeypatch.setattr(evolution, "MUTATION", 1.0)
    assert evolved < 0.8 * mean()


def test_the_best_is_what_its_rule_grows_and_lies_within_the_limits():
    best, _ = run(1)
    assert best is not None
    again = extract_largest_part(grow(best.rule, LIMITS.max_size).cells)
    assert np.array_equal(again.adjacency, best.cells.adjacency)
    assert density(again) == best.fitness
    assert LIMITS.min_size <= again.size <= LIMITS.max_size


def test_a_seed_gives_the_evolution():
    one, same, other = run(2, 10)[0], run(2, 10)[0], run(3, 10)[0]
    assert one and same and other
    assert np.array_equal(one.rule.action[0], same.rule.action[0]) and one.fitness == same.fitness
    assert not np.array_equal(one.rule.action[0], other.rule.action[0])


def test_rules_may_have_a_hidden_layer():
    best, _ = run(0, 5, hidden=16)
    assert best is not None and [w.shape for w in best.rule.action] == [(9, 16), (16, 15)]


def test_an_interruption_ends_it_after_a_tournament():
    seen = []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(density, np.random.default_rng(0), 40, limits=LIMITS, progress=interrupt)
    assert len(seen) == 3 and seen[-1].best is not None


def test_what_cannot_be_measured_never_wins():
    assert evolve(lambda _: math.nan, np.random.default_rng(0), 1, limits=LIMITS) is None
    with pytest.raises(ValueError, match="population: 1 is out of range"):
        run(population=1)


def test_the_winner_gives_half_its_columns_and_the_loser_mutates():
    generator = np.random.default_rng(0)
    loser = evolution._Chromosome((np.zeros((50, 4000)),), 0.5)
    winner = evolution._Chromosome((np.full((50, 4000), 9.0),), 0.1)
    evolution._recombine(loser, winner, generator)
    layer = loser.layers[0]
    mutated = (layer != 0.0) & (layer != 9.0)
    assert mutated.mean() == pytest.approx(0.02, rel=0.1)
    assert np.abs(layer[mutated]).max() <= 1.0
    columns = np.median(layer, 0)
    assert set(columns) == {0.0, 9.0} and (columns == 9.0).mean() == pytest.approx(0.5, abs=0.05)
    assert loser.best_fitness == math.inf and (winner.layers[0] == 9.0).all()


def test_the_score_is_that_of_a_spiking_reservoir_and_the_same_every_time():
    score = scoring.ReservoirScore("narma10", seed=3, train=200, test=200, series=10, washout=20)
    best, _ = run(0, 10)
    assert best is not None
    found = score(best.cells)
    assert 0.3 < found < 1.2
    graph = scoring.make_grown_graph(best.cells, best.rule, score, found)
    assert np.array_equal(graph.adjacency, best.cells.adjacency)
    net = scoring.make_reservoir(graph.make_wiring(), graph.measured["network"])
    assert score.evaluate(net.drive) == found
    assert score.settings()["unit"] == "NRMSE"
    assert scoring.ReservoirScore("memory", 0).settings()["unit"] == "-memory capacity"
