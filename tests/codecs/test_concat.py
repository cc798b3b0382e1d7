"""Two encoders side by side are each what they are alone."""

import itertools

import pytest
import torch

from spiky_rl.config import registry

INPUTS, STEPS, BATCH, TIME = 3, 4, 5, 6
NAMES = [name for name in registry.list_names("encoders") if name != "concat"]


def build(settings):
    torch.manual_seed(0)
    return registry.configure("encoders", settings, "encoder").build(inputs=INPUTS, steps=STEPS)


def state_of(encoder):
    return tuple(torch.zeros(BATCH, size) for size in encoder.state_sizes)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(NAMES, NAMES)))
def test_channels_states_and_operations_are_those_of_the_two(first, second):
    x = torch.randn(TIME, BATCH, INPUTS, generator=torch.Generator().manual_seed(1))
    keep = torch.ones(TIME, BATCH)
    keep[3, 2] = 0.0
    built, one, two = build({"name": "concat", "first": first, "second": second}), build(first), build(second)
    signal, state = built.encode_stateful(x, state_of(built), keep)
    a, state_a = one.encode_stateful(x, state_of(one), keep)
    b, state_b = two.encode_stateful(x, state_of(two), keep)
    assert built.width == one.width + two.width == signal.shape[-1]
    left, right = signal.split([one.width, two.width], -1)
    assert torch.equal(left, a.expand_as(left))
    assert torch.equal(right, b.expand_as(right))
    assert all(torch.equal(p, q) for p, q in zip(state, (*state_a, *state_b), strict=True))
    assert torch.equal(built.count_operations(x), one.count_operations(x) + two.count_operations(x))
    for ability in ("binary", "topographic", "only_changes"):
        assert getattr(built, ability) == (getattr(one, ability) and getattr(two, ability))


def test_noise_of_both_is_drawn_anew():
    built = build({"name": "concat", "first": "rate", "second": {"name": "population", "mode": "poisson"}})
    before = [buffer.clone() for buffer in built.buffers()]
    built.resample_noise(3)
    assert all(not torch.equal(a, b) for a, b in zip(before, built.buffers(), strict=True) if a.numel() > 1)


def test_a_mistake_in_one_of_them_is_named_by_its_place():
    with pytest.raises(registry.RegistryError, match=r"e\.second\.threshold: -1\.0 is out of range"):
        registry.configure(
            "encoders", {"name": "concat", "second": {"name": "delta", "threshold": -1.0}}, "e"
        )
