"""MuJoCo's models brought to the values that Newton holds: those of all worlds once, those that differ with every world."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import warp as wp

from spiky_rl.hosts.isaaclab.mujoco.worlds import Worlds
from spiky_rl.registry import UserError

mujoco: Any = importlib.import_module("mujoco")

SCALARS = ("tolerance", "ls_tolerance", "ccd_tolerance", "density", "viscosity")
"""Options that must be the same in all worlds."""
RATIO = "impratio_invsqrt"
"""Another of these, by MuJoCo-Warp's name."""
VECTORS = ("gravity", "wind", "magnetic")
"""Options that may differ between worlds."""
COUNTS = (
    *("iterations", "ls_iterations", "ccd_iterations", "disableflags", "enableflags"),
    *("cone", "solver", "integrator"),
)
INERTIAL = ("body_ipos", "body_iquat", "body_inertia")
PLACES = ("geom_pos", "geom_quat", "geom_size")
OTHERWISE = {"mesh_quat", "mesh_pos", "oct_aabb"}
"""Arrays with a name of MuJoCo's that MuJoCo-Warp lays out in its own way; no simulation changes them."""
CLOSE = 1e-5


class UnsupportedModel(UserError):
    """A model that MuJoCo's C library cannot step as MuJoCo-Warp does."""


def synchronise(worlds: Worlds, source: Any, compiled: Any) -> None:
    """Give every thread's model the values of ``source``, MuJoCo-Warp's model; ``compiled``: MuJoCo's as it was compiled."""
    values = values_of(source, compiled, worlds.count)
    differing = {name for name, value in values.items() if (value != value[:1]).any()}
    options = {name: getattr(source.opt, name).numpy() for name in SCALARS + VECTORS + (RATIO,)}
    turning = {name for name, value in options.items() if (value != value[:1]).any()}
    if refused := sorted(turning.difference(VECTORS)):
        reason = f"{', '.join(refused)} of the solver differ between worlds"
        raise UnsupportedModel(f"physics=mujoco: {reason}; use physics=newton_mjwarp")
    if values["body_gravcomp"].any() and not compiled.ngravcomp:  # MuJoCo looks at none of them then
        reason = "gravity compensation of a robot that was made without"
        raise UnsupportedModel(f"physics=mujoco: {reason}; use physics=newton_mjwarp")
    kept = same_inertia(values, differing, compiled)
    moved = ~kept
    reach = (values["geom_margin"] + values["geom_gap"]).max(0)
    margins = np.zeros(compiled.nbody)
    np.maximum.at(margins, compiled.geom_bodyid, reach)
    for model in worlds.models:
        for name, value in values.items():
            target = getattr(model, name)
            target[...] = value[0].reshape(target.shape)
        for name in INERTIAL:
            getattr(model, name)[kept] = getattr(compiled, name)[kept]
        for name in VECTORS:
            getattr(model.opt, name)[...] = options[name][0]
        for name in SCALARS:
            setattr(model.opt, name, float(options[name][0]))
        for name in COUNTS:
            setattr(model.opt, name, int(getattr(source.opt, name)))
        model.opt.impratio = 1.0 / float(options[RATIO][0]) ** 2
        forget_shortcuts(model, moved, moved_shapes(values, compiled))
        model.body_margin[:] = margins
    of_models = {name: getattr(source, name) for name in sorted(differing)}
    of_options = {name: getattr(source.opt, name) for name in sorted(turning)}
    inertia = np.broadcast_to(source.stat.meaninertia.numpy(), worlds.count).astype(np.float32)
    options_of_threads = [model.opt for model in worlds.models]
    worlds.load([(of_models, worlds.models), (of_options, options_of_threads)], inertia)


def values_of(source: Any, compiled: Any, count: int) -> dict[str, np.ndarray]:
    """The numbers of MuJoCo-Warp's model that MuJoCo's has too: name -> [1 or worlds, values]."""
    values = {}
    for name in source.__dataclass_fields__:
        array, target = getattr(source, name), getattr(compiled, name, None)
        if (
            not isinstance(array, wp.array)
            or not isinstance(target, np.ndarray)
            or target.dtype != np.float64
        ):
            continue
        if array.size == 0 or name in OTHERWISE:
            continue
        value = array.numpy().reshape(array.shape[0], -1)
        if value.shape != (1, target.size) and value.shape != (count, target.size):
            value = value.reshape(1, -1)
        if value.shape[1] != target.size:
            shape = "x".join(map(str, array.shape))
            raise UnsupportedModel(
                f"physics=mujoco: {name} of {shape} does not fit MuJoCo's; use physics=newton_mjwarp"
            )
        values[name] = value
    return values


def same_inertia(values: Mapping[str, np.ndarray], differing: set[str], compiled: Any) -> np.ndarray:
    """Which bodies [nbody] weigh the same in every direction as compiled, in all worlds.

    Newton turns principal axes that are not unique otherwise than MuJoCo, whose volumes for collisions lie in its own.
    """
    if differing.intersection(INERTIAL):  # every world then gets Newton's frames of all bodies
        return np.zeros(compiled.nbody, bool)
    theirs = [values[name][0].reshape(compiled.nbody, -1).astype(np.float64) for name in INERTIAL]
    ours = [getattr(compiled, name) for name in INERTIAL]
    apart = np.abs(inertia_of(*theirs[1:]) - inertia_of(*ours[1:])).max((1, 2))
    size = np.abs(ours[2]).max(1)
    return (apart <= CLOSE * size) & (np.abs(theirs[0] - ours[0]).max(1) <= CLOSE)


def inertia_of(quaternions: np.ndarray, diagonals: np.ndarray) -> np.ndarray:
    """Inertia tensors [n, 3, 3] of frames, unit quaternions [n, 4], and principal moments [n, 3]."""
    w, x, y, z = quaternions.T
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    turns = np.stack(rows, axis=1).reshape(-1, 3, 3)
    return np.einsum("nij,nj,nkj->nik", turns, diagonals, turns)


def moved_shapes(values: Mapping[str, np.ndarray], compiled: Any) -> np.ndarray:
    """Which shapes [ngeom] lie or measure otherwise than compiled, in any world."""
    moved = np.zeros(compiled.ngeom, bool)
    for name in PLACES:
        value = values[name].reshape(-1, compiled.ngeom, getattr(compiled, name).shape[1])
        moved |= (np.abs(value - getattr(compiled, name)) > CLOSE).any((0, 2))
    return moved


def forget_shortcuts(model: Any, bodies: np.ndarray, shapes: np.ndarray) -> None:
    """Take out what the compiler derived from inertias and places that no longer hold.

    bodies: whose inertia or its frame has moved [nbody]; shapes: that have moved [ngeom].
    """
    model.body_simple[:] = 0
    model.dof_simplenum[:] = 0
    model.site_sameframe[:] = 0
    model.body_sameframe[bodies] = 0
    shapes = shapes | bodies[model.geom_bodyid]
    model.geom_sameframe[shapes] = 0
    # MuJoCo-Warp solves all constraints of a world at once, too; to look for islands takes longer than they save
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    # the boxes around a body's shapes lie in the frame that it was compiled in, which is not Newton's: it moves every centre of
    # mass by a millimetre to compile, and back. Without the boxes every pair of shapes of near bodies is looked at.
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)
