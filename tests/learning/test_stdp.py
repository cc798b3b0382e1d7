"""Spike timing: published windows and curves, the equations a second time synapse by synapse, and weights within bounds."""

import math
from dataclasses import replace

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.learning import _traces as traces
from spiky_rl.learning._traces import PAIRS, TRIPLETS, StdpWindow, compute_modulation, compute_weight_change

WINDOW = {1: 0.009512294, 5: 0.007788008, 10: 0.006065307, 20: 0.003678794, 50: 0.000820850, 0: 0.0,
          -1: -0.009987909, -5: -0.008177408, -10: -0.006368572, -20: -0.003862734, -50: -0.000861892}  # fmt: skip
"""dw by t_post - t_pre in ms, of Song, Miller & Abbott's exponentials with A+ 0.01, A- 0.0105, tau 20 ms."""
FULL_NEAREST = StdpWindow(16.8, 33.7, 8.8e-11, 6.6e-3, 714.0, 40.0, 5.3e-2, 3.1e-3, nearest=True)
HIPPOCAMPAL = StdpWindow(16.8, 33.7, 5.3e-3, 3.5e-3, tau_y=40.0, triplet_potentiation=8e-3)
"""Pfister & Gerstner (2006), table 4."""
FREQUENCIES = (0.1, 10.0, 20.0, 40.0, 50.0)
CURVES = {
    "minimal": (TRIPLETS["all"], (0.0, 0.1186, 0.2278, 0.5321, 0.7627), (-0.3166, -0.3322, -0.3417, 0.1737, 0.7492)),
    "full": (FULL_NEAREST, (0.0, 0.1036, 0.3232, 0.5603, 0.6243), (-0.2943, -0.4113, -0.3382, 0.2598, 0.6193)),
}  # fmt: skip
"""Change by 60 pairings at the frequencies above, post 10 ms after pre and 10 ms before it."""
SOURCES, NEURONS, BATCH, TIME = 6, 4, 3, 60


def trains(times, dt, dtype):
    """Spikes [S, 1, number of trains] at times in ms."""
    found = torch.zeros(round(max(map(max, times)) / dt) + 1, 1, len(times), dtype=dtype)
    for i, train in enumerate(times):
        found[[round(t / dt) for t in train], 0, i] = 1.0
    return found


def one_to_one(pre, post, window, dtype=torch.float64):
    """dw of the synapse from every pre-train to the post-train of its number; times in ms."""
    found = trains([*pre, *post], window.dt, dtype)
    pre, post = found.split(len(pre), -1)
    return compute_weight_change(
        pre, post, None, torch.zeros(pre.shape[-1], post.shape[-1]), window
    ).diagonal()


@pytest.mark.parametrize("nearest", [False, True])
def test_the_window_of_a_pair_is_the_published_one(nearest):
    found = one_to_one(
        [[60.0]] * len(WINDOW), [[60.0 + gap] for gap in WINDOW], replace(PAIRS, nearest=nearest)
    )
    assert found.tolist() == pytest.approx(list(WINDOW.values()), abs=1e-9)
    assert found[list(WINDOW).index(0)] == 0.0, "a coincidence changes nothing at all"


@pytest.mark.parametrize("name", CURVES)
def test_triplets_follow_the_frequency_of_pairs_as_published(name):
    window, *expected = CURVES[name]
    # 5 ms divide every interval in these trains, and the traces decay exactly over any step
    starts = [[20.0 + 1000.0 / f * k for k in range(60)] for f in FREQUENCIES]
    later = [[t + 10.0 for t in train] for train in starts]
    trains_of = (starts + later, later + starts)
    found = one_to_one(*trains_of, replace(window, dt=5.0), torch.float32).view(2, -1)
    for row, curve in zip(found, expected, strict=True):
        assert row.tolist() == pytest.approx(curve, abs=5.1e-5)


def test_hippocampal_triplets_are_the_published_ones():
    once = [20.0 + 1000.0 * k for k in range(60)]

    def at(*gaps):
        return sorted(t + gap for t in once for gap in gaps)

    pre = [at(0.0), at(0.0), at(0.0, 10.0), at(5.0)]
    post = [at(10.0), at(-10.0), at(5.0), at(0.0, 10.0)]
    found = one_to_one(pre, post, replace(HIPPOCAMPAL, dt=5.0))
    assert found.tolist() == pytest.approx([0.1754, -0.1561, 0.0551, 0.3327], abs=5.1e-5)


def rollout(seed=0, graded=False):
    """Random pre- and post-spikes, the beginnings of episodes, and weights, in float64."""
    g = torch.Generator().manual_seed(seed)
    pre = torch.rand(TIME, BATCH, SOURCES, generator=g, dtype=torch.float64)
    pre = pre - 0.5 if graded else (pre < 0.2).double()
    post = (torch.rand(TIME, BATCH, NEURONS, generator=g) < 0.2).double()
    keep = (torch.rand(TIME, BATCH, generator=g) > 0.05).double()
    return pre, post, keep, torch.rand(SOURCES, NEURONS, generator=g, dtype=torch.float64)


def events(pre, post, keep, weights, window):
    """What every step does to every synapse of every environment, by the rule's own text: [S, B, C, N]."""
    r1, r2, o1, o2 = (torch.zeros_like(x[0]) for x in (pre, pre, post, post))
    enter = (lambda r, x: torch.where(x != 0, x, r)) if window.nearest else (lambda r, x: r + x)
    up, down, found = (1.0 - weights) ** window.mu, weights**window.mu, []
    for x, z, k in zip(pre, post, keep.unsqueeze(-1), strict=True):
        taus = (window.tau_plus, window.tau_x, window.tau_minus, window.tau_y)
        r1, r2, o1, o2 = (
            k * r * math.exp(-window.dt / tau) for r, tau in zip((r1, r2, o1, o2), taus, strict=True)
        )
        depression = x * (window.depression + window.triplet_depression * r2)
        potentiation = z * (window.potentiation + window.triplet_potentiation * o2)
        raised = (enter(r1, x) if window.causal else r1).unsqueeze(-1) * potentiation.unsqueeze(-2) * up
        found.append(raised - depression.unsqueeze(-1) * o1.unsqueeze(-2) * down)
        r1, r2, o1, o2 = enter(r1, x), enter(r2, x), enter(o1, z), enter(o2, z)
    return torch.stack(found)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "window", [PAIRS, replace(PAIRS, causal=True), replace(HIPPOCAMPAL, dt=2.0), FULL_NEAREST]
)
def test_two_products_are_the_rule_run_synapse_by_synapse(window, mu, graded):
    window, case = replace(window, mu=mu), rollout(graded=graded)
    expected = events(*case, window).sum(0).mean(0)
    assert torch.allclose(compute_weight_change(*case, window), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "window", [PAIRS, replace(PAIRS, causal=True, mu=0.5), replace(FULL_NEAREST, dt=0.5)]
)
def test_credit_filtered_backwards_is_an_eligibility_in_every_synapse(window):
    (pre, post, keep, weights), tau = rollout(), 12.0
    g = torch.Generator().manual_seed(9)
    credit = torch.randn(TIME, BATCH, generator=g).double() * (torch.rand(TIME, BATCH, generator=g) < 0.3)
    eligibility, expected = torch.zeros(BATCH, SOURCES, NEURONS).double(), 0.0
    for event, k, d in zip(events(pre, post, keep, weights, window), keep, credit, strict=True):
        eligibility = k.view(-1, 1, 1) * math.exp(-window.dt / tau) * eligibility + event
        expected = expected + (d.view(-1, 1, 1) * eligibility).mean(0)
    found = compute_weight_change(
        pre, post, keep, weights, window, modulation=compute_modulation(credit, keep, tau, window.dt)
    )
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)
    assert found.abs().max() > 1e-4


def test_compiled_traces_are_those_of_the_reference():
    case = [x.float() for x in rollout()]
    found, expected = (
        compute_weight_change(*case, FULL_NEAREST, backend=backend) for backend in ("cpu", "torch")
    )
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def network(rule, layers=(8, 6), seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"name": "feedforward", "layers": list(layers), "steps": 4, "stateful": True, "learning": rule,
                "connection": {"name": "linear", "gain": 3.0}, "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
                **settings}  # fmt: skip
    return registry.configure("networks", settings, "net").build(inputs=SOURCES, outputs=2)


def played(net, length=12, batch=BATCH):
    """Signals of a rollout, credit and the beginnings of episodes."""
    g = torch.Generator().manual_seed(3)
    x, credit = torch.randn(length, batch, SOURCES, generator=g), torch.randn(length, batch, generator=g)
    keep = (torch.rand(length, batch, generator=g) > 0.1).float()
    signals, ops = [x.unsqueeze(1)], traces.SPIKELESS
    for layer in net.layers:
        rest = tuple(x.new_zeros(batch, layer.width) for _ in range(layer.states))
        signals.append(layer(ops, signals[-1], 4, rest, keep, None)[0].detach())
    return signals, credit, keep


def learn(net, times=1):
    case = played(net)
    for _ in range(times):
        net.learning.apply_weight_change(net.layers, *case)
    return case


def rollout_of_walks(net, seed):
    """Rate of the last layer on new random walks, from which the network then learns."""
    g = torch.Generator().manual_seed(seed)
    x = 0.25 * torch.randn(24, 64, SOURCES, generator=g).cumsum(0) + torch.randn(1, 64, SOURCES, generator=g)
    signals = [x.unsqueeze(1)]
    for layer in net.layers:
        signals.append(layer(traces.SPIKELESS, signals[-1], 4, None, None, None)[0].detach())
    net.learning.apply_weight_change(net.layers, signals, x.new_zeros(24, 64), None)
    return float(signals[-1].mean())


def weights_of(net):
    return [layer.connection.weight.clone() for layer in net.layers]


def test_a_rollout_changes_weights_by_its_spikes_in_place_and_no_gradient_does():
    net = network({"name": "stdp", "normalisation": "none"})
    before, places = weights_of(net), [layer.connection.weight.data_ptr() for layer in net.layers]
    (x, hidden, output), _, keep = learn(net)
    assert [layer.connection.weight.data_ptr() for layer in net.layers] == places
    inner = torch.ones(12, 4, BATCH)
    inner[:, 0] = keep
    pairs = [(x.expand(-1, 4, -1, -1), hidden), (hidden, output)]
    for layer, weight, (pre, post) in zip(net.layers, before, pairs, strict=True):
        found = compute_weight_change(
            pre.flatten(0, 1), post.flatten(0, 1), inner.flatten(0, 1), weight, replace(PAIRS, causal=True)
        )
        top = weight.abs().max()
        expected = (weight + top * found).clamp(-top, top)
        assert torch.allclose(layer.connection.weight, expected, atol=1e-7)
        assert (layer.connection.weight - weight).abs().max() > 1e-5
    features, _ = net(torch.randn(2, BATCH, SOURCES), net.zero_state(BATCH, x))
    features.square().sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == {
        "decoder.readout.weight",
        "decoder.readout.bias",
    }


@pytest.mark.parametrize("named", [[0], [1]])
def test_only_the_named_layers_change_and_the_others_have_bptts_gradient(named):
    net, twin = network({"name": "stdp", "layers": named}), network("bptt")
    x = torch.randn(3, BATCH, SOURCES, generator=torch.Generator().manual_seed(1))
    for one in (net, twin):
        one(x, one.zero_state(BATCH, x))[0].square().sum().backward()
    before = weights_of(net)
    learn(net)
    for i, (layer, other) in enumerate(zip(net.layers, twin.layers, strict=True)):
        moved = not torch.equal(layer.connection.weight, before[i])
        assert moved == (i in named)
        assert i in named or torch.allclose(
            layer.connection.weight.grad, other.connection.weight.grad, atol=1e-6
        )


@pytest.mark.parametrize("rule", ["stdp", "rstdp"])
@pytest.mark.parametrize("mu", [0.0, 1.0])
@pytest.mark.parametrize("normalisation", ["none", "subtractive", "multiplicative"])
@pytest.mark.parametrize("wiring", [{}, {"density": 0.5}, {"density": 0.5, "dale": True, "inhibitory": 0.3}])
def test_weights_stay_finite_within_bounds_in_their_places_and_on_their_side_of_zero(
    rule, mu, normalisation, wiring
):
    rule = {"name": rule, "learning_rate": 5.0, "mu": mu, "normalisation": normalisation, "limit": 1.5}
    net = network(rule, connection={"name": "linear", "gain": 3.0, **wiring})
    tops = [1.5 * weight.abs().max() for weight in weights_of(net)]
    masks = [layer.connection.mask for layer in net.layers]
    before = weights_of(net)
    learn(net, times=30)
    for layer, top, mask, weight in zip(net.layers, tops, masks, before, strict=True):
        found = layer.connection.weight
        assert found.isfinite().all() and (found.abs() <= top * (1.0 + 1e-6)).all()
        assert not torch.equal(found, weight)
        if mask is not None:
            assert (found[mask == 0] == 0).all()
        if layer.connection.dale:
            assert (found >= 0).all()
            assert (layer.connection.synapses() * mask >= 0).all()


@pytest.mark.parametrize("wiring", [{}, {"density": 0.5}, {"density": 0.5, "dale": True, "inhibitory": 0.3}])
def test_normalisation_keeps_the_sum_of_a_neurons_weights_or_of_their_sizes(wiring):
    measures = {"subtractive": lambda w: w.sum(0), "multiplicative": lambda w: w.abs().sum(0)}
    for name, measure in measures.items():
        # no bound is reached, which would take something from the sum
        net = network(
            {"name": "stdp", "normalisation": name, "limit": 100.0}, connection={"name": "linear", **wiring}
        )
        link = net.layers[0].connection
        if wiring.get("dale") and name == "subtractive":
            continue
        before, start = measure(link.synapses()), link.weight.clone()
        learn(net)
        assert torch.allclose(measure(link.synapses()), before, atol=1e-5)
        assert (link.weight - start).abs().max() > 1e-5


@pytest.mark.parametrize("normalisation", ["none", "subtractive", "multiplicative"])
def test_a_neuron_without_synapses_keeps_weights_of_zero(normalisation):
    net = network(
        {"name": "stdp", "normalisation": normalisation}, connection={"name": "linear", "density": 0.5}
    )
    link = net.layers[0].connection
    with torch.no_grad():
        link.mask[:, 2], link.weight[:, 2], link.bias[2] = 0.0, 0.0, 1.5
    _, hidden, _ = learn(net)[0]
    assert hidden[..., 2].mean() > 0.5, "its bias makes it fire"
    assert link.weight.isfinite().all()
    assert (link.weight[:, 2] == 0.0).all()


@pytest.mark.parametrize("wiring", [{}, {"dale": True}])
def test_a_layer_whose_initial_weights_are_zero_keeps_them(wiring):
    net = network(
        {"name": "stdp", "mu": 1.0}, connection={"name": "linear", "gain": 0.0, "offset": 1.0, **wiring}
    )
    learn(net)
    assert all((weight == 0.0).all() for weight in weights_of(net))


def test_a_checkpoint_keeps_the_bounds_of_the_first_weights():
    net, other = network("stdp"), network("stdp", seed=5)
    assert not torch.equal(net.learning.sizes, other.learning.sizes)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.learning.sizes, other.learning.sizes)


@pytest.mark.parametrize("kind", ["pair", pytest.param("triplet", marks=pytest.mark.slow)])
def test_signed_weights_that_keep_their_sum_keep_a_layer_firing(kind):
    rates = {}
    for normalisation in ("subtractive", "none"):
        settings = {"name": "stdp", "kind": kind, "normalisation": normalisation}
        net = network(settings, layers=(64, 64), connection="linear")
        seen = [rollout_of_walks(net, seed) for seed in range(100)]
        rates[normalisation] = sum(seen[50:]) / 50 / seen[0]
    assert 0.3 < rates["subtractive"] < 3.0
    # the layer fires in 0.28 of the steps at first
    assert rates["none"] < 0.1 if kind == "pair" else rates["none"] > 2.8, rates


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_neuron_comes_to_listen_to_the_inputs_that_fire_together(seed):
    """Song, Miller & Abbott (2000): of inputs with one rate, those that are correlated drive spikes and win."""
    connection = {"name": "linear", "dale": True, "inhibitory": 0.0, "bias": False}
    rule = {"name": "stdp", "normalisation": "multiplicative", "learning_rate": 5.0, "limit": 2.0}
    torch.manual_seed(seed)
    settings = {"name": "feedforward", "layers": [4], "steps": 500, "learning": rule, "connection": connection,
                "neuron": {"name": "lif", "tau": 10.0, "input_gain": "unit"}}  # fmt: skip
    net = registry.configure("networks", settings, "net").build(inputs=40, outputs=1)
    (layer,), g = net.layers, torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.connection.weight.copy_(0.1 + 0.02 * torch.rand(40, 4, generator=g))
    net.learning.setup(net.layers, None, 1)
    for _ in range(60):
        # an event makes half of them fire, each somewhere within 5 ms
        event = (torch.rand(500, 8, generator=g) < 0.02).float()
        lasting = sum(torch.cat([torch.zeros(d, 8), event[: 500 - d]]) for d in range(5)).view(1, 500, 8, 1)
        rate = torch.where(torch.arange(40) < 20, 0.1 * lasting, 0.01)
        x = (torch.rand(1, 500, 8, 40, generator=g) < rate).float()
        z, _ = layer(traces.SPIKELESS, x, 500, None, None, None)
        net.learning.apply_weight_change(net.layers, [x, z], torch.zeros(1, 8), None)
    weight = layer.connection.weight
    assert weight[:20].mean() > 5.0 * weight[20:].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning": {"name": "stdp", "kind": "tripplet"}}, r"learning\.kind: 'tripplet' .* did you mean 'triplet'\?"),
        ({"learning": {"name": "stdp", "tau_y": 9.0}}, r"learning\.tau_y: 9\.0 is not allowed with kind: pair"),
        ({"learning": {"name": "rstdp", "tau_eligibilty": 9.0}}, r"no such option; .*did you mean 'tau_eligibility'\?"),
        ({"learning": {"name": "stdp", "layers": [2]}}, r"layers: 2 is out of range; the layers are 0 to 1"),
        ({"learning": {"name": "stdp", "potentiation": -1.0}}, r"potentiation: -1\.0 is out of range"),
    ],
)  # fmt: skip
def test_what_spike_timing_cannot_do_is_refused_by_name(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        network(settings["learning"])


def test_a_connection_that_is_not_linear_is_refused_unless_its_layer_is_left_out():
    def maps(layers):
        connection = [{"name": "convolutional", "kernel": 3}, "linear"]
        settings = {"name": "feedforward", "layers": [2, 6], "connection": connection,
                    "learning": {"name": "stdp", "layers": layers}}  # fmt: skip
        return registry.configure("networks", settings, "net").build(inputs=(1, 6, 6), outputs=2)

    with pytest.raises(
        registry.RegistryError,
        match="layers: 0: not available for a layer with the connection 'convolutional'",
    ):
        maps([])
    assert maps([1]).learning.plastic_layers == (1,)
