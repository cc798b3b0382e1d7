"""Meshes and free bodies on native physics step as MuJoCo-Warp steps them; height fields do so with Newton's contacts."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco", reason="the isaaclab extra is not installed")
pytest.importorskip("mujoco_warp", reason="the isaaclab extra is not installed")
pytest.importorskip("isaaclab_newton", reason="the isaaclab extra is not installed")

import newton
from isaaclab_mujoco.errors import UnsupportedModel
from isaaclab_mujoco.solver import NativeSolver
from newton.solvers import SolverMuJoCo
from test_worlds import FLOOR, STATES, Both

STEPS, SEED = 40, 3
CLOSE = {"qpos": 2e-6, "qvel": 1e-3}
"""Of one step; the rounding of MuJoCo-Warp's own states moves such bodies by up to 4e-7 and 3e-4."""


def vertices(name, points):
    return f'<mesh name="{name}" vertex="{" ".join(f"{x:.4f}" for x in np.ravel(points))}"/>'


PLACES = np.random.default_rng(SEED).normal(size=(40, 3))
STONE = vertices("stone", PLACES / np.linalg.norm(PLACES, axis=1, keepdims=True) * [0.15, 0.12, 0.1])
ROUND = np.arange(12) * np.pi / 6
COIN = vertices("coin", [(0.15 * np.cos(a), 0.15 * np.sin(a), z) for a in ROUND for z in (-0.04, 0.04)])
WEDGE = vertices(
    "wedge", [(x, y, -0.1) for x in (-0.12, 0.12) for y in (-0.1, 0.1)] + [(-0.1, 0, 0.12), (0.1, 0, 0.12)]
)


def body(shape, z, turn="0 0 0", x=0.0, joint="<freejoint/>"):
    return f'<body pos="{x} 0.03 {z}" euler="{turn}">{joint}<geom {shape} density="300"/></body>'


def primitive(kind, size):
    return f'type="{kind}" size="{size}"'


def mesh(name):
    return f'type="mesh" mesh="{name}"'


BRICK = primitive("box", ".1 .2 .3")
RAMP = f"<geom {mesh('wedge')}/>"
MODELS = {
    "a mesh on the floor": FLOOR + body(mesh("wedge"), 0.14),
    "a mesh of many vertices on the floor": FLOOR + body(mesh("stone"), 0.16, "10 60 0"),
    "a mesh with many vertices in contact": FLOOR + body(mesh("coin"), 0.09),
    "a sphere on a mesh": RAMP + body(primitive("sphere", ".1"), 0.255),
    "a capsule on a mesh": RAMP + body(primitive("capsule", ".05 .2"), 0.205, "0 80 20"),
    "a box on a mesh": RAMP + body(primitive("box", ".1 .1 .1"), 0.28, "20 30 0"),
    "a mesh on a mesh": RAMP + body(mesh("stone"), 0.26, "10 20 0"),
    "a sphere on a box": FLOOR + body(primitive("box", ".2 .2 .1"), 0.1) + body(primitive("sphere", ".1"), 0.31, x=0.01),
    "a free body that spins": body(BRICK, 1.0),
    "a damped free body that spins": body(BRICK, 1.0, joint='<joint type="free" damping="1"/>'),
}  # fmt: skip
SLOW = (
    "a mesh of many vertices on the floor",
    "a capsule on a mesh",
    "a mesh on a mesh",
    "a sphere on a box",
)
TIES = {"a mesh with many vertices in contact": 2}
"""In how many steps rounding may choose other vertices of the same depth."""


def stepped_by_both(name, integrator="implicitfast"):
    """How far apart the two are after each of a native trajectory's steps: name -> [steps]."""
    option = f'<option timestep=".004" integrator="{integrator}" iterations="100" tolerance="1e-9"><flag multiccd="disable"/></option>'
    text = (
        f"<mujoco>{option}<asset>{STONE}{COIN}{WEDGE}</asset><worldbody>{MODELS[name]}</worldbody></mujoco>"
    )
    both = Both(mujoco.MjModel.from_xml_string(text))
    if "spins" in name:
        both.write({"qvel": np.array([0.0, 0.0, 0.0, 5.0, -3.0, 8.0])})
    apart, touched = {quantity: [] for quantity in CLOSE}, 0
    for _ in range(STEPS):
        before = both.read(*STATES)
        both.native()
        ours = both.read(*STATES)
        touched += int(both.data.nacon.numpy()[0])
        both.write(before)
        both.warp()
        for quantity, steps in apart.items():
            steps.append(np.abs(ours[quantity] - both.read(quantity)[quantity]).max())
        both.write(ours)
    assert touched > 10 or "spins" in name, "nothing touched"
    return apart


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
)
def test_each_step_of_a_mesh_or_a_free_body_is_mujoco_warps(name):
    for quantity, steps in stepped_by_both(name).items():
        assert np.sort(steps)[-1 - TIES.get(name, 0)] <= CLOSE[quantity], (quantity, max(steps))


@pytest.mark.parametrize("integrator", ["Euler", pytest.param("RK4", marks=pytest.mark.slow)])
def test_a_free_body_spins_alike_with_newtons_other_integrators(integrator):
    for quantity, steps in stepped_by_both("a free body that spins", integrator).items():
        assert max(steps) <= CLOSE[quantity], (quantity, max(steps))


def on_hills(solver_type, given):
    """A ball that falls on a height field: its path [steps, 7] with a solver that is given contacts, or finds them itself."""
    builder = newton.ModelBuilder()
    heights = np.random.default_rng(SEED).random((8, 9)).astype(np.float32)
    hills = newton.Heightfield(heights, nrow=8, ncol=9, hx=1.0, hy=1.0, min_z=0.0, max_z=0.12)
    builder.add_shape_heightfield(heightfield=hills)
    ball = builder.add_body(xform=((0.0, 0.03, 0.3), (0.0, 0.0, 0.0, 1.0)))
    builder.add_shape_sphere(ball, radius=0.15)
    model = builder.finalize(device="cpu")
    solver = solver_type(model, use_mujoco_contacts=not given, nconmax=64, njmax=256)
    state, control, path = model.state(), model.control(), []
    collisions = newton.CollisionPipeline(model)
    contacts = collisions.contacts()
    for _ in range(STEPS):
        collisions.collide(state, contacts)
        solver.step(state, state, control, contacts, 0.01)
        path.append(state.joint_q.numpy().copy())
    return np.array(path)


def test_height_fields_are_stepped_with_newtons_contacts_and_refused_with_mujocos():
    ours, theirs = on_hills(NativeSolver, given=True), on_hills(SolverMuJoCo, given=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours[:, 2].min() > 0.12, "it fell through"
    with pytest.raises(
        UnsupportedModel,
        match="^physics=mujoco: height fields with MuJoCo's contacts; use physics=newton_mjwarp$",
    ):
        on_hills(NativeSolver, given=False)
