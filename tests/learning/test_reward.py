"""Learning from reward and from late errors: whose credit it is, a bandit with two contexts, and a cue that must be kept."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.learning._traces import compute_modulation, compute_trace, correlate_events

TAU = 12.0


def test_credit_stays_within_its_episode():
    keep, credit = torch.ones(6, 1).double(), torch.zeros(6, 1).double()
    keep[3], credit[4] = 0.0, 2.0
    decay = math.exp(-1.0 / TAU)
    assert compute_modulation(credit, keep, TAU, 1.0).flatten().tolist() == pytest.approx(
        [0, 0, 0, 2 * decay, 2, 0]
    )


def test_a_control_steps_credit_falls_due_at_its_last_inner_step():
    rule = registry.configure("rules", {"name": "rstdp", "tau_eligibility": TAU}, "r").build()
    layer = (
        registry.configure("networks", {"name": "feedforward", "layers": [2]}, "n")
        .build(inputs=2, outputs=1)
        .layers[0]
    )
    found = rule.modulation(torch.tensor([[1.0], [3.0]]), None, layer, 2).flatten()
    d = math.exp(-1.0 / TAU)
    assert found.tolist() == pytest.approx([d + 3 * d**3, 1 + 3 * d**2, 3 * d, 3.0])


STEPS, INPUTS, LEAK = 100, 40, math.exp(-1.0 / 10.0)
SEEDS = range(5)
EACH = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
"""The fast tests try one."""


def trial(rng, weight, context, inhibition):
    """Two neurons with escape noise hear half of the inputs; the one that spikes more is the action.

    Returns spikes in [S, C] and out [S, 2], the neurons' spike probabilities and their potentials [S, 2], and the reward.
    """
    fast = (np.arange(INPUTS) < INPUTS // 2) == (context == 0)
    x = (rng.random((STEPS, INPUTS)) < np.where(fast, 0.06, 0.002)).astype(np.float32)
    drive, drawn, v = x @ weight, rng.random((STEPS, 2)), np.zeros(2)
    z, p, u = (np.zeros((STEPS, 2), np.float32) for _ in range(3))
    for t in range(STEPS):
        u[t] = v = LEAK * v + drive[t] - (inhibition * z[t - 1, ::-1] if t else 0.0)
        p[t] = 0.5 / (1.0 + np.exp(-(v - 2.5) / 0.4))
        z[t] = drawn[t] < p[t]
        v = v * (1.0 - z[t])
    count = z.sum(0)
    action = int(rng.integers(2)) if count[0] == count[1] else int(count[1] > count[0])
    return x, z, p, u, 1.0 if action == context else -1.0


def bandit(seed, learn, weight, trials, inhibition, per_context, averaging):
    """Fraction of right actions in the last 100 trials; ``learn`` gets what `trial` gave and the reward above its mean."""
    rng, right = np.random.default_rng(seed), []
    expected = [0.0, 0.0]
    weight.copy_(torch.from_numpy(rng.uniform(0.0, 1.0, (INPUTS, 2))))
    for _ in range(trials):
        context = int(rng.integers(2))
        *seen, reward = trial(rng, weight.numpy(), context, inhibition)
        here = context if per_context else 0
        learn(*(torch.from_numpy(s) for s in seen), reward - expected[here])
        expected[here] += averaging * (reward - expected[here])
        right.append(reward > 0)
    return np.mean(right[-100:])


def by_rule(seed, trials=1000, **settings):
    """The bandit learned by the rule `rstdp` of a network's layer, whose weights do not change sign."""
    torch.manual_seed(seed)
    rule = {"name": "rstdp", "potentiation": 1.0, "depression": 1.05, "learning_rate": 0.005, **settings}
    connection = {"name": "linear", "dale": True, "inhibitory": 0.0, "bias": False}
    settings = {
        "name": "feedforward",
        "layers": [2],
        "steps": STEPS,
        "connection": connection,
        "learning": rule,
    }
    net = registry.configure("networks", settings, "net").build(inputs=INPUTS, outputs=1)
    weight = net.layers[0].connection.weight.detach()
    net.learning.sizes.fill_(1.0)

    def learn(*seen):
        x, z, *_, surprise = seen
        signals = [x[None, :, None], z[None, :, None]]
        net.learning.apply_weight_change(net.layers, signals, torch.tensor([[surprise]]), None)

    found = bandit(seed, learn, weight, trials, inhibition=4.0, per_context=True, averaging=0.01)
    assert weight.min() >= 0.0 and weight.max() <= 1.0
    return found


@pytest.mark.parametrize("seed", EACH)
def test_rstdp_learns_a_bandit_with_two_contexts(seed):
    assert by_rule(seed) > 0.95


@pytest.mark.slow
def test_without_credit_for_the_spike_that_made_it_spike_a_neuron_does_not_learn_it():
    assert np.mean([by_rule(seed, 500, same_step="nothing") for seed in SEEDS]) < 0.75


@pytest.mark.slow
def test_the_bandit_is_not_won_by_the_weights_that_it_starts_with():
    assert np.mean([by_rule(seed, 100, learning_rate=0.0) for seed in SEEDS]) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_policy_gradient_of_escape_noise_learns_it_too(seed):
    """REINFORCE: what a spike was worth, above its probability, times the trace of the input that drives it."""
    weight = torch.zeros(INPUTS, 2)

    def learn(x, z, p, u, surprise):
        x = x.unsqueeze(1)
        steep = (1.0 - torch.sigmoid((u - 2.5) / 0.4)) / 0.4  # p' / p
        score = (z - p) / (1.0 - p) * steep
        weight.add_(
            0.003 * surprise * correlate_events(compute_trace(x, None, 10.0, 1.0) + x, score.unsqueeze(1))
        )

    assert bandit(seed, learn, weight, 600, inhibition=0.0, per_context=False, averaging=0.05) > 0.95


DELAY, CUES, UPDATES = 22, 64, 400
ADAPTIVE = {"name": "alif", "tau": 4.0, "input_gain": "ode", "tau_adaptation": 200.0, "adaptation": 0.5}


def stored(count, g):
    """Store and recall (Bellec et al. 2018): a stream of values [T, B, 4], and the one that was on when `store` was.

    Channels: two for the value, which is new in every step, one for the command to store it and one to recall it.
    """
    value = torch.rand(DELAY + 2, count, generator=g) < 0.5
    command = torch.zeros(DELAY + 2, count, 2)
    command[1, :, 0] = command[-1, :, 1] = 1.0
    x = torch.cat([torch.stack([value, ~value], -1).float(), command], -1)
    x[-1, :, :2] = 0.0
    return x, value[1].long()


@cache
def recall_error(seed, rule="eprop", neuron="alif", learned=True):
    """Fraction of wrong answers after training, where only the error of the last step, 22 control steps later, teaches."""
    torch.manual_seed(seed)
    settings = {"name": "feedforward", "layers": [40], "stateful": True, "surrogate": "triangle", "learning": rule,
                "neuron": ADAPTIVE if neuron == "alif" else {"name": "lif", "tau": 4.0, "input_gain": "ode"},
                "decoder": {"name": "membrane", "tau": 4.0}}  # fmt: skip
    net = registry.configure("networks", settings, "net").build(inputs=4, outputs=2)
    net.layers[0].requires_grad_(learned)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.03)
    g = torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        x, label = stored(CUES, g)
        optimizer.zero_grad()
        answer = net(x, net.zero_state(CUES, x))[0][-1]
        torch.nn.functional.cross_entropy(answer, label).backward()
        optimizer.step()
    x, label = stored(2000, g)
    with torch.no_grad():
        answer = net(x, net.zero_state(2000, x))[0][-1]
    return float((answer.argmax(-1) != label).float().mean())


@pytest.mark.parametrize("seed", SEEDS[1:4])
@pytest.mark.slow
def test_eprop_keeps_a_cue_over_22_control_steps_in_adaptive_thresholds(seed):
    assert recall_error(seed) < 0.1
    assert recall_error(seed, learned=False) > 0.4, "a readout of random adaptive neurons guesses"


@pytest.mark.slow
def test_eprop_keeps_no_cue_in_membranes_that_leak_within_a_control_step():
    assert recall_error(0, neuron="lif") > 0.4
