"""Isaac Lab's own command with its own agent: native physics by name, and no change without it."""

import re
from pathlib import Path

import pytest

pytest.importorskip("isaaclab", reason="Isaac Lab is not installed")

from processes import run

HIDDEN = "spiky_rl"
"""A neighbour that this package must not need."""
COMMAND = f"""
import importlib.abc, importlib.metadata, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{HIDDEN}":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hide())
known = importlib.metadata.entry_points
# the package's own entry point, installed or not
own = importlib.metadata.EntryPoint("isaaclab_mujoco", "isaaclab_mujoco.tasks", "isaaclab.tasks")
importlib.metadata.entry_points = lambda **query: [own] if query.get("group") == "isaaclab.tasks" else known(**query)
sys.argv[0] = "isaaclab"
from isaaclab.__main__ import main
try:
    main()
finally:
    print("LOADED", *sorted(name for name in sys.modules if name.partition(".")[0] in ("isaaclab_mujoco", "{HIDDEN}")))
"""
TRAIN = ["train", "--task", "Isaac-Ant", "--rl_library", "rsl_rl", "--num_envs", "64", "--device", "cpu"]
TRAIN += ["agent.device=cpu"]  # Isaac Lab's configurations of rsl_rl say cuda:0, whatever --device says


def train(folder, assets, *arguments):
    done = run("-c", COMMAND, *TRAIN, *arguments, cwd=folder, ISAACSIM_ASSET_ROOT=assets)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert not any(name.partition(".")[0] == HIDDEN for name in loaded)
    return done, loaded


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_isaac_labs_own_agent_trains_on_native_physics(tmp_path, assets):
    done, loaded = train(tmp_path, assets, "--max_iterations", "3", "physics=mujoco")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "isaaclab_mujoco.solver" in loaded
    (configuration,) = tmp_path.rglob("env.yaml")
    assert "isaaclab_mujoco.solver:NewtonMuJoCoManager" in configuration.read_text()
    rewards = [float(text) for text in re.findall(r"Mean reward: *(\S+)", done.stdout)]
    assert len(rewards) >= 2 and list(tmp_path.rglob("model_*.pt"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_the_preset_a_run_of_isaac_lab_loads_nothing_of_this_package(tmp_path, assets):
    done, loaded = train(tmp_path, assets, "--max_iterations", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert loaded == {
        f"isaaclab_mujoco{name}" for name in ("", ".errors", ".presets", ".selection", ".tasks")
    }
    (configuration,) = tmp_path.rglob("env.yaml")
    assert "isaaclab_mujoco" not in configuration.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_native_physics_cannot_step_ends_the_run_by_name(tmp_path, assets):
    solver = "env.sim.physics.solver_cfg."
    line = [
        "physics=mujoco",
        f"{solver}use_mujoco_contacts=False",
        f"{solver}integrator=rk4",
        "--max_iterations",
        "1",
    ]
    done, _ = train(tmp_path, assets, *line)
    assert done.returncode != 0
    assert (
        "physics=mujoco: Newton's contacts with the RK4 integrator; use physics=newton_mjwarp" in done.stderr
    )
    assert not list(Path(tmp_path).rglob("model_*.pt"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_help_lists_the_preset(tmp_path, assets):
    done, _ = train(tmp_path, assets, "--help")
    assert done.returncode == 0 and re.search(r"physics.*mujoco|\bmujoco\b", done.stdout), done.stdout[-2000:]
