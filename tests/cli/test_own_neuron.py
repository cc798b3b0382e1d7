"""A neuron of the user's own: the example, outside the package, gets kernels, listing, checks, training and playback."""

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.modules import find_module_file, name_module
from spiky_rl.config.spec import read_agent
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.programs import load_component
from spiky_rl.networks._layer import NeuronParameters
from tests import processes
from tests.kernels.cases import CPU

ROOT = processes.ROOT
BATCH, WIDTH, STEPS = 7, 37, 5


@pytest.fixture
def mine(tmp_path) -> Path:
    """A copy of the example, far from the checkout."""
    shutil.copytree(ROOT / "examples", tmp_path / "mine")
    return tmp_path / "mine"


def command(script: str, *arguments: str) -> CompletedProcess:
    return processes.run(ROOT / "scripts" / script, *arguments)


def test_an_agent_finds_a_file_beside_itself_from_any_folder(mine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, data, _ = read_agent("mine/exponential_ppo.yaml")
    assert data["network"]["neuron"]["name"] == f"{mine / 'exponential.py'}:Exponential"
    found = registry.configure("networks", {**data["network"], "layers": [4]}, "network")
    assert found.parts["neuron"].cls.__name__ == "Exponential"


@pytest.mark.skipif(CPU.get_unavailable_reason() is not None, reason=str(CPU.get_unavailable_reason()))
@pytest.mark.parametrize("learn", [[], ["tau", "soft", "sharpness", "gain"]], ids=["numbers", "per-neuron"])
def test_it_runs_on_compiled_kernels_that_equal_the_reference(mine, learn):
    settings = {"name": f"{mine / 'exponential.py'}:Exponential", "learn": learn}
    neuron = registry.configure("neurons", settings, "neuron").build()
    ops = TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build())
    parameters = NeuronParameters(neuron, WIDTH)
    before = sum(CPU.launches.values())
    current = 1.5 * torch.randn(1, STEPS, BATCH, WIDTH, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("torch", "cpu"):
        x = current.clone().requires_grad_()
        spikes, _ = dispatch.unroll(backend, neuron, ops, x, STEPS, None, parameters())
        weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
        results.append((spikes, torch.autograd.grad((spikes * weights).sum(), [x, *parameters.parameters()])))
    (spikes, gradients), (found, mine_) = results
    assert torch.equal(spikes, found) and 0.05 < spikes.mean() < 0.6
    assert all((a - b).abs().max() < 2e-6 * a.abs().max() for a, b in zip(gradients, mine_, strict=True))
    assert sum(CPU.launches.values()) == before + 2


def test_it_is_found_again_by_the_name_of_its_class(mine):
    cls = registry.resolve("neurons", f"{mine / 'exponential.py'}:Exponential")
    assert cls.__module__.isidentifier(), "TorchScript takes no other name"
    assert load_component("neurons", f"{cls.__module__}:{cls.__qualname__}") is cls


@pytest.mark.parametrize("path", ["/a_b/c-d.py", "/_2f_/__/x y.py", "/Gerät/é_é.py"])
def test_the_name_of_a_file_as_a_module_holds_its_path(path):
    name = name_module(Path(path))
    assert name.isidentifier() and name.isascii()
    assert find_module_file(name) == path


def test_it_is_explained_and_its_c_is_shown(mine):
    name = f"{mine / 'exponential.py'}:Exponential"
    told, source = command("show.py", "neurons", name), command("show.py", "neurons", name, "--source")
    assert "soft threshold" in told.stdout and "gain" in told.stdout
    assert "INLINE void step_adjoint" in source.stdout and "lane_exp" in source.stdout


def test_it_trains_and_plays_on_the_real_task(mine, tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    agent = ["--task", "Isaac-Cartpole-v0", "--agent", str(mine / "exponential_ppo.yaml")]
    where = ["--device", "cpu", "--assets", "local", "--num_envs", "16", "--log_root", str(tmp_path / "logs")]
    done = command("train.py", *agent, *where, "--max_iterations", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(Path(done.stdout.strip().splitlines()[-1]).read_text())
    assert result["agent"] == "exponential_ppo" and 0.05 < result["firing_rate"] < 0.6
    done = command("play.py", *agent, *where, "--checkpoint", "latest", "--episodes", "1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
