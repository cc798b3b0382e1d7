"""Commands on Gymnasium's tasks, from training to film, and what they refuse."""

import json
import os
import subprocess
import sys

import pytest

from spiky_rl.run.run_folders import MANIFEST
from tests.hosts.gymnasium.scripted import SCRIPTS

SMALL = ["--device", "cpu", "--num_envs", 32, "agent.num_steps_per_env=8"]


def get_folder(log_root):
    (result,) = log_root.glob("rsl_rl/*/*/result.json")
    return result.parent


@pytest.mark.slow
def test_a_policy_is_trained_resumed_played_filmed_and_evaluated(command, tmp_path):
    run = ["--task", f"{SCRIPTS}Script-v0", "--agent", "lif_ppo", "--log_root", tmp_path]
    code, out, _ = command("train", *run, *SMALL, "--max_iterations", 2)
    folder = get_folder(tmp_path)
    assert code == 0 and str(folder) in out
    assert (folder / "params" / "env.yaml").read_text().startswith("id: Scripted/Script-v0")
    result = json.loads((folder / "result.json").read_text())
    assert result["registered"].startswith("Scripted/Script-v0") and result["env_steps"] == 2 * 8 * 32
    # 1 + 2 + 3 + 4 + 5, unscaled though PPO learns from scaled rewards
    assert result["mean_return_final"] == pytest.approx(15.0)

    code, _, _ = command("train", *run, *SMALL, "--max_iterations", 1, "--checkpoint", folder)
    assert code == 0
    results = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("rsl_rl/*/*/result.json"))]
    assert sorted(r["env_steps"] for r in results) == [512, 768]

    play = ["--checkpoint", folder, "--device", "cpu", "--episodes", 4, "--video", "--video_length", 12]
    code, _, stderr = command("play", *run, *play)
    assert code == 0, stderr
    played = json.loads((folder / "playback.json").read_text())
    assert played["mean_return"] == 15.0 and played["mean_length"] == 5
    (film,) = folder.glob("videos/play/*.mp4")
    assert film.stat().st_size > 1000

    code, _, stderr = command("evaluate", *run, "--checkpoint", folder, "--device", "cpu", "--episodes", 3)
    assert code == 0, stderr
    evaluated = json.loads((folder / "evaluation.json").read_text())
    assert list(evaluated["conditions"]) == ["nominal"]
    assert evaluated["conditions"]["nominal"]["returns"] == [15.0] * 3


@pytest.mark.slow
def test_a_broken_simulation_ends_an_evaluation_in_one_line(command, tmp_path):
    run = ["--task", f"{SCRIPTS}Broken-v0", "--agent", "lif_ppo", "--checkpoint", "random", "--device", "cpu"]
    out = tmp_path / "evaluation.json"
    code, _, stderr = command("evaluate", *run, "--episodes", 2, "env.step=2", "--out", out)
    assert code == 1 and not out.exists()
    assert stderr.splitlines()[-1] == "error: an observation of Scripted/Broken-v0 is not finite"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(command, tmp_path):
    curves = []
    for place in ("a", "b"):
        run = ["--task", "Pendulum-v1", "--log_root", tmp_path / place, "--seed", 3, "--max_iterations", 3]
        assert command("train", *run, *SMALL, "env.max_episode_steps=20")[0] == 0
        curves.append(
            json.loads((get_folder(tmp_path / place) / "result.json").read_text())["curve"]["return"]
        )
    assert curves[0] == curves[1] and len(set(curves[0])) > 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--task", "HalfCheeta-v5"], ["--task", "'HalfCheeta-v5'", "HalfCheetah-v5"]),
        (["--task", f"{SCRIPTS}Series-v0"], ["Series-v0", "Sequence observations", "allowed: Box"]),
        (
            ["--task", f"{SCRIPTS}Mission-v0"],
            ["Mission-v0", "Graph observations.mission.1 are not available"],
        ),
        (["--task", f"{SCRIPTS}Words-v0"], ["Words-v0", "Text actions", "allowed: Box, Discrete"]),
        (
            ["--task", f"{SCRIPTS}Choices-v0", "agent.actor.distribution_cfg.choices=[3,2]"],
            ["distribution_cfg.choices", "[3, 2]", "allowed", "[2, 3]"],
        ),
        (
            ["--task", f"{SCRIPTS}Choices-v0", "--rl_library", "skrl"],
            ["distribution_cfg.choices", "[2, 3]", "allowed"],
        ),
        (
            ["--task", f"{SCRIPTS}Picture-v0", "--agent", "mlp_ppo", "agent.actor.class_name=MLPModel"],
            ["agent.actor.class_name", "MLPModel", "images", "CNNModel"],
        ),
        (["--task", "no_such_module:Task-v0"], ["--task", "no_such_module"]),
        (["env.max_episode_step=1"], ["env.max_episode_step", "allowed: g, max", "mean 'max_episode_steps'"]),
        (["env.g=heavy"], ["env.g='heavy'", "Pendulum-v1", "TypeError"]),
        (
            ["--task", "Ant-v5", "env.frame_skip=0", "env.width=9"],
            ["env.frame_skip=0", "Ant-v5", "ZeroDivision"],
        ),
        (["env.gravity=1", "env.g=1"], ["env.gravity", "unknown", "allowed: g, max"]),
        (["agent.init_at_random_ep_len=true"], ["agent.init_at_random_ep_len", "true", "allowed: false"]),
        (["env.vectorization_mode=fork"], ["env.vectorization_mode", "'fork'", "sync, async"]),
        (
            ["--task", f"{SCRIPTS}Lenient-v0", "env.num_envs=4"],
            ["env.num_envs: 4 given", "allowed: --num_envs"],
        ),
        (["--task", f"{SCRIPTS}Lenient-v0", "env.wrappers=null"], ["env.wrappers: None given"]),
        (["physics=mujoco"], ["physics=mujoco", "Gymnasium"]),
        (["env.a.b=1"], ["env.a.b=1", "env.KEY=VALUE"]),
        (["--visualizer", "viser"], ["--visualizer viser", "no live view"]),
        (["--assets", "nucleus"], ["--assets nucleus", "Gymnasium"]),
        (["agent.obs_groups.actor=[polcy]"], ["agent.obs_groups.actor", "'polcy'", "allowed: policy"]),
        (
            ["agent.actor.distribution_cfg.class_name=CategoricalDistribution"],
            ["distribution_cfg.class_name", "continuous", "GaussianDistribution"],
        ),
        (
            ["--task", "CartPole-v1", "agent.actor.distribution_cfg.class_name=GaussianDistribution"],
            ["distribution_cfg.class_name", "discrete", "CategoricalDistribution"],
        ),
        (["--agent", "lif_stateful_ppo", "--num_envs", 8], ["--num_envs 8", "at least 32"]),
        (["--video", "env.vectorization_mode=async"], ["--video", "env.vectorization_mode=sync"]),
    ],
)
def test_unsupported_input_is_refused_in_one_line(command, arguments, words, tmp_path):
    task = [] if "--task" in arguments else ["--task", "Pendulum-v1"]
    code, _, stderr = command("train", *task, *arguments, "--device", "cpu", "--log_root", tmp_path)
    lines = [line for line in stderr.splitlines() if "error:" in line]
    assert code == 2 and len(lines) == 1 and "Traceback" not in stderr, stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert not list(tmp_path.rglob(MANIFEST)), "refused before a run folder is made"


def test_a_network_that_does_not_take_the_observations_is_refused_before_a_run_begins(command, tmp_path):
    run = "--task Pendulum-v1 --agent lif_conv_ppo --device cpu --log_root".split()
    code, _, stderr = command("train", *run, tmp_path / "logs")
    assert code == 2 and "error: agent.network: convolutional: the signal is a vector of 3 " in stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("conditions", ["push", "stress,action_delay_1"])
def test_conditions_of_robots_are_refused(command, conditions, tmp_path):
    code, _, stderr = command("evaluate", "--task", "Pendulum-v1", "--conditions", conditions)
    assert code == 2 and "--conditions" in stderr and "nominal" in stderr


def test_stress_says_that_it_measures_nominal_alone(command, tmp_path):
    run = "--task Pendulum-v1 --checkpoint random --device cpu --episodes 1 --conditions stress --out".split()
    code, _, stderr = command("evaluate", *run, tmp_path / "result.json")
    assert code == 0 and "stress leaves out on Pendulum-v1: all but nominal" in stderr


def test_ids_are_read_from_gymnasiums_source_as_it_registers_them():
    """Without the ids that Gymnasium keeps only to say that they are gone, and its wrappers of old environments."""
    code = (
        "import sys; from spiky_rl.hosts.gymnasium import host; ids = host._list_ids(); early = 'gymnasium' in sys.modules\n"
        "import gymnasium, re; missing = set(gymnasium.registry) - set(ids)\n"
        "assert not early and set(ids) <= set(gymnasium.registry)\n"
        "assert all(re.search('^GymV|-v[23]$', name) for name in missing), missing"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("graphics", ["egl", "disable"])
def test_mujoco_draws_without_a_display_or_the_remedy_is_named(graphics):
    """In a process of its own, since MuJoCo reads its graphics once."""
    code = (
        "import os, sys; os.environ.pop('DISPLAY', None)\n"
        "from spiky_rl.hosts import find_host\n"
        "from spiky_rl.hosts.base import SimulationOptions, TaskRequest\n"
        "from spiky_rl.config.options import UserError\n"
        "host = find_host('Hopper-v5'); host.require_installed(video=True)\n"
        "task = host.load_task(TaskRequest('Hopper-v5', None))\n"
        "try:\n"
        "    with task.open('cpu', 1, SimulationOptions(seed=0, video=True)) as env:\n"
        "        print(env.open_camera().render().shape, env.open_camera().render().std() > 1)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    environment |= {} if graphics == "egl" else {"MUJOCO_GL": graphics}
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    if graphics == "disable" or "MUJOCO_GL" in run.stdout:  # no EGL on this machine
        assert "--video" in run.stdout and "egl" in run.stdout
    else:
        assert "(480, 480, 3) True" in run.stdout
