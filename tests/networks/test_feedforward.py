"""The feed-forward network: two clocks, state in and out, right gradients, and layers that fire from the start."""

import math

import pytest
import torch
from torch.nn.utils import prune

from spiky_rl.config import registry, spec
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.metrics.spikes import compute_layer_activity
from spiky_rl.networks._layer import NeuronParameters
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.networks.feedforward import MAX_CPU_ROWS
from spiky_rl.neurons.base import parameter
from spiky_rl.neurons.lif import Lif
from tests.agents import is_ppo

INPUTS, OUTPUTS, LAYERS, TIME, BATCH = 3, 2, [8, 6], 5, 4
LIF = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
CONNECTION = {"name": "linear", "gain": 2.0, "offset": 0.5}


def build(seed=0, inputs=INPUTS, outputs=OUTPUTS, **settings):
    """A network in float64, where a rounding error does not flip a spike."""
    torch.manual_seed(seed)
    base = {"name": "feedforward", "layers": LAYERS, "neuron": LIF, "connection": CONNECTION}
    configured = registry.configure("networks", {**base, **settings}, "network")
    return configured.build(inputs=inputs, outputs=outputs).double()


def observations(time=TIME, batch=BATCH, inputs=INPUTS, seed=1):
    return torch.randn(
        time, batch, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


CODECS = [("direct", "membrane"), ("direct", "rate"), ("population", "membrane"), ("population", "rate")]


@pytest.mark.parametrize(("encoder", "decoder"), CODECS)
def test_many_environment_steps_in_one_call_equal_many_calls_with_carried_state(encoder, decoder):
    network, x = build(stateful=True, encoder=encoder, decoder=decoder), observations()
    whole, last = network(x, network.zero_state(BATCH, x))
    state, pieces = network.zero_state(BATCH, x), []
    for t in range(TIME):
        piece, state = network(x[t : t + 1], state)
        pieces.append(piece)
    assert torch.allclose(torch.cat(pieces), whole, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(state, last, strict=True))
    fresh = torch.cat([network(x[t : t + 1], network.zero_state(BATCH, x))[0] for t in range(TIME)])
    assert not torch.allclose(fresh[1:], whole[1:]), "the carried state matters"


def test_keep_mask_starts_an_environment_from_rest_and_leaves_the_others_alone():
    network, x = build(stateful=True), observations()
    rest = network.zero_state(BATCH, x)
    keep = torch.ones(TIME, BATCH, dtype=torch.float64)
    keep[2, 1] = 0.0
    masked, _ = network(x, rest, keep)
    plain, _ = network(x, rest)
    fresh, _ = network(x[2:], rest)
    assert torch.allclose(masked[2:, 1], fresh[:, 1], atol=1e-12)
    others = [0, 2, 3]
    assert torch.allclose(masked[:, others], plain[:, others], atol=1e-12)
    assert not torch.allclose(fresh[0, others], plain[2, others])


@pytest.mark.parametrize("batch", [BATCH, MAX_CPU_ROWS + 1])
@pytest.mark.parametrize("decoder", ["membrane", "rate"])
def test_without_a_state_too_the_keep_mask_starts_an_environment_from_rest(batch, decoder):
    network, x = build(decoder=decoder).float(), observations(time=3, batch=batch).float()
    keep = (torch.rand(3, batch, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    expected, _ = network(x, network.zero_state(batch, x), keep, ForwardRecord(only_signals=True))
    for gradients_on in (True, False):
        with torch.set_grad_enabled(gradients_on):
            found, state = network(x, None, keep)
            plain, _ = network(x, None)
        assert torch.equal(found, expected) and state == ()
        assert not torch.equal(found, plain)


@pytest.mark.parametrize(
    "encoder", [*registry.list_names("encoders"), {"name": "delta", "start": "first"}], ids=str
)
@pytest.mark.parametrize("decoder", registry.list_names("decoders"))
def test_none_is_the_zero_state_of_a_stateful_network(encoder, decoder):
    network, x = build(stateful=True, encoder=encoder, decoder=decoder), observations()
    keep = torch.ones(TIME, BATCH, dtype=torch.float64)
    keep[2, 1] = 0.0
    found = []
    for state in (None, network.zero_state(BATCH, x)):
        y, after = network(x, state, keep)
        assert bool(after) == (state is not None)
        y.square().sum().backward()
        found.append([y, *(p.grad for p in network.parameters() if p.grad is not None)])
        network.zero_grad()
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("encoder", registry.list_names("encoders"))
def test_none_is_the_zero_state_of_a_reservoir(encoder):
    settings = {"name": "reservoir", "size": 20, "encoder": encoder}
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)
    x = observations().float()
    assert torch.equal(network(x, None)[0], network(x, network.zero_state(BATCH, x))[0])


def test_without_a_state_too_the_gradient_of_a_long_rollout_is_cut():
    rule = {"name": "bptt", "truncate": 2}
    network, x = build(stateful=True, learning=rule), observations()
    x.requires_grad_()
    network(x, None)[0][2:].sum().backward()
    assert not x.grad[:2].any() and x.grad[2:].any()


def test_rest_and_states_have_one_tensor_per_state_and_are_never_written_to():
    network, x = build(stateful=True), observations()
    assert network.state_sizes == (8, 6, OUTPUTS)
    start = tuple(torch.full_like(s, 0.3) for s in network.zero_state(BATCH, x))
    _, state = network(x, start, keep=torch.zeros(TIME, BATCH, dtype=torch.float64))
    assert [tuple(s.shape) for s in state] == [(1, BATCH, size) for size in network.state_sizes]
    assert all((s == 0.3).all() for s in start)


def test_a_stateful_network_carries_gradients_through_time():
    network, x = build(stateful=True), observations().requires_grad_()
    y, _ = network(x, network.zero_state(BATCH, x))
    (whole,) = torch.autograd.grad(y[-1].pow(2).sum(), x)
    assert (whole.abs().sum((1, 2)) > 0).all()
    state = network.zero_state(BATCH, x)
    for t in range(TIME):
        y, state = network(x[t : t + 1], state)
    (pieces,) = torch.autograd.grad(y[-1].pow(2).sum(), x)
    assert torch.allclose(pieces, whole, atol=1e-12), "the state carries it from call to call"


def test_a_record_holds_signal_potentials_and_operations_of_every_layer():
    network, x, record = build(steps=4), observations(), ForwardRecord()
    y, _ = network(x, network.zero_state(BATCH, x), record=record)
    plain, _ = network(x, network.zero_state(BATCH, x))
    assert torch.equal(y, plain), "to be watched changes nothing"
    shapes = [tuple(s.shape) for s in record.signals]
    assert shapes == [(TIME, 1, BATCH, INPUTS), (TIME, 4, BATCH, 8), (TIME, 4, BATCH, 6)]
    assert [tuple(p.shape) for p in record.potentials] == [(TIME, 4, BATCH, 8), (TIME, 4, BATCH, 6)]
    assert [tuple(o.shape) for o in record.operations] == [(TIME, BATCH)] * 4


def soft(**settings):
    """A network whose spikes are smooth, so that its gradient can be measured."""
    network = build(layers=[5, 4], stateful=True, steps=3, **settings)
    network.soft_spike = True
    return network


LEARNING = {**LIF, "detach_reset": False, "learn": ["tau", "threshold"]}
CASES = [
    ("subtract", "arctangent", "last"),
    ("zero", "gaussian", "mean"),
    ("subtract", "sigmoid", "last"),
]


@pytest.mark.parametrize(("reset", "surrogate", "read"), CASES)
def test_gradients_of_all_weights_equal_finite_differences_with_soft_spikes(reset, surrogate, read):
    neuron = {**LEARNING, "reset": reset}
    network = soft(neuron=neuron, surrogate=surrogate, decoder={"name": "membrane", "read": read})
    x = observations(time=3)
    weights = observations(time=3, inputs=OUTPUTS, seed=2)
    keep = torch.ones(3, BATCH, dtype=torch.float64)
    keep[1, 0] = 0.0

    def loss():
        return (network(x, network.zero_state(BATCH, x), keep)[0] * weights).sum()

    loss().backward()
    h, checked = 1e-6, 0
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
            flat = parameter.view(-1)
            for i, gradient in enumerate(parameter.grad.view(-1).tolist()):
                value = flat[i].item()
                flat[i] = value + h
                ahead = loss().item()
                flat[i] = value - h
                behind = loss().item()
                flat[i] = value
                assert gradient == pytest.approx((ahead - behind) / (2 * h), rel=1e-5, abs=1e-7), name
                checked += 1
    assert checked == 3 * 5 + 5 + 5 * 4 + 4 + 4 * 2 + 2 + 2 * (5 + 4)


def parameters_of(network, layer=0):
    """Decay and threshold of a layer as its step takes them."""
    return network.layers[layer].parameters_of_neuron()


def test_learned_parameters_are_one_per_neuron_and_start_at_the_configured_value():
    network = build(neuron={**LEARNING, "tau": 4.0, "threshold": 1.5})
    names = {name: tuple(p.shape) for name, p in network.named_parameters() if "of_neuron" in name}
    assert names == {
        f"layers.{i}.parameters_of_neuron.{name}": (width,)
        for i, width in enumerate(LAYERS)
        for name in ("tau", "threshold")
    }
    decay, threshold = parameters_of(network)
    assert torch.allclose(decay, torch.full_like(decay, math.exp(-1 / 4.0)), atol=1e-6)
    assert torch.allclose(threshold, torch.full_like(threshold, 1.5), atol=1e-6)
    fixed = build(neuron={**LIF, "tau": 4.0, "threshold": 1.5})
    assert parameters_of(fixed) == (math.exp(-1 / 4.0), 1.5)
    assert not any("of_neuron" in name for name, _ in fixed.named_parameters())


def test_learned_time_constants_start_log_uniformly_spread_about_their_value():
    network = build(layers=[4000], neuron={**LEARNING, "tau": 4.0, "spread": 8.0})
    decay, threshold = parameters_of(network)
    octaves = torch.log2(-1 / decay.log())  # of the time constants
    assert -1 - 1e-4 <= octaves.min() < -0.99 and 4.99 < octaves.max() <= 5 + 1e-3, "from 1/2 to 32 steps"
    for low in range(-1, 5):
        share = ((octaves >= low) & (octaves < low + 1)).float().mean().item()
        assert abs(share - 1 / 6) < 0.03, "as many in every octave"
    assert (threshold == threshold[0]).all(), "no time constant"


@pytest.mark.parametrize(
    ("neuron", "words"),
    [
        ({"spread": 8.0}, "spread: 8 needs a learned time constant; add to learn: tau"),
        ({"spread": 8.0, "learn": ["threshold"]}, "add to learn: tau"),
        (
            {"spread": 8e3, "learn": ["tau"]},
            r"spread: 8000: tau would start between 0.00025 and 16000; it must be between 0.001 and 1000000.0",
        ),
        ({"spread": 0.5, "learn": ["tau"]}, "spread"),
    ],
)
def test_a_spread_of_nothing_or_beyond_the_range_is_refused(neuron, words):
    with pytest.raises(RegistryError, match=words):
        build(neuron={**LIF, **neuron})


def test_a_spread_beyond_an_upper_bound_is_refused():
    class Brief(Lif):
        class Options(Lif.Options):
            tau: float = parameter(
                2.0, "membrane time constant", low=0.1, high=10.0, unit="ms", transform="decay"
            )

    Brief.from_options(learn=["tau"], spread=5.0)
    with pytest.raises(
        RegistryError,
        match="spread: 6: tau would start between 0.33.* and 12; it must be between 0.1 and 10.0",
    ):
        Brief.from_options(learn=["tau"], spread=6.0)


@pytest.mark.parametrize("rate", [1e6, -1e6])
def test_learned_parameters_stay_in_range_after_a_large_step(rate):
    network, x = build(neuron=LEARNING), observations(time=1)
    y, _ = network(x, network.zero_state(BATCH, x))
    y.pow(2).sum().backward()
    moved = 0.0
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "of_neuron" in name:
                moved = max(moved, (rate * parameter.grad).abs().max().item())
                parameter -= rate * parameter.grad
    assert moved > 1e3, "far beyond what a float's exponent holds"
    for layer in range(len(LAYERS)):
        decay, threshold = parameters_of(network, layer)
        assert ((decay >= 0) & (decay <= 1)).all()
        assert (threshold >= 0.999e-3).all()
        assert threshold.isfinite().all()
    network.zero_grad()
    y, _ = network(x, network.zero_state(BATCH, x))
    y.pow(2).sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["threshold", "offset"])  # stored as its logarithm, and as it is
@pytest.mark.parametrize("side", [-1, 1])
def test_a_learned_parameter_out_of_range_has_the_gradients_that_lead_back_alone(name, side):
    class Bounded(Lif):
        class Options(Lif.Options):
            threshold: float = parameter(1.0, "potential of a spike", low=0.5, high=2.0, unit="1")
            offset: float = parameter(0.0, "constant current", low=-1.0, high=1.0, unit="1")

    neuron = Bounded.from_options(learn=[name])
    parameters = NeuronParameters(neuron, 2)
    stored = parameters.get_parameter(name)
    with torch.no_grad():
        stored.fill_(3.0 * side)
    value = dict(zip(neuron.params, parameters(), strict=True))[name]
    assert isinstance(value, torch.Tensor)
    low, high = neuron.get_parameter_range(name)
    torch.testing.assert_close(value, torch.full((2,), low if side < 0 else high))
    value.backward(torch.tensor([1.0, -1.0]))
    assert stored.grad is not None
    assert stored.grad.sign().tolist() == ([0.0, -1.0] if side < 0 else [1.0, 0.0])


def test_a_learned_parameter_stays_above_an_exclusive_bound():
    class Positive(Lif):
        """v <- decay v + i."""

        class Options(Lif.Options):
            tau: float = parameter(2.0, "time constant", above=0.0, unit="ms", transform="decay")
            threshold: float = parameter(3.0, "threshold", above=2.0, unit="1")

    parameters = NeuronParameters(Positive.from_options(learn=["tau", "threshold"]), 3)
    with torch.no_grad():
        for values in parameters.parameters():
            values -= 100.0
    decay, threshold = parameters()[:2]
    assert ((decay >= 0.0) & (decay < 1.0)).all()
    assert (threshold > 2.0).all() and torch.allclose(threshold, torch.tensor(2.0))
    sum(values.sum() for values in (decay, threshold)).backward()
    assert all(values.grad.isfinite().all() for values in parameters.parameters())
    with pytest.raises(RegistryError, match="threshold: 2.0"):
        Positive.from_options(threshold=2.0)


def test_the_slope_follows_its_schedule_over_updates():
    start, final, duration = 2.0, 10.0, 4
    x = observations(time=1)

    def gradient(network):
        network(x, network.zero_state(BATCH, x))[0].pow(2).sum().backward()
        found = network.layers[0].connection.weight.grad.clone()
        network.zero_grad()
        return found

    scheduled = build(surrogate={"name": "arctangent", "slope": start, "schedule": [final, duration]})
    for updates in range(duration + 2):
        slope = start + (final - start) * min(1.0, updates / duration)
        constant = build(surrogate={"name": "arctangent", "slope": slope})
        assert torch.allclose(gradient(scheduled), gradient(constant), atol=1e-12), updates
        scheduled.count_update()
    assert (
        scheduled.updates == duration + 2 and type(scheduled.updates) is int
    ), "no forward pass asks a device"
    resumed = build(surrogate={"name": "arctangent", "slope": start, "schedule": [final, duration]})
    resumed.load_state_dict(scheduled.state_dict())
    assert resumed.updates == duration + 2, "a resumed run goes on where it was"


def test_checkpoints_in_which_the_number_of_updates_was_a_buffer_still_load():
    network = build()
    old = network.state_dict()
    old["updates"] = old.pop("_extra_state") + 7
    network.load_state_dict(old)
    assert network.updates == 7
    # as part of a host's model, whose names have a prefix
    torch.nn.ModuleDict({"network": network}).load_state_dict({f"network.{k}": v for k, v in old.items()})
    assert network.updates == 7 and "updates" in old, "what was loaded from stays as it was"


def test_every_value_of_a_networks_state_is_a_tensor_that_can_be_sent_to_another_process():
    assert all(isinstance(value, torch.Tensor) for value in build().state_dict().values())


def test_advance_draws_the_noise_of_a_random_encoder_anew():
    network, x = build(encoder={"name": "population", "mode": "poisson"}), observations(time=1)
    noise = network.encoder.noise.clone()
    first, _ = network(x, network.zero_state(BATCH, x))
    network.count_update()
    second, _ = network(x, network.zero_state(BATCH, x))
    assert not torch.equal(noise, network.encoder.noise)
    assert not torch.equal(first, second)


SIZES = {4: [32, 32], 36: [400, 200, 100], 75: [400, 200, 100]}
"""Observations of Cartpole, Ant and Humanoid, and the layers that Isaac Lab's own networks have there."""
SAMPLES = 1000
NETWORKS = {
    n: spec.read_agent(n)[1]["network"]
    for n in registry.list_names("agents")
    if "network" in spec.read_agent(n)[1]
}
SPIKING = [
    n
    for n, v in NETWORKS.items()
    if v["name"] == "feedforward"
    and not isinstance(v["connection"], list)
    and v["neuron"]["name"] != "sigma_delta_unit"
]
"""Those that take vectors: maps and reservoirs have tests of their own. A converted network begins with its teacher's weights."""


@pytest.mark.parametrize(
    ("agent", "inputs"),
    [
        # Ant's layers are Humanoid's, and Hodgkin-Huxley neurons take the longest
        pytest.param(
            *(agent, inputs),
            marks=[pytest.mark.slow] * (inputs == 36 or (agent, inputs) == ("hodgkin_huxley_ppo", 75)),
        )
        for agent in SPIKING
        for inputs in SIZES
    ],
)
def test_no_layer_of_a_shipped_agent_is_silent_or_saturated_at_the_start(agent, inputs):
    # measured: rates 0.13 to 0.40, at most 3 % of the neurons silent, none saturated; 0.075 where a neuron sends at most one spike
    # in 8 inner steps
    settings = {**NETWORKS[agent], "layers": SIZES[inputs]}
    lowest = 0.05 if agent == "lif_spikeprop_ppo" else 0.1
    for seed in range(2):
        torch.manual_seed(seed)
        network = registry.configure("networks", settings, "network").build(inputs=inputs, outputs=8)
        x, record = torch.randn(1, SAMPLES, inputs), ForwardRecord()
        with torch.no_grad():
            y, _ = network(x, network.zero_state(SAMPLES, x), record=record)
        for layer in compute_layer_activity(record):
            assert lowest < layer.rate < 0.45
            assert layer.silent <= 0.1
            assert layer.saturated <= 0.02
        # Hodgkin-Huxley neurons, which spike at most once in 4 ms: 0.08; all others of PPO: above 0.12. The actions of TD3 and SAC
        # begin near the middle, with populations at 0.027
        assert y.std() > (0.05 if is_ppo(agent) else 0.02), "observations are told apart"


def test_the_check_above_sees_a_layer_that_is_silent_or_saturated():
    rates = []
    for offset in (-5.0, 5.0):
        network = build(connection={"name": "linear", "gain": 0.1, "offset": offset})
        x, record = observations(time=1, batch=100), ForwardRecord()
        network(x, network.zero_state(100, x), record=record)
        rates.append(compute_layer_activity(record)[0])
    assert (rates[0].silent, rates[0].rate) == (1.0, 0.0)
    assert (rates[1].saturated, rates[1].rate) == (1.0, 1.0)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_from_rest_no_state_comes_out_of_a_disturbed_recurrent_layer_either(backend):
    network, x = build(recurrent="recurrent", backend=backend).float(), observations(time=1).float()
    with torch.no_grad():
        expected, _ = network(x, None)
        network.set_spike_channels([lambda fired: fired] * len(network.layer_sizes))
        found, state = network(x, None)
        rest, carried = network(x, network.zero_state(BATCH, x))
    assert state == () and len(carried) == len(network.state_sizes)
    assert torch.allclose(found, expected) and torch.equal(rest, found)
    assert network.layers[0](TorchOps(network.surrogate), x.unsqueeze(1), 1, None, None, None)[1] == ()


@pytest.mark.parametrize("recurrent", [None, {"name": "recurrent", "delays": 2}, "lateral"], ids=str)
@pytest.mark.parametrize("decoder", ["membrane", "linear", "population_vector"])
def test_a_pruned_network_learns_as_one_whose_weights_are_set_to_zero_after_every_step(recurrent, decoder):
    results = []
    for pruned in (True, False):
        network, x = build(stateful=True, recurrent=recurrent, decoder=decoder), observations()
        names = {name for name, _ in network.named_parameters() if name.endswith("weight")}
        links = [network.get_submodule(name.rpartition(".")[0]) for name in sorted(names)]
        keep = torch.Generator().manual_seed(2)
        masks = [(torch.rand(link.weight.shape, generator=keep) < 0.7).double() for link in links]
        for link, mask in zip(links, masks, strict=True):
            prune.custom_from_mask(link, "weight", mask)
            if not pruned:
                prune.remove(link, "weight")
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            y, _ = network(x, network.zero_state(BATCH, x))
            y.square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                for link, mask in zip(links, masks, strict=True):
                    if not pruned:
                        link.weight *= mask
        results.append(network(x, network.zero_state(BATCH, x))[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_recompute_changes_no_gradient_in_autocast(backend):
    found = []
    for recompute in (False, True):
        network = build(backend=backend, recompute=recompute).float()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(observations().float(), None)[0]
        features.float().square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
