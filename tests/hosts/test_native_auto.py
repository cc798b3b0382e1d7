"""Commands on a model that MuJoCo's C library cannot step: ``physics=mujoco`` ends, ``auto`` takes MuJoCo-Warp and says so."""

import json

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.learners.common.checkpoints import get_identity, read_checkpoint
from tests import processes

TASK = '''
"""Isaac-Cartpole whose bodies are held up a little from the start on, which its robot was not made for."""

import gymnasium
from isaaclab.managers import EventTermCfg
from isaaclab.utils import configclass
from isaaclab_newton.physics import NewtonManager
from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry
from newton import ModelFlags


def hold_up(env, env_ids):
    NewtonManager.get_model().mujoco.gravcomp.fill_(0.2)
    NewtonManager.add_model_change(ModelFlags.BODY_INERTIAL_PROPERTIES)


def held_up():
    cfg = load_cfg_from_registry("Isaac-Cartpole", "env_cfg_entry_point")
    cfg.events.hold_up = EventTermCfg(func=hold_up, mode="startup")
    return cfg


known = gymnasium.spec("Isaac-Cartpole")
gymnasium.register(
    id="Held-Up", entry_point=known.entry_point, disable_env_checker=True, kwargs={**known.kwargs, "env_cfg_entry_point": held_up}
)
'''
LINE = "--task held_up.py:Held-Up --agent mlp_ppo --device cpu --assets local".split()
TRAIN = ["--num_envs", 8, "--max_iterations", 1]


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "held_up.py").write_text(TASK)
    return tmp_path


def command(name, folder, *arguments):
    return processes.run(processes.ROOT / "scripts" / f"{name}.py", *LINE, *arguments, cwd=folder)


@pytest.mark.timeout(900)
def test_what_a_run_says_of_its_physics_is_what_it_really_had(folder):
    done = command("train", folder, *TRAIN)
    assert done.returncode == 0, done.stderr[-2000:]
    reason = "gravity compensation of a robot that was made without"
    assert done.stderr.count(reason) == 1
    assert f"physics: newton_mjwarp, several times slower than mujoco: {reason}\n" in done.stderr
    assert "; physics: newton_mjwarp\n" in done.stderr and "; physics: mujoco" not in done.stderr
    (result,) = folder.rglob("result.json")
    assert json.loads(result.read_text())["physics"] == "newton_mjwarp"
    (checkpoint,) = result.parent.glob("model_*.pt")
    assert get_identity(read_checkpoint(str(checkpoint)))["physics"] == "newton_mjwarp"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_playback_and_evaluation_name_the_physics_that_they_really_had(folder):
    assert command("train", folder, *TRAIN).returncode == 0
    assert command("play", folder, "--num_envs", 8, "--episodes", 2).returncode == 0
    done = command("evaluate", folder, "--episodes", 2, "--conditions", "nominal")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("playback.json", "evaluation.json"):
        (result,) = folder.rglob(name)
        assert json.loads(result.read_text())["physics"] == "newton_mjwarp", name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_asked_for_by_name_is_not_replaced(folder):
    done = command("train", folder, *TRAIN, "physics=mujoco")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: " + (
        "physics=mujoco: gravity compensation of a robot that was made without; use physics=newton_mjwarp"
    )
    assert not list(folder.rglob("result.json"))
