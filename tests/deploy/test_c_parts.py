"""policy.c over the registry: every part of a network and every activation of an ANN, with values as training leaves them.

Several parts share a network, for what takes time is torch's tracing; a slow test takes one after the other.
"""

import copy
import ctypes
import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from rsl_rl.utils import resolve_nn_activation
from tensordict import TensorDict
from torch import nn
from torch.nn import functional

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, option
from spiky_rl.deploy import c
from spiky_rl.deploy._c_ann import format_activation
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._c_writer import CWriter
from spiky_rl.deploy.base import ExportError
from spiky_rl.deploy._verification import verify_targets
from spiky_rl.neurons.base import Neuron, Ode, param
from tests.deploy.test_c import act, assert_compiles, live, walk
from tests.deploy.trained import trained

QUICK = ("-O1", "-march=native")
NET = "agent.network."
ONE_AFTER_THE_OTHER = "{name: concat, first: rate, second: delta}"
SETTINGS = {
    "hodgkin_huxley": "{name: hodgkin_huxley, substeps: 2, dt: 0.2, learn: [leak, gain]}",
    "izhikevich": "{name: izhikevich, learn: [a, b, c, d, gain]}",
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
    step = c.open_c_session(path, QUICK)
    found = act(step, seen)
    assert found.std() > 0.0, "it acts"
    np.testing.assert_array_equal(found, live(c.C().get_reference_model(policy), seen))
    return path


EACH = [
    pytest.param(
        row,
        id=" ".join(row[:3]),
        marks=[pytest.mark.slow] * ("hodgkin_huxley" in row or row[:2] == ("concat", "alif")),
    )
    for row in networks()
]
"""A neuron of many sub-steps takes torch four times as long to trace as any other; test_c.py has an agent of adaptive ones."""


@pytest.mark.parametrize("row", EACH)
def test_every_part_of_a_network_acts_as_before(row, tmp_path):
    assert_equal(built(row, networks().index(row) % 2 == 0), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", EACH)
def test_every_part_of_a_network_acts_as_before_with_and_without_a_state(row, tmp_path):
    assert_equal(built(row, networks().index(row) % 2 == 1), tmp_path)


SUMS = {
    "mean of a potential": ("{name: membrane, read: mean}", "lif", True),
    "last potential": ("membrane", "sigma_delta", False),
    "rates of spikes": ("rate", "lif", False),
    "rates of graded values": ("rate", "sigma_delta", True),
    "votes of graded values": ("population_vector", "sigma_delta", True),
    "sum of changes": ("sigma_delta", "sigma_delta", True),
    "last graded values": ("linear", "sigma_delta", False),
}
"""By case decoder, neuron, and whether torch sums floats over the inner steps, in an order of its own if they are more than four."""


@pytest.mark.parametrize(
    "case, steps",
    [
        pytest.param(case, steps, marks=[pytest.mark.slow] * (steps == 4 and case != "mean of a potential"))
        for case, steps in itertools.product(SUMS, [4, 8])
    ],
)
def test_sums_over_inner_steps_are_torchs_to_the_last_bit_or_within_the_tolerance_that_is_named(
    case, steps, tmp_path
):
    decoder, neuron, is_summed = SUMS[case]
    parts = (f"{NET}layers=[9,7]", f"{NET}steps={steps}", f"{NET}decoder={decoder}", f"{NET}neuron={neuron}")
    policy = trained("lif_stateful_ppo", *parts)
    seen = walk(policy)
    found = act(c.open_c_session(c.C().write(policy, tmp_path), QUICK), seen)
    assert c.C().get_tolerance(policy) == (
        c.SUM_ORDER_TOLERANCE if is_summed and steps > c.MAX_SEQUENTIAL_SUMMANDS else 0.0
    )
    expected = live(policy, seen)
    size = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=c.C().get_tolerance(policy) * size)


def test_no_part_is_left_out():
    encoders, neurons, decoders, *_ = (set(column) for column in zip(*networks(), strict=True))
    assert (encoders, neurons, decoders) == tuple(
        set(registry.list_names(room)) for room in ("encoders", "neurons", "decoders")
    )
    named = set(re.findall(r"\w+", " ".join([*CONNECTIONS, *WITHIN])))
    assert set(registry.list_names("connections")) <= named


def activations():
    """Every name that rsl_rl's ANNs know, and what torch has of the same kinds with other numbers."""
    with pytest.raises(ValueError) as refused:
        resolve_nn_activation("none of them")
    names = re.findall(r"'(\w+)'", str(refused.value).partition("Valid")[2])
    assert {"elu", "selu", "lrelu", "gelu", "mish", "softplus"} <= set(names)
    others = {"ELU(0.7)": nn.ELU(0.7), "CELU(0.5)": nn.CELU(0.5), "LeakyReLU(0.3)": nn.LeakyReLU(0.3)}
    return {name: resolve_nn_activation(name) for name in names} | others


ALONE = """
#include <math.h>
#include <stdint.h>
{helpers}
void function(const float *x, float *y, int count) {{
  for (int n = 0; n < count; n++) y[n] = {text};
}}
"""


@pytest.mark.parametrize("name", activations())
def test_every_activation_is_torchs(name, tmp_path):
    x = torch.cat(
        [torch.linspace(-12.0, 12.0, 241), torch.tensor([-40.0, 25.0, 60.0, 1e-6, -1e-6, 0.5, -2.5])]
    )
    function, w = activations()[name], CWriter()
    text = "x[n]" if name == "identity" else format_activation(function, "x[n]", w.use_function)
    (tmp_path / "policy.c").write_text(ALONE.format(helpers=w.helpers, text=text))
    found = np.zeros(len(x), np.float32)
    pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (x.numpy(), found)]
    c.load_policy_library(
        tmp_path / "policy.c", ("-O1", "-march=native", "-Wno-missing-prototypes")
    ).function(*pointers, len(x))
    np.testing.assert_allclose(found, function(x.double()).float(), rtol=3e-6, atol=3e-7)


def test_an_activation_without_a_form_in_c_is_refused():
    with pytest.raises(ExportError, match="agent.actor.activation: GELU given"):
        format_activation(nn.GELU("tanh"), "x", str)


@pytest.mark.parametrize("activation", ["selu", "gelu"])
def test_an_ann_with_an_activation_acts_as_before(activation, tmp_path):
    policy = trained("mlp_ppo", f"agent.actor.activation={activation}")
    step, seen = c.C().open_session(c.C().write(policy, tmp_path)), walk(policy)
    found = act(step, seen)
    np.testing.assert_allclose(found, live(policy, seen), rtol=0.0, atol=c.SUM_ORDER_TOLERANCE)


@pytest.mark.slow
def test_an_ann_that_observes_large_numbers_is_off_by_rounding_alone(tmp_path):
    policy = trained("mlp_ppo", "agent.actor.hidden_dims=[400,200,100]")
    step, seen = c.C().open_session(c.C().write(policy, tmp_path)), walk(policy) * 10.0
    found, expected = act(step, seen), live(policy, seen)
    exact = live(copy.deepcopy(policy).double(), seen.double())
    assert np.abs(found - expected).max() < c.SUM_ORDER_TOLERANCE * np.abs(expected).max()
    assert np.abs(found - exact).max() < 8.0 * np.abs(expected - exact).max()


IMAGES = {
    "pooled by its maximum": "{name: convolutional, kernel: 5, pool: 2, padding: 2}",
    "by columns": "{name: convolutional, kernel: 3, pool: 2}",
    "pooled with an edge": "{name: convolutional, kernel: 3, pool: 3, stride: 2, padding: 1}",
    "pooled by its mean": "{name: convolutional, kernel: 3, pool: 2, pooling: average}",
    "strided": "{name: convolutional, kernel: 4, stride: 2, padding: 3}",
}
"""Geometries of a second convolution, of 9 maps: each order of summation of the backend's kernel."""


@pytest.mark.parametrize("geometry", IMAGES)
def test_currents_of_a_convolution_are_those_of_the_cpus_kernels(geometry, tmp_path):
    first = "{name: convolutional, kernel: 5, stride: 2, padding: 2}"
    links = f"{NET}connection=[{first},{IMAGES[geometry]},linear]"
    assert_equal(trained("lif_conv_ppo", links, f"{NET}layers=[9,17,16]"), tmp_path)


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
        return None, None, [self.at == len(self.images)], {}


@pytest.mark.slow
def test_a_convolution_at_a_threshold_acts_as_in_its_own_order(tmp_path):
    policy, target = trained("lif_conv_ppo"), c.C()
    path, seen = target.write(policy, tmp_path), at_a_threshold(policy)
    step = target.open_session(path)
    found = act(step, seen)
    assert len(np.unique(found, axis=0)) > 1, "a spike comes or goes"
    reference: Any = target.get_reference_model(policy)
    env: Any = Shown(policy, seen)
    np.testing.assert_array_equal(found, live(reference, seen))
    # torch's sums, of another order, are as near as rounding
    x, links = seen[:, 0].flatten(1), [each.network.layers[0].connection for each in (policy, reference)]
    with torch.no_grad():
        torch.testing.assert_close(*(link(x) for link in links), rtol=1e-5, atol=1e-5)
    agreement = verify_targets(policy, env, {path: target}, lambda share: None)[path]
    assert (agreement.mismatches, agreement.max_accepted_error) == (0, 0.0)
    assert "order in 120 of 120" in agreement.format(target, policy)
    wrong = path.read_text().replace("r * 4 + i - 2", "r * 4 + i - 1")
    assert wrong != path.read_text()
    path.write_text(wrong)
    with pytest.raises(UserError, match="actions differ"):
        verify_targets(policy, env, {path: target}, lambda share: None)


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


@pytest.mark.slow
def test_learned_parameters_of_an_own_neuron_may_be_called_what_they_like(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    neuron = f"{{name: '{tmp_path / 'own.py'}:Own', learn: [exp, volatile, y1, memset]}}"
    path = assert_equal(trained("lif_ppo", f"{NET}neuron={neuron}", f"{NET}layers=[6,5]"), tmp_path)
    source = path.read_text()
    for parameter in ("exp", "volatile", "y1", "memset"):
        assert f"layers_0_neuron_{parameter}" in source
    assert_compiles(path, tmp_path)


class Peaky(Ode):
    """A leaky neuron with sub-steps, whose last peak fades."""

    states = ("v", "peak")

    class Options(Ode.Options):
        tau: float = param(2.0, "time constant", unit="ms", low=1e-3)
        substeps: int = option(3, "number of sub-steps", low=1)

    def flow(self, ops, current, s, p):
        return s.rates(v=(3.0 * current - s.v) / p.tau, peak=-s.peak / p.tau)

    def integrate(self, ops, current, s, p):
        h = self.dt / self.options.substeps
        return s.replace(v=s.v + h * (3.0 * current - s.v) / p.tau, peak=s.peak - h * s.peak / p.tau)

    def threshold(self, ops, s, p):
        return s.v - 1.0 - s.peak

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike), peak=s.peak + 0.1 * spike)


def test_a_state_may_be_called_as_the_largest_distance_of_the_substeps_is():
    neuron = Peaky(Peaky.Options())
    lines, _ = format_step(
        CWriter(), "neuron", neuron, [2.0] * len(neuron.params), ["v[n]", "peak[n]"], "i[n]"
    )
    declared = [line.split(" =")[0].strip() for line in lines if "float " in line]
    assert len(set(declared)) == len(declared), lines


class Scaled(Neuron):
    """v <- v + i x, with a gain i."""

    states = ("v",)

    class Options(Neuron.Options):
        i: float = param(1.5, "gain", unit="1")

    def step(self, ops, current, s, p):
        v = s.v + p.i * current
        return ops.spike(v - 1.0), s.replace(v=v)


def test_a_parameter_may_be_called_as_the_current_of_the_traced_step_is():
    lines, _ = format_step(CWriter(), "layer", Scaled.from_options(), (1.5,), ("v[n]",), "input[n]")
    assert "1.5f * current" in "".join(lines)


def test_arrays_have_the_names_of_what_they_hold(tmp_path):
    source = c.C().write(trained("lif_population_ppo"), tmp_path).read_text()
    names = re.findall(r"^static const float (\w+)\[", source, re.MULTILINE)
    assert {
        "encoder_centre",
        "encoder_deviation",
        "layers_0_connection_weight",
        "obs_normalizer_mean",
    } <= set(names)
    assert len(set(names)) == len(names) and all(re.fullmatch(r"\w{1,63}", name) for name in names)
