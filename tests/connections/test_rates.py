"""A fresh layer fires: for every neuron behind every kind of connection, few neurons are silent and none is saturated."""

import itertools

import pytest
import torch

from spiky_rl.config import registry, spec
from spiky_rl.metrics.spikes import compute_layer_activity
from spiky_rl.networks.base import ForwardRecord

INPUTS, LAYERS, SAMPLES = 36, [128, 128], 500
AGENTS = {
    "lif": "lif_ppo",
    "alif": "alif_ppo",
    "resonate": "resonate_ppo",
    "quadratic": "quadratic_ppo",
    "izhikevich": "izhikevich_ppo",
    "hodgkin_huxley": "hodgkin_huxley_ppo",
    "cuba_lif": "lif_ppo",
}
"""Spiking neurons, and the agent whose settings they are given."""
OTHERS = {"cuba_lif": {"name": "cuba_lif", "tau": 2.0, "tau_synapse": 2.0}}
"""Options of neurons that no agent has; `cuba_lif` is that of graphs in NIR."""
CONNECTIONS = {
    "sparse": {"connection": {"name": "linear", "density": 0.2}},
    "dale": {"connection": {"name": "linear", "dale": True}},
    "sparse with dale": {"connection": {"name": "linear", "density": 0.2, "dale": True}},
    "recurrent": {"recurrent": "recurrent"},
    "delayed": {"recurrent": {"name": "recurrent", "delays": 3, "density": 0.2}},
    "recurrent with dale": {"recurrent": {"name": "recurrent", "dale": True}},
    "lateral": {"recurrent": "lateral"},
}


def test_every_spiking_neuron_is_here():
    spiking = {n for n in registry.list_names("neurons") if not registry.resolve("neurons", n).graded}
    assert spiking == set(AGENTS)


@pytest.mark.parametrize(
    ("neuron", "kind"),
    [
        pytest.param(
            neuron,
            kind,
            # the neuron with the most to compute
            marks=[pytest.mark.slow] * (neuron == "hodgkin_huxley" and kind != "recurrent"),
        )
        for neuron, kind in itertools.product(AGENTS, CONNECTIONS)
    ],
)
def test_few_neurons_are_silent_and_none_is_saturated_at_the_start(neuron, kind):
    settings = {
        **spec.read_agent(AGENTS[neuron])[1]["network"],
        **CONNECTIONS[kind],
        "layers": LAYERS,
        "steps": 8,
    }
    settings["neuron"] = OTHERS.get(neuron, settings["neuron"])
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=8)
    x, record = torch.randn(1, SAMPLES, INPUTS, generator=torch.Generator().manual_seed(1)), ForwardRecord()
    with torch.no_grad():
        network(x, network.zero_state(SAMPLES, x), record=record)
    for layer in compute_layer_activity(record):
        assert 0.05 < layer.rate < 0.5
        assert layer.silent <= 0.1
        assert layer.saturated <= 0.02
