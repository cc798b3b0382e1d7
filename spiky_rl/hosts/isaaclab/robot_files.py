"""Conversion of a robot's MJCF or URDF file to the flat USD file that Isaac Lab's tasks spawn.

MuJoCo compiles the file, so masses, inertias, joints and contact parameters are those that MuJoCo computes. Isaac Lab's own importers
need a package that cannot be installed with Isaac Lab 3.0.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from spiky_rl.config.files import cache_folder, write_atomically
from spiky_rl.hosts.isaaclab.assets import explain_write_errors
from spiky_rl.hosts.isaaclab.local_assets import (
    AssetError,
    copy_contact_parameters,
    copy_joint_limits,
    set_attribute,
)

if TYPE_CHECKING:
    from isaaclab.sim import UsdFileCfg

    # the module that defines them; checkers do not see them in mujoco itself
    from mujoco._structs import MjData, MjModel
    from pxr.Gf import Quatd, Vec3d, Vec3f

# compiled modules, whose names no checker sees
mujoco: Any = importlib.import_module("mujoco")
Gf: Any = importlib.import_module("pxr.Gf")
Tf: Any = importlib.import_module("pxr.Tf")
Usd: Any = importlib.import_module("pxr.Usd")
UsdGeom: Any = importlib.import_module("pxr.UsdGeom")
UsdPhysics: Any = importlib.import_module("pxr.UsdPhysics")
Vt: Any = importlib.import_module("pxr.Vt")

type UsdStage = Any
"""`pxr.Usd.Stage`."""
type UsdPrim = Any
"""`pxr.Usd.Prim`."""
type UsdSchema = Any
"""Prim schema, such as `pxr.UsdGeom.Sphere`."""
type UsdTransformable = Any
"""`pxr.UsdGeom.Xformable`."""

logger = logging.getLogger(__name__)

FILE_VERSION = 3
"""Version of the written files; increases with every change of this module that changes them."""
USD_SUFFIXES = (".usd", ".usda", ".usdc", ".usdz")
FREE, BALL, SLIDE, HINGE = range(4)
"""MuJoCo's joint types."""
PLANE, FIELD, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX, MESH = range(8)
"""MuJoCo's geom types."""
UNSUPPORTED_FEATURES = {"ntendon": "tendons", "neq": "equality constraints", "nflex": "flexible bodies"}
"""Unsupported features, by MuJoCo's counts."""


def robot_spawn(path: str | Path, **fields: Any) -> UsdFileCfg:
    """Return Isaac Lab's configuration that spawns the robot of an ``.xml`` (MJCF), ``.urdf`` or USD file.

    The root is fixed unless the MJCF gives it a free joint; the field ``fix_root_link`` overrides this.

    Args:
        path: The robot's file; MuJoCo finds its meshes.
        fields: Further fields of Isaac Lab's ``UsdFileCfg``.

    Raises:
        AssetError: The file cannot be read, or the robot has unsupported features.
    """
    from isaaclab import sim

    if str(path).endswith(USD_SUFFIXES):
        return sim.UsdFileCfg(usd_path=str(path), **fields)
    path = Path(path)
    if path.suffix not in (".xml", ".urdf"):
        raise AssetError(
            f"robot: {path} is no file of a kind that can be read: .xml (MJCF), .urdf, {', '.join(USD_SUFFIXES)}"
        )
    model = load_mujoco_model(path)
    is_free = model.njnt and model.jnt_type[0] == FREE
    defaults = {"usd_path": get_usd_file(model, path), "fix_root_link": None if is_free else True}
    return sim.UsdFileCfg(**{**defaults, **fields})


def load_mujoco_model(path: Path) -> MjModel:
    """Return MuJoCo's model of the robot in the file ``path``. Raises AssetError if it is unreadable or unsupported."""
    if not path.is_file():
        raise AssetError(f"robot: {path} is no file")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        # keep all links and shapes of a URDF, as for an MJCF
        spec.compiler.discardvisual = spec.compiler.fusestatic = False
        for sensor in list(spec.sensors):  # the task's configuration defines sensors
            spec.delete(sensor)
        model = spec.compile()
    except ValueError as error:
        raise AssetError(f"robot: MuJoCo cannot read {path}: {' '.join(str(error).split())}") from None
    if faults := list_unsupported(model):
        raise AssetError(f"robot: {path} has {'; '.join(faults)}, which is not supported")
    return model


def list_unsupported(model: MjModel) -> list[str]:
    """Return the features of a ``model`` that a robot may not have, in words."""
    faults = [text for count, text in UNSUPPORTED_FEATURES.items() if getattr(model, count)]
    balls = numpy.flatnonzero(model.jnt_type == BALL)
    faults += [f"the ball joint {model.joint(i).name!r}" for i in balls]
    several = numpy.flatnonzero(model.body_jntnum > 1)
    faults += [f"several joints of the body {model.body(i).name!r}" for i in several]
    address = model.jnt_qposadr
    bent = numpy.flatnonzero(
        (model.jnt_stiffness != 0) & (model.qpos_spring[address] != model.qpos0[address])
    )
    faults += [
        f"a spring of the joint {model.joint(i).name!r} whose rest (springref) is not the pose of the file"
        for i in bent
    ]
    if model.body_gravcomp.any():
        faults.append("gravity compensation")
    roots = [model.body(i).name for i in 1 + numpy.flatnonzero(model.body_parentid[1:] == 0)]
    if len(roots) != 1:
        faults.append(f"{len(roots)} roots where a robot has one: {', '.join(roots) or 'no body'}")
    return faults


def get_usd_file(model: MjModel, source: Path) -> str:
    """Return the cached USD file of a ``model`` from the file ``source``, written on first use.

    Raises AssetError if it cannot be written.
    """
    content = numpy.empty(mujoco.mj_sizeModel(model), numpy.uint8)
    mujoco.mj_saveModel(model, None, content)
    digest = hashlib.sha256(content).hexdigest()[:16]
    with explain_write_errors():
        file = cache_folder() / "robots" / f"{source.stem}-{digest}-layout-{FILE_VERSION}.usdc"
        if not file.is_file():
            logger.info("writing the robot of %s to %s", source, file)
            stage = make_usd_stage(model)
            write_atomically(file, lambda temporary: export_stage(stage, temporary))
    return str(file)


def export_stage(stage: UsdStage, path: Path) -> None:
    """Write a ``stage`` to the file ``path`` in USD's binary format, which USD selects by the file's suffix."""
    binary = path.with_suffix(".usdc")
    stage.GetRootLayer().Export(str(binary))
    os.replace(binary, path)


def make_usd_stage(model: MjModel) -> UsdStage:
    """Return a USD stage with the robot of a ``model``, in the pose of its file."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    robot = UsdGeom.Xform.Define(stage, "/robot")
    stage.SetDefaultPrim(robot.GetPrim())
    UsdGeom.Scope.Define(stage, "/robot/joints")
    # a hinge or slide between the world and the first body: the world becomes the robot's first link
    has_jointed_base = model.body_jntnum[1] and model.jnt_type[model.body_jntadr[1]] != FREE
    root = 0 if has_jointed_base else 1
    for i in range(root, model.nbody):
        add_body(stage, model, data, i)
    # on the root body, so that Isaac Lab can fix it
    UsdPhysics.ArticulationRootAPI.Apply(stage.GetPrimAtPath(get_prim_path(model, root)))
    materials: dict[tuple[float, ...], UsdPrim] = {}
    for i in range(model.ngeom):
        if model.geom_bodyid[i]:  # the task defines the geoms of the world
            add_geom(stage, model, i, materials)
    for i in range(root + 1, model.nbody):
        add_joint(stage, model, data, i)
    add_excluded_pairs(stage, model)
    return stage


def add_excluded_pairs(stage: UsdStage, model: MjModel) -> None:
    """Add the pairs of bodies and of shapes of a ``model`` that do not collide with each other."""
    pairs = []
    for pair in model.exclude_signature:
        # MuJoCo packs the two indices of bodies into one integer
        pairs.append(tuple(get_prim_path(model, int(body)) for body in (pair >> 16, pair & 0xFFFF)))
    pairs += [tuple(get_geom_path(model, i) for i in pair) for pair in list_masked_pairs(model)]
    for paths in pairs:
        first, second = map(stage.GetPrimAtPath, paths)
        if first and second:  # the stage of a floating robot has no world body
            UsdPhysics.FilteredPairsAPI.Apply(first).CreateFilteredPairsRel().AddTarget(second.GetPath())


def list_masked_pairs(model: MjModel) -> list[tuple[int, int]]:
    """Return the pairs of colliding geoms on different bodies of the robot that contype and conaffinity keep apart, by index."""
    masks, affinities = model.geom_contype, model.geom_conaffinity
    colliding = [i for i in range(model.ngeom) if model.geom_bodyid[i] and (masks[i] or affinities[i])]
    return [
        (i, j)
        for i, j in itertools.combinations(colliding, 2)
        if model.geom_bodyid[i] != model.geom_bodyid[j]
        and not (masks[i] & affinities[j] or masks[j] & affinities[i])
    ]


def get_body_name(model: MjModel, body: int) -> str:
    """Return the name of a ``model``'s ``body``, given by index; one with the index if the file gives none."""
    return model.body(body).name or f"body_{body}"


def get_prim_path(model: MjModel, body: int) -> str:
    """Return the path on the stage of a ``model``'s ``body``, given by index."""
    return f"/robot/{Tf.MakeValidIdentifier(get_body_name(model, body))}"


def get_geom_path(model: MjModel, number: int) -> str:
    """Return the path on the stage of a ``model``'s geom, given by index."""
    name = Tf.MakeValidIdentifier(model.geom(number).name or f"geom_{number}")
    return f"{get_prim_path(model, int(model.geom_bodyid[number]))}/{name}"


def define_prim(schema: UsdSchema, stage: UsdStage, path: str) -> Any:
    """Define a new prim of a ``schema`` at ``path`` on the ``stage``.

    Raises AssetError if the path is taken: two names of the file may become equal in USD, which allows only letters, digits and
    underscores.
    """
    if stage.GetPrimAtPath(path):
        raise AssetError(
            f"robot: two names of the file are both {path.rpartition('/')[2]!r} in USD; rename one of them"
        )
    return schema.Define(stage, path)


def add_body(stage: UsdStage, model: MjModel, data: MjData, body: int) -> None:
    """Add a ``body``, given by index, with its mass and its pose relative to the robot's first body; ``data`` has the file's pose."""
    prim = define_prim(UsdGeom.Xform, stage, get_prim_path(model, body))
    # the frame of the first body is that of the stage; the world, if it is a link, is put at its origin
    origin = 1 if body else 0
    position, rotation = compute_relative_pose(data, origin, body)
    set_transform(prim, position, rotation)
    UsdPhysics.RigidBodyAPI.Apply(prim.GetPrim())
    mass = UsdPhysics.MassAPI.Apply(prim.GetPrim())
    if body == 0:  # the world is fixed, so any mass works
        mass.CreateMassAttr(1.0)
        mass.CreateDiagonalInertiaAttr(to_usd_vector([1.0, 1.0, 1.0]))
        return
    mass.CreateMassAttr(float(model.body_mass[body]))
    mass.CreateCenterOfMassAttr(to_usd_vector(model.body_ipos[body]))
    mass.CreateDiagonalInertiaAttr(to_usd_vector(model.body_inertia[body]))
    mass.CreatePrincipalAxesAttr(Gf.Quatf(to_usd_quaternion(model.body_iquat[body])))


def add_joint(stage: UsdStage, model: MjModel, data: MjData, body: int) -> None:
    """Add the joint between a ``body``, given by index, and its parent: hinge, slide or fixed; ``data`` has the file's pose."""
    parent, number = int(model.body_parentid[body]), int(model.body_jntadr[body])
    # MuJoCo has no fixed joints: a body that is fixed to its parent has the joint number -1
    if number < 0:
        kind, schema, name = None, UsdPhysics.FixedJoint, f"{get_body_name(model, body)}_fixed"
    else:
        kind, name = model.jnt_type[number], model.joint(number).name
        schema = UsdPhysics.RevoluteJoint if kind == HINGE else UsdPhysics.PrismaticJoint
    joint = define_prim(schema, stage, f"/robot/joints/{Tf.MakeValidIdentifier(name or f'joint_{number}')}")
    joint.CreateBody0Rel().SetTargets([get_prim_path(model, parent)])
    joint.CreateBody1Rel().SetTargets([get_prim_path(model, body)])
    anchor, axis_rotation = Gf.Vec3d(0.0), Gf.Quatd(1.0)
    if number >= 0:  # USD's joint moves about the x axis of its own frame
        anchor = Gf.Vec3d(*model.jnt_pos[number].tolist())
        axis = Gf.Vec3d(*model.jnt_axis[number].tolist())
        axis_rotation = Gf.Rotation(Gf.Vec3d.XAxis(), axis).GetQuat()
    position, rotation = compute_relative_pose(data, parent, body)
    joint.CreateLocalPos0Attr(to_usd_vector(position + rotation.Transform(anchor)))
    joint.CreateLocalRot0Attr(Gf.Quatf(rotation * axis_rotation))
    joint.CreateLocalPos1Attr(to_usd_vector(anchor))
    joint.CreateLocalRot1Attr(Gf.Quatf(axis_rotation))
    if number < 0:
        return
    joint.CreateAxisAttr("X")
    if model.jnt_limited[number]:
        # the zero of a USD joint is the robot's pose in the file, where MuJoCo's joint position is qpos0
        limits = model.jnt_range[number] - model.qpos0[model.jnt_qposadr[number]]
        unit = math.degrees(1.0) if kind == HINGE else 1.0
        joint.CreateLowerLimitAttr(float(limits[0] * unit))
        joint.CreateUpperLimitAttr(float(limits[1] * unit))
    # Newton needs a drive to create an actuator, whose parameters Isaac Lab's configuration sets
    drive = UsdPhysics.DriveAPI.Apply(joint.GetPrim(), "angular" if kind == HINGE else "linear")
    drive.CreateStiffnessAttr(1e-3)  # above 0: with both gains 0 Newton infers direct torque control
    drive.CreateDampingAttr(0.0)
    prim, dof = stage.GetRootLayer().GetPrimAtPath(joint.GetPath()), int(model.jnt_dofadr[number])
    copy_joint_limits(prim, model.joint(number))
    for name, value in (
        ("armature", model.dof_armature[dof]),
        ("damping", model.dof_damping[dof]),
        ("frictionloss", model.dof_frictionloss[dof]),
        ("stiffness", model.jnt_stiffness[number]),
    ):
        set_attribute(prim, f"mjc:{name}", "Double", float(value))


def add_geom(
    stage: UsdStage, model: MjModel, number: int, materials: dict[tuple[float, ...], UsdPrim]
) -> None:
    """Add the collision or visual shape ``number`` of a body; ``materials`` of the stage, by friction, gain a missing one."""
    kind, size, geom = model.geom_type[number], model.geom_size[number], model.geom(number)
    path = get_geom_path(model, number)
    shape = define_shape(stage, model, number, path)
    rotation = to_usd_quaternion(model.geom_quat[number])
    scale = size if kind == BOX else None
    set_transform(shape, model.geom_pos[number], rotation, scale)
    material = model.geom_matid[number]
    colour = model.mat_rgba[material] if material >= 0 else model.geom_rgba[number]
    shape.CreateDisplayColorAttr([to_usd_vector(colour[:3])])
    if not (model.geom_contype[number] or model.geom_conaffinity[number]):
        return
    is_visual = (model.geom_contype == 0) & (model.geom_conaffinity == 0)
    if is_visual[model.geom_bodyid == model.geom_bodyid[number]].any():
        shape.CreatePurposeAttr("guide")  # the body has a separate visual shape
    UsdPhysics.CollisionAPI.Apply(shape.GetPrim())
    if kind == MESH:
        UsdPhysics.MeshCollisionAPI.Apply(shape.GetPrim()).CreateApproximationAttr("convexHull")
    prim = stage.GetRootLayer().GetPrimAtPath(path)
    copy_contact_parameters(prim, geom, materials)
    set_attribute(prim, "mjc:priority", "Int", int(geom.priority[0]))
    set_attribute(prim, "mjc:solmix", "Double", float(geom.solmix[0]))


def define_shape(stage: UsdStage, model: MjModel, number: int, path: str) -> Any:
    """Define the prim of a ``model``'s geom, given by index, at ``path``; its scale is set later. Raises AssetError."""
    kind, size = model.geom_type[number], model.geom_size[number]
    if kind == SPHERE:
        shape = define_prim(UsdGeom.Sphere, stage, path)
        shape.CreateRadiusAttr(float(size[0]))
    elif kind in (CAPSULE, CYLINDER):
        shape = define_prim(UsdGeom.Capsule if kind == CAPSULE else UsdGeom.Cylinder, stage, path)
        shape.CreateRadiusAttr(float(size[0]))
        shape.CreateHeightAttr(float(2.0 * size[1]))
        shape.CreateAxisAttr("Z")
    elif kind == BOX:
        shape = define_prim(UsdGeom.Cube, stage, path)
        shape.CreateSizeAttr(2.0)  # a cube of side 2, which is scaled by MuJoCo's half sides
    elif kind == MESH:
        shape = define_prim(UsdGeom.Mesh, stage, path)
        add_mesh(shape, model, int(model.geom_dataid[number]))
    else:
        name = model.geom(number).name or number
        raise AssetError(f"robot: the geom {name!r} is no sphere, capsule, cylinder, box or mesh")
    return shape


def add_mesh(shape: Any, model: MjModel, mesh: int) -> None:
    """Set vertices and triangles of a ``model``'s ``mesh``, given by index, on ``shape``, a `pxr.UsdGeom.Mesh`."""
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(model.mesh_vert[first : first + count].copy()))
    first, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(model.mesh_face[first : first + count].flatten()))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray([3] * int(count)))
    shape.CreateSubdivisionSchemeAttr("none")


def compute_relative_pose(data: MjData, parent: int, child: int) -> tuple[Vec3d, Quatd]:
    """Return position and rotation of the body ``child`` in the frame of the body ``parent``."""
    parent_position = Gf.Vec3d(*data.xpos[parent].tolist())
    child_position = Gf.Vec3d(*data.xpos[child].tolist())
    to_parent: Any = to_usd_quaternion(data.xquat[parent]).GetInverse()
    rotation: Any = to_usd_quaternion(data.xquat[child])
    return to_parent.Transform(child_position - parent_position), to_parent * rotation


def set_transform(
    shape: UsdTransformable, position: Iterable[float], rotation: Quatd, scale: Iterable[float] | None = None
) -> None:
    """Set origin [3] in m, rotation and factors along the axes (None for no scaling) of a prim in its parent's frame."""
    shape.AddTranslateOp().Set(Gf.Vec3d(*map(float, position)))
    shape.AddOrientOp().Set(Gf.Quatf(rotation))
    if scale is not None:
        shape.AddScaleOp().Set(to_usd_vector(scale))


def to_usd_vector(values: Iterable[float]) -> Vec3f:
    """Return three ``values`` as a USD vector."""
    return Gf.Vec3f(*map(float, values))


def to_usd_quaternion(values: Iterable[float]) -> Quatd:
    """Return MuJoCo's rotation, four ``values`` with w first, as a normalised USD quaternion."""
    return Gf.Quatd(*map(float, values)).GetNormalized()
