"""The rate encoder: probabilities, their range, and what a mean of spikes says of the observation."""

import math

import pytest
import torch

from spiky_rl.config import registry

INPUTS, STEPS, SPAN, DRAWS = 3, 6, 2.0, 400


def encoder(**settings):
    configured = registry.configure("encoders", {"name": "rate", "span": SPAN, **settings}, "encoder")
    return configured.build(inputs=INPUTS, steps=STEPS)


def of(*values: float) -> torch.Tensor:
    """Observations [1, 1, O]."""
    return torch.tensor(values).view(1, 1, -1)


def mean_rates(built, x):
    """Mean spikes per inner step of every channel over many draws, [2, O]."""
    total = torch.zeros(2, INPUTS)
    for update in range(DRAWS):
        built.resample_noise(update)
        total += built(x)[0].mean((0, 1)).view(2, INPUTS)
    return total / DRAWS


@pytest.mark.parametrize("max_rate", [1.0, 0.5])
def test_an_observation_is_recovered_from_its_rates_within_their_standard_error(max_rate):
    x = of(1.3, -0.7, 0.2)
    on, off = mean_rates(encoder(max_rate=max_rate), x)
    p = max_rate * x[0, 0].abs() / SPAN
    error = SPAN / max_rate * (p * (1 - p) / (DRAWS * STEPS)).sqrt()
    assert (((on - off) * SPAN / max_rate - x[0, 0]).abs() <= 4 * error).all()
    assert (torch.where(x[0, 0] > 0, off, on) == 0).all(), "one sign, one channel"


def test_the_rate_decoder_reads_the_observation_back():
    built, x = encoder(), of(1.3, -0.7, 0.2)
    decoder = registry.configure("decoders", "rate", "decoder").build(inputs=2 * INPUTS, outputs=INPUTS)
    with torch.no_grad():
        decoder.readout.weight.copy_(SPAN * torch.cat([torch.eye(INPUTS), -torch.eye(INPUTS)], dim=1))
        decoder.readout.bias.zero_()
        read = torch.zeros(INPUTS)
        for update in range(DRAWS):
            built.resample_noise(update)
            read += decoder(built(x), None, None)[0][0, 0] / DRAWS
    p = x[0, 0].abs() / SPAN
    assert ((read - x[0, 0]).abs() <= 4 * SPAN * (p * (1 - p) / (DRAWS * STEPS)).sqrt()).all()


def test_a_known_noise_gives_the_spikes_by_hand():
    built = encoder()
    noise = [[0.0, 0.49, 0.9, 0.2, 0.0, 0.3]] * STEPS
    built.noise = torch.tensor(noise)
    # probabilities: ON 0, 0.5, 0; OFF 0.25, 0, 0.3: no spike at equality, and none where the probability is 0
    spikes = built(of(-0.5, 1.0, -0.6))
    assert spikes.shape == (1, STEPS, 1, 2 * INPUTS)
    assert spikes[0, :, 0].tolist() == [[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]] * STEPS


def test_at_the_span_and_beyond_it_the_rate_is_the_highest_and_at_zero_there_are_no_spikes():
    for value in (SPAN, 1.001 * SPAN, 1e9, math.inf):
        assert torch.equal(
            encoder()(of(value, -value, 0.0))[0, :, 0], of(1, 0, 0, 0, 1, 0).expand(1, STEPS, 6)[0]
        )
    half = encoder(max_rate=0.5)
    assert torch.equal(half(of(SPAN, -SPAN, 0.0)), half(of(1e9, -1e9, 0.0)))
    assert mean_rates(half, of(1e9, -1e9, 0.0))[0, 0].item() == pytest.approx(0.5, abs=0.05)


def test_noise_repeats_until_it_is_drawn_anew_is_everyones_and_leaves_the_global_generator_alone():
    x, before = torch.randn(2, 5, INPUTS, generator=torch.Generator().manual_seed(0)), torch.get_rng_state()
    built = encoder(seed=3)
    first = built(x)
    assert torch.equal(built(x), first)
    assert torch.equal(built(x[:, 2:3]), first[:, :, 2:3])
    built.resample_noise(1)
    assert not torch.equal(built(x), first)
    built.resample_noise(0)
    assert torch.equal(built(x), first)
    assert torch.equal(encoder(seed=4).noise, encoder(seed=3).noise) is False
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_is_saved():
    built, other = encoder(), encoder(seed=9)
    built.resample_noise(5)
    other.load_state_dict(built.state_dict())
    assert torch.equal(other.noise, built.noise)


def test_no_gradient_reaches_the_observation():
    assert not encoder()(of(1.0, -1.0, 0.5).requires_grad_()).requires_grad
