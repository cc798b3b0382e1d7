"""The commands through skrl, on the real Isaac-Cartpole: train, resume, play, refuse."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
pytest.importorskip("skrl", reason="the skrl extra is not installed")

TASK = ["--task", "Isaac-Cartpole-v0", "--device", "cpu", "--assets", "local", "--rl_library", "skrl"]


def command(script: str, *arguments: str) -> CompletedProcess:
    return processes.run(processes.ROOT / "scripts" / script, *TASK, *arguments)


def trained(root: Path, *arguments: str) -> Path:
    """Train; the run folder."""
    done = command("train.py", "--log_root", str(root), *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Path(done.stdout.strip().splitlines()[-1]).parent


@pytest.mark.timeout(900)
def test_a_recurrent_agent_trains_resumes_and_plays_through_skrl(tmp_path):
    agent = ["--agent", "lif_stateful_ppo", "--num_envs", "16"]
    first = trained(tmp_path, *agent, "--max_iterations", "2", "--run_name", "first")
    assert first.parent == tmp_path / "skrl" / "cartpole" and first.name.endswith("_first")
    manifest = json.loads((first / "run.json").read_text())
    assert (manifest["library"], manifest["metadata"]) == ("skrl", {"agent": "lif_stateful_ppo"})
    for name in ("model_1.pt", "params/env.yaml", "params/agent.yaml", "params/spec.yaml"):
        assert (first / name).is_file(), name
    assert list(first.glob("events.*"))

    second = trained(tmp_path, *agent, "--max_iterations", "1", "--checkpoint", "latest")
    result = json.loads((second / "result.json").read_text())
    assert (result["iterations"], result["env_steps"]) == (3, 3 * 16 * 16)
    assert result["library"] == "skrl" and "skrl" in result["versions"] and result["outcome"] == "finished"
    assert 0.01 < result["firing_rate"] < 0.6 < result["synops_per_step"]
    assert (second / "model_2.pt").is_file()

    agent[-1] = "2"
    done = command(
        "play.py", "--log_root", str(tmp_path), *agent, "--episodes", "2", "env.episode_length_s=1.0"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    playback = json.loads((second / "playback.json").read_text())
    assert playback["library"] == "skrl" and playback["episodes"] == 2
    assert playback["checkpoint"].endswith("model_2.pt") and playback["firing_rate"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_spiking_agent_balances_the_pole_through_skrl(seed, tmp_path):
    arguments = ["--agent", "lif_ppo", "--num_envs", "512", "--max_iterations", "100", "--seed", str(seed)]
    run = trained(tmp_path, *arguments)
    assert json.loads((run / "result.json").read_text())["mean_return_final"] >= 4.5
