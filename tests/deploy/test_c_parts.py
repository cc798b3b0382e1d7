"""policy.c over the registry: every part of a network and every activation of an ANN, with values as training leaves them.

Several parts share a network, for what takes time is torch's tracing; a slow test takes one after the other.
"""

import copy
import ctypes
import itertools
import re
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from rsl_rl.utils import resolve_nn_activation
from tensordict import TensorDict
from torch import nn
from torch.nn import functional

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.deploy import _c_text, c
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy._reader import read_program
from spiky_rl.deploy._verification import verify_targets
from spiky_rl.kernels import convolution
from tests.deploy.test_c import live, walk
from tests.deploy.trained import trained
from tests.kernels.test_convolution import GEOMETRIES, operands

QUICK = ("-O1", "-march=native")
NET = "agent.network."
ONE_AFTER_THE_OTHER = "{name: concat, first: rate, second: delta}"
SETTINGS = {
    "hodgkin_huxley": "{name: hodgkin_huxley, substeps: 2, dt: 0.2, learn: [leak, gain]}",
    "izhikevich": "{name: izhikevich, learn: [a]}",
    "lif": "{name: lif, learn: [tau, threshold], spread: 2.0}",
    "alif": "{name: alif, learn: [tau, tau_adaptation], reset: zero}",
    "concat": ONE_AFTER_THE_OTHER,
    "delta": "{name: delta, start: first}",
    "population": "{name: population, mode: deterministic}",
}
"""Entries that are more than their name: learned values, and the ways that a default does not take."""
CONNECTIONS = [
    "linear",
    "{name: linear, density: 0.4, dale: true}",
    "{name: convolutional, map: [2, 3, 3], kernel: 2, pool: 2, padding: 1}",
    "{name: convolutional, map: [2, 3, 3], kernel: 2, pool: 2, pooling: average}",
    "{name: convolutional, map: [2, 3, 3], kernel: 3, padding: 1, stride: 2}",
]
"""Of the second of three layers, from the 18 neurons of the first."""
WITHIN = ["null", "{name: recurrent, delays: 2, density: 0.5}", "lateral"]


def entry(name):
    return SETTINGS.get(name, name)


def networks():
    """Every entry of each room once at least: encoder, first layer's neuron, second layer's connection, and so on, row by row."""
    rooms = [
        registry.list_names("encoders"),
        registry.list_names("neurons"),
        registry.list_names("decoders"),
        CONNECTIONS,
        WITHIN,
    ]
    rows = max(len(room) for room in rooms)
    return list(zip(*(itertools.islice(itertools.cycle(room), rows) for room in rooms), strict=True))


def built(row, stateful):
    encoder, neuron, decoder, connection, within = row
    return trained(
        "lif_stateful_ppo" if stateful else "lif_ppo",
        f"{NET}layers=[18,3,5]",
        f"{NET}steps=3",
        f"{NET}encoder={entry(encoder)}",
        f"{NET}neuron=[{entry(neuron)},lif,lif]",
        f"{NET}connection=[linear,{connection},linear]",
        f"{NET}recurrent=[null,null,{within}]",
        f"{NET}decoder={decoder}",
        f"agent.actor.obs_normalization={'true' if encoder in ('population', 'rate', 'latency') else 'false'}",
    )


def assert_equal(policy, folder):
    path, seen = c.C().write(policy, folder), walk(policy)
    step = c.open_c_session(path, c.read_sizes(path)["FLOATS"], QUICK)
    found = np.concatenate([step(x.numpy(), [])[0] for x in seen])
    assert found.std() > 0.0, "it acts"
    np.testing.assert_array_equal(found, live(c.C().get_reference_model(policy), seen))
    return path


EACH = [
    pytest.param(row, id=" ".join(row[:3]), marks=[pytest.mark.slow] * ("hodgkin_huxley" in row))
    for row in networks()
]
"""A neuron of many sub-steps takes torch four times as long to trace as any other."""


@pytest.mark.parametrize("row", EACH)
def test_every_part_of_a_network_acts_as_before(row, tmp_path):
    assert_equal(built(row, networks().index(row) % 2 == 0), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", EACH)
def test_every_part_of_a_network_acts_as_before_with_and_without_a_state(row, tmp_path):
    assert_equal(built(row, networks().index(row) % 2 == 1), tmp_path)


def test_no_part_is_left_out():
    encoders, neurons, decoders, *_ = (set(column) for column in zip(*networks(), strict=True))
    assert (encoders, neurons, decoders) == tuple(
        set(registry.list_names(room)) for room in ("encoders", "neurons", "decoders")
    )
    named = set(re.findall(r"\w+", " ".join([*CONNECTIONS, *WITHIN])))
    assert set(registry.list_names("connections")) <= named


class Beside(nn.Module):
    """Functions of one array [1, N], their results one after the other."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        return torch.cat([function(x) for function in self.functions], -1)


def results(functions, x, folder):
    """What the functions of x [1, N] are in C, [functions, N]."""
    step = read_program(Beside(functions), ["observation"], ["action"], (x,))
    library = c.load_policy_library(_c_text.write_policy(step, folder, "", 1), QUICK)
    found = np.zeros(len(functions) * x.numel(), np.float32)
    state = np.zeros(c.read_sizes(folder / "policy.c")["FLOATS"], np.float32)
    arrays = (state, x.numpy(), found)
    library.policy_step(*(each.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for each in arrays))
    return found.reshape(len(functions), -1)


def activations():
    """Every name that rsl_rl's ANNs know, and what torch has of the same kinds with other numbers."""
    with pytest.raises(ValueError) as refused:
        resolve_nn_activation("none of them")
    names = re.findall(r"'(\w+)'", str(refused.value).partition("Valid")[2])
    assert {"elu", "selu", "lrelu", "gelu", "mish", "softplus"} <= set(names)
    others = {
        "ELU(0.7)": nn.ELU(0.7), "CELU(0.5)": nn.CELU(0.5), "LeakyReLU(0.3)": nn.LeakyReLU(0.3),
        "GELU(tanh)": nn.GELU("tanh"), "Softplus(2, 1)": nn.Softplus(2.0, 1.0), "Hardtanh": nn.Hardtanh(-0.5, 2.0),
        "ReLU6": nn.ReLU6(), "Hardswish": nn.Hardswish(), "LogSigmoid": nn.LogSigmoid(), "Softsign": nn.Softsign(),
        "trunc": torch.trunc, "floor": torch.floor, "ceil": torch.ceil, "round": torch.round,
    }  # fmt: skip
    return {name: resolve_nn_activation(name) for name in names} | others


def test_every_activation_is_torchs(tmp_path):
    x = torch.cat(
        [torch.linspace(-12.0, 12.0, 241), torch.tensor([-40.0, 25.0, 60.0, 1e-6, -1e-6, 0.5, -2.5])]
    )[None]
    found = results(list(activations().values()), x, tmp_path)
    for (name, function), values in zip(activations().items(), found, strict=True):
        expected = function(x.double())[0].float()
        np.testing.assert_allclose(values, expected, rtol=3e-6, atol=3e-7, err_msg=name)


@pytest.mark.parametrize("activation", ["selu", "gelu"])
def test_an_ann_with_an_activation_acts_as_before(activation, tmp_path):
    policy = trained("mlp_ppo", f"agent.actor.activation={activation}")
    step, seen = c.C().open_session(c.C().write(policy, tmp_path)), walk(policy)
    found = np.concatenate([step(x.numpy(), [])[0] for x in seen])
    np.testing.assert_allclose(found, live(policy, seen), rtol=0.0, atol=c.OTHER_ORDER)


def test_an_ann_that_observes_large_numbers_is_off_by_rounding_alone(tmp_path):
    policy = trained("mlp_ppo", "agent.actor.hidden_dims=[400,200,100]")
    step, seen = c.C().open_session(c.C().write(policy, tmp_path)), walk(policy) * 10.0
    found, expected = np.concatenate([step(x.numpy(), [])[0] for x in seen]), live(policy, seen)
    exact = live(copy.deepcopy(policy).double(), seen.double())
    assert np.abs(found - expected).max() < c.OTHER_ORDER * np.abs(expected).max()
    assert np.abs(found - exact).max() < 8.0 * np.abs(expected - exact).max()


POOLINGS = {
    "maxima": (lambda x: functional.max_pool2d(x.view(1, 2, 5, 4), 2)),
    "maxima with an edge": (lambda x: functional.max_pool2d(x.view(1, 2, 5, 4), 3, 2, 1)),
    "means": (lambda x: functional.avg_pool2d(x.view(1, 2, 5, 4), (3, 2), (1, 2))),
}


def test_pooling_is_torchs(tmp_path):
    x = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    for name, function in POOLINGS.items():
        step = read_program(
            Beside([lambda x, f=function: f(x).flatten(1)]), ["observation"], ["action"], (x,)
        )
        path = _c_text.write_policy(step, tmp_path / name.replace(" ", "_"), "", 1)
        found = c.open_c_session(path, max(1, c.read_sizes(path)["FLOATS"]), QUICK)(x.numpy(), [])[0]
        np.testing.assert_array_equal(found, function(x).flatten(1).numpy(), err_msg=name)


ORDERS = [
    GEOMETRIES[0],
    GEOMETRIES[3],
    *GEOMETRIES[8:],
    ((8, 7, 7), 17, 3, 1, 0, 2),  # pooling leaves a column out, and four are too few to be added by columns
]


@pytest.mark.parametrize("geometry", ORDERS, ids=str)
def test_currents_of_a_convolution_are_those_of_the_cpus_kernels(geometry, tmp_path):
    maps, *_, stride, padding, pool = geometry
    x, weight, bias, shape, *_ = operands(geometry, False)
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * (x != 0)
    link = nn.Conv2d(maps[0], weight.shape[0], weight.shape[-1], stride, padding)
    link.weight, link.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    step = nn.Sequential(nn.Unflatten(1, maps), link, nn.MaxPool2d(pool), nn.Flatten())
    written = read_program(step, ["observation"], ["action"], (x[:1],))
    path = _c_text.write_policy(written, tmp_path, "", 1)
    run = c.open_c_session(path, c.read_sizes(path)["FLOATS"], QUICK)
    found = np.concatenate([run(row.numpy(), [])[0] for row in x])
    with torch.no_grad():
        expected = convolution.convolution(x, weight, bias, shape, False, False)
    np.testing.assert_array_equal(found, expected.numpy())


def at_a_threshold(policy):
    """Smooth images [STEPS, 1, ...], one a rounding brighter than the other; amid them a current crosses a neuron's threshold."""
    image = functional.avg_pool2d(walk(policy)[-1], 3, 1, 1)

    def act(brightness):
        return live(policy, image[None] * brightness)

    low, high = np.float32(0.5), np.float32(1.0)
    start = act(low)
    assert not np.array_equal(start, act(high))
    while (middle := (low + high) / np.float32(2.0)) not in (low, high):
        low, high = (middle, high) if np.array_equal(act(middle), start) else (low, middle)
    return torch.stack([image * (low + k * np.spacing(low)) for k in range(-60, 60)])


class Shown:
    """An episode of one robot whatever it does: it is shown images one after the other."""

    num_envs, num_actions, device = 1, 2, "cpu"

    def __init__(self, policy, images):
        self.groups, self.images, self.at = policy.obs_groups, images, 0
        self.max_episode_length = len(images)

    def reset(self):
        self.at = 0

    def get_observations(self):
        return TensorDict(dict.fromkeys(self.groups, self.images[self.at]), batch_size=[1])

    def step(self, _actions):
        self.at += 1
        return None, None, [self.at == len(self.images)]


def test_a_convolution_at_a_threshold_acts_as_in_its_own_order(tmp_path):
    policy, target = trained("lif_conv_ppo"), c.C()
    path, seen = target.write(policy, tmp_path), at_a_threshold(policy)
    step = target.open_session(path)
    found = np.concatenate([step(x.numpy(), [])[0] for x in seen])
    assert len(np.unique(found, axis=0)) > 1, "a spike comes or goes"
    reference: Any = target.get_reference_model(policy)
    env: Any = Shown(policy, seen)
    np.testing.assert_array_equal(found, live(reference, seen))
    # torch's sums, of another order, are as near as rounding
    x, links = seen[:, 0].flatten(1), [each.network.layers[0].connection for each in (policy, reference)]
    with torch.no_grad():
        torch.testing.assert_close(*(link(x) for link in links), rtol=1e-5, atol=1e-5)
    agreement = verify_targets(policy, env, {path: target}, lambda share: None)[path]
    assert (agreement.mismatches, agreement.difference) == (0, 0.0)
    assert "order in 120 of 120" in agreement.format(target, policy)
    path.write_text(path.read_text().replace("r * 4 + i - 2", "r * 4 + i - 1"))
    with pytest.raises(UserError, match="actions differ"):
        verify_targets(policy, env, {path: target}, lambda share: None)


UNREAD = {
    "'sub' with alpha 2": lambda x: torch.sub(x, x * 2, alpha=2),
    "'addmm' with beta 0.5": lambda x: torch.addmm(x, x, torch.ones(4, 4), beta=0.5),
    "'round' with decimals 2": lambda x: torch.round(x, decimals=2),
    "'div' with rounding_mode floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "'avg_pool2d' with ceil_mode True": lambda x: functional.avg_pool2d(
        x.view(1, 1, 2, 2), 2, ceil_mode=True
    ),
    "'max_pool2d_with_indices' with dilation": lambda x: functional.max_pool2d(
        x.view(1, 1, 2, 2), 1, dilation=2
    ),
    "'_to_copy' with dtype torch.int64": lambda x: x.long() + x,
    "'sum' with dtype torch.float64": lambda x: x.sum(-1, dtype=torch.float64),
}


@pytest.mark.parametrize("named", UNREAD)
def test_an_argument_that_nobody_reads_is_an_error(named):
    with pytest.raises(ExportError, match=re.escape(named)):
        read_program(Beside([UNREAD[named]]), ["observation"], ["action"], (torch.ones(1, 4),))


OWN = '''
"""A leaky neuron whose parameters are called as C's keywords and functions are.

    V <- memset (exp V + y1 I);   V >= volatile:  spike, V <- V - volatile

V is in units of the default threshold. Source: none.
"""

from spiky_rl.config.options import option
from spiky_rl.neurons.base import Neuron, param


class Own(Neuron):
    """It leaks."""

    states = ("v",)

    class Options(Neuron.Options):
        exp: float = param(0.8, "what stays", unit="1", low=0.0, high=1.0)
        volatile: float = param(1.0, "threshold", unit="1", low=1e-3)
        y1: float = param(2.0, "gain", unit="1")
        memset: float = param(1.0, "another gain", unit="1")

    def step(self, ops, current, s, p):
        v = (p.exp * s.v + p.y1 * current) * p.memset
        spike = ops.spike(v - p.volatile)
        return spike, s.replace(v=v - spike * p.volatile)
'''


def test_learned_parameters_of_an_own_neuron_may_be_called_what_they_like(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    neuron = f"{{name: '{tmp_path / 'own.py'}:Own', learn: [exp, volatile, y1, memset]}}"
    path = assert_equal(trained("lif_ppo", f"{NET}neuron={neuron}", f"{NET}layers=[6,5]"), tmp_path)
    source = path.read_text()
    for parameter in ("exp", "volatile", "y1", "memset"):
        assert f"c_network_layers_0_parameters_of_neuron_{parameter}" in source
    line = [
        *c.find_compiler(),
        *c.STANDARD,
        "-Wshadow",
        "-Werror",
        "-O2",
        "-c",
        path,
        "-o",
        tmp_path / "policy.o",
    ]
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0


def test_arrays_have_the_names_of_what_they_hold(tmp_path):
    source = c.C().write(trained("lif_population_ppo"), tmp_path).read_text()
    names = re.findall(r"^static const float (\w+)\[", source, re.MULTILINE)
    assert {
        "c_network_encoder_centre",
        "c_network_encoder_log_deviation_exp",
        "c_network_layers_0_connection_weight",
        "c_obs_normalizer_mean",
    } <= set(names)
    assert len(set(names)) == len(names) and all(re.fullmatch(r"c_\w{1,61}", name) for name in names)
