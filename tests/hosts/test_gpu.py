"""The same training on a CUDA device."""

import pytest
import torch

from spiky_rl.hosts.rsl_rl.observe import last_activity, raster
from spiky_rl.hosts.rsl_rl.runner import Runner
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.test_rsl_rl_model import replayed_difference, rollout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("stateful", [False, True])
def test_rollout_update_and_observation_run_on_the_device(stateful):
    torch.manual_seed(0)
    network = {**LIF, "layers": [16, 8], "stateful": stateful, "encoder": "population"}
    run = Runner(PointEnv(device="cuda:0"), config(network), device="cuda:0")
    rollout(run)
    assert replayed_difference(run) < 1e-4
    assert all(parameter.is_cuda for parameter in run.alg.actor.parameters())
    losses = run.alg.update()
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    assert 0 < last_activity(run.alg).rate < 1
    assert raster(run.alg).axes
