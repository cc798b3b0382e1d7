"""A NIR graph of another library is a network here: it spikes as it does there, and trains on; what cannot be run is refused by node."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.nn.utils import prune

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.deploy._nir_write import build_graph
from spiky_rl.deploy.c import C
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.networks import _nir_graph
from spiky_rl.networks.base import ForwardRecord
from tests.deploy.test_c import act, live, walk
from tests.deploy.trained import trained
from tests.hosts.test_first_minibatch import agent_runner
from tests.hosts.test_rsl_rl_model import rollout

nir = pytest.importorskip("nir", reason="nir is not installed (pip install nir)")

OBSERVED, STEPS, BATCH, TRIALS = 4, 8, 16, 12


def configure(path, **settings):
    return registry.configure(
        "networks", {"name": "nir", "file": str(path), "steps": STEPS, **settings}, "agent.network"
    )


def network_of(path, outputs, inputs=OBSERVED, **settings):
    return configure(path, **settings).build(inputs=inputs, outputs=outputs)


def observations(inputs=OBSERVED, scale=2.0):
    """Multiples of 1/4: with `on_a_grid` every potential is a number of 32 bits, whatever the order of sums."""
    drawn = torch.randn(TRIALS, BATCH, inputs, generator=torch.Generator().manual_seed(3))
    return (4.0 * scale * drawn).round() / 4.0


def on_a_grid(net, gain=2.0):
    """Make the weights of ``net`` multiples of 1/16, ``gain`` times as large. With decays of 1/2 no potential is rounded."""
    with torch.no_grad():
        for name, values in net.named_parameters():
            if name.endswith(("weight", "bias")):
                values.copy_((16.0 * gain * values).round() / 16.0)
    return net


def compare(network, run, x):
    """Share of spikes of all layers that differ from those of ``run``: observation [B, O] -> spikes of each layer, [K, B, N]."""
    different, total, fired = 0, 0, 0
    for seen in x:
        record = ForwardRecord(only_signals=True)
        with torch.inference_mode():
            network(seen[None], None, record=record)
            expected = run(seen)
        ours = [signal[0] for signal in record.layer_spikes]
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected, strict=True):
            b = b.reshape(a.shape)
            different, total, fired = (
                different + int((a != b).sum()),
                total + b.numel(),
                fired + int((b != 0).sum()),
            )
    assert 0.02 < fired / total < 0.95
    return different / total


def listen(net, kinds, step, rest):
    """A function that runs ``net`` for the steps of an observation and returns what the modules of ``kinds`` send."""
    modules = [m for m in net.modules() if isinstance(m, kinds)]

    def run(x):
        heard = [[] for _ in modules]
        hooks = [
            m.register_forward_hook(
                lambda _m, _i, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
            )
            for m, kept in zip(modules, heard, strict=True)
        ]
        state: object = rest()
        for _ in range(STEPS):
            state = step(x, state)
        for hook in hooks:
            hook.remove()
        return [torch.stack(each).flatten(2) for each in heard]

    return run


# snnTorch


def full(width, value):
    return torch.full((width,), value)


def snn_neuron(kind, width, threshold=1.0, **given):
    """A neuron of snnTorch as NIR means it: reset to zero, in the same step."""
    snntorch = pytest.importorskip("snntorch", reason="snntorch is not installed")
    given = {"beta": full(width, 0.5), "threshold": full(width, threshold), **given}
    return getattr(snntorch, kind)(**given, reset_mechanism="zero", reset_delay=False, init_hidden=True)


SNN = {
    "Leaky": {},
    "Synaptic": {"alpha": full(24, 0.5)},
    "RLeaky": {"linear_features": 24},
}


@pytest.mark.parametrize("kind", SNN)
def test_a_graph_of_snntorch_spikes_as_it_does_there(kind, tmp_path):
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(1)
    hidden = snn_neuron(kind, 24, **SNN[kind])
    net = on_a_grid(
        torch.nn.Sequential(
            torch.nn.Linear(OBSERVED, 24), hidden, torch.nn.Linear(24, 10), snn_neuron("Leaky", 10)
        )
    )
    nir.write(tmp_path / "x.nir", export_to_nir(net, torch.randn(1, OBSERVED), ignore_dims=[0]))

    def rest():
        for module in (hidden, net[3]):
            module.reset_mem()  # type: ignore[operator]

    network = network_of(tmp_path / "x.nir", 10)
    assert (network.layers[0].recurrent is not None) == kind.startswith("R")
    run = listen(net, (type(hidden), type(net[3])), lambda x, _: net(x), rest)
    assert compare(network, run, observations()) == 0.0


# Norse


def test_a_graph_of_norse_spikes_as_it_does_there_and_its_integrator_is_the_output(tmp_path):
    norse = pytest.importorskip("norse.torch", reason="norse is not installed")
    from norse.torch.utils.export_nir import to_nir

    torch.manual_seed(1)
    spiking = [
        norse.LIFBoxCell(
            norse.LIFBoxParameters(tau_mem_inv=full(n, 500.0), v_th=full(n, 0.25), v_leak=full(n, 0.0))
        )
        for n in (24, 12)
    ]
    leaky = norse.LIBoxCell(norse.LIBoxParameters(tau_mem_inv=full(5, 200.0), v_leak=full(5, 0.0)))
    net = norse.SequentialState(
        *(torch.nn.Linear(OBSERVED, 24), spiking[0], torch.nn.Linear(24, 12), spiking[1]),
        *(torch.nn.Linear(12, 5), leaky),
    )
    on_a_grid(net)
    # Norse writes dt / tau_mem_inv, which is the time constant in seconds for dt = 1 only
    nir.write(tmp_path / "x.nir", to_nir(net, torch.randn(1, OBSERVED), dt=1.0))
    network, x = network_of(tmp_path / "x.nir", 5, dt=0.001), observations()
    run = listen(net, norse.LIFBoxCell, lambda seen, state: net(seen, state)[1], lambda: None)

    def with_potential(seen):
        state, out = None, []
        for _ in range(STEPS):
            y, state = net(seen, state)
            out.append(y)
        return [*run(seen), torch.stack(out)]

    for seen in x:
        record = ForwardRecord(only_signals=True)
        with torch.inference_mode():
            y = network(seen[None], None, record=record)[0][0]
            expected = with_potential(seen)
        for ours, theirs in zip(record.layer_spikes[:2], expected[:2], strict=True):
            assert torch.equal(ours[0], theirs) and 0.02 < theirs.mean() < 0.95
        torch.testing.assert_close(y, expected[2][-1], rtol=1e-5, atol=1e-6)


# SpikingJelly


def jelly():
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    return functional, layer, neuron, import_from_nir, export_to_nir


JELLY = {
    "LIF": lambda neuron: neuron.LIFNode(tau=2.0, v_threshold=0.4),
    "LIF without decayed input": lambda neuron: neuron.LIFNode(tau=2.0, decay_input=False),
    "LIF with another rest": lambda neuron: neuron.LIFNode(tau=2.0, v_threshold=0.5, v_reset=-0.25),
    "IF": lambda neuron: neuron.IFNode(v_threshold=2.0),
    "CubaLIF": lambda neuron: neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5, v_threshold=2.0),
}


def run_jelly(net, kind):
    functional = jelly()[0]
    return listen(net, kind, lambda x, _: net(x), lambda: functional.reset_net(net))


@pytest.mark.parametrize("kind", JELLY)
def test_a_graph_of_spikingjelly_spikes_as_it_does_there(kind, tmp_path):
    _, layer, neuron, _, export = jelly()
    torch.manual_seed(1)
    make = JELLY[kind]
    net = on_a_grid(
        torch.nn.Sequential(layer.Linear(OBSERVED, 24), make(neuron), layer.Linear(24, 10), make(neuron))
    )
    if kind == "LIF with another rest":
        # its zero state is v_reset, for a fresh neuron too
        assert net[1].v_reset == -0.25
    export(net, torch.randn(1, OBSERVED), save_path=str(tmp_path / "x.nir"))
    network = network_of(tmp_path / "x.nir", 10, spike="at")
    assert compare(network, run_jelly(net, type(net[1])), observations()) == 0.0


def test_a_convolution_of_spikingjelly_with_pooled_currents_spikes_as_it_does_there(tmp_path):
    _, layer, neuron, _, export = jelly()
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        *(layer.Conv2d(2, 6, 3, padding=1), layer.AvgPool2d(2), neuron.LIFNode(tau=2.0, v_threshold=0.3)),
        *(layer.Flatten(), layer.Linear(96, 10), neuron.LIFNode(tau=2.0, v_threshold=0.3)),
    )
    on_a_grid(net)
    export(net, torch.randn(1, 2, 8, 8), save_path=str(tmp_path / "x.nir"))
    maps = (2, 8, 8)
    network, x = configure(tmp_path / "x.nir", spike="at").build(inputs=maps, outputs=10), observations(128)
    run = run_jelly(net, neuron.LIFNode)
    assert compare(network, lambda seen: run(seen.view(-1, *maps)), x) == 0.0


def test_at_and_above_the_threshold_differ_where_potentials_reach_it_exactly(tmp_path):
    _, layer, neuron, _, export = jelly()
    torch.manual_seed(1)
    net = torch.nn.Sequential(layer.Linear(OBSERVED, 24), neuron.LIFNode(tau=2.0))
    on_a_grid(net, gain=4.0)
    export(net, torch.randn(1, OBSERVED), save_path=str(tmp_path / "x.nir"))
    run, x = run_jelly(net, neuron.LIFNode), observations()
    assert compare(network_of(tmp_path / "x.nir", 24, spike="at"), run, x) == 0.0
    assert compare(network_of(tmp_path / "x.nir", 24), run, x) > 0.0


def chain(*nodes, back=None):
    """A graph of nodes in a row; ``back``: a map from the last neurons to themselves."""
    named = {"input": nir.Input({"input": np.array([OBSERVED])})}
    named |= {f"n{i}": node for i, node in enumerate(nodes)}
    named["output"] = nir.Output({"output": np.array([1])})
    names = list(named)
    edges = list(itertools.pairwise(names))
    if back is not None:
        last = [name for name, node in named.items() if isinstance(node, nir.LIF)][-1]
        named["back"] = back
        edges += [(last, "back"), ("back", last)]
    return nir.NIRGraph(named, edges, type_check=False)


def loop(*nodes):
    """A `chain` whose end leads back to its third node."""
    graph = chain(*nodes)
    last = len(nodes) - 1
    graph.edges = [(a, "n2" if a == f"n{last}" else b) for a, b in graph.edges]
    return graph


def drawn(*shape, seed=0, gain=1.0):
    return gain * np.random.default_rng(seed).standard_normal(shape)


def lif(width, tau=2e-4, r=1.0, threshold=0.3, leak=0.0, reset=0.0):
    values = {"tau": tau, "r": r, "v_leak": leak, "v_threshold": threshold, "v_reset": reset}
    return nir.LIF(**{key: np.full(width, value, float) for key, value in values.items()})


def affine(inputs, outputs, seed=0):
    return nir.Affine(drawn(outputs, inputs, seed=seed), drawn(outputs, seed=seed + 9, gain=0.3))


def test_feedback_is_that_of_spikingjelly_and_nirtorch(tmp_path):
    _, _, neuron, read, _ = jelly()
    graph = chain(
        affine(OBSERVED, 24), lif(24), affine(24, 10, seed=1), lif(10), back=nir.Linear(drawn(10, 10, seed=2))
    )
    graph.nodes["output"] = nir.Output({"output": np.array([10])})
    nir.write(tmp_path / "x.nir", graph)
    net = read(str(tmp_path / "x.nir"))

    def advance(x, state):
        return net(x, state)[1]

    network = network_of(tmp_path / "x.nir", 10, spike="at")
    assert network.layers[1].recurrent is not None
    # SpikingJelly runs a neuron on explicit states and calls its step, not its module
    inner = [m for m in net.modules() if isinstance(m, neuron.LIFNode)]
    wrapped = tuple(
        {type(m) for m in net.modules() if any(child in inner for child in m.children()) and m is not net}
    )
    run = listen(net, wrapped, advance, lambda: None)
    assert compare(network, run, observations()) == 0.0


# A network like any other


@pytest.fixture(name="file")
def file_of_a_graph(tmp_path):
    """A recurrent graph with a readout, for the point mass."""
    graph = chain(
        *(affine(OBSERVED, 16), lif(16, tau=3e-4), affine(16, 2, seed=1)),
        back=nir.Affine(drawn(16, 16, seed=2, gain=0.4), drawn(16, seed=3, gain=0.1)),
    )
    nir.write(tmp_path / "x.nir", graph)
    return tmp_path / "x.nir"


def test_the_readout_of_a_file_is_the_mean_of_its_outputs(file):
    network, x = network_of(file, 2), observations()
    record = ForwardRecord(only_signals=True)
    with torch.inference_mode():
        y = network(x, None, record=record)[0]
    node = nir.read(file, type_check=False).nodes["n2"]
    expected = (record.signals[-1].numpy() @ node.weight.T + node.bias).mean(1)
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)


def test_neurons_at_the_end_are_features_or_get_a_readout(tmp_path):
    nir.write(tmp_path / "x.nir", chain(affine(OBSERVED, 6), lif(6)))
    x = observations()
    record = ForwardRecord(only_signals=True)
    with torch.inference_mode():
        y = network_of(tmp_path / "x.nir", 6)(x, None, record=record)[0]
        assert torch.allclose(y, record.signals[-1].mean(1))
        assert network_of(tmp_path / "x.nir", 2)(x, None)[0].shape == (TRIALS, BATCH, 2)


def test_pruned_feedback_learns_and_stays_pruned(file):
    network, x = network_of(file, 2, stateful=True), observations()
    recurrent = network.layers[0].recurrent
    prune.l1_unstructured(recurrent, "weight", amount=0.5)
    kept, before = recurrent.weight_mask != 0.0, recurrent.synapses().detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(x, network.zero_state(x.shape[1], x))[0].square().sum().backward()
        optimizer.step()
    after = recurrent.synapses().detach()
    assert not after[~kept].any() and not torch.equal(after, before)


def test_weights_of_zero_are_no_synapses_and_stay_zero(tmp_path):
    node = affine(OBSERVED, 6)
    node.weight[:, 1] = 0.0
    nir.write(tmp_path / "x.nir", chain(node, lif(6)))
    network, x = network_of(tmp_path / "x.nir", 6), observations()
    network(x, None)[0].square().sum().backward()
    weight = network.layers[0].connection.weight
    assert not weight.grad[1].any() and weight.grad[0].any()
    assert float(network.layers[0].connection.operations(torch.ones(OBSERVED))) == 18.0


def test_a_graph_takes_torchs_default_type(file):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        network = network_of(file, 2, stateful=True, backend="torch")
        x = torch.randn(2, BATCH, OBSERVED)
        features, _ = network(x, network.zero_state(BATCH, x))
        features.square().sum().backward()
        assert {y.dtype for y in (features, *network.parameters())} == {torch.float64}
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_carried_state_is_one_long_observation(file, backend):
    network, x = network_of(file, 2, backend=backend, stateful=True), observations()
    state, twice = network.zero_state(BATCH, x), network_of(
        file, 2, backend=backend, stateful=True, steps=2 * STEPS
    )
    record, longer = ForwardRecord(only_signals=True), ForwardRecord(only_signals=True)
    with torch.inference_mode():
        for _ in range(2):
            state = network(x[:1], state, record=record)[1]
        twice(x[:1], twice.zero_state(BATCH, x), record=longer)
    assert torch.equal(torch.cat([record.signals[1], record.signals[3]], 1), longer.signals[1])


def test_it_trains_on_and_a_checkpoint_has_what_was_learned(file):
    override = f"agent.network={{name: nir, file: {file}, steps: 4}}"
    runner = agent_runner("lif_ppo", override)
    before = {key: value.clone() for key, value in runner.alg.get_policy().state_dict().items()}
    rollout(runner)
    runner.alg.update()
    trained = runner.alg.get_policy()
    for part in ("connection.weight", "connection.bias", "recurrent.weight"):
        assert not torch.equal(
            before[f"network.layers.0.{part}"], trained.state_dict()[f"network.layers.0.{part}"]
        )
    saved, original = runner.alg.save(), file.with_name("original.nir")
    nir.write(original, nir.read(file, type_check=False))
    resumed = agent_runner("lif_ppo", override)
    resumed.alg.load(saved, None, True)
    obs = runner.env.get_observations()
    assert torch.equal(resumed.alg.get_policy()(obs), trained(obs))
    for change in (change_threshold, change_metadata):
        graph = nir.read(file, type_check=False)
        change(graph)
        nir.write(file, graph)
        with pytest.raises(RegistryError, match="graph differs from that of the checkpoint"):
            agent_runner("lif_ppo", override).alg.load(saved, None, True)
        nir.write(file, nir.read(original, type_check=False))
        agent_runner("lif_ppo", override).alg.load(saved, None, True)


def change_threshold(graph):
    graph.nodes["n1"].v_threshold[:] = 0.5


def change_metadata(graph):
    graph.nodes["n1"].metadata["reset"] = "subtract"


@pytest.mark.parametrize("origin", ["recurrent graph", "own file, normalised"])
def test_a_graph_acts_in_c_as_here(origin, file, tmp_path):
    if origin != "recurrent graph":
        source = trained("lif_ppo", "agent.actor.obs_normalization=true")
        file = registry.configure("targets", "nir", "--to").build().write(source, tmp_path)
    policy = trained("lif_ppo", f"agent.network={{name: nir, file: {file}, steps: 4}}")
    assert (policy.network.input_mean is None) == (origin == "recurrent graph")
    target, seen = C(), walk(policy)
    assert target.get_tolerance(policy) == 0.0
    found = act(target.open_session(target.write(policy, tmp_path)), seen)
    np.testing.assert_array_equal(found, live(policy, seen))


def test_a_file_that_does_not_fit_the_agent_is_refused_by_key(file):
    with pytest.raises(RegistryError, match="takes 4 observations; the environment gives 5"):
        network_of(file, 2, inputs=5)
    with pytest.raises(RegistryError, match="has 2 outputs; the agent needs 3"):
        network_of(file, 3)
    with pytest.raises(RegistryError, match="agent.network.decoder: population_vector given"):
        configure(file, decoder="population_vector")
    with pytest.raises(RegistryError, match="agent.network.learning: eventprop given"):
        configure(file, learning="eventprop", decoder="membrane")


@pytest.mark.parametrize(
    ("version", "refused"), [("1.0.6", True), ("1.0.6rc1", True), ("1.0.7", False), ("1.1.0rc1", False)]
)
def test_a_release_candidate_of_nir_is_a_version(version, refused, monkeypatch):
    monkeypatch.setattr(_nir_graph, "version", lambda name: version)
    with pytest.raises(RegistryError, match="is installed; allowed") if refused else contextlib.nullcontext():
        _nir_graph.require_nir("key")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RegistryError, match=r"agent\.network.*none\.nir: no such file"):
        configure(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no graph")
    with pytest.raises(RegistryError, match=r"text\.nir: not a NIR file"):
        configure(tmp_path / "text.nir")


def conv(**changes):
    given = {
        "input_shape": (2, 2),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": np.zeros(3),
    }
    return nir.Conv2d(weight=drawn(3, 1, *changes.pop("kernel", (2, 2))), **given | changes)


REFUSED = {
    "n1: Threshold given; allowed: Affine, Conv2d": lambda: chain(affine(4, 6), nir.Threshold(np.ones(6))),
    "n0: Scale given": lambda: chain(nir.Scale(np.ones(4)), affine(4, 6), lif(6)),
    r"n1 \(LIF\): v_reset -0.2 given; allowed: v_leak": lambda: chain(affine(4, 6), lif(6, reset=-0.2)),
    r"n1 \(LIF\): v_threshold - v_leak -0.1 given; allowed: above 0": lambda: chain(
        affine(4, 6), lif(6, threshold=-0.1)
    ),
    r"n1 \(LIF\): tau 5e-05 s given; allowed: at least dt, 0.0001 s": lambda: chain(
        affine(4, 6), lif(6, tau=5e-5)
    ),
    r"n1 \(Affine\): behind n0 given; allowed: behind LIF, CubaLIF|n1 \(Affine\): behind n0 given": lambda: chain(
        affine(4, 6), affine(6, 6), lif(6)
    ),
    r"n2 \(LIF\): behind n1 given": lambda: chain(affine(4, 6), lif(6), lif(6)),
    r"n1 \(Delay\): behind n0 given; allowed: in feedback": lambda: chain(
        affine(4, 6), nir.Delay(np.full(6, 1e-4)), lif(6)
    ),
    r"n1 \(LIF\): r of 5 values given; allowed: 1 or 6": lambda: chain(affine(4, 6), lif(5)),
    "no neurons that spike": lambda: chain(affine(4, 2)),
    r"n0 \(Affine\): an input of shape \[4\] given; allowed: 3 values": lambda: chain(affine(3, 6), lif(6)),
    r"n0 \(Conv2d\): an input of shape \[4\] given": lambda: chain(conv(), lif(3)),
    r"back \(Linear\): weight of shape \[5, 6\] given": lambda: chain(
        affine(4, 6), lif(6), back=nir.Linear(drawn(5, 6))
    ),
    r"back \(Delay\): delays of -1 to -1 steps given; allowed: 0 to 9999": lambda: chain(
        affine(4, 6), lif(6), back=nir.Delay(np.full(6, -1e-4))
    ),
    r"n2 \(Affine\): in a loop of several layers given; allowed: a loop of one layer": lambda: loop(
        affine(4, 6), lif(6), affine(6, 6), lif(6), affine(6, 6), lif(6)
    ),
    "n1.tau is not finite": lambda: chain(affine(4, 6), lif(6, tau=np.nan)),
    "n0.weight is not finite in float32": lambda: chain(
        nir.Affine(np.full((6, 4), 1e39), np.zeros(6)), lif(6)
    ),
    "back.delay is not finite": lambda: chain(affine(4, 6), lif(6), back=nir.Delay(np.float64(np.nan))),
    r"n2 \(Affine\): bias of 3 values given; allowed: 1 or 2": lambda: chain(
        affine(4, 6), lif(6), nir.Affine(drawn(2, 6), drawn(3))
    ),
    r"n0 \(Linear\): weight of shape \[6, 4, 1\] given; allowed: 2 dimensions": lambda: chain(
        nir.Linear(drawn(6, 4, 1)), lif(6)
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_run_is_refused_by_node_type_and_what_is_allowed(said, tmp_path):
    nir.write(tmp_path / "x.nir", REFUSED[said]())
    with pytest.raises(RegistryError, match=said) as refusal:
        configure(tmp_path / "x.nir")
    assert str(tmp_path / "x.nir") in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_subtracting_reset_needs_a_leak_towards_0(tmp_path):
    nir.write(tmp_path / "x.nir", chain(affine(4, 6), lif(6, leak=0.1, reset=0.1)))
    configure(tmp_path / "x.nir", reset="zero")
    with pytest.raises(RegistryError, match=r"n1 \(LIF\): v_leak 0.1 given; allowed: 0"):
        configure(tmp_path / "x.nir", reset="subtract")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel": (2, 1)}, "kernel 2 x 1 given; allowed: square"),
        ({"groups": 3}, "groups 3 given; allowed: 1"),
        ({"dilation": 2}, r"dilation \[2, 2\] given; allowed: 1"),
        ({"stride": (1, 2)}, r"stride \[1, 2\] given"),
        ({"padding": -1}, "padding -1 given; allowed: at least 0"),
        ({"padding": 2}, "padding 2 given; allowed: less than the kernel"),
    ],
)
def test_what_a_convolution_here_cannot_do_is_refused(changes, said, tmp_path):
    graph = chain(conv(**changes), lif(3))
    graph.nodes["input"] = nir.Input({"input": np.array([1, 2, 2])})
    nir.write(tmp_path / "x.nir", graph)
    with pytest.raises(RegistryError, match=rf"n0 \(Conv2d\): {said}"):
        configure(tmp_path / "x.nir")


def test_a_skip_connection_is_refused_by_both_of_its_ends(tmp_path):
    graph = chain(affine(4, 6), lif(6), affine(6, 6, seed=1), lif(6))
    graph.nodes["skip"] = nir.Linear(drawn(6, 6))
    graph.edges += [("n1", "skip"), ("skip", "n3")]
    nir.write(tmp_path / "x.nir", graph)
    with pytest.raises(RegistryError, match=r"n1 \(LIF\): edges to n2, skip given; allowed: 1 edge"):
        configure(tmp_path / "x.nir")


# The choices of the agent


@pytest.mark.parametrize("given", [{}, {"stateful": True}, {"steps": 4, "stateful": False}], ids=str)
def test_a_time_step_or_a_reset_of_the_agent_is_enough_to_read_a_file(given, tmp_path):
    nodes = [affine(4, 6), lif(6, tau=5e-5), affine(6, 2, seed=1)]
    nir.write(tmp_path / "fast.nir", chain(*nodes))
    nodes[1] = lif(6, reset=-0.5)
    nir.write(tmp_path / "low.nir", chain(*nodes))
    for file, choice in (("fast", {"dt": 1e-5}), ("low", {"reset": "subtract"})):
        settings = {"name": "nir", "file": str(tmp_path / f"{file}.nir"), **given}
        with pytest.raises(RegistryError, match=r"^agent\.network\.file: .*n1 \(LIF\): "):
            registry.configure("networks", settings, "agent.network")
        configured = registry.configure("networks", {**settings, **choice}, "agent.network")
        assert (configured.options.steps, configured.options.stateful) == (4, given.get("stateful", False))


def test_a_wrong_choice_is_named_before_the_file_is_read_with_it(file):
    for key, value in (("dt", "fast"), ("dt", -1.0), ("reset", ["zero"]), ("spike", "below")):
        with pytest.raises(RegistryError, match=rf"^agent\.network\.{key}: "):
            registry.configure("networks", {"name": "nir", "file": str(file), key: value}, "agent.network")


def export(encoder, folder):
    """Return the own file of a network with an ``encoder`` that was trained: its noise and fields are others than at the start."""
    obs = TensorDict({"policy": torch.zeros(1, OBSERVED)}, batch_size=[1])
    network = {"name": "feedforward", "encoder": encoder, "neuron": {"name": "lif", "reset": "zero"}}
    model = SpikingModel(
        obs, {"actor": ["policy"]}, "actor", 2, hidden_dims=[6], network={**network, "stateful": True}
    )
    model.network.count_update()
    with torch.no_grad():
        for parameter in model.network.encoder.parameters():
            parameter.add_(0.1)
    nir.write(folder / "own.nir", build_graph(model))
    return model.network.encoder


def read_own(folder, **settings):
    settings = {"name": "nir", "file": str(folder / "own.nir"), **settings}
    return registry.configure("networks", settings, "network").build(inputs=OBSERVED, outputs=2)


def build_encoder(settings, steps):
    return registry.configure("encoders", settings, "encoder").build(inputs=OBSERVED, steps=steps)


ENCODERS = [*registry.list_names("encoders"), {"name": "concat", "first": "population", "second": "rate"}]


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
@pytest.mark.parametrize("steps", [4, 8])
def test_the_encoder_of_an_own_file_has_what_it_learned_with_any_number_of_steps(encoder, steps, tmp_path):
    trained, x = export(encoder, tmp_path), observations()
    network = read_own(tmp_path, steps=steps)
    fresh = build_encoder(encoder, steps)
    fresh.load_state_dict({**fresh.state_dict(), **dict(trained.named_parameters())})
    expected = trained if steps == 4 else fresh
    assert torch.equal(network.encoder(x), expected(x))
    assert torch.equal(network(x, None)[0], network(x, network.zero_state(BATCH, x))[0])


@pytest.mark.parametrize(
    ("encoder", "chosen"),
    [
        ("delta", "rate"),
        ("rate", {"name": "rate", "seed": 3}),
        ("direct", "sigma_delta"),
        ("latency", {"name": "latency", "span": 6.0}),
        ({"name": "population", "fields": 8}, "latency"),
    ],
    ids=str,
)
def test_an_encoder_of_the_agent_is_built_as_it_says(encoder, chosen, tmp_path):
    export(encoder, tmp_path)
    for steps in (4, 8):
        network, x = read_own(tmp_path, encoder=chosen, steps=steps), observations()
        assert torch.equal(network.encoder(x), build_encoder(chosen, steps)(x))


def test_a_file_without_a_tensor_of_its_encoder_is_refused(tmp_path):
    export("population", tmp_path)
    graph = nir.read(tmp_path / "own.nir", type_check=False)
    graph.metadata["encoder_centre"] = graph.metadata["encoder_centre"][:, :-1]
    nir.write(tmp_path / "own.nir", graph)
    with pytest.raises(RegistryError, match="encoder_centre of 36 values given; allowed: 40"):
        read_own(tmp_path)
    del graph.metadata["encoder_centre"]
    nir.write(tmp_path / "own.nir", graph)
    with pytest.raises(RegistryError, match="encoder_centre of 0 values given; allowed: 40"):
        read_own(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dt", np.nan, "metadata.dt is not finite"),
        ("dt", 0.0, "metadata.dt: 0 given; allowed: above 0"),
        ("steps", np.inf, "metadata.steps is not finite"),
        ("encoder_centre", np.full((4, 10), np.nan), "metadata.encoder_centre is not finite"),
        ("decoder_bias", np.array([np.nan, 0.0]), "metadata.decoder_bias is not finite"),
        ("decoder_bias", np.zeros(3), "metadata.decoder_bias of 3 values given; allowed: 1 or 2"),
        ("normaliser_mean", np.zeros(3), "metadata.normaliser_mean of 3 values given; allowed: 1 or 4"),
    ],
)
def test_metadata_of_an_own_file_that_are_not_finite_or_of_another_size_are_refused(
    key, value, words, tmp_path
):
    export("population", tmp_path)
    graph = nir.read(tmp_path / "own.nir", type_check=False)
    graph.metadata |= {"normaliser_mean": np.zeros(4), "normaliser_scale": np.ones(4), key: value}
    nir.write(tmp_path / "own.nir", graph)
    with pytest.raises(RegistryError, match=words):
        read_own(tmp_path)


def test_the_weights_of_another_network_are_refused_by_the_file(file):
    other = registry.configure("networks", {"name": "feedforward", "layers": [16]}, "network")
    with pytest.raises(RegistryError, match="the graph differs from that of the checkpoint"):
        network_of(file, 2).load_state_dict(other.build(inputs=4, outputs=2).state_dict(), strict=False)
