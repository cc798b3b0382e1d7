"""A backend is one file: what it does not do, the torch reference does, and an agent names it as every other component."""

import sys
from pathlib import Path

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.config.spec import read_agent
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.backends.base import Backend
from tests.contract.test_one_file import TOYS

STEPS, BATCH, TIME, OUTPUTS = 3, 4, 2, 2
INPUTS, IMAGE = 5, (1, 10, 10)
MOST_FILES = 12
CONVOLUTION = {"name": "convolutional", "kernel": 3, "pool": 2}


@pytest.fixture
def toy(tmp_path):
    """The name of a backend that does `unroll` and nothing else, in a file of its own."""
    (tmp_path / "mine.py").write_text(TOYS["backends"], encoding="utf-8")
    return f"{tmp_path / 'mine.py'}:Toy"


def results(backend, inputs=INPUTS, **settings):
    """Features, states and the gradients of everything, of a network that is the same for every backend."""
    torch.manual_seed(0)
    base = {"name": "feedforward", "layers": [7, 6], "steps": STEPS, "backend": backend}
    network = registry.configure("networks", {**base, **settings}, "agent.network").build(
        inputs=inputs, outputs=OUTPUTS
    )
    time, width = TIME if network.stateful else 1, inputs if isinstance(inputs, int) else 100
    x = 2.0 * torch.randn(time, BATCH, width, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    keep = (torch.rand(time, BATCH, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    given = (network.zero_state(BATCH, x), keep) if network.stateful else (None,)
    y, last = network(x, *given)
    (y.square().sum() + sum(s.square().sum() for s in last)).backward()
    learned = [p.grad for p in network.parameters()]
    assert y.any() and all(g is not None for g in learned)
    return [y, *last, x.grad, *learned]


NETWORKS = {
    "feed-forward": {},
    "carried and learned": {"stateful": True, "neuron": {"name": "alif", "learn": ["tau"]}},
    "recurrent": {"stateful": True, "recurrent": "recurrent"},
    "recomputed from bits": {"recompute": True},
    "pooled maps": {"connection": [CONVOLUTION, "linear"], "inputs": IMAGE},
    "another rule": {"learning": "superspike"},
}


ABILITIES = {"run_neuron", "run_recurrent", "stack", "linear", "convolution", "pack"}


def abilities(backend: Backend) -> set[str]:
    """What it does itself."""
    return {name for name in ABILITIES if getattr(type(backend), name) is not getattr(Backend, name)}


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_a_whole_network_runs_on_a_backend_that_only_unrolls(toy, settings):
    built, runs = dispatch.get_backend(toy), []
    assert abilities(built) == {"run_neuron"}
    unroll = type(built).run_neuron
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(built), "run_neuron", lambda self, run: runs.append(run) or unroll(self, run))
        found = results(toy, **settings)
    assert runs, "it ran"
    for a, b in zip(found, results("torch", **settings), strict=True):
        assert torch.equal(a, b)


def test_backends_say_what_they_can_do_and_the_reference_can_do_everything():
    able = {name: abilities(dispatch.get_backend(name)) for name in dispatch.list_backends()}
    assert able["torch"] == able["cpu"] == ABILITIES
    assert able["cupy"] == ABILITIES - {"convolution"}


def test_an_agent_names_a_backend_in_a_file_beside_it(toy, tmp_path, monkeypatch):
    text = "network: {name: feedforward, layers: [4], backend: 'mine.py:Toy'}"
    (tmp_path / "agent.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir("/")
    network = read_agent(str(tmp_path / "agent.yaml"))[1]["network"]
    assert network["backend"] == toy
    assert registry.configure("networks", network, "network").options.backend == toy
    assert dispatch.require_backend(toy) is dispatch.require_backend(toy)


WRONG = {
    "no file": ("nowhere.py:Mine", "'nowhere.py:Mine': there is no file 'nowhere.py'"),
    "no class": ("spiky_rl.kernels.backends.base:Mine", "has no 'Mine'"),
    "another class": ("spiky_rl.neurons.lif:Lif", "is not of kind backends: it does not derive from"),
    "no unroll": ("spiky_rl.kernels.backends.base:Backend", "is incomplete: it does not define run_neuron"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_backend_that_is_none_is_refused_with_its_place(case):
    name, message = WRONG[case]
    with pytest.raises(RegistryError, match=f"^agent.network.backend: .*{message}"):
        registry.configure("networks", {"name": "feedforward", "backend": name}, "agent.network")


def test_a_backend_of_ones_own_that_cannot_run_says_why(tmp_path):
    text = (
        TOYS["backends"]
        + "\n    def get_unavailable_reason(self):\n        return 'no luck today; try again'\n"
    )
    (tmp_path / "unlucky.py").write_text(text, encoding="utf-8")
    with pytest.raises(RegistryError, match="is not available: no luck today; try again"):
        dispatch.check(f"{tmp_path / 'unlucky.py'}:Toy")


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_an_observation_becomes_its_gradient_within_twelve_files(backend):
    if reason := dispatch.get_backend(backend).get_unavailable_reason():
        pytest.skip(reason)
    settings = {**read_agent("lif_ppo")[1]["network"], "layers": [8, 8], "backend": backend}
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)
    x, files = torch.randn(1, BATCH, INPUTS, generator=torch.Generator().manual_seed(1)), set()

    def seen(frame, event, _):
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(registry.PACKAGE):
            files.add(frame.f_code.co_filename)

    for profile in (None, seen):  # what happens only once is no part of the way
        sys.setprofile(profile)
        try:
            network(x, None)[0].square().sum().backward()
        finally:
            sys.setprofile(None)
    assert 5 < len(files) <= MOST_FILES, sorted(files)
