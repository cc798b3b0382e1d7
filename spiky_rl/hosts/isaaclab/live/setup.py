"""Tells Isaac Lab's simulation to make our visualizers where its own command line would make its own."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spiky_rl.hosts.isaaclab.camera import compute_viewpoint
from spiky_rl.hosts.isaaclab.workflows import EnvCfg, WrappedEnv

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.live.base import LiveVisualizer
CONFIGURATIONS = {
    "newton_gl": "isaaclab_visualizers.newton:NewtonGLVisualizerCfg",
    "viser": "isaaclab_visualizers.viser:ViserVisualizerCfg",
    "rerun": "isaaclab_visualizers.rerun:RerunVisualizerCfg",
}
"""Isaac Lab's configurations of the visualizers that have a module in this package; the others are Isaac Lab's as they are."""
VIEWS = {"newton_gl": "NewtonGLView", "viser": "ViserView", "rerun": "RerunView"}
"""The class of each in that module."""
LOCAL = "127.0.0.1"
"""Who watches can also pause and reset, and nobody is asked for a password: other machines come in by ssh."""

FURTHER = 2.0
"""How far the robot is seen from, in a film's distances."""


def add_visualizers(env_cfg: EnvCfg, names: Sequence[str]) -> None:
    """Put those of ``names`` that are ours into ``env_cfg.sim.visualizer_cfgs``, with what the task says of them there."""
    from isaaclab.utils.string import ResolvableString

    there = env_cfg.sim.visualizer_cfgs or []
    there = list(there) if isinstance(there, (list, tuple)) else [there]
    for name in names:
        if name not in CONFIGURATIONS:
            continue
        cfg: Any = next((cfg for cfg in there if cfg.visualizer_type == name), None)
        if cfg is None:
            module, _, kind = CONFIGURATIONS[name].partition(":")
            cfg = getattr(importlib.import_module(module), kind)()
            there.append(cfg)
        cfg.class_type = ResolvableString(f"spiky_rl.hosts.isaaclab.live.{name}_view:{VIEWS[name]}")
        cfg.randomly_sample_visible_envs = False  # environment 0 is among those that are seen
        if name == "viser":
            cfg.bind_address, cfg.verbose = LOCAL, False
        if name == "rerun":
            cfg.bind_address = LOCAL
            # Isaac Lab takes a port that is not free for that of another viewer, and writes into it
            cfg.web_port, cfg.grpc_port = find_free_port(cfg.web_port), find_free_port(cfg.grpc_port)
            cfg.keep_historical_data = True  # else poses are static, and rerun's server never drops those
    env_cfg.sim.visualizer_cfgs = there


def find_free_port(first: int) -> int:
    """The first port from ``first`` on that nobody listens on."""
    for port in range(first, first + 1000):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {first} to {first + 999}")


def get_visualizers(env: WrappedEnv) -> list[LiveVisualizer]:
    """The visualizers of ``env`` that are ours."""
    from spiky_rl.hosts.isaaclab.live import base

    return [view for view in env.unwrapped.sim.visualizers if isinstance(view, base.LiveVisualizer)]


def set_default_camera(env: WrappedEnv) -> None:
    """Let every visualizer of ``env`` look at the robot of environment 0 from where a film does, and from further, for it stays there."""
    scene = env.unwrapped.scene
    for robot in list(scene.articulations.values())[:1]:
        middle, offset = compute_viewpoint(robot)
        for view in env.unwrapped.sim.visualizers:
            view.set_camera_view(tuple((middle + FURTHER * offset).tolist()), tuple(middle.tolist()))
