"""Spikes with a time within the step: the gradient is exact for the pass that runs, and that pass converges to the events'."""

import math
import pickle

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import solve_network
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.learners.common.penalties import leave_out_penalty
from spiky_rl.learning._exact_spike_neuron import ExactSpikeNeuron, SingleSpikeNeuron
from spiky_rl.networks.feedforward import MAX_CPU_ROWS
from spiky_rl.neurons.base import parameter
from spiky_rl.neurons.lif import Lif

OPS = TorchOps(registry.configure("surrogates", "arctangent", "s").build())
SLOW = {"tau": 20.0, "input_gain": "ode"}
ODES = {
    "lif": (6.0, {"reset": "zero", **SLOW}),
    "alif": (8.0, SLOW),
    "quadratic": (4.0, {"tau": 10.0}),
    "izhikevich": (60.0, {}),
    "resonate": (3.0, {"dt": 1.0}),
    "hodgkin_huxley": (60.0, {}),
}
"""Neuron -> size of its weights, and options with which inputs of a few ms make it fire."""
INPUT_TIMES = ((0.3, 9.2), (2.1, 12.4), (1.7,))


def timed(name, **options):
    """The neuron with spike times, and its parameters."""
    built = registry.configure("neurons", {"name": name, **options}, "n").build()
    found = ExactSpikeNeuron.wrap(built, "eventprop", tau_synapse=5.0, slope=1e-9)
    return found, tuple(found.get_step_value(p) for p in found.params)


def events(times, steps, dt=1.0):
    """Input spikes in ms as a signal [1, K, 1, C]: each divided between two steps."""
    found = torch.zeros(1, steps + 1, 1, len(times), dtype=torch.float64)
    for channel, ts in enumerate(times):
        for t in ts:
            step = int(t / dt + 1e-9)
            found[0, step, 0, channel] += 1.0 - (t / dt - step)
            found[0, step + 1, 0, channel] += t / dt - step
    return found[:, :steps]


def test_every_ode_neuron_of_the_registry_is_tried():
    odes = {n for n in registry.list_names("neurons") if hasattr(registry.resolve("neurons", n), "integrate")}
    assert odes == set(ODES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("hodgkin_huxley", "izhikevich")))
        for name in ODES
    ],
)
def test_the_gradient_is_that_of_finite_differences(name):
    scale, options = ODES[name]
    neuron, params = timed(name, **options)
    steps = round(30.0 / neuron.dt) if name != "hodgkin_huxley" else 14
    x = events(INPUT_TIMES, steps)
    generator = torch.Generator().manual_seed(0)
    weights = [
        scale * neuron.dt * torch.rand(shape, generator=generator).double() for shape in ((3, 4), (4, 2))
    ]
    time = torch.arange(steps, dtype=torch.float64).view(1, steps, 1, 1)

    def loss(first, second):
        hidden, _ = dispatch.unroll("torch", neuron, OPS, x @ first, steps, None, params)
        output, _ = dispatch.unroll("torch", neuron, OPS, hidden @ second, steps, None, params)
        return (output * time).sum(), hidden.sum()

    for w in weights:
        w.requires_grad_()
    found, spikes = loss(*weights)
    assert spikes > 2.0, "there is something to shift"
    gradients = torch.autograd.grad(found, weights)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        way = [torch.randn(w.shape, generator=generator).double() for w in weights]
        h = 1e-6 * scale * neuron.dt
        with torch.no_grad():
            ahead, behind = (
                loss(*(w + s * h * d for w, d in zip(weights, way, strict=True)))[0] for s in (1.0, -1.0)
            )
        expected = ((ahead - behind) / (2.0 * h)).item()
        exact = sum((g * d).sum().item() for g, d in zip(gradients, way, strict=True))
        size = sum(g.norm().item() for g in gradients)
        assert exact == pytest.approx(expected, abs=1e-6 * size)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("lif", "izhikevich") else pytest.mark.slow)
        for name in ODES
        if name != "hodgkin_huxley"
    ],
)
@pytest.mark.parametrize("backend", ["cpu", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_kernels_are_the_reference(name, backend):
    try:
        device = dispatch.require_backend(backend).device
    except registry.RegistryError as error:
        pytest.skip(str(error))
    scale, options = ODES[name]
    neuron, params = timed(name, **options)
    generator = torch.Generator().manual_seed(2)
    current = 0.3 * scale * neuron.dt * torch.rand(2, 9, 5, 11, generator=generator)
    keep = torch.tensor([[1.0] * 5, [1.0, 0.0, 1.0, 1.0, 0.0]])
    found = []
    for one, where in (("torch", "cpu"), (backend, device)):
        i = current.to(where).requires_grad_()
        rest = tuple(torch.zeros(5, 11, device=where) for _ in neuron.states)
        y, last = dispatch.unroll(one, neuron, OPS, i, 9, rest, params, keep.to(where))
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(where)
        (y * g).sum().backward()
        found.append([t.detach().cpu() for t in (y, *last, i.grad)])
    assert found[0][0].sum() > 10.0
    for reference, kernel in zip(*found, strict=True):
        assert (kernel - reference).abs().max() <= 5e-5 * reference.abs().max()


GOLDEN = torch.tensor(
    [18.787754968, 17.358242672, 5.085141837, 4.542969075, 2.850437943, 3.402276880]
).double()
"""Continuous time: tau 20, tau_synapse 5; loss of the output's first two spikes, at 13.465 and 17.446, to 10 and 25 ms."""


def golden(dt):
    """Times of the output's first two spikes and the gradient of their loss, at this step."""
    neuron, params = timed("lif", reset="zero", dt=dt, **SLOW)
    steps = round(50.0 / dt)
    x = events(((1.0, 9.0), (3.0, 12.0)), steps, dt)
    first = torch.tensor([[4.0, 2.0], [1.5, 5.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[4.5, 3.5]], dtype=torch.float64, requires_grad=True)
    hidden, _ = dispatch.unroll("torch", neuron, OPS, x @ first.t(), steps, None, params)
    output, _ = dispatch.unroll("torch", neuron, OPS, hidden @ second.t(), steps, None, params)
    sent = output.flatten()
    moments, count = (sent * dt * torch.arange(steps)).cumsum(0), sent.detach().cumsum(0)
    ends = [int((count > n - 1e-9).nonzero()[0]) for n in (1, 2)]
    one, two = moments[ends[0]], moments[ends[1]] - moments[ends[0]]
    (0.5 * ((one - 10.0) ** 2 + (two - 25.0) ** 2)).backward()
    return one.item(), two.item(), torch.cat([first.grad.flatten(), second.grad.flatten()])


def test_it_converges_to_eventprop_in_continuous_time():
    errors = {}
    for dt in (0.2, 0.1, 0.04):
        one, two, gradient = golden(dt)
        errors[dt] = ((gradient - GOLDEN).norm() / GOLDEN.norm()).item()
    assert one == pytest.approx(13.465027307, abs=3e-4) and two == pytest.approx(17.446294093, abs=3e-4)
    assert errors[0.04] < 0.01 and errors[0.04] < 0.3 * errors[0.1] < errors[0.2]


def first_spike_times(name, dt, weights):
    """Times of the first spike of two neurons, in steps of ``dt``."""
    neuron, params = timed(name, **{**ODES[name][1], "dt": dt})
    steps = round(30.0 / dt)
    current = events(INPUT_TIMES, steps, dt) @ weights
    sent = dispatch.unroll("torch", neuron, OPS, current, steps, None, params)[0][0, :, 0]
    moments, counts = (sent * dt * torch.arange(steps)[:, None]).cumsum(0), sent.cumsum(0)
    return moments.gather(0, (counts > 1.0 - 1e-9).int().argmax(0)[None])[0].numpy()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("lif", 2),
        ("quadratic", 2),
        pytest.param("resonate", 1, marks=pytest.mark.slow),
        pytest.param("izhikevich", 1, marks=pytest.mark.slow),
    ],
)
def test_spike_times_converge_as_fast_as_the_neurons_own_steps(name, order):
    """In second order where these are, and in first where they are Euler's."""
    scale, options = ODES[name]
    weights = (6.0 if name == "izhikevich" else scale) * torch.rand(
        (3, 2), generator=torch.Generator().manual_seed(0)
    ).double()
    neuron = registry.configure("neurons", {"name": name, **options}, "n").build()
    matrix = torch.cat([weights.t(), torch.zeros(2, 2).double()], 1).numpy()
    exact = solve_network(neuron, matrix, INPUT_TIMES, 30.0)
    first = [exact.times(n)[0] for n in (0, 1)]
    coarse, fine = (abs(first_spike_times(name, dt, weights) - first).max() for dt in (0.2, 0.025))
    assert 8.0 ** (order - 0.5) < coarse / fine < 8.0 ** (order + 0.5)


def test_a_spikes_charge_is_one_whenever_it_comes():
    neuron, params = timed("lif", reset="zero", **SLOW)
    current = torch.linspace(0.5, 3.0, 40, dtype=torch.float64).view(1, 1, 1, 40)
    rest = tuple(torch.zeros(1, 40, dtype=torch.float64) for _ in neuron.states)
    sent, last = dispatch.unroll("torch", neuron, OPS, current, 30, rest, params)
    total = sent.sum(1) + last[neuron.states.index("timed_late")]
    assert total.max() > 3.0 and torch.allclose(total, total.round(), atol=1e-9)


@pytest.mark.slow
def test_a_neuron_with_a_refractory_state_spikes_as_often_as_without_spike_times():
    """A current that never decays drives the wrapped neuron as a constant one drives the neuron itself."""
    built = registry.configure("neurons", "hodgkin_huxley", "n").build()
    wrapped = ExactSpikeNeuron.wrap(built, "eventprop", tau_synapse=1e9, slope=1e-9)
    size = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64).view(1, 1, 1, 3)
    constant = size.expand(1, 60, 1, 3)
    pulse = torch.cat([size, torch.zeros(1, 59, 1, 3, dtype=torch.float64)], 1)
    spikes, sent = (
        dispatch.unroll(
            "torch", neuron, OPS, current, 60, None, tuple(neuron.get_step_value(p) for p in neuron.params)
        )[0]
        for neuron, current in ((built, constant), (wrapped, pulse))
    )
    assert spikes.sum(1).flatten().tolist() == [2.0, 4.0, 5.0]
    assert sent.sum(1).flatten().tolist() == pytest.approx([2.0, 4.0, 5.0])


def test_a_neuron_beyond_the_band_is_pushed_back_and_a_silent_one_is_woken():
    settings = {
        "name": "feedforward", "layers": [2], "steps": 8, "neuron": {"name": "lif", "tau": 4.0, "input_gain": "unit"},
        "learning": {"name": "eventprop", "tau_synapse": 2.0, "regularization": 1.0, "lowest": 0.5, "highest": 2.0},
    }  # fmt: skip
    torch.manual_seed(0)
    net = registry.configure("networks", settings, "net").build(inputs=1, outputs=1)
    with torch.no_grad():
        net.layers[0].connection.weight.zero_()
        net.layers[0].connection.bias.copy_(torch.tensor([0.0, 5.0]))
    for batch in (3, 2 * MAX_CPU_ROWS + 3):
        net.zero_grad()
        (net(torch.zeros(1, batch, 1), None)[0] * 0.0).sum().backward()
        silent, busy = net.layers[0].connection.bias.grad
        assert silent == pytest.approx(-0.5, rel=1e-4), "descent raises it, by the same in every batch"
        assert 1.0 < busy < 8.0, "and lowers this one"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rule", ["eventprop", "spikeprop"])
def test_a_pass_without_penalty_has_no_correction_though_its_backward_pass_comes_later(rule, recompute):
    gradients = []
    for regularization, is_left_out in ((0.0, False), (0.05, True), (0.05, False)):
        torch.manual_seed(0)
        settings = {
            "name": "feedforward", "layers": [16, 12], "steps": 8, "recompute": recompute,
            "learning": {"name": rule, "regularization": regularization},
        }  # fmt: skip
        net = registry.configure("networks", settings, "net").build(inputs=4, outputs=2)
        with leave_out_penalty(net if is_left_out else None):
            features, _ = net(torch.randn(1, 32, 4), None)
        (1e-3 * features.square().mean()).backward()
        gradients.append(net.layers[0].connection.weight.grad)
    without, left_out, corrected = gradients
    assert torch.equal(left_out, without)
    assert not torch.allclose(corrected, without)


@pytest.mark.slow
def test_spikeprops_neuron_sends_its_first_spike_alone_with_the_derivatives_of_the_paper():
    """Inputs at 0, 2 and 4 ms, alpha functions of 7 ms; in continuous time the spike comes at 4.642210282230."""
    built = registry.configure(
        "neurons", {"name": "lif", "tau": 7.0, "input_gain": "ode", "reset": "zero", "dt": 0.02}, "n"
    ).build()
    neuron = SingleSpikeNeuron.wrap(built, "spikeprop", tau_synapse=7.0, slope=1e-9)
    params, steps = tuple(neuron.get_step_value(p) for p in neuron.params), 1500
    weights = torch.tensor([[0.6], [0.5], [0.4]], dtype=torch.float64, requires_grad=True)
    current = math.e * (events(((0.0,), (2.0,), (4.0,)), steps, 0.02) @ weights)
    sent, _last = dispatch.unroll("torch", neuron, OPS, current, steps, None, params)
    assert sent.sum().item() == pytest.approx(1.0), "and once only, though the potential crosses again"
    time = (sent.flatten() * 0.02 * torch.arange(steps)).sum()
    time.backward()
    assert time.item() == pytest.approx(4.642210282230, abs=1e-4)
    # the slope is that of the step in which the spike lies: of first order in dt, 2.9e-3 here
    assert weights.grad.flatten().tolist() == pytest.approx([-3.68534158, -2.79128675, -0.90281438], rel=4e-3)
    timed_neuron = ExactSpikeNeuron.wrap(built, "eventprop", tau_synapse=7.0, slope=1e-9)
    again, _ = dispatch.unroll("torch", timed_neuron, OPS, 3.0 * current, steps, None, params)
    assert again.sum() > 1.5, "the neuron itself would spike again"
    once, _ = dispatch.unroll("torch", neuron, OPS, 3.0 * current, steps, None, params)
    assert once.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("decoder", ["rate", "population_vector", "sigma_delta"])
def test_a_readout_that_counts_is_refused_because_counts_have_no_gradient(decoder):
    settings = {"name": "feedforward", "layers": [8], "learning": "eventprop", "decoder": decoder}
    with pytest.raises(
        registry.RegistryError, match=rf"net\.decoder: '{decoder}' counts spikes, for which 'eventprop'"
    ):
        registry.configure("networks", settings, "net")


class OwnSynapse(Lif):
    """v <- decay v + x, with options that are called as the rule's are."""

    class Options(Lif.Options):
        tau_synapse: float = parameter(2.0, "a time constant", low=1e-3, unit="ms")
        slope: float = parameter(0.3, "a gain", unit="1")
        inner: float = parameter(0.4, "another gain", unit="1")


def test_options_of_a_neuron_may_be_called_as_the_rules_are():
    neuron = OwnSynapse.from_options(tau_synapse=30.0)
    wrapped = ExactSpikeNeuron.wrap(neuron, "eventprop", tau_synapse=5.0, slope=1e-9)
    rebuilt = ExactSpikeNeuron.from_options(**wrapped.chosen)
    for each in (wrapped, rebuilt, pickle.loads(pickle.dumps(wrapped))):
        assert {name: each.chosen[name] for name in neuron.chosen} == neuron.chosen
        assert each.inner.chosen == neuron.chosen
        assert each.own == {"tau_synapse": 5.0, "slope": 1e-9}


def test_a_neuron_without_a_threshold_is_refused_by_name():
    message = r"net\.neuron: name: 'sigma_delta' is not available with 'eventprop'"
    settings = {"name": "feedforward", "layers": [8], "learning": "eventprop", "neuron": "sigma_delta"}
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("networks", settings, "net")
