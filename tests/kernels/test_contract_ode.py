"""An ODE of one's own: functions that take what is declared as it is declared, an integration that follows its flow."""

import re

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch, neuron_checks
from spiky_rl.neurons.base import Ode
from tests.kernels.cases import CPU, NEURONS, vocabulary
from tests.neurons.drive import build, numbers

GOOD = '''
"""A leaky membrane, tau dv/dt = -v - a + gain I, and what a spike leaves: tau_a da/dt = -a, a <- a + 1."""

from spiky_rl.neurons.base import Ode, param


class Mine(Ode):
    states = ("v", "a")

    class Options(Ode.Options):
        tau: float = param(5.0, "time constant", low=1e-3, unit="ms", transform="decay")
        tau_a: float = param(50.0, "time constant of what a spike leaves", low=1e-3, unit="ms", transform="decay")
        threshold: float = param(2.0, "potential at which a spike is emitted", low=1e-3, unit="1")

    def flow(self, ops, current, s, p):
        return s.rates(v=(current - s.a - s.v) / p.tau, a=-s.a / p.tau_a)

    def integrate(self, ops, current, s, p):
        return s.replace(v=p.decay * s.v + (1.0 - p.decay) * (current - s.a), a=p.decay_a * s.a)

    def threshold(self, ops, s, p):
        return s.v - p.threshold

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike), a=s.a + spike)
'''


def check(path, text, **options):
    """The contract of a neuron from a file of this text, asked through the agent that names it."""
    path.write_text(text, encoding="utf-8")
    settings = {"name": "feedforward", "layers": [2], "neuron": {"name": f"{path}:Mine", **options}}
    return registry.configure("networks", settings, "agent.network")


def test_what_the_broken_ones_are_made_from_keeps_the_contract(tmp_path):
    check(tmp_path / "mine.py", GOOD)


@pytest.mark.parametrize("name", ["hodgkin_huxley", "izhikevich"])
def test_more_sub_steps_than_the_stack_of_a_thread_holds_are_refused(name):
    with pytest.raises(RegistryError, match="substeps: 10001 is out of range"):
        build(name, substeps=10_001)


@pytest.mark.slow
@pytest.mark.skipif(CPU.get_unavailable_reason() is not None, reason="no compiled kernels")
def test_the_most_sub_steps_have_a_gradient():
    neuron = build("hodgkin_huxley", substeps=10_000)
    current = torch.full((1, 1, 2, 3), 10.0, requires_grad=True)
    output, (potential, *_) = dispatch.unroll(
        "cpu",
        neuron,
        vocabulary(),
        current,
        1,
        tuple(torch.zeros(2, 3) for _ in neuron.states),
        numbers(neuron),
        None,
    )
    (output.sum() + potential.sum()).backward()
    assert current.grad.isfinite().all() and current.grad.all()


DECLARED = {
    "flow": "ops, current, s, p",
    "integrate": "ops, current, s, p",
    "threshold": "ops, s, p",
    "reset": "ops, spike, s, p",
}
WRONG = [
    ("flow", "ops, current, v, a, tau, tau_a, threshold"),
    ("flow", "ops, s, p"),
    ("integrate", "ops, current, p, s"),
    ("integrate", "ops, current, s"),
    ("threshold", "ops, v, a"),
    ("threshold", "ops, current, s, p"),
    ("threshold", "ops, *, s, p"),
    ("reset", "ops, s, p"),
    ("reset", "ops, spike, s, p, more"),
]


@pytest.mark.parametrize(("function", "taken"), WRONG)
def test_a_function_that_does_not_take_its_values_by_name_is_refused_with_both_forms(
    function, taken, tmp_path
):
    before = f"def {function}(self, {DECLARED[function]})"
    line = GOOD[: GOOD.index(before)].count("\n") + 1
    names = "s.v, s.a, p.tau, p.tau_a, p.threshold" if function == "flow" else "s.v, s.a, p.decay, p.decay_a"
    given = re.escape(taken.replace("*, ", ""))
    message = (
        rf"^agent\.network\.neuron: neuron 'Mine': its {function} takes \({given}\), and must take"
        rf" \({DECLARED[function]}\): its states and parameters come by name, {names}.* \(see mine\.py:{line}\)$"
    )
    with pytest.raises(RegistryError, match=message):
        check(tmp_path / "mine.py", GOOD.replace(before, f"def {function}(self, {taken})"))


def reordered(text):
    """The same neuron with its parameters declared in the reverse order, and its states too."""
    lines = text.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if "tau: float" in line)
    lines[first], lines[first + 2] = lines[first + 2], lines[first]
    return "".join(lines).replace('states = ("v", "a")', 'states = ("a", "v")')


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("learning", ["bptt", "slayer", "eventprop"])
@pytest.mark.slow
def test_the_order_of_a_declaration_changes_no_output_and_no_gradient(backend, learning, tmp_path):
    if backend == "cpu" and (reason := CPU.get_unavailable_reason()):
        pytest.skip(reason)
    current = 6.0 * torch.rand(20, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    rule, found = registry.configure("rules", learning, "r").build(), []
    for name, text in {"one": GOOD, "other": reordered(GOOD)}.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        neuron = rule.wrap_neuron(build(f"{tmp_path / name}.py:Mine", learn=["tau", "tau_a", "threshold"]))
        values = {n: torch.full((3,), neuron.get_step_value(n), requires_grad=True) for n in neuron.params}
        x = current.clone().requires_grad_()
        y, _ = dispatch.unroll(backend, neuron, vocabulary(), x, 2, None, tuple(values.values()))
        wanted = [x, *(values[n] for n in sorted(values))]
        found.append((y, *torch.autograd.grad(y.square().sum(), wanted, materialize_grads=True)))
    assert (found[0][0] != 0).any(), "a silent neuron proves nothing"
    assert tuple(neuron.params) == ("threshold", "tau_a", "tau") and neuron.states[:2] == ("a", "v")
    (y, *gradients), (z, *others) = found
    assert torch.equal(y, z)
    for first, second in zip(gradients, others, strict=True):
        # autograd sums over the states in their order
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_what_a_function_does_not_use_may_be_left_to_a_star_or_an_underscore(tmp_path):
    text = GOOD.replace("threshold(self, ops, s, p)", "threshold(self, _, s, p)")
    text = text.replace("reset(self, ops, spike, s, p)", "reset(self, ops, spike, s, _p)")
    text = text.replace("flow(self, ops, current, s, p)", "flow(self, *given)")
    text = text.replace("        return s.rates", "        _, current, s, p = given\n        return s.rates")
    check(tmp_path / "mine.py", text)


def test_what_fails_in_the_base_is_to_be_mended_in_the_authors_file(tmp_path):
    text = GOOD.replace("return s.v - p.threshold", "return s.v > p.threshold")
    with pytest.raises(RegistryError, match=r"a comparison is not a number; .* \(see mine\.py\)$"):
        check(tmp_path / "mine.py", text)


DISAGREEMENTS = {
    "the sign of the leak": ("(current - s.a - s.v)", "(current - s.a + s.v)"),
    "the sign of the input": ("(current - s.a - s.v)", "(-current - s.a - s.v)"),
    "a term": ("(current - s.a - s.v)", "(current - s.v)"),
    "a factor": ("-s.a / p.tau_a", "-2.0 * s.a / p.tau_a"),
    "another time constant": ("-s.a / p.tau_a", "-s.a / p.tau"),
    "seconds for milliseconds": ("(current - s.a - s.v)", "1000.0 * (current - s.a - s.v)"),
    "a step for a rate": ("(current - s.a - s.v)", "self.dt * (current - s.a - s.v)"),
    "an integration that forgets its step": ("p.decay_a * s.a", "0.9 * s.a"),
    "a flow that forgets a state": (", a=-s.a / p.tau_a", ""),
    "an integration that forgets a state": (", a=p.decay_a * s.a", ""),
    "an integration with a wrong sign": (
        "(1.0 - p.decay) * (current - s.a)",
        "(1.0 - p.decay) * (current + s.a)",
    ),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_an_integration_that_does_not_follow_its_flow_is_refused(case, tmp_path):
    before, after = DISAGREEMENTS[case]
    assert GOOD.count(before) == 1
    state = "a" if "a / p.tau" in after or "0.9" in after or not after else "v"
    message = (
        rf"neuron 'Mine': its integrate does not follow its flow: with v = .*, a = .* and a current of .* the state '{state}'"
        r" changes by .* per ms, but flow gives .*;.* \(see mine\.py:\d+\)$"
    )
    with pytest.raises(RegistryError, match=message):
        check(tmp_path / "mine.py", GOOD.replace(before, after))


def test_a_neuron_without_a_flow_is_whole(tmp_path):
    start, end = GOOD.index("    def flow"), GOOD.index("    def integrate")
    text = (GOOD[:start] + GOOD[end:]).replace("p.decay_a * s.a", "0.9 * s.a")
    check(tmp_path / "mine.py", text)


def test_a_flow_that_returns_its_rates_by_position_is_refused(tmp_path):
    text = GOOD.replace(
        "s.rates(v=(current - s.a - s.v) / p.tau, a=-s.a / p.tau_a)", "(current - s.a - s.v) / p.tau, s.a"
    )
    with pytest.raises(RegistryError, match=r"its flow must return its states, as s\.rates\(v=\.\.\.\)"):
        check(tmp_path / "mine.py", text)


def test_a_decay_is_that_of_a_whole_step_and_is_refused_where_a_step_is_divided(tmp_path):
    text = GOOD.replace("    def flow", "    substeps = 4\n\n    def flow")
    with pytest.raises(RegistryError, match="its integrate does not follow its flow"):
        check(tmp_path / "mine.py", text)


def test_a_rule_that_stands_in_for_a_neuron_hides_none_of_its_faults(tmp_path):
    text = GOOD.replace("(current - s.a - s.v)", "(current - s.a + s.v)")
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    settings = {"name": "feedforward", "layers": [2], "neuron": f"{path}:Mine", "learning": "slayer"}
    with pytest.raises(RegistryError, match="neuron 'Mine': its integrate does not follow its flow"):
        registry.configure("networks", settings, "agent.network")


SCALED = '''
"""A LIF neuron in mV: tau dv/dt = -v + 16 I, and it spikes at 16 mV."""
from spiky_rl.neurons.base import surrogate_scale
from spiky_rl.neurons.lif import Lif


class Mine(Lif):
    """See above."""

    class Options(Lif.Options):
        scale: float = surrogate_scale(16.0, "mV")

    def flow(self, ops, current, *rest):
        return super().flow(ops, 16.0 * current, *rest)

    def integrate(self, ops, current, *rest):
        return super().integrate(ops, 16.0 * current, *rest)
'''


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_neuron_in_millivolts_has_the_gradients_of_one_without_a_unit(backend, tmp_path):
    if backend == "cpu" and (reason := CPU.get_unavailable_reason()):
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


STEPS_ONLY = {"cuba_lif", "sigma_delta", "sigma_delta_unit"}
"""Neurons without a flow: the step of other libraries, whose membrane takes an input in full at once, and a sum of changes."""


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_of_the_registry_follows_its_flow(name):
    neuron_checks.check_neuron(build(name), vocabulary().surrogate)
    kind = type(build(name))
    assert name in STEPS_ONLY or (issubclass(kind, Ode) and kind.flow is not Ode.flow)


@pytest.mark.parametrize("dt", [1e-6, 0.01])
@pytest.mark.parametrize("neuron", registry.list_names("neurons"))
def test_a_flow_is_followed_at_every_time_step_that_is_allowed(neuron, dt):
    settings = {"name": "feedforward", "layers": [2], "neuron": {"name": neuron, "dt": dt}}
    assert registry.configure("networks", settings, "network").options.layers == (2,)
