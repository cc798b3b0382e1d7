"""A task of one's own from a robot's file: found by its file, trained and played by our commands."""

import json
from pathlib import Path

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

import gymnasium

from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import UnknownTask
from spiky_rl.hosts.isaaclab.environment import resolve_task
from spiky_rl.hosts.isaaclab.tasks import list_registered_ids

pytestmark = pytest.mark.timeout(900)

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_robot.py"
TASK = ["--device", "cpu", "--assets", "local", "--experiment_name", "own"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.py:Own-Arm", ["'nowhere.py:Own-Arm'", "there is no file 'nowhere.py'"]),
        ("no_package.tasks:Own-Arm", ["there is no module 'no_package'"]),
        ("broken.py:Own-Arm", ["broken.py, line 2", "ZeroDivisionError"]),
        ("empty.py:Own-Arm-That-Is-Not", ["'empty.py:Own-Arm-That-Is-Not' is not registered"]),
    ],
)
def test_file_that_registers_no_such_task_is_said_in_one_line(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("# a task\n1 / 0\n")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UnknownTask) as refused:
        find_host(name, "task")
    assert str(refused.value).startswith("task: ") and "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_wrong_id_is_answered_by_the_one_that_the_file_registers(tmp_path):
    file = tmp_path / "own_crane.py"
    file.write_text(
        "import gymnasium\ngymnasium.register('Own-Crane', 'own:Env', kwargs={'env_cfg_entry_point': 'own:Cfg'})\n"
    )
    assert find_host(f"{file}:Own-Crane").name == "isaaclab"
    with pytest.raises(
        UnknownTask, match=r"own_crane.py:Own-Cran' is not registered; did you mean Own-Crane"
    ):
        find_host(f"{file}:Own-Cran")


@pytest.mark.slow
def test_robot_of_the_example_trains_and_plays(tmp_path):
    line = ["--task", f"{EXAMPLE}:Own-Arm", *TASK, "--agent", "lif_ppo", "--log_root", tmp_path]
    done = processes.run("scripts/train.py", *line, "--num_envs", 16, "--max_iterations", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    done = processes.run("scripts/play.py", *line, "--num_envs", 4, "--episodes", 4)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next(tmp_path.rglob("play*.json")).read_text())
    assert result["task"] == "Own-Arm" and result["mean_length"] == 250, "five seconds"


def test_ids_that_are_read_from_isaac_labs_files_are_those_that_it_registers():
    with pytest.raises(UnknownTask):
        resolve_task("none")  # registers them
    registered = {name for name, spec in gymnasium.registry.items() if "env_cfg_entry_point" in spec.kwargs}
    assert {name for name in registered if name.startswith(("Isaac", "Spiky"))} <= list_registered_ids()
    assert list_registered_ids() <= registered
