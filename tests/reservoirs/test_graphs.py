"""Graphs: what is wired is what the options and the sources say."""

import numpy as np
import pytest

from spiky_rl.config import registry
from spiky_rl.reservoirs.graphs import grown, maass

SIZE = 400
RANDOM = [name for name in registry.list_names("graphs") if name != "grown"]


def wire(name, size=SIZE, seed=0, **options):
    configured = registry.configure("graphs", {"name": name, **options}, "graph")
    return configured.build().wire(size, np.random.default_rng(seed))


@pytest.mark.parametrize("name", RANDOM)
def test_every_graph_keeps_dales_law_and_has_no_loops(name):
    found = wire(name)
    assert found.weights.shape == (SIZE, SIZE) and found.weights.dtype == np.float32
    assert (found.weights[found.inhibitory] <= 0).all() and (found.weights[~found.inhibitory] >= 0).all()
    assert found.weights.min() < 0 < found.weights.max()
    assert not found.weights.diagonal().any()
    assert found.inhibitory.sum() == SIZE // 5


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_gives_the_graph_and_the_global_state_does_not_matter(name):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    one = wire(name)
    assert np.array_equal(np.random.get_state()[1], before), "global random state was touched"  # type: ignore[index]
    np.random.seed(2)
    assert np.array_equal(wire(name).weights, one.weights)
    assert not np.array_equal(wire(name, seed=1).weights, one.weights)


@pytest.mark.parametrize("name", RANDOM)
def test_excitatory_weights_have_mean_1(name):
    found = wire(name)
    to_excitatory = found.weights[np.ix_(~found.inhibitory, ~found.inhibitory)]
    assert to_excitatory[to_excitatory != 0].mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("density", [0.05, 0.1, 1.0])
def test_erdos_renyi_has_the_density_asked_for(density):
    found = wire("erdos_renyi", density=density)
    assert found.density == pytest.approx(density, rel=0.02)


def test_erdos_renyi_draws_in_degrees_as_a_binomial_distribution():
    degrees = (wire("erdos_renyi").weights != 0).sum(0)
    assert degrees.var() == pytest.approx((SIZE - 1) * 0.1 * 0.9, rel=0.2)


def test_erdos_renyi_weights_are_spread_and_balanced():
    found = wire("erdos_renyi")
    excitatory = found.weights[found.weights > 0]
    assert excitatory.std() == pytest.approx(0.3, rel=0.05)
    assert excitatory.min() > 0
    assert found.weights[found.weights < 0].mean() == pytest.approx(-4.0, rel=0.03)
    # a fifth of the neurons with four times the strength
    assert abs(found.weights.sum()) < 0.05 * np.abs(found.weights).sum()
    assert set(np.unique(wire("erdos_renyi", spread=0.0).weights)) == {-4.0, 0.0, 1.0}
    assert wire("erdos_renyi", inhibitory=0.0).weights.min() == 0.0


def test_maass_column_is_filled_layer_by_layer():
    found = wire("maass", size=135)
    assert found.position is not None
    assert np.ptp(found.position, axis=0).tolist() == [2, 2, 14]
    assert len(np.unique(found.position, axis=0)) == 135
    wide = wire("maass", size=20, cross_section=4)
    assert wide.position is not None
    assert wide.position[16].tolist() == [0, 0, 1]


def test_maass_connects_by_distance_and_kind():
    kinds, near, far = {}, {}, {}
    for seed in range(3):
        found = wire("maass", size=900, seed=seed, cross_section=6, inhibitory=0.5)
        assert found.position is not None
        distance = np.linalg.norm(found.position[:, None] - found.position, axis=-1)
        there, i = found.weights != 0, found.inhibitory.astype(int)
        for a, b in np.ndindex(2, 2):
            pairs = (i[:, None] == a) & (i == b)
            near.setdefault((a, b), []).append(there[pairs & (distance == 1.0)])
            far.setdefault((a, b), []).append(there[pairs & (distance == 2.0)])
            kinds.setdefault((a, b), []).append(found.weights[pairs & there])
    for pair, constant in {(0, 0): 0.3, (0, 1): 0.2, (1, 0): 0.4, (1, 1): 0.1}.items():
        assert np.concatenate(near[pair]).mean() == pytest.approx(constant * np.exp(-0.25), rel=0.2), pair
        assert np.concatenate(far[pair]).mean() == pytest.approx(constant * np.exp(-1.0), rel=0.25), pair
    for pair, mean in {(0, 0): 1.0, (0, 1): 2.0, (1, 0): -19 / 30, (1, 1): -19 / 30}.items():
        weights = np.concatenate(kinds[pair])
        assert weights.mean() == pytest.approx(mean, rel=0.1), pair
        assert weights.std() == pytest.approx(abs(mean), rel=0.2), pair
    assert maass.MEAN[0, 0] == 1.0


def test_maass_reaches_further_with_lambda():
    assert wire("maass", reach=4.0).density > 2.0 * wire("maass").density
    assert wire("maass", reach=0.0).density == 0.0


STATES, EDGES = [0, 1, 2, 2], [[0, 1], [1, 2], [2, 0], [2, 2], [0, 3]]


def graph():
    rule = {"action": [np.ones((9, 15))], "state": [np.full((9, 3), 0.25)]}
    measured = {"task": "narma10", "unit": "NRMSE"}
    return grown.GrownGraph(np.array(STATES), np.array(EDGES), rule, 7, 0.5, measured, {"numpy": "2"})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "grown.json"
    grown.write(path, graph())
    return path


def test_a_grown_graph_is_read_as_it_was_written(file):
    found = grown.read(file)
    assert np.array_equal(found.states, STATES) and np.array_equal(found.edges, EDGES)
    assert np.array_equal(found.rule["action"][0], np.ones((9, 15)))
    assert (found.seed, found.fitness, found.measured["unit"], found.versions) == (
        7,
        0.5,
        "NRMSE",
        {"numpy": "2"},
    )
    again = file.with_name("again.json")
    grown.write(again, found)
    assert again.read_text() == file.read_text()
    assert len(file.read_text().splitlines()) > 30, "a change of one edge is a change of one line"


def test_a_grown_graph_is_wired_by_its_states(file):
    found = wire("grown", size=4, file=str(file), strength=3.0)
    assert found.weights.tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [-3, 0, -3, 0], [0, 0, 0, 0]]
    assert found.inhibitory.tolist() == [False, False, True, True]


def test_a_graph_without_edges_is_read_too(tmp_path):
    bare = grown.GrownGraph(np.array([0, 2]), np.empty((0, 2), int), graph().rule, 0, 1.0, {}, {})
    grown.write(tmp_path / "bare.json", bare)
    assert grown.read(tmp_path / "bare.json").make_wiring().density == 0.0


def test_a_grown_graph_of_another_size_is_refused(file):
    with pytest.raises(
        registry.RegistryError, match=r"file: .* has 4 neurons, not 64; set the network's size to 4"
    ):
        wire("grown", size=64, file=str(file))
    with pytest.raises(registry.RegistryError, match=r"^file: name a grown graph"):
        wire("grown", size=64)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"states": [0, 1, 2, 2]',
            '"states": [0, 1, 2, 3]',
            r"states: \[0, 1, 2, 3\] given; .* below 3",
        ),
        ('"states": [0, 1, 2, 2]', '"states": []', r"states: \[\] given"),
        ("[0, 3]", "[0, 4]", r"edges\[4\]: \[0, 4\] given; allowed: nodes 0 to 3"),
        ("[0, 3]", "[0, -1]", r"edges: .* given; .* \[from, to\]"),
        ("[0, 3]", "[0, true]", r"edges: .* given"),
        ('"seed": 7', '"sead": 7', r"sead: no such key; did you mean 'seed'\?"),
        ('"seed": 7,\n', "", r"seed: missing; allowed: a whole number"),
        ('"seed": 7', '"seed": -7', r"seed: -7 given"),
        (
            '"task": "narma10"',
            '"network": {"neuron": "own.py:Own"}',
            r"measured.network: own.py:Own names code; allowed: components of the package",
        ),
        ('"fitness": 0.5', '"fitness": "low"', r"fitness: 'low' given; allowed: a number"),
        ('"state": [', '"stat": [', r"rule: .* given; .* 'action' and 'state'"),
        ("[0.25, 0.25, 0.25],\n", "[0.25, 0.25],\n", r"rule: .* given"),
        ('"version": 1', '"version": 2', r"version: 2 is not supported; allowed: 1"),
        ("spiky_rl grown graph", "graph", r"not a file of a grown graph; its format"),
        ('"seed": 7,', '"seed": 7', r"not valid JSON: .* line \d+"),
    ],
)
def test_a_broken_file_is_refused_by_file_key_and_value(file, old, new, message):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(registry.RegistryError, match=rf"graph\.file: .*grown\.json: {message}"):
        registry.configure("graphs", {"name": "grown", "file": str(file)}, "graph")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(registry.RegistryError, match=r"graph\.file: .*none\.json': No such file"):
        registry.configure("graphs", {"name": "grown", "file": str(tmp_path / "none.json")}, "graph")
