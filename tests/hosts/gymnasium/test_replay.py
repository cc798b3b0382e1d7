"""TD3 and SAC on Gymnasium's tasks, through the commands."""

import json

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")

from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

SMALL = [
    *("agent.critic.hidden_dims=[16]", "agent.algorithm.batch_size=16", "agent.algorithm.replay_size=1000"),
    *("agent.algorithm.learning_starts=50", "agent.algorithm.random_steps=50", "agent.num_steps_per_env=50"),
]
TRAIN = ["--device", "cpu", "--num_envs", 2, "--max_iterations", 2]


def last_result(folder):
    (found,) = folder.glob("*/*/*/result.json")
    return json.loads(found.read_text())


@pytest.mark.slow
def test_an_agent_trains_resumes_plays_and_is_evaluated_without_naming_a_library(command, tmp_path):
    own = ["--task", "Pendulum-v1", "--agent", "lif_td3", "--log_root", tmp_path]
    # The target matters to a training alone.
    trained = ["agent.network.layers=[8, 8]", "agent.algorithm.target=proxy"]
    code, _, stderr = command("train", *own, *TRAIN, *SMALL, *trained)
    assert code == 0, stderr
    result = last_result(tmp_path)
    assert (result["library"], result["outcome"], result["env_steps"]) == ("skrl", "finished", 200)
    assert 0.0 < result["firing_rate"] < 1.0
    resumed = [*own, "--checkpoint", "latest", *SMALL, "agent.network.layers=[8, 8]"]
    code, _, stderr = command("play", *resumed, "--episodes", 2, "--device", "cpu", "--export")
    assert code == 0, stderr
    (played,) = tmp_path.glob("*/*/*/playback.json")
    assert (played.parent / "exported").is_dir()
    assert -2000.0 < json.loads(played.read_text())["mean_return"] < 0.0
    code, _, stderr = command(
        "evaluate", *resumed, "--episodes", 2, "--conditions", "nominal", "--device", "cpu"
    )
    assert code == 0, stderr
    code, _, stderr = command("train", *resumed, "--max_iterations", 1)
    assert code == 0, stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/*/result.json")]
    assert max(result["env_steps"] for result in results) == 300


@pytest.mark.parametrize(
    ("agent", "flags", "words"),
    [
        ("lif_td3", ["--rl_library", "rsl_rl"], ["--rl_library rsl_rl", "TD3", "allowed: skrl"]),
        ("lif_td3", ["agent.network.stateful=true"], ["agent.network.stateful", "true", "allowed: false"]),
        ("lif_sac", ["agent.algorithm.replay_size=2000000000"], ["agent.algorithm.replay_size"]),
        ("lif_ppo", ["agent.algorithm.batch_size=8"], ["agent.algorithm.batch_size", "TD3, SAC"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, agent, flags, words, tmp_path):
    code, _, stderr = command(
        "train", "--task", "Pendulum-v1", "--agent", agent, "--device", "cpu", "--log_root", tmp_path, *flags
    )
    assert code == 2
    lines = [line for line in stderr.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, stderr
    assert not list(tmp_path.glob("*/*"))


def test_replay_has_one_environment_by_default_and_rollouts_have_those_of_the_task():
    wanted = {("lif_td3", None): 1, ("mlp_sac", None): 1, ("lif_ppo", None): 32, ("lif_td3", 4): 4}
    for (agent, given), count in wanted.items():
        request = RunRequest(task="Pendulum-v1", agent=agent, device="cpu", num_envs=given)
        assert make_plan(request).num_envs == count


@pytest.mark.parametrize("verb", ["train --agent", "show agents"])
def test_discrete_actions_are_refused_by_trainings_and_by_what_describes_them(verb, command, tmp_path):
    folder = ["--log_root", tmp_path] if verb.startswith("train") else []
    code, _, stderr = command(*verb.split(), "lif_td3", "--task", "CartPole-v1", *folder)
    assert code == 2 and "--task CartPole-v1: discrete actions are not available with TD3" in stderr


@pytest.mark.slow
def test_a_spiking_actor_swings_the_pendulum_up_by_td3(command, tmp_path):
    own = ["--task", "Pendulum-v1", "--agent", "lif_td3", "--log_root", tmp_path, "--device", "cpu"]
    code, _, stderr = command("train", *own, "--num_envs", 1, "--budget", "env_steps=10000")
    assert code == 0, stderr
    code, _, stderr = command("play", *own, "--checkpoint", "best", "--episodes", 10)
    assert code == 0, stderr
    (played,) = tmp_path.glob("*/*/*/playback.json")
    assert json.loads(played.read_text())["mean_return"] >= -250.0  # -148 measured


@pytest.mark.slow
def test_a_spiking_actor_holds_the_inverted_pendulum_by_td3_as_it_ships(command, tmp_path):
    own = ["--task", "InvertedPendulum-v5", "--agent", "lif_td3", "--log_root", tmp_path, "--device", "cpu"]
    code, _, stderr = command("train", *own, "--seed", 11)
    assert code == 0, stderr
    assert last_result(tmp_path)["max_evaluation"] >= 900.0  # 1000 measured from step 5,500 on
    code, _, stderr = command("evaluate", *own, "--checkpoint", "best", "--episodes", 10, "--seed", 1000)
    assert code == 0, stderr
    (path,) = tmp_path.glob("*/*/*/evaluation.json")
    assert json.loads(path.read_text())["conditions"]["nominal"]["mean_return"] >= 900.0
