"""policy.nir is the policy: read here to the last bit, and in two foreign libraries spike by spike; what NIR cannot say is refused."""

import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import UserError
from spiky_rl.deploy import nir as target
from spiky_rl.deploy.base import ExportError
from spiky_rl.networks.base import ForwardRecord
from tests import processes
from tests.deploy.perturbed import perturb_learned_values
from tests.deploy.test_c import live, walk
from tests.deploy.trained import trained_on_torch
from tests.hosts import test_first_minibatch
from tests.hosts.point_env import PointEnv
from tests.hosts.test_first_minibatch import AGENTS, agent_runner

nir = pytest.importorskip("nir", reason="nir is not installed (pip install nir)")

NEURON, NETWORK, LEARNING = (f"agent.network{key}" for key in (".neuron.name", ".name", ".learning.name"))
REFUSED = {
    **dict.fromkeys(("mlp_ppo", "mlp_matched_ppo", "mlp_history_ppo", "gru_ppo"), ("agent.network", "none")),
    **dict.fromkeys(("alif_ppo", "alif_recurrent_ppo"), (NEURON, "alif")),
    **dict.fromkeys(
        ("lif_reservoir_ppo", "lif_grown_reservoir_ppo", "lif_plastic_reservoir_ppo"), (NETWORK, "reservoir")
    ),
    "hodgkin_huxley_ppo": (NEURON, "hodgkin_huxley"),
    "izhikevich_ppo": (NEURON, "izhikevich"),
    "quadratic_ppo": (NEURON, "quadratic"),
    "resonate_ppo": (NEURON, "resonate"),
    "sigma_delta_ppo": (NEURON, "sigma_delta"),
    "sigma_delta_converted": (NEURON, "sigma_delta_unit"),
    "lif_eventprop_ppo": (LEARNING, "eventprop"),
    "lif_spikeprop_ppo": (LEARNING, "spikeprop"),
    "lif_latency_ppo": ("agent.network.decoder.name", "first_spike"),
}
"""By agent the key and the value that its line names; every other agent is exported."""
WAYS = {
    "delays": ("lif_stateful_ppo", "agent.network.recurrent={name: recurrent, delays: 3}"),
    "recurrent": ("lif_ppo", "agent.network.recurrent={name: recurrent, density: 0.5, dale: true}"),
    "lateral": ("lif_stateful_ppo", "agent.network.recurrent=lateral"),
    "sparse, Dale's law, voting": (
        "lif_ppo",
        "agent.network.connection={name: linear, density: 0.3, dale: true}",
        "agent.network.decoder=population_vector",
    ),
    "trained on 8 bits": (
        "lif_stateful_ppo",
        "agent.network.recurrent=recurrent",
        "agent.network.quantize=int8",
    ),
    "trained on 8 bits, voting": (
        "lif_ppo",
        "agent.network.quantize=int8",
        "agent.network.decoder=population_vector",
    ),
    "learned, ODE": ("lif_ppo", "agent.network.neuron={learn: [tau, threshold], input_gain: ode, tau: 1.0}"),
    "learned, to zero, normalised": (
        "lif_ppo",
        "agent.network.neuron={learn: [tau], reset: zero}",
        "agent.actor.obs_normalization=true",
        "agent.network.decoder=rate",
    ),
    "normalised before an encoder": (
        "lif_stateful_ppo",
        "agent.actor.obs_normalization=true",
        "agent.network.encoder={name: concat, first: rate, second: delta}",
        "agent.network.decoder=linear",
    ),
    "pooled": (
        "lif_conv_ppo",
        "agent.network.connection=[{name: convolutional, kernel: 4, pool: 2, pooling: average},"
        " {name: convolutional, kernel: 3}, linear]",
    ),
    "maps, learned": (
        "lif_conv_ppo",
        "agent.network.neuron={learn: [tau, threshold], spread: 2.0}",
        "agent.network.connection=[{name: convolutional, kernel: 4, pool: 2, pooling: average}, linear, linear]",
    ),
    "potential's mean": ("lif_stateful_ppo", "agent.network.decoder={name: membrane, read: mean}"),
}
LIKE_ANOTHER = ("recurrent", "trained on 8 bits, voting", "learned, ODE", "pooled")
"""Of parts that other ways have too; they are slow."""
WIDE = "agent.network.layers=[64,64]"

FOREIGN = {
    "subtract": ("lif_ppo",),
    "zero": ("lif_ppo", "agent.network.neuron.reset=zero"),
    "stateful, normalised": ("lif_stateful_ppo", "agent.actor.obs_normalization=true"),
    "ODE": ("lif_ppo", "agent.network.neuron={input_gain: ode, tau: 1.0, reset: zero}"),
}


def reread(policy, folder):
    path = target.Nir().write(policy, folder)
    return path, target.read(path)


def assert_equal(policy, folder):
    path, _ = reread(policy, folder)
    seen, step = walk(policy), target.Nir().open_session(path)
    expected = live(policy, seen)
    assert np.abs(expected - expected[0]).max() > 0.0
    np.testing.assert_array_equal(np.concatenate([step(x.numpy(), [])[0] for x in seen]), expected)


FAST_AGENTS = ("lif_ppo", "lif_stateful_ppo", "lif_population_ppo", "lif_conv_ppo")
"""One of each kind of network that is exported; all others are slow."""


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(name, marks=[] if name in FAST_AGENTS else pytest.mark.slow)
        for name in AGENTS
        if name not in REFUSED
    ],
)
def test_every_agent_that_is_exported_acts_as_before(agent, tmp_path):
    assert_equal(trained_on_torch(agent), tmp_path)


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way in LIKE_ANOTHER)) for way in WAYS]
)
def test_every_way_to_build_a_network_acts_as_before(way, tmp_path):
    assert_equal(trained_on_torch(*WAYS[way]), tmp_path)


@pytest.mark.parametrize("decoder", ["rate", "linear", "population_vector"])
def test_one_action_of_8_bits_acts_as_before(decoder, tmp_path, monkeypatch):
    class OneAction(PointEnv):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.num_actions = 1

    monkeypatch.setattr(test_first_minibatch, "PointEnv", OneAction)
    settings = (WIDE, "agent.network.quantize=int8", f"agent.network.decoder={decoder}")
    assert_equal(trained_on_torch("lif_ppo", *settings), tmp_path)


@pytest.mark.parametrize("agent", REFUSED)
def test_every_other_agent_is_refused_by_name_before_anything_is_written(agent, tmp_path):
    policy = agent_runner(agent).alg.get_policy()
    key, value = REFUSED[agent]
    with pytest.raises(ExportError, match=f"^{key}: {value} given; allowed for nir: "):
        target.Nir().write(policy, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "agent, override, named",
    [
        (
            "lif_conv_ppo",
            "agent.network.connection=[{name: convolutional, kernel: 4, pool: 2}, linear, linear]",
            "connection[0].pooling: max",
        ),
        (
            "lif_ppo",
            "agent.network.neuron=examples/exponential.py:Exponential",
            "neuron.name: examples/exponential.py:Exponential",
        ),
        ("lif_ppo", "agent.network.decoder=sigma_delta", "decoder.name: sigma_delta"),
        (
            "lif_ppo",
            "agent.actor.distribution_cfg={class_name: HeteroscedasticGaussianDistribution}",
            "distribution_cfg.class_name: HeteroscedasticGaussianDistribution",
        ),
    ],
)
def test_what_nir_cannot_say_is_named(agent, override, named, tmp_path):
    with pytest.raises(ExportError, match=re.escape(f"{named} given")):
        target.Nir().write(agent_runner(agent, override).alg.get_policy(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    policy = trained_on_torch("lif_ppo")
    with torch.no_grad():
        policy.network.layers[0].connection.weight[0, 0] = float("inf")
    with pytest.raises(ExportError, match="layer_0 has a number that is not finite"):
        target.Nir().write(policy, tmp_path)
    assert not list(tmp_path.iterdir())


class OnDevice(torch.Tensor):
    """A tensor as on a GPU: NumPy takes it after a copy to the CPU only."""

    def numpy(self, *_args, **_kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_learned_parameters_of_neurons_on_a_gpu_are_exported_too(tmp_path, monkeypatch):
    policy = trained_on_torch("lif_ppo", "agent.network.neuron.learn=[tau,threshold]")
    kind = type(policy.network.layers[0].parameters_of_neuron)
    forward = kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", lambda self: tuple(x.as_subclass(OnDevice) for x in forward(self)))
        target.Nir().write(policy, tmp_path)
    seen, step = walk(policy), target.Nir().open_session(tmp_path / "policy.nir")
    np.testing.assert_array_equal(np.concatenate([step(x.numpy(), [])[0] for x in seen]), live(policy, seen))


def test_robots_of_a_batch_start_again_one_by_one(tmp_path):
    policy = trained_on_torch("lif_stateful_ppo")
    read = reread(policy, tmp_path)[1]
    seen = walk(policy)[:6]
    with torch.inference_mode():
        for x in seen:
            both = read.step(torch.cat([x, x]))
            assert torch.allclose(both[0], both[1])
        read.reset(torch.tensor([1, 0]))
        again, on = read.step(torch.cat([seen[0], seen[0]]))
        read.reset()
        first = read.step(torch.cat([seen[0], seen[0]]))[0]
    assert torch.equal(again, first) and not torch.allclose(on, first)
    with pytest.raises(UserError, match="3 robots given; allowed: 2"):
        read.step(torch.zeros(3, 4))
    with pytest.raises(UserError, match=r"shape \[5\] given; allowed: \[4\]"):
        read.step(torch.zeros(2, 5))
    with pytest.raises(UserError, match=r"shape \[\] given; allowed: \[4\]"):
        read.step(torch.zeros(4))
    read.reset()
    assert torch.equal(read.step(seen[0].double()), first[None])


def altered(path, change):
    graph = nir.read(path)
    change(graph)
    nir.write(path, graph)
    return path


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda g: g.metadata.update(producer="another"), "not written by spiky export"),
        (lambda g: g.metadata.update(encoder=json.dumps({"name": "own.py:Own"})), "names code"),
        (lambda g: g.metadata.update(encoder=json.dumps("own.py:Own")), "names code"),
        (
            lambda g: g.metadata.update(encoder=json.dumps({"name": "concat", "first": "own.py:Own"})),
            "names code",
        ),
        (lambda g: g.nodes["layer_0.neuron"].tau.__setitem__(0, np.nan), "layer_0.neuron.tau is not finite"),
        (lambda g: g.edges.remove(("readout", "output")), r"readout \(Linear\): edges to none given"),
        (lambda g: g.metadata.pop("decoder_bias"), "decoder_bias"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_a_line(change, said, tmp_path):
    path, _ = reread(trained_on_torch("lif_ppo"), tmp_path)
    with pytest.raises(UserError, match=said) as refusal:
        target.read(altered(path, change))
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_no_nir_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "policy.nir").write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="not a NIR file"):
        target.read(tmp_path / "policy.nir")
    with pytest.raises(UserError, match="no such file"):
        target.read(tmp_path / "none.nir")


def test_the_decoder_is_the_sum_that_the_metadata_say(tmp_path):
    """What stands in docs/deploying.md for whoever runs the graph elsewhere."""
    for decoder in ("membrane", "rate", "linear", "population_vector"):
        policy = trained_on_torch("lif_ppo", f"agent.network.decoder={decoder}")
        path, read = reread(policy, tmp_path)
        graph = nir.read(path)
        said, weight = graph.metadata, graph.nodes["readout"].weight
        action = read.step(walk(policy)[9])
        value = np.zeros(weight.shape[0])
        for spikes in read.spikes[-1][:, 0].numpy():
            value = said["decoder_decay"] * value + said["decoder_gain"] * (weight @ spikes)
        np.testing.assert_allclose(value + said["decoder_bias"], action[0].detach().numpy(), atol=1e-5)


@pytest.fixture(name="seen", scope="module")
def observations_of_a_real_episode(tmp_path_factory):
    """Of Isaac-Cartpole, [T, 1, O]."""
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    path = tmp_path_factory.mktemp("cartpole") / "seen.npy"
    done = processes.run("-m", "tests.deploy.observations_case", str(path))
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(path))


BACK = {
    "current-based": (
        "lif_stateful_ppo",
        "agent.network.neuron={name: cuba_lif, tau_synapse: 3.0, reset: zero}",
    ),
    "plain": ("lif_ppo",),
    **WAYS,
}


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[] if way == "current-based" else pytest.mark.slow) for way in BACK],
)
def test_an_export_is_an_agent_again_that_acts_as_before_and_is_exported_alike(way, tmp_path):
    policy = trained_on_torch(*BACK[way])
    path, _ = reread(policy, tmp_path)
    normalised = [key for key in BACK[way] if "obs_normalization" in key]
    back = agent_runner(
        *(BACK[way][0], f"agent.network={{name: nir, file: {path}}}"),
        *(key.replace("true", "false") for key in normalised),
    )
    again, seen = back.alg.get_policy().eval(), walk(policy)
    assert again.network.stateful == policy.network.stateful and again.network.steps == policy.network.steps
    for backend in ("torch", "cpu"):
        policy.network.set_backend(backend)
        again.network.set_backend(backend)
        expected = live(policy, seen)
        assert np.abs(expected - expected[0]).max() > 0.0
        np.testing.assert_array_equal(live(again, seen), expected)
    (tmp_path / "second").mkdir()
    again.network.set_backend("torch")
    assert_equal(again, tmp_path / "second")
    perturb_learned_values(again)
    (tmp_path / "third").mkdir()
    assert_equal(again, tmp_path / "third")


def test_an_older_version_of_the_format_has_no_reset_and_is_read_alike(tmp_path):
    h5py = pytest.importorskip("h5py")
    policy = trained_on_torch("lif_stateful_ppo", "agent.network.recurrent=recurrent")
    path = target.Nir.from_options(version="1.0.4").write(policy, tmp_path)
    with h5py.File(path) as file:
        nodes = file["node/nodes"]
        assert file["version"][()] == b"1.0.4"
        assert not any("v_reset" in node or node["type"][()] == b"Linear" for node in nodes.values())
    seen, step = walk(policy), target.Nir().open_session(path)
    np.testing.assert_array_equal(np.concatenate([step(x.numpy(), [])[0] for x in seen]), live(policy, seen))


SINABS = os.environ.get("SPIKY_RL_SINABS", "")


@pytest.mark.skipif(
    not SINABS, reason="SPIKY_RL_SINABS names no folder with sinabs, its nir and its nirtorch"
)
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_sinabs_spikes_as_the_policy_does_with_its_own_nir(reset, tmp_path):
    policy = trained_on_torch("lif_ppo", WIDE, f"agent.network.neuron.reset={reset}")
    path, seen = target.Nir.from_options(version="1.0.4").write(policy, tmp_path), walk(policy)
    np.save(tmp_path / "seen.npy", seen[:, 0].numpy())
    out = tmp_path / "spikes.npz"
    command = [sys.executable, Path(__file__).with_name("sinabs_case.py"), path, tmp_path / "seen.npy", out]
    environment = {**os.environ, "PYTHONPATH": SINABS}
    done = subprocess.run(
        [*command, str(policy.network.steps)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    assert str(found["version"]) == "1.0.4"
    different = [
        (np.stack([spikes[i].numpy() for spikes in live_spikes(policy, seen)]) != found[f"layer_{i}"]).mean()
        for i in range(2)
    ]
    assert 0.02 < found["layer_1"].mean() < 0.9
    assert max(different) == 0.0


class InSnnTorch:
    """A file as snnTorch's own import makes a network of it."""

    def __init__(self, path):
        self.snntorch = pytest.importorskip("snntorch", reason="snntorch is not installed")
        from snntorch.import_nir import import_from_nir

        graph = nir.read(path)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints of what it scales
            self.net = import_from_nir(graph)
        self.layers = [m for m in self.net.modules() if isinstance(m, self.snntorch.Leaky)]
        for layer, node in zip(self.layers, neurons(graph), strict=True):
            if node.metadata["reset"] == "subtract":
                self.subtract(layer)

    @staticmethod
    def subtract(layer):
        """The potential keeps what it has before its reset, which then takes a threshold off it before it leaks."""
        layer.reset_delay = True
        layer.state_function = lambda x: layer.beta * (layer.mem - layer.reset * layer.threshold) + x

    def rest(self):
        for layer in self.layers:
            layer.reset_mem()

    def __call__(self, x):
        return self.net(x)[0]


class InNorse:
    """A file as Norse's own import makes a network of it."""

    def __init__(self, path):
        norse = pytest.importorskip("norse", reason="norse is not installed")
        from norse.torch.functional.reset import reset_subtract
        from norse.torch.utils.import_nir import from_nir

        graph = nir.read(path)
        self.net, self.state = from_nir(graph, dt=float(graph.metadata["dt"])), None
        self.layers = [m for m in self.net.modules() if isinstance(m, norse.torch.LIFBoxCell)]
        for layer, node in zip(self.layers, neurons(graph), strict=True):
            if node.metadata["reset"] == "subtract":
                layer.p = layer.p._replace(reset_method=reset_subtract)

    def rest(self):
        self.state = None

    def __call__(self, x):
        out, self.state = self.net(x, self.state)
        return out


class InSpikingJelly:
    """A file as SpikingJelly's own import makes a network of it."""

    def __init__(self, path):
        pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
        from spikingjelly.activation_based import neuron
        from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

        graph = nir.read(path)
        self.net, self.state = import_from_nir(graph, dt=float(graph.metadata["dt"])), None
        modules = list(self.net.modules())
        self.layers = [m for m in modules if any(isinstance(c, neuron.LIFNode) for c in m.children())]
        self.layers = [m for m in self.layers if m is not self.net]
        for layer, node in zip(self.layers, neurons(graph), strict=True):
            if node.metadata["reset"] == "subtract":
                layer.module.v_reset = None

    def rest(self):
        self.state = None

    def __call__(self, x):
        out, self.state = self.net(x, self.state)
        return out


def neurons(graph):
    return [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]


def spikes_of(net, x, steps):
    """Of every layer in a control step, [K, N] each, by what its modules put out, and the outputs of the graph, [K, F]."""
    heard = [[] for _ in net.layers]
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out, kept=kept: kept.append((out[0] if isinstance(out, tuple) else out)[0])
        )
        for layer, kept in zip(net.layers, heard, strict=True)
    ]
    with torch.inference_mode():
        outputs = [net(x)[0] for _ in range(steps)]
    for hook in hooks:
        hook.remove()
    return [torch.stack(kept) for kept in heard], torch.stack(outputs)


def live_spikes(policy, seen):
    """Of every layer in each control step, [K, N] each."""
    network, state = policy.network, None
    if network.stateful:
        state = network.zero_state(1, seen[0])
    for x in seen:
        record = ForwardRecord(only_signals=True)
        with torch.inference_mode():
            after = network(policy.obs_normalizer(x)[None], state, record=record)[1]
        state = after if network.stateful else None
        yield [signal[0, :, 0] for signal in record.layer_spikes]


def compared(net, policy, seen):
    """Share of spikes that differ, and of steps in which a neuron spikes."""
    different, total, fired = 0.0, 0, 0.0
    for x, ours in zip(seen, live_spikes(policy, seen), strict=True):
        if not policy.network.stateful:
            net.rest()
        found, outputs = spikes_of(net, x, policy.network.steps)
        assert outputs.shape == (policy.network.steps, policy.output_shape[0])
        for a, b in zip(ours, found, strict=True):
            different, total, fired = (
                different + float((a != b).sum()),
                total + b.numel(),
                fired + float(b.sum()),
            )
    return different / total, fired / total


def is_fast(case, library):
    """Whether a library runs a network in the fast tests: each the plain one, and what may differ in it in one of them."""
    return case == "subtract" or (case, library) in {
        ("stateful, normalised", InSpikingJelly),
        ("ODE", InSnnTorch),
    }


@pytest.mark.parametrize(
    "case, library",
    [
        pytest.param(*each, marks=[] if is_fast(*each) else pytest.mark.slow)
        for each in itertools.product(FOREIGN, [InSnnTorch, InNorse, InSpikingJelly])
    ],
)
def test_foreign_libraries_spike_as_the_policy_does(case, library, seen, tmp_path):
    policy = trained_on_torch(*FOREIGN[case], WIDE)
    different, rate = compared(library(reread(policy, tmp_path)[0]), policy, seen)
    assert 0.02 < rate < 0.9
    assert different == 0.0


def test_spikingjelly_runs_a_recurrent_layer_as_the_policy_does(seen, tmp_path):
    policy = trained_on_torch(
        "lif_stateful_ppo", WIDE, "agent.network.recurrent={name: recurrent, gain: 1.0}"
    )
    different, rate = compared(InSpikingJelly(reread(policy, tmp_path)[0]), policy, seen)
    assert 0.02 < rate < 0.9
    assert different == 0.0


@pytest.mark.slow
def test_a_feedback_edge_is_the_recurrent_connection_to_nirtorchs_interpreter(seen, tmp_path):
    """With snnTorch's neurons; its own import of a cycle leads a layer's input into the weights of its feedback."""
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    import nirtorch
    from snntorch.import_nir import _nir_to_snntorch_module

    policy = trained_on_torch(
        "lif_stateful_ppo", WIDE, "agent.network.recurrent={name: recurrent, gain: 1.0}"
    )
    path, _ = reread(policy, tmp_path)

    class Interpreted(InSnnTorch):
        def __init__(self, path):  # pylint: disable=super-init-not-called
            import snntorch

            kinds = (nir.Affine, nir.Linear, nir.LIF)
            with contextlib.redirect_stdout(io.StringIO()):
                self.net = nirtorch.nir_to_torch(
                    nir.read(path),
                    {kind: lambda n: _nir_to_snntorch_module(n, init_hidden=True) for kind in kinds},
                )
            self.layers = [m for m in self.net.modules() if isinstance(m, snntorch.Leaky)]
            for layer in self.layers:
                self.subtract(layer)
            self.state = None

        def __call__(self, x):
            out, self.state = self.net(x) if self.state is None else self.net(x, self.state)
            return out

    different, rate = compared(Interpreted(path), policy, seen)
    assert 0.02 < rate < 0.9
    assert different == 0.0


def test_a_target_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(UserError, match="pip install nir"):
        registry.configure("targets", "nir", "--to").build().check_requirements()
