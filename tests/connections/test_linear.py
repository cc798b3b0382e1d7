"""Linear connections, dense and sparse, with and without Dale's law, against what their text says."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.connections.base import make_dale_factors

INPUTS, OUTPUTS, BATCH = 40, 60, 7


def linear(**settings):
    torch.manual_seed(0)
    configured = registry.configure("connections", {"name": "linear", **settings}, "connection")
    return configured.build(inputs=(INPUTS,), outputs=OUTPUTS)


def events(binary=True):
    drawn = torch.rand(2, 3, BATCH, INPUTS, generator=torch.Generator().manual_seed(1))
    return (drawn < 0.2).float() if binary else drawn - 0.5


def test_dense_is_the_plain_product():
    built, x = linear(), events(binary=False)
    assert torch.allclose(built(x), torch.nn.functional.linear(x, built.weight.t(), built.bias), atol=1e-6)
    assert built.shape == (OUTPUTS,)


@pytest.mark.parametrize("density", [0.05, 0.25, 0.5])
def test_every_neuron_of_a_sparse_connection_has_the_same_number_of_synapses(density):
    built = linear(density=density)
    count = (built.synapses() != 0).sum(0)
    assert (count == round(density * INPUTS)).all()


@pytest.mark.parametrize("settings", [{"density": 0.25}, {"dale": True}, {"density": 0.5, "dale": True}])
def test_synapses_that_are_not_there_get_no_gradient_and_the_others_the_right_one(settings):
    built, x = linear(**settings), events()
    # the stored weight is read with its size alone where Dale's law fixes the sign
    y = built(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((y * weights).sum(), built.weight)
    found = built.synapses().detach().requires_grad_()
    (dense,) = torch.autograd.grad((x @ found * weights).sum(), found)
    expected = dense * built.mask * (built.weight.sign() if built.dale else 1.0)
    assert torch.allclose(gradient, expected, atol=1e-4)
    assert (gradient[built.mask == 0] == 0).all()


@pytest.mark.parametrize("inhibitory", [0.0, 0.2, 0.5, 1.0])
def test_dales_law_holds_before_and_after_an_update(inhibitory):
    built = linear(dale=True, inhibitory=inhibitory, density=0.5)
    optimizer = torch.optim.SGD(built.parameters(), lr=5.0)
    count = round(inhibitory * INPUTS)
    for _ in range(3):
        signs = built.synapses().detach().sign()
        assert (signs[: INPUTS - count] >= 0).all()
        assert (signs[INPUTS - count :] <= 0).all()
        optimizer.zero_grad()
        built(events(binary=False)).square().mean().backward()
        optimizer.step()
    assert (built.weight < 0).any(), "the update must have tried to cross zero for the test to mean anything"


@pytest.mark.parametrize(("size", "inhibitory"), [(4, 0.2), (3, 0.3), (10, 0.25), (40, 0.2)])
def test_strengths_add_up_to_nothing_whatever_the_rounding(size, inhibitory):
    assert make_dale_factors(size, inhibitory).sum().item() == pytest.approx(0.0, abs=1e-5)


def test_excitation_and_inhibition_cancel_on_the_mean():
    synapses = linear(dale=True).synapses().detach()
    excitation, inhibition = synapses.clamp(min=0).sum(), synapses.clamp(max=0).sum()
    assert excitation / -inhibition == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("settings", [{"density": 0.25}, {"dale": True}, {"density": 0.25, "dale": True}])
def test_currents_spread_as_a_dense_connections_do(settings):
    x = torch.randn(4000, INPUTS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain, other = linear(spread=0.0)(x).std(), linear(spread=0.0, **settings)(x).std()
    assert float(other / plain) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("settings", [{}, {"density": 0.25}, {"dale": True}])
def test_operations_count_the_synapses_that_events_reach(settings):
    built, x = linear(**settings), events()
    there = (built.synapses() != 0).float()
    counted = torch.stack([(row[:, None] * there != 0).sum() for row in x.flatten(0, -2)])
    assert torch.equal(built.operations(x).flatten().float(), counted.float())


def test_a_seed_gives_a_dense_connection_the_weights_that_torch_gives():
    torch.manual_seed(5)
    expected = torch.nn.init.orthogonal_(torch.nn.Linear(INPUTS, OUTPUTS).weight.detach(), 2.0)
    torch.manual_seed(5)
    found = registry.configure("connections", "linear", "c").build(inputs=(INPUTS,), outputs=OUTPUTS)
    assert torch.equal(found.weight, expected.t())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0.0}, r"c\.density: 0\.0 is out of range; it must be between 0\.0001 and 1\.0"),
        ({"density": 1.5}, r"c\.density: 1\.5 is out of range"),
        ({"inhibitory": -0.1}, r"c\.inhibitory: -0\.1 is out of range"),
        ({"dales": True}, r"c\.dales: .* did you mean 'dale'\?"),
    ],
)
def test_what_a_connection_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("connections", {"name": "linear", **settings}, "c")


def test_the_fan_in_of_the_sparsest_connection_is_one():
    built = linear(density=1e-4)
    assert ((built.synapses() != 0).sum(0) == 1).all()
    assert math.isfinite(built(events()).sum().item())
