"""Types of the parts of USD's layers, prims and stages that are used here; the stubs that come with USD type nearly all of them as None."""

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
    """The prim above it, or None."""
    nameChildren: Any
    """Those below it, by name and by index."""
    attributes: Mapping[str, UsdAttribute]
    relationships: Mapping[str, Any]

    def GetInfo(self, key: str) -> Any:
        """The metadata of the prim under ``key``."""
        ...

    def SetInfo(self, key: str, value: object) -> None:
        """Set the metadata of the prim under ``key`` to ``value``."""


class UsdLayer(Protocol):
    """A `pxr.Sdf.Layer`."""

    def GetPrimAtPath(self, path: object) -> UsdPrim:
        """The prim that lies at ``path``."""
        ...

    def Traverse(self, path: str, visit: Callable[[object], None]) -> None:
        """Call ``visit`` with the path of everything below ``path``."""

    def Apply(self, edits: object) -> bool:
        """Make all of the ``edits`` or none; whether they were made."""
        ...

    def Export(self, path: str) -> bool:
        """Write the layer to the file ``path``."""
        ...


class UsdStage(Protocol):
    """A `pxr.Usd.Stage`."""

    def GetPrimAtPath(self, path: str) -> Any:
        """The prim that lies at ``path``; one that is false where there is none."""
        ...

    def GetRootLayer(self) -> UsdLayer:
        """The layer that it is made of."""
        ...


class UsdSchema(Protocol):
    """A class of prims, such as `pxr.UsdGeom.Sphere`."""

    def Define(self, stage: UsdStage, path: str) -> Any:
        """Make one of them at ``path`` on the ``stage``."""
        ...


class Transformable(Protocol):
    """A `pxr.UsdGeom.Xformable`."""

    def AddTranslateOp(self) -> Any:
        """The operation that moves it."""
        ...

    def AddOrientOp(self) -> Any:
        """The operation that turns it."""
        ...

    def AddScaleOp(self) -> Any:
        """The operation that scales it."""
        ...
