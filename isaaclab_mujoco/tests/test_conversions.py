"""A native step leaves Newton's state as Newton's own conversions leave it, for every kind of joint and on any number of threads."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

import newton
import torch
import warp as wp
from isaaclab_mujoco.solver import NativeSolver
from newton.solvers import SolverMuJoCo

WORLDS, SEED, STEP = 5, 0, 0.004
ROUNDING = 2e-6
"""Of numbers near one in float32."""
INPUTS = ("ctrl", "qfrc_applied", "xfrc_applied")
STATE = ("joint_q", "joint_qd", "body_q", "body_qd", "body_qdd", "body_parent_f")
DRIVEN = {"target_ke": 20.0, "target_kd": 1.0}


def frame(draw):
    turn = draw.normal(size=4)
    return wp.transform(wp.vec3(*draw.uniform(-0.2, 0.2, 3)), wp.quat(*(turn / np.linalg.norm(turn))))


def axis(direction, **options):
    return newton.ModelBuilder.JointDofConfig(axis=direction, **options)


def robot(draw, kinds):
    """A chain of links, each on a joint of another kind, all frames turned and all centres of mass off the origin."""
    builder = newton.ModelBuilder()
    SolverMuJoCo.register_custom_attributes(builder)

    def add_driven_ball(a, b, f):
        joint = builder.add_joint_ball(a, b, actuator_mode=newton.JointTargetMode.VELOCITY, **f)
        builder.joint_target_kd[-3:] = [0.1] * 3
        return joint

    add = {
        "free": lambda a, b, f: builder.add_joint_free(b, parent=a, **f),
        "revolute": lambda a, b, f: builder.add_joint_revolute(a, b, axis=(0, 1, 0), **DRIVEN, **f),
        "prismatic": lambda a, b, f: builder.add_joint_prismatic(a, b, axis=(1, 0, 0), **DRIVEN, **f),
        "ball": lambda a, b, f: builder.add_joint_ball(a, b, **f),
        "driven ball": add_driven_ball,
        "fixed": lambda a, b, f: builder.add_joint_fixed(a, b, **f),
        "one turning axis": lambda a, b, f: builder.add_joint_d6(a, b, angular_axes=[axis((0, 0, 1), **DRIVEN)], **f),
        "two turning axes": lambda a, b, f: builder.add_joint_d6(
            a, b, angular_axes=[axis((0, 1, 0)), axis((1, 0.3, 0), **DRIVEN)], **f
        ),
        "three turning axes": lambda a, b, f: builder.add_joint_d6(
            a, b, angular_axes=[axis((1, 0, 0)), axis((0, 0, 1)), axis((0, 1, 0))], **f
        ),
        "sliding and turning": lambda a, b, f: builder.add_joint_d6(
            a, b, linear_axes=[axis((1, 0, 0)), axis((0, 0, 1))], angular_axes=[axis((0, 1, 0))], **f
        ),
    }  # fmt: skip
    parent, joints = -1, []
    for kind in kinds:
        link = builder.add_link(label=kind)
        builder.add_shape_box(link, xform=frame(draw), hx=0.1, hy=0.07, hz=0.05)
        frames = {"parent_xform": frame(draw), "child_xform": frame(draw)}
        joints.append(add[kind](parent, link, frames))
        parent = link
    builder.add_articulation(joints)
    return builder


FLOATING = ("free", "revolute", "ball", "prismatic", "two turning axes", "fixed", "three turning axes")
FIXED = ("fixed", "revolute", "sliding and turning", "one turning axis", "ball")
DRIVEN_BALL = ("free", "driven ball", "revolute")


class ConvertedByNewton(NativeSolver):
    """The same steps between Newton's own conversions."""

    def step(self, state_in, state_out, control, contacts, dt):
        worlds = self.prepare_worlds(dt)
        self._enable_rne_postconstraint(state_out)
        self._apply_mjc_control(self.model, state_in, control, self.mjw_data)
        self._update_mjc_data(self.mjw_data, self.model, state_in)
        worlds.configure_step(wrenches=True, report=False, given_contacts=False)
        worlds.step()
        self._update_newton_state(self.model, state_out, self.mjw_data, state_prev=state_in)


class Simulation:
    """Worlds of one robot with random states, forces and targets."""

    def __init__(self, kinds, solver=NativeSolver, **options):
        draw = np.random.default_rng(SEED)
        builder = newton.ModelBuilder()
        SolverMuJoCo.register_custom_attributes(builder)
        builder.replicate(robot(draw, kinds), WORLDS)
        self.model: Any = builder.finalize(device="cpu")
        self.model.request_state_attributes("body_qdd", "body_parent_f", "mujoco:qfrc_actuator")
        self.solver: Any = solver(self.model, njmax=64, nconmax=16, integrator="implicitfast", **options)
        self.state, self.control = self.model.state(), self.model.control()
        self.fill(self.state.joint_q, draw.normal(0.0, 0.3, self.model.joint_coord_count))
        self.fill(self.state.joint_qd, draw.normal(0.0, 0.5, self.model.joint_dof_count))
        self.normalise()
        self.fill(self.state.body_f, draw.normal(0.0, 0.2, (self.model.body_count, 6)))
        self.fill(self.control.joint_f, draw.normal(0.0, 0.2, self.model.joint_dof_count))
        for target in (self.control.joint_target_q, self.control.joint_target_qd):
            self.fill(target, draw.normal(0.0, 0.3, target.shape[0]))
        newton.eval_fk(self.model, self.state.joint_q, self.state.joint_qd, self.state)

    @staticmethod
    def fill(array, values):
        array.numpy()[...] = values

    def normalise(self):
        q, kinds = self.state.joint_q.numpy(), self.model.joint_type.numpy()
        for joint, start in enumerate(self.model.joint_q_start.numpy()[:-1]):
            if kinds[joint] in (newton.JointType.FREE, newton.JointType.BALL):
                at = start + 3 * (kinds[joint] == newton.JointType.FREE)
                q[at : at + 4] /= np.linalg.norm(q[at : at + 4])

    def step(self, count=1):
        self.solver.run_substeps(count, self.state, self.state, self.control, None, STEP)

    def found(self):
        values = {name: getattr(self.state, name).numpy().copy() for name in STATE}
        values["qfrc_actuator"] = self.state.mujoco.qfrc_actuator.numpy().copy()
        return values | {name: getattr(self.solver.mjw_data, name).numpy().copy() for name in INPUTS}


@pytest.mark.parametrize("kinds", [FLOATING, FIXED, DRIVEN_BALL], ids=["floating", "fixed", "driven ball"])
def test_a_step_leaves_what_newtons_own_conversions_leave(kinds):
    ours, theirs = Simulation(kinds), Simulation(kinds, ConvertedByNewton)
    start = ours.found()
    for _ in range(3):
        for each in (ours, theirs):
            each.solver.step(each.state, each.state, each.control, None, STEP)
        found, expected = ours.found(), theirs.found()
        for name, value in expected.items():
            close = ROUNDING * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(found[name], value, rtol=0.0, atol=close, err_msg=name)
    moved = (
        "joint_q",
        "joint_qd",
        "body_q",
        "body_qd",
        "body_parent_f",
        "body_qdd",
        "qfrc_actuator",
        *INPUTS,
    )
    for name in moved:
        assert np.abs(expected[name] - start[name]).max() > 1e-4, f"{name}: nothing happened"


def test_forward_kinematics_of_chosen_robots_are_newtons():
    simulation = Simulation(FLOATING)
    model, state, solver = simulation.model, simulation.state, simulation.solver
    expected, mask = model.state(), np.arange(model.articulation_count) % 2 == 0
    for each in (state, expected):
        each.body_q.zero_()
        each.body_qd.zero_()
    chosen = wp.array(mask, dtype=wp.bool, device="cpu")
    newton.eval_fk(model, state.joint_q, state.joint_qd, expected, chosen)
    solver.conversions.update_kinematics(state, simulation.control, chosen)
    for name in ("body_q", "body_qd"):
        ours, theirs = (getattr(each, name).numpy().reshape(WORLDS, -1) for each in (state, expected))
        np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=ROUNDING)
        assert (ours[mask] != 0.0).any() and (ours[~mask] == 0.0).all()


def test_a_body_that_is_moved_from_outside_keeps_the_motion_that_it_was_given():
    simulation = Simulation(FLOATING)
    simulation.model.body_flags.numpy()[:: len(FLOATING)] = int(newton.BodyFlags.KINEMATIC)
    before = simulation.found()
    simulation.step()
    after = simulation.found()
    roots = np.arange(WORLDS)[:, None] * (simulation.model.joint_coord_count // WORLDS) + np.arange(7)
    assert after["joint_q"][roots].tobytes() == before["joint_q"][roots].tobytes()
    assert np.abs(after["joint_q"] - before["joint_q"]).max() > 1e-4
    assert (after["xfrc_applied"][:, 1] == 0.0).all()


@pytest.mark.parametrize("kinds", [FLOATING, DRIVEN_BALL], ids=["floating", "driven ball"])
def test_results_do_not_depend_on_threads_nor_on_how_many_steps_a_call_makes(kinds, monkeypatch):
    found = []
    for threads, counts in ((1, (1, 1, 1, 1)), (3, (1, 1, 1, 1)), (2, (4,))):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=threads: number)
        simulation = Simulation(kinds, update_data_interval=2)
        for count in counts:
            simulation.step(count)
        assert simulation.solver.worlds.threads == threads
        found.append(simulation.found())
    for other in found[1:]:
        for name, value in found[0].items():
            assert value.tobytes() == other[name].tobytes(), name
