"""A configuration takes native physics by name, or as `auto` where it can, and says in one line where it cannot."""

import re

import pytest

pytest.importorskip("isaaclab", reason="Isaac Lab is not installed")

import isaaclab_tasks  # noqa: F401  # registers the tasks
from isaaclab_mujoco.errors import PhysicsError
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg, NewtonMJWarpManager
from isaaclab_tasks.utils import resolve_task_config

from isaaclab_mujoco import compiler, selection, worlds

SOLVER = "env.sim.physics.solver_cfg."


def load(*overrides):
    return resolve_task_config("Isaac-Ant", None, overrides=list(overrides))[0]


@pytest.mark.parametrize("physics", ["mujoco", "auto"])
def test_a_cpu_takes_native_physics_in_the_place_of_mujoco_warp(physics, caplog):
    cfg = load()
    assert selection.apply_physics(cfg, physics, "cpu") == "mujoco"
    assert selection.get_physics_name(cfg.sim.physics) == "mujoco"
    for part in (cfg.sim.physics, cfg.sim.physics.solver_cfg):
        assert str(part.class_type) == selection.MANAGERS[physics]
    assert selection.apply_physics(cfg, physics, "cpu") == "mujoco", "a second time"
    assert not caplog.records


@pytest.mark.parametrize(
    "physics, device, overrides, name",
    [
        ("auto", "cuda:0", [], "newton_mjwarp"),
        ("newton_mjwarp", "cpu", [], "newton_mjwarp"),
        ("", "cpu", ["physics=newton_kamino"], "newton_kamino"),
        ("auto", "cpu", ["physics=isaacsim_physx"], "physx"),
    ],
)
def test_other_physics_stay_as_they_are(physics, device, overrides, name, caplog):
    cfg = load(*overrides)
    before = cfg.to_dict()
    assert selection.apply_physics(cfg, physics, device) == name
    assert cfg.to_dict() == before and not caplog.records


@pytest.mark.parametrize(
    "device, overrides, reason",
    [
        ("cuda:0", [], "the device is cuda:0"),
        ("cpu", ["physics=newton_kamino"], "the task has newton_kamino"),
        ("cpu", [f"{SOLVER}use_mujoco_contacts=False", f"{SOLVER}integrator=rk4"], "rk4"),
        ("cpu", [f"{SOLVER}use_mujoco_contacts=False", f"{SOLVER}integrator=1"], "rk4"),
        ("cpu", [f"{SOLVER}use_mujoco_cpu=True"], "use_mujoco_cpu"),
    ],
)
def test_what_native_physics_cannot_step_is_refused_by_name(device, overrides, reason):
    with pytest.raises(PhysicsError, match=f"^physics=mujoco: .*{reason}.*; use physics=newton_mjwarp$"):
        selection.apply_physics(load(*overrides), "mujoco", device)


class OwnManager:
    """A physics manager of the task's own; only its name counts before the simulation starts."""


@pytest.mark.parametrize("manager", [OwnManager, "mine:NewtonMyManager"], ids=["class", "text"])
def test_a_task_keeps_the_physics_manager_of_its_own(manager, caplog):
    cfg = load()
    cfg.sim.physics = NewtonCfg(solver_cfg=MJWarpSolverCfg(class_type=manager))
    before = cfg.to_dict()
    reason = "the task has a physics manager of its own, .*:(OwnManager|NewtonMyManager)"
    with pytest.raises(PhysicsError, match=f"^physics=mujoco: {reason}; use physics=newton_mjwarp$"):
        selection.apply_physics(cfg, "mujoco", "cpu")
    assert selection.apply_physics(cfg, "auto", "cpu") == "newton_mjwarp"
    assert cfg.to_dict() == before
    (record,) = caplog.records
    assert re.search(f"slower than mujoco: {reason}$", record.getMessage())


@pytest.mark.parametrize("manager", [NewtonMJWarpManager, *selection.WARP_MANAGERS])
def test_mujoco_warps_manager_is_replaced_however_it_is_named(manager):
    cfg = load()
    cfg.sim.physics = NewtonCfg(solver_cfg=MJWarpSolverCfg(class_type=manager))
    assert selection.apply_physics(cfg, "mujoco", "cpu") == "mujoco"


def test_auto_without_a_compiler_is_mujoco_warp_and_says_why_in_one_line(monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(compiler, "get_compiler", compiler.get_compiler.__wrapped__)
    monkeypatch.setattr(compiler, "compile_library", compiler.compile_library.__wrapped__)
    worlds.load_library.cache_clear()
    name = selection.apply_physics(load(), "auto", "cpu")
    worlds.load_library.cache_clear()
    assert name == "newton_mjwarp"
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "physics: newton_mjwarp, several times slower than mujoco: there is no C++"
    )
