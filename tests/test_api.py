"""The Python API: torch modules that need no state, take one where it is wanted, and are modules like any other."""

import copy
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spiky_rl
from spiky_rl.config import registry
from spiky_rl.config.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
T, B, OBS, F = 5, 3, 4, 2
NETWORKS = {
    "stateless": {"layers": [16, 8]},
    "one neuron per layer": {"layers": [16, 8], "neuron": ["lif", {"name": "alif", "tau": 5.0}]},
    "population code": {"layers": [16], "encoder": "population", "decoder": "rate"},
    "stateful": {"layers": [16, 8], "stateful": True},
    "recurrent": {"layers": [16], "neuron": "alif", "recurrent": "recurrent", "stateful": True},
    "encoder with a state": {"layers": [16], "encoder": "delta", "stateful": True},
    "reservoir": {"name": "reservoir", "size": 30},
}


def step_through(module, x, state=None):
    """Call a module once per control step; return the outputs [T, B, F] and the last state."""
    outputs = []
    for step in x:
        y, state = module(step, state)
        outputs.append(y)
    return torch.stack(outputs), state


def fresh_python(*arguments: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_names_are_listed_and_only_their_use_imports_torch():
    code = """
import json, sys, spiky_rl
before = [name for name in ("torch", "numpy") if name in sys.modules]
listed = set(spiky_rl.API_NAMES) <= set(dir(spiky_rl)) and "torch" not in sys.modules
print(json.dumps([before, listed, spiky_rl.network.__name__, "torch" in sys.modules]))
"""
    assert json.loads(fresh_python("-c", code)) == [[], True, "network", True]


def test_every_listed_name_exists_and_no_other():
    assert all(getattr(spiky_rl, name) is not None for name in spiky_rl.API_NAMES)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = spiky_rl.nonsense


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_a_sequence_gives_the_outputs_of_single_steps(options):
    net = spiky_rl.network(OBS, F, **options)
    x = torch.randn(T, B, OBS)
    y = net(x)
    assert y.shape == (T, B, F) and net(x[0]).shape == (B, F)
    torch.testing.assert_close(net(x[0]), y[0])  # a call without a state starts from zero
    stepped, state = step_through(net, x)
    torch.testing.assert_close(
        stepped, y
    )  # torch's own product of a reservoir's readout depends on the number of rows
    whole, after = net(x, None)
    assert torch.equal(whole, y) and all(map(torch.equal, after, state))
    assert len(state) == len(net.state_sizes) and bool(state) == net.network.stateful
    first, middle = net(x[:2], None)
    torch.testing.assert_close(torch.cat([first, net(x[2:], middle)[0]]), y)
    if state:
        assert not torch.equal(net(x[-1]), y[-1]), "the state matters"


CODECS = [
    *({"encoder": name} for name in registry.list_names("encoders")),
    {"encoder": {"name": "delta", "start": "first"}},
    *({"decoder": name} for name in registry.list_names("decoders")),
]


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_an_omitted_state_is_a_state_of_zero(codec):
    net, x = spiky_rl.network(OBS, F, layers=[16], stateful=True, **codec), torch.randn(T, B, OBS)
    y = net(x[0])
    torch.testing.assert_close(y, net(x[0], None)[0])
    torch.testing.assert_close(y, net(x)[0])


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_keep_resets_the_state_of_an_episode_that_begins(options):
    net = spiky_rl.network(OBS, F, **options)
    x, keep = torch.randn(T, B, OBS), torch.ones(T, B, dtype=torch.bool)
    keep[2, 1] = False
    y = net(x, keep=keep)
    assert torch.equal(y, net(x, None, keep.float())[0])
    torch.testing.assert_close(y[2:, 1], net(x[2:, 1:2])[:, 0])
    torch.testing.assert_close(y[:, 0], net(x)[:, 0])
    single, state = net(x[0], None)
    torch.testing.assert_close(net(x[1], state, torch.zeros(B))[0], net(x[1]))
    assert single.shape == (B, F)


@pytest.mark.parametrize("neuron", registry.list_names("neurons"))
def test_layers_of_every_neuron_run_in_time(neuron):
    layer = spiky_rl.layer(OBS, 6, neuron)
    x = 5.0 * torch.randn(T, B, OBS)
    spikes = layer(x)
    assert spikes.shape == (T, B, 6) and layer(x[0]).shape == (B, 6)
    stepped, state = step_through(layer, x)
    assert torch.equal(stepped, spikes)
    assert [part.shape for part in state] == [(1, B, size) for size in layer.state_sizes] and state


def test_a_layer_is_that_of_a_network_with_one_inner_step():
    options = {"neuron": {"name": "lif", "tau": 3.0}, "recurrent": "lateral", "surrogate": "triangle"}
    layer = spiky_rl.layer(OBS, 6, **options)
    net = spiky_rl.network(OBS, F, layers=[6], steps=1, stateful=True, decoder="rate", **options)
    net.network.layers[0].load_state_dict(layer.layer.state_dict())
    x = torch.randn(T, B, OBS)
    torch.testing.assert_close(net(x), net.network.readout(layer(x)))


def test_networks_and_layers_train_between_other_modules():
    policy = nn.Sequential(
        nn.Linear(6, OBS), nn.Tanh(), spiky_rl.network(OBS, 3, layers=[16]), nn.Linear(3, F)
    )
    spiking = nn.Sequential(spiky_rl.layer(6, 16), spiky_rl.layer(16, 16, "alif"), nn.Linear(16, F))
    for model, x in ((policy, torch.randn(B, 6)), (spiking, torch.randn(T, B, 6))):
        x.requires_grad_()
        model(x).square().sum().backward()
        assert x.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_explicit_state_carries_gradients_and_can_be_cut():
    net = spiky_rl.network(OBS, F, layers=[16], stateful=True)
    x = torch.randn(2, B, OBS, requires_grad=True)
    _, state = net(x[0], None)
    net(x[1], state)[0].sum().backward()
    assert x.grad[0].abs().sum() > 0
    x.grad = None
    net(x[1], tuple(part.detach() for part in state))[0].sum().backward()
    assert x.grad[0].abs().sum() == 0 and x.grad[1].abs().sum() > 0


MODULES = {
    "network": lambda: spiky_rl.network(
        OBS, F, layers=[16], neuron={"name": "lif", "learn": ["tau"]}, stateful=True
    ),
    "reservoir": lambda: spiky_rl.network(OBS, F, name="reservoir", size=30),
    "layer": lambda: spiky_rl.layer(OBS, F, neuron="alif", recurrent="recurrent"),
}


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_copies_and_files_give_the_same_outputs(build, tmp_path):
    module, x = build(), torch.randn(T, B, OBS)
    y = module(x)
    torch.save(module, tmp_path / "module.pt")
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = build()
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    for twin in (other, loaded, copy.deepcopy(module)):
        assert torch.equal(twin(x), y)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(loaded(x), y), "no weights are shared"


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("shape", [(0,), (T, 0)])
def test_an_empty_batch_gives_empty_features(options, shape):
    module = spiky_rl.network(OBS, F, **options)
    assert module(torch.zeros(*shape, OBS)).shape == (*shape, F)


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_dtype_and_device_follow_the_module(build):
    module = build()
    assert module.double()(torch.randn(T, B, OBS).double(), None)[1][0].dtype == torch.float64
    meta = build().to("meta")
    y, state = meta(torch.empty(B, OBS, device="meta"), None)
    assert {part.device.type for part in (y, *state)} == {"meta"}


@pytest.mark.slow
@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_the_compiler_takes_them_whole(build):
    module, x = build(), torch.randn(T, B, OBS)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(compiled(x[0], None)[0], module(x[0]))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, id=name, marks=[pytest.mark.slow] * (name != "network"))
        for name, build in MODULES.items()
    ],
)
def test_torchs_exporter_writes_them_as_onnx(build, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        _, state = module(torch.randn(T, B, OBS), None)
        x = torch.randn(B, OBS)
        y, after = module(x, state)
    torch.onnx.export(module, (x, state), tmp_path / "module.onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "module.onnx")
    names = [entry.name for entry in session.get_inputs()]
    written = session.run(None, dict(zip(names, map(torch.Tensor.numpy, (x, *state)), strict=True)))
    assert len(written) == 1 + len(after) and written[0].std() > 0.0
    for ours, theirs in zip((y, *after), written, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours)


@pytest.mark.filterwarnings("ignore")  # torch's own, of tracing
def test_kernels_that_were_named_are_not_written_as_onnx(tmp_path):
    module = spiky_rl.network(OBS, F, layers=[16], backend="cpu")
    with pytest.raises(UserError, match="backend 'cpu' has no operators in ONNX; backend: torch does"):
        torch.onnx.export(
            nn.Sequential(module), (torch.randn(B, OBS),), tmp_path / "module.onnx", dynamo=False
        )


def test_maps_come_in_their_shape_or_flat():
    net = spiky_rl.network((2, 12, 12), F, layers=[4], connection="convolutional")
    layer = spiky_rl.layer((2, 12, 12), 4, connection="convolutional")
    x = torch.randn(T, B, 2, 12, 12)
    for module in (net, layer):
        assert torch.equal(module(x), module(x.flatten(-3))) and torch.equal(module(x)[0], module(x[0]))
    following = spiky_rl.layer(layer.shape, 3, connection="convolutional")
    assert following(layer(x)).shape[:2] == (T, B)


def test_sizes_of_gymnasium_spaces_are_sizes():
    net = spiky_rl.network((OBS,), np.int64(F), layers=[np.int64(8)])
    assert net(torch.randn(B, OBS)).shape == (B, F)


REFUSED = {
    "no layers": ({}, "network.layers", "[64, 64]"),
    "unknown option": ({"layers": [8], "neurn": "lif"}, "network.neurn", "'neuron'"),
    "unknown neuron": ({"layers": [8], "neuron": "liff"}, "network.neuron.name", "'lif'"),
    "out of range": ({"layers": [8], "neuron": {"tau": -1.0}}, "network.neuron.tau", "between 0.001 and"),
    "unknown network": ({"layers": [8], "name": "feedfoward"}, "network.name", "'feedforward'"),
    "a width of zero": ({"layers": [8, 0]}, "network.layers", "at least 1"),
    "a number of layers": ({"layers": 8}, "network.layers", "a list"),
    "too many neurons": ({"layers": [8], "neuron": ["lif", "lif"]}, "network.neuron", "one entry per layer"),
    "no inputs": ({"inputs": 0, "layers": [8]}, "network.inputs", "at least 1"),
    "half an output": ({"outputs": 2.5, "layers": [8]}, "network.outputs", "2.5"),
    "true inputs": ({"inputs": True, "layers": [8]}, "network.inputs", "True"),
    "flat maps": ({"inputs": (4, 5), "layers": [8]}, "network.inputs", "(channels, height, width)"),
}


@pytest.mark.parametrize(("options", "key", "allowed"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_option_is_named_with_its_remedy(options, key, allowed):
    with pytest.raises(UserError) as error:
        spiky_rl.network(**{"inputs": OBS, "outputs": F, **options})
    assert str(error.value).startswith(f"{key}: ") and allowed in str(error.value)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"encoder": "rate"}, "layer.encoder"),
        ({"steps": 4}, "layer.steps"),
        ({"neuron": "lfi"}, "layer.neuron.name"),
        ({"recurrent": "linear"}, "layer.recurrent"),
        ({"surrogate": {"schedule": [4.0, 100.0]}}, "layer.surrogate.schedule"),
        ({"inputs": -1}, "layer.inputs"),
    ],
)
def test_a_wrong_option_of_a_layer_is_named(options, key):
    with pytest.raises(UserError) as error:
        spiky_rl.layer(**{"inputs": OBS, "outputs": 6, **options})
    assert str(error.value).startswith(f"{key}: ")


def test_wrong_types_are_named_with_the_allowed_ones():
    net = spiky_rl.network(OBS, F, layers=[8], stateful=True)
    for x in (torch.randn(B, OBS).double(), torch.ones(B, OBS, dtype=torch.long)):
        with pytest.raises(UserError, match=r"^x: torch\.(float64|int64) given; allowed: torch.float32"):
            net(x)
    with pytest.raises(UserError, match="^keep: list given; allowed: a tensor"):
        net(torch.randn(2, OBS), None, [1, 1])


def test_wrong_shapes_are_named_with_the_allowed_ones():
    stateless = spiky_rl.network(OBS, F, layers=[8])
    net = spiky_rl.network(OBS, F, layers=[8], stateful=True)
    x, (_, state) = torch.randn(B, OBS), net(torch.randn(B, OBS), None)
    calls = {
        f"[B, {OBS}]": lambda: net(torch.randn(B, OBS + 1)),
        f"[T, B, {OBS}]": lambda: net(torch.randn(OBS)),
        "None or ()": lambda: stateless(x, state),
        f"{len(state)} tensors": lambda: net(x, state[1:]),
        f"[1, {B - 1}, 8]": lambda: net(x[1:], state),
        f"[{B}]": lambda: net(x, state, torch.ones(B - 1)),
    }
    for allowed, call in calls.items():
        with pytest.raises(UserError, match=rf"allowed: .*{re.escape(allowed)}"):
            call()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed: the extra 'dev'")
def test_a_type_checker_knows_what_a_call_returns(tmp_path):
    code = """
from typing import assert_type
import spiky_rl, torch
net = spiky_rl.network(4, 2, layers=[8], stateful=True)
assert_type(net, spiky_rl.NetworkModule)
assert_type(net(torch.ones(3, 4)), torch.Tensor)
assert_type(net(torch.ones(3, 4), None), tuple[torch.Tensor, spiky_rl.State])
assert_type(spiky_rl.layer(4, 2)(torch.ones(3, 4)), torch.Tensor)
"""
    (tmp_path / "right.py").write_text(code, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(f"{code}spiky_rl.network(4, 'two')\n", encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}), encoding="utf-8")

    def check(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, name]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    right = check("right.py")
    assert right.returncode == 0, right.stdout
    assert "reportArgumentType" in check("wrong.py").stdout
