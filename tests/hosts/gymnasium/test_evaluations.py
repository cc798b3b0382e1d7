"""Evaluations during a training: their schedule, their values, what they leave alone, and their place in results."""

import json

import pytest
import torch
from pydantic import ValidationError

from spiky_rl.config.options import UserError
from spiky_rl.hosts import get_host
from spiky_rl.hosts.base import SECOND_SIMULATION
from spiky_rl.learners.common.checkpoint_names import list_checkpoints
from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.run import run_folders
from tests.hosts.gymnasium.scripted import SCRIPTS

REPLAY = [
    *("agent.critic.hidden_dims=[16]", "agent.algorithm.batch_size=16", "agent.algorithm.replay_size=1000"),
    *("agent.algorithm.learning_starts=30", "agent.algorithm.random_steps=20", "agent.num_steps_per_env=20"),
    *("agent.network.layers=[8, 8]", "agent.network.encoder.mode=poisson", "agent.save_interval=1"),
    "agent.algorithm.updates_per_step=0.25",
]
NOISY = ["--agent", "lif_population_td3", "--num_envs", 2, "env.max_episode_steps=30", *REPLAY]
"""TD3 with a random encoder, of 40 environment steps per iteration."""
ROLLOUTS = ["--agent", "lif_ppo", "--num_envs", 32, "agent.num_steps_per_env=8"]
ROLLOUTS += ["agent.algorithm.num_learning_epochs=1"]


def run(command, folder, *flags, task="Pendulum-v1"):
    """Train; return the run folder of the newest run, and its result."""
    code, out, stderr = command(
        "train", "--task", task, "--log_root", folder, "--device", "cpu", "--seed", 7, *flags
    )
    assert code == 0, stderr
    newest = max(folder.glob("*/*/*/run.json"), key=lambda path: json.loads(path.read_text())["created_at"])
    return newest.parent, json.loads((newest.parent / "result.json").read_text()), out


def load_tensors(folder):
    checkpoint = torch.load(list_checkpoints(folder)[-1], weights_only=True)
    policy = checkpoint.get("policy", checkpoint.get("actor_state_dict"))
    return {name: value for name, value in policy.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    "agent", [pytest.param(NOISY, id="td3"), pytest.param(ROLLOUTS, id="ppo", marks=pytest.mark.slow)]
)
def test_a_training_is_the_same_with_and_without_evaluations(command, agent, tmp_path):
    if agent is NOISY:
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    flags = [*agent, "--max_iterations", 3, "--no-choose_best"]
    plain, without, _ = run(command, tmp_path / "plain", *flags, "agent.evaluation_interval=0")
    more = ["agent.evaluation_interval=40", "agent.evaluation_episodes=2"]
    evaluated, result, _ = run(command, tmp_path / "evaluated", *flags, *more)
    first, second = load_tensors(plain), load_tensors(evaluated)
    assert first.keys() == second.keys() and first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert without["curve"]["return"] == result["curve"]["return"]
    assert "max_evaluation" not in without and len(result["evaluations"]["mean_return"]) == 3


@pytest.mark.slow
def test_values_are_mean_returns_of_whole_episodes_and_stand_in_results_and_tensorboard(command, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    every = ["agent.evaluation_interval=500", "agent.evaluation_episodes=3", "--max_iterations", 6]
    folder, result, out = run(command, tmp_path, *ROLLOUTS, *every, task=f"{SCRIPTS}Script-v0")
    # 256 steps per iteration: multiples of 500 are passed by the second, fourth and sixth iteration
    assert result["evaluations"] == {"env_steps": [512, 1024, 1536], "mean_return": [15.0] * 3}
    assert result["last_ten_evaluations"] == result["max_evaluation"] == 15.0
    assert result["seconds_evaluation"] > 0.0 and "15.00 over the last 3, 15.00 at best" in out
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = events.Scalars("Evaluation/mean_return")
    assert [(event.step, event.value) for event in scalars] == [(1, 15.0), (3, 15.0), (5, 15.0)]


@pytest.mark.slow
def test_an_interrupted_training_is_evaluated_as_an_uninterrupted_one(command, tmp_path):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    every = ["agent.evaluation_interval=60", "agent.evaluation_episodes=2", "--no-choose_best"]
    _, whole, _ = run(command, tmp_path / "whole", *NOISY, *every, "--max_iterations", 6)
    folder, _, _ = run(command, tmp_path / "parts", *NOISY, *every, "--max_iterations", 4)
    # the training ended after the third iteration, before its checkpoint of the fourth
    list_checkpoints(folder)[-1].unlink()
    _, parts, _ = run(
        command, tmp_path / "parts", *NOISY, *every, "--max_iterations", 3, "--checkpoint", folder
    )
    steps = parts["evaluations"]["env_steps"]
    assert steps == whole["evaluations"]["env_steps"] == [80, 120, 200, 240]
    first, second = whole["evaluations"]["mean_return"], parts["evaluations"]["mean_return"]
    assert first[:2] == second[:2] and len(second) == 4
    assert len(set(first)) > 1, "evaluations begin in other states each time"


def test_the_best_checkpoint_is_that_of_the_highest_evaluation(command, tmp_path):
    every = ["agent.evaluation_interval=256", "agent.evaluation_episodes=2", "--max_iterations", 5]
    folder, result, _ = run(command, tmp_path, *ROLLOUTS, *every, "env.max_episode_steps=40")
    returns = result["evaluations"]["mean_return"]
    assert len(returns) == 5 and "best" not in result
    assert torch.load(folder / "best.pt", weights_only=True)["iter"] == returns.index(max(returns))


@pytest.mark.slow
def test_a_training_without_an_evaluation_yet_has_a_best_checkpoint_as_others_have(command, tmp_path):
    every = ["agent.evaluation_interval=100000", "--max_iterations", 4, "env.max_episode_steps=10"]
    folder, result, _ = run(command, tmp_path, *ROLLOUTS, *every)
    assert (folder / "best.pt").is_file() and "evaluations" not in result and result["best"] is not None


@pytest.mark.slow
def test_a_resumed_training_without_a_new_evaluation_has_a_best_checkpoint_too(command, tmp_path):
    flags = [*ROLLOUTS, "agent.evaluation_episodes=2", "env.max_episode_steps=10"]
    first, _, _ = run(command, tmp_path, *flags, "agent.evaluation_interval=256", "--max_iterations", 2)
    more = ["agent.evaluation_interval=100000", "--max_iterations", 3, "--checkpoint", first]
    folder, result, _ = run(command, tmp_path, *flags, *more)
    assert folder != first and len(result["evaluations"]["mean_return"]) == 2
    assert (folder / "best.pt").is_file() and result["best"] is not None


def test_means_are_of_the_last_ten_and_the_maximum_is_of_all():
    returns = [float(value) for value in (50, *range(12))]
    progress = TrainingProgress(evaluations=returns, evaluation_steps=list(range(13)))
    found = run_folders.summarize_evaluations(progress)
    assert found["last_ten_evaluations"] == sum(range(2, 12)) / 10 and found["max_evaluation"] == 50.0
    assert run_folders.summarize_evaluations(TrainingProgress()) == {}
    with pytest.raises(ValidationError, match="per evaluation"):
        TrainingProgress(evaluations=[1.0], evaluation_steps=[])


def test_a_host_without_a_second_simulation_is_refused_by_the_key():
    key = "agent.evaluation_interval=5000"
    get_host("gymnasium").require_ability(SECOND_SIMULATION, key)
    for host in ("isaaclab", "mjlab"):
        with pytest.raises(UserError, match=f"{key}.*{get_host(host).title}"):
            get_host(host).require_ability(SECOND_SIMULATION, key)


def test_a_training_that_cannot_be_evaluated_leaves_no_run(command, tmp_path):
    flags = ["--task", "Pendulum-v1", "--agent", "lif_ppo", "--log_root", tmp_path, "--device", "cpu"]
    for override in ("agent.evaluation_interval=-1", "agent.evaluation_episodes=0"):
        code, _, stderr = command("train", *flags, override)
        assert code == 2 and override.partition("=")[0] in stderr and not list(tmp_path.glob("*/*"))
