"""Our commands on mjlab's tasks, and what they refuse. The first start on a machine compiles Warp's kernels for minutes."""

import json
from typing import Any

import pytest

mjlab = pytest.importorskip(
    "mjlab", reason="needs mjlab, which no environment with Isaac Lab has: make test-mjlab"
)
import torch

from spiky_rl.config.schema import TaskSpec
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import NonFiniteError, SimulationOptions, TaskRequest
from spiky_rl.learners import DEFAULT_LEARNER, get_learner
from spiky_rl.metrics.video import RasterPanel, concat_frames

CARTPOLE = "Mjlab-Cartpole-Balance"
GO1 = "Mjlab-Velocity-Flat-Unitree-Go1"
SHORT = ["env.episode_length_s=0.5"]
SMALL = ["--device", "cpu", "--num_envs", 16, "--seed", 3, "agent.num_steps_per_env=10", *SHORT]
"""Rollouts of an episode of ten control steps."""


def results(log_root):
    return [json.loads(p.read_text()) for p in sorted(log_root.glob("rsl_rl/cartpole/*/result.json"))]


@pytest.mark.parametrize("agent", ["lif_ppo", "lif_stateful_ppo"])
def test_a_policy_is_trained_resumed_played_evaluated_and_exported(command, tmp_path, agent):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run = ["--task", CARTPOLE, "--agent", agent, "--log_root", tmp_path]
    code, out, err = command("train", *run, *SMALL, "--max_iterations", 2)
    assert code == 0, err
    (folder,) = tmp_path.glob("rsl_rl/cartpole/*")
    assert str(folder) in out and not any(noise in out + err for noise in ("Module ", "CUDA"))
    (result,) = results(tmp_path)
    assert result["registered"].startswith(f"{CARTPOLE} of mjlab 1.") and result["env_steps"] == 2 * 10 * 16
    assert result["physics"] == "mujoco_warp" and {"mjlab", "mujoco-warp", "mujoco", "warp-lang"} <= set(
        result["versions"]
    )
    assert "decimation: 5" in (folder / "params" / "env.yaml").read_text()

    code, _, err = command("train", *run, "--max_iterations", 1, "--checkpoint", folder)
    assert code == 0, err
    assert sorted(r["env_steps"] for r in results(tmp_path)) == [320, 480]

    code, _, err = command("play", *run, "--checkpoint", folder, "--device", "cpu", "--episodes", 4, *SHORT)
    assert code == 0, err
    played = json.loads((folder / "playback.json").read_text())
    # at most one per control step, times the step's 0.05 s
    assert played["mean_length"] == 10 and 0.1 < played["mean_return"] <= 0.5
    assert played["measures"]["upright"] == pytest.approx(0.5)

    code, _, err = command(
        "evaluate", *run, "--checkpoint", folder, "--device", "cpu", "--episodes", 3, *SHORT
    )
    assert code == 0, err
    evaluated = json.loads((folder / "evaluation.json").read_text())
    assert list(evaluated["conditions"]) == ["nominal"] and "mjlab" in evaluated["versions"]

    to = ["--device", "cpu", "--to", "onnx,c"]
    code, _, err = command("export", *run, "--checkpoint", folder, *to, *SHORT)
    assert code == 0, err
    (header,) = folder.rglob("policy.h")
    text = header.read_text()
    assert "commands to the robot" in text and '#define POLICY_JOINTS {"slider"}' in text
    assert "of slider, rad stands for m" in text
    (exported,) = folder.rglob("*.onnx")
    inputs = [i.name for i in onnxruntime.InferenceSession(exported).get_inputs()]
    assert inputs == (["obs", "state_in"] if agent == "lif_stateful_ppo" else ["obs"])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(command, tmp_path):
    curves = []
    for place, seed in (("a", 3), ("b", 3), ("c", 4)):
        run = ["--task", CARTPOLE, "--agent", "lif_ppo", "--log_root", tmp_path / place, *SMALL]
        assert command("train", *run, "--seed", seed, "--max_iterations", 2, "--no-choose_best")[0] == 0
        (result,) = results(tmp_path / place)
        curves.append(result["curves"]["return"] if "curves" in result else result["mean_return_final"])
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize(
    ("argv", "key", "said"),
    [
        (["--task", "Mjlab-Cartpole-Balanc"], "Mjlab-Cartpole-Balanc", CARTPOLE),
        (
            ["--task", CARTPOLE, "env.rewards.smoth_reward.weight=1"],
            "env.rewards.smoth_reward",
            "'smooth_reward'",
        ),
        (["--task", CARTPOLE, "env.sim.mujoco.timestep=fast"], "env.sim.mujoco.timestep", "'fast'"),
        (["--task", CARTPOLE, "physics=mujoco"], "physics=mujoco", "env.key=value"),
        (["--task", CARTPOLE, "agent.obs_groups.actor=[actr]"], "agent.obs_groups.actor", "'actor'"),
        (["--task", CARTPOLE, "agent.algorithm.use_mixed_precision=true"], "use_mixed_precision", "5.5"),
        (["--task", CARTPOLE, "--assets", "nucleus"], "--assets nucleus", "local"),
        (["--task", CARTPOLE, "--visualizer", "viser"], "--visualizer viser", "mjlab"),
        (["--task", "Mjlab-Tracking-Flat-Unitree-G1"], "env.commands.motion.motion_file", ".npz"),
    ],
)
def test_bad_input_is_one_line_with_the_key_and_what_is_allowed(command, tmp_path, argv, key, said):
    code, _, err = command("train", *argv, "--agent", "lif_ppo", "--device", "cpu", "--log_root", tmp_path)
    assert code == 2 and key in err and said in err and len(err.splitlines()) == 1


def test_other_learners_are_refused():
    with pytest.raises(ValueError, match="--rl_library skrl.*allowed: rsl_rl"):
        find_host(CARTPOLE).load_task(TaskRequest(CARTPOLE, get_learner("skrl")))


def test_a_task_file_takes_out_a_term_and_a_cell_of_a_study_names_the_physics():
    host = find_host(CARTPOLE)
    host.resolve_task(CARTPOLE)
    spec = TaskSpec(id=CARTPOLE, env={"rewards": {"smooth_reward": None}, "decimation": 4})
    learner = get_learner(DEFAULT_LEARNER)
    task: Any = host.load_task(
        TaskRequest(CARTPOLE, learner, task_spec=spec, overrides=["physics=mujoco_warp"])
    )
    assert task.env_cfg.rewards["smooth_reward"] is None and task.env_cfg.decimation == 4


def open_task(name, *overrides):
    task = find_host(name).load_task(TaskRequest(name, get_learner(DEFAULT_LEARNER), overrides=overrides))
    return task.open("cpu", 4, SimulationOptions(seed=0))


def test_groups_of_environments_begin_in_the_same_states_and_broken_actions_are_named():
    find_host(CARTPOLE).resolve_task(CARTPOLE)
    with open_task(CARTPOLE, "env.observations.actor.enable_corruption=false") as env:
        obs = env.restart(torch.arange(4).split(2), seed=5)["actor"]
        assert torch.equal(obs[:2], obs[2:]) and not torch.equal(obs[0], obs[1])
        assert not torch.equal(env.restart(torch.arange(4).split(2), seed=6)["actor"], obs)
        env.set_trained(False)
        actions = torch.zeros(4, 1)
        actions[2] = float("nan")
        with pytest.raises(
            NonFiniteError, match=r"action.*1 of 4 environments, the first is 2|in .* of 4"
        ) as caught:
            env.step(actions)
        assert caught.value.blames_policy
        assert not env.describe_blow_up()
        env.get_observations()["actor"][2] = 1e9
        assert "blown up, with env.sim.mujoco.timestep=" in env.describe_blow_up()


def test_a_picture_is_as_high_as_the_spike_raster_beside_it():
    host = find_host(CARTPOLE)
    host.resolve_task(CARTPOLE)
    task = host.load_task(TaskRequest(CARTPOLE, get_learner(DEFAULT_LEARNER)))
    with task.open("cpu", 1, SimulationOptions(seed=0, video=True)) as env:
        env.reset()
        frame = concat_frames(env.open_camera().render(), RasterPanel().frame())
    assert frame.shape[0] == 480 and frame.shape[1] % 2 == 0


@pytest.mark.slow
def test_go1_walks_a_few_steps_with_measures_of_its_aim(command, tmp_path):
    run = ["--task", GO1, "--agent", "lif_ppo", "--log_root", tmp_path, "env.episode_length_s=0.2"]
    small = ["agent.num_steps_per_env=4", "agent.algorithm.num_mini_batches=1"]
    code, _, err = command("train", *run, *small, "--device", "cpu", "--num_envs", 4, "--max_iterations", 1)
    assert code == 0, err
    (folder,) = tmp_path.glob("rsl_rl/*/*")
    code, _, err = command("play", *run, "--checkpoint", folder, "--device", "cpu", "--episodes", 2)
    assert code == 0, err
    played = json.loads((folder / "playback.json").read_text())
    assert {"distance", "upright", "velocity_error"} <= set(played["measures"])

    to = ["--device", "cpu", "--to", "c"]
    code, _, err = command("export", *run, "--checkpoint", folder, *to)
    assert code == 0, err
    (header,) = folder.rglob("policy.h")
    lines = header.read_text().splitlines()
    positions, velocities = (
        next(line for line in lines if f"actor.joint_{kind}" in line) for kind in ("pos", "vel")
    )
    assert "; of the joints of the actions, minus their default values " in positions
    assert "0.1, 0.9, -1.8, -0.1, 0.9, -1.8, " in positions
    assert velocities.endswith("; of the joints of the actions")
    assert any("target position of " in line and line.endswith(", rad") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["lif_ppo", "lif_stateful_ppo"])
def test_spiking_agents_learn_to_balance(command, tmp_path, agent):
    run = ["--task", CARTPOLE, "--agent", agent, "--log_root", tmp_path, "--device", "cpu", "--seed", 0]
    code, _, err = command(
        "train", *run, "--num_envs", 256, "--max_iterations", 25, "env.episode_length_s=10"
    )
    assert code == 0, err
    (folder,) = tmp_path.glob("rsl_rl/*/*")
    code, _, err = command("play", *run, "--checkpoint", folder, "--episodes", 20, "env.episode_length_s=10")
    assert code == 0, err
    assert json.loads((folder / "playback.json").read_text())["mean_return"] > 8.0, "of at most 10"
