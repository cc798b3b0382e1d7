"""Names of Isaac Lab's visualizers and their requirements, checked without importing Isaac Lab."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence

from spiky_rl.config.registry import suggest_name
from spiky_rl.hosts.isaaclab.camera import LIBRARIES, GraphicsError

REQUIREMENTS = {
    "newton_gl": (("pyglet", "imgui_bundle"), "spiky-rl[video]"),
    "viser": (("viser",), "spiky-rl[live]"),
    "rerun": (("rerun",), "spiky-rl[live]"),
    "kit": (("isaacsim",), "spiky-rl[isaacsim]"),
    "newton_rtx": (("ovrtx",), "isaaclab[ovrtx]"),
}
"""Visualizer -> modules that it imports, and the pip requirement that installs them."""


def check_visualizers(names: Sequence[str], records_video: bool) -> None:
    """Raise GraphicsError, before a simulator starts, for an unknown or unavailable visualizer in ``names``.

    ``records_video``: whether the same process records videos, which it renders without a display.
    """
    for name in names:
        if name not in REQUIREMENTS:
            allowed = f"choose {', '.join(REQUIREMENTS)}, several with commas between them, or none alone"
            raise GraphicsError(f"--visualizer {name!r}: {allowed}{suggest_name(name, REQUIREMENTS)}")
    for name in names:
        modules, package = REQUIREMENTS[name]
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            remedy = f"install it with: pip install '{package}'"
            raise GraphicsError(f"--visualizer {name}: {', '.join(missing)} is not installed; {remedy}")
    if "newton_gl" in names:
        if records_video:
            raise GraphicsError(
                "--visualizer newton_gl: not available with --video, which renders without a display; allowed: viser, rerun"
            )
        require_screen()


def require_screen() -> None:
    """Raise GraphicsError if no window can be opened."""
    try:
        for library in LIBRARIES:
            ctypes.CDLL(library)
        from pyglet.display import get_display

        get_display()
    except Exception as error:  # the loader's, and pyglet's own where there is no X server
        raise GraphicsError(
            f"--visualizer newton_gl: no window can be opened here ({error}); set DISPLAY, or use viser or rerun in a browser"
        ) from None
