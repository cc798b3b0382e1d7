"""A neuron of one's own is asked for its contract where an agent names it, and each refusal says where, who and what to do."""

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from tests.kernels.cases import CPU

GOOD = '''
"""A leaky integrator whose output is graded: tau dv/dt = -v + I, output tanh(v)."""

from spiky_rl.neurons.base import DETACH_RESET, Neuron, param


class Leaky(Neuron):
    states = ("v",)

    class Options(Neuron.Options):
        tau: float = param(5.0, "time constant", low=1e-3, unit="ms", transform="decay")
        gain: float = param(2.0, "slope of the output", low=0.1, high=10.0, unit="1")
    graded = True

    def step(self, ops, current, s, p):
        v = p.decay * s.v + (1.0 - p.decay) * current
        return p.gain * v / (1.0 + ops.abs(v)), s.replace(v=v)
'''
DOCSTRING = GOOD.splitlines()[1] + "\n"
RETURN = "return p.gain * v / (1.0 + ops.abs(v)), s.replace(v=v)"
INPUTS, OUTPUTS, BATCH, TIME, STEPS = 5, 3, 4, 2, 3
LAYERS = [9, 6]


def configure(path, text, **options):
    """A network of neurons from a file of this text."""
    path.write_text(text, encoding="utf-8")
    settings = {"name": "feedforward", "layers": LAYERS, "neuron": {"name": f"{path}:Leaky", **options}}
    return registry.configure("networks", settings, "agent.network")


BROKEN = {
    "no docstring": (DOCSTRING, "", "it has no docstring; "),
    "docstring without an equation": (
        DOCSTRING,
        '"""A leaky integrator."""\n',
        "its docstring holds no equation; .* equations, units and source",
    ),
    "blank docstring": (DOCSTRING, '"""  """\n', "it has no docstring; .* equations"),
    "no unit": (
        ', unit="ms"',
        "",
        "its parameter 'tau' has no unit; .*unit='ms', or unit='1' for a pure number",
    ),
    "option for a parameter": (
        'gain: float = param(2.0, "slope of the output", low=0.1, high=10.0, unit="1")',
        "gain: float = DETACH_RESET",
        r".*no 'gain'; known: decay",
    ),
    "no states": ('    states = ("v",)\n', "", "declares no 'states', .* see spiky_rl/neurons/base.py"),
    "graded output that is not declared": (
        "    graded = True\n",
        "",
        "its output is .* in a step; it must be 0 or 1",
    ),
    "empty states": ('states = ("v",)', "states = ()", "declares no 'states', of which it needs one or more"),
    "unknown op": (
        "ops.abs",
        "ops.absolute",
        r"'ops\.absolute' is not in the op vocabulary: exp, .*; did you mean 'abs'\?"
        r" \(see mine\.py:17: return p.gain \* v / \(1\.0 \+ ops\.absolute",
    ),
    "function of torch": (
        "ops.abs(v)",
        "v.abs()",
        r"'\.abs' of a value .*did you mean 'abs'\? \(see mine\.py:17",
    ),
    "values by position": (
        "current, s, p)",
        "current, v, decay, gain)",
        r"its step takes \(ops, current, v, decay, gain\), and must take \(ops, current, s, p\): its states and parameters come by"
        r" name, s\.v, p\.decay, p\.gain \(see mine\.py:15\)",
    ),
    "states and parameters in each other's place": (
        "current, s, p)",
        "current, p, s)",
        r"its step takes \(ops, current, p, s\), and must take \(ops, current, s, p\)",
    ),
    "time constant for its decay": (
        "p.decay * s.v",
        "p.tau * s.v",
        r".*no 'tau'; known: decay, gain; a time constant enters a step as its decay: p\.decay \(see mine\.py:16",
    ),
    "state that is none": (
        "s.replace(v=v)",
        "s.replace(v=v, vv=v)",
        r".*no 'vv'; known: v; did you mean 'v'\? \(see mine\.py:17",
    ),
    "states by position": (
        "s.replace(v=v)",
        "(v,)",
        r"its step must return a pair: its output, and its states, as s\.replace\(v=\.\.\.\)",
    ),
    "state that is no zero at rest": (
        "p.decay * s.v +",
        "p.decay * s.v + 0.25 +",
        "its state 'v' is 0.25 after one step from rest without input; rest must be 0, so store it relative to its resting",
    ),
    "state that is no number at rest": (
        "p.decay * s.v +",
        "p.decay * (s.v / s.v) +",
        "its state 'v' is nan after one step from rest without input; rest must be 0",
    ),
    "spike at rest": (
        RETURN,
        "return ops.spike(v), s.replace(v=v)",
        "its output at rest and without input is 1; it must be 0",
    ),
    "output that is a number": (
        RETURN,
        "return 0.0, s.replace(v=v)",
        r"its output is a number that .*; return 0\.0 \* v \+ number",
    ),
    "step that raises": (
        "        v = p.decay",
        '        raise OSError("no table")\n        v = p.decay',
        r"it fails with OSError: no table \(see mine\.py:16: raise OSError",
    ),
    "attribute that is missing": (
        "ops.abs(v)",
        "self.table * v",
        r"it fails with AttributeError: .*'table' \(see mine\.py:17: return p.gain",
    ),
    "sub-steps without their parts": (
        "    graded = True\n",
        "    graded = True\n    substeps = 4\n",
        "it fails with NotImplementedError: Leaky defines no substep; a neuron with substeps must",
    ),
    "parameters that do not go together": (
        "ops.abs(v)",
        "1.0 / (p.gain - 2.0)",
        r"it fails with ZeroDivisionError: float division by zero \(see mine\.py:17",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_named_with_place_and_neuron_and_remedy(case, tmp_path):
    before, after, message = BROKEN[case]
    assert before in GOOD
    with pytest.raises(RegistryError, match=rf"^agent\.network\.neuron: neuron 'Leaky':? {message}"):
        configure(tmp_path / "mine.py", GOOD.replace(before, after, 1))


def test_a_step_that_works_only_with_numbers_is_found_before_its_parameter_is_learned(tmp_path):
    # with gain a number the power is one of numbers; learned, it would be one of tensors
    text = GOOD.replace("ops.abs(v)", "ops.where(v > 0.0, p.gain, 1.0 / p.gain) ** 0.5")
    with pytest.raises(RegistryError, match=r"agent\.network\.neuron: neuron 'Leaky': '\*\* 0\.5'"):
        configure(tmp_path / "mine.py", text)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("tau", 0.0, r"agent\.network\.neuron\.tau: 0\.0 is out of range; it must be between 0\.001 and"),
        (
            "gain",
            11.0,
            r"agent\.network\.neuron\.gain: 11\.0 is out of range; it must be between 0\.1 and 10\.0",
        ),
        ("gain", "steep", r"agent\.network\.neuron\.gain: expected a number, got 'steep'"),
        ("gian", 1.0, r"agent\.network\.neuron\.gian: .*has no such option.*did you mean 'gain'"),
        ("learn", ["gian"], r"agent\.network\.neuron\.learn: 'gian' is not a parameter.*did you mean 'gain'"),
    ],
)
def test_a_wrong_value_is_named_before_the_contract_is_asked(tmp_path, option, value, message):
    with pytest.raises(RegistryError, match=message):
        configure(tmp_path / "mine.py", GOOD, **{option: value})


SURROGATE = '''
"""A surrogate of one's own."""

from spiky_rl.surrogates.base import Surrogate, declare_slope


class Sine(Surrogate):
    class Options(Surrogate.Options):
        slope: float = declare_slope(1.0, "slope")

    def derivative(self, ops, x, slope):
        return ops.cos(slope * x)

    def primitive(self, ops, x, slope):
        return 0.5 + ops.sin(slope * x) / slope
'''


def test_a_surrogate_outside_of_the_vocabulary_is_named_in_its_own_place(tmp_path):
    path = tmp_path / "shape.py"
    path.write_text(SURROGATE, encoding="utf-8")
    settings = {"name": "feedforward", "layers": LAYERS, "surrogate": f"{path}:Sine"}
    with pytest.raises(
        RegistryError, match=r"^agent\.network\.surrogate: surrogate 'Sine': 'ops\.cos' .*shape\.py:12"
    ):
        registry.configure("networks", settings, "agent.network")


OWN_SLOPE = '''
"""Triangle whose half-width is 1 / slope."""

from spiky_rl.surrogates.base import Surrogate


class Tent(Surrogate):
    def __init__(self, options):
        super().__init__(options)
        self.width = 1.0 / options.slope

    def derivative(self, ops, x, slope):
        return ops.max(1.0 - ops.abs(x) / self.width, 0.0)

    def primitive(self, ops, x, slope):
        return 0.0 * x + 0.5
'''


@pytest.mark.parametrize("network", [{"name": "feedforward", "layers": LAYERS}, {"name": "reservoir"}])
def test_a_surrogate_that_does_not_take_the_slope_from_its_argument_is_refused(network, tmp_path):
    path = tmp_path / "shape.py"
    path.write_text(OWN_SLOPE, encoding="utf-8")
    with pytest.raises(
        RegistryError, match=r"^net\.surrogate: surrogate 'Tent': its derivative depends on the option slope"
    ):
        registry.configure("networks", {**network, "surrogate": f"{path}:Tent"}, "net")
    path = tmp_path / "mended.py"
    path.write_text(OWN_SLOPE.replace("/ self.width", "* slope"), encoding="utf-8")
    registry.configure("networks", {**network, "surrogate": f"{path}:Tent"}, "net")


@pytest.mark.parametrize(
    "learn",
    [pytest.param([], id="numbers", marks=pytest.mark.slow), pytest.param(["tau", "gain"], id="learned")],
)
def test_a_neuron_that_keeps_the_contract_has_torchs_bits_on_the_cpu(tmp_path, learn):
    if reason := CPU.get_unavailable_reason():
        pytest.skip(reason)
    network = configure(tmp_path / "mine.py", GOOD, learn=learn, tau=3.0).build(
        inputs=INPUTS, outputs=OUTPUTS
    )
    layer, ops = network.layers[0], TorchOps(network.surrogate)
    current = 3.0 * torch.randn(TIME, STEPS, BATCH, LAYERS[0], generator=torch.Generator().manual_seed(0))
    state = (torch.full((BATCH, LAYERS[0]), 0.2),)
    found = []
    for backend in ("cpu", "torch"):
        x = current.clone().requires_grad_()
        parameters = layer.parameters_of_neuron()
        y, (last,) = dispatch.unroll(backend, layer.neuron, ops, x, STEPS, state, parameters)
        found.append((y, last, torch.autograd.grad(y.square().sum(), x)[0]))
    (y, last, grad), (wanted, wanted_last, wanted_grad) = found
    assert torch.equal(y, wanted) and torch.equal(last, wanted_last)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-5, atol=1e-5)
    assert y.abs().min() > 0
    assert any(key.startswith("Leaky-") for key in CPU.launches), "the kernel ran"
    assert network(torch.ones(TIME, BATCH, INPUTS), None)[0].shape == (TIME, BATCH, OUTPUTS)
