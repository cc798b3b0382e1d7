"""One new file in a room is all that it takes: it is listed, documented, checked and tested as what came with the package is."""

import importlib
import inspect
import sys
from functools import partial

import pytest
import torch

from spiky_rl.cli import common, show
from spiky_rl.config import registry
from spiky_rl.config.options import get_options
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch
from tests.contract import test_codecs_wide, test_parity, test_registry_wide, test_rooms_wide

IMPORTS = """
import numpy as np
import torch

from spiky_rl.config.options import Settings, option
"""
TOYS = {
    "neurons": '''"""A toy that only leaks: tau dv/dt = -v + I; v >= threshold: spike, v <- 0. Source: this test."""
from spiky_rl.neurons.base import Ode, param


class Toy(Ode):
    states = ("v",)

    class Options(Ode.Options):
        threshold: float = param(1.0, "potential of a spike", low=1e-3, unit="1")
        tau: float = param(3.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")

    def flow(self, ops, current, s, p):
        return s.rates(v=(current - s.v) / p.tau)

    def integrate(self, ops, current, s, p):
        return s.replace(v=p.decay * s.v + (1.0 - p.decay) * current)

    def threshold(self, ops, s, p):
        return s.v - p.threshold

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike))
''',
    "surrogates": '''"""A toy of a surrogate: 1 / (1 + k|x|)^2."""
from spiky_rl.surrogates.base import Surrogate, declare_slope


class Toy(Surrogate):
    class Options(Surrogate.Options):
        slope: float = declare_slope(2.0, "k: steepness")

    def derivative(self, ops, x, slope):
        return 1.0 / (1.0 + slope * ops.abs(x)) ** 2

    def primitive(self, ops, x, slope):
        return 0.5 + x / (1.0 + slope * ops.abs(x))
''',
    "encoders": f'''"""A toy of an encoder: observations times a gain, as a current."""{IMPORTS}
from spiky_rl.codecs.encoders.base import Encoder


class Toy(Encoder):
    class Options(Settings):
        gain: float = option(2.0, "factor of an observation", above=0.0)
    topographic = True

    def __init__(self, options, inputs, steps):
        super().__init__()
        self.width, self.gain = inputs, options.gain

    def forward(self, x):
        return (self.gain * x).unsqueeze(1)
''',
    "decoders": f'''"""A toy of a decoder: a linear map of the last inner step's spikes alone."""{IMPORTS}
from spiky_rl.codecs.decoders.base import Decoder


class Toy(Decoder):
    class Options(Settings):
        gain: float = option(1.0, "factor of a spike", low=0.1)

    def __init__(self, options, inputs, outputs):
        super().__init__(inputs, outputs)
        self.gain = options.gain

    def forward(self, spikes, state, keep):
        return self.readout(self.gain * spikes[:, -1]), ()
''',
    "connections": f'''"""A toy of a connection: a dense map without a bias."""{IMPORTS}
from spiky_rl.connections.base import Connection, vector


class Toy(Connection):
    class Options(Settings):
        gain: float = option(1.0, "scale of the initial weights", above=0.0)

    def __init__(self, options, inputs, outputs):
        super().__init__()
        self.shape = (outputs,)
        self.weight = torch.nn.Parameter(options.gain * torch.randn(vector(inputs), outputs))

    def forward(self, x, backend="auto", binary=False, bfloat16=False):
        return x @ self.weight

    def operations(self, events):
        return (events != 0).to(events.dtype).sum(-1) * self.weight.shape[1]
''',
    "graphs": f'''"""A toy of a graph: every neuron projects to those at some distance on a ring."""{IMPORTS}
from spiky_rl.reservoirs.graphs.base import Graph, Wiring


class Toy(Graph):
    class Options(Settings):
        reach: int = option(5, "longest distance on the ring", low=1, high=20)

    def __init__(self, options):
        self.reach = options.reach

    def wire(self, size, generator):
        near = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        inhibitory = generator.permutation(size) < size // 5
        weights = generator.random((size, size)) * (near > 0) * (near <= self.reach)
        return Wiring(np.where(inhibitory[:, None], -weights, weights).astype(np.float32), inhibitory)
''',
    "plasticities": f'''"""A toy of plasticity: a neuron's bias follows its distance from a target rate."""{IMPORTS}
from spiky_rl.reservoirs.plasticity.base import Plasticity


class Toy(Plasticity):
    class Options(Settings):
        rate: float = option(0.01, "change per step", low=0.0)

    def __init__(self, options, weight, bias, inhibitory, unit, dt):
        super().__init__()
        self.rate, self.seen = options.rate, 0.0

    def observe(self, spikes, state):
        self.seen = spikes.mean((0, 1))
        return state

    def adapt(self, weight, bias):
        bias += self.rate * (0.02 - self.seen)
''',
    "rules": f'''"""A toy of a rule: BPTT whose layers read a signal that is scaled."""{IMPORTS}
from spiky_rl.learning.base import Rule


class Toy(Rule):
    class Options(Settings):
        gain: float = option(0.5, "factor of a signal", above=0.0)

    def __init__(self, options):
        super().__init__()
        self.gain = options.gain

    def on_layer_input(self, signal):
        return self.gain * signal
''',
    "penalties": f'''"""A toy of a penalty: the mean of all rates."""{IMPORTS}
from spiky_rl.penalties.base import Penalty


class Toy(Penalty):
    class Options(Settings):
        weight: float = option(1.0, "beside the loss", low=0.0)

    def __init__(self, options):
        self.weight = options.weight

    def compute(self, rates, fan_out):
        return self.weight * sum(rate.mean() for rate in rates)
''',
    "targets": f'''"""A toy of an export target: the weights as text, which nothing can run."""{IMPORTS}
from spiky_rl.deploy.base import Target


class Toy(Target):
    class Options(Settings):
        digits: int = option(3, "digits of a weight", low=1)

    def __init__(self, options):
        self.digits = options.digits

    def write(self, model, folder):
        path = folder / "policy.txt"
        weights = [p.detach().numpy().round(self.digits).tolist() for p in model.parameters()]
        path.write_text(str(weights), encoding="utf-8")
        return path

    def open_session(self, path):
        return None
''',
    "datasets": '''"""A toy of a dataset: two recordings of one event each."""
import numpy as np

from spiky_rl.config.options import option
from spiky_rl.datasets._events import Events
from spiky_rl.datasets.base import Dataset, Recording, counted


class Toy(Dataset):
    class Options(Dataset.Options):
        bins: int = counted(2)
        place: int = option(1, "column of the second event", low=0, high=3)

    title, licence, source = "toy", "none", "this test"
    shape, window, classes = (2, 3, 4), (0, 10), ("a", "b")

    def list_recordings(self):
        return [Recording("first", 0, "train"), Recording("second", 1, "test")]

    def read_events(self, recording):
        return Events(*np.array([[self.options.place * recording.label], [0], [1], [7]]))
''',
    "backends": '''"""A toy of a backend: every neuron by its own step, and nothing else."""
import torch

from spiky_rl.kernels.backends.base import Backend


class Toy(Backend):
    def run_neuron(self, run):
        neuron, outputs, state = run.neuron, [], run.state
        if state is None:
            state = tuple(torch.zeros_like(run.current[0, 0]) for _ in neuron.states)
        for t, current in enumerate(run.current):
            if run.keep is not None:
                state = tuple(s * run.keep[t, :, None] for s in state)
            for k in range(run.steps):
                named, numbers = neuron.named_states(*state), neuron.named_params(*run.params)
                output, state = neuron.step(run.ops, current[k % len(current)], named, numbers)
                outputs.append(output)
                if run.trace is not None:
                    run.trace.append(state[0])
        shape = (len(run.current), run.steps, *run.current.shape[2:])
        return torch.stack(outputs).view(shape), () if run.state is None else tuple(state)
''',
    "networks": '''"""A toy of a network: the feed-forward one, which is never stateful by default and has two layers."""
from spiky_rl.config.options import Widths, option
from spiky_rl.networks.feedforward import FeedForward


class Toy(FeedForward):
    class Options(FeedForward.Options):
        layers: Widths = option((6, 5), "neurons per layer")
''',
}
NAME = "toy"


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A folder more for every room, with one file of it."""
    assert set(TOYS) == set(registry.COMPONENT_KINDS)
    before = set(sys.modules)
    for kind, text in TOYS.items():
        package = importlib.import_module("spiky_rl." + registry.COMPONENT_KINDS[kind].replace("/", "."))
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{NAME}.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / kind)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.endswith(f".{NAME}"):
            del sys.modules[name]
    registry._resolve_entry.cache_clear()  # pylint: disable=protected-access
    dispatch.require_backend.cache_clear()
    dispatch._BUILT.pop(NAME, None)  # pylint: disable=protected-access


@pytest.mark.parametrize("kind", TOYS)
def test_a_file_in_a_room_is_listed_documented_and_checked(kind, toys, capsys):
    assert NAME in registry.list_names(kind)
    assert common.run(show.show, [kind]) == 0
    assert "A toy" in capsys.readouterr().out
    assert common.run(show.show, [kind, NAME]) == 0
    shown = capsys.readouterr().out
    configured = registry.configure(kind, NAME, "k")
    assert all(f"\n{key} " in shown for key in get_options(configured.cls.Options))
    assert registry.configure(kind, configured.settings(), "k") == configured
    fields = get_options(configured.cls.Options)
    if not fields:
        assert kind == "backends", "an agent names a backend by a word, which has no place for options"
        return
    key = next(iter(fields))
    with pytest.raises(RegistryError, match=rf"^k\.{key}: expected .*, got 'toy'$"):
        registry.configure(kind, {"name": NAME, key: "toy"}, "k")
    with pytest.raises(RegistryError, match=rf"^k\.{key}s: 'toy' has no such option; .*did you mean '{key}'"):
        registry.configure(kind, {"name": NAME, f"{key}s": 1}, "k")


@pytest.mark.parametrize("kind", TOYS)
def test_a_file_anywhere_is_the_same_component_by_its_path(kind, toys):
    by_path = registry.configure(kind, f"{toys / kind / NAME}.py:Toy", "k")
    by_name = registry.configure(kind, NAME, "k")
    assert by_path.settings() == {**by_name.settings(), "name": by_path.name}
    assert by_path.cls.__name__ == by_name.cls.__name__ == "Toy"


def contract(kind):
    """The contract tests of a kind, as functions of a name."""
    everything, codecs, rooms = vars(test_registry_wide), vars(test_codecs_wide), vars(test_rooms_wide)
    for module in (everything, codecs, rooms):
        for name, function in module.items():
            arguments = list(inspect.signature(function).parameters) if name.startswith("test_") else []
            names = {
                str(mark.args[1])
                for mark in getattr(function, "pytestmark", [])
                if mark.name == "parametrize"
            }
            if arguments == ["name"] and str(module.get(kind.upper())) in names:
                yield function
            if arguments == [kind[:-1]]:
                yield function
            if kind == "neurons" and arguments == ["neuron", "backend"]:
                yield partial(function, backend=test_registry_wide.BACKENDS[-1])
            if kind == "backends" and arguments == ["neuron", "backend"]:
                yield partial(function, "alif")
    if kind == "neurons":
        yield partial(
            everything["test_coded_gradient_equals_finite_differences_on_the_smooth_primitive"],
            surrogate=NAME,
        )
    if kind in ("encoders", "decoders"):
        pair = everything["test_every_codec_pair_is_repeatable_batch_independent_and_trains"]
        yield lambda name: pair(**{"encoder": "direct", "decoder": "rate", "stateful": True, kind[:-1]: name})


@pytest.mark.parametrize(
    "kind", [kind for kind in TOYS if kind not in ("rules", "penalties", "targets", "networks")]
)
def test_it_passes_the_contract_tests_of_its_kind(kind, toys):
    tests = list(contract(kind))
    assert tests, "a kind without a contract test proves nothing"
    for function in tests:
        function(NAME)


@pytest.mark.parametrize("learned", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_neurons_kernels_are_the_reference(learned, toys):
    test_parity.test_compiled_neurons_are_the_reference(NAME, NAME, learned, "cpu")


def test_a_network_of_toys_runs_and_trains(toys):
    parts = {"neuron": "neurons", "surrogate": "surrogates", "encoder": "encoders", "decoder": "decoders"}
    parts |= {
        "connection": "connections",
        "learning": "rules",
        "sparsity": "penalties",
        "backend": "backends",
    }
    settings = {"name": NAME, **dict.fromkeys(parts, NAME), "connection": {"name": NAME, "gain": 3.0}}
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "network").build(inputs=4, outputs=2)
    x = 5.0 * torch.randn(1, 9, 4)
    y, _ = network(x, None)
    y.square().sum().backward()
    assert {type(layer.neuron).__name__ for layer in network.layers} == {"Toy"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
