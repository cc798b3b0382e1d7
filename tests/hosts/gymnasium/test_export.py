"""Exported policies of Gymnasium's tasks: actions in the task's units, equal to the live policy's over an episode."""

import math
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from spiky_rl.cli.export import export
from spiky_rl.deploy import _targets
from spiky_rl.deploy._export import _describe_raw_actions, _find_bounds, _map_to_bounds, write_and_verify
from spiky_rl.deploy.base import ExportError
from spiky_rl.deploy.c import C
from spiky_rl.run.simulate import open_env, wrap_for_visualizer
from tests.hosts.gymnasium import scripted
from tests.hosts.gymnasium.planned import make_runner, plan_of
from tests.hosts.gymnasium.scripted import SCRIPTS


def make_policy(plan, env):
    """Perturbed values, as if trained, and actions beyond their bounds."""
    policy = make_runner(plan, env).alg.get_policy()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return policy.eval()


@pytest.mark.parametrize(
    "agent, task",
    [
        ("lif_ppo", "InvertedPendulum-v5"),
        pytest.param("mlp_ppo", "Hopper-v5", marks=pytest.mark.slow),
        pytest.param("lif_stateful_ppo", "Hopper-v5", marks=pytest.mark.slow),
    ],
)
def test_an_exported_policy_gives_what_the_task_takes(agent, task, tmp_path):
    """The C file in closed loop on a bare environment, with nothing of ours between them."""
    plan = plan_of(task, agent)
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        names = ["c", "torchscript", *([] if agent == "mlp_ppo" else ["c_int8"])]
        written = write_and_verify(policy, env, tmp_path, _targets.make_targets(names))
        assert {path.name for path in written} == {"policy.c", "policy.pt"} and len(written) == len(names)
        assert all(found.mismatches == 0 and found.steps > 1 for found in written.values())
    session = C().open_session(tmp_path / "policy.c")
    bare = gymnasium.make(task)
    space, seen = bare.action_space, []
    x, _ = bare.reset(seed=0)
    for _ in range(40):
        (action,) = session(x.astype(np.float32)[None], [])
        seen.append(action[0])
        x, _, ended, _, _ = bare.step(action[0])
        if ended:
            x, _ = bare.reset()
            session = C().open_session(tmp_path / "policy.c")
    actions = np.stack(seen)
    assert (actions >= space.low).all() and (actions <= space.high).all()
    assert np.abs(actions).max() > 0.5 * space.high.max(), "in the task's units"
    assert "task's units" in (tmp_path / "policy.h").read_text()


def test_bounds_are_where_the_policy_acts():
    """A device without values stands for a GPU, on which the policy acts to calibrate int8."""
    plan = plan_of("InvertedPendulum-v5", "mlp_ppo")
    with open_env(plan) as env:
        policy = _map_to_bounds(make_policy(plan, env).to("meta"), env, {})
        assert policy(env.get_observations().to("meta")).shape == (32, 1)


def test_an_exported_policy_keeps_single_bounds(tmp_path):
    plan = plan_of(f"{SCRIPTS}OneSided-v0", "mlp_ppo")
    with open_env(plan) as env:
        written = write_and_verify(
            make_policy(plan, env), env, tmp_path, _targets.make_targets(["c", "torchscript", "onnx"])
        )
    assert all(found.mismatches == 0 and found.steps > 1 for found in written.values())
    session, script = C().open_session(tmp_path / "policy.c"), torch.jit.load(tmp_path / "policy.pt")
    space = scripted.OneSided.action_space
    for x in np.linspace(-9.0, 9.0, 50, dtype=np.float32):
        (action,) = session(np.float32([[x]]), [])
        assert space.contains(action[0]) and space.contains(script(torch.tensor([[x]]))[0].detach().numpy())


def test_an_exported_policy_gives_whole_numbers_where_the_task_takes_them(tmp_path):
    plan = plan_of(f"{SCRIPTS}Whole-v0", "mlp_ppo")
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        with torch.no_grad():  # beyond some bounds
            policy.mlp[-1].weight *= 4.0
        raw, taken = policy(env.get_observations()).detach(), []
        for actions in (raw, raw * 3.0):
            env.step(actions)
            taken.append(env.latest_infos["action"])
        bounds = _find_bounds(env)
        np.testing.assert_array_equal(
            np.stack(taken)[..., :2], bounds(torch.stack((raw, raw * 3.0))).numpy()[..., :2]
        )
        written = write_and_verify(policy, env, tmp_path, _targets.make_targets(["c", "torchscript", "onnx"]))
    assert all(found.mismatches == 0 and found.steps > 1 for found in written.values())
    session = C().open_session(tmp_path / "policy.c")
    found = np.concatenate([session(np.float32([[x]]), [])[0] for x in 9.0 * np.linspace(-1.0, 1.0, 99) ** 5])
    assert (found == np.rint(found)).all() and len(np.unique(found[:, 1])) > 3


def test_an_exported_policy_keeps_the_bound_of_the_agents_actions(tmp_path):
    """``clip_actions`` cuts actions before they are mapped to the task's bounds; the file gives what the task then takes."""
    plan = plan_of(f"{SCRIPTS}OneSided-v0", "mlp_ppo", "agent.clip_actions=0.25")
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        with torch.no_grad():  # beyond every bound
            for parameter in policy.mlp[-1].parameters():
                parameter *= 30.0
        observations, taken = [], []
        env.reset()
        for _ in range(4):
            obs = env.get_observations()
            observations.append(obs["policy"][:1].numpy().copy())
            env.step(policy(obs).detach())
            taken.append(env.latest_infos["action"][0])
        written = write_and_verify(policy, env, tmp_path, _targets.make_targets(["c", "torchscript"]))
        assert all(found.mismatches == 0 for found in written.values())
        env.step(torch.full((32, 4), 0.5))  # in the task's units from now on
        np.testing.assert_array_equal(env.latest_infos["action"][0], np.float32([0.5, 0.5, 0.5, 0.5]))
    session = C().open_session(tmp_path / "policy.c")
    found = np.concatenate([session(x, [])[0] for x in observations])
    np.testing.assert_allclose(found, np.stack(taken), rtol=1e-5)
    assert np.abs(found[:, 2]).max() == 0.25, "the component without bounds"


def test_an_environment_to_watch_takes_actions_in_the_tasks_units_too():
    """As in ``play.py --export --real-time``."""
    plan = plan_of(f"{SCRIPTS}OneSided-v0", "mlp_ppo")
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        with torch.no_grad():  # beyond every bound
            policy.mlp[-1].bias.fill_(30.0)
        watched = wrap_for_visualizer(env, None, real_time=True)
        actions = _map_to_bounds(policy, watched, {})(watched.get_observations()).detach()
        watched.step(actions)
        np.testing.assert_array_equal(env.latest_infos["action"][0], actions[0].numpy())


def test_targets_without_bounds_are_refused_before_the_environments_open(monkeypatch):
    pytest.importorskip("nir")
    monkeypatch.setattr("spiky_rl.deploy._export.run_export", lambda *_: pytest.fail("the environments open"))
    line = "--task Pendulum-v1 --agent lif_ppo --checkpoint pretrained --device cpu --to c,nir".split()
    with pytest.raises(
        ExportError, match=r"^--to nir: not available .* allowed: other targets, or --raw_actions"
    ):
        export(line)


def test_targets_without_bounds_are_refused_or_raw(tmp_path):
    plan = plan_of(f"{SCRIPTS}Script-v0", "lif_ppo")
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        nir = pytest.importorskip("nir")
        with pytest.raises(ExportError, match="nir.*--raw_actions"):
            write_and_verify(policy, env, tmp_path, _targets.make_targets(["nir"]))
        written = write_and_verify(
            policy, env, tmp_path, _targets.make_targets(["nir", "c"]), raw_actions=True
        )
        assert len(written) == 2 and not env.takes_task_units
    for text in ((tmp_path / "policy.h").read_text(), nir.read(tmp_path / "policy.nir").metadata["usage"]):
        assert "not in the task's units" in text.replace("\n//", "")


def test_a_file_of_raw_actions_gives_the_mapping_that_the_task_applies():
    policy = SimpleNamespace(distribution=SimpleNamespace(actions_text=""))
    bounds = torch.tensor([0.1, -math.inf]), torch.tensor([7.3, 2.0])
    _describe_raw_actions(policy, SimpleNamespace(action_bounds=bounds, clip_actions=0.5))
    text = policy.distribution.actions_text
    assert (
        "middle [3.7, 0.0], scale [3.6" in text
        and "limit [0.5, 0.5], low [-inf, -inf], high [inf, inf]." in text
    )
    policy.distribution.actions_text = "unbounded"
    _describe_raw_actions(
        policy, SimpleNamespace(action_bounds=(torch.tensor([-math.inf]), torch.tensor([math.inf])))
    )
    assert policy.distribution.actions_text == "unbounded"


@pytest.mark.parametrize(
    "task, said",
    [
        ("CartPole-v1", "one number per choice; the largest one is chosen"),
        (f"{SCRIPTS}Choices-v0", "one number per choice, in groups of 2, 3; the largest one of a group"),
    ],
)
def test_a_discrete_policy_is_exported_as_one_number_per_choice(task, said, tmp_path):
    plan = plan_of(task, "lif_ppo")
    with open_env(plan) as env:
        policy = make_policy(plan, env)
        (found,) = write_and_verify(policy, env, tmp_path, _targets.make_targets(["c"])).values()
    assert found.mismatches == 0
    assert said in (tmp_path / "policy.h").read_text().replace("\n// ", " ")
