"""Faults of a policy's own network do what their texts say, to a copy of it alone."""

import copy
from functools import cache, partial

import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.hosts.isaaclab.conditions.faults import (
    DEAD_FRACTION,
    LOST_FRACTION,
    PATTERNS,
    SPURIOUS_RATE,
    get_weights,
    quantize,
)
from spiky_rl.networks.base import ForwardRecord
from tests.hosts import test_conditions

SEED, EPISODES, INPUTS, OUTPUTS = test_conditions.SEED, 40, 6, 2
condition = partial(test_conditions.condition, episodes=EPISODES)


def network(**settings):
    torch.manual_seed(0)
    settings = {"name": "feedforward", "layers": [40, 30], "steps": 4, **settings}
    return registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)


RESERVOIR = {"name": "reservoir", "size": 40, "steps": 60, "seed": 0}
RECURRENT = {"recurrent": "recurrent", "stateful": True}


@cache
def calibrated():
    torch.manual_seed(0)
    return registry.configure("networks", RESERVOIR, "network").build(inputs=INPUTS, outputs=OUTPUTS)


def built(kind: str):
    if kind == "reservoir":
        return copy.deepcopy(calibrated())
    return network(**(RECURRENT if kind == "recurrent" else {}))


class Acting:
    """A network with the few things that a fault asks of a policy."""

    def __init__(self, model: nn.Module, spiking: bool = True) -> None:
        self.model = self.network = model
        if not spiking:
            self.network = None

    def copy(self):
        return Acting(copy.deepcopy(self.model), self.network is not None)


def only(copies: list) -> Acting:
    (changed,) = copies
    return changed


def spikes(net, x: torch.Tensor) -> list[torch.Tensor]:
    """Of every layer, in one control step from rest."""
    record = ForwardRecord()
    with torch.no_grad():
        net(x[None], net.zero_state(len(x), x), record=record)
    return record.layer_spikes


NETWORKS = ["plain", "recurrent", "reservoir"]
X = 3.0 * torch.randn(EPISODES, INPUTS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", [*NETWORKS, "mlp", "gru"])
def test_coarse_weights_have_at_most_as_many_values_as_their_bits_tell_apart(kind, bits):
    anns = {
        "mlp": nn.Sequential(nn.Linear(INPUTS, 30), nn.ELU(), nn.Linear(30, OUTPUTS)),
        "gru": nn.GRU(INPUTS, 30),
    }
    policy = Acting(anns.get(kind) or built(kind), kind not in anns)
    before = [weight.clone() for weight in get_weights(policy.model)]
    changed = only(condition(f"weights_{bits}_bits").perturb_policy(policy))
    after = list(get_weights(changed.model))
    assert len(after) >= 2
    for old, new in zip(before, after, strict=True):
        assert len(new.unique()) <= 2**bits
        assert (new - old).abs().max() <= 0.5001 * old.abs().max() / (2 ** (bits - 1) - 1)
    assert all(
        torch.equal(a, b) for a, b in zip(before, get_weights(policy.model), strict=True)
    ), "of a copy alone"


def test_quantisation_worked_by_hand():
    assert quantize(torch.tensor([0.0, 7.0, -3.4, 0.4]), 4).tolist() == [0.0, 7.0, -3.0, 0.0]
    assert not quantize(torch.zeros(2, 2), 4).any()


@pytest.mark.parametrize("kind", NETWORKS)
def test_dead_neurons_do_not_spike_and_there_are_as_many_as_said(kind):
    policy = Acting(built(kind))
    changed = condition("dead_neurons").perturb_policy(policy)[0]
    for width, fired in zip(changed.network.layer_sizes, spikes(changed.network, X), strict=True):
        silent = int((~fired.flatten(0, -2).bool().any(0)).sum())
        assert silent >= round(DEAD_FRACTION * width) and fired.any()
    alive = [int(s.flatten(0, -2).any(0).sum()) for s in spikes(policy.network, X)]
    assert sum(alive) > sum(int(s.flatten(0, -2).any(0).sum()) for s in spikes(changed.network, X))


def test_dead_units_of_an_ann_reach_nobody():
    mlp = nn.Sequential(nn.Linear(INPUTS, 30), nn.ELU(), nn.Linear(30, 20), nn.ELU(), nn.Linear(20, OUTPUTS))
    changed = condition("dead_neurons").perturb_policy(Acting(mlp, False))[0].model
    assert torch.equal(changed[0].weight, mlp[0].weight), "observations are no neurons"
    for layer, width in ((changed[2], 30), (changed[4], 20)):
        assert int((layer.weight == 0).all(0).sum()) == round(DEAD_FRACTION * width)
    both = nn.ModuleList([nn.Linear(30, OUTPUTS), nn.GRU(INPUTS, 30)])
    linear, gru = condition("dead_neurons").perturb_policy(Acting(both, False))[0].model
    dead = (linear.weight == 0).all(0)
    assert int(dead.sum()) == round(DEAD_FRACTION * 30) and torch.equal(dead, (gru.weight_hh_l0 == 0).all(0))


def dead_units(model: nn.Module) -> list[bool]:
    """Of both hidden layers of an MLP, one after the other."""
    return [unit for layer in (model[2], model[4]) for unit in (layer.weight == 0).all(0).tolist()]


def test_several_patterns_of_dead_neurons_are_drawn_the_same_ones_for_the_same_widths():
    mlp = nn.Sequential(
        *(nn.Linear(INPUTS, 40), nn.ELU(), nn.Linear(40, 30), nn.ELU(), nn.Linear(30, OUTPUTS))
    )
    units, neurons = (
        condition("dead_neurons").perturb_policy(policy)
        for policy in (Acting(mlp, False), Acting(built("plain")))
    )
    patterns = [dead_units(changed.model) for changed in units]
    assert (
        len(patterns) == len(neurons) == PATTERNS
        and f"{PATTERNS} random patterns" in condition("dead_neurons").text
    )
    assert len({tuple(pattern) for pattern in patterns}) == PATTERNS
    for pattern, changed in zip(patterns, neurons, strict=True):
        channels = [layer.channel(torch.ones(layer.width)) for layer in changed.network.layers]
        assert torch.equal(torch.cat(channels) == 0, torch.tensor(pattern))
    assert (
        len(condition("dead_neurons", episodes=3).perturb_policy(Acting(mlp, False))) == 3
    ), "no more than episodes"


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_a_fault_a_disturbed_network_computes_what_it_computed(kind):
    """So what differs under a fault is the fault's."""
    plain, other = built(kind), built(kind)
    other.set_spike_channels([lambda fired: fired] * len(other.layer_sizes))
    state = tuple(
        torch.rand(s.shape, generator=torch.Generator().manual_seed(2)) for s in plain.zero_state(EPISODES, X)
    )
    with torch.no_grad():
        (a, first), (b, second) = (net(X[None], state) for net in (plain, other))
    torch.testing.assert_close(a, b)
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", NETWORKS)
def test_spikes_are_lost_and_come_from_nowhere_as_often_as_the_texts_say(kind):
    silent = built(kind)
    with torch.no_grad():  # nothing drives it: every spike is spurious
        for name, tensor in [*silent.named_parameters(), *silent.named_buffers()]:
            if name.endswith(("bias", "weight")):
                tensor.zero_()
    fired = spikes(only(condition("spurious_spikes").perturb_policy(Acting(silent))).network, X)
    for layer in fired:
        assert abs(layer.mean() - SPURIOUS_RATE) < 5 * (SPURIOUS_RATE / layer.numel()) ** 0.5
    policy = Acting(built(kind))
    first, lossy = (
        spikes(policy.network, X)[0],
        spikes(only(condition("lost_spikes").perturb_policy(policy)).network, X)[0],
    )
    if kind == "plain":  # the first layer's own spikes do not depend on those that are lost
        assert not (lossy > first).any()
        kept = lossy.sum() / first.sum()
        assert (
            abs(kept - (1 - LOST_FRACTION))
            < 5 * (LOST_FRACTION * (1 - LOST_FRACTION) / float(first.sum())) ** 0.5
        )
    assert lossy.sum() < first.sum()


def test_a_lost_spike_does_not_return_into_its_own_layer():
    policy = Acting(built("recurrent"))
    mute = policy.copy()
    mute.network.set_spike_channels([torch.zeros_like] * 2)
    alone = network()  # the same feed-forward weights
    own = dict(mute.network.named_parameters())
    with torch.no_grad():
        for name, tensor in alone.named_parameters():
            tensor.copy_(own[name])
    record = ForwardRecord()
    with torch.no_grad():
        _, after = mute.network(X[None], mute.network.zero_state(EPISODES, X), record=record)
        _, others = alone(X[None], alone.zero_state(EPISODES, X))
    torch.testing.assert_close(
        after[0], others[0]
    ), "the first layer's membranes, as without recurrent synapses"


def test_faults_repeat_for_a_seed():
    one, two, other = (
        spikes(condition("dead_neurons", seed=seed).perturb_policy(Acting(built("plain")))[0].network, X)[0]
        for seed in (SEED, SEED, SEED + 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
