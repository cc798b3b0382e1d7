"""Protocols for USD's layers, prims and stages, because USD's own stubs type nearly everything as None."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

# pylint: disable=unnecessary-ellipsis


class UsdAttribute(Protocol):
    """A `pxr.Sdf.AttributeSpec`."""

    default: Any


class UsdPrim(Protocol):
    """A `pxr.Sdf.PrimSpec`."""

    name: str
    typeName: str
    path: Any
    layer: UsdLayer
    nameParent: Any
    """Parent prim, or None."""
    nameChildren: Any
    """Child prims, by name and by index."""
    attributes: Mapping[str, UsdAttribute]
    relationships: Mapping[str, Any]

    def GetInfo(self, key: str) -> Any:
        """Return the metadata of the prim under ``key``."""
        ...

    def SetInfo(self, key: str, value: object) -> None:
        """Set the metadata of the prim under ``key`` to ``value``."""


class UsdLayer(Protocol):
    """A `pxr.Sdf.Layer`."""

    def GetPrimAtPath(self, path: object) -> UsdPrim:
        """Return the prim at ``path``."""
        ...

    def Traverse(self, path: str, visit: Callable[[object], None]) -> None:
        """Call ``visit`` with the path of everything below ``path``."""

    def Apply(self, edits: object) -> bool:
        """Apply all ``edits`` or none; return whether they were applied."""
        ...

    def Export(self, path: str) -> bool:
        """Write the layer to the file ``path``."""
        ...


class UsdStage(Protocol):
    """A `pxr.Usd.Stage`."""

    def GetPrimAtPath(self, path: str) -> Any:
        """Return the prim at ``path``; it is false if there is none."""
        ...

    def GetRootLayer(self) -> UsdLayer:
        """Return the root layer of the stage."""
        ...


class UsdSchema(Protocol):
    """Prim schema, such as `pxr.UsdGeom.Sphere`."""

    def Define(self, stage: UsdStage, path: str) -> Any:
        """Define a prim of this schema at ``path`` on the ``stage``."""
        ...


class Transformable(Protocol):
    """A `pxr.UsdGeom.Xformable`."""

    def AddTranslateOp(self) -> Any:
        """Add and return the translation."""
        ...

    def AddOrientOp(self) -> Any:
        """Add and return the rotation."""
        ...

    def AddScaleOp(self) -> Any:
        """Add and return the scaling."""
        ...
