"""A critic with observations of its own, as examples/asymmetric_ppo.yaml has it: the actor does not see them."""

import json
from pathlib import Path

import pytest
import torch

from spiky_rl.config.spec import resolve_agent
from spiky_rl.learners import get_learner
from tests import processes
from tests.hosts.point_env import PointEnv, config

EXAMPLES = Path(__file__).parents[2] / "examples"
AGENT = EXAMPLES / "asymmetric_ppo.yaml"
LIBRARIES = ["rsl_rl", "skrl"]


class Privileged(PointEnv):
    """The actor observes positions, the critic velocities too, and not the actor's own."""

    def get_observations(self):
        obs = super().get_observations()
        obs["critic"] = obs["policy"].clone()
        obs["policy"] = obs["policy"][:, :2]
        return obs


def make_runner(library):
    if library == "skrl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    host = config() | {"algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}}
    spec = resolve_agent(str(AGENT), "Isaac-Point", host, ["agent.network.layers=[16]"])
    learner = get_learner(library)
    torch.manual_seed(0)
    settings = learner.make_runner_cfg(spec) | {"save_interval": 100}
    return learner.get_runner_class("ppo")(Privileged(), settings)


def evaluate(library, run, obs):
    """Return the mean actions and the values of observations."""
    with torch.no_grad():
        if library == "rsl_rl":
            run.alg.actor.reset()
            return run.alg.actor(obs), run.alg.critic(obs)
        seen = run.environment
        inputs = {
            "observations": seen.get_actor_observations(obs),
            "states": seen.get_critic_observations(obs),
        }
        policy, value = run.policy, run.value
        return policy.compute_sequences(inputs)[0], value.compute_sequences(inputs)[0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_the_critic_reads_its_group(library):
    run = make_runner(library)
    before = [weight.clone() for model in run.models for weight in model.parameters()]
    run.learn(2)
    after = [weight for model in run.models for weight in model.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(before) // 2
    obs = run.env.get_observations()
    other, blind = obs.clone(), obs.clone()
    other["critic"] = obs["critic"] + 1.0
    blind["policy"] = obs["policy"] + 1.0
    actions, values = evaluate(library, run, obs)
    same_actions, other_values = evaluate(library, run, other)
    other_actions, same_values = evaluate(library, run, blind)
    assert torch.equal(actions, same_actions) and not torch.allclose(actions, other_actions)
    assert torch.equal(values, same_values) and not torch.allclose(values, other_values)


@pytest.mark.parametrize("library", ["rsl_rl", pytest.param("skrl", marks=pytest.mark.slow)])
def test_the_task_of_the_example_trains(library, tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    if library == "skrl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    line = ["--task", f"{EXAMPLES / 'asymmetric_critic.py'}:Own-Asymmetric-Cartpole", "--agent", AGENT]
    line += ["--rl_library", library, "--device", "cpu", "--assets", "local", "--log_root", tmp_path]
    done = processes.run("scripts/train.py", *line, "--num_envs", 16, "--max_iterations", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["outcome"] == "finished"
    checkpoint = torch.load(result.parent / "model_0.pt", weights_only=True)
    keys = ("actor_state_dict", "critic_state_dict") if library == "rsl_rl" else ("policy", "value")
    shapes = [
        {tuple(value.shape) for value in checkpoint[key].values() if hasattr(value, "shape")} for key in keys
    ]
    assert (2, 128) in shapes[0] and (4, 128) not in shapes[0], "positions"
    assert (32, 4) in shapes[1], "and velocities for the critic"
