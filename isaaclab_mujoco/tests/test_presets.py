"""Isaac Lab's own commands offer native physics by name, and change nothing by themselves."""

import copy
from types import SimpleNamespace

import pytest

pytest.importorskip("isaaclab", reason="Isaac Lab is not installed")

import gymnasium
import isaaclab_tasks  # noqa: F401  # registers the tasks
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_tasks.utils import preset, resolve_presets, resolve_task_config
from isaaclab_tasks.utils.hydra import collect_presets
from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

from isaaclab_mujoco import presets, selection, tasks

NATIVE, AUTO, WARP = selection.NATIVE, selection.AUTO, selection.WARP
ENTRY = presets.ENTRY
TASKS = {
    "a choice of physics": "Isaac-Ant",
    "PhysX by default": "IsaacContrib-Place-Toy2Box-Agibot-Right-Arm-RmpFlow",
    "a choice of whole simulations": "Isaac-Open-Drawer-Franka",
    "a choice of whole environments": "Isaac-Cartpole-Camera",
    "robots and events for each physics": "IsaacContrib-Velocity-Flat-Spot",
}
MODULE = "isaaclab_tasks.core.locomotion.ant."


def load(task):
    return load_cfg_from_registry(task, ENTRY)


def name_of(cfg):
    return selection.get_physics_name(cfg.sim.physics)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_mujoco_selects_all_that_mujoco_warp_selects_and_steps_it_natively(task):
    native = resolve_presets(presets.add_preset(load(task)), [NATIVE])
    warp = resolve_presets(load(task), [WARP])
    assert (name_of(native), name_of(warp)) == (NATIVE, WARP)
    assert str(native.sim.physics.class_type) == selection.MANAGERS[NATIVE]
    native.sim.physics.class_type = warp.sim.physics.class_type
    native.sim.physics.solver_cfg.class_type = warp.sim.physics.solver_cfg.class_type
    assert native.to_dict() == warp.to_dict()


@pytest.mark.parametrize(
    "task",
    [
        # the largest of all configurations
        pytest.param(task, id=name, marks=[pytest.mark.slow] * (task == "Isaac-Cartpole-Camera"))
        for name, task in TASKS.items()
    ],
)
@pytest.mark.parametrize("choice", [[], [WARP]], ids=["default", WARP])
def test_other_choices_stay_as_they_are(task, choice):
    ours, theirs = presets.add_preset(load(task)), load(task)
    assert resolve_presets(ours, choice).to_dict() == resolve_presets(theirs, choice).to_dict()


def test_the_classes_that_tasks_share_stay_as_they_are():
    presets.add_preset(load("Isaac-Ant"))
    assert not any(NATIVE in fields for fields in collect_presets(load("Isaac-Ant")).values())


def test_auto_takes_the_place_of_a_default_that_is_mujoco_warp_and_of_no_other():
    ant = presets.add_preset(load("Isaac-Ant"), auto_default=True)
    assert str(resolve_presets(copy.deepcopy(ant)).sim.physics.class_type) == selection.MANAGERS[AUTO]
    assert (
        str(resolve_presets(copy.deepcopy(ant), [NATIVE]).sim.physics.class_type)
        == selection.MANAGERS[NATIVE]
    )
    assert name_of(resolve_presets(ant, [WARP])) == WARP
    physx = presets.add_preset(load(TASKS["PhysX by default"]), auto_default=True)
    assert name_of(resolve_presets(physx)) == "physx"


def only_physics():
    """A task's configuration without a choice of physics."""
    return resolve_presets(load("Isaac-Ant"), [WARP])


def test_a_task_without_a_choice_of_physics_gets_one():
    assert name_of(resolve_presets(presets.add_preset(only_physics()))) == WARP
    assert name_of(resolve_presets(presets.add_preset(only_physics()), [NATIVE])) == NATIVE
    automatic = resolve_presets(presets.add_preset(only_physics(), auto_default=True))
    assert str(automatic.sim.physics.class_type) == selection.MANAGERS[AUTO]


@pytest.mark.parametrize("has_presets", [True, False])
def test_a_task_keeps_the_physics_manager_of_its_own(has_presets, caplog):
    own = NewtonCfg(solver_cfg=MJWarpSolverCfg(class_type="mine:NewtonMyManager"))
    cfg = only_physics()
    cfg.sim.physics = preset(default=own, newton_mjwarp=own) if has_presets else own
    added = presets.add_preset(cfg, auto_default=True)
    assert NATIVE not in collect_presets(added).get("sim.physics", {})
    resolved = resolve_presets(added)
    assert resolved.sim.physics.class_type == "mine:NewtonMyManager"
    (record,) = caplog.records
    assert record.getMessage().endswith("the task has a physics manager of its own, mine:NewtonMyManager")


def test_what_is_no_physics_gets_the_value_of_mujoco_warp():
    cfg = {"armature": preset(default=0.0, newton_mjwarp=0.01), "gains": [preset(default=1, physx=2)]}
    assert resolve_presets(presets.add_preset(cfg), [NATIVE]) == {"armature": 0.01, "gains": [1]}


def test_added_twice_it_is_there_once():
    once, twice = presets.add_preset(load("Isaac-Ant")), presets.add_preset(
        presets.add_preset(load("Isaac-Ant"))
    )
    for choice in ([], [NATIVE], [WARP]):
        found = [resolve_presets(copy.deepcopy(cfg), choice).to_dict() for cfg in (once, twice)]
        assert found[0] == found[1]


@pytest.fixture(name="ant")
def _ant():
    """Isaac-Ant in gymnasium's registry, put back after the test."""
    task = gymnasium.spec("Isaac-Ant")
    before = dict(task.kwargs)
    yield task
    task.kwargs.clear()
    task.kwargs.update(before)


def test_a_task_that_is_offered_it_takes_physics_mujoco_and_still_names_its_own_module(ant):
    for _ in range(2):  # as often as it is offered
        presets.offer_preset([ant])
    cfg, _ = resolve_task_config("Isaac-Ant", None, overrides=["physics=mujoco", "env.sim.dt=0.01"])
    assert (name_of(cfg), cfg.sim.dt) == (NATIVE, 0.01)
    assert ant.kwargs[ENTRY].__module__.startswith(MODULE)
    with pytest.raises(ValueError, match="mujoco"):
        resolve_task_config("Isaac-Cartpole", None, overrides=["physics=mujoco"])


def test_what_registers_no_configuration_is_left_alone():
    task = SimpleNamespace(id="CartPole-v1", kwargs={"sutton_barto_reward": True})
    presets.offer_preset([task])
    assert task.kwargs == {"sutton_barto_reward": True}


@pytest.mark.parametrize(
    "arguments, is_requested",
    [
        (["train", "--task", "Isaac-Ant", "physics=mujoco"], True),
        (["train", "--task", "Isaac-Ant", "presets=rgb,mujoco"], True),
        (["train", "--task", "Isaac-Ant", "env.sim.physics=mujoco"], True),
        (["train", "--task", "Isaac-Ant", "--help"], True),
        (["train", "--task", "Isaac-Ant", "--device", "cpu"], False),
        (["train", "--task", "Isaac-Ant", "physics=newton_mjwarp"], False),
        (["list_envs", "--keyword", "mujoco"], False),
        ([], False),
    ],
)
def test_a_command_line_that_does_not_ask_for_it_is_left_alone(arguments, is_requested):
    assert tasks.is_requested(arguments) is is_requested
