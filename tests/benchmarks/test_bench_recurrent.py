"""``bench.py`` times recurrent layers and reservoirs: each contender runs, ours is what the plain loop is, a wrong one is refused."""

import importlib.util
import json

import pytest
import torch

from benchmarks import plot as bench_plot
from benchmarks import run as bench
from benchmarks.contenders import RATE
from benchmarks.entries import CONTENDERS, NETWORKS, REFERENCES
from benchmarks.recurrent_contenders import RecurrentSetting, ReservoirSetting
from spiky_rl.cli import common

CONTROL, STEPS, BATCH = 12, {"recurrent": 3, "reservoir": 10}, 64
SEQUENCES = ("recurrent", "reservoir")
NAMES = [name for name, entry in CONTENDERS.items() if entry.kind in SEQUENCES]
EXACT = {
    "spiky_rl_recurrent",
    "jax_recurrent",
    "spiky_rl_reservoir",
    "spikingjelly_reservoir",
    "norse_reservoir",
}
"""What computes the plain loop's network."""


@pytest.fixture(scope="module")
def settings():
    """One of each network, calibrated once."""
    return {
        "recurrent": RecurrentSetting("alif", STEPS["recurrent"], "cpu", CONTROL),
        "reservoir": ReservoirSetting("lif", STEPS["reservoir"], "cpu", CONTROL),
    }


def race(setting, names, mode="train", batch=BATCH):
    """Rows of one round, by contender."""
    reference = REFERENCES[setting.kinds[0]]
    rows = bench.Race(setting, [reference, *names], 1).run(batch, mode, 1)
    return {row.contender: row for row in rows}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench, "MIN_MEASUREMENT_S", 1e-4)


def each(names):
    """Other packages' reservoirs and what is compiled first are slow."""
    slow = {name for name in names if CONTENDERS[name].package and CONTENDERS[name].kind == "reservoir"}
    slow |= {name for name in names if CONTENDERS[name].form in ("compiled", "JAX")}
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", each([name for name in NAMES if name not in REFERENCES.values()]))
@pytest.mark.slow
def test_every_contender_runs_and_is_compared_where_it_is_the_same_network(name, settings):
    package = CONTENDERS[name].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    setting = settings[CONTENDERS[name].kind]
    for mode in ("train", "infer"):
        row = race(setting, [name], mode)[name]
        assert row.failed is None and row.ms > 0 and row.ratio > 0 and row.control_steps == CONTROL
        if name in EXACT:
            assert row.same > 0.9
            assert mode == "infer" or row.cosine > 0.999
    module = CONTENDERS[name].build(setting)
    features = module(setting.make_inputs(setting.kinds[0], 5))
    assert features.shape == (CONTROL, 5, setting.widths[-1]) and features.std() > 0


def test_every_layer_fires_at_the_rate_of_the_comparison_and_a_reservoir_at_that_of_its_agent(settings):
    layers = settings["recurrent"]
    rates = layers.measure_rates("recurrent", layers.make_inputs("recurrent", BATCH))
    assert len(rates) == 2 and all(abs(rate - RATE) < 0.03 for rate in rates)
    reservoir = settings["reservoir"]
    [rate] = reservoir.measure_rates("reservoir", reservoir.make_inputs("reservoir", BATCH))
    assert 0.01 < rate < 0.04, "25 Hz in steps of 1 ms"


def test_recurrent_layers_of_equal_width_keep_the_orientation_of_their_weights(settings):
    setting = settings["recurrent"]
    copy = CONTENDERS["plain_recurrent"].build(setting)
    for link, weight, layer in zip(copy.links, copy.recurrent_weights, setting.reference.layers, strict=True):
        torch.testing.assert_close(link.weight, layer.connection.weight.t())
        torch.testing.assert_close(weight, layer.recurrent.synapses().t())


@pytest.mark.slow
def test_recurrent_layers_that_compute_something_else_are_found_out(settings):
    setting = settings["recurrent"]
    compared = bench.Race(setting, ["plain_recurrent", "spiky_rl_recurrent"], 1)
    with torch.no_grad():
        list(compared.modules["spiky_rl_recurrent"].network.layers)[1].recurrent.weight.mul_(-1.0)
    rows = {row.contender: row for row in compared.run(BATCH, "train", 1)}
    assert "of its outputs equal the reference's" in rows["spiky_rl_recurrent"].failed
    assert rows["plain_recurrent"].failed is None, "the others go on"


@pytest.mark.slow
def test_a_reservoir_that_computes_something_else_is_found_out(settings):
    setting = settings["reservoir"]
    compared = bench.Race(setting, ["plain_reservoir", "spiky_rl_reservoir"], 1)
    compared.modules["plain_reservoir"].recurrent_weight.zero_()
    rows = {row.contender: row for row in compared.run(BATCH, "infer", 1)}
    assert "of its outputs equal the reference's" in rows["spiky_rl_reservoir"].failed


def test_a_wrong_gradient_is_found_out_where_the_outputs_are_right(settings, monkeypatch):
    compared = bench.Race(settings["recurrent"], ["plain_recurrent", "spiky_rl_recurrent"], 1)
    ours = compared.modules["spiky_rl_recurrent"]
    right = ours.get_gradient
    monkeypatch.setattr(ours, "get_gradient", lambda: right().roll(1))
    rows = {row.contender: row for row in compared.run(BATCH, "train", 1)}
    assert "its gradient's cosine with the reference's is" in rows["spiky_rl_recurrent"].failed


def test_training_changes_of_a_reservoir_nothing_but_its_readout(settings):
    setting = settings["reservoir"]
    for name in ("plain_reservoir", "spiky_rl_reservoir"):
        module = CONTENDERS[name].build(setting)
        module.learn(setting.make_inputs("reservoir", 3))
        got = [key for key, value in module.named_parameters() if value.grad is not None]
        assert len(got) == 2 and module.get_gradient().numel() == 256 * 8 + 8, got


@pytest.mark.slow
def test_the_command_shows_both_networks_with_steps_and_neurons_of_their_own(tmp_path, capsys):
    rows, plot = tmp_path / "rows.json", tmp_path / "plot.svg"
    arguments = ["--networks", *SEQUENCES, "--control-steps", "2", "--batch", "2", "--rounds", "1"]
    arguments += ["--contenders", *(name for name in NAMES if not CONTENDERS[name].package)]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(common.run(bench.bench, [*arguments, "--json", str(rows), "--plot", str(plot)]))
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    assert "recurrent 60-128-128-8, 2 control steps" in shown.out
    assert "alif recurrent   K 4   batch 2   T 2" in shown.out
    assert "lif reservoir   K 10   batch 2   T 2" in shown.out
    found = json.loads(rows.read_text())
    assert {(row["contender"].split("_")[-1], row["steps"], row["neuron"]) for row in found} == {
        (name, NETWORKS[name].usual_steps[0], NETWORKS[name].usual_neuron) for name in SEQUENCES
    }
    assert [title for title, _ in bench_plot.group_rows(found)] == [
        *("alif recurrent, train", "alif recurrent, infer"),
        *("lif reservoir, train", "lif reservoir, infer"),
    ]
    assert plot.read_text().startswith("<?xml")


def test_peers_take_part_with_the_usual_neuron_only():
    setting = RecurrentSetting("lif", STEPS["recurrent"], "cpu", CONTROL)
    names = [name for name in NAMES if CONTENDERS[name].kind == "recurrent" and CONTENDERS[name].quick]
    assert bench.Race(setting, names, 1).names == ["plain_recurrent", "spiky_rl_recurrent"]
