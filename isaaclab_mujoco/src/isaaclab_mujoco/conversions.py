"""Newton's arrays for `newton.h`, which converts inputs and state to MuJoCo's arrays and back, world by world."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
import warp as wp
from newton import Control, JointType, Model, State
from newton.solvers import SolverMuJoCo

from isaaclab_mujoco.errors import CompileError
from isaaclab_mujoco.worlds import load_library

INTEGERS = (
    "joints bodies coordinates dofs actuators targets all_targets inputs all_inputs target_dofs gravity_worlds"
    " compensation_stride gravity_stride applies step interval"
).split()
"""Integers of the struct Newton, in its order."""
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
"""Name of an array in `newton.h` -> its name in Newton's model."""
SOLVER = {
    "qpos_start": "mj_q_start",
    "qvel_start": "mj_qd_start",
    "body_of": "mjc_body_to_newton",
    "free_start": "body_free_qd_start",
    "source": "mjc_actuator_ctrl_source",
    "actuated": "mjc_actuator_to_newton_idx",
    "target": "mjc_actuator_to_newton_target_q_idx",
}
"""Name of an array in `newton.h` -> its name in Newton's solver."""
DATA = {
    **{name: name for name in ("qpos", "qvel", "ctrl", "qfrc_applied", "xfrc_applied", "qfrc_actuator")},
    **{name: name for name in ("xipos", "subtree_com", "cacc", "cvel", "cfrc_int")},
}
"""Name of an array in `newton.h` -> its name in MuJoCo-Warp's data."""
POINTERS = [
    *"type parent child q_start qd_start axes articulation qpos_start qvel_start".split(),
    *"parent_frame child_frame axis reference".split(),
    *"body_of root flags body_world free_start com mass gravity compensation".split(),
    *"source actuated target".split(),
    *"joint_q joint_qd next_q next_qd body_q body_qd body_f joint_f".split(),
    *"target_q target_qd input body_qdd parent_f actuator_force".split(),
    *DATA,
    "world_gravity",
]
"""Arrays of the struct Newton, in its order."""


class NewtonStruct(ctypes.Structure):
    """The struct Newton of `newton.h`."""

    _fields_ = [
        *((name, ctypes.c_int) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


class Conversions:
    """Addresses of the arrays of a Newton ``solver``, for the step in C."""

    def __init__(self, solver: SolverMuJoCo) -> None:
        if load_library().newton_size() != ctypes.sizeof(NewtonStruct):
            raise CompileError("newton.h and conversions.py differ in their fields")
        self.solver = solver
        model, data = solver.model, solver.mjw_data
        self.struct = NewtonStruct(
            joints=model.joint_count // data.nworld,
            bodies=solver.mjc_body_to_newton.shape[1],  # type: ignore[union-attr]
            coordinates=data.qpos.shape[1],
            dofs=data.qvel.shape[1],
        )
        self.articulation = wp.array(find_articulations(model), dtype=wp.int32, device="cpu")
        axes = solver.mjc_actuator_to_target_q_axis_idx
        self.has_ball_targets = axes is not None and bool((axes.numpy() >= 0).any())
        """Whether an actuator turns a ball joint to a target; then Newton converts the controls itself."""

    def bind(self, state_in: State, state_out: State, control: Control) -> NewtonStruct:
        """Return the addresses of the arrays that a step reads and writes; Newton may have moved them since the last step.

        Args:
            state_in: State before the step.
            state_out: State after the step; may be the same object.
            control: Targets and forces of the joints.
        """
        solver, model, data, struct = self.solver, self.solver.model, self.solver.mjw_data, self.struct
        arrays = {name: getattr(model, source) for name, source in MODEL.items()}
        arrays |= {name: getattr(solver, source) for name, source in SOLVER.items()}
        arrays |= {name: getattr(data, source) for name, source in DATA.items()}
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
            "input": getattr(getattr(control, "mujoco", None), "ctrl", None),
        }
        for name, array in arrays.items():
            setattr(struct, name, array.ptr if array is not None and array.size else None)
        struct.actuators = 0 if arrays["source"] is None else arrays["source"].shape[0]
        struct.all_targets, struct.all_inputs = get_length(arrays["target_q"]), get_length(arrays["input"])
        struct.targets, struct.inputs = struct.all_targets // data.nworld, struct.all_inputs // data.nworld
        struct.target_dofs = model.joint_dof_count // data.nworld
        struct.gravity_worlds = model.gravity.shape[0]  # type: ignore[union-attr]
        struct.compensation_stride = arrays["compensation"].strides[0] // 4
        struct.gravity_stride = arrays["world_gravity"].strides[0] // 4
        return struct

    def update_kinematics(self, state: State, control: Control, mask: wp.array | None) -> None:
        """Compute poses and twists of bodies from joints, as `newton.eval_fk` does.

        Args:
            state: State with joints and bodies.
            control: Targets and forces of the joints.
            mask: Chosen articulations, [articulations]; None for all.
        """
        struct = self.bind(state, state, control)
        joints = [ctypes.c_void_p(array.ptr) for array in (state.joint_q, state.joint_qd)]  # type: ignore[union-attr]
        mask_pointer = None if mask is None else ctypes.c_void_p(mask.ptr)
        count = self.solver.mjw_data.nworld
        load_library().newton_kinematics(
            ctypes.byref(struct), *joints, mask_pointer, count, torch.get_num_threads()
        )


def get_length(array: wp.array | None) -> int:
    """Return the first dimension of an ``array``; 0 if it is None."""
    return 0 if array is None else array.shape[0]


def find_articulations(model: Model) -> np.ndarray:
    """Return the articulation through which forward kinematics reach each joint; -1 for joints that close a loop and for rods."""
    found = np.full(model.joint_count, -1, np.int32)
    if model.articulation_count == 0:
        return found
    starts, ends = model.articulation_start.numpy(), model.articulation_end.numpy()  # type: ignore[union-attr]
    for articulation in range(model.articulation_count):
        found[starts[articulation] : ends[articulation]] = articulation
    excluded = (model.joint_articulation.numpy() < 0) | (model.joint_type.numpy() == int(JointType.ROD))  # type: ignore[union-attr]
    found[excluded] = -1
    return found
