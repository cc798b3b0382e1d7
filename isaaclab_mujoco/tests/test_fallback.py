"""A model that MuJoCo's C library cannot step: ``mujoco`` names the reason and ends, ``auto`` takes MuJoCo-Warp and says so."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("isaaclab", reason="Isaac Lab is not installed")

import newton
from isaaclab_mujoco.errors import UnsupportedModel
from isaaclab_mujoco.solver import NativeSolver
from newton.solvers import SolverMuJoCo

from isaaclab_mujoco import parameters

WORLDS, STEPS = 2, 5
OPTIONS = {"nconmax": 8, "njmax": 32, "iterations": 20}


def model_of(tolerances=None):
    """Pendulums, one in each world."""
    pendulum = newton.ModelBuilder()
    SolverMuJoCo.register_custom_attributes(pendulum)
    link = pendulum.add_link()
    pendulum.add_shape_capsule(link, radius=0.05, half_height=0.2)
    pendulum.add_articulation(
        [
            pendulum.add_joint_revolute(
                -1, link, axis=(0.0, 1.0, 0.0), child_xform=((0.0, 0.0, 0.3), (0.0, 0.0, 0.0, 1.0))
            )
        ]
    )
    builder = newton.ModelBuilder()
    builder.replicate(pendulum, WORLDS)
    model = builder.finalize(device="cpu")
    if tolerances:
        model.mujoco.tolerance.assign(np.array(tolerances, np.float32))
    return model


def compensated(solver):
    """Gravity compensation where there was none."""
    solver.model.mujoco.gravcomp.fill_(0.5)
    solver.notify_model_changed(newton.ModelFlags.BODY_INERTIAL_PROPERTIES)


CASES = {
    "sleeping bodies": (None, {"enable_sleeping": True}, None),
    "tolerance of the solver differ between worlds": ([1e-3, 1e-5], {}, None),
    "gravity compensation of a robot that was made without": (None, {}, compensated),
}


def fallen(solver, change, steps=STEPS):
    """Where the pendulums are after some steps."""
    if change:
        change(solver)
    state, control = solver.model.state(), solver.model.control()
    state.joint_q.fill_(0.3)
    for _ in range(steps):
        solver.step(state, state, control, None, 0.01)
    return state.joint_q.numpy()


@pytest.mark.parametrize("reason", CASES)
def test_a_model_for_mujoco_warp_alone_is_refused_by_name_or_stepped_by_mujoco_warp(reason, caplog):
    tolerances, options, change = CASES[reason]
    with pytest.raises(UnsupportedModel, match=f"^physics=mujoco: {reason}; use physics=newton_mjwarp$"):
        fallen(NativeSolver(model_of(tolerances), **OPTIONS, **options), change)
    assert not caplog.records
    solver = NativeSolver(model_of(tolerances), allows_fallback=True, **OPTIONS, **options)
    ours = fallen(solver, change)
    theirs = fallen(SolverMuJoCo(model_of(tolerances), **OPTIONS, **options), change)
    assert ours.tobytes() == theirs.tobytes() and np.abs(ours - 0.3).max() > 1e-3
    assert not solver.is_native
    (record,) = caplog.records
    assert record.getMessage() == f"physics: newton_mjwarp, several times slower than mujoco: {reason}"


def test_a_run_never_has_two_physics():
    solver = NativeSolver(model_of(), allows_fallback=True, **OPTIONS)
    fallen(solver, None)
    assert solver.is_native
    with pytest.raises(UnsupportedModel, match="gravity compensation"):
        fallen(solver, compensated)


def test_a_model_whose_solver_differs_between_worlds_is_refused():
    values = {
        name: np.zeros((2, 1), np.float32)
        for name in (*parameters.SCALARS, *parameters.VECTORS, parameters.RATIO)
    }
    values["tolerance"][1] = 1.0
    option = SimpleNamespace(
        **{name: SimpleNamespace(numpy=lambda v=value: v) for name, value in values.items()}
    )
    source = SimpleNamespace(opt=option, __dataclass_fields__={})
    with pytest.raises(UnsupportedModel, match="tolerance .* differ between worlds"):
        parameters.update_models(SimpleNamespace(count=2), source, None)  # type: ignore[arg-type]
