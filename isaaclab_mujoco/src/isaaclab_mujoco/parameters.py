"""Newton's parameters in MuJoCo's models: values that all worlds share are copied once, values that differ before every step."""

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
"""One more of these, by its name in MuJoCo-Warp."""
VECTORS = ("gravity", "wind", "magnetic")
"""Options that may differ between worlds."""
COUNTS = (
    *("iterations", "ls_iterations", "ccd_iterations", "disableflags", "enableflags"),
    *("cone", "solver", "integrator"),
)
"""Whole numbers and flags among the options."""
DIFFERING_NAMES = {"mesh_quat", "mesh_pos", "oct_aabb"}
"""Arrays whose layout MuJoCo-Warp has changed under the same name; no simulation changes them."""


def update_models(worlds: Worlds, source: Model, compiled: MjModel) -> None:
    """Copy Newton's parameters to every thread's model.

    Args:
        worlds: Worlds with these threads.
        source: MuJoCo-Warp's model, which holds the parameters.
        compiled: MuJoCo's model as it was compiled.

    Raises:
        UnsupportedModel: MuJoCo's model has no place for one of them.
    """
    values = get_shared_values(source, compiled, worlds.count)
    differing = {name for name, value in values.items() if (value != value[:1]).any()}
    options = {name: getattr(source.opt, name).numpy() for name in SCALARS + VECTORS + (RATIO,)}
    varying = {name for name, value in options.items() if (value != value[:1]).any()}
    if refused := sorted(varying.difference(VECTORS)):
        raise UnsupportedModel(f"{', '.join(refused)} of the solver differ between worlds")
    if values["body_gravcomp"].any() and not compiled.ngravcomp:  # MuJoCo ignores body_gravcomp then
        raise UnsupportedModel("gravity compensation of a robot that was made without")
    reach = (values["geom_margin"] + values["geom_gap"]).max(0)
    margins = np.zeros(compiled.nbody)
    np.maximum.at(margins, compiled.geom_bodyid, reach)
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
        model.body_margin[:] = margins
    differing_arrays = {name: getattr(source, name) for name in sorted(differing)}
    varying_options = {name: getattr(source.opt, name) for name in sorted(varying)}
    inertia = np.broadcast_to(source.stat.meaninertia.numpy(), worlds.count).astype(np.float32)
    thread_options = [model.opt for model in worlds.models]
    worlds.set_inputs([(differing_arrays, worlds.models), (varying_options, thread_options)], inertia)


def set_options(target: Any, options: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> None:
    """Set options on ``target``, an `mujoco.MjOption`: ``options`` [1 or worlds, ...] of the first world, and ``counts``, by name."""
    for name in VECTORS:
        getattr(target, name)[...] = options[name][0]
    for name in SCALARS:
        setattr(target, name, float(options[name][0]))
    for name, count in counts.items():
        setattr(target, name, count)
    target.impratio = 1.0 / float(options[RATIO][0]) ** 2


def get_shared_values(source: Model, compiled: MjModel, count: int) -> dict[str, np.ndarray]:
    """Return the numbers that both models have: name -> [1 or worlds, values].

    Args:
        source: MuJoCo-Warp's model.
        compiled: MuJoCo's model.
        count: Number of worlds.
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
        if array.size == 0 or name in DIFFERING_NAMES:
            continue
        value = array.numpy().reshape(array.shape[0], -1)
        if value.shape != (1, target.size) and value.shape != (count, target.size):
            value = value.reshape(1, -1)
        if value.shape[1] != target.size:
            shape = "x".join(map(str, array.shape))
            raise UnsupportedModel(f"{name} of {shape} does not fit MuJoCo's")
        values[name] = value
    return values


def find_matching_frames(values: dict[str, np.ndarray], model: MjModel) -> dict[str, np.ndarray]:
    """Return which frames of masses, shapes and sites equal the frame of their body or of its mass, in all worlds' ``values``.

    MuJoCo copies such frames instead of computing them.
    """
    same = mujoco.mjtSameFrame
    origin, unturned = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])

    def each(name: str) -> tuple[np.ndarray, np.ndarray]:
        places, turns = (values[f"{name}{end}"] for end in ("pos", "quat"))
        return places.reshape(len(places), -1, 3), turns.reshape(len(turns), -1, 4)

    def equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one == other).all((0, 2))

    place, turn = each("body_i")
    agreed = {"body_sameframe": (place, turn, None)}
    for kind in ("geom", "site"):
        if f"{kind}_pos" in values:
            agreed[f"{kind}_sameframe"] = (*each(f"{kind}_"), getattr(model, f"{kind}_bodyid"))
    found = {}
    for name, (places, turns, bodies) in agreed.items():
        is_placed, is_turned = equal(places, origin), equal(turns, unturned)
        cases, choices = [is_placed & is_turned, is_turned], [same.mjSAMEFRAME_BODY, same.mjSAMEFRAME_BODYROT]
        if bodies is not None:
            is_placed, is_turned = equal(places, place[:, bodies]), equal(turns, turn[:, bodies])
            cases += [is_placed & is_turned, is_turned]
            choices += [same.mjSAMEFRAME_INERTIA, same.mjSAMEFRAME_INERTIAROT]
        found[name] = np.select(cases, [int(choice) for choice in choices], int(same.mjSAMEFRAME_NONE))
    return found


def clear_simplifications(model: MjModel) -> None:
    """Reset the shortcuts that MuJoCo's compiler derived from inertias and frames, which are Newton's now.

    Newton chooses other principal axes where they are not unique, and it moves every centre of mass by a millimetre before it compiles
    and back afterwards.
    """
    for name in ("body_simple", "dof_simplenum"):
        getattr(model, name)[:] = 0
    # The boxes around a body's shapes lie in the frame that it was compiled in; without them MuJoCo tests every pair of shapes of
    # near bodies. Islands cost more time than they save; MuJoCo-Warp too solves a world at once.
    flags = mujoco.mjtDisableBit
    model.opt.disableflags |= int(flags.mjDSBL_MIDPHASE) | int(flags.mjDSBL_ISLAND)
