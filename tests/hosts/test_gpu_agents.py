"""Every agent on a CUDA device: its network is the CPU's, a minibatch launches what the docs say, and it trains under both hosts."""

import copy
import re

import pytest
import torch

from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import mark_slow, network_of, refused_by_skrl, takes_images
from tests.devices import device, made_by_the_cpu  # noqa: F401  # a fixture
from tests.hosts.pretend_case import AGENTS, STEPS, World, Writer
from tests.hosts.test_pretend_cuda_launches import DOCS, SPIKING, minibatch, network
from tests.hosts.test_pretend_cuda_rsl_rl import settings
from tests.kernels.cases import CUPY
from tests.kernels.test_fake_cupy import built

BATCH, ALIKE, NEAR = 64, 0.9, 1e-4
"""Samples that are compared; share of them that must be the CPU's, and how near that is, relative to the largest: where sums are in
another order, a spike may flip."""
ITERATIONS = 2


def launched(call) -> int:
    """How many kernels a call launches."""
    before = CUPY.launches.total()
    call()
    return CUPY.launches.total() - before


@pytest.mark.parametrize("agent", mark_slow(SPIKING))
def test_every_agents_network_is_that_of_the_cpu(agent, device):
    torch.set_float32_matmul_precision("highest")
    with made_by_the_cpu():
        made, x, _ = built(agent)
    x = torch.randn(x.shape[0], BATCH, x.shape[2], generator=torch.Generator().manual_seed(1))
    keep = (torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(2)) > 0.4).float()
    features = []
    for backend, place in (("cupy", device), ("torch", "cpu")):
        here = copy.deepcopy(made).to(place)
        here.set_backend(backend)
        given = x.to(place)
        carried = (here.zero_state(BATCH, given), keep.to(place)) if here.stateful else (None, None)
        with torch.no_grad():
            features.append(here(given, *carried)[0].cpu())
    found, expected = features
    assert expected.any()
    same = (found - expected).abs().amax(-1) <= NEAR * expected.abs().max()
    assert same.double().mean() >= ALIKE


@pytest.mark.parametrize("agent", mark_slow(SPIKING, ["alif_recurrent_ppo"]))
def test_a_minibatch_launches_what_the_docs_say(agent, device, record_property):
    [kernels] = re.findall(rf"^\| `{agent}` \| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    torch.manual_seed(0)
    with made_by_the_cpu():
        # the count is that of any number that scratch memory is enough for
        given = network(agent, device, samples=64)
    count = launched(lambda: minibatch(*given))
    record_property(f"launches of {agent}", count)
    assert count == int(kernels)


def trains(run, writer) -> None:
    """Two iterations in which all that can learn moves, all on the device."""
    before = {name: weight.clone() for name, weight in run.named_weights()}
    run.learn(ITERATIONS)
    assert {"Loss/value", "Train/mean_reward", "Cost/operations_per_step"} <= writer.scalars.keys()
    after = dict(run.named_weights())
    assert all(after[name].device == weight.device for name, weight in before.items())
    assert all(weight.isfinite().all() for weight in after.values())
    for role in ("actor", "critic"):
        assert any(not torch.equal(after[n], w) for n, w in before.items() if n.startswith(role)), role


@pytest.mark.parametrize("agent", mark_slow(AGENTS))
def test_every_agent_trains_under_rsl_rl(agent, device):
    images, writer = takes_images(agent), Writer()
    with made_by_the_cpu():
        run = RslRlRunner(World(images, device), settings(agent), "nowhere", device)
    run.logger.writer, run.save = writer, lambda path: run.alg.save()
    count = launched(lambda: trains(run, writer))
    assert count >= ITERATIONS * STEPS * (network_of(agent) is not None)


@pytest.mark.parametrize(
    "agent", mark_slow([name for name in AGENTS if not takes_images(name) and not refused_by_skrl(name)])
)
def test_every_agent_that_skrl_takes_trains_under_it(agent, device):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    from spiky_rl.learners.skrl.runner import SkrlRunner as SkrlRunner
    from tests.hosts.test_pretend_cuda_skrl import settings as skrl_settings

    with made_by_the_cpu():
        run = SkrlRunner(World(False, device), skrl_settings(agent), None, device)
    run._writer = writer = Writer()
    count = launched(lambda: trains(run, writer))
    assert count >= ITERATIONS * STEPS * (network_of(agent) is not None)
