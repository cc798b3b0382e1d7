"""Newton's parameters in MuJoCo's models.

Values that are the same in all worlds are copied once. Values that differ between worlds become inputs of the step: a thread loads
them into its model before it steps a world.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp

from isaaclab_mujoco.errors import UnsupportedModel
from isaaclab_mujoco.worlds import Worlds

if TYPE_CHECKING:
    from mujoco._structs import MjModel  # defined here; type checkers do not see it in mujoco itself
    from mujoco_warp import Model

mujoco: Any = importlib.import_module("mujoco")

SCALARS = ("tolerance", "ls_tolerance", "ccd_tolerance", "density", "viscosity")
"""Options that must be the same in all worlds."""
RATIO = "impratio_invsqrt"
"""An option that must also be the same in all worlds: MuJoCo-Warp's name of 1 / sqrt(impratio), where MuJoCo has impratio."""
VECTORS = ("gravity", "wind", "magnetic")
"""Options that may differ between worlds."""
COUNTS = "iterations ls_iterations ccd_iterations disableflags enableflags cone solver integrator".split()
"""Whole numbers and flags among the options, the same in all worlds."""
DIFFERENT_LAYOUTS = {"mesh_quat", "mesh_pos", "oct_aabb"}
"""Arrays that have the same name but another layout in MuJoCo-Warp; no simulation changes them."""


def update_models(worlds: Worlds, source: Model, compiled: MjModel) -> None:
    """Copy Newton's parameters to every thread's model.

    Args:
        worlds: Worlds with these threads.
        source: MuJoCo-Warp's model, which holds the parameters of all worlds.
        compiled: MuJoCo's model as its compiler made it.

    Raises:
        UnsupportedModel: MuJoCo's model has no place for a parameter, or for values of it that differ between worlds.
    """
    values = read_common_arrays(source, compiled, worlds.count)
    differing = {name for name, value in values.items() if (value != value[:1]).any()}
    options = {name: getattr(source.opt, name).numpy() for name in SCALARS + VECTORS + (RATIO,)}
    differing_options = {name for name, value in options.items() if (value != value[:1]).any()}
    if refused := sorted(differing_options.difference(VECTORS)):
        raise UnsupportedModel(f"{', '.join(refused)} of the solver differ between worlds")
    if values["body_gravcomp"].any() and not compiled.ngravcomp:  # MuJoCo ignores body_gravcomp then
        raise UnsupportedModel("gravity compensation of a robot that was made without")
    # a body's margin is the largest of its shapes, in any world
    shape_margins = (values["geom_margin"] + values["geom_gap"]).max(0)
    body_margins = np.zeros(compiled.nbody)
    np.maximum.at(body_margins, compiled.geom_bodyid, shape_margins)
    frames = find_matching_frames(values, compiled)
    counts = {name: int(getattr(source.opt, name)) for name in COUNTS}
    for model in worlds.models:
        for name, value in values.items():
            target = getattr(model, name)
            target[...] = value[0].reshape(target.shape)
        set_options(model.opt, options, counts)
        clear_simplifications(model)
        for name, value in frames.items():
            getattr(model, name)[:] = value
        model.body_margin[:] = body_margins
    arrays = {name: getattr(source, name) for name in sorted(differing)}
    option_arrays = {name: getattr(source.opt, name) for name in sorted(differing_options)}
    inertia = np.broadcast_to(source.stat.meaninertia.numpy(), worlds.count).astype(np.float32)
    thread_options = [model.opt for model in worlds.models]
    worlds.set_inputs([(arrays, worlds.models), (option_arrays, thread_options)], inertia)


def set_options(target: Any, options: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> None:
    """Set the options of the first world on ``target``, an `mujoco.MjOption`, from ``options`` [1 or worlds, ...] and ``counts``."""
    for name in VECTORS:
        getattr(target, name)[...] = options[name][0]
    for name in SCALARS:
        setattr(target, name, float(options[name][0]))
    for name, count in counts.items():
        setattr(target, name, count)
    target.impratio = 1.0 / float(options[RATIO][0]) ** 2


def read_common_arrays(source: Model, compiled: MjModel, count: int) -> dict[str, np.ndarray]:
    """Return the values in ``source`` of all arrays of floats that both models have: name -> [1 or worlds, values].

    Args:
        source: MuJoCo-Warp's model.
        compiled: MuJoCo's model.
        count: Number of worlds.

    Raises:
        UnsupportedModel: An array has another size in MuJoCo's model.
    """
    values = {}
    for name in source.__dataclass_fields__:
        array, target = getattr(source, name), getattr(compiled, name, None)
        if (
            not isinstance(array, wp.array)
            or not isinstance(target, np.ndarray)
            or target.dtype != np.float64
        ):
            continue
        if array.size == 0 or name in DIFFERENT_LAYOUTS:
            continue
        value = array.numpy().reshape(array.shape[0], -1)
        if value.shape != (1, target.size) and value.shape != (count, target.size):
            value = value.reshape(1, -1)  # an array without an axis of worlds
        if value.shape[1] != target.size:
            shape = "x".join(map(str, array.shape))
            raise UnsupportedModel(f"{name} of {shape} does not fit MuJoCo's")
        values[name] = value
    return values


def find_matching_frames(values: dict[str, np.ndarray], model: MjModel) -> dict[str, np.ndarray]:
    """Return MuJoCo's arrays ``..._sameframe``: which frames of masses, shapes and sites equal the frame of their body or of its mass.

    MuJoCo copies such frames instead of computing them. A frame counts as equal only if it is so in all worlds of ``values``; it may be
    equal as a whole or in its orientation alone.
    """
    same = mujoco.mjtSameFrame
    no_offset, no_rotation = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])

    def get_frames(position: str, orientation: str) -> tuple[np.ndarray, np.ndarray]:
        """Return positions [1 or worlds, items, 3] and quaternions [1 or worlds, items, 4]."""
        positions, quaternions = values[position], values[orientation]
        return positions.reshape(len(positions), -1, 3), quaternions.reshape(len(quaternions), -1, 4)

    def are_equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one == other).all((0, 2))

    mass_positions, mass_quaternions = get_frames("body_ipos", "body_iquat")
    frames = {"body_sameframe": (mass_positions, mass_quaternions, None)}
    for kind in ("geom", "site"):
        if f"{kind}_pos" in values:
            bodies = getattr(model, f"{kind}_bodyid")
            frames[f"{kind}_sameframe"] = (*get_frames(f"{kind}_pos", f"{kind}_quat"), bodies)
    found = {}
    for name, (positions, quaternions, bodies) in frames.items():
        same_position, same_rotation = are_equal(positions, no_offset), are_equal(quaternions, no_rotation)
        cases = [same_position & same_rotation, same_rotation]
        choices = [same.mjSAMEFRAME_BODY, same.mjSAMEFRAME_BODYROT]
        if bodies is not None:
            same_position = are_equal(positions, mass_positions[:, bodies])
            same_rotation = are_equal(quaternions, mass_quaternions[:, bodies])
            cases += [same_position & same_rotation, same_rotation]
            choices += [same.mjSAMEFRAME_INERTIA, same.mjSAMEFRAME_INERTIAROT]
        found[name] = np.select(cases, [int(choice) for choice in choices], int(same.mjSAMEFRAME_NONE))
    return found


def clear_simplifications(model: MjModel) -> None:
    """Switch off the shortcuts that MuJoCo's compiler derived from its own inertias and frames, because ``model`` has Newton's now.

    The two differ: Newton chooses other principal axes of inertia where they are not unique, and it compiles with every centre of mass
    moved by a millimetre and moves it back afterwards. The mid-phase of collision detection and islands are switched off too.
    """
    for name in ("body_simple", "dof_simplenum"):
        getattr(model, name)[:] = 0
    # The mid-phase compares boxes around a body's shapes, which the compiler placed in its own frame of the body. Without it, MuJoCo
    # tests every pair of shapes of near bodies. Islands cost more time than they save; MuJoCo-Warp also solves a world as a whole.
    flags = mujoco.mjtDisableBit
    model.opt.disableflags |= int(flags.mjDSBL_MIDPHASE) | int(flags.mjDSBL_ISLAND)
