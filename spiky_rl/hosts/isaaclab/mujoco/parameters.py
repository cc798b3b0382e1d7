"""MuJoCo's models brought to the values that Newton holds: those of all worlds once, those that differ with every world."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp

from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab.mujoco.worlds import Worlds

if TYPE_CHECKING:
    from mujoco._structs import MjModel  # where it is made: in mujoco itself no checker sees it
    from mujoco_warp import Model

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
DIFFERING_NAMES = {"mesh_quat", "mesh_pos", "oct_aabb"}
"""Arrays with a name of MuJoCo's that MuJoCo-Warp lays out in its own way; no simulation changes them."""


class UnsupportedModel(UserError):
    """A model that MuJoCo's C library cannot step as MuJoCo-Warp does, and the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"physics=mujoco: {reason}; use physics=newton_mjwarp")
        self.reason = reason


def update_models(worlds: Worlds, source: Model, compiled: MjModel) -> None:
    """Give every thread's model Newton's values.

    Args:
        worlds: That have the threads.
        source: MuJoCo-Warp's model, which holds these values.
        compiled: MuJoCo's as it was compiled.

    Raises:
        UnsupportedModel: MuJoCo's C library has no place for one of them.
    """
    values = get_shared_values(source, compiled, worlds.count)
    differing = {name for name, value in values.items() if (value != value[:1]).any()}
    options = {name: getattr(source.opt, name).numpy() for name in SCALARS + VECTORS + (RATIO,)}
    turning = {name for name, value in options.items() if (value != value[:1]).any()}
    if refused := sorted(turning.difference(VECTORS)):
        raise UnsupportedModel(f"{', '.join(refused)} of the solver differ between worlds")
    if values["body_gravcomp"].any() and not compiled.ngravcomp:  # MuJoCo looks at none of them then
        raise UnsupportedModel("gravity compensation of a robot that was made without")
    reach = (values["geom_margin"] + values["geom_gap"]).max(0)
    margins = np.zeros(compiled.nbody)
    np.maximum.at(margins, compiled.geom_bodyid, reach)
    frames = find_matching_frames(values, compiled)
    for model in worlds.models:
        for name, value in values.items():
            target = getattr(model, name)
            target[...] = value[0].reshape(target.shape)
        for name in VECTORS:
            getattr(model.opt, name)[...] = options[name][0]
        for name in SCALARS:
            setattr(model.opt, name, float(options[name][0]))
        for name in COUNTS:
            setattr(model.opt, name, int(getattr(source.opt, name)))
        model.opt.impratio = 1.0 / float(options[RATIO][0]) ** 2
        clear_simplifications(model)
        for name, value in frames.items():
            getattr(model, name)[:] = value
        model.body_margin[:] = margins
    of_models = {name: getattr(source, name) for name in sorted(differing)}
    of_options = {name: getattr(source.opt, name) for name in sorted(turning)}
    inertia = np.broadcast_to(source.stat.meaninertia.numpy(), worlds.count).astype(np.float32)
    options_of_threads = [model.opt for model in worlds.models]
    worlds.set_inputs([(of_models, worlds.models), (of_options, options_of_threads)], inertia)


def get_shared_values(source: Model, compiled: MjModel, count: int) -> dict[str, np.ndarray]:
    """The numbers of MuJoCo-Warp's model that MuJoCo's has too: name -> [1 or worlds, values].

    Args:
        source: MuJoCo-Warp's model.
        compiled: MuJoCo's.
        count: Worlds.
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
    """Which frames of a ``model``'s masses, shapes and sites are, by ``values`` of all worlds, their body's or that of its mass.

    MuJoCo copies those.
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
    """Take out of a ``model`` what MuJoCo's compiler derived from inertias and frames, which are Newton's now.

    Newton turns principal axes that are not unique otherwise, and moves every centre of mass by a millimetre to compile, and back.
    """
    for name in ("body_simple", "dof_simplenum"):
        getattr(model, name)[:] = 0
    # the boxes around a body's shapes lie in the frame that it was compiled in; without them every pair of shapes of near bodies
    # is looked at. Islands take longer to find than they save; MuJoCo-Warp solves a world at once, too.
    flags = mujoco.mjtDisableBit
    model.opt.disableflags |= int(flags.mjDSBL_MIDPHASE) | int(flags.mjDSBL_ISLAND)
