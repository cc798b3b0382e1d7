"""Every bad command line ends in exit code 2 and one line that names key, value and remedy, and makes no run folder."""

import functools
import importlib.util
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spiky_rl.cli.play import play
from spiky_rl.cli.show import show
from spiky_rl.cli.train import train
from spiky_rl.learners import list_learners
from spiky_rl.learners.common.checkpoints import get_random_state
from tests.agents import mark_slow
from tests.cli.refusals import run_command, run_lines

if find_spec("isaaclab") is None:
    pytest.skip("Isaac Lab is not installed: the extra 'isaaclab'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {"train": train, "play": play, "show": show}
CARTPOLE = ["--task", "cartpole", "--device", "cpu", "--assets", "local"]


@pytest.fixture
def command(capsys):
    """Runs a command in this process; returns its exit code and what it wrote to stderr."""

    return lambda name, *argv: (run_command(COMMANDS[name], argv), capsys.readouterr().err)


def assert_refused(code: int, stderr: str, *words: str) -> None:
    """Exit code 2, no traceback, and one line about the error, which has all these words."""
    assert code == 2, stderr
    lines = [line for line in stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    assert stderr.endswith(lines[0] + "\n"), "nothing follows the error"
    for word in words:
        assert word in lines[0], lines[0]


def assert_no_run(log_root: Path) -> None:
    assert not list(log_root.glob("*rl/**/*")), "a run folder was made"


LIGHT = {
    "unknown agent": (["--agent", "lif_pppo"], ["agent", "'lif_pppo'", "mlp_ppo", "mean 'lif_ppo'"]),
    "value with a flag": (["env.scene.num_envs=8"], ["'env.scene.num_envs=8'", "use --num_envs"]),
    "agent file": (["--agent", "no/such.yaml"], ["cannot read 'no/such.yaml'", "No such file"]),
    "override key": (["agent.algoritm.gamma=0.9"], ["agent.algoritm", "mean 'algorithm'"]),
    "inner override key": (["agent.algorithm.gama=0.9"], ["agent.algorithm.gama", "mean 'gamma'"]),
    "wrong type": (["agent.algorithm.gamma=high"], ["agent.algorithm.gamma", "'high'", "a number"]),
    "out of range": (["agent.algorithm.gamma=1.5"], ["algorithm.gamma", "1.5", "between 0.0 and 1.0"]),
    "choice": (["agent.algorithm.schedule=fix"], ["schedule", "'fix'", "adaptive, fixed", "mean 'fixed'"]),
    "no override": (["algorithm.gamma=0.9"], ["'algorithm.gamma=0.9'", "agent.key=value", "env.key=value"]),
    "device": (["--device", "tpu"], ["--device 'tpu'", "allowed: cpu, cuda, cuda:N"]),
    "no environments": (["--num_envs", "0"], ["--num_envs", "0 is out of range; it must be between 1 and"]),
    "fewer than none": (["--num_envs", "-3"], ["--num_envs", "-3 is out of range; it must be between 1 and"]),
    "text for a count": (["--num_envs", "many"], ["--num_envs", "expected a whole number, got 'many'"]),
    "unknown flag": (["--num-envs", "8"], ["--num-envs", "mean '--num_envs'"]),
    "library": (["--rl_library", "skrll"], ["--rl_library", "'skrll'", "rsl_rl"]),
    "experiment above": (["--experiment_name", "../x"], ["--experiment_name '../x'", "plain folder name"]),
    "absolute experiment": (["--experiment_name", "/tmp/x"], ["--experiment_name '/tmp/x'", "plain folder"]),
    "assets": (["--assets", "cloud"], ["--assets", "'cloud'", "'auto', 'local', 'nucleus'"]),
    "visualizer": (["--viz", "vizer"], ["--visualizer", "'vizer'", "viser, rerun", "mean 'viser'"]),
    "no visualizer": (["--visualizer="], ["--visualizer", "''", "none alone"]),
    "visible": (
        ["--max_visible_envs", "0"],
        ["--max_visible_envs", "0 is out of range; it must be between 1 and"],
    ),
}


@pytest.mark.parametrize("name", ["train", "play"])
@pytest.mark.parametrize("case", LIGHT)
def test_what_needs_no_simulator_is_refused_without_one(case, name, command, tmp_path):
    arguments, words = LIGHT[case]
    result = command(name, "--task", "cartpole", "--log_root", tmp_path, *arguments)
    assert_refused(*result, *words)
    assert len(result[1].splitlines()) == 1
    assert_no_run(tmp_path)


TRAINING = {
    "iterations": (["--max_iterations", "x"], ["--max_iterations", "expected a whole number, got 'x'"]),
    "no iterations": (
        ["--max_iterations", "0"],
        ["--max_iterations", "0 is out of range; it must be between 1 and"],
    ),
    "abbreviated flag": (["--max_iter", "3"], ["--max_iter", "mean '--max_iterations'"]),
    "logger": (["--logger", "tensorbord"], ["--logger", "'tensorbord'", "'tensorboard'"]),
    "project without a place": (
        ["--log_project_name", "ants"],
        ["--log_project_name ants", "--logger tensorboard"],
    ),
    "length without a video": (["--video_length", "99"], ["--video_length 99", "--video"]),
    "interval without videos": (["--video_interval", "99"], ["--video_interval 99", "--video"]),
    "distributed": (["--distributed"], ["--distributed", "torchrun"]),
    "distributed skrl": (["--rl_library", "skrl", "--distributed"], ["--distributed", "--rl_library skrl"]),
    "processes skrl": (["--rl_library", "skrl", "--processes", "2"], ["--processes", "--rl_library skrl"]),
    "no processes": (["--processes", "0"], ["--processes: 0", "between 1 and"]),
    "run name above": (["--run_name", "../x"], ["--run_name '../x'", "plain folder name"]),
    "run name with a folder": (["--run_name", "a/b"], ["--run_name 'a/b'", "plain folder name"]),
    "two lengths": (
        ["--budget", "wall=3", "agent.max_iterations=3"],
        ["--budget and agent.max_iterations=3"],
    ),
    "two iterations": (
        ["--max_iterations", "3", "agent.max_iterations=5"],
        ["--max_iterations and agent.max_iterations=5"],
    ),
    "two budgets": (["--budget", "wall=3", "--max_iterations", "3"], ["--budget and --max_iterations"]),
    "unknown budget": (["--budget", "steps=3"], ["--budget", "'steps'", "mean 'env_steps'"]),
    "empty budget": (["--budget", "wall=0"], ["--budget", "wall", "'0'"]),
}


@pytest.mark.parametrize("case", TRAINING)
def test_what_training_alone_takes_is_refused_too(case, command, tmp_path):
    arguments, words = TRAINING[case]
    assert_refused(*command("train", "--task", "cartpole", "--log_root", tmp_path, *arguments), *words)
    assert_no_run(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so cuda is no error")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(device, command, tmp_path):
    result = command("train", "--task", "cartpole", "--device", device, "--log_root", tmp_path)
    assert_refused(*result, f"--device {device}", "no CUDA GPU", "--device cpu")


@pytest.mark.parametrize("name", ["train", "play"])
def test_a_visualizer_that_cannot_run_here_is_refused(name, command, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    arguments = ["--task", "cartpole", "--log_root", tmp_path, "--viz"]
    assert_refused(*command(name, *arguments, "newton_gl"), "newton_gl", "DISPLAY", "viser or rerun")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    line = "in a clone: pip install '.[live]'"
    assert_refused(*command(name, *arguments, "viser"), "--visualizer viser", "viser is not installed", line)
    assert_no_run(tmp_path)


def test_no_task_is_refused(command):
    assert_refused(*command("train"), "--task")


def test_a_log_folder_that_cannot_be_one_is_refused(command, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        result = command("train", "--task", "cartpole", "--log_root", folder)
        assert_refused(*result, f"--log_root: cannot write to {str(folder)!r}")


def test_an_agent_file_is_refused_by_file_and_key(command, tmp_path):
    path = tmp_path / "mine.yaml"
    arguments = ["--task", "cartpole", "--log_root", tmp_path, "--agent", path]
    path.write_text("algorithm: {gama: 0.9}", encoding="utf-8")
    assert_refused(*command("train", *arguments), "mine.yaml", "agent.algorithm.gama", "mean 'gamma'")
    path.write_text("algorithm: {gamma: 0.9", encoding="utf-8")
    assert_refused(*command("train", *arguments), "mine.yaml", "not valid YAML", "line 1")
    path.write_bytes(b"\xff\xfe\x00")
    assert_refused(*command("train", *arguments), "mine.yaml", "not valid YAML")


SHOW = {
    "kind": (["nuerons"], ["'nuerons'", "neurons"]),
    "agent": (["agents", "lif_pp"], ["unknown agent 'lif_pp'", "mean 'lif_ppo'"]),
    "task": (["tasks", "cartpol"], ["unknown task 'cartpol'", "mean 'cartpole'"]),
    "component": (["surrogates", "arctan"], ["unknown surrogate 'arctan'", "mean 'arctangent'"]),
    "override": (["agents", "lif_ppo", "agent.algorithm.gama=1"], ["agent.algorithm.gama", "mean 'gamma'"]),
    "flag": (["agents", "--tsak", "cartpole"], ["--tsak", "mean '--task'"]),
    "task of a neuron": (["neurons", "lif", "--task", "cartpole"], ["--task: only available for an agent"]),
    "task of no agent": (["agents", "--task", "cartpole"], ["--task: only available for an agent"]),
    "library alone": (["agents", "lif_ppo", "--rl_library", "skrl"], ["--rl_library: needs --task"]),
}


@pytest.mark.parametrize("case", SHOW)
def test_show_refuses_what_it_does_not_know(case, command):
    arguments, words = SHOW[case]
    assert_refused(*command("show", *arguments), *words)


@pytest.mark.parametrize("name", ["train", "play"])
def test_flags_and_overrides_may_stand_in_any_order(name, command):
    good = ["agent.save_interval=1", "--task", "cartpole", "agent.algorithm.gamma=0.9", "--agent", "lif_ppo"]
    assert_refused(*command(name, *good, "agent.algorithm.gama=1"), "agent.algorithm.gama", "mean 'gamma'")


def test_a_folder_of_robots_that_is_not_there_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", "no/robots")
    result = command("train", "--task", "cartpole", "--device", "cpu", "--log_root", tmp_path)
    assert_refused(*result, "ISAACSIM_ASSET_ROOT=no/robots is no folder")
    assert_no_run(tmp_path)


@pytest.mark.parametrize("script", ["train", "play", "show"])
def test_scripts_hand_on_the_exit_code(script):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--nonsense"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_refused(done.returncode, done.stderr, f"{script}.py: error:")


def test_a_reader_that_stops_reading_is_no_failure():
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "show.py"), "neurons"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)


def test_show_merges_an_agent_with_the_configuration_of_the_library_asked_for(capsys):
    rows = {}
    for library in list_learners():
        assert show(["agents", "lif_ppo", "--task", "cartpole", "--rl_library", library]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows[library] = {line[0]: line[1] for line in lines if len(line) > 2}
    assert [rows[library]["algorithm.num_learning_epochs"] for library in list_learners()] == ["5", "8"]
    assert rows["rsl_rl"]["network.steps"] == rows["skrl"]["network.steps"] == "4"


# What Isaac Lab has to be imported for: one process runs the fast lines, another the slow ones, without a simulator.

IDENTITY = {"task": "Isaac-Cartpole", "agent": "lif_ppo"}
CHECKPOINTS = {
    "foreign": {"model": {}, "epoch": 3},
    "other task": {"task": "Isaac-Ant", "agent": "lif_ppo"},
    "other agent": {"task": "Isaac-Cartpole", "agent": "mlp_ppo"},
    "other network": {**IDENTITY, "spec": {"network": {"name": "feedforward", "steps": 77}}},
}
HEAVY = {
    "unknown neuron": (
        "train",
        ["agent.network.neuron.name=lfi"],
        ["network.neuron.name", "'lfi'", "mean 'lif'"],
    ),
    "neuron option": ("train", ["agent.network.neuron.tua=2"], ["agent.network.neuron.tua", "mean 'tau'"]),
    "neuron value": (
        "train",
        ["agent.network.neuron.tau=0"],
        ["network.neuron.tau", "0.0", "between 0.001 and"],
    ),
    "network type": (
        "train",
        ["agent.network.steps=many"],
        ["agent.network.steps", "whole number", "'many'"],
    ),
    "layers": ("train", ["agent.network.layers=[0]"], ["agent.network.layers", "0", "at least 1"]),
    "backend": ("train", ["agent.network.backend=torhc"], ["network.backend", "'torhc'", "mean 'torch'"]),
    "burn-in": ("train", ["agent.burn_in=4"], ["agent.burn_in", "agent.network.stateful=true"]),
    "env key": ("train", ["env.episode_length=3"], ["env.episode_length", "mean 'episode_length_s'"]),
    "env value": ("train", ["env.episode_length_s=long"], ["env.episode_length_s", "float", "long"]),
    "no step": ("train", ["env.sim.dt=0"], ["env.sim.dt: 0.0 is out of range", "between 1e-06 and 1.0"]),
    "a step of no length": ("play", ["env.sim.dt=nan"], ["env.sim.dt: expected float", "got nan"]),
    "back in time": ("play", ["env.sim.dt=-0.01"], ["env.sim.dt: -0.01 is out of range"]),
    "decimation": ("play", ["env.decimation=0"], ["env.decimation: 0", "between 1 and 100000"]),
    "huge decimation": ("train", [f"env.decimation={10**30}"], ["env.decimation", "out of range"]),
    "episodes of no length": (
        "train",
        ["env.episode_length_s=-1"],
        ["env.episode_length_s: -1.0", "above 0.0"],
    ),
    "endless episodes": ("train", ["env.episode_length_s=1e30"], ["env.episode_length_s: 1e+30", "at most"]),
    "render interval": ("train", ["env.sim.render_interval=0"], ["env.sim.render_interval: 0", "between 1"]),
    "weight of a reward": (
        "train",
        ["env.rewards.alive.weight=1e999"],
        ["weight: expected a finite number, got inf"],
    ),
    "text for a number or a mapping": (
        "train",
        ["env.actions.joint_effort.scale=nam"],
        ["scale: expected float"],
    ),
    "two numbers of three": ("train", ["env.sim.gravity=[0,0]"], ["env.sim.gravity: expected 3 numbers"]),
    "no physics": ("train", ["physics="], ["override 'physics='", "physics=NAME"]),
    "observation group": (
        "train",
        ["agent.obs_groups.critic=[polici]"],
        [
            "agent.obs_groups.critic: the task has no observation group 'polici'; allowed: policy",
            "mean 'policy'",
        ],
    ),
    "no observations": ("train", ["env.observations.policy=null"], ["no observation group 'policy'"]),
    "memory": (
        "train",
        ["--num_envs", "2147483647"],
        ["neurons and --num_envs 2147483647: needs at least 2 TB", "reduce its size"],
    ),
    "class that is none": (
        "play",
        ["--agent", "mlp_ppo", "agent.actor.class_name=os:system"],
        ["agent.actor.class_name: 'os:system' is not a class that derives from rsl_rl.models.MLPModel"],
    ),
    "absent": ("train", ["--checkpoint", "no/model.pt"], ["'no/model.pt'", "not found"]),
    "damaged": ("train", ["--checkpoint", "{damaged}"], ["{damaged}", "not a checkpoint, or damaged"]),
    "foreign": ("train", ["--checkpoint", "{foreign}"], ["{foreign}", "actor_state_dict", "missing"]),
    "other task": ("train", ["--checkpoint", "{other task}"], ["'Isaac-Ant'", "pass --task Isaac-Ant"]),
    "other agent": ("play", ["--checkpoint", "{other agent}"], ["'mlp_ppo'", "pass --agent mlp_ppo"]),
    "other network": ("play", ["--checkpoint", "{other network}"], ["network.", "pass agent.network."]),
    "half a minibatch": (
        "train",
        ["--agent", "gru_ppo", "--num_envs", "4"],
        ["--num_envs 4", "needs at least 8"],
    ),
    "one sample": (
        "train",
        ["--num_envs", "1", "agent.num_steps_per_env=1", "agent.algorithm.num_mini_batches=1"],
        ["agent.num_steps_per_env: 1 given with --num_envs 1", "at least 2"],
    ),
    "class": (
        "train",
        ["--agent", "mlp_ppo", "agent.actor.class_name=MLPModle"],
        ["agent.actor.class_name", "'MLPModle'"],
    ),
    "inside a distribution": (
        "train",
        ["agent.actor.distribution_cfg.init_stdd=1"],
        ["agent.actor.distribution_cfg.init_stdd", "mean 'init_std'"],
    ),
    "activation": (
        "train",
        ["agent.actor.activation=relue"],
        ["agent.actor.activation", "'relue'", "mean 'relu'"],
    ),
    "skrl burn-in": (
        "train",
        ["--rl_library", "skrl", "agent.burn_in=4"],
        ["agent.burn_in: 4", "allowed: 0"],
    ),
    "skrl minibatches": (
        "train",
        ["--rl_library", "skrl", "--agent", "lif_stateful_ppo", "--num_envs", "12"],
        ["--num_envs 12", "a multiple of 8", "agent.algorithm.num_mini_batches"],
    ),
    "skrl export": ("play", ["--rl_library", "skrl", "--export"], ["--export", "PPO of skrl"]),
    "skrl no run": ("play", ["--rl_library", "skrl"], ["--checkpoint latest", "skrl", "train one first"]),
    "skrl checkpoint of rsl_rl": (
        "play",
        ["--rl_library", "skrl", "--checkpoint", "{other network}"],
        ["not a checkpoint of skrl", "pass --rl_library rsl_rl"],
    ),
    "skrl images": (
        "train",
        ["--rl_library", "skrl", "--task", "Isaac-Cartpole-Camera-Direct"],
        ["models.policy", "not an MLP on vectors"],
    ),
    "rsl_rl with an option of skrl's": (
        "train",
        ["agent.algorithm.rewards_shaper_scale=0.5"],
        ["agent.algorithm.rewards_shaper_scale", "allowed: skrl"],
    ),
    "no skrl agent": (
        "train",
        ["--rl_library", "skrl", "--task", "IsaacContrib-Open-Drawer-OpenArm"],
        ["registers no skrl PPO agent"],
    ),
    "no run": ("play", [], ["--checkpoint latest", "no run of lif_ppo on Isaac-Cartpole", "train one first"]),
    "no best run": ("play", ["--checkpoint", "best"], ["--checkpoint best", "train one first"]),
}

SLOW = {
    *("neuron value", "network type", "layers", "no step", "a step of no length", "back in time"),
    *("huge decimation", "endless episodes", "render interval", "text for a number or a mapping"),
    *("no observations", "foreign", "other agent", "class", "inside a distribution", "no best run"),
    *("skrl burn-in", "skrl minibatches", "skrl images", "skrl checkpoint of rsl_rl", "no skrl agent"),
}
"""Others are refused in the same way."""


def checkpoint(folder: Path, name: str) -> Path:
    """A file as the cases need it."""
    path = folder / f"{name}.pt"
    content = CHECKPOINTS[name]
    if "task" in content:
        infos = {"spiky_rl": {"identity": content, "progress": {}, "random": get_random_state("cpu")}}
        content = {"actor_state_dict": {}, "critic_state_dict": {}, "iter": 0, "infos": infos}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit codes and stderr of the fast cases, or of the slow ones; the files that were used, the folder of the runs."""
    folder = tmp_path_factory.mktemp("errors")
    files = {name: str(checkpoint(folder, name)) for name in CHECKPOINTS}
    whole = Path(files["other network"]).read_bytes()
    files["damaged"] = str(folder / "damaged.pt")
    Path(files["damaged"]).write_bytes(whole[: len(whole) // 2])
    logs = folder / "logs"

    @functools.cache
    def run(slow: bool) -> dict[str, tuple[int, str]]:
        lines = {
            case: (name, [*CARTPOLE, "--log_root", str(logs), *(a.format(**files) for a in arguments)])
            for case, (name, arguments, _) in HEAVY.items()
            if (case in SLOW) == slow
        }
        return run_lines(lines)

    return run, files, logs


@pytest.mark.parametrize("case", mark_slow(HEAVY, HEAVY.keys() - SLOW))
def test_what_isaac_lab_must_say_is_refused_before_a_simulator_starts(case, outcomes):
    run, files, logs = outcomes
    assert_refused(*run(case in SLOW)[case], *(word.format(**files) for word in HEAVY[case][2]))
    assert_no_run(logs)
