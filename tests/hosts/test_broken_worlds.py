"""A world whose physics breaks is ended, reset and counted; too many of them end a run. Nobody waits for the device."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.isaaclab.broken_worlds import BrokenWorlds
from tests import processes
from tests.hosts.pretend_cuda import DEVICE, pretended

BOTH = ("mujoco", "newton_mjwarp")
FAST = [("Isaac-Ant", "mujoco")]
SLOW = [("Isaac-Ant", "newton_mjwarp")]
SLOW += [
    (task, physics) for task in ("Isaac-Ant-Direct", "Isaac-Cartpole", "Isaac-Humanoid") for physics in BOTH
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("task", "physics"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_world_that_breaks_begins_anew_and_the_others_go_on(task, physics):
    found = processes.run_case("broken", task, physics)
    assert found["physics"] == physics
    assert found["none"] == 0 and found["count"] == 4 and found["finite"]
    assert found["dones"] == {"5": [3], "9": [3, 7], "15": [0]} and found["truncated"] == 0
    assert all(length == 0 for lengths in found["lengths"].values() for length in lengths)
    penalty = 0.0 if "Direct" in task else {"Isaac-Ant": -2.0, "Isaac-Humanoid": -1.0}.get(task)
    if penalty is not None:
        assert {value for values in found["rewards"].values() for value in values} == {penalty}
    assert found["apart"] <= (0.0 if physics == "mujoco" else 1e-3)
    assert (
        "joint velocity of robot is nan" in found["failed"] and "in 16 of 16 environments" in found["failed"]
    )
    assert "env.sim.dt=" in found["failed"] and "learning_rate" not in found["failed"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("physics", ["mujoco", pytest.param("newton_mjwarp", marks=pytest.mark.slow)])
def test_what_isaac_lab_does_not_reset_is_finite_after_a_world_broke(physics):
    found = processes.run_case("broken", "Isaac-Cartpole", physics, "stale")
    assert found["count"] == 4 and found["finite"]
    assert found["pole"] < 1e-5, "the frame sensor's pole is where the robot's is"
    assert found["apart"] <= (0.0 if physics == "mujoco" else 1e-3)


def broken_worlds(count, device="cpu"):
    """Worlds of one robot with a joint, and its velocity."""
    velocity = torch.zeros(count, 1, device=device)
    data = {
        name: SimpleNamespace(torch=torch.zeros(count, 7, device=device))
        for name in ("joint_pos", "root_link_pose_w", "root_com_vel_w")
    }
    robot = SimpleNamespace(data=SimpleNamespace(joint_vel=SimpleNamespace(torch=velocity), **data))
    scene = SimpleNamespace(articulations={"robot": robot}, rigid_objects={}, rigid_object_collections={})
    return BrokenWorlds(SimpleNamespace(num_envs=count, device=device, scene=scene)), velocity  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "is_broken"), [(0.0, False), (-1e8, False), (math.nan, True), (-math.inf, True), (2e9, True)]
)
def test_a_world_is_broken_where_it_is_nowhere(value, is_broken):
    worlds, velocity = broken_worlds(4)
    velocity[2] = value
    worlds.find()
    assert worlds.mask.tolist() == [False, False, is_broken, False] and int(worlds.count) == is_broken
    assert not worlds.is_excessive


@pytest.mark.parametrize(("count", "each", "step"), [(400, 400, 0), (400, 8, 68), (400, 3, None), (1, 1, 0)])
def test_more_than_one_in_a_hundred_steps_are_too_many(count, each, step):
    worlds, velocity = broken_worlds(count)
    velocity[:each] = math.nan
    ended = []
    for i in range(300):
        worlds.find()
        ended += [i] * bool(worlds.is_excessive)
    assert ended[:1] == ([] if step is None else [step])
    velocity.zero_()
    worlds.find()
    assert not worlds.is_excessive, "none is broken now"


def test_broken_worlds_are_found_without_waiting_for_the_device():
    with pretended() as cuda:
        worlds, velocity = broken_worlds(4, DEVICE)
        velocity[2] = math.nan
        for _ in range(3):
            worlds.find()
            assert worlds.is_excessive.shape == ()
        assert not cuda.pretence.met
