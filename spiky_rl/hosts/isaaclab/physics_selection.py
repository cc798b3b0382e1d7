"""The physics backend of a run, by name: native MuJoCo of the package `isaaclab_mujoco`, or one of Isaac Lab's own.

Only functions import `isaaclab_mujoco`, because names and results are read without a simulator. No module outside the folder
``hosts/isaaclab`` imports it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spiky_rl.config.errors import UserError, format_install_command, require_module
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

NATIVE, AUTO, WARP = "mujoco", "auto", "newton_mjwarp"
"""Names of `isaaclab_mujoco.selection`."""


def split_physics_override(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Return the physics backend that ``overrides`` request, and the overrides for Isaac Lab.

    The backend is ``mujoco`` or ``auto``, or empty if the overrides select one of Isaac Lab's own.
    """
    physics, others = AUTO, []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "physics" and value in (NATIVE, AUTO):
            physics = value
            others += [f"physics={WARP}"] if value == NATIVE else []
            continue
        if key in ("physics", "env.sim.physics") or (key == "presets" and WARP in value.split(",")):
            physics = ""
        others.append(text)
    return physics, others


def apply_physics(env_cfg: EnvCfg, physics: str, device: str) -> str:
    """Set in ``env_cfg`` the backend ``physics``, as `split_physics_override` returns it, on a ``device``; return the backend's name.

    Raises UserError if the backend is requested by name and not available.
    """
    with translate_errors():
        from isaaclab_mujoco import selection

        return selection.apply_physics(env_cfg, physics, device)


def get_solver_name(env: Any, name: str) -> str:
    """Return the name of the backend that steps the worlds of ``env`` after its reset; ``name`` is the configured one."""
    with translate_errors():
        from isaaclab_mujoco import selection

        return selection.get_solver_name(env, name)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise errors of native physics as UserError, which commands print in one line. Raises it too if the package is not installed.

    If SPIKY_RL_CACHE is set, the package keeps its library there.
    """
    find_package()  # raises UserError if it is not installed
    if folder := os.environ.get("SPIKY_RL_CACHE"):
        os.environ.setdefault("ISAACLAB_MUJOCO_CACHE", str(Path(folder).absolute() / "isaaclab_mujoco"))
    from isaaclab_mujoco.errors import PhysicsError

    try:
        yield
    except PhysicsError as error:
        raise UserError(str(error)) from error


def list_sources() -> list[Path]:
    """Return the source files that native physics compiles. Raises UserError if `isaaclab_mujoco` is not installed."""
    return sorted(find_package().glob("*.h"))


def find_package() -> Path:
    """Return the folder of `isaaclab_mujoco`, without an import of it. Raises UserError if it is not installed."""
    remedy = f"install it {format_install_command('./isaaclab_mujoco')}"
    return require_module("isaaclab_mujoco", "", remedy).parent
