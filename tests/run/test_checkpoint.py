"""A checkpoint whose weights fit is still refused where its network would compute something else."""

import pytest

from spiky_rl.config.options import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.run.checkpoint import check_network
from tests.hosts.point_env import config


def make_spec(groups):
    host = config()
    host["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}
    host.pop("obs_groups", None)
    return resolve_agent("mlp_ppo", "Isaac-Point", host | ({"obs_groups": groups} if groups else {}))


def check(before, after, folder):
    loaded = {"infos": {"spiky_rl": {"identity": {"spec": make_spec(before).to_dict()}}}}
    check_network(loaded, make_spec(after), folder)


def test_observation_groups_in_another_order_are_refused(tmp_path):
    groups = {"actor": ["policy", "terrain"], "critic": ["policy", "terrain"]}
    check(groups, groups, tmp_path)
    for role in groups:
        other = {**groups, role: ["terrain", "policy"]}
        with pytest.raises(UserError, match=rf"trained with obs_groups\.{role}=.'policy', 'terrain'.*; pass"):
            check(groups, other, tmp_path)


def test_groups_that_the_host_chooses_are_not_compared(tmp_path):
    for before, after in ((None, {"actor": ["policy"]}), ({"actor": ["policy"]}, None)):
        check(before, after, tmp_path)
