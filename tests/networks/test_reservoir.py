"""Reservoirs: calibrated by their rate, carried by their state, trained in their readout alone."""

import copy
import math

import numpy as np
import pytest
import torch

from spiky_rl.config import registry, spec
from spiky_rl.kernels import dispatch
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.reservoirs import calibration
from spiky_rl.reservoirs.graphs.base import Wiring
from tests.kernels.cases import CPU, CUPY

BATCH, INPUTS, OUTPUTS, SIZE, T = 4, 3, 2, 60, 6
SPIKING = [n for n in registry.list_names("neurons") if not registry.resolve("neurons", n).graded]
FAST = {"name": "reservoir", "size": SIZE, "seed": 3, "control": "gain"}
"""Without a search for the rate, for tests that need none."""
RATE = {"control": "rate", "size": 150}


def reservoir(inputs=INPUTS, **settings):
    torch.manual_seed(0)
    return registry.configure("networks", {**FAST, **settings}, "net").build(inputs=inputs, outputs=OUTPUTS)


def observations(steps=T, seed=1, batch=BATCH):
    return calibration.make_observations(batch, steps, INPUTS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "neuron",
    [
        name if name in ("lif", "alif", "izhikevich") else pytest.param(name, marks=pytest.mark.slow)
        for name in SPIKING
        if name != "hodgkin_huxley"
    ],
)
def test_every_spiking_neuron_is_brought_to_the_target_rate(neuron):
    # measured on other observations than those of the calibration
    slow = {"tau": 20.0, "input_gain": "ode"} if neuron in ("lif", "alif") else {}
    built = reservoir(**RATE, neuron={"name": neuron, **slow}, target_rate=20.0)
    assert built._measure_rate(observations(steps=80, seed=9, batch=16)) == pytest.approx(20.0, rel=0.25)


@pytest.mark.slow
def test_hodgkin_huxley_neurons_are_brought_to_the_target_rate():
    built = reservoir(**RATE, neuron="hodgkin_huxley")
    assert built._measure_rate(observations(steps=80, seed=9, batch=16)) == pytest.approx(20.0, rel=0.25)


@pytest.mark.parametrize("target", [pytest.param(10.0, marks=pytest.mark.slow), 30.0])
def test_the_target_decides_the_rate(target):
    built = reservoir(**RATE, target_rate=target)
    assert built._measure_rate(observations(steps=80, seed=9, batch=16)) == pytest.approx(target, rel=0.25)


AGENTS = {n: spec.read_agent(n)[1].get("network") or {} for n in registry.list_names("agents")}


@pytest.mark.parametrize("inputs", [4, pytest.param(36, marks=pytest.mark.slow)])
@pytest.mark.parametrize("agent", [n for n, network in AGENTS.items() if network.get("name") == "reservoir"])
def test_a_shipped_reservoir_fires_within_10_to_30_hertz_and_hardly_a_neuron_is_silent(agent, inputs):
    torch.manual_seed(0)
    net = registry.configure("networks", AGENTS[agent], "net").build(inputs=inputs, outputs=OUTPUTS)
    x = calibration.make_observations(16, 150, inputs, torch.Generator().manual_seed(8))
    record = ForwardRecord()
    with torch.no_grad():
        net(x, net.zero_state(16, x), record=record)
    spikes = record.signals[1][20:]
    assert 10.0 < float(spikes.mean()) * 1000.0 / net.neuron.dt < 30.0
    assert float((spikes.amax((0, 1, 2)) == 0).float().mean()) <= 0.1
    assert float((spikes.mean((0, 1, 2)) > 0.2).float().mean()) <= 0.02, "no neuron fires at more than 200 Hz"


def test_the_bias_gives_way_where_no_synapse_could():
    built = reservoir(**RATE, bias=1.5, target_rate=5.0)
    assert built._measure_rate(observations(steps=80, seed=9, batch=16)) == pytest.approx(5.0, rel=0.35)
    assert float(built.bias.mean()) < 1.5 * built.rheobase


def test_a_rate_out_of_reach_is_refused():
    with pytest.raises(registry.RegistryError, match="target_rate: 5000.0 Hz cannot be reached"):
        reservoir(**RATE, target_rate=5000.0)


@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_the_spectral_radius_is_what_was_asked_for(radius):
    built = reservoir(control="spectral_radius", spectral_radius=radius)
    eigenvalues = np.linalg.eigvals(built.weight.double().numpy() / built.rheobase)
    assert np.abs(eigenvalues).max() == pytest.approx(radius, rel=1e-4)


def test_the_gain_scales_the_weights():
    one, two = reservoir(control="gain", gain=1.0), reservoir(control="gain", gain=2.0)
    assert torch.allclose(two.weight, 2.0 * one.weight)


def test_a_seed_gives_the_reservoir_and_the_runs_seed_gives_it_where_none_is_named():
    one, same, other = reservoir(), reservoir(), reservoir(seed=4)
    assert torch.equal(one.weight, same.weight) and torch.equal(one.input_weight, same.input_weight)
    assert not torch.equal(one.weight, other.weight)
    drawn = []
    for run in (7, 7, 8):
        torch.manual_seed(run)
        configured = registry.configure("networks", {**FAST, "seed": None}, "net")
        drawn.append(configured.build(inputs=INPUTS, outputs=OUTPUTS).weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def by_hand(net, x, keep):
    """Traces [T, B, P] by the definition, step by step."""
    neuron = net.neuron
    named, params = neuron.named_states, neuron.named_params(*net.parameters_of_neuron())
    rest = torch.zeros(BATCH, SIZE, dtype=x.dtype)
    cell, fired, synapse = (rest,) * len(neuron.states), rest, rest
    traces, found = [rest for _ in net.trace_decays], []
    for t in range(T):
        here = keep[t, :, None]
        cell, fired, synapse = tuple(s * here for s in cell), fired * here, synapse * here
        traces = [r * here for r in traces]
        for _ in range(net.steps):
            synapse = net.feedback.decay * synapse + fired @ net.weight
            drive = x[t] @ net.input_weight + net.bias + synapse
            fired, cell = neuron.step(net.ops, drive, named(*cell), params)
            traces = [d * r + (1 - d) * fired for r, d in zip(traces, net.trace_decays, strict=True)]
        found.append(torch.cat(traces, -1))
    return torch.stack(found)


@pytest.mark.parametrize("neuron", ["lif", "alif", "izhikevich"])
def test_the_traces_are_their_definition(neuron):
    net = reservoir(neuron=neuron, traces=[20.0, 100.0]).double()
    x, keep = observations().double(), torch.ones(T, BATCH, dtype=torch.float64)
    keep[2, 1] = keep[4, 3] = 0.0
    found, _ = net.compute_fixed_part(x, net.zero_state(BATCH, x), keep)
    assert torch.allclose(found, by_hand(net, x, keep))
    assert found.shape == (T, BATCH, 2 * SIZE)
    assert (found > 0).any()


def test_a_sequence_in_one_call_equals_its_steps_and_state_is_never_written_to():
    net, x = reservoir(), observations()
    whole, last = net(x, net.zero_state(BATCH, x))
    state, pieces = net.zero_state(BATCH, x), []
    for t in range(T):
        before = [s.clone() for s in state]
        piece, new = net(x[t : t + 1], state)
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
        state = new
        pieces.append(piece)
    # the readout's matrix product may be summed in another order for another number of rows
    assert torch.allclose(whole, torch.cat(pieces), rtol=0.0, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))
    assert [s.shape for s in last] == [(1, BATCH, n) for n in net.state_sizes]


def test_an_episode_begins_at_rest():
    net, x = reservoir(), observations()
    keep = torch.ones(T, BATCH)
    keep[3, 1] = 0.0
    found, _ = net(x, net.zero_state(BATCH, x), keep)
    fresh, _ = net(x[3:], net.zero_state(BATCH, x))
    plain, _ = net(x, net.zero_state(BATCH, x))
    assert torch.allclose(found[3:, 1], fresh[:, 1], atol=1e-6)
    assert torch.equal(found[:, [0, 2, 3]], plain[:, [0, 2, 3]])
    assert not torch.allclose(
        found[3:, 1], plain[3:, 1], atol=1e-6
    ), "the state must matter for this to mean anything"


@pytest.mark.parametrize(
    "settings", [{}, {"hidden": [16]}, {"encoder": "population"}], ids=["linear", "mlp", "learned encoder"]
)
def test_only_the_readout_is_trained_and_cached_features_give_the_same_gradient(settings):
    net, x = reservoir(**settings), observations()
    features, _ = net(x, net.zero_state(BATCH, x))
    features.square().sum().backward()
    learned = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learned == {name for name, _ in net.named_parameters() if name.startswith("decoder")}
    whole = [p.grad.clone() for p in net.parameters() if p.requires_grad]
    net.zero_grad()
    cached, _ = net.compute_fixed_part(x, net.zero_state(BATCH, x))
    assert not cached.requires_grad and cached.shape[-1] == net.fixed_size
    net.apply_readout(cached).square().sum().backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(whole, net.decoder.parameters(), strict=True))


def test_trained_input_weights_get_a_gradient_through_time():
    net, x = reservoir(train_input=True, encoder="population"), observations()
    assert net.fixed_size is None and type(net).is_recurrent(type(net).Options(train_input=True))
    features, _ = net(x, net.zero_state(BATCH, x))
    features[-1].square().sum().backward()
    assert net.input_weight.grad.abs().sum() > 0
    assert all(p.grad.any() for p in net.encoder.parameters())
    assert net.weight.grad is None


def test_features_are_standardised_on_what_the_reservoir_was_calibrated_with():
    net = reservoir(**RATE)
    x = observations(steps=60, seed=12, batch=16)
    cached, _ = net.compute_fixed_part(x, net.zero_state(16, x))
    z = ((cached[20:] - net.mean) / net.deviation).flatten(0, 1)
    assert z.mean().abs() < 0.2
    assert z.std(0).max() < 4.0


def test_operations_are_those_of_the_spikes_and_the_readout():
    net, x, record = reservoir(hidden=[16]), observations(), ForwardRecord()
    net(x, net.zero_state(BATCH, x), record=record)
    spikes = record.signals[1]
    assert spikes.shape == (T, net.steps, BATCH, SIZE) == record.potentials[0].shape
    cached, _ = net.compute_fixed_part(x, net.zero_state(BATCH, x))
    there = (net.weight != 0).float()
    counted = [
        (x != 0).sum(-1) * SIZE,
        (spikes @ there).sum((1, 3)),
        (cached != 0).sum(-1) * 16 + 16 * OUTPUTS,
    ]
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(record.operations[1:], counted, strict=True))
    assert spikes.sum() > 0


def test_a_checkpoint_holds_the_whole_reservoir():
    one, other, x = reservoir(), reservoir(seed=4), observations()
    other.load_state_dict(one.state_dict())
    a, _ = one(x, one.zero_state(BATCH, x))
    b, _ = other(x, other.zero_state(BATCH, x))
    assert torch.equal(a, b)


def test_a_copy_runs_as_the_original():
    net, x = reservoir(), observations()
    twin = copy.deepcopy(net)
    twin.set_backend("torch")
    assert torch.allclose(
        net(x, net.zero_state(BATCH, x))[0], twin(x, net.zero_state(BATCH, x))[0], atol=1e-5
    )


def test_drive_takes_series_and_gives_traces():
    net = reservoir(inputs=1)
    u = np.random.default_rng(0).uniform(0.0, 0.5, (2, 30, 1))
    states = net.compute_traces(u)
    assert states.shape == (2, 30, SIZE) and states.dtype == np.float32
    assert np.array_equal(net.compute_traces(u[1:])[0], states[1]), "series do not see each other"


@pytest.mark.parametrize("encoder", registry.list_names("encoders"))
def test_every_encoder_feeds_a_reservoir(encoder):
    net, x = reservoir(encoder=encoder), observations()
    features, _ = net(x, net.zero_state(BATCH, x))
    assert features.shape == (T, BATCH, OUTPUTS) and features.isfinite().all()


@pytest.mark.parametrize("encoder", ["population", {"name": "concat", "second": "population"}])
def test_the_encoder_runs_on_the_named_backend(encoder):
    named, changed, x = (
        reservoir(encoder=encoder, backend="torch"),
        reservoir(encoder=encoder),
        observations(),
    )
    changed.set_backend("torch")
    before = CPU.launches.copy()
    for net in (named, changed):
        net(x, net.zero_state(BATCH, x))
    assert CPU.launches == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neuron": "sigma_delta"}, r"net\.neuron: name: 'sigma_delta' sends graded events and has no rate"),
        ({"neuron": {"name": "lif", "learn": ["tau"]}}, r"net\.neuron: learn: tau: "),
        ({"traces": []}, r"net\.traces: .*at least one time constant"),
        ({"traces": [0.0]}, r"net\.traces: 0\.0 is out of range"),
        ({"control": "radius"}, r"net\.control: 'radius' is not allowed; .* did you mean"),
        ({"plasticity": "sdtp"}, r"net\.plasticity\.name: unknown plasticity 'sdtp'; .* did you mean 'stdp'\?"),
        ({"plasticity": "stdp", "train_input": True}, r"net\.plasticity: not available with net\.train_input=true"),
        ({"backend": "gpu"}, r"net\.backend: unknown backend 'gpu'"),
        ({"size": 1}, r"net\.size: 1 is out of range"),
        ({"graph": "grown"}, r"net\.graph: file: name a grown graph"),
        ({"graph": {"name": "grown", "file": "grown_reservoir.json"}}, r"net\.graph: file: .* has 151 neurons, not 60"),
        ({"seed": 1.5}, r"net\.seed: expected a whole number, got 1\.5"),
        ({"surrogate": {"name": "arctangent", "schedule": [5.0, 10]}}, r"net\.surrogate\.schedule: "),
    ],
)  # fmt: skip
def test_what_a_reservoir_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("networks", {**FAST, **settings}, "net")


def test_a_reservoir_in_which_nobody_fires_is_refused():
    with pytest.raises(registry.RegistryError, match="bias: no neuron of this reservoir fires"):
        reservoir(bias=0.5, spread=0.0, input_scaling=0.1)


def test_the_noise_of_a_random_encoder_is_drawn_anew_after_an_update():
    net = reservoir(encoder={"name": "population", "mode": "poisson"})
    noise = net.encoder.noise.clone()
    net.count_update()
    assert not torch.equal(noise, net.encoder.noise)
    assert net.updates == 1


def test_a_named_backend_of_another_device_is_kept_for_the_device_that_the_host_will_choose(monkeypatch):
    monkeypatch.setattr(CUPY, "get_unavailable_reason", lambda: None)
    dispatch.require_backend.cache_clear()
    net = reservoir(backend="cupy")
    dispatch.require_backend.cache_clear()
    assert net.backend == "cupy", "calibrated on the CPU all the same"


def test_a_graph_without_cycles_has_no_spectral_radius():
    with pytest.raises(registry.RegistryError, match="spectral_radius needs a graph with cycles"):
        reservoir(graph=f"{__file__}:Chain", control="spectral_radius")


class Chain(registry.resolve("graphs", "erdos_renyi").__mro__[1]):  # type: ignore[misc]
    """A strand: each neuron projects to the next."""

    def wire(self, size, generator):
        return Wiring(np.eye(size, k=1, dtype=np.float32), np.zeros(size, bool))


def test_rheobase_of_a_leaky_neuron_is_its_threshold():
    net = reservoir()
    assert net.rheobase == pytest.approx(1.0, rel=0.03)
    slow = reservoir(neuron={"name": "lif", "tau": 20.0, "input_gain": "unit"})
    assert slow.rheobase == pytest.approx(1.0 - math.exp(-1.0 / 20.0), rel=0.03)
