"""The Go1 is the robot of its file, stands on its feet, trains, and is refused in one line where its wheel cannot be had."""

import json
import subprocess
import sys

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.isaaclab.local_assets import AssetError
from spiky_rl.hosts.isaaclab.wheel_assets import MJLAB, get_wheel_folder

pytestmark = pytest.mark.timeout(900)

TASK = ["--task", "go1_flat", "--device", "cpu", "--assets", "local"]
EXACT = 1e-6
DIFFERENT = {"armature", "geom gap", "contact pairs"}
"""What the task's configuration sets: rotors' inertia, Isaac Lab's gap, no contacts of the robot with itself."""


@pytest.fixture(scope="module")
def wheel():
    try:
        return get_wheel_folder(MJLAB)
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def probes(wheel):
    return processes.run_case("go1")


@pytest.mark.slow
def test_simulated_robot_is_the_robot_of_its_file(probes):
    assert {name for name, difference in probes["beside"].items() if difference > EXACT} == DIFFERENT


@pytest.mark.slow
def test_ground_carries_its_weight_at_the_feet_and_lets_no_shape_through(probes):
    count = len(probes["lifted"])
    assert probes["lifted"] == pytest.approx([1.0] * count, abs=0.02)
    assert probes["feet"] == ["FL_calf", "FR_calf", "RL_calf", "RR_calf"]
    assert probes["on feet"] == pytest.approx([1.0] * count, abs=0.02)
    assert min(probes["lowest at rest"]) > -0.002 and min(probes["lowest"]) > -0.01
    assert max(probes["upright"]) < -0.99 and min(probes["height"]) > 0.25, "it stands without any action"


@pytest.mark.slow
def test_left_and_right_differ_by_no_more_than_the_trunk_s_own_mass(probes):
    symmetry = probes["symmetry"]
    assert symmetry["mass"] == symmetry["range"] == symmetry["drive"] == 0.0
    assert symmetry["place"] == pytest.approx(
        0.004, abs=EXACT
    ), "Unitree's trunk has its mass 2 mm to the left"
    assert probes["apart"] < 0.1 < 0.3 < probes["moved"]


@pytest.mark.slow
def test_standing_still_misses_a_velocity_by_the_whole_of_it(probes):
    assert probes["velocity_error"] == pytest.approx(probes["command"], abs=0.02)
    assert max(probes["command"]) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "library"), [("lif_ppo", "rsl_rl"), ("mlp_ppo", "skrl")])
def test_task_trains_and_is_measured_under_conditions(wheel, tmp_path, agent, library):
    line = [*TASK, "--agent", agent, "--rl_library", library, "--log_root", tmp_path]
    done = processes.run("scripts/train.py", *line, "--num_envs", 16, "--max_iterations", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    conditions = "push,friction,mass,sensor_loss"
    done = processes.run("scripts/evaluate.py", *line, "--episodes", 4, "--conditions", conditions)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next(tmp_path.rglob("evaluation*.json")).read_text())
    assert set(result["conditions"]) == {"nominal", *conditions.split(",")}
    for found in result["conditions"].values():
        assert 0.0 < found["measures"]["velocity_error"] < 5.0


@pytest.mark.slow
def test_wheel_that_cannot_be_had_is_said_before_a_simulator_starts(tmp_path, monkeypatch):
    damaged = tmp_path / "mjlab.whl"
    damaged.write_bytes(b"no wheel")
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(MJLAB.variable, str(damaged))
    # a process of its own: another cache is another place of the robots, which Isaac Lab reads at its import
    line = [sys.executable, "scripts/train.py", *TASK, "--agent", "mlp_ppo", "--log_root", tmp_path / "logs"]
    done = subprocess.run(line, cwd=processes.ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert (done.returncode, len(errors)) == (2, 1) and done.stderr.endswith(errors[0] + "\n"), done.stderr
    assert f"{MJLAB.variable}={damaged}" in errors[0] and MJLAB.sha256 in errors[0]
    assert "Traceback" not in done.stderr and "starting the simulator" not in done.stderr
