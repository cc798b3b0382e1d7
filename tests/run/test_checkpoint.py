"""A checkpoint whose weights fit is still refused where its network would compute something else."""

import pytest

from spiky_rl.config.options import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.run.checkpoint import check_network
from tests.hosts.point_env import config


def make_spec(groups=None, overrides=()):
    host = config()
    host["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}
    host.pop("obs_groups", None)
    return resolve_agent(
        "mlp_ppo", "Isaac-Point", host | ({"obs_groups": groups} if groups else {}), overrides
    )


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


def test_another_map_from_outputs_to_actions_is_refused(tmp_path):
    key = "agent.actor.distribution_cfg"
    beta = [f"{key}={{class_name: BetaDistribution, action_range: [-2.0, 2.0]}}"]
    trained = {"infos": {"spiky_rl": {"identity": {"spec": make_spec(overrides=beta).to_dict()}}}}
    check_network(trained, make_spec(overrides=beta), tmp_path)
    others = {
        "action_range=.-2.0, 2.0., not .-1.0, 1.0.; pass": "action_range=[-1.0, 1.0]",
        "class_name=BetaDistribution, not": "class_name=HeteroscedasticGaussianDistribution",
    }
    for said, override in others.items():
        with pytest.raises(UserError, match=said):
            check_network(trained, make_spec(overrides=[*beta, f"{key}.{override}"]), tmp_path)


@pytest.mark.parametrize(("trained", "remedy"), [("1.5", "1.5"), ("null", "null")])
def test_another_bound_of_actions_is_refused_unless_a_training_resumes(trained, remedy, tmp_path):
    spec = make_spec(overrides=[f"agent.clip_actions={trained}"]).to_dict()
    loaded = {"infos": {"spiky_rl": {"identity": {"spec": spec}}}}
    other = make_spec(overrides=["agent.clip_actions=2.0"])
    with pytest.raises(UserError, match=rf"not 2\.0; pass agent\.clip_actions={remedy}$"):
        check_network(loaded, other, tmp_path)
    check_network(loaded, other, tmp_path, resume=True)
