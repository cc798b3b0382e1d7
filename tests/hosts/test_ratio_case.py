"""What the GPU's test of PPO's ratio allows is what another order of adding does, and less than what a broken replay does."""

import pytest
import torch

from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.ratio_case import (
    ENVIRONMENTS,
    FLIPPED,
    JUMP,
    JUMPED_TF32,
    NEAR,
    NETWORKS,
    replayed_differences,
    share,
)
from tests.hosts.test_rsl_rl_model import InPlace, rollout

pytestmark = pytest.mark.slow  # a test of a test

PARTS = 4
plain = torch.nn.functional.linear


def in_another_order(x, weight, bias=None):
    """A product whose inputs are permuted and added in parts."""
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(x.shape[-1]))
    added = sum(plain(x[..., part], weight[:, part]) for part in order.chunk(PARTS))
    return added if bias is None else added + bias


def rounded(x):
    """To TF32's 11 bits, the nearest."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def in_tf32(x, weight, bias=None):
    return plain(rounded(x), rounded(weight), bias)


def differences(network, product, monkeypatch, rollouts=1, longest=20, **actor) -> torch.Tensor:
    """Between the last of ``rollouts`` with torch's products and its replay with others; episodes have 3 to ``longest`` steps."""
    torch.manual_seed(0)
    settings = config({**network, "backend": "torch"})
    settings["actor"] |= actor
    run = RslRlRunner(PointEnv(ENVIRONMENTS, max_episode_length=longest), settings)
    for _ in range(rollouts):
        run.alg.storage.clear()
        rollout(run)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", product)
        return replayed_differences(run)


@pytest.mark.parametrize("network", NETWORKS)
def test_another_order_of_adding_flips_fewer_than_are_allowed(network, monkeypatch):
    found = differences(NETWORKS[network], in_another_order, monkeypatch)
    assert found.max() > 0 and share(found, NEAR) <= FLIPPED / 5


@pytest.mark.parametrize("network", NETWORKS)
def test_tf32_in_the_replay_alone_is_what_is_allowed_under_the_hosts_settings(network, monkeypatch):
    found = differences(NETWORKS[network], in_tf32, monkeypatch)
    assert share(found, NEAR) > FLIPPED, "which float32 must not show"
    assert share(found, JUMP) <= JUMPED_TF32


def test_a_state_that_is_written_in_place_is_more_than_is_allowed(monkeypatch):
    stateful = {**LIF, "layers": [16], "stateful": True}
    # the second rollout is replayed from stored states, in long episodes to its end
    found = differences(stateful, plain, monkeypatch, rollouts=2, longest=200, class_name=InPlace)
    assert share(found, NEAR) > 10 * FLIPPED and share(found, JUMP) > JUMPED_TF32
