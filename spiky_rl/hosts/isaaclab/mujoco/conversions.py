"""Newton's arrays as `newton.h` reads and writes them: its inputs and state to MuJoCo's arrays and back, world by world."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
import warp as wp
from newton import Control, JointType, Model, State
from newton.solvers import SolverMuJoCo

from spiky_rl.hosts.isaaclab.mujoco.worlds import load_library
from spiky_rl.kernels.compiler import CompileError

INTEGERS = (
    *(
        "joints",
        "bodies",
        "coordinates",
        "dofs",
        "actuators",
        "targets",
        "all_targets",
        "inputs",
        "all_inputs",
    ),
    *(
        "target_dofs",
        "gravity_worlds",
        "compensation_stride",
        "gravity_stride",
        "applies",
        "step",
        "interval",
    ),
)
MODEL = {
    "type": "joint_type",
    "parent": "joint_parent",
    "child": "joint_child",
    "q_start": "joint_q_start",
    "qd_start": "joint_qd_start",
    "axes": "joint_dof_dim",
    "parent_frame": "joint_X_p",
    "child_frame": "joint_X_c",
    "axis": "joint_axis",
    "flags": "body_flags",
    "body_world": "body_world",
    "com": "body_com",
    "mass": "body_mass",
    "gravity": "gravity",
}
"""`newton.h`'s name of an array -> that of Newton's model; the same for those below."""
SOLVER = {
    "qpos_start": "mj_q_start",
    "qvel_start": "mj_qd_start",
    "body_of": "mjc_body_to_newton",
    "free_start": "body_free_qd_start",
    "source": "mjc_actuator_ctrl_source",
    "actuated": "mjc_actuator_to_newton_idx",
    "target": "mjc_actuator_to_newton_target_q_idx",
}
DATA = {
    **{name: name for name in ("qpos", "qvel", "ctrl", "qfrc_applied", "xfrc_applied", "qfrc_actuator")},
    **{name: name for name in ("xipos", "subtree_com", "cacc", "cvel", "cfrc_int")},
}
POINTERS = (
    *("type", "parent", "child", "q_start", "qd_start", "axes", "articulation", "qpos_start", "qvel_start"),
    *("parent_frame", "child_frame", "axis", "reference"),
    *("body_of", "root", "flags", "body_world", "free_start", "com", "mass", "gravity", "compensation"),
    *("source", "actuated", "target"),
    *("joint_q", "joint_qd", "next_q", "next_qd", "body_q", "body_qd", "body_f", "joint_f"),
    *("target_q", "target_qd", "input", "body_qdd", "parent_f", "actuator_force"),
    *DATA,
    "world_gravity",
)


class NewtonStruct(ctypes.Structure):
    """`newton.h`'s struct Newton."""

    _fields_ = [
        *((name, ctypes.c_int) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


class Conversions:
    """Where Newton's arrays lie, for the step in C. ``solver``: Newton's, of which the model and MuJoCo-Warp's arrays are."""

    def __init__(self, solver: SolverMuJoCo) -> None:
        if load_library().newton_size() != ctypes.sizeof(NewtonStruct):
            raise CompileError("newton.h and conversions.py name other fields")
        self.solver = solver
        model, data = solver.model, solver.mjw_data
        self.struct = NewtonStruct(
            joints=model.joint_count // data.nworld,
            bodies=solver.mjc_body_to_newton.shape[1],  # type: ignore[union-attr]
            coordinates=data.qpos.shape[1],
            dofs=data.qvel.shape[1],
        )
        self.articulation = wp.array(articulation_of(model), dtype=wp.int32, device="cpu")
        axes = solver.mjc_actuator_to_target_q_axis_idx
        self.has_ball_targets = axes is not None and bool((axes.numpy() >= 0).any())
        """Whether an actuator turns a ball joint to a target: Newton converts controls itself then."""

    def bind(self, state_in: State, state_out: State, control: Control) -> NewtonStruct:
        """Point to what a step reads and writes; arrays of Newton may have moved since the last.

        Args:
            state_in: The state that it begins with.
            state_out: That it leaves; may be the same.
            control: What drives it.
        """
        solver, model, data, struct = self.solver, self.solver.model, self.solver.mjw_data, self.struct
        arrays = {name: getattr(model, of) for name, of in MODEL.items()}
        arrays |= {name: getattr(solver, of) for name, of in SOLVER.items()}
        arrays |= {name: getattr(data, of) for name, of in DATA.items()}
        own = getattr(control, "mujoco", None)
        arrays |= {
            "articulation": self.articulation,
            "reference": getattr(getattr(model, "mujoco", None), "dof_ref", None),
            "root": solver.mjw_model.body_rootid,
            "compensation": solver.mjw_model.body_gravcomp,
            "world_gravity": solver.mjw_model.opt.gravity,
            "joint_q": state_in.joint_q,
            "joint_qd": state_in.joint_qd,
            "body_f": state_in.body_f,
            "next_q": state_out.joint_q,
            "next_qd": state_out.joint_qd,
            "body_q": state_out.body_q,
            "body_qd": state_out.body_qd,
            "body_qdd": state_out.body_qdd,
            "parent_f": state_out.body_parent_f,
            "actuator_force": getattr(getattr(state_out, "mujoco", None), "qfrc_actuator", None),
            "joint_f": control.joint_f,
            "target_q": control.joint_target_q,
            "target_qd": control.joint_target_qd,
            "input": getattr(own, "ctrl", None),
        }
        for name, array in arrays.items():
            setattr(struct, name, array.ptr if array is not None and array.size else None)
        struct.actuators = 0 if arrays["source"] is None else arrays["source"].shape[0]
        struct.all_targets, struct.all_inputs = length(arrays["target_q"]), length(arrays["input"])
        struct.targets, struct.inputs = struct.all_targets // data.nworld, struct.all_inputs // data.nworld
        struct.target_dofs = model.joint_dof_count // data.nworld
        struct.gravity_worlds = model.gravity.shape[0]  # type: ignore[union-attr]
        struct.compensation_stride = arrays["compensation"].strides[0] // 4
        struct.gravity_stride = arrays["world_gravity"].strides[0] // 4
        return struct

    def kinematics(self, state: State, control: Control, mask: wp.array | None) -> None:
        """Poses and twists of bodies from joints, as `newton.eval_fk` finds them.

        Args:
            state: That has both.
            control: What drives it.
            mask: True for the articulations that are meant, [articulations]; None: all.
        """
        struct = self.bind(state, state, control)
        joints = [ctypes.c_void_p(array.ptr) for array in (state.joint_q, state.joint_qd)]  # type: ignore[union-attr]
        chosen = None if mask is None else ctypes.c_void_p(mask.ptr)
        count = self.solver.mjw_data.nworld
        load_library().newton_kinematics(
            ctypes.byref(struct), *joints, chosen, count, torch.get_num_threads()
        )


def length(array: wp.array | None) -> int:
    """First dimension of an ``array`` that may not be there."""
    return 0 if array is None else array.shape[0]


def articulation_of(model: Model) -> np.ndarray:
    """The articulation through which forward kinematics reach each joint of a ``model``, or -1: those that close a loop, rods."""
    if model.articulation_count == 0:
        return np.full(model.joint_count, -1, np.int32)
    starts, ends = model.articulation_start.numpy(), model.articulation_end.numpy()  # type: ignore[union-attr]
    found = np.full(model.joint_count, -1, np.int32)
    for articulation in range(model.articulation_count):
        found[starts[articulation] : ends[articulation]] = articulation
    left_out = (model.joint_articulation.numpy() < 0) | (model.joint_type.numpy() == int(JointType.ROD))  # type: ignore[union-attr]
    found[left_out] = -1
    return found
