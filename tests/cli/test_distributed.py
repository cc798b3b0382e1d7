"""Data-parallel training, for real on two CPU processes: one run, the steps of both, the same weights in both."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("isaaclab") is None:
    pytest.skip("Isaac Lab is not installed: the extra 'isaaclab'", allow_module_level=True)

from spiky_rl.config.command_line import remove_flag
from tests.ranks import PROBE, train_ranks

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, ENVS, ITERATIONS = 2, 32, 3
STEPS = PROCESSES * ENVS * 16
"""Of an iteration: Isaac-Cartpole's rollouts have 16 control steps."""


@pytest.mark.slow
def test_two_processes_make_one_run_with_the_same_weights(tmp_path):
    """They are told who they are as torchrun tells them; what starts them is tested beside this."""
    import torch

    line = ["--distributed", "--task", "cartpole", "--agent", "lif_ppo", "--device", "cpu"]
    line += ["--assets", "local", "--num_envs", ENVS, "--budget", f"env_steps={ITERATIONS * STEPS}"]
    result, weights = train_ranks(tmp_path, PROCESSES, line)
    assert (result["iterations"], result["env_steps"]) == (ITERATIONS, ITERATIONS * STEPS)
    assert torch.equal(*weights)


@pytest.mark.gpu
def test_two_devices_make_one_run_with_the_same_weights_by_nccl(tmp_path):
    import torch

    if (there := torch.cuda.device_count()) < PROCESSES:
        pytest.skip(f"it takes {PROCESSES} CUDA devices, torch sees {there}")
    by_torchrun(tmp_path, "cuda")


def by_torchrun(folder: Path, device: str) -> None:
    """Processes that torchrun starts afresh: forks of one that has met CUDA cannot use it."""
    import torch

    (folder / "probe.py").write_text(PROBE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    line = ["--distributed", "--task", "cartpole", "--agent", "lif_ppo", "--device", device]
    line += ["--assets", "local", "--num_envs", ENVS, "--budget", f"env_steps={ITERATIONS * STEPS}"]
    line = [*torchrun, folder / "probe.py", *line, "--log_root", folder / "logs", folder]
    done = subprocess.run(
        [sys.executable, *map(str, line)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = (json.loads(path.read_text()) for path in folder.glob("logs/*/*/*/result.json"))
    assert (result["iterations"], result["env_steps"]) == (ITERATIONS, ITERATIONS * STEPS)
    assert result["device"].startswith(device)
    first, second = (
        torch.load(folder / f"weights{rank}.pt", map_location="cpu") for rank in range(PROCESSES)
    )
    assert torch.equal(first, second)


@pytest.mark.slow
def test_one_flag_starts_the_processes(tmp_path):
    line = ["scripts/train.py", "--processes", str(PROCESSES), "--task", "cartpole", "--device", "cpu"]
    line += ["--assets", "local", "--num_envs", str(ENVS), "--max_iterations", str(ITERATIONS)]
    done = subprocess.run(
        [sys.executable, *line, "--log_root", str(tmp_path / "logs")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PROCESSES} processes of 1 threads" in done.stderr
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("logs/*/*/*/result.json"))
    assert (result["iterations"], result["env_steps"]) == (ITERATIONS, ITERATIONS * STEPS)


def test_a_flag_is_taken_from_a_command_line_however_it_is_written():
    given = ["--task", "x", "--processes", "4", "--seed", "4", "--processes=2", "agent.x=4"]
    assert remove_flag("--processes", given) == ["--task", "x", "--seed", "4", "agent.x=4"]
