"""Encoders against a direct hand computation and against their statistics."""

import math

import pytest
import torch

from spiky_rl.config import registry

INPUTS, STEPS, BATCH, TIME = 3, 7, 5, 2
FIELDS, SPAN, DEVIATION = 10, 3.0, 0.387
DRAWS = 400


def encoder(settings, steps=STEPS):
    return registry.configure("encoders", settings, "encoder").build(inputs=INPUTS, steps=steps)


def observations(seed=0, time=TIME):
    return torch.randn(time, BATCH, INPUTS, generator=torch.Generator().manual_seed(seed))


def activity_by_hand(value: float) -> list[float]:
    """Activities of the receptive fields of one observation, from the formula."""
    centres = [-SPAN + 2 * SPAN * i / (FIELDS - 1) for i in range(FIELDS)]
    return [math.exp(-0.5 * ((value - centre) / DEVIATION) ** 2) for centre in centres]


def test_direct_hands_on_the_observation_for_all_inner_steps():
    x = observations()
    built = encoder("direct")
    assert torch.equal(built(x), x.view(TIME, 1, BATCH, INPUTS))
    assert built.width == INPUTS
    assert torch.equal(built.count_operations(x), torch.zeros(TIME, BATCH))
    assert list(built.parameters()) == []


def test_population_activities_are_the_gaussians_of_evenly_spread_centres():
    x = observations()
    activity = encoder("population").compute_activity(x)
    assert activity.shape == (TIME, BATCH, INPUTS * FIELDS)
    for t in range(TIME):
        for b in range(BATCH):
            by_hand = [a for value in x[t, b].tolist() for a in activity_by_hand(value)]
            assert activity[t, b].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_population_emits_the_whole_part_of_its_accumulated_activity():
    x = observations(1)
    spikes = encoder("population").double()(x.double())
    assert spikes.shape == (TIME, STEPS, BATCH, INPUTS * FIELDS)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    for t in range(TIME):
        for b in range(BATCH):
            by_hand = [a for value in x[t, b].tolist() for a in activity_by_hand(value)]
            for k in range(STEPS):
                count = spikes[t, : k + 1, b].sum(0).tolist()
                assert count == [math.floor((k + 1) * a) for a in by_hand]
    assert spikes.mean() > 0.02


def test_population_starts_every_control_step_from_rest():
    x = observations()
    built = encoder("population")
    together = built(x)
    assert torch.equal(together, torch.cat([built(x[t : t + 1]) for t in range(TIME)]))


def test_population_gradient_moves_centres_towards_the_observation():
    x = observations(2, time=1)[:, :1]
    built = encoder("population")
    built(x).sum().backward()
    gradient = built.centre.grad
    assert gradient.isfinite().all()
    reached = gradient != 0
    assert reached.sum() >= INPUTS
    towards = torch.sign(x[0, 0, :, None] - built.centre.detach())
    assert torch.equal(torch.sign(gradient)[reached], towards[reached])
    assert built.log_deviation.grad.abs().sum() > 0


def test_population_learns_to_spike_for_an_observation_that_lies_between_its_centres():
    x = torch.full((1, 1, INPUTS), SPAN / (FIELDS - 1) * 0.02)
    built = encoder("population", steps=4)
    optimiser = torch.optim.SGD(built.parameters(), lr=0.05)
    before = built(x).sum().item()
    for _ in range(30):
        optimiser.zero_grad()
        (-built(x).sum()).backward()
        optimiser.step()
    assert built(x).sum().item() > before


def test_poisson_mean_rate_is_the_activity():
    x = observations(3, time=1)[:, :1]
    built = encoder({"name": "population", "mode": "poisson"})
    total = torch.zeros(INPUTS * FIELDS)
    with torch.no_grad():
        activity = built.compute_activity(x)[0, 0]
        for update in range(DRAWS):
            built.resample_noise(update)
            total += built(x)[0, :, 0].sum(0)
    samples = DRAWS * STEPS
    standard_error = (activity * (1 - activity) / samples).sqrt()
    assert ((total / samples - activity).abs() <= 4 * standard_error + 1e-6).all()
    assert ((activity > 0.1) & (activity < 0.9)).sum() >= 3, "the bound is tested where it is narrow"


def test_poisson_repeats_until_it_is_drawn_anew_and_leaves_the_global_generator_alone():
    x = observations()
    built = encoder({"name": "population", "mode": "poisson"})
    before = torch.get_rng_state()
    first = built(x)
    assert torch.equal(built(x), first)
    alone = built(x[:, 2:3])
    assert torch.equal(alone, first[:, :, 2:3]), "the noise is the same for every environment"
    built.resample_noise(1)
    assert not torch.equal(built(x), first)
    built.resample_noise(0)
    assert torch.equal(built(x), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_poisson_noise_follows_its_seed():
    noises = [
        encoder({"name": "population", "mode": "poisson", "seed": seed}).noise for seed in (0, 0, 12345)
    ]
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])


@pytest.mark.parametrize(("mode", "per_field"), [("poisson", 3), ("deterministic", 3 + 2 * STEPS)])
def test_population_counts_the_arithmetic_of_its_fields_and_of_their_neurons(mode, per_field):
    operations = encoder({"name": "population", "mode": mode}).count_operations(observations())
    assert torch.equal(operations, torch.full((TIME, BATCH), float(per_field * INPUTS * FIELDS)))


GOLDEN = {0.0: {4: 3, 5: 3}, 1.0: {5: 1, 6: 5, 7: 1}, 2.5: {8: 4, 9: 2}}
"""Observation -> spikes of each field in 5 inner steps, from PopSAN's own code; fields that are not named are silent."""


@pytest.mark.parametrize("value", GOLDEN)
def test_population_counts_are_popsans(value):
    deviation = {"name": "population", "deviation": math.sqrt(0.15)}
    # in float32, where the activity at a centre is 1 exactly; PopSAN's own threshold is 0.999
    spikes = encoder(deviation, steps=5)(torch.full((1, 1, INPUTS), value))
    count = spikes[0, :, 0].sum(0).view(INPUTS, FIELDS)
    assert count[0].tolist() == [GOLDEN[value].get(i, 0) for i in range(FIELDS)]
    assert torch.equal(count[0], count[2]), "every observation alike"
    if value == 0.0:
        assert spikes[0, :, 0, 4].tolist() == [0, 1, 1, 0, 1]


def test_population_counts_tell_an_observation_within_their_resolution():
    # As for spike times in test_latency: between two centres the farther one lies 0.86 to 1.72 deviations away, where the
    # slope of its activity is at least that at 1.72; observations whose counts floor(K a) agree differ in a by less than
    # 1 / K, so they lie within this of each other in each half of the gap, and the middle of both within this of all.
    steps, distance = 20, 2 * SPAN / (FIELDS - 1) / DEVIATION
    slope = math.exp(-(distance**2) / 2) * distance / DEVIATION
    resolution = 1 / (steps * slope)
    grid = torch.linspace(-SPAN, SPAN, 6001, dtype=torch.float64)
    x = grid.view(1, -1, 1).expand(1, -1, INPUTS)
    counts = encoder("population", steps=steps).double()(x).sum(1)[0, :, :FIELDS].detach()
    cells: dict[tuple[float, ...], list[float]] = {}
    for value, code in zip(grid.tolist(), counts.tolist(), strict=True):
        cells.setdefault(tuple(code), []).append(value)
    assert max(max(cell) - min(cell) for cell in cells.values()) / 2 <= resolution
    assert resolution < SPAN / (FIELDS - 1), "finer than half the distance of two centres"


def test_population_answers_loudest_at_the_span_and_falls_silent_far_beyond_it():
    x = torch.tensor([SPAN, SPAN + 5 * DEVIATION, -SPAN, 1e6, -1e6]).view(1, -1, 1).expand(1, -1, INPUTS)
    count = encoder("population").double()(x.double()).sum(1)[0, :, :FIELDS]
    assert count[0, -1] >= STEPS - 1
    assert count[2, 0] >= STEPS - 1
    assert count[[1, 3, 4]].sum() == 0
