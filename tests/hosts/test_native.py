"""Isaac Lab's tasks on native physics: each step is MuJoCo-Warp's, whatever Isaac Lab's events change; `auto` says what it takes."""

import json
import logging
from types import SimpleNamespace

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.isaaclab.environment import load_configs, resolve_task
from spiky_rl.hosts.isaaclab.mujoco import selection, worlds
from spiky_rl.kernels import compiler
from tests import processes

GIVEN = "env.sim.physics.solver_cfg.use_mujoco_contacts=False"
TASKS = [("Isaac-Ant",), ("Isaac-Cartpole",)]
SLOW = [("Isaac-Humanoid",), ("Isaac-Ant", GIVEN), ("Isaac-Humanoid", GIVEN)]
SLOW += [("tests/hosts/objects_task.py:Ant-Among-Things",)]
SLOW += [(f"Isaac-{name}-Direct",) for name in ("Ant", "Cartpole", "Humanoid")]
MEDIAN, MOST = 1e-6, 2e-5
"""Of a position after one step, in metres and radians: of half and of 99 % of all worlds and steps."""
RELATIVE = 1e-3
"""Of forces and accelerations, half of them, in their own size."""
LARGEST = 1e-4
"""Of every position where the same contacts push in both, in metres and radians."""
LARGEST_RELATIVE = {"qvel": 1e-3, "force": 1e-2}
"""Of every speed and every sum of contact forces there, in their size."""
FLIPPED = 2e-3
"""Share of worlds and steps in which a contact that begins at exactly this distance pushes in one physics and not yet in the other."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "case", [*TASKS, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=" ".join
)
def test_a_step_of_a_task_is_mujoco_warps_whatever_is_randomised(case):
    done = processes.run("-m", "tests.hosts.native_case", *case)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.rpartition("RESULT")[2])
    assert len(found) == 12
    for change, quantities in found.items():
        assert quantities["qpos"]["median"] <= MEDIAN and quantities["qpos"]["most"] <= MOST, change
        for name in {"qvel", "qacc", "cfrc_int", "force"} & quantities.keys():
            assert quantities[name]["median"] <= RELATIVE * quantities[name]["size"], (change, name)
        assert quantities["flipped"] <= FLIPPED, change
        assert quantities["qpos"]["largest"] <= LARGEST, change
        for name, bound in LARGEST_RELATIVE.items():
            assert quantities[name]["largest"] <= bound * quantities[name]["size"], (change, name)
    if "Cartpole" not in case[0]:
        assert all(quantities["contacts"]["size"] >= 1.0 for quantities in found.values())


def configured(*overrides, device="cpu", task="Isaac-Ant"):
    wanted, overrides = selection.split_physics_override(overrides)
    cfg, _ = load_configs(resolve_task(task), None, overrides)
    return selection.apply_physics(cfg, wanted, device), cfg


@pytest.mark.parametrize(
    "overrides, device, name",
    [
        ((), "cpu", "mujoco"),
        (("physics=auto",), "cpu", "mujoco"),
        (("physics=mujoco",), "cpu", "mujoco"),
        (("physics=newton_mjwarp",), "cpu", "newton_mjwarp"),
        (("presets=newton_mjwarp",), "cpu", "newton_mjwarp"),
        (("physics=newton_kamino",), "cpu", "newton_kamino"),
        ((), "cuda:0", "newton_mjwarp"),
        (("physics=isaacsim_physx",), "cuda:0", "physx"),
    ],
)
def test_a_cpu_takes_native_physics_unless_another_is_named(overrides, device, name, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("spiky_rl"), "propagate", True)
    found, cfg = configured(*overrides, device=device)
    assert found == name
    kind = selection.NATIVE if "physics=mujoco" in overrides else selection.AUTO
    assert (str(cfg.sim.physics.class_type) == selection.MANAGERS[kind]) is (name == "mujoco")
    assert not caplog.records


@pytest.mark.parametrize(
    "overrides, device, reason",
    [
        (("physics=mujoco",), "cuda:0", "the device is cuda:0"),
        (("physics=mujoco", GIVEN, "env.sim.physics.solver_cfg.integrator=rk4"), "cpu", "rk4"),
        (("physics=mujoco", "env.sim.physics.solver_cfg.use_mujoco_cpu=True"), "cpu", "use_mujoco_cpu"),
    ],
)
def test_what_native_physics_cannot_step_is_refused_by_name(overrides, device, reason):
    with pytest.raises(
        selection.PhysicsError, match=f"physics=mujoco: .*{reason}.*; use physics=newton_mjwarp"
    ):
        configured(*overrides, device=device)


def test_isaac_labs_own_commands_are_offered_native_physics_by_name_and_as_their_default():
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    known, offered = (load_cfg_from_registry("Isaac-Cartpole", "env_cfg_entry_point").sim for _ in range(2))
    selection.add_physics_preset(SimpleNamespace(sim=offered))
    alternatives = type(offered.physics)  # which is what Isaac Lab reads
    assert str(alternatives.default.class_type) == selection.MANAGERS[selection.AUTO]
    assert str(alternatives.mujoco.class_type) == selection.MANAGERS[selection.NATIVE]
    assert offered.physics.newton_mjwarp == known.physics.newton_mjwarp
    assert not hasattr(type(known.physics), "mujoco"), "Isaac Lab's own class is shared by all tasks"


def test_auto_takes_isaac_labs_physics_where_it_must_and_says_why_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("spiky_rl"), "propagate", True)
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    monkeypatch.setattr(compiler, "compile_library", compiler.compile_library.__wrapped__)
    worlds.load_library.cache_clear()
    name, _ = configured()
    worlds.load_library.cache_clear()
    assert name == "newton_mjwarp"
    (record,) = caplog.records
    assert "newton_mjwarp" in record.getMessage() and "there is no C++ compiler" in record.getMessage()


def test_a_model_whose_solver_differs_between_worlds_is_refused():
    import numpy as np

    from spiky_rl.hosts.isaaclab.mujoco import parameters

    values = {
        name: np.zeros((2, 1), np.float32)
        for name in (*parameters.SCALARS, *parameters.VECTORS, parameters.RATIO)
    }
    values["tolerance"][1] = 1.0
    option = SimpleNamespace(
        **{name: SimpleNamespace(numpy=lambda v=value: v) for name, value in values.items()}
    )
    source = SimpleNamespace(opt=option, __dataclass_fields__={})
    with pytest.raises(parameters.UnsupportedModel, match="tolerance .* differ between worlds"):
        parameters.update_models(SimpleNamespace(count=2), source, None)  # type: ignore[arg-type]
