"""Developmental Graph Cellular Automata: golden steps by hand, and how random rules end."""

import collections

import numpy as np
import pytest

from spiky_rl.reservoirs.growth import dgca
from spiky_rl.reservoirs.growth.dgca import ADJACENT, IDENTITY, NONE, TRANSPOSED, CellGraph, NodeActions

NO, YES = False, True


def cells(size, edges, states=None):
    adjacency = np.zeros((size, size), bool)
    for a, b in edges:
        adjacency[a, b] = True
    return CellGraph(adjacency, np.array(states or [0] * size))


def actions(size, remove=(), **divide):
    """By node: ``n0=(forward, backward, new)``."""
    wiring = np.array([divide.get(f"n{i}", (NONE,) * 3) for i in range(size)]).T
    return NodeActions(
        np.isin(np.arange(size), remove), np.array([f"n{i}" in divide for i in range(size)]), *wiring
    )


RING = cells(3, [(0, 1), (1, 2), (2, 0)], [0, 1, 2])


def test_a_node_sees_itself_those_before_and_those_after_it():
    assert dgca.collect_neighbourhood(RING)[0].tolist() == [1, 0, 0, 0, 0, 1, 0, 1, 0]


def test_counts_are_divided_by_the_largest():
    star = cells(5, [(1, 0), (2, 0), (3, 0), (4, 0)], [2, 0, 0, 1, 1])
    assert dgca.collect_neighbourhood(star)[0].tolist() == [0, 0, 0.5, 1, 1, 0, 0, 0, 0]


def test_golden_division_of_a_ring():
    n0, n2 = (IDENTITY, ADJACENT, IDENTITY), (ADJACENT, TRANSPOSED, ADJACENT)
    found = dgca.restructure(RING, actions(3, n0=n0, n2=n2))
    assert found.adjacency.astype(int).tolist() == [
        [0, 1, 0, 1, 0],
        [0, 0, 1, 0, 1],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0],
    ]
    assert found.states.tolist() == [0, 1, 2, 0, 2]


EDGE = cells(2, [(0, 1)], [1, 2])


@pytest.mark.parametrize(
    ("wiring", "edges"),
    [
        ((IDENTITY, NONE, NONE), [(0, 1), (0, 2)]),
        ((ADJACENT, NONE, NONE), [(0, 1)]),
        ((TRANSPOSED, NONE, NONE), [(0, 1), (1, 2)]),
        ((NONE, IDENTITY, NONE), [(0, 1), (2, 0)]),
        ((NONE, ADJACENT, NONE), [(0, 1), (2, 1)]),
        ((NONE, TRANSPOSED, NONE), [(0, 1)]),
        ((NONE, NONE, IDENTITY), [(0, 1), (2, 2)]),
    ],
)
def test_each_wiring_of_the_child_of_the_first_node_of_an_edge(wiring, edges):
    found = dgca.restructure(EDGE, actions(2, n0=wiring))
    assert np.argwhere(found.adjacency).tolist() == sorted(map(list, edges))
    assert found.states.tolist() == [1, 2, 1]


def test_children_are_wired_among_each_other_as_their_parents_are():
    both = (NONE, NONE, ADJACENT)
    found = dgca.restructure(EDGE, actions(2, n0=both, n1=both))
    assert np.argwhere(found.adjacency).tolist() == [[0, 1], [2, 3]]
    both = (NONE, NONE, TRANSPOSED)
    found = dgca.restructure(EDGE, actions(2, n0=both, n1=both))
    assert np.argwhere(found.adjacency).tolist() == [[0, 1], [3, 2]]


def test_removed_nodes_take_their_edges_and_a_child_without_wiring_is_not_born():
    found = dgca.restructure(RING, actions(3, remove=[1], n0=(NONE, NONE, NONE)))
    assert found.states.tolist() == [0, 2]
    assert np.argwhere(found.adjacency).tolist() == [[1, 0]]


def test_the_largest_part_hangs_together_whatever_the_edges_directions():
    apart = cells(7, [(0, 1), (2, 3), (4, 3), (4, 5), (6, 6)], [0, 0, 1, 2, 1, 2, 0])
    found = dgca.extract_largest_part(apart)
    assert found.states.tolist() == [1, 2, 1, 2]
    assert np.argwhere(found.adjacency).tolist() == [[0, 1], [2, 1], [2, 3]]
    assert dgca.extract_largest_part(cells(0, [])).size == 0


def test_a_rule_that_removes_dies_and_one_that_stays_is_an_attractor():
    for choice, end in ((0, "died"), (1, "attractor")):
        outputs = np.zeros(15)
        outputs[choice] = 1.0
        rule = dgca.GrowthRule((np.repeat(outputs[None], 9, 0),), (np.zeros((9, 3)),))
        found = dgca.grow(rule)
        assert (found.end, found.steps) == (end, 1)


def test_doubling_ends_at_the_largest_size_and_its_graph_is_the_one_before():
    outputs = np.zeros(15)
    outputs[[2, 4]] = 1.0  # divide; d -> d'
    rule = dgca.GrowthRule((np.repeat(outputs[None], 9, 0),), (np.zeros((9, 3)),))
    found = dgca.grow(rule, max_size=100)
    assert (found.end, found.cells.size, found.steps) == ("size", 64, 6)
    # every step adds an edge to each node: a binomial tree
    assert found.cells.adjacency.sum() == 63
    assert dgca.grow(rule, max_size=10**9, max_steps=3).end == "steps"


def test_ties_go_to_the_first_choice():
    zero = dgca.GrowthRule((np.zeros((9, 15)),), (np.zeros((9, 3)),))
    assert dgca.choose_actions(zero, RING).remove.all()
    assert dgca.grow(zero).end == "died"


@pytest.mark.parametrize("size", [3, 9, 30])
def test_a_renumbered_graph_is_isomorphic_and_one_with_an_edge_moved_is_not(size):
    generator = np.random.default_rng(size)
    one = CellGraph(generator.random((size, size)) < 2.0 / size, generator.integers(3, size=size))
    order = generator.permutation(size)
    twin = CellGraph(one.adjacency[np.ix_(order, order)], one.states[order])
    assert dgca.are_isomorphic(one, twin)
    assert dgca._compute_fingerprint(one) == dgca._compute_fingerprint(twin)
    moved = twin.adjacency.copy()
    (a, b), (c, d) = np.argwhere(moved)[0], np.argwhere(~moved)[0]
    moved[a, b], moved[c, d] = False, True
    assert not dgca.are_isomorphic(one, CellGraph(moved, twin.states)) or size == 3
    assert not dgca.are_isomorphic(one, CellGraph(twin.adjacency, (twin.states + 1) % 3))


def test_graphs_that_look_alike_from_every_node_are_told_apart():
    # two triangles and a hexagon: colours cannot, the search can
    triangles = cells(6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)])
    hexagon = cells(6, [(i, (i + 1) % 6) for i in range(6)])
    assert dgca._compute_fingerprint(triangles) == dgca._compute_fingerprint(hexagon)
    assert not dgca.are_isomorphic(triangles, hexagon)


def test_a_seed_gives_the_rule_and_the_rule_gives_the_graph():
    rules = [dgca.draw_rule(np.random.default_rng(s), hidden=8) for s in (4, 4, 5)]
    assert np.array_equal(rules[0].action[1], rules[1].action[1])
    assert not np.array_equal(rules[0].action[0], rules[2].action[0])
    one, same = (dgca.grow(rule) for rule in rules[:2])
    assert np.array_equal(one.cells.adjacency, same.cells.adjacency)


EXPECTED = {
    0: {"died": 0.44, "attractor": 0.30, "size": 0.25, "steps": 0.01},
    64: {"died": 0.35, "attractor": 0.36, "size": 0.28, "steps": 0.01},
}


@pytest.mark.parametrize("hidden", [0, pytest.param(64, marks=pytest.mark.slow)])
def test_random_rules_end_as_often_one_way_or_another_as_in_the_reference_sheet(hidden):
    generator = np.random.default_rng(0)
    found = [dgca.grow(dgca.draw_rule(generator, hidden), max_size=300) for _ in range(300)]
    ends = collections.Counter(growth.end for growth in found)
    for end, share in EXPECTED[hidden].items():
        # four standard deviations of the difference of two samples of 300
        assert ends[end] / 300 == pytest.approx(share, abs=0.16 if share > 0.1 else 0.03), ends
    assert 0.15 < np.mean([growth.cells.size >= 10 for growth in found]) < 0.40
