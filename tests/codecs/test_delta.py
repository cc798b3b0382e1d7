"""The delta encoder against the rule, event by event, and the reference against the observation."""

import pytest
import torch

from spiky_rl.config import registry

INPUTS, STEPS, BATCH, TIME = 3, 4, 5, 40
THRESHOLD = 0.125
"""A power of two, so that references are exact."""


def encoder(steps=STEPS, threshold=THRESHOLD):
    settings = {"name": "delta", "threshold": threshold}
    return registry.configure("encoders", settings, "encoder").build(inputs=INPUTS, steps=steps)


def walk(seed=0, size=0.15):
    """Observations that change by at most 0.45 a step at 3 sigma, [T, B, O]."""
    steps = torch.randn(TIME, BATCH, INPUTS, generator=torch.Generator().manual_seed(seed))
    return (size * steps.clamp(-3, 3)).cumsum(0)


def rest(like):
    return (like.new_zeros(BATCH, INPUTS),)


def by_hand(values, reference=0.0):
    """ON and OFF of one observation in every inner step, and the reference after each control step."""
    on, off, references = [], [], []
    for value in values:
        for _ in range(STEPS):
            change = value - reference
            on.append(float(change >= THRESHOLD))
            off.append(float(change <= -THRESHOLD))
            reference += THRESHOLD * (on[-1] - off[-1])
        references.append(reference)
    return on, off, references


def test_events_and_references_are_those_of_the_rule():
    x = walk()
    events, (reference,) = encoder().encode_stateful(x, rest(x), None)
    assert events.shape == (TIME, STEPS, BATCH, 2 * INPUTS)
    for b in range(BATCH):
        for o in range(INPUTS):
            on, off, references = by_hand(x[:, b, o].tolist())
            assert events[..., b, o].flatten().tolist() == on
            assert events[..., b, INPUTS + o].flatten().tolist() == off
            assert reference[b, o].item() == references[-1]
    assert 0.05 < events.mean() < 0.5


def test_summed_events_recover_the_observation_within_the_threshold_where_the_reference_keeps_up():
    # it follows K thresholds a control step; one of them may be what the step before left, so x may move by K - 1
    x = walk(size=0.12)
    assert x.diff(dim=0).abs().max() < (STEPS - 1) * THRESHOLD
    events, _ = encoder().encode_stateful(x, rest(x), None)
    on, off = events.sum(1).split(INPUTS, -1)
    recovered = THRESHOLD * (on - off).cumsum(0)
    assert (recovered - x).abs().max() < THRESHOLD


def test_the_sigma_delta_decoder_reads_the_observation_back():
    x = walk(size=0.12)
    decoder = registry.configure("decoders", "sigma_delta", "decoder").build(
        inputs=2 * INPUTS, outputs=INPUTS
    )
    with torch.no_grad():
        decoder.readout.weight.copy_(THRESHOLD * torch.cat([torch.eye(INPUTS), -torch.eye(INPUTS)], dim=1))
        decoder.readout.bias.zero_()
        events, _ = encoder().encode_stateful(x, rest(x), None)
        y, _ = decoder(events, rest(x), None)
    assert (y - x).abs().max() < THRESHOLD


def test_a_jump_is_followed_at_one_event_per_channel_and_inner_step():
    x = torch.full((3, BATCH, INPUTS), 10 * THRESHOLD)
    events, (reference,) = encoder().encode_stateful(x, rest(x), None)
    assert events[..., :INPUTS].sum((1,))[:, 0, 0].tolist() == [4.0, 4.0, 2.0]
    assert events[..., INPUTS:].sum() == 0
    assert (reference == 10 * THRESHOLD).all()


def test_from_rest_in_every_control_step_the_code_is_unary_and_clipped():
    values = torch.tensor([0.0, 0.124, 0.125, 0.3, 0.5, 9.0, 1e9, -0.3, -9.0])
    x = values.view(1, -1, 1).expand(1, -1, INPUTS)
    events, state = encoder().encode_stateful(x, None, None)
    assert state == ()
    assert torch.equal(events, encoder()(x))
    count = events.sum(1)[0, :, 0] - events.sum(1)[0, :, INPUTS]
    assert count.tolist() == [0, 0, 1, 2, 4, 4, 4, -2, -4]
    assert (events[:, 1:] <= events[:, :-1]).all(), "the first inner steps carry them"
    error = (THRESHOLD * count - values).abs()
    assert (error[values.abs() < (STEPS + 1) * THRESHOLD] < THRESHOLD).all()


def test_an_observation_that_rests_costs_nothing():
    x = walk()[:1].clamp(-0.5, 0.5).expand(10, -1, -1)
    events, _ = encoder().encode_stateful(x, rest(x), None)
    assert events[0].sum() > 0
    assert events[1:].sum() == 0


@pytest.mark.parametrize("threshold", [0.1, 1e-6])
def test_thresholds_that_are_no_power_of_two_keep_the_bound(threshold):
    x = walk().double() * threshold
    events, (reference,) = encoder(threshold=threshold).encode_stateful(x, rest(x), None)
    assert (reference - x[-1]).abs().max() < threshold
    assert set(events.unique().tolist()) == {0.0, 1.0}


def test_no_gradient_reaches_the_observation():
    x = walk().requires_grad_()
    assert not encoder().encode_stateful(x, rest(x), None)[0].requires_grad
    assert not encoder()(x).requires_grad


def test_a_reference_that_starts_at_the_first_observation_sends_changes_alone():
    x, keep = walk(size=0.12) + 3.0, torch.ones(TIME, BATCH)
    keep[7, 1] = keep[20, 4] = 0.0
    settings = {"name": "delta", "threshold": THRESHOLD, "start": "first"}
    built = registry.configure("encoders", settings, "encoder").build(inputs=INPUTS, steps=STEPS)
    state = tuple(x.new_zeros(BATCH, size) for size in built.state_sizes)
    events, (reference, begun) = built.encode_stateful(x, state, keep)
    on, off = events.sum(1).split(INPUTS, -1)
    assert (events[0] == 0).all(), "the first observation makes no event, however large it is"
    assert (events[7, :, 1] == 0).all() and (events[20, :, 4] == 0).all(), "nor does that of a new episode"
    start = x[0].clone()
    for b, t in ((1, 7), (4, 20)):
        start[b] = x[t, b]
        on[:t, b] = off[:t, b] = 0.0
    assert (start + THRESHOLD * (on - off).sum(0) - x[-1]).abs().max() < THRESHOLD
    assert torch.allclose(start + THRESHOLD * (on - off).sum(0), reference)
    assert (begun == 1).all()
