"""Visualizers in Isaac Lab's simulation: their requirements, checked without importing Isaac Lab, and the configuration of ours."""

from __future__ import annotations

import ctypes
import importlib.util
import pkgutil
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.config.errors import format_install_command
from spiky_rl.config.registry import suggest_name
from spiky_rl.hosts.isaaclab.camera import (
    LIBRARIES,
    GraphicsError,
    compute_viewpoint,
    get_body_positions,
)
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

if TYPE_CHECKING:
    from isaaclab.assets import Articulation

    from spiky_rl.hosts.isaaclab.live.base import LiveVisualizer

REQUIREMENTS = {
    "newton_gl": (("pyglet", "imgui_bundle"), ".[video]"),
    "viser": (("viser",), ".[live]"),
    "rerun": (("rerun",), ".[live]"),
    "kit": (("isaacsim",), ".[isaacsim]"),
    "newton_rtx": (("ovrtx",), "isaaclab[ovrtx]"),
}
"""Visualizer -> modules that it imports, and the pip requirement that installs them."""
OWN_VIEWS = {
    "newton_gl": ("isaaclab_visualizers.newton:NewtonGLVisualizerCfg", "NewtonGLView"),
    "viser": ("isaaclab_visualizers.viser:ViserVisualizerCfg", "ViserView"),
    "rerun": ("isaaclab_visualizers.rerun:RerunVisualizerCfg", "RerunView"),
}
"""Visualizer that this package extends -> Isaac Lab's configuration, and our class; all others are used unchanged."""
LOCAL_ADDRESS = "127.0.0.1"
"""Address of the servers: viewers can pause and reset without a password, so other machines must use ssh."""
DISTANCE_FACTOR = 2.0
"""Distance of the camera from the robot, relative to that of videos."""


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
            is_ours = package.startswith(".")
            install = format_install_command(package) if is_ours else f"with: pip install '{package}'"
            raise GraphicsError(
                f"--visualizer {name}: {', '.join(missing)} is not installed; install it {install}"
            )
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


def add_visualizers(env_cfg: EnvCfg, names: Sequence[str]) -> None:
    """Add our visualizers among ``names`` to ``env_cfg.sim.visualizer_cfgs``, or extend the task's own configurations there."""
    from isaaclab.utils.string import ResolvableString

    there = env_cfg.sim.visualizer_cfgs or []
    there = list(there) if isinstance(there, (list, tuple)) else [there]
    for name in names:
        if name not in OWN_VIEWS:
            continue
        configuration, view = OWN_VIEWS[name]
        cfg: Any = next((cfg for cfg in there if cfg.visualizer_type == name), None)
        if cfg is None:
            cfg = pkgutil.resolve_name(configuration)()
            there.append(cfg)
        cfg.class_type = ResolvableString(f"spiky_rl.hosts.isaaclab.live.{name}_view:{view}")
        cfg.randomly_sample_visible_envs = False  # so that environment 0 is visible
        if name == "viser":
            cfg.bind_address, cfg.verbose = LOCAL_ADDRESS, False
        if name == "rerun":
            cfg.bind_address = LOCAL_ADDRESS
            # Isaac Lab would connect to whatever server uses an occupied port
            cfg.web_port, cfg.grpc_port = find_free_port(cfg.web_port), find_free_port(cfg.grpc_port)
            # otherwise poses are static data, which rerun's server never drops
            cfg.keep_historical_data = True
    env_cfg.sim.visualizer_cfgs = there


def find_free_port(first: int) -> int:
    """Return the first free port from ``first`` on."""
    for port in range(first, first + 1000):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {first} to {first + 999}")


def get_visualizers(env: Any) -> list[LiveVisualizer]:
    """Return our visualizers of ``env``."""
    from spiky_rl.hosts.isaaclab.live import base

    return [view for view in env.unwrapped.sim.visualizers if isinstance(view, base.LiveVisualizer)]


def set_default_camera(env: Any, follows: bool = False) -> None:
    """Point every visualizer of ``env`` at the robot of environment 0, from further away than in videos.

    If it ``follows``, the cameras of our visualizers move with a robot that can move; otherwise they stay.
    """
    scene = env.unwrapped.scene
    for robot in list(scene.articulations.values())[:1]:
        middle, offset = compute_viewpoint(robot)
        for view in env.unwrapped.sim.visualizers:
            view.set_camera_view(tuple((middle + DISTANCE_FACTOR * offset).tolist()), tuple(middle.tolist()))
        if follows and not robot.is_fixed_base:
            for view in get_visualizers(env):
                view.target = partial(_get_ground_point, robot, middle[2])


def _get_ground_point(robot: Articulation, height: float) -> np.ndarray:
    """Return the centre of environment 0's ``robot`` at a constant ``height``, [3] in m."""
    x, y, _ = get_body_positions(robot).mean(0)
    return np.array([x, y, height])
