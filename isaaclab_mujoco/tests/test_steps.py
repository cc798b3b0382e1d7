"""Isaac Lab's tasks on native physics: each step is MuJoCo-Warp's, whatever Isaac Lab's events change."""

import json
from pathlib import Path

import pytest

pytest.importorskip("isaaclab", reason="Isaac Lab is not installed")

from processes import run

CASE = Path(__file__).with_name("step_case.py")
GIVEN = "env.sim.physics.solver_cfg.use_mujoco_contacts=False"
TASKS = [
    ("Isaac-Cartpole",),
    ("Isaac-Ant",),
    ("Isaac-Humanoid",),
    ("Isaac-Ant", GIVEN),
    ("Isaac-Humanoid", GIVEN),
]
TASKS += [("objects_task.py:Ant-Among-Things",)]
TASKS += [(f"Isaac-{name}-Direct",) for name in ("Ant", "Cartpole", "Humanoid")]
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
@pytest.mark.slow
@pytest.mark.parametrize("case", TASKS, ids=" ".join)
def test_a_step_of_a_task_is_mujoco_warps_whatever_is_randomised(case, assets):
    done = run(CASE, *case, ISAACSIM_ASSET_ROOT=assets)
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
