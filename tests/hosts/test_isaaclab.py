"""Real Isaac Lab tasks, a few steps each, each in a process of its own: a process holds one simulation. Walkers: test_robots.py."""

import json

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

STEPS, ENVS = 5, 4

SCRIPT = """
import json, sys
from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab.assets import configure_assets
assets = configure_assets("local")
import torch
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, resolve_task, open_simulation
task = resolve_task(sys.argv[1])
cfg, agent = load_configs(task)
try:
    with open_simulation(cfg, task_id=task, device="cpu", num_envs=ENVS, options=SimulationOptions(seed=1)) as gym_env:
        env = IsaacLabVecEnv(gym_env)
        measures = env.make_measures()
        torch.manual_seed(0)
        total = torch.zeros(ENVS)
        for _ in range(STEPS):
            obs, rewards, dones, _ = env.step(torch.randn(ENVS, env.num_actions))
            ended = measures.step(dones)
            total += rewards
        result = {
            "task": task, "obs": list(obs["policy"].shape), "actions": env.num_actions, "finite": bool(total.isfinite().all()),
            "seconds": env.seconds_simulation, "measures": list(ended), "assets": assets,
            "hidden": agent["actor"]["hidden_dims"]}
        open("/gone/run/model_1.pt")
except Exception as error:
    result["error"] = type(error).__name__
print("RESULT" + json.dumps(result))
""".replace("STEPS", str(STEPS)).replace("ENVS", str(ENVS))


@pytest.mark.parametrize(
    ("name", "task", "observations", "actions", "hidden"),
    [
        pytest.param("Isaac-Cartpole-v0", "Isaac-Cartpole", 4, 1, [32, 32], marks=pytest.mark.slow),
        ("Isaac-Cartpole-Camera", "Isaac-Cartpole-Camera", 6, 1, [64]),
    ],
)
def test_real_task_runs_unmodified_on_the_derived_assets(name, task, observations, actions, hidden, tmp_path):
    (tmp_path / "steps.py").write_text(SCRIPT)
    done = processes.run(tmp_path / "steps.py", name)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.rpartition("RESULT")[2])
    assert result["task"] == task
    assert result["obs"][:2] == [ENVS, observations]
    assert result["actions"] == actions
    assert result["finite"] and result["seconds"] > 0
    assert "distance" not in result["measures"]
    assert result["hidden"] == hidden
    assert result["assets"].startswith(("local", "user"))
    assert result["error"] == "FileNotFoundError", "a file of the training is no asset"
