"""Training on a CUDA device: the rollout's policy is the replayed one, and the update and what is observed run there."""

import pytest
import torch

from spiky_rl.learners.rsl_rl.activity import compute_last_activity, draw_raster
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import mark_slow
from tests.devices import device  # noqa: F401  # a fixture
from tests.hosts.point_env import PointEnv, config
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
from tests.hosts.test_reservoir import PLASTIC, RESERVOIR
from tests.hosts.test_rsl_rl_model import rollout

CACHED = {"reservoir": RESERVOIR, "plastic reservoir": PLASTIC}


FEW = 8
"""Environments where nothing is counted, and where the host is in the device's place, thread by thread."""


def many(device: str) -> int:
    return FEW if device == "cpu" else ENVIRONMENTS


def rolled_out(network, device, environments=FEW) -> RslRlRunner:
    torch.manual_seed(0)
    run = RslRlRunner(PointEnv(environments, device=device), config(network), device=device)
    rollout(run)
    return run


@pytest.mark.parametrize("network", mark_slow(NETWORKS, ["stateful", "recurrent"]))
def test_first_ratios_are_one_but_for_a_few_flips(network, device, record_property):
    torch.set_float32_matmul_precision("highest")
    found = replayed_differences(rolled_out(NETWORKS[network], device, many(device)))
    record_property(f"off by more than {NEAR:g} of {network}, float32", f"{share(found, NEAR):.3%}")
    assert found.numel() == 24 * many(device) and found.isfinite().all()
    assert share(found, NEAR) <= FLIPPED


@pytest.mark.parametrize("network", mark_slow(NETWORKS, ["recurrent"]))
def test_first_ratios_under_the_hosts_settings_jump_no_more_than_two_precisions_do(
    network, device, record_property
):
    torch.set_float32_matmul_precision("high")  # as Isaac Lab's rsl_rl training on a CUDA device
    found = replayed_differences(rolled_out(NETWORKS[network], device, many(device)))
    record_property(f"off by more than {JUMP:g} of {network}, TF32", f"{share(found, JUMP):.3%}")
    assert found.isfinite().all() and share(found, JUMP) <= JUMPED_TF32


@pytest.mark.parametrize("network", mark_slow(CACHED, ["plastic reservoir"]))
def test_first_ratios_of_what_is_kept_from_the_rollout_are_one(network, device):
    found = replayed_differences(rolled_out(CACHED[network], device))
    assert found.max() < NEAR, "nothing is multiplied again but the readout"


@pytest.mark.parametrize("network", mark_slow([*NETWORKS, *CACHED], ["recurrent", "plastic reservoir"]))
def test_update_and_observation_run_on_the_device(network, device):
    run = rolled_out({**NETWORKS, **CACHED}[network], device)
    places = {weight.device for model in run.models for weight in model.parameters()}
    assert places == {torch.device(device)}
    losses = run.alg.update()
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    assert 0 < compute_last_activity(run.alg).rate < 1
    assert draw_raster(run.alg).axes
