"""A task is named with the package that it comes from; a name of an earlier release is said to be another task, once."""

import importlib.metadata
import logging

import gymnasium
import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.base import UnknownTask
from spiky_rl.hosts.isaaclab.environment import describe_task, resolve_task
from spiky_rl.run.prepare import log_changed_meaning, make_plan
from spiky_rl.run.run_plan import RunRequest

ISAACLAB = f"of Isaac Lab {importlib.metadata.version('isaaclab')}"


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("Isaac-Ant-v0", f"Isaac-Ant {ISAACLAB}"),
        ("Isaac-Ant-Direct", f"Isaac-Ant-Direct {ISAACLAB}"),
        (
            "Spiky-Velocity-Flat-Go1",
            f"Spiky-Velocity-Flat-Go1 of spiky_rl {importlib.metadata.version('spiky_rl')}",
        ),
        ("Someones-Own", "Someones-Own"),
    ],
)
def test_a_task_is_named_with_the_package_that_it_comes_from(name, described):
    if name == "Someones-Own":
        gymnasium.register("Someones-Own", "own:Env", kwargs={"env_cfg_entry_point": "own.tasks:EnvCfg"})
    assert describe_task(resolve_task(name)) == described


def test_only_registered_versions_of_a_task_are_accepted():
    assert resolve_task("Isaac-DrLegs-Walk-v0") == "Isaac-DrLegs-Walk-v0"
    with pytest.raises(UnknownTask, match="'Isaac-Ant-v7' is not registered; did you mean Isaac-Ant,"):
        resolve_task("Isaac-Ant-v7")


@pytest.mark.parametrize(
    ("name", "lines"), [("Isaac-Ant-v0", 1), ("Isaac-Ant", 0), ("ant", 0), ("cartpole_masked", 0)]
)
def test_the_name_of_an_earlier_release_is_said_to_be_another_task_in_one_line(name, lines, caplog):
    with caplog.at_level(logging.INFO, "spiky_rl"):
        log_changed_meaning.cache_clear()
        for _ in range(2):
            plan = make_plan(RunRequest(task=name, agent="lif_ppo", device="cpu", num_envs=4))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("task: ")]
    assert len(said) == lines
    assert all(f"{name} now means Isaac-Ant {ISAACLAB}" in line for line in said)
    assert plan.description["registered"] == f"{plan.host_task.id} {ISAACLAB}"
