"""The latency encoder: spike times by hand, one spike at most, and what the times say of the observation."""

import math

import pytest
import torch

from spiky_rl.config import registry

FIELDS, SPAN, SHARPNESS = 8, 3.0, 1.5
SPACING = 2 * SPAN / (FIELDS - 1)
DEVIATION = SPACING / SHARPNESS


def encoder(steps, inputs=1, **settings):
    settings = {"name": "latency", "fields": FIELDS, "span": SPAN, "sharpness": SHARPNESS, **settings}
    return registry.configure("encoders", settings, "encoder").build(inputs=inputs, steps=steps).double()


def along(*values: float) -> torch.Tensor:
    """Observations [1, B, 1]."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def times(spikes):
    """Step of the one spike of every channel, -1 for none: [1, K, B, C] -> [B][C]."""
    assert spikes.sum(1).max() <= 1, "one spike at most"
    step = torch.arange(spikes.shape[1], dtype=spikes.dtype).view(1, -1, 1, 1)
    return ((step + 1) * spikes).sum(1)[0].long().sub(1).tolist()


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_times_are_those_of_the_formula(steps):
    values = (-3.0, -1.234, 0.0, 0.4, 2.9, 3.0)
    found = times(encoder(steps)(along(*values)))
    for value, row in zip(values, found, strict=True):
        for i, time in enumerate(row):
            activity = math.exp(-0.5 * ((value + SPAN - i * SPACING) / DEVIATION) ** 2)
            assert time == (-1 if activity < 0.1 else round((steps - 1) * (1 - activity)))


def test_a_field_spikes_at_once_for_its_centre_and_its_neighbours_later():
    # at the distance of one spacing the activity is exp(-1.5^2 / 2) = 0.325, at two 0.011
    (row,) = times(encoder(11)(along(-SPAN + 3 * SPACING)))
    assert row == [-1, -1, 7, 0, 7, -1, -1, -1]


def test_an_observation_is_recovered_from_its_times_within_their_resolution():
    steps = 10
    # Between two centres the farther one lies 0.75 to 1.5 deviations away, where the slope of its activity is at least
    # exp(-1.5^2 / 2) 1.5 / deviation. A spike time holds activities 1 / (K - 1) apart, so observations that share it within
    # one half of the gap lie no farther apart than this; a code that spans the middle of the gap is two such halves.
    slope = math.exp(-(SHARPNESS**2) / 2) * SHARPNESS / DEVIATION
    half = 1 / ((steps - 1) * slope)
    grid = torch.linspace(-SPAN, SPAN, 6001, dtype=torch.float64)
    codes = times(encoder(steps)(grid.view(1, -1, 1)))
    cells: dict[tuple[int, ...], list[float]] = {}
    for value, code in zip(grid.tolist(), codes, strict=True):
        cells.setdefault(tuple(code), []).append(value)
    widths = [max(cell) - min(cell) for cell in cells.values()]
    assert max(widths) / 2 <= half, "the middle of what shares a code is that near to all of it"
    assert half < SPACING, "the bound is finer than the fields are"
    assert len(cells) > 3 * FIELDS


def test_beyond_the_span_an_observation_counts_as_the_span():
    spikes = encoder(6)(along(SPAN, 1.5 * SPAN, 1e9, math.inf, -SPAN, -1e9))[0]
    assert all(torch.equal(spikes[:, 0], spikes[:, i]) for i in (1, 2, 3))
    assert torch.equal(spikes[:, 4], spikes[:, 5])
    assert spikes[0, 0].tolist() == [0.0] * (FIELDS - 1) + [1.0]


def test_the_cutoff_silences_fields():
    everything = encoder(6, cutoff=0.0)(along(0.3))
    assert everything.sum() == FIELDS
    assert encoder(6, cutoff=0.9)(along(0.0)).sum() == 0, "between two centres: activities of 0.755"


def test_channels_are_grouped_by_observation_and_no_gradient_reaches_them():
    x = torch.tensor([[[3.0, -3.0]]], dtype=torch.float64, requires_grad=True)
    spikes = encoder(5, inputs=2)(x)
    assert spikes[0, 0, 0].nonzero().flatten().tolist() == [FIELDS - 1, FIELDS]
    assert not spikes.requires_grad
