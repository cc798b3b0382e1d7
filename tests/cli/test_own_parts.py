"""Parts of the user's own: the example, outside the package, is described, has right derivatives, trains and is exported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import spiky_rl
from spiky_rl.cli.export import export
from spiky_rl.cli.show import show
from spiky_rl.cli.train import train
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.kernels.dispatch import REFERENCE
from spiky_rl.kernels.ops import TorchOps
from tests.processes import ROOT


@pytest.fixture
def mine(tmp_path) -> Path:
    """A copy of the example, far from the checkout."""
    for name in ("parts.py", "parts_ppo.yaml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(("slope", "ratio"), [(2.0, 6.0), (0.7, 1.5)])
def test_the_surrogates_primitive_has_its_derivative(mine, slope, ratio):
    settings = {"name": f"{mine / 'parts.py'}:MultiGaussian", "slope": slope, "ratio": ratio}
    surrogate = registry.configure("surrogates", settings, "surrogate").build()
    ops = TorchOps(surrogate)
    x = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64, requires_grad=True)
    primitive = surrogate.primitive(ops, x, slope)
    (gradient,) = torch.autograd.grad(primitive.sum(), x)
    assert torch.allclose(gradient, surrogate.derivative(ops, x, slope), rtol=1e-12, atol=1e-14)
    assert primitive[40].item() == pytest.approx(0.5) and gradient.min() < 0.0 < gradient.max()


FAULTY = """
import torch
from parts import L1, Damped, Ramp, Symlog


class NoWidth(Symlog):
    def __init__(self, inputs, steps):
        super().__init__(inputs, steps)
        del self.width


class NoInnerSteps(Symlog):
    def forward(self, x):
        return x


class Twice(Symlog):
    def forward(self, x):
        return torch.cat([x, x], -1).unsqueeze(1)


class Raises(Symlog):
    def forward(self, x):
        return x + self.missing


class Unready(Symlog):
    def encode_stateful(self, x, state, keep):
        return self(x)


class Forgetful(Symlog):
    state_sizes = (5,)

    def encode(self, x, state, keep):
        return self(x), state


class Alone(Ramp):
    def forward(self, spikes, state, keep):
        return super().forward(spikes, state, keep)[0]


class Transposed(Ramp):
    def forward(self, spikes, state, keep):
        return super().forward(spikes, state, keep)[0].transpose(0, 1), ()


class Vector(L1):
    def compute(self, rates, fan_out):
        return rates[0]


class PerLayer(L1):
    def compute_gradient(self, rates, factors, widths, fan_out):
        return torch.stack([part.mean() for part in rates.split(widths)])


class Halved(Damped):
    def on_layer_input(self, signal):
        return signal[..., ::2]


class Summed(Damped):
    def on_layer_output(self, layer, signal, current, output, keep):
        return output.sum(1)


class Unpaired(Damped):
    def decode(self, decoder, outputs, state, keep):
        return decoder(outputs[-1], state, keep)[0]


from spiky_rl.connections.linear import LinearConnection
from spiky_rl.connections.recurrent import Recurrent


class Narrow(LinearConnection):
    def forward(self, *args):
        return super().forward(*args)[..., 1:]


class Total(LinearConnection):
    def operations(self, events):
        return super().operations(events).sum()


class Shapeless(LinearConnection):
    def __init__(self, options, inputs, outputs):
        super().__init__(options, inputs, outputs)
        del self.shape


class Cut(Recurrent):
    def synapses(self):
        return super().synapses()[1:]
"""


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("encoder: NoWidth", "no width given; allowed: a number of channels"),
        (
            "encoder: NoInnerSteps",
            "[2, 3, 5]; allowed: [T, K or 1, B, width], here [2, 4, 3, 5] or [2, 1, 3, 5]",
        ),
        ("encoder: Twice", "returned [2, 1, 3, 10]; allowed: "),
        ("encoder: Raises", "fails on zeros: {file}, line 24: AttributeError: "),
        (
            "encoder: Unready",
            "encode_stateful returned a Tensor; allowed: a pair, [T, K or 1, B, width] and states",
        ),
        (
            "encoder: Forgetful",
            "encode_stateful returned states of shapes []; allowed: [B, size] for each of state_sizes, here [[3, 5]]",
        ),
        ("decoder: Alone", "returned a Tensor; allowed: a pair, features [T, B, F] and states"),
        ("decoder: Transposed", "returned [3, 2, 2]; allowed: features [T, B, F], here [2, 3, 2]"),
        ("sparsity: Vector", "returned [16]; allowed: a scalar, here [] or [1]"),
        (
            "sparsity: PerLayer",
            "compute_gradient returned [1]; allowed: the shape of rates [M], here [16]",
        ),
        (
            "learning: Halved",
            "on_layer_input returned [2, 1, 3, 3]; allowed: the signal's shape, here [2, 1, 3, 5]",
        ),
        (
            "learning: Summed",
            "on_layer_output returned [2, 3, 16]; allowed: [T, K, B, N], here [2, 4, 3, 16]",
        ),
        ("learning: Unpaired", "decode returned a Tensor; allowed: a pair"),
        ("connection: Narrow", "returned [2, 1, 3, 15]; allowed: [T, K or 1, B, N], here [2, 1, 3, 16]"),
        ("connection: Total", "operations returned []; allowed: [T, K or 1, B], here [2, 1, 3]"),
        ("connection: Shapeless", "fails on zeros: "),
        ("recurrent: Cut", "synapses returned [15, 16]; allowed: [D N, N], here [16, 16]"),
    ],
)
def test_a_part_that_returns_a_wrong_shape_is_refused_when_a_network_is_built(mine, part, fault, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    (mine / "faulty.py").write_text(FAULTY)
    key, name = part.split(": ")
    settings = {"name": "feedforward", "layers": [16], "steps": 4, key: f"{mine / 'faulty.py'}:{name}"}
    with pytest.raises(UserError) as error:
        registry.configure("networks", settings, "network").build(inputs=5, outputs=2)
    assert str(error.value).startswith(f"{key}: {mine / 'faulty.py'}:{name}"), error.value
    assert fault.format(file=mine / "faulty.py") in str(error.value) and "\n" not in str(error.value)


HELPERS = """
from parts import Damped, L1, Ramp, Symlog


class Signal(Symlog):
    def forward(self, x):
        return self.encode(x).unsqueeze(1)

    def encode(self, x):
        return x


class Features(Ramp):
    def read(self, spikes):
        return spikes


class Cost(L1):
    def cost(self):
        return 0.0


class Rule(Damped):
    def before(self):
        return None
"""


def test_a_method_of_an_own_part_that_its_base_class_does_not_have_is_its_own(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    (mine / "helpers.py").write_text(HELPERS)
    classes = {"encoder": "Signal", "decoder": "Features", "sparsity": "Cost", "learning": "Rule"}
    parts = {key: f"{mine / 'helpers.py'}:{name}" for key, name in classes.items()}
    for stateful in (False, True):
        settings = {"name": "feedforward", "layers": [16], "stateful": stateful, **parts}
        net = registry.configure("networks", settings, "network").build(inputs=5, outputs=2)
        x = torch.randn(1, 8, 5)
        net(x, net.zero_state(8, x) if stateful else None)[0].sum().backward()


def test_the_check_of_an_own_penalty_leaves_the_penalty_as_it_was(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    text = (
        "from parts import L1\nclass First(L1):\n    first = None\n    def compute(self, rates, fan_out):\n"
    )
    text += "        self.first = rates if self.first is None else self.first\n        return super().compute(rates, fan_out)\n"
    (mine / "first.py").write_text(text)
    settings = {"name": "feedforward", "layers": [16], "sparsity": f"{mine / 'first.py'}:First"}
    net = registry.configure("networks", settings, "network").build(inputs=5, outputs=2)
    assert net.sparsity.first is None


def test_checks_of_own_parts_draw_no_number_of_the_network(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    noisy = "from parts import Symlog\nclass Noisy(Symlog):\n    def forward(self, x):\n        return super().forward(x + x.clone().normal_())\n"
    (mine / "noisy.py").write_text(noisy)
    weights, drawn_next = [], []
    for encoder in (f"{mine / 'parts.py'}:Symlog", f"{mine / 'noisy.py'}:Noisy"):
        torch.manual_seed(0)
        learning = f"{mine / 'parts.py'}:Damped"
        settings = {"name": "feedforward", "layers": [16], "encoder": encoder, "learning": learning}
        net = registry.configure("networks", settings, "network").build(inputs=5, outputs=2)
        weights.append(net.layers[0].connection.weight)
        drawn_next.append(torch.rand(3))
    assert torch.equal(*weights) and torch.equal(*drawn_next)


def test_each_part_of_a_file_is_described_by_its_class(mine, capsys):
    assert show(["rules", f"{mine / 'parts.py'}:Damped"]) == 0
    described = capsys.readouterr().out
    assert described.startswith("BPTT in which errors") and "share" in described


def test_the_rule_dampens_what_reaches_the_first_layer(mine):
    gradients = []
    for share in (1.0, 0.5):
        torch.manual_seed(0)
        learning = {"name": f"{mine / 'parts.py'}:Damped", "share": share}
        settings = {"name": "feedforward", "layers": [16, 16], "steps": 4, "learning": learning}
        net = registry.configure("networks", settings, "network").build(inputs=3, outputs=2)
        net(2.0 * torch.randn(1, 8, 3), None)[0].sum().backward()
        gradients.append([layer.connection.weight.grad for layer in net.layers])
    (first, second), (damped_first, damped_second) = gradients
    assert first.abs().max() > 0.0
    torch.testing.assert_close(damped_first, 0.5 * first)
    torch.testing.assert_close(damped_second, second)


def test_it_trains_and_is_exported_or_refused(mine, tmp_path, capsys):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    pytest.importorskip("onnx", reason="the export extra is not installed")
    agent = ["--task", "CartPole-v1", "--agent", str(mine / "parts_ppo.yaml"), "--device", "cpu"]
    agent += ["--log_root", str(tmp_path / "logs")]
    assert train([*agent, "--num_envs", "4", "--max_iterations", "1", "--no-choose_best"]) == 0
    result = json.loads(Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text())
    assert result["agent"] == "parts_ppo" and 0.0 < result["firing_rate"] < 0.6
    trained = [*agent, "--checkpoint", "latest", "--out", str(tmp_path / "exported")]
    assert export([*trained, "--to", "torchscript"]) == 0
    (run,) = (tmp_path / "logs").glob("rsl_rl/*/*")
    code = [f"{mine / 'parts.py'}:{name}" for name in ("Symlog", "MultiGaussian", "Ramp", "Damped", "L1")]
    policy = spiky_rl.load_policy(run, code=code)
    assert policy.network is not None
    policy.network.set_backend(REFERENCE)  # as in the file
    x = 5.0 * torch.randn(7, 4)
    assert torch.equal(policy(x), torch.jit.load(tmp_path / "exported" / "policy.pt")(x))
    with pytest.raises(UserError, match=r"parts\.py:Symlog'.*; pass each name in code"):
        spiky_rl.load_policy(run, code=code[1:])
    (moved := tmp_path / "moved").mkdir()
    (mine / "parts.py").rename(moved / "parts.py")
    policy = spiky_rl.load_policy(run, code=[name.replace(str(mine), str(moved)) for name in code])
    policy.network.set_backend(REFERENCE)
    assert torch.equal(policy(x), torch.jit.load(tmp_path / "exported" / "policy.pt")(x))
    (moved / "parts.py").rename(mine / "parts.py")
    with pytest.raises(
        UserError, match=r"agent\.network\.encoder\.name: .*parts\.py:Symlog given; allowed for c"
    ):
        export([*trained, "--to", "c"])
