"""Our agents in Isaac Lab's own command: what it is told for them, and that checkpoints carry no code into it."""

import contextlib
import os
import re
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rsl_rl.runners import OnPolicyRunner

from spiky_rl.config import registry
from spiky_rl.config.spec import SpecError
from spiky_rl.deploy.c import open_c_session
from spiky_rl.hosts.isaaclab import command
from tests import processes
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.test_first_minibatch import agent_runner
from tests.hosts.test_runner import Attack

AGENTS = ("lif_ppo", "mlp_ppo")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command sets is gone after a test, and a folder of the user's own is the asset root."""
    monkeypatch.delenv(command.SAFE_LOAD, raising=False)
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(Path(__file__).parent))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("program", ["/bin/isaaclab", "/lib/isaaclab/__main__.py", "isaaclab"])
@pytest.mark.parametrize(
    "agent", [["--agent", "lif_ppo"], ["--agent=lif_ppo"], ["--agent", "x", "--agent", "mlp_ppo"]]
)
def test_a_machine_without_a_gpu_is_told_its_device_and_assets_in_one_line_each(program, agent, caplog):
    arguments = [program, "play", "--rl_library", "skrl", *agent]
    command.prepare_isaaclab_command(arguments, AGENTS)
    assert arguments[-2:] == ["--device", "cpu"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["spiky_rl"] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["/bin/isaaclab", "train", "--agent", "rsl_rl_cfg_entry_point"],
        ["/bin/isaaclab", "train"],
        ["/bin/isaaclab", "zero_agent", "--agent", "lif_ppo"],
        ["/bin/isaaclab"],
        ["scripts/train.py", "--agent", "lif_ppo"],
        ["/spiky_rl/cli/__main__.py", "train", "--agent", "lif_ppo"],
        ["/bin/isaaclab", "train", "--agent"],
    ],
)
def test_runs_that_are_not_ours_are_left_alone(arguments, caplog):
    before = list(arguments)
    command.prepare_isaaclab_command(arguments, AGENTS)
    assert arguments == before and not caplog.records


def test_what_the_user_says_of_the_device_stands():
    arguments = ["isaaclab", "train", "--device", "cuda:0", "--agent", "lif_ppo"]
    command.prepare_isaaclab_command(arguments, AGENTS)
    assert arguments.count("--device") == 1


def test_every_process_of_train_multigpu_is_told_its_assets_but_no_device(caplog):
    found = find_spec("isaaclab_rl.entrypoints.multigpu")
    assert found is not None
    arguments = [found.origin, "--rl_library", "rsl_rl", "--agent", "lif_ppo", "--distributed"]
    before = list(arguments)
    command.prepare_isaaclab_command(arguments, AGENTS)
    assert arguments == before, "its device is its rank's"
    (record,) = caplog.records
    assert record.getMessage().startswith("spiky_rl: assets for lif_ppo")


def test_an_agent_s_history_for_a_task_alone_reaches_the_task(tmp_path, monkeypatch):
    agent = tmp_path / "patient.yaml"
    agent.write_text("tasks: {My-Task: {history: 4, obs_groups: {critic: [all]}}}")
    groups = {name: types.SimpleNamespace(concatenate_terms=True) for name in ("policy", "all", "other")}
    env_cfg = types.SimpleNamespace(observations=types.SimpleNamespace(**groups))
    monkeypatch.setattr(command, "load_env_cfg", lambda *_: env_cfg)
    task = types.SimpleNamespace(id="My-Task", kwargs={"env_cfg_entry_point": None})
    line = ["isaaclab", "train", "--task", task.id, "--agent", str(agent)]
    command.set_observation_history(line, [str(agent)], {task.id: task})  # type: ignore[dict-item]
    task.kwargs["env_cfg_entry_point"]()
    assert [getattr(group, "history_length", 1) for group in groups.values()] == [4, 4, 1]


def ask():
    return command.get_calling_command()


def through():
    return ask()


def test_the_library_is_that_of_the_backend_that_calls():
    backend = {"__name__": f"{command.BACKENDS}train_rl_games", "command": command}
    assert types.FunctionType(ask.__code__, backend)() == ("train", "rl_games")
    assert ask() == ("", "rsl_rl")


def test_what_the_backends_share_is_none_of_them():
    shared = {"__name__": f"{command.BACKENDS}export_common", "command": command}
    backend = {"__name__": f"{command.BACKENDS}export_skrl", "ask": types.FunctionType(ask.__code__, shared)}
    assert types.FunctionType(through.__code__, backend)() == ("export", "skrl")


def test_leapp_export_is_told_as_train_and_play_are():
    arguments = ["isaaclab", "leapp", "export", "--agent", "lif_ppo"]
    command.prepare_isaaclab_command(arguments, AGENTS)
    assert arguments[-2:] == ["--device", "cpu"]
    assert not command.names_our_agent(["isaaclab", "leapp", "deploy", "--agent", "lif_ppo"], AGENTS)


def network_of(agent):
    return agent_runner(agent).alg.get_policy().settings


@pytest.mark.parametrize(
    "agent, library, said",
    [
        (
            "lif_reservoir_ppo",
            "rsl_rl",
            "isaaclab leapp export would lose the hidden state of a reservoir",
        ),
        ("lif_stateful_ppo", "skrl", "would lose the hidden state of --agent lif_stateful_ppo"),
    ],
)
def test_a_state_that_leapp_export_would_leave_out_is_refused_by_name(agent, library, said):
    with pytest.raises(SpecError, match=said) as refusal:
        command.require_exportable(
            agent, library, registry.configure("networks", network_of(agent), "network")
        )
    assert "\n" not in str(refusal.value)


def test_what_carries_no_state_or_one_that_is_exported_is_not_refused():
    for agent, library in (("lif_stateful_ppo", "rsl_rl"), ("lif_ppo", "skrl"), ("lif_ppo", "rsl_rl")):
        command.require_exportable(
            agent, library, registry.configure("networks", network_of(agent), "network")
        )
    command.require_exportable("mlp_ppo", "skrl", None)


@pytest.mark.parametrize(
    "agent, states",
    [
        pytest.param("lif_stateful_ppo", "actor_state [1, 8, 18]", marks=pytest.mark.slow),
        ("alif_recurrent_ppo", "actor_state [1, 8, 50]"),
        ("lif_ppo", ""),
    ],
)
def test_isaac_labs_leapp_export_finds_the_whole_state_and_nothing_beside_it(agent, states):
    """By the functions of its export alone; the whole command is a slow test's."""
    pytest.importorskip("isaaclab_rl", reason="the isaaclab extra is not installed")
    done = processes.run("-m", "tests.hosts.leapp_case", agent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"recurrent: {bool(states)}; states: {states}; apart: 0.0"


@pytest.mark.parametrize(
    "action, agent, said",
    [
        (
            "leapp export",
            "lif_reservoir_ppo",
            "isaaclab leapp export would lose the hidden state of a reservoir",
        ),
        ("train", "lif_distilled", "needs a teacher, for which isaaclab train has no option"),
    ],
)
def test_isaac_labs_own_command_ends_in_our_line_before_it_starts_anything(
    action, agent, said, tmp_path, monkeypatch
):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    monkeypatch.delenv("ISAACSIM_ASSET_ROOT")
    line = [*action.split(), "--rl_library", "rsl_rl", "--task", "Isaac-Cartpole", "--agent", agent]
    done = processes.run("-m", "isaaclab", *line, cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1].startswith(f"error: --agent {agent}: ")
        and said in done.stderr.splitlines()[-1]
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_leapp_and_policy_c_of_one_checkpoint_command_the_same_robot(tmp_path, monkeypatch):
    """Efforts over 20 control steps from equal states, joints, period and the state that is handed on."""
    monkeypatch.delenv("ISAACSIM_ASSET_ROOT")
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    pytest.importorskip("leapp", reason="leapp is not installed (pip install 'isaaclab[leapp]')")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported graph")
    run = "--task Isaac-Cartpole --agent lif_stateful_ppo --device cpu".split()

    def call(*line: str) -> None:
        # not a fork of a process that has read the asset root
        done = subprocess.run(
            [sys.executable, *line, *run], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    scripts, local = ROOT / "scripts", ("--assets", "local")
    call(
        str(scripts / "train.py"),
        *local,
        *"--num_envs 16 --max_iterations 1 --log_root".split(),
        str(tmp_path),
    )
    (checkpoint,) = tmp_path.rglob("model_0.pt")
    perturb_actor(checkpoint)
    call(str(scripts / "export.py"), *local, "--checkpoint", str(checkpoint), "--to", "c")
    leapp = "-m isaaclab leapp export --rl_library rsl_rl --disable_graph_visualization".split()
    call(*leapp, "--checkpoint", str(checkpoint), "--export_save_path", str(tmp_path))

    (policy,) = tmp_path.rglob("policy.c")
    header, step = policy.with_suffix(".h").read_text(encoding="utf-8"), open_c_session(policy)
    description = yaml.safe_load((tmp_path / "Isaac-Cartpole" / "Isaac-Cartpole.yaml").read_text("utf-8"))
    terms = description["models"]["Isaac-Cartpole"]
    for term in terms["inputs"][:2]:
        assert f"of {', '.join(term['element_names'][0])}\n" in header
    assert '#define POLICY_UNITS {"N"}' in header, "the cart slides"
    assert f'JOINTS {{"{terms["outputs"][0]["element_names"][0][0]}"}}' in header
    period = float(re.search(r"every (\S+) s", header).group(1))
    assert period == pytest.approx(1.0 / description["pipeline"]["configs"]["frequency"])

    graph = onnxruntime.InferenceSession(tmp_path / "Isaac-Cartpole" / "Isaac-Cartpole.onnx")
    assert {each.name: each.shape for each in graph.get_inputs()} == {
        "robot_joint_pos": [1, 2],
        "robot_joint_vel": [1, 2],
        "actor_state_in": [1, 1, 257],  # two layers of 128 neurons, and an action's potential
    }
    state, random = np.zeros((1, 1, 257), np.float32), np.random.default_rng(0)
    efforts = []
    for _ in range(20):
        measured = random.normal(size=(2, 1, 2)).astype(np.float32)
        feed = {"robot_joint_pos": measured[0], "robot_joint_vel": measured[1], "actor_state_in": state}
        effort, state = graph.run(["joint_effort", "actor_state_out"], feed)
        (expected,) = step(measured, [])
        np.testing.assert_allclose(effort, expected, rtol=1e-5, atol=1e-5)
        efforts.append(effort.item())
    assert np.ptp(efforts) > 0.0


def perturb_actor(checkpoint: Path) -> None:
    """Move all parameters of the actor in ``checkpoint`` by some noise."""
    state = torch.load(checkpoint, weights_only=True)
    torch.manual_seed(0)
    for name, value in state["actor_state_dict"].items():
        if value.is_floating_point() and "normalizer" not in name:
            value += 0.1 * value.abs().mean() * torch.randn_like(value)
    torch.save(state, checkpoint)


def attack(path: Path, marker: Path, library: str) -> None:
    """A checkpoint of the library's that executes code where it is unpickled."""
    keys = {"rsl_rl": ("actor_state_dict", "iter"), "skrl": ("policy", "optimizer")}[library]
    torch.save({key: {} for key in keys} | {"infos": Attack(marker)}, path)


def loads(library: str, path: Path) -> None:
    """Load a checkpoint as Isaac Lab's command does: rsl_rl's runner and skrl's agent, neither of them ours."""
    torch.manual_seed(0)
    network = {**LIF, "layers": [16]}
    if library == "rsl_rl":
        OnPolicyRunner(PointEnv(), config(network) | {"multi_gpu": None}).load(str(path))
        return
    skrl = pytest.importorskip("tests.hosts.skrl_case", reason="the skrl extra is not installed")
    skrl.runner(network=skrl.SPIKING).alg.load(str(path))


@pytest.mark.parametrize("library", ["rsl_rl", "skrl"])
def test_code_in_a_checkpoint_is_not_executed_by_isaac_labs_command(library, tmp_path):
    path, marker = tmp_path / "model.pt", tmp_path / "executed"
    attack(path, marker, library)
    with contextlib.suppress(KeyError, RuntimeError):  # it is not whole; that is found once its code has run
        loads(library, path)
    assert marker.exists(), "without us it is"
    marker.unlink()
    command.enable_safe_load()
    with pytest.raises(Exception, match="Weights only load failed"):
        loads(library, path)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("library", ["rsl_rl", "skrl"])
def test_isaac_labs_own_command_trains_and_plays_our_agents(library, tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    pytest.importorskip(library, reason=f"the {library} extra is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "ISAACSIM_ASSET_ROOT"}

    def isaaclab(action: str, *arguments: str) -> subprocess.Popen:
        line = [sys.executable, "-m", "isaaclab", action, "--rl_library", library, "--task", "Isaac-Cartpole"]
        line += ["--agent", "lif_ppo", "--num_envs", "8", *arguments]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(line, cwd=tmp_path, env=environment, **both)

    training = isaaclab("train", "--max_iterations", "2")
    said = training.communicate(timeout=600)[0]
    assert training.returncode == 0, said[-3000:]
    assert "Training time" in said and len(re.findall("^spiky_rl: ", said, re.MULTILINE)) >= 2
    assert list(tmp_path.glob(f"logs/{library}/cartpole/*/run.json"))

    playing = isaaclab("play", "--checkpoint", "latest")
    output = []
    for line in playing.stdout:
        output.append(line)
        if "Policy playback is running" in line:
            break
    with pytest.raises(subprocess.TimeoutExpired):  # it plays until it is ended
        output.append(playing.communicate(timeout=10.0)[0])
        pytest.fail("".join(output)[-3000:])
    playing.kill()
    playing.communicate()

    path, marker = tmp_path / "attack.pt", tmp_path / "executed"
    attack(path, marker, library)
    attacked = isaaclab("play", "--checkpoint", str(path))
    said = attacked.communicate(timeout=600)[0]
    assert attacked.returncode != 0 and "Weights only load failed" in said
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_library_that_cannot_train_our_agents_is_refused_in_one_line(tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    script = """
import types
from importlib.util import find_spec
from spiky_rl.hosts.isaaclab import agents
import gymnasium

def train(): return entry()

entry = gymnasium.spec("Isaac-Cartpole").kwargs["lif_ppo"]
types.FunctionType(train.__code__, {"__name__": "isaaclab_rl.entrypoints.backends.train_sb3", "entry": entry})()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr[-2000:]
    line = done.stderr.strip().splitlines()[-1]
    assert line == (
        "error: --rl_library sb3: not available with --agent lif_ppo on Isaac-Cartpole; allowed: rsl_rl, skrl"
    )
