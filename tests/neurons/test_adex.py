"""An adaptive exponential neuron written from docs/neuron.md alone: what a neuron of one's own gets from one file."""

from pathlib import Path

import pytest
import torch

from spiky_rl.config import registry
from tests.kernels.cases import CPU, compare, configured, distinct, inputs, near, run
from tests.neurons.drive import build, constant, intervals, named, vocabulary
from tests.neurons.drive import run as drive

ADEX = f"{Path(__file__).resolve().parents[2] / 'examples' / 'adex.py'}:AdEx"
BATCH, WIDTH = 9, 61
LONG = {"time": 10, "steps": 16}
GRADIENT = 1e-6
"""Of gradients and states, relative to the largest."""
LAST_BIT = 1e-4
"""Of the gradient of ``coupling``, which has the factor 1 - exp(-h / tau_w): at h / tau_w = 0.0016 the last bit, in which two
libraries' exponentials may differ, is 4e-5 of it. Torch's own is as far from float64 as the kernel's, on the other side."""


def test_it_keeps_the_contract_where_an_agent_names_it():
    learn = list(registry.resolve("neurons", ADEX).params)
    settings = {"name": "feedforward", "layers": [8, 8], "neuron": {"name": ADEX, "learn": learn}}
    network = registry.configure("networks", settings, "agent.network").build(inputs=3, outputs=2)
    features, _ = network(torch.ones(2, 4, 3), None)
    assert features.shape == (2, 4, 2) and features.isfinite().all()


@pytest.mark.parametrize("learned", [False, True], ids=["numbers", "learned"])
def test_its_kernels_spikes_and_gradients_are_the_references(learned):
    if reason := CPU.get_unavailable_reason():
        pytest.skip(reason)
    neuron = configured(ADEX, learned)
    parameters, tensors = distinct(neuron, WIDTH), inputs(neuron, BATCH, WIDTH)
    found, expected = (run(backend, neuron, parameters, tensors) for backend in ("cpu", "torch"))
    assert 0.02 < expected[0].mean() < 0.5, "it spikes"
    if learned:
        place = list(neuron.params).index("coupling") - len(neuron.params)
        assert near(found.pop(place), expected.pop(place), LAST_BIT)
    compare(found, expected, GRADIENT)


def test_no_spike_flips_in_160_steps():
    if reason := CPU.get_unavailable_reason():
        pytest.skip(reason)
    neuron = configured(ADEX, learned=False)
    parameters, tensors = distinct(neuron, WIDTH), inputs(neuron, BATCH, WIDTH, **LONG)
    found, expected = (
        run(backend, neuron, parameters, tensors, LONG["steps"]) for backend in ("cpu", "torch")
    )
    assert torch.equal(found[0], expected[0]) and expected[0].sum() > 1000


def test_its_firing_slows_down_to_a_steady_rate():
    spikes, _ = drive(ADEX, constant([1.0], 1000))
    found = intervals(spikes[:, 0])
    assert found[0] < 0.5 * found[-1] and sorted(found[:8]) == found[:8]
    assert max(found[-5:]) - min(found[-5:]) <= 1
    silent, v = drive(ADEX, constant([0.5], 1000))
    assert silent.sum() == 0 and v[-1] == pytest.approx(
        0.5 * 30.0 / 1.13, rel=0.01
    ), "V = gain I / (1 + coupling)"


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_surrogate_sees_its_distance_to_the_threshold_in_units_of_the_scale(scale):
    neuron, ops = build(ADEX, scale=scale, substeps=1), vocabulary()
    v = torch.tensor([30.0], dtype=torch.float64)
    seen = neuron.distance(ops, neuron.named_states(v, 0.0 * v), named(neuron))
    assert seen.item() == pytest.approx((30.0 - 40.0) / scale)
