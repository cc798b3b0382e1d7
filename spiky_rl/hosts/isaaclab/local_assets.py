"""Local assets: Isaac Lab's robots derived from Newton's example assets and their MJCF models.

Newton's wheel has NVIDIA's robots twice: as USD files, with the prims and joints that Isaac Lab's tasks need, and as
``nv_ant.xml`` and ``nv_humanoid.xml``. If the two disagree, the values of the MJCF model are used. ``docs/robots.md`` compares
the simulated robots.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.config.errors import format_install_command
from spiky_rl.config.registry import UserError

if TYPE_CHECKING:
    from mujoco._specs import MjSpec  # where it is made: in mujoco itself no checker sees it
    from mujoco._structs import MjModel

# USD's own stubs type nearly everything as None, and MuJoCo has none
type UsdLayer = Any
"""`pxr.Sdf.Layer`."""
type UsdPrim = Any
"""`pxr.Sdf.PrimSpec`."""
type JointView = Any
"""Joint of a MuJoCo model, from `MjModel.joint`."""
type GeomView = Any
"""Geom of a MuJoCo model, from `MjModel.geom`."""

FILE_VERSION = 3
"""Version of the derived files, named in results and checkpoints; increases with every change."""

GROUND = "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
CARTPOLE = "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
ANT = "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd"
HUMANOID = "Isaac/Robots/IsaacSim/Humanoid/humanoid_instanceable.usd"

HUMANOID_JOINTS = {
    "abdomen_x": "pelvis",
    "left_elbow": "left_lower_arm",
    "right_elbow": "right_lower_arm",
    "left_knee": "left_shin",
    "right_knee": "right_shin",
}
"""Newton's name of a joint -> its name in Isaac Lab's configuration."""

COLORS = (
    (r"foot|ankle|hand|shin|lower_arm|slider", (0.015, 0.025, 0.05)),
    (r"aux|leg|thigh|arm|pole", (0.03, 0.13, 0.36)),
    (r"", (0.85, 0.16, 0.02)),
)
"""Pattern in a shape's path -> colour in linear RGB; the first match counts."""

GROUND_PLANE = """#usda 1.0
(
    defaultPrim = "ground"
    metersPerUnit = 1
    upAxis = "Z"
)

def Xform "ground"
{
    def Plane "plane" (prepend apiSchemas = ["PhysicsCollisionAPI"])
    {
        uniform token axis = "Z"
    }

    def Scope "Looks"
    {
        def Material "theGrid"
        {
            def Shader "Shader"
            {
            }
        }
    }
}
"""
"""USD file of the ground; Isaac Lab tints the shader at this path even if it is not bound."""


class AssetError(UserError):
    """Error about unavailable robots of a task, with a remedy."""


def build_assets(source: Path, root: Path) -> None:
    """Write Isaac Lab's four files below ``root`` from Newton's example assets in ``source``."""
    from pxr import Sdf

    for target in (GROUND, CARTPOLE, ANT, HUMANOID):
        (root / target).parent.mkdir(parents=True)
    (root / GROUND).write_text(GROUND_PLANE)

    for name, target in (("cartpole_single_pendulum", CARTPOLE), ("ant", ANT), ("humanoid", HUMANOID)):
        layer: Any = Sdf.Layer.OpenAsAnonymous(str(source / f"{name}.usda"))
        if target == CARTPOLE:
            layer.defaultPrim = "cartpole"
        else:
            copy_mjcf_parameters(layer, source / f"nv_{name}.xml")
        if target == HUMANOID:
            remove_collision_groups(layer)
            rename_joints(layer, HUMANOID_JOINTS)
        set_colors(layer)
        layer.Export(str(root / target))


def load_mjcf_model(path: Path) -> tuple[MjSpec, MjModel]:
    """Return MuJoCo's specification and compiled model of the MJCF file at ``path``."""
    mujoco: Any = importlib.import_module("mujoco")  # a compiled module, whose names no checker sees
    spec = mujoco.MjSpec.from_file(str(path))
    for sensor in list(spec.sensors):  # some refer to a missing site, which MuJoCo refuses
        spec.delete(sensor)
    return spec, spec.compile()


def copy_mjcf_parameters(layer: UsdLayer, path: Path) -> None:
    """Copy the parameters of bodies, shapes and joints from the robot's MJCF model at ``path`` to a ``layer``."""
    spec, model = load_mjcf_model(path)
    materials: dict[tuple[float, ...], UsdPrim] = {}
    for prim in list_prims(layer):
        if "physics:density" in prim.attributes:
            shapes = prim.nameChildren["collisions"].nameChildren
            set_attribute(prim, "physics:density", "Float", spec.geom(shapes[0].name).density)
        elif prim.nameParent is not None and prim.nameParent.name == "collisions":
            copy_contact_parameters(prim, model.geom(prim.name), materials)
        elif prim.typeName == "PhysicsRevoluteJoint":
            body = prim.relationships["physics:body1"].targetPathList.explicitItems[0].name
            joint = model.joint(model.body(body).jntadr[0])
            lower, upper = map(math.degrees, joint.range)
            set_attribute(prim, "physics:lowerLimit", "Float", lower)
            set_attribute(prim, "physics:upperLimit", "Float", upper)
            copy_joint_limits(prim, joint)
        elif prim.typeName == "PhysicsJoint":
            for axis in ("rotX", "rotY", "rotZ"):
                if (name := prim.attributes.get(f"mjcf:{axis}:name")) is not None:
                    joint = model.joint(name.default)
                    lower, upper = map(math.degrees, joint.range)
                    set_attribute(prim, f"limit:{axis}:physics:low", "Float", lower)
                    set_attribute(prim, f"limit:{axis}:physics:high", "Float", upper)
                    copy_joint_limits(prim, joint)


def copy_joint_limits(prim: UsdPrim, joint: JointView) -> None:
    """Copy the limit stiffness of MuJoCo's ``joint`` to a joint's ``prim``, as MuJoCo parameters, which Newton passes on."""
    set_attribute(prim, "mjc:solreflimit", "Double2", tuple(joint.solref))
    set_attribute(prim, "mjc:solimplimit", "DoubleArray", list(joint.solimp))


def copy_contact_parameters(
    prim: UsdPrim, geom: GeomView, materials: dict[tuple[float, ...], UsdPrim]
) -> None:
    """Copy the contact parameters of ``geom`` to a shape's ``prim``; shapes of equal friction share one of ``materials``."""
    from pxr import Sdf

    set_attribute(prim, "mjc:condim", "Int", int(geom.condim[0]))
    set_attribute(prim, "mjc:solref", "Double2", tuple(geom.solref))
    set_attribute(prim, "mjc:solimp", "DoubleArray", list(geom.solimp))
    set_attribute(prim, "mjc:margin", "Double", float(geom.margin[0]))
    friction = tuple(geom.friction)
    if friction not in materials:
        root = prim.layer.GetPrimAtPath(prim.path.GetPrefixes()[0])
        material: Any = Sdf.PrimSpec(root, f"friction_{len(materials)}", Sdf.SpecifierDef, "Material")
        apply_schema(material, "PhysicsMaterialAPI")
        names = "physics:dynamicFriction physics:staticFriction mjc:torsionalfriction mjc:rollingfriction"
        for name, value in zip(names.split(), (friction[0], *friction), strict=True):
            set_attribute(material, name, "Float", value)
        materials[friction] = material
    apply_schema(prim, "MaterialBindingAPI")
    binding: Any = Sdf.RelationshipSpec(prim, "material:binding:physics", False)
    binding.targetPathList.explicitItems = [materials[friction].path]


def remove_collision_groups(layer: UsdLayer) -> None:
    """Remove the collision groups of a ``layer``.

    In Newton, a shape of a group collides only within its group, and so not with the ground. The groups only disable collisions
    of neighbours, which joints already do.
    """
    for prim in list_prims(layer):
        if prim.typeName == "PhysicsCollisionGroup":
            del prim.nameParent.nameChildren[prim.name]


def rename_joints(layer: UsdLayer, names: Mapping[str, str]) -> None:
    """Rename joints of a ``layer`` by old and new ``names``. Raises AssetError for a missing joint."""
    from pxr import Sdf

    joints = {prim.name: prim.path for prim in list_prims(layer) if prim.typeName.endswith("Joint")}
    edits = Sdf.BatchNamespaceEdit()
    for old, new in names.items():
        if old not in joints:
            raise AssetError(
                f"Newton {get_newton_version()} has no humanoid joint {old}: another version is needed"
            )
        edits.Add(Sdf.NamespaceEdit.Rename(joints[old], new))
    if not layer.Apply(edits):
        raise AssetError(f"Newton's humanoid joints cannot be renamed: {', '.join(names)}")


def set_colors(layer: UsdLayer) -> None:
    """Colour the shapes of a ``layer`` by `COLORS`, because Newton's assets have no materials."""
    for prim in list_prims(layer):
        if prim.typeName in ("Capsule", "Cube", "Sphere"):
            colour = next(colour for pattern, colour in COLORS if re.search(pattern, str(prim.path)))
            set_attribute(prim, "primvars:displayColor", "Color3fArray", [colour])


def set_attribute(prim: UsdPrim, name: str, kind: str, value: object) -> None:
    """Set the attribute ``name`` of a ``prim`` to ``value``; a new attribute has the USD type ``kind``."""
    from pxr import Sdf

    attribute: Any = prim.attributes.get(name) or Sdf.AttributeSpec(
        prim, name, getattr(Sdf.ValueTypeNames, kind)
    )
    attribute.default = value


def apply_schema(prim: UsdPrim, name: str) -> None:
    """Apply one more API schema, ``name``, to a ``prim``."""
    from pxr import Sdf

    applied = prim.GetInfo("apiSchemas")
    prim.SetInfo("apiSchemas", Sdf.TokenListOp.Create(prependedItems=[*applied.prependedItems, name]))


def list_prims(layer: UsdLayer) -> list[UsdPrim]:
    """Return every prim of a ``layer``."""
    paths: list[Any] = []
    layer.Traverse("/", paths.append)
    return [layer.GetPrimAtPath(path) for path in paths if path.IsPrimPath()]


def get_newton_version() -> str:
    """Return the version of the installed Newton. Raises AssetError if it is not installed."""
    try:
        return importlib.metadata.version("newton")
    except importlib.metadata.PackageNotFoundError as error:
        install = format_install_command("./isaaclab_mujoco", ".[isaaclab]")
        raise AssetError(f"Newton is not installed; install it {install}") from error
