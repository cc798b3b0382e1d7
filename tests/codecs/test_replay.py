"""Codecs in PPO's own loop: a replayed rollout has the log-probabilities that were stored."""

import pytest

from spiky_rl.config import registry
from tests.hosts.point_env import LIF
from tests.hosts.test_rsl_rl_model import replayed_difference, rollout, runner

GRADED = {
    "steps": 1,
    "connection": {"name": "linear", "offset": 0.0, "spread": 0.0},
    "neuron": "sigma_delta",
    "decoder": "sigma_delta",
}
NETWORKS = {
    **{f"{name} encoder": {**LIF, "encoder": name} for name in registry.list_names("encoders")},
    **{f"{name} decoder": {**LIF, "decoder": name} for name in registry.list_names("decoders")},
    "sigma-delta throughout": {**GRADED, "encoder": "sigma_delta"},
}


@pytest.mark.parametrize("stateful", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("case", NETWORKS)
def test_replay_gives_the_stored_log_probabilities_and_an_update_trains(case, stateful):
    run = runner({**NETWORKS[case], "layers": [16], "stateful": stateful})
    for _ in range(2):  # the second rollout starts in the middle of episodes, from a stored state
        rollout(run)
        assert replayed_difference(run) < 1e-5
        run.alg.update()
