"""Developmental Graph Cellular Automata: a directed graph that grows from one node, by a rule that every node follows.

The input of a node is G: its own state, the counts of its in-neighbours' states and of its out-neighbours' states, divided by the
largest of these numbers. One network maps G to an action (remove, stay, divide, and the wiring of a child). All nodes act at once.
Then a second network maps the G of the new graph to the nodes' new states.

Source: Waldegrave, Stepney & Trefzer (2023); the rule set is that of Barandiaran & Stovold (2025) without its optional noise.
It differs from their published code in two points: a child is kept for any of its three wiring choices, not only for the first
two, and ties go to the first choice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import networkx
import numpy as np
from scipy.sparse import csgraph, csr_array

from spiky_rl.reservoirs.graphs.grown import STATES

CHOICES = 15
"""Outputs of the action network: 3 for remove, stay, divide; 4 each for forward, backward and new-new wiring."""
REMOVE, DIVIDE = 0, 2
"""Actions among the first three outputs; 1 is to stay."""
NONE, IDENTITY, ADJACENT, TRANSPOSED = range(4)
"""Wiring of a child: no edges; with its parent; with the same nodes as its parent; the same with edges reversed."""
MAX_STEPS = 100


@dataclass(frozen=True)
class CellGraph:
    """A graph of nodes with states."""

    adjacency: np.ndarray
    """bool [N, N], from row to column"""
    states: np.ndarray
    """int [N]"""

    @property
    def size(self) -> int:
        """N."""
        return len(self.states)


@dataclass(frozen=True)
class GrowthRule:
    """The two networks that all nodes follow, as matrices without biases."""

    action: tuple[np.ndarray, ...]
    """[9, 15], or [9, hidden] and [hidden, 15] with a logistic function in between."""
    state: tuple[np.ndarray, ...]
    """([9, 3],)"""


@dataclass(frozen=True)
class GrowthResult:
    """The result of a growth."""

    cells: CellGraph
    """The last graph within the maximum size."""
    steps: int
    end: str
    """Why the growth ended: ``died``, ``attractor`` (an earlier graph recurred), ``size`` (the next graph was too large), or ``steps`` (all
    were done)."""


@dataclass(frozen=True)
class NodeActions:
    """The action of each node; the wiring applies to nodes that divide."""

    remove: np.ndarray
    """bool [N]"""
    divide: np.ndarray
    """bool [N]"""
    forward: np.ndarray
    """int [N], one of NONE to TRANSPOSED: edges from old nodes to the node's child"""
    backward: np.ndarray
    """int [N]: edges from the node's child to old nodes"""
    new: np.ndarray
    """int [N]: edges between children"""


def draw_rule(generator: np.random.Generator, hidden: int = 0) -> GrowthRule:
    """Return a rule with weights uniform in [-1, 1]; its action network has ``hidden`` neurons, 0 for a single layer."""
    widths = [3 * STATES, hidden, CHOICES] if hidden else [3 * STATES, CHOICES]
    action = tuple(generator.uniform(-1.0, 1.0, shape) for shape in itertools.pairwise(widths))
    return GrowthRule(action, (generator.uniform(-1.0, 1.0, (3 * STATES, STATES)),))


def collect_neighbourhood(cells: CellGraph) -> np.ndarray:
    """Return G [N, 9] of ``cells``: own state, states of in-neighbours, states of out-neighbours."""
    one_hot = np.eye(STATES)[cells.states]
    adjacency = cells.adjacency.astype(float)
    counts = np.concatenate([one_hot, adjacency.T @ one_hot, adjacency @ one_hot], 1)
    return counts / np.max(counts, axis=1, keepdims=True, initial=1.0)


def _forward(layers: tuple[np.ndarray, ...], x: np.ndarray) -> np.ndarray:
    """Return the outputs of a rule's network, with a logistic function between its ``layers``."""
    for weights in layers[:-1]:
        x = 1.0 / (1.0 + np.exp(-(x @ weights)))
    return x @ layers[-1]


def choose_actions(rule: GrowthRule, cells: CellGraph) -> NodeActions:
    """Return the actions of all nodes of ``cells``: the largest output in each group of the ``rule``'s outputs."""
    output = _forward(rule.action, collect_neighbourhood(cells))
    action = output[:, :3].argmax(1)
    return NodeActions(
        remove=action == REMOVE,
        divide=action == DIVIDE,
        forward=output[:, 3:7].argmax(1),
        backward=output[:, 7:11].argmax(1),
        new=output[:, 11:15].argmax(1),
    )


def restructure(cells: CellGraph, actions: NodeActions) -> CellGraph:
    """Return the graph after the ``actions``: the surviving nodes in order, then the children in order, with their parents' states.

    Every node first gets a child; then the removed nodes, and the children of nodes that do not divide, are left out.
    """
    adjacency = cells.adjacency
    identity = np.eye(cells.size, dtype=bool)

    def wire(choice: np.ndarray) -> np.ndarray:
        """Return edges [N, N] by the ``choice`` of each child; ``choice`` must broadcast along the axis of the old nodes."""
        return (
            identity & (choice == IDENTITY)
            | adjacency & (choice == ADJACENT)
            | adjacency.T & (choice == TRANSPOSED)
        )

    to_children = wire(actions.forward)
    from_children = wire(actions.backward[:, None])
    among_children = wire(actions.new[:, None])
    wired = (actions.forward != NONE) | (actions.backward != NONE) | (actions.new != NONE)
    staying = np.flatnonzero(np.concatenate([~actions.remove, actions.divide & wired]))
    with_children = np.block([[adjacency, to_children], [from_children, among_children]])
    states = np.concatenate([cells.states, cells.states])
    return CellGraph(with_children[np.ix_(staying, staying)], states[staying])


def extract_largest_part(cells: CellGraph) -> CellGraph:
    """Return the largest weakly connected part of ``cells`` (the first one of equal size)."""
    if cells.size == 0:
        return cells
    labels = csgraph.connected_components(csr_array(cells.adjacency), connection="weak")[1]
    staying = labels == np.bincount(labels).argmax()
    return CellGraph(cells.adjacency[np.ix_(staying, staying)], cells.states[staying])


def step(rule: GrowthRule, cells: CellGraph) -> CellGraph:
    """Return ``cells`` after one step of development by a ``rule``; the result may be empty."""
    cells = restructure(cells, choose_actions(rule, cells))
    return CellGraph(cells.adjacency, _forward(rule.state, collect_neighbourhood(cells)).argmax(1))


def grow(rule: GrowthRule, max_size: int = 200, max_steps: int = MAX_STEPS) -> GrowthResult:
    """Develop a graph from one node until it dies, returns to an earlier graph, gets larger than ``max_size`` nodes, or all steps are done."""
    cells = CellGraph(np.zeros((1, 1), bool), np.zeros(1, int))
    earlier: dict[bytes, list[CellGraph]] = {_compute_fingerprint(cells): [cells]}
    for count in range(1, max_steps + 1):
        next_cells = step(rule, cells)
        if next_cells.size == 0:
            return GrowthResult(next_cells, count, "died")
        if next_cells.size > max_size:
            return GrowthResult(cells, count - 1, "size")
        cells = next_cells
        candidates = earlier.setdefault(_compute_fingerprint(cells), [])
        if any(are_isomorphic(cells, candidate) for candidate in candidates):
            return GrowthResult(cells, count, "attractor")
        candidates.append(cells)
    return GrowthResult(cells, max_steps, "steps")


def _compute_fingerprint(cells: CellGraph) -> bytes:
    """Return a key that is equal for isomorphic graphs: the sorted rows of G."""
    inputs = collect_neighbourhood(cells)
    return np.ascontiguousarray(inputs[np.lexsort(inputs.T)]).tobytes()


def are_isomorphic(a: CellGraph, b: CellGraph) -> bool:
    """Return whether a renumbering of the nodes turns ``a`` into ``b``, states included."""
    if a.size != b.size or a.adjacency.sum() != b.adjacency.sum():
        return False
    if np.array_equal(a.adjacency, b.adjacency) and np.array_equal(a.states, b.states):
        return True
    # colours tell most pairs apart, and leave the search few candidates in the other pairs
    colours = _refine_colours(a, b)
    if not np.array_equal(np.sort(colours[: a.size]), np.sort(colours[a.size :])):
        return False
    graphs = []
    for cells, own in ((a, colours[: a.size]), (b, colours[a.size :])):
        graph = networkx.from_numpy_array(cells.adjacency, create_using=networkx.DiGraph)
        networkx.set_node_attributes(graph, dict(enumerate(own.tolist())), "colour")
        graphs.append(graph)
    return networkx.vf2pp_is_isomorphic(graphs[0], graphs[1], node_label="colour")


def _refine_colours(a: CellGraph, b: CellGraph) -> np.ndarray:
    """Return colours of both graphs' nodes, refined by their neighbours' colours until nothing changes (Weisfeiler-Leman)."""
    size = a.size
    adjacency = np.zeros((2 * size, 2 * size))
    adjacency[:size, :size], adjacency[size:, size:] = a.adjacency, b.adjacency
    loops = adjacency.diagonal().astype(int)
    colours = np.unique(np.concatenate([a.states, b.states]) * 2 + loops, return_inverse=True)[1]
    while True:
        count = colours.max(initial=-1) + 1
        one_hot = np.eye(count)[colours]
        described = np.concatenate([colours[:, None], adjacency.T @ one_hot, adjacency @ one_hot], 1)
        colours = np.unique(described, axis=0, return_inverse=True)[1].ravel()
        if colours.max(initial=-1) + 1 == count:
            return colours
