"""The choice between Isaac Lab's own physics backend and native MuJoCo for a task's configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from isaaclab_mujoco.errors import PhysicsError

if TYPE_CHECKING:
    from isaaclab.envs import DirectMARLEnvCfg, DirectRLEnvCfg, ManagerBasedRLEnvCfg
    from isaaclab.physics import PhysicsCfg
    from isaaclab_newton.physics import NewtonCfg

    type EnvCfg = ManagerBasedRLEnvCfg | DirectRLEnvCfg | DirectMARLEnvCfg

log = logging.getLogger(__name__)

NATIVE, AUTO, WARP = "mujoco", "auto", "newton_mjwarp"
"""Names of physics backends. ``auto`` selects native MuJoCo if it can step the task's worlds, else the task's own backend."""
MANAGERS = {
    NATIVE: "isaaclab_mujoco.solver:NewtonMuJoCoManager",
    AUTO: "isaaclab_mujoco.solver:NewtonMuJoCoOrWarpManager",
}
"""Class of the manager for each choice, as text like every class in Isaac Lab's configurations, so they can be saved and read."""
WARP_MANAGERS = (
    "isaaclab_newton.physics.mjwarp_manager:NewtonMJWarpManager",
    "isaaclab_newton.physics:NewtonMJWarpManager",
)
"""Isaac Lab's manager of MuJoCo-Warp, as text: its module, and the package that exports it."""
RK4 = ("rk4", "1")
"""The integrator RK4 in a solver's configuration: its name in lower case, and MuJoCo's constant, as text."""


def apply_physics(env_cfg: EnvCfg, physics: str, device: str) -> str:
    """Set the physics backend in a task's resolved configuration and return the backend's name.

    Args:
        env_cfg: Configuration without presets.
        physics: ``mujoco``, ``auto``, or another name, which changes nothing. ``auto`` replaces MuJoCo-Warp on a CPU by native MuJoCo,
            and logs one line if it cannot. Some unsupported features show only in the built model; `get_solver_name` tells after them
            which backend steps the worlds.
        device: Device that simulates.

    Raises:
        PhysicsError: ``mujoco`` is not available.
    """
    name = get_physics_name(env_cfg.sim.physics)
    if physics not in (NATIVE, AUTO) or (physics == AUTO and (device != "cpu" or name != WARP)):
        return name
    if reason := get_unsupported_reason(env_cfg, name, device):
        if physics == NATIVE:
            raise PhysicsError(f"physics={NATIVE}: {reason}; use physics={WARP}")
        log_warp_fallback(reason)
        return name
    replace_manager(env_cfg.sim.physics, physics)  # type: ignore[arg-type]  # a configuration of MuJoCo-Warp
    return NATIVE


def log_warp_fallback(reason: str) -> None:
    """Log that MuJoCo-Warp steps the worlds on a CPU, and the ``reason``."""
    log.warning("physics: %s, several times slower than %s: %s", WARP, NATIVE, reason)


def get_solver_name(env: Any, name: str) -> str:
    """Return the name of the backend that steps the worlds of ``env`` after its reset.

    It differs from the configured ``name`` if the choice was ``auto`` and only MuJoCo-Warp can step the built model. If the choice was
    ``mujoco``, such a model raises UnsupportedModel. ``env`` is a gymnasium environment of Isaac Lab.
    """
    uses_native_solver = getattr(env.unwrapped.sim.physics_manager, "uses_native_solver", None)
    if uses_native_solver is None:
        return name
    return NATIVE if uses_native_solver() else WARP


def replace_manager(physics: NewtonCfg, choice: str) -> NewtonCfg:
    """Set the manager of ``choice`` (``mujoco`` or ``auto``) in a configuration of MuJoCo-Warp, and return it."""
    from isaaclab.utils.string import ResolvableString

    physics.class_type = physics.solver_cfg.class_type = ResolvableString(MANAGERS[choice])  # type: ignore[union-attr]
    return physics


def get_unsupported_reason(env_cfg: EnvCfg, name: str, device: str) -> str | None:
    """Return the reason why native MuJoCo cannot step a task, as far as configuration and installation show it; None if it can.

    Args:
        env_cfg: Configuration without presets.
        name: Name of its physics backend.
        device: Device that simulates.
    """
    if device != "cpu":
        return f"native MuJoCo steps worlds on the CPU, and the device is {device}"
    if name not in (WARP, NATIVE):
        return f"native MuJoCo can replace only {WARP}, and the task has {name}"
    if reason := get_own_manager_reason(env_cfg.sim.physics):
        return reason
    solver = env_cfg.sim.physics.solver_cfg  # type: ignore[union-attr]  # a configuration of MuJoCo-Warp
    if solver.use_mujoco_cpu:
        return "use_mujoco_cpu makes Newton step a single world with MuJoCo"
    if not solver.use_mujoco_contacts and str(solver.integrator).lower() in RK4:
        return "native MuJoCo does not support Newton's contacts with the integrator rk4"
    from isaaclab_mujoco.worlds import get_unavailable_reason

    return get_unavailable_reason()


def get_own_manager_reason(physics: object) -> str | None:
    """Return a phrase that names the manager if ``physics`` has MuJoCo-Warp's solver with a manager of the task's own, else None."""
    from isaaclab.utils.string import callable_to_string

    if not is_warp(physics):
        return None
    manager = physics.class_type  # type: ignore[attr-defined]
    name = str(manager) if isinstance(manager, str) else callable_to_string(manager)
    if name in (*WARP_MANAGERS, *MANAGERS.values()):
        return None
    return f"the task has a physics manager of its own, {name}"


def get_physics_name(physics: PhysicsCfg | None) -> str:
    """Return Isaac Lab's name of a ``physics`` configuration, or ``mujoco``."""
    from isaaclab_newton.physics import NewtonCfg

    if is_warp(physics):
        return NATIVE if str(physics.class_type) in MANAGERS.values() else WARP  # type: ignore[union-attr]
    if not isinstance(physics, NewtonCfg):
        return type(physics).__name__.removesuffix("Cfg").removesuffix("Auto").lower()
    words = type(physics.solver_cfg).__name__.removesuffix("SolverCfg").removesuffix("PADMM").lower()
    return f"newton_{words}"


def is_warp(physics: object) -> bool:
    """Return whether ``physics`` configures MuJoCo-Warp's solver, whichever manager runs it."""
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg

    return isinstance(physics, NewtonCfg) and isinstance(physics.solver_cfg, MJWarpSolverCfg)
