"""Each rule's gradient is what its own equations say, written down a second time, and BPTT's where the two have to agree."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import neuron_checks
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.learning._filters import DoubleExponential, smooth_gradient
from spiky_rl.learning._neuron_wrapper import GradientThroughReset
from spiky_rl.neurons.base import DETACH_RESET, Ode, parameter

T, K, BATCH, INPUTS, OUTPUTS = 6, 4, 5, 4, 2
NEURON = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
DECAY = math.exp(-0.5)
RULES = registry.list_names("rules")
SAME_FORWARD = [name for name in RULES if name not in ("eventprop", "spikeprop")]
"""Rules that leave the forward pass as it is; the modules of the two others say that they have one of their own."""


def network(layers=(32, 24), **settings):
    torch.manual_seed(0)
    connection = {"name": "linear", "gain": 2.0, "offset": 0.25, "spread": 0.5}
    settings = {
        "layers": list(layers),
        "steps": K,
        "stateful": True,
        "neuron": NEURON,
        "connection": connection,
        **settings,
    }
    settings = {"name": "feedforward", "gradient_precision": "float32", **settings}
    return registry.configure("networks", settings, "net").build(inputs=INPUTS, outputs=OUTPUTS)


def case():
    """Observations, and a mask with one episode's end in it."""
    x = 0.7 * torch.randn(T, BATCH, INPUTS, generator=torch.Generator().manual_seed(1))
    keep = torch.ones(T, BATCH)
    keep[3, 2] = 0.0
    return x.double(), keep.double()


def run(net):
    """Features of a pass and the gradients of all weights, in float64."""
    net, (x, keep) = net.double(), case()
    features, _ = net(x, net.zero_state(BATCH, x), keep)
    (features * torch.linspace(-1.0, 1.0, OUTPUTS) + features.square()).sum().backward()
    return features.detach(), {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


def agree(found, expected, tolerance=1e-12):
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= tolerance * expected[name].norm(), name


@pytest.mark.parametrize("rule", SAME_FORWARD)
@pytest.mark.parametrize("recurrent", [None, "recurrent"])
def test_the_forward_pass_is_the_same_under_every_rule(rule, recurrent):
    expected, _ = run(network(recurrent=recurrent))
    found, gradients = run(network(learning=rule, recurrent=recurrent))
    assert torch.equal(found, expected)
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_every_rule_runs_on_compiled_kernels_as_on_torch(rule, backend):
    net, twin = network(learning=rule), network(learning=rule)
    net.set_backend(backend), twin.set_backend("torch")
    x, keep = (t.float() for t in case())
    for one in (net, twin):
        features, _ = one(x, one.zero_state(BATCH, x), keep)
        features.square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        if p.requires_grad:
            assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm(), name


@pytest.mark.parametrize("rule", RULES)
def test_a_rollout_without_gradients_is_what_a_pass_with_them_is(rule):
    net, (x, keep) = network(learning=rule), case()
    x, keep = x.float(), keep.float()
    with torch.no_grad():
        fast, _ = net(x, net.zero_state(BATCH, x), keep)
    slow, _ = net(x, net.zero_state(BATCH, x), keep)
    assert torch.allclose(fast, slow.detach(), atol=1e-6)


def test_a_truncated_gradient_is_that_of_states_cut_by_hand():
    (x, keep), whole = case(), network(learning={"name": "bptt", "truncate": 2})
    _, found = run(whole)
    net = network().double()
    state, features = net.zero_state(BATCH, x), []
    for t in range(0, T, 2):
        y, state = net(x[t : t + 2], tuple(s.detach() for s in state), keep[t : t + 2])
        features.append(y)
    y = torch.cat(features)
    (y * torch.linspace(-1.0, 1.0, OUTPUTS) + y.square()).sum().backward()
    agree(found, {name: p.grad for name, p in net.named_parameters()})
    _, untruncated = run(network())
    assert (untruncated["layers.0.connection.weight"] - found["layers.0.connection.weight"]).norm() > 1e-3


def test_slayer_is_bptt_without_a_gradient_through_the_reset():
    density = {"name": "exponential", "slope": 3.0}
    found = run(network(learning={"name": "slayer", "density": density}))[1]
    agree(found, run(network(surrogate=density))[1])
    hard = {**NEURON, "reset": "zero"}
    found = run(network(learning={"name": "slayer", "density": density}, neuron=hard))[1]
    detached = run(network(surrogate=density, neuron=hard))[1]
    name = "layers.0.connection.weight"
    assert (
        found[name] - detached[name]
    ).norm() > 1e-3, "a reset to zero cuts BPTT's gradient even where it is detached"


def potentials(current, hard=False):
    """Potential before the reset, and spikes, of a LIF neuron at every step; current [time, B, N]."""
    v, found = torch.zeros_like(current[0]), []
    for i in current:
        v = DECAY * v + i
        z = (v >= 1.0).to(v.dtype)
        found.append((v, z))
        v = v * (1.0 - z) if hard else v - z
    return tuple(torch.stack(x) for x in zip(*found, strict=True))


def one_layer(rule, surrogate="arctangent", layers=1, time=20, neuron=None, **settings):
    """Spikes of layers without a decoder, time as inner steps, a random error at the last one's output, in float64."""
    widths = [7] * layers
    settings = {
        "learning": rule,
        "surrogate": surrogate,
        "steps": time,
        "neuron": neuron or NEURON,
        **settings,
    }
    net = network(widths, stateful=False, **settings).double()
    x = torch.rand(1, time, BATCH, INPUTS, generator=torch.Generator().manual_seed(5)).round().double()
    g = torch.randn(1, time, BATCH, 7, generator=torch.Generator().manual_seed(6)).double()
    signal, ops, signals = x, TorchOps(net.surrogate), [x]
    for layer in net.layers:
        signal, _ = layer(ops, signal, time, None, None, None)
        signals.append(signal)
    (signal * g).sum().backward()
    return net, [s.detach()[0] for s in signals], g[0]


def test_slayer_correlates_errors_with_the_spike_response():
    density = {"name": "exponential", "slope": 2.0, "scale": 0.5}
    for reset in ("subtract", "zero"):
        net, (x, z), e = one_layer({"name": "slayer", "density": density}, neuron={**NEURON, "reset": reset})
        link = net.layers[0].connection
        v, again = potentials(link(x.unsqueeze(0), "torch")[0].detach(), reset == "zero")
        assert torch.equal(again, z)
        d = 0.5 * torch.exp(-2.0 * (v - 1.0).abs()) * e
        time = torch.arange(len(x))
        response = DECAY ** (time - time[:, None]).clamp(min=0).double() * (time >= time[:, None])
        delta = torch.einsum("ts,sbn->tbn", response, d)
        expected = torch.einsum("tbn,tbc->cn", delta, x)
        assert torch.allclose(_weight(net, 0), expected, rtol=1e-10)


def _weight(net, layer):
    """Gradient of a layer's weights, [C, N]."""
    gradient = net.layers[layer].connection.weight.grad
    return gradient if gradient.shape[0] == net.layers[layer].connection.in_features else gradient.t()


class LavaCuba(Ode):
    """Lava's current-based LIF: u <- (1 - a) u + x, v <- (1 - b) v + u, v <- 0 after a spike; a = 0.25, b = 410/4096."""

    states = ("v", "u")

    class Options(Ode.Options):
        threshold: float = parameter(1.0, "potential at which it spikes", unit="1")
        detach_reset: bool = DETACH_RESET

    def integrate(self, ops, current, s, p):
        u = 0.75 * s.u + current
        return s.replace(v=(1.0 - 410 / 4096) * s.v + u, u=u)

    def threshold(self, ops, s, p):
        return s.v - p.threshold

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike))


LAVA_SPIKES = ((5, 10, 15, 19), (6, 12, 17))
LAVA_GRADIENT = (
    (-0.020562302, -0.020294704, -0.015404148, -0.002105748, 0.019488104, 0.041427266, 0.048734803, 0.039895549,
     0.023355134, 7.1113e-05, -0.01793696, -0.013346728, 0.005349426, 0.033745233, 0.066845492, 0.08841572,
     0.083543837, 0.068681352, 0.04518351, 0.018601192),
    (-0.031227576, -0.028375432, -0.020416539, -0.00470487, 0.019664556, 0.04891903, 0.07173828, 0.078624099,
     0.072904199, 0.062297568, 0.048267789, 0.039476532, 0.044056214, 0.054640457, 0.058611766, 0.059260584,
     0.052790467, 0.033933312, 0.010529821, 0.004604147),
)  # fmt: skip
"""Of lava-dl 0.6.0's CUBA neuron: threshold 64, current decay 0.25, voltage decay 0.1 (rounded to 410/4096), tau_grad 0.003, scale_grad 10."""


def test_slayer_is_lava_dls():
    time = torch.arange(20)
    x = torch.stack(
        [0.3 * ((time * 7) % 5 == 0) + 0.1 * ((time * 3) % 4 == 1), 0.2 * ((time * 5) % 3 == 0)], -1
    )
    x = x.view(1, 20, 1, 2).requires_grad_()
    neuron = registry.configure("neurons", f"{__file__}:LavaCuba", "neuron").build()
    # tau_grad and scale_grad are multiplied by 100 and 0.1 within lava-dl
    density = registry.configure("surrogates", {"name": "exponential", "slope": 1.0 / 0.3}, "s").build()
    rule = registry.configure("rules", "slayer", "learning").build()
    wrapped, ops = rule.wrap_neuron(neuron), TorchOps(density)
    s, p = wrapped.named_states(*[torch.zeros(1, 2)] * 2), wrapped.named_params(1.0)
    spikes = []
    for k in range(20):
        z, s = wrapped.step(ops, x[0, k], s, p)
        spikes.append(z)
    z = torch.stack(spikes)
    assert tuple(tuple(z[:, 0, n].nonzero().flatten().tolist()) for n in range(2)) == LAVA_SPIKES
    (z[:, 0] * torch.cos(0.7 * time)[:, None]).sum().backward()
    expected = 64.0 * torch.tensor(LAVA_GRADIENT).t()  # its potentials are 64 times ours
    # lava-dl cuts its states to multiples of 1/4096, which is 1/262144 of the threshold, in every step
    assert (x.grad[0, :, 0] - expected).abs().max() < 3e-4 * expected.abs().max()


def eligibility(x, v, neuron_slope, filters):
    """SuperSpike's traces run forward: alpha * [sigma'(V_i) (eps * x_j)], [time, B, C, N]."""
    p, e1, e2, found = torch.zeros_like(x[0]), 0.0, 0.0, []
    for t in range(len(x)):
        p = DECAY * p + x[t]
        hebb = neuron_slope(v[t] - 1.0).unsqueeze(-2) * p.unsqueeze(-1)
        e1 = filters[0] * e1 + (1.0 - filters[0]) * hebb
        e2 = filters[1] * e2 + (1.0 - filters[1]) * e1
        found.append(e2)
    return torch.stack(found)


@pytest.mark.parametrize("feedback", ["symmetric", "random", "uniform"])
def test_superspike_is_its_three_factor_rule_run_forward(feedback):
    rule = {"name": "superspike", "tau_rise": 2.0, "tau_decay": 4.0, "feedback": feedback}
    net, signals, error = one_layer(rule, {"name": "fast_sigmoid", "slope": 3.0}, layers=2)
    filters = math.exp(-1.0 / 2.0), math.exp(-1.0 / 4.0)
    for i in (1, 0):
        link = net.layers[i].connection
        v, z = potentials(link(signals[i].unsqueeze(0), "torch")[0].detach())
        assert torch.equal(z, signals[i + 1])
        traces = eligibility(signals[i], v, lambda u: 1.0 / (1.0 + 3.0 * u.abs()) ** 2, filters)
        assert torch.allclose(_weight(net, i), torch.einsum("tbn,tbcn->cn", error, traces), rtol=1e-10)
        way = torch.autograd.functional.jacobian(
            lambda s: link(s, "torch"), torch.zeros(1, 1, 1, link.in_features).double()
        )
        way = way.reshape(-1, link.in_features) if feedback == "symmetric" else net.layers[1].feedback
        error = error @ way


def test_a_smoothed_gradient_stays_within_its_episode():
    smooth = DoubleExponential.from_options(tau_rise=2.0, tau_fall=4.0)
    z = torch.zeros(4, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[1.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    error = torch.zeros_like(z)
    error[3, 1] = 1.0
    smooth_gradient(z, smooth, keep, "torch").backward(error)
    assert (z.grad[:2] == 0).all() and (z.grad[2:] > 0).all()
    response, e1, e2 = [], 0.0, 0.0
    for t in range(4):
        e1 = math.exp(-0.5) * e1 + (1.0 - math.exp(-0.5)) * (t == 0)
        e2 = math.exp(-0.25) * e2 + (1.0 - math.exp(-0.25)) * e1
        response.append(e2)
    assert z.grad[2:].flatten().tolist() == pytest.approx(response[::-1], rel=1e-12)


@pytest.mark.parametrize(
    "neuron", [NEURON, {"name": "alif", "tau": 2.0, "tau_adaptation": 9.0, "input_gain": "unit"}]
)
def test_eprop_is_bptt_of_one_layer_without_recurrence(neuron):
    """Bellec et al. (2020): nothing is left out then. ALIF's eligibility contains its adaptive threshold's."""
    agree(run(network([32], neuron=neuron, learning="eprop"))[1], run(network([32], neuron=neuron))[1])


def test_eprop_leaves_out_what_returns_through_spikes():
    found, expected = (
        run(network([32], learning=rule, recurrent="recurrent"))[1] for rule in ("eprop", "bptt")
    )
    assert torch.allclose(found["decoder.readout.weight"], expected["decoder.readout.weight"])
    cosine = torch.nn.functional.cosine_similarity(
        found["layers.0.connection.weight"].flatten(), expected["layers.0.connection.weight"].flatten(), 0
    )
    assert 0.3 < cosine < 0.9999
    assert found["layers.0.recurrent.weight"].abs().max() > 0, "recurrent weights learn by their own traces"


def test_eprop_broadcasts_the_error_to_every_layer():
    net = network(learning="eprop")
    _, found = run(net)
    (mirror,) = net.learning.mirrors
    assert not any(p.requires_grad for p in mirror.parameters())
    # the first layer alone with the mirror for its readout is all that its gradient depends on
    x, keep = case()
    first = network().double()
    spikes, _ = first.layers[0](
        TorchOps(first.surrogate), x.unsqueeze(1), K, tuple(x.new_zeros(BATCH, 32) for _ in (0,)), keep, None
    )
    features, _ = net(x, net.zero_state(BATCH, x), keep)
    error = torch.linspace(-1.0, 1.0, OUTPUTS) + 2.0 * features.detach()
    seen, _ = mirror(spikes, (x.new_zeros(BATCH, OUTPUTS),), keep)
    (seen * error).sum().backward()
    agree(
        {"w": found["layers.0.connection.weight"]}, {"w": first.layers[0].connection.weight.grad}
    )  # the same initial weights: one seed


def test_with_random_feedback_eprop_never_reads_the_readouts_weights():
    net, twin = network(learning={"name": "eprop", "feedback": "random"}), network(
        learning={"name": "eprop", "feedback": "random"}
    )
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        twin.decoder.readout.weight.neg_()
        twin.decoder.readout.bias.neg_()
    x, keep = case()
    for one, sign in ((net, 1.0), (twin, -1.0)):
        one.double()
        features, _ = one(x, one.zero_state(BATCH, x), keep)
        (features * sign).square().sum().backward()
    one, other = (n.layers[1].connection.weight.grad for n in (net, twin))
    assert torch.allclose(one, -other), "the error turned round with the readout, its way back did not"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning": "slayr"}, r"net\.learning\.name: unknown rule 'slayr'; .* did you mean 'slayer'\?"),
        ({"learning": "slayer", "neuron": "sigma_delta"}, r"net\.neuron: name: 'sigma_delta' is not available with 'slayer'"),
        (
            {"learning": "slayer", "neuron": {"name": "izhikevich", "learn": ["a", "d"]}},
            r"net\.neuron: learn: 'd' given; allowed with 'slayer': parameters that also act outside the reset",
        ),
        ({"learning": "eprop", "neuron": {"name": "lif", "detach_reset": False}}, r"net\.neuron: detach_reset: false"),
        ({"learning": "eprop", "neuron": "resonate"}, r"net\.neuron: detach_reset: false .*; set it to true"),
        ({"learning": {"name": "bptt", "truncate": -1}}, r"net\.learning\.truncate: -1 is out of range"),
        ({"learning": {"name": "superspike", "feedback": "rando"}}, r"feedback: 'rando' is not allowed; .* mean 'random'\?"),
        ({"learning": {"name": "eventprop", "lowest": 2.0}}, r"net\.learning\.lowest: 2\.0 .* at most highest, 0\.3"),
    ],
)  # fmt: skip
def test_what_a_rule_cannot_do_is_refused_by_name(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("networks", {"name": "feedforward", "layers": [8], **settings}, "net")


OWN_STEPS = '''"""LIF neurons with steps of their own: v <- decay v + I."""
from spiky_rl.neurons.izhikevich import Izhikevich
from spiky_rl.neurons.lif import Lif


class Ternary(Lif):
    graded = True

    def step(self, ops, current, s, p):
        s = self.integrate(ops, current, s, p)
        up, down = ops.spike(s.v - p.threshold), ops.spike(-s.v - p.threshold)
        return up - down, s.replace(v=s.v * (1.0 - ops.detach(up + down)))


class Twice(Lif):
    def step(self, ops, current, s, p):
        return super().step(ops, 2.0 * current, s, p)


class Slower(Izhikevich):
    def substep(self, ops, current, peak, s, p):
        return super().substep(ops, 0.5 * current, peak, s, p)


class Same(Lif):
    def step(self, ops, current, s, p):
        s = self.integrate(ops, current, s, p)
        spike = ops.spike(s.v - p.threshold)
        return spike, self.reset(ops, spike, s, p)
'''


@pytest.mark.parametrize("rule", ["slayer", "superspike", "eventprop", "spikeprop"])
def test_a_neuron_whose_own_step_a_rule_would_leave_out_is_refused(rule, tmp_path):
    (tmp_path / "own.py").write_text(OWN_STEPS, encoding="utf-8")

    def configure(neuron, rule):
        settings = {
            "name": "feedforward",
            "layers": [8],
            "neuron": f"{tmp_path}/own.py:{neuron}",
            "learning": rule,
        }
        return registry.configure("networks", settings, "net")

    for neuron in ("Ternary", "Twice", "Slower"):
        configure(neuron, "bptt")
        with pytest.raises(
            registry.RegistryError,
            match=rf"^net\.neuron: neuron '{neuron}': its step differs from its integrate",
        ):
            configure(neuron, rule)
    configure("Same", rule)


@pytest.mark.parametrize("rule", [pytest.param("slayer", marks=pytest.mark.slow), "superspike"])
def test_a_learned_parameter_is_allowed_if_a_gradient_reaches_it(rule):
    neuron = {"name": "alif", "learn": ["tau", "threshold", "tau_adaptation", "adaptation"]}
    torch.manual_seed(0)
    settings = {"name": "feedforward", "layers": [8], "neuron": neuron, "learning": rule}
    net = registry.configure("networks", settings, "net").build(inputs=3, outputs=1)
    net(torch.rand(1, 16, 3), None)[0].sum().backward()
    assert all(p.grad.any() for p in net.layers[0].parameters_of_neuron.parameters())


@pytest.mark.parametrize("encoder", ["population", {"name": "concat", "first": "population"}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_a_learned_encoder_gets_a_gradient_or_is_refused(rule, encoder):
    if rule == "eprop":
        with pytest.raises(
            registry.RegistryError, match=r"encoder: .* is learned, and 'eprop' .*; allowed: .* direct"
        ):
            network(learning=rule, encoder=encoder)
        return
    _, gradients = run(network(learning=rule, encoder=encoder))
    found = [gradient for name, gradient in gradients.items() if name.startswith("encoder.")]
    assert len(found) == 2
    assert all(gradient is not None and gradient.any() for gradient in found)


WITHOUT_RESET = ("cuba_lif", "sigma_delta", "sigma_delta_unit")
"""Neurons without a threshold and a reset of their own, which rules that change the reset refuse."""


@pytest.mark.parametrize("neuron", [n for n in registry.list_names("neurons") if n not in WITHOUT_RESET])
def test_every_neuron_of_the_package_with_a_reset_has_the_step_of_an_ode(neuron):
    neuron_checks.check_ode_step(registry.configure("neurons", neuron, "n").build())


@pytest.mark.parametrize("neuron", [n for n in registry.list_names("neurons") if n not in WITHOUT_RESET])
def test_an_unreset_neuron_computes_what_the_neuron_does(neuron):
    built = registry.configure("neurons", neuron, "n").build()
    wrapped = GradientThroughReset.wrap(built, "slayer")
    current = (
        3.0
        * torch.rand(40, 1, 5, generator=torch.Generator().manual_seed(2)).double()
        * (20.0 if built.dt < 1.0 else 1.0)
    )
    params = built.named_params(*(built.get_step_value(name) for name in built.params))
    a = b = built.named_states(*(torch.zeros(1, 5).double() for _ in built.states))
    for i in current:
        z, a = built.step(_OPS, i, a, params)
        y, b = wrapped.step(_OPS, i, b, params)
        assert torch.equal(z, y) and all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


_OPS = TorchOps(registry.configure("surrogates", "arctangent", "s").build())
