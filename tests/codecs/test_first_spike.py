"""The first-spike and the linear decoder: times and last steps by hand, and gradients that reach what could have spiked."""

import pytest
import torch

from spiky_rl.config import registry

NEURONS, OUTPUTS, STEPS = 3, 2, 5


def decoder(name, inputs=NEURONS):
    return registry.configure("decoders", name, "decoder").build(inputs=inputs, outputs=OUTPUTS).double()


def trains(*steps: tuple[int, ...]) -> torch.Tensor:
    """Spikes [1, K, 1, N] from the steps in which each neuron spikes."""
    spikes = torch.zeros(1, STEPS, 1, len(steps), dtype=torch.float64)
    for neuron, times in enumerate(steps):
        for k in times:
            spikes[0, k, 0, neuron] = 1.0
    return spikes


def test_earliness_falls_by_one_kth_a_step_and_is_zero_without_a_spike():
    built = decoder("first_spike", inputs=6)
    spikes = trains((0,), (1, 2), (2, 4), (3,), (4,), ())
    y, state = built(spikes, None, None)
    assert state == ()
    early = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64)
    assert torch.allclose(y[0, 0], built.readout.weight @ early + built.readout.bias)


@pytest.mark.parametrize("steps", [4, 10])
def test_a_latency_encoders_activities_are_recovered_within_half_a_step(steps):
    # the encoder's step is (K - 1)(1 - a), rounded; earliness is 1 - step / K
    settings = {"name": "latency", "cutoff": 0.0}
    encoder = registry.configure("encoders", settings, "encoder").build(inputs=2, steps=steps).double()
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    built = registry.configure("decoders", "first_spike", "decoder").build(inputs=16, outputs=16).double()
    torch.nn.init.eye_(built.readout.weight)
    torch.nn.init.zeros_(built.readout.bias)
    early, _ = built(encoder(x), None, None)
    recovered = 1 - (1 - early) * steps / (steps - 1)
    assert (recovered - encoder.compute_activity(x)).abs().max() <= 0.5 / (steps - 1) + 1e-12


def test_the_gradient_reaches_the_first_spike_and_the_steps_before_and_none_after():
    built = decoder("first_spike")
    with torch.no_grad():
        built.readout.weight.fill_(1.0)
    spikes = trains((2, 4), (), (0,)).requires_grad_()
    built(spikes, None, None)[0][..., 0].sum().backward()
    # a spike before the first, in step j, would have been (2 - j) / K earlier; without the first, the next one would count
    assert spikes.grad[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.2, 0.4, 0.0, 0.0])
    assert spikes.grad[0, :, 0, 1].tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert spikes.grad[0, :, 0, 2].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0, 0.0])


def test_the_gradient_is_the_change_that_a_spike_would_make():
    built, silent = decoder("first_spike"), trains((), (3,), (1,)).requires_grad_()
    y, _ = built(silent, None, None)
    (gradient,) = torch.autograd.grad(y[0, 0, 0], silent)
    for neuron in range(NEURONS):
        for k in range(STEPS):
            with torch.no_grad():
                flipped = silent.clone()
                flipped[0, k, 0, neuron] = 1.0 - flipped[0, k, 0, neuron]
                change = built(flipped, None, None)[0][0, 0, 0] - y[0, 0, 0]
                change = change if flipped[0, k, 0, neuron] else -change
            # the value is linear in each single spike
            assert gradient[0, k, 0, neuron].item() == pytest.approx(change.item(), abs=1e-12)


def test_neurons_of_graded_output_are_refused_when_the_network_is_built():
    settings = {"name": "feedforward", "layers": [4], "neuron": "sigma_delta", "decoder": "first_spike"}
    with pytest.raises(registry.RegistryError, match="'first_spike' needs spikes"):
        registry.configure("networks", settings, "network").build(inputs=2, outputs=1)


def test_linear_reads_the_last_inner_step_alone():
    built = decoder("linear")
    spikes = trains((0, 4), (1, 2, 3), (4,)).requires_grad_()
    y, state = built(spikes, None, None)
    assert state == ()
    last = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(y[0, 0], built.readout.weight @ last + built.readout.bias)
    y.sum().backward()
    assert spikes.grad[:, :-1].abs().max() == 0
    assert (spikes.grad[:, -1] != 0).all()


def test_direct_and_linear_together_are_a_linear_map():
    encoder = registry.configure("encoders", "direct", "encoder").build(inputs=NEURONS, steps=STEPS)
    x, built = torch.randn(
        2, 4, NEURONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ), decoder("linear")
    assert torch.allclose(built(encoder(x), None, None)[0], built.readout(x))
