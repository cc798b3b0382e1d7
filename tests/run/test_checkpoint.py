"""A checkpoint whose weights fit is still refused where its network would compute something else."""

import json
import shutil

import pytest

from spiky_rl.config.options import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.run.checkpoint import check_network
from tests.hosts.point_env import config
from tests.processes import ROOT


def make_spec(groups=None, overrides=(), agent="mlp_ppo"):
    host = config()
    host["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}
    host.pop("obs_groups", None)
    return resolve_agent(agent, "Isaac-Point", host | ({"obs_groups": groups} if groups else {}), overrides)


def check_renamed(trained, old, new, now, folder):
    """Compare the specification ``now`` with a checkpoint of ``trained`` in which ``old`` is called ``new``."""
    before = json.loads(json.dumps(trained.to_dict()).replace(old, new))
    check_network({"infos": {"spiky_rl": {"identity": {"spec": before}}}}, now, folder)


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


def test_a_checkpoint_may_have_the_old_name_of_a_component(tmp_path):
    delta = "{name: delta, threshold: 0.005, start: first}"
    encoder = f"agent.network.encoder={{name: concat, first: direct, second: {delta}}}"
    spec = make_spec(overrides=[encoder], agent="lif_reservoir_ppo")
    check_renamed(spec, '"concat"', '"beside"', spec, tmp_path)
    with pytest.raises(UserError, match=r"network\.encoder\.name=population, not concat"):
        check_renamed(spec, '"concat"', '"population"', spec, tmp_path)


def test_a_project_may_move_with_its_parts_but_not_have_others(tmp_path, caplog):
    specs = []
    for folder in (tmp_path / "before", tmp_path / "now"):
        folder.mkdir()
        for name in ("parts.py", "parts_ppo.yaml"):
            shutil.copy(ROOT / "examples" / name, folder)
        specs.append(make_spec(agent=str(folder / "parts_ppo.yaml")))
    before, now = specs
    with caplog.at_level("INFO"):
        check_renamed(before, "", "", now, tmp_path)
    assert f"{tmp_path}/before/parts.py:Symlog: in another folder now: {tmp_path}/now/parts.py" in caplog.text
    for old, new in (("parts.py:Symlog", "others.py:Symlog"), ("parts.py:Symlog", "parts.py:Another")):
        with pytest.raises(UserError, match=rf"trained with network\.encoder\.name=.*{new}, not"):
            check_renamed(before, old, new, now, tmp_path)
