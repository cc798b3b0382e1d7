"""The population vector decoder: groups, preferred values, votes, and weights that a host draws again."""

import math

import pytest
import torch

from spiky_rl.config import registry

STEPS, BATCH, SPAN = 8, 4, 2.0


def decoder(inputs, outputs, span=SPAN):
    settings = {"name": "population_vector", "span": span}
    return registry.configure("decoders", settings, "decoder").build(inputs=inputs, outputs=outputs).double()


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 3), (11, 3), (3, 3), (7, 1)])
def test_groups_are_contiguous_disjoint_complete_and_as_equal_as_can_be(inputs, outputs):
    mask = decoder(inputs, outputs).mask
    assert (mask.sum(0) == 1).all(), "every neuron votes for one feature"
    owner = mask.argmax(0)
    assert (owner.diff() >= 0).all()
    sizes = mask.sum(1)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_fewer_neurons_than_features_are_refused_with_both_numbers():
    with pytest.raises(
        registry.RegistryError,
        match="population_vector needs at least one neuron for each of 3 features; a layer that it reads has 2",
    ):
        decoder(2, 3)


def test_preferred_values_are_spread_evenly_over_the_span_and_averaged():
    built = decoder(10, 2)
    groups = [built.readout.weight[f][built.mask[f] > 0] * 5 for f in range(2)]
    for preferred in groups:
        assert preferred.tolist() == pytest.approx([2.0, 1.0, 0.0, -1.0, -2.0])
    assert built.readout.bias.abs().max() == 0
    assert decoder(1, 1).readout.weight.item() == SPAN


def test_cosine_tuned_neurons_vote_for_the_value_that_they_encode():
    # rates a + b w_j x for preferred values w_j: the votes sum to b x mean(w_j^2), for the w_j are symmetric about 0. A rate
    # of K spikes is off by 1 / (2 K), so the vote is off by that times the mean of |w_j|.
    neurons, steps = 41, 50
    built = decoder(neurons, 1)
    preferred = built.readout.weight[0].detach() * neurons
    for x in (-1.0, -0.3, 0.0, 0.5, 1.0):
        rates = 0.5 + 0.2 * preferred * x
        counts = (rates * steps).round()
        spikes = (torch.arange(steps).view(1, -1, 1, 1) < counts).double()
        vote = built(spikes, None, None)[0].item() / (0.2 * preferred.square().mean().item())
        bound = preferred.abs().mean() / (2 * steps) / (0.2 * preferred.square().mean())
        assert abs(vote - x) <= bound


def test_features_stay_within_the_span_at_the_start():
    built = decoder(16, 4)
    loudest = (built.readout.weight > 0).any(0).double().expand(1, STEPS, BATCH, 16)
    y, _ = built(loudest, None, None)
    assert (y > 0.25 * SPAN).all()
    assert (y <= SPAN).all()


def test_a_neuron_touches_the_feature_of_its_group_alone_also_after_the_weights_were_drawn_again():
    built = decoder(11, 3)
    torch.nn.init.normal_(built.readout.weight)
    spikes = torch.zeros(1, STEPS, 11, 11, dtype=torch.float64)
    for neuron in range(11):
        spikes[0, 2, neuron, neuron] = 1.0
    y, _ = built(spikes, None, None)
    assert torch.equal(y[0] != 0, built.mask.T > 0)
    assert torch.allclose(y[0], (built.readout.weight * built.mask).T / STEPS)


def test_gradients_reach_the_weights_of_the_groups_and_no_other():
    built = decoder(11, 3)
    spikes = torch.ones(1, STEPS, BATCH, 11, dtype=torch.float64).requires_grad_()
    y, _ = built(spikes, None, None)
    (y + 1).pow(2).sum().backward()
    assert torch.equal(built.readout.weight.grad != 0, built.mask > 0)
    assert spikes.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("distribution", "outputs"),
    [("GaussianDistribution", 2), ("HeteroscedasticGaussianDistribution", 4), ("BetaDistribution", 4)],
)
def test_every_distribution_of_rsl_rl_initialises_and_trains_it(distribution, outputs):
    from rsl_rl.modules import distribution as theirs

    head = getattr(theirs, distribution)(2)
    built = decoder(13, outputs)
    head.init_mlp_weights(torch.nn.Sequential(built.readout, torch.nn.Identity()))
    spikes = (torch.rand(1, STEPS, BATCH, 13, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    y, _ = built(spikes, None, None)
    head.update(y.unflatten(-1, (2, 2)) if outputs == 4 else y)
    if distribution == "HeteroscedasticGaussianDistribution":
        assert torch.allclose(head.std, torch.ones_like(head.std)), "what the host asked for"
    head.log_prob(torch.full_like(head.mean, 0.3)).sum().backward()
    assert (built.readout.weight.grad[:2] != 0).sum() > math.floor(13 / outputs)
