"""Neuron updates counted from the traced step, and the energy of a policy, a reservoir and an MLP on one scale."""

import dataclasses

import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.metrics import updates
from spiky_rl.metrics.energy import (
    ANN_ENERGY_MODELS,
    ENERGY_MODELS,
    average,
    get_energy_model,
    tabulate_energies,
)
from spiky_rl.metrics.meter import CostMeter, measure_ann
from spiky_rl.metrics.updates import ArithmeticCounts
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.neurons.base import Neuron, parameter

STEPS, BATCH, INPUTS, OUTPUTS = 4, 3, 5, 2


def neuron(name, **options):
    return registry.configure("neurons", {"name": name, **options}, "neuron").build()


def of(name, **options):
    return updates.count_neuron_arithmetic(neuron(name, **options))


def test_lif_is_counted_as_by_hand():
    # decay v + gain i; v - threshold; v - spike threshold, where the product selects
    assert of("lif", input_gain="ode") == ArithmeticCounts(additions=3, multiplications=2)
    assert of("lif", input_gain="unit") == ArithmeticCounts(additions=3, multiplications=1)
    # a reset to zero selects
    assert of("lif", input_gain="ode", reset="zero") == ArithmeticCounts(additions=2, multiplications=2)


def test_sigma_delta_is_counted_without_what_only_its_gradient_needs():
    # s + i, y - sent, |d| - threshold, sent + event; the rectifier compares
    assert of("sigma_delta", activation="identity") == ArithmeticCounts(additions=4)
    assert of("sigma_delta") == ArithmeticCounts(additions=5)


SHEET = {
    "lif": (3, 1),
    "alif": (6, 1),
    "resonate": (14, 1),
    "quadratic": (13, 1),
    "izhikevich": (22, 4),
    "hodgkin_huxley": (66, 10),
    "sigma_delta": (4, 1),
    "sigma_delta_unit": (5, 1),
    "cuba_lif": (5, 1),
}
"""Estimates per (sub-)step from the equations, and the default sub-steps."""


def test_every_neuron_is_in_the_sheet():
    assert set(SHEET) == set(registry.list_names("neurons"))


@pytest.mark.parametrize("name", SHEET)
def test_counts_lie_between_the_estimate_and_three_times_it(name):
    estimate, substeps = SHEET[name]
    # estimates leave out comparisons, thresholds and the branches that a kernel computes and does not take
    assert substeps * estimate <= of(name).total <= 3 * substeps * estimate


def test_substeps_multiply_what_they_repeat():
    one, ten = of("hodgkin_huxley", substeps=1), of("hodgkin_huxley", substeps=10)
    assert ten.multiplications == 10 * one.multiplications
    assert ten.transcendental == 10 * one.transcendental
    assert ten.additions == pytest.approx(10 * one.additions, abs=10)


def test_learned_parameters_are_constant_when_a_network_runs():
    assert of("alif", learn=["tau", "threshold"]) == of("alif")


class Scaled(Neuron):
    """v <- x / current."""

    states = ("v",)

    class Options(Neuron.Options):
        current: float = parameter(1.5, "divisor", unit="1")

    def step(self, ops, current, s, p):
        return current, s.replace(v=current / p.current)


def test_a_parameter_may_be_called_as_the_current_of_the_counted_step_is():
    assert updates.count_neuron_arithmetic(Scaled.from_options()) == ArithmeticCounts(multiplications=1)


def test_a_gru_and_an_lstm_cost_their_gates():
    # three gates' sums, two sigmoids, two tanh-like products and the mix of old and new
    gru, lstm = (updates.count_recurrent_arithmetic(kind(1, 1)) for kind in (nn.GRU, nn.LSTM))
    assert (gru.transcendental, lstm.transcendental) == (3, 5)
    assert lstm.total > gru.total


def built(**settings):
    torch.manual_seed(0)
    settings = {"name": "feedforward", "layers": [16, 12], "steps": STEPS, **settings}
    return registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)


def measured(network):
    x, record = torch.randn(1, BATCH, INPUTS, generator=torch.Generator().manual_seed(1)), ForwardRecord()
    with torch.no_grad():
        network(x, network.zero_state(BATCH, x), record=record)
    return CostMeter(network)(record)


def test_updates_of_a_policy_are_those_of_all_neurons_and_readout_potentials_in_all_inner_steps():
    cost, each = measured(built()), of("lif")
    potential = ArithmeticCounts(additions=1, multiplications=2)
    assert cost.neuron_updates == STEPS * (16 + 12 + OUTPUTS)
    assert cost.additions == STEPS * (28 * each.additions + OUTPUTS * potential.additions)
    assert cost.multiplications == STEPS * (28 * each.multiplications + OUTPUTS * potential.multiplications)


def test_a_reservoir_counts_its_synapses_traces_and_hidden_readout():
    settings = {"name": "reservoir", "size": 20, "traces": [20.0, 50.0], "hidden": [6], "steps": 5, "seed": 0}
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)
    cost, each = measured(network), of("lif", input_gain="ode")
    around, elu = updates.count_synapse_and_traces(2), updates.count_activation_arithmetic(nn.ELU())
    assert around == ArithmeticCounts(additions=5, multiplications=3)
    assert cost.neuron_updates == 5 * 20 + 6
    assert cost.multiplications == 100 * (each.multiplications + 3)
    assert cost.transcendental == 6 * elu.transcendental == 6
    weights = INPUTS * 20 + 20 * 20 + 40 * 6 + 6 * OUTPUTS
    absent = int((network.weight == 0).sum())
    assert cost.connection_sparsity == pytest.approx(absent / weights)
    assert absent > 200, "its recurrent weights are sparse"


def test_memory_is_parameters_and_buffers_and_a_state_per_environment():
    network = built(encoder="population")
    cost = measured(network)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    assert cost.footprint_bytes == 4 * cost.parameters + buffers
    assert cost.state_bytes == 4 * (16 + 12 + OUTPUTS)
    assert cost.encoder_operations == (3 + 2 * STEPS) * 10 * INPUTS


def mlp_cost():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(INPUTS, 16), nn.ELU(), nn.Linear(16, 12), nn.ELU(), nn.Linear(12, OUTPUTS))
    x = torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(1))
    return measure_ann(mlp, lambda: mlp(x), BATCH)


def test_an_mlp_stands_on_the_scale_of_the_spiking_policy():
    ann, spiking = mlp_cost(), measured(built())
    products = INPUTS * 16 + 16 * 12 + 12 * OUTPUTS
    assert ann.effective_macs == ann.dense_operations == products
    assert (ann.effective_acs, ann.neuron_updates, ann.activation_sparsity) == (0, 28, 0)
    elu = updates.count_activation_arithmetic(nn.ELU())
    expected = 4.6 * products + 28 * (0.9 * elu.additions + 7.1 * 3.7 * elu.transcendental)
    assert ann.compute_energy(ENERGY_MODELS["fp32"]) == pytest.approx(expected)
    # the readout's potential is there in addition; biases are in both
    assert spiking.parameters == ann.parameters
    assert spiking.dense_operations == INPUTS * 16 + STEPS * (16 * 12 + 12 * OUTPUTS)


def test_energy_is_counts_times_prices():
    cost = dataclasses.replace(
        mlp_cost(), effective_macs=10.0, effective_acs=100.0, encoder_operations=3.0, neuron_updates=7.0,
        additions=20.0, multiplications=5.0, transcendental=0.0,
    )  # fmt: skip
    assert cost.compute_energy(get_energy_model("fp32")) == pytest.approx(
        10 * 4.6 + 100 * 0.9 + 20 * 0.9 + 8 * 3.7
    )
    assert cost.compute_energy(get_energy_model("int8")) == pytest.approx(
        10 * 0.23 + 100 * 0.03 + 20 * 0.03 + 8 * 0.2
    )
    assert cost.compute_energy(get_energy_model("loihi")) == pytest.approx(110 * 23.6 + 7 * 81.0)
    assert cost.effective_operations == 110
    assert cost.to_dict()["energy_nj"]["fp32"] == pytest.approx(
        cost.compute_energy(get_energy_model("fp32")) / 1000
    )


def test_an_ann_has_no_energy_on_a_chip_for_spikes():
    assert set(mlp_cost().to_dict()["energy_nj"]) == set(ANN_ENERGY_MODELS) == set(ENERGY_MODELS) - {"loihi"}
    assert set(measured(built()).to_dict()["energy_nj"]) == set(ENERGY_MODELS)


def test_the_mean_of_costs_is_taken_count_by_count():
    one = mlp_cost()
    found = average([one, one.scale(3)])
    assert found.effective_macs == 2 * one.effective_macs
    assert (found.parameters, found.activation_sparsity) == (one.parameters, one.activation_sparsity)
    with pytest.raises(ValueError, match="empty"):
        average([])


def test_unknown_prices_are_refused_with_the_nearest():
    with pytest.raises(registry.RegistryError, match="'fp23'.*fp32, int8, .*loihi; did you mean 'fp32'"):
        get_energy_model("fp23")


def test_an_energy_names_its_assumption():
    row = tabulate_energies(measured(built()), ann_operations=296)[0]
    assert row.assumption == "fp32 arithmetic at 45 nm, no memory" and f"{row.ann_products:.1f}" == "1.4"
