"""What an agent leaves out is chosen so that every layer fires from the start."""

from pathlib import Path

import pytest
import torch
import yaml

from spiky_rl.config import registry
from spiky_rl.learners.common.activity import compute_activity
from spiky_rl.learners.common.silent_layers import classify_layer

OBSERVED, ACTIONS, SAMPLES = 4, 1, 512
AGENTS = Path(__file__).parents[2] / "docs" / "agents.md"


def free_combination():
    """The network of "An agent is a free combination" in the guide on agents."""
    text = AGENTS.read_text(encoding="utf-8").split("free combination: ")[1]
    return yaml.safe_load(text.split("```yaml")[1].split("```")[0])["network"]


NETWORKS = {
    "the smallest": {"name": "feedforward", "layers": [128, 128]},
    "LIF by name": {"name": "feedforward", "layers": [128, 128], "neuron": "lif"},
    "ALIF by name": {"name": "feedforward", "layers": [128, 128], "neuron": "alif"},
    "stateful": {"name": "feedforward", "layers": [128, 128], "stateful": True},
    "the guide's": free_combination(),
}


def firing(settings, scale):
    """Of every layer of a fresh network on observations of this standard deviation, at rest."""
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "network").build(inputs=OBSERVED, outputs=ACTIONS)
    x = scale * torch.randn(SAMPLES, OBSERVED, generator=torch.Generator().manual_seed(1))
    return compute_activity(network, x, None, 0.0).layers


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("case", NETWORKS)
def test_every_layer_of_a_fresh_network_fires_without_saturating(case, scale):
    for i, layer in enumerate(firing(NETWORKS[case], scale), start=1):
        assert not classify_layer(layer), f"layer {i}"
        assert 0.02 < layer.rate < 0.6, f"layer {i}"


def test_the_equations_own_gain_at_20_ms_is_silent_which_is_why_it_is_no_default():
    neuron = {"name": "lif", "tau": 20.0, "input_gain": "ode"}
    layers = firing({**NETWORKS["the smallest"], "neuron": neuron}, 1.0)
    assert [classify_layer(layer) for layer in layers][1] == "silent"
