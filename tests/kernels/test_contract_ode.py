"""An ODE of one's own: functions that take what is declared as it is declared, an integration that follows its flow."""

import re

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import contract, cpu_backend, dispatch
from spiky_rl.neurons.base import Ode
from tests.kernels.cases import NEURONS, vocabulary
from tests.neurons.drive import build, numbers

GOOD = '''
"""A leaky membrane, tau dv/dt = -v - a + gain I, and what a spike leaves: tau_a da/dt = -a, a <- a + 1."""

from spiky_rl.neurons.base import DT, LEARN, Ode, Param


class Mine(Ode):
    states = ("v", "a")
    params = {
        "tau": Param(5.0, "time constant", low=1e-3, unit="ms", transform="decay"),
        "tau_a": Param(50.0, "time constant of what a spike leaves", low=1e-3, unit="ms", transform="decay"),
        "threshold": Param(2.0, "potential at which a spike is emitted", low=1e-3, unit="1"),
    }
    options = {**params, "dt": DT, "learn": LEARN}

    def flow(self, ops, current, v, a, tau, tau_a, threshold):
        return (current - a - v) / tau, -a / tau_a

    def integrate(self, ops, current, v, a, decay, decay_a, threshold):
        return decay * v + (1.0 - decay) * (current - a), decay_a * a

    def threshold(self, ops, v, a, decay, decay_a, threshold):
        return v - threshold

    def reset(self, ops, spike, v, a, decay, decay_a, threshold):
        return v * (1.0 - spike), a + spike
'''


def check(path, text, **options):
    """The contract of a neuron from a file of this text, asked through the agent that names it."""
    path.write_text(text, encoding="utf-8")
    settings = {"name": "feedforward", "layers": [2], "neuron": {"name": f"{path}:Mine", **options}}
    return registry.configure("networks", settings, "agent.network")


def test_what_the_broken_ones_are_made_from_keeps_the_contract(tmp_path):
    check(tmp_path / "mine.py", GOOD)


DECLARED = {
    "flow": "ops, current, v, a, tau, tau_a, threshold",
    "integrate": "ops, current, v, a, decay, decay_a, threshold",
    "threshold": "ops, v, a, decay, decay_a, threshold",
    "reset": "ops, spike, v, a, decay, decay_a, threshold",
}
WRONG = [
    ("flow", "ops, current, v, a, tau_a, tau, threshold"),
    ("flow", "ops, current, v, a, decay, decay_a, threshold"),
    ("integrate", "ops, current, a, v, decay, decay_a, threshold"),
    ("integrate", "ops, current, v, a, decay_a, decay, threshold"),
    ("integrate", "ops, current, v, a, decay, threshold, decay_a"),
    ("integrate", "ops, current, v, a, tau, tau_a, threshold"),
    ("integrate", "ops, v, a, decay, decay_a, threshold"),
    ("threshold", "ops, v, a, threshold, decay_a, decay"),
    ("threshold", "ops, v, a, decay, decay_a"),
    ("threshold", "ops, v, threshold, *rest"),
    ("reset", "ops, spike, v, a, decay, threshold, decay_a"),
    ("reset", "ops, v, a, decay, decay_a, threshold"),
    ("reset", "ops, spike, v, a, decay, decay_a, threshold, more"),
]


@pytest.mark.parametrize(("function", "taken"), WRONG)
def test_arguments_in_another_order_than_the_declared_one_are_refused_with_both(function, taken, tmp_path):
    before = f"def {function}(self, {DECLARED[function]})"
    assert GOOD.count(before) == 1
    line = GOOD[: GOOD.index(before)].count("\n") + 1
    message = (
        rf"^agent\.network\.neuron: neuron 'Mine': its {function} takes \({re.escape(taken)}\), and its states and params are"
        rf" declared in the order \({DECLARED[function]}\); .* in this order \(mend mine\.py, line {line}\)$"
    )
    with pytest.raises(RegistryError, match=message):
        check(tmp_path / "mine.py", GOOD.replace(before, f"def {function}(self, {taken})"))


def test_parameters_declared_in_another_order_than_the_functions_take_them_are_refused(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"tau": Param' in line)
    lines[first], lines[first + 2] = lines[first + 2], lines[first]
    with pytest.raises(
        RegistryError, match=r"its flow takes .* \(ops, current, v, a, threshold, tau_a, tau\)"
    ):
        check(tmp_path / "mine.py", "".join(lines))


def test_a_function_that_is_inherited_is_refused_with_the_authors_file(tmp_path):
    text = '''
"""A LIF neuron that declares its threshold first: dv/dt = -v / tau."""
from spiky_rl.neurons.lif import Lif


class Mine(Lif):
    """See above."""

    params = {"threshold": Lif.params["threshold"], "tau": Lif.params["tau"]}
'''
    with pytest.raises(RegistryError, match=r"its flow takes .*threshold\).* \(mend mine\.py\)$"):
        check(tmp_path / "mine.py", text)


def test_what_a_function_does_not_use_may_be_left_to_a_star_or_an_underscore(tmp_path):
    text = GOOD.replace("ops, v, a, decay, decay_a, threshold", "ops, v, _, _decay, __, threshold")
    text = text.replace("ops, spike, v, a, decay, decay_a, threshold", "ops, spike, v, a, *_")
    assert text.count("_decay,") == 1 and text.count("*_") == 1
    check(tmp_path / "mine.py", text)


def test_what_fails_in_the_base_is_to_be_mended_in_the_authors_file(tmp_path):
    text = GOOD.replace("return v * (1.0 - spike), a + spike", "return v * (1.0 - spike)")
    text = text.replace("current - a), decay_a * a", "current - a)")
    with pytest.raises(RegistryError, match=r"a loop over a value, or unpacking it, .* \(mend mine\.py\)$"):
        check(tmp_path / "mine.py", text)


DISAGREEMENTS = {
    "the sign of the leak": ("(current - a - v)", "(current - a + v)"),
    "the sign of the input": ("(current - a - v)", "(-current - a - v)"),
    "a term": ("(current - a - v)", "(current - v)"),
    "a factor": ("-a / tau_a", "-2.0 * a / tau_a"),
    "another time constant": ("-a / tau_a", "-a / tau"),
    "seconds for milliseconds": ("(current - a - v)", "1000.0 * (current - a - v)"),
    "a step for a rate": ("(current - a - v)", "self.dt * (current - a - v)"),
    "an integration that forgets its step": ("decay_a * a", "0.9 * a"),
    "an integration with a wrong sign": ("(1.0 - decay) * (current - a)", "(1.0 - decay) * (current + a)"),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_an_integration_that_does_not_follow_its_flow_is_refused(case, tmp_path):
    before, after = DISAGREEMENTS[case]
    assert GOOD.count(before) == 1
    state = "a" if "a / tau" in after or "0.9" in after else "v"
    message = (
        rf"neuron 'Mine': its integrate does not follow its flow: with v = .*, a = .* and a current of .* the state '{state}'"
        r" changes by .* per ms, and flow says .*; mend one, or leave flow out \(mend mine\.py, line \d+\)$"
    )
    with pytest.raises(RegistryError, match=message):
        check(tmp_path / "mine.py", GOOD.replace(before, after))


def test_a_neuron_without_a_flow_is_whole(tmp_path):
    start, end = GOOD.index("    def flow"), GOOD.index("    def integrate")
    text = (GOOD[:start] + GOOD[end:]).replace("decay_a * a", "0.9 * a")
    check(tmp_path / "mine.py", text)


def test_a_flow_that_lacks_a_state_is_refused(tmp_path):
    text = GOOD.replace(", -a / tau_a", ",")
    with pytest.raises(RegistryError, match="its flow must return a tuple of 2, one for every state"):
        check(tmp_path / "mine.py", text)


def test_a_decay_is_that_of_a_whole_step_and_is_refused_where_a_step_is_divided(tmp_path):
    text = GOOD.replace("    options", "    substeps = 4\n    options")
    with pytest.raises(RegistryError, match="its integrate does not follow its flow"):
        check(tmp_path / "mine.py", text)


def test_a_rule_that_stands_in_for_a_neuron_hides_none_of_its_faults(tmp_path):
    text = GOOD.replace("(current - a - v)", "(current - a + v)")
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    settings = {"name": "feedforward", "layers": [2], "neuron": f"{path}:Mine", "learning": "slayer"}
    with pytest.raises(RegistryError, match="neuron 'Mine': its integrate does not follow its flow"):
        registry.configure("networks", settings, "agent.network")


SCALED = '''
"""A LIF neuron in mV: tau dv/dt = -v + 16 I, and it spikes at 16 mV."""
from dataclasses import replace

from spiky_rl.neurons.base import SCALE
from spiky_rl.neurons.lif import Lif


class Mine(Lif):
    """See above."""

    options = {**Lif.options, "scale": replace(SCALE, default=16.0, unit="mV")}

    def flow(self, ops, current, *rest):
        return super().flow(ops, 16.0 * current, *rest)

    def integrate(self, ops, current, *rest):
        return super().integrate(ops, 16.0 * current, *rest)
'''


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_neuron_in_millivolts_has_the_gradients_of_one_without_a_unit(backend, tmp_path):
    if backend == "cpu" and (reason := cpu_backend.available()):
        pytest.skip(reason)
    current = 3.0 * torch.randn(20, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    (tmp_path / "mine.py").write_text(SCALED, encoding="utf-8")
    found = {}
    for name, options in {"lif": {}, f"{tmp_path / 'mine.py'}:Mine": {"threshold": 16.0}}.items():
        x = current.clone().requires_grad_()
        neuron = build(name, tau=4.0, **options)
        y, _ = dispatch.unroll(backend, neuron, vocabulary(), x, 2, None, numbers(neuron))
        found[name] = y, torch.autograd.grad(y.square().sum(), x)[0]
    (y, gradient), (scaled, scaled_gradient) = found.values()
    assert torch.equal(y, scaled) and y.sum() > 0
    assert torch.equal(gradient, scaled_gradient) and gradient.abs().max() > 0, "16 is a power of two"


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_of_the_registry_follows_its_flow(name):
    contract.check(build(name), vocabulary().surrogate)
    assert name == "sigma_delta" or type(build(name)).flow is not Ode.flow
