"""A penalty is its own equation, and what it adds to a gradient is the gradient of a loss with that term in it."""

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.networks.feedforward import MAX_CPU_ROWS
from spiky_rl.penalties.base import add_penalty_gradient, compute_rates, expand_factors
from spiky_rl.penalties.rate import RatePenalty
from spiky_rl.penalties.synops import SynopsPenalty

K, BATCH = 4, 6
PENALTIES = {
    "rate": {"weight": 3.0, "upper": 0.1, "lower": 0.05},
    "synops": {"weight": 0.7, "upper": 0.02},
}


def penalty(name):
    return registry.configure("penalties", {"name": name, **PENALTIES[name]}, "sparsity").build()


def network(sparsity=None, **settings):
    torch.manual_seed(0)
    connection = {"name": "linear", "gain": 2.0, "offset": 0.25, "spread": 0.5}
    neuron = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
    settings = {"layers": [16, 12], "steps": K, "neuron": neuron, "connection": connection, **settings}
    configured = registry.configure(
        "networks", {"name": "feedforward", "sparsity": sparsity, **settings}, "net"
    )
    return configured.build(inputs=4, outputs=2)


def observations(batch=BATCH, time=1):
    return torch.randn(time, batch, 4, generator=torch.Generator().manual_seed(1))


def test_every_penalty_of_the_registry_is_tried():
    assert set(registry.list_names("penalties")) == set(PENALTIES)


def test_rates_outside_the_band_cost_their_square():
    spikes = torch.zeros(1, 10, 1, 3)
    spikes[0, :4, 0, 0] = 1.0  # 0.3 beyond
    spikes[0, 0, 0, 1] = 1.0  # at the bound
    found = penalty("rate").compute([spikes.mean((0, 1, 2))] * 2, [7.0, 2.0])
    assert found.item() == pytest.approx(3.0 * 2.0 * (0.3**2 + 0.05**2) / 3.0)


def test_operations_count_by_the_synapses_that_events_reach():
    first, second = torch.zeros(1, 10, 1, 4), torch.zeros(1, 10, 1, 2)
    first[0, :, 0, 0] = 1.0
    second[0, :5, 0, 0] = 1.0
    share = (1.0 * 8.0 + 0.5 * 3.0) / (4 * 8.0 + 2 * 3.0)
    assert penalty("synops").compute(
        [first.mean((0, 1, 2)), second.mean((0, 1, 2))], [8.0, 3.0]
    ).item() == pytest.approx(0.7 * (share - 0.02))
    silent = [torch.zeros(4), torch.zeros(2)]
    assert penalty("synops").compute(silent, [8.0, 3.0]).item() == 0.0


def test_features_carry_the_cost_into_a_backward_pass_and_stay_as_they_are():
    x, y = torch.randn(3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    found = add_penalty_gradient(x, y**2)
    assert torch.equal(found, x)
    (5.0 * found.sum()).backward()
    assert y.grad.item() == 4.0, "whatever the loss makes of the features"
    assert x.grad.tolist() == [5.0] * 3


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("rule", ["bptt", "slayer"])
@pytest.mark.parametrize("batch", [BATCH, 2 * MAX_CPU_ROWS + 100])
def test_a_networks_gradient_is_that_of_the_loss_with_the_term_in_it(name, rule, batch):
    sparsity = {"name": name, **PENALTIES[name]}
    net, plain = network(sparsity, learning=rule).double(), network(learning=rule).double()
    net.set_backend("torch"), plain.set_backend("torch")
    x = observations(batch).double()
    net(x, None)[0].square().mean().backward()
    outputs = []
    for layer in plain.layers:
        layer.register_forward_hook(lambda *a: outputs.append(a[2][0]))
    features, _ = plain(x, None)
    # what has no penalty runs in parts: put a layer's together
    whole = [compute_rates(torch.cat(outputs[i::2], 2)) for i in range(2)]
    cost = penalty(name).compute(whole, [12.0, 2.0])
    assert cost > 0.0
    (features.square().mean() + cost).backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_parts_of_a_truncated_rollout_cost_their_share():
    x, costs = observations(time=4), []
    for rule in ({"name": "bptt", "truncate": 2}, "bptt"):
        net = network({"name": "rate", "upper": 0.0}, stateful=True, learning=rule)
        state = net.zero_state(BATCH, x)
        (0.0 * net(x, state)[0].sum()).backward()
        costs.append(net.layers[1].connection.bias.grad.norm().item())
    assert 0.7 < costs[0] / costs[1] < 1.3, "not once for every part"


def test_the_fan_out_is_the_mean_number_of_synapses():
    connection = [{"name": "linear"}, {"name": "linear", "density": 0.5}]
    assert network("rate", connection=connection).fan_out == [6.0, 2.0]
    recurrent = network("rate", recurrent={"name": "recurrent"}).fan_out
    assert recurrent == [12.0 + 15.0, 2.0 + 11.0], "a neuron has no synapse with itself"


def test_descent_on_the_cost_alone_makes_a_network_sparse():
    net, x = network({"name": "synops", "weight": 1.0}), observations()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    rates = []
    for _ in range(60):
        optimizer.zero_grad()
        (0.0 * net(x, None)[0].sum()).backward()
        optimizer.step()
        with torch.no_grad():
            rates.append(net.layers[0].connection(x).clamp(min=0.0).mean().item())
    assert rates[-1] < 0.5 * rates[0]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_lower_bound_wakes_neurons_that_never_fire(backend):
    silent = {"name": "linear", "offset": -1.5, "spread": 0.1, "gain": 0.1}
    net, x = network({"name": "rate", "lower": 0.1}, connection=silent, backend=backend), observations()
    (0.0 * net(x, None)[0].sum()).backward()
    # more current raises the rate
    assert all((layer.connection.bias.grad < 0.0).all() for layer in net.layers)


def test_a_rate_has_the_derivative_of_its_mean_absolute_output():
    output = torch.tensor([-2.0, 0.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 1, 2).clone().requires_grad_()
    rates = compute_rates(output)
    assert rates.tolist() == pytest.approx([5.0 / 3.0] * 2)
    (3.0 * (rates[0] - rates[1])).backward()
    assert output.grad.view(3, 2).T.tolist() == [[-1.0, 0.0, 1.0], [1.0, -1.0, -1.0]]


def test_a_penalty_is_refused_where_spike_timing_leaves_it_no_gradient():
    with pytest.raises(registry.RegistryError, match="sparsity: 'rstdp' trains no weights"):
        network({"name": "synops"}, learning="rstdp")


@pytest.mark.parametrize(
    ("settings", "paying"),
    [
        ({"learning": {"name": "rstdp", "layers": [0]}}, ["layers.1.connection.weight"]),
        (
            {"learning": "rstdp", "recurrent": "recurrent"},
            ["layers.0.recurrent.weight", "layers.1.recurrent.weight"],
        ),
        ({"learning": "rstdp", "encoder": "population"}, ["encoder.centre"]),
    ],
    ids=str,
)
def test_what_spike_timing_leaves_to_gradients_pays(settings, paying):
    net, x = network({"name": "synops"}, **settings), observations()
    (0.0 * net(x, None)[0].sum()).backward()
    assert net.layers[0].connection.weight.grad is None
    for name in paying:
        assert net.get_parameter(name).grad.abs().sum() > 0.0, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": "rates"}, r"net\.sparsity\.name: unknown penalty 'rates'; .* did you mean 'rate'\?"),
        ({"sparsity": {"name": "rate", "lower": 0.5}}, r"net\.sparsity\.lower: 0\.5 .* at most upper, 0\.1"),
        (
            {"sparsity": "rate", "learning": "eventprop"},
            r"net\.sparsity: 'eventprop' has no gradient of spike counts",
        ),
    ],
)
def test_what_a_penalty_cannot_do_is_refused_by_name(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("networks", {"name": "feedforward", "layers": [8], **settings}, "net")


CLOSED = {
    "rate": [{"weight": 3.0, "lower": 0.2, "upper": 0.6}, {"weight": 0.5, "upper": 0.1}],
    "synops": [{"weight": 2.0}, {"weight": 2.0, "upper": 0.3}, {"weight": 2.0, "upper": 0.9}],
}
"""Options of penalties with a gradient of their own; the rates of the test are about 0.5, so that the last one is silent."""


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n, several in CLOSED.items() for o in several], ids=str
)
def test_a_closed_form_is_the_gradient_that_autograd_finds(name, options):
    made = registry.configure("penalties", {"name": name, **options}, "sparsity").build()
    widths, fan_out = [5, 3], [3.0, 7.0]
    rates = torch.rand(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = torch.autograd.grad(made.compute(rates.split(widths), fan_out), rates)[0]
    factors = expand_factors(made, widths, fan_out)
    found = made.compute_gradient(rates.detach(), factors, widths, fan_out)
    assert torch.allclose(found, expected, rtol=1e-6, atol=0.0)
    assert bool(found.any()) == (options.get("upper") != 0.9)


class Twice(SynopsPenalty):
    def compute(self, rates, fan_out):
        return 2.0 * super().compute(rates, fan_out)


class TwiceInClosedForm(Twice):
    def compute_gradient(self, rates, factors, widths, fan_out):
        return 2.0 * SynopsPenalty.compute_gradient(self, rates, factors, widths, fan_out)


class Capped(RatePenalty):
    def compute(self, rates, fan_out):
        return super().compute([rate.clamp(max=0.5) for rate in rates], fan_out)


@pytest.mark.parametrize("penalty", [Twice, TwiceInClosedForm, Capped])
def test_the_gradient_of_a_penalty_that_extends_another_is_that_of_its_own_cost(penalty):
    made, widths, fan_out = penalty.from_options(weight=2.0), [5, 3], [3.0, 7.0]
    rates = torch.rand(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = torch.autograd.grad(made.compute(rates.split(widths), fan_out), rates)[0]
    factors = expand_factors(made, widths, fan_out)
    assert torch.allclose(made.compute_gradient(rates.detach(), factors, widths, fan_out), expected)
    assert expected.any()


def test_each_closed_form_is_compared():
    own = [
        n
        for n in registry.list_names("penalties")
        if "compute_gradient" in vars(registry.resolve("penalties", n))
    ]
    assert own == sorted(CLOSED)
