"""Every neuron that is an ODE: what it integrates is the flow that it declares."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.neurons.base import Ode
from tests.neurons.drive import build, named, vocabulary

ODES = [name for name in registry.list_names("neurons") if issubclass(registry.resolve("neurons", name), Ode)]
SAMPLES = 40


def sample(neuron):
    """A current and states near the rest of the neuron: fractions of its threshold distance, or of 10 mV."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(SAMPLES, generator=generator, dtype=torch.float64) for _ in (0, *neuron.states)]
    scale = 10.0 if neuron.chosen.get("scale") else 1.0
    # gates and traces are of order one whatever the unit of the potential
    size = {"v": scale, "u": scale, "m": 0.3, "h": 0.3, "n": 0.3, "refractory": 0.0}
    return 3.0 * draws[0] - 1.0, [
        size.get(name, 1.0) * x for name, x in zip(neuron.states, draws[1:], strict=True)
    ]


def error(name, dt):
    """Largest difference between the flow and what integration over dt makes of it, relative to the flow's size."""
    neuron, ops = build(name, dt=dt), vocabulary()
    neuron.substeps = 1
    current, states = sample(neuron)
    states = neuron.named_states(*states)
    times = neuron.named_times(*(neuron.chosen[key] for key in neuron.params))
    flow = neuron.flow(ops, current, states, times)
    after = neuron.integrate(ops, current, states, named(neuron))
    assert len(flow) == len(after) == len(neuron.states)
    return max(
        ((new - old) / dt - rate).abs().max().item() / max(1e-3, abs(rate + 0.0 * old).max().item())
        for new, old, rate in zip(after, states, flow, strict=True)
    )


@pytest.mark.parametrize("name", ODES)
def test_integration_over_a_small_step_is_the_flow_to_first_order(name):
    coarse, fine = error(name, 1e-3), error(name, 1e-4)
    assert coarse < 0.05
    assert fine == pytest.approx(coarse / 10, rel=0.1)


def test_every_neuron_but_the_graded_one_is_an_ode():
    assert {"alif", "hodgkin_huxley", "izhikevich", "lif", "quadratic", "resonate"} <= set(ODES)
    assert "sigma_delta" not in ODES
    assert math.isclose(error("lif", 1e-3), 1e-3 / 2 / 2, rel_tol=0.01)
