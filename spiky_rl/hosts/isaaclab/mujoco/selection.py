"""Which physics steps a task: Isaac Lab's as its configuration says, or MuJoCo's C library in the place of MuJoCo-Warp."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab.workflows import EnvCfg, WrappedEnv

if TYPE_CHECKING:
    from isaaclab.physics import PhysicsCfg
    from isaaclab_newton.physics import NewtonCfg

log = logging.getLogger("spiky_rl")

NATIVE, AUTO, WARP = "mujoco", "auto", "newton_mjwarp"
MANAGERS = {
    NATIVE: "spiky_rl.hosts.isaaclab.mujoco.solver:NewtonMuJoCoManager",
    AUTO: "spiky_rl.hosts.isaaclab.mujoco.solver:NewtonMuJoCoOrWarpManager",
}
"""As Isaac Lab's configurations name a class, so that a run's own copy of its configuration can be read by anyone."""


class PhysicsError(UserError):
    """A physics that a task or a machine cannot have."""


def split_physics_override(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Which physics ``overrides`` ask for, and they as Isaac Lab knows them; "" where it is one of Isaac Lab's own."""
    wanted, others = AUTO, []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "physics" and value in (NATIVE, AUTO):
            wanted = value
            others += [f"physics={WARP}"] if value == NATIVE else []
            continue
        if key in ("physics", "env.sim.physics") or (key == "presets" and WARP in value.split(",")):
            wanted = ""
        others.append(text)
    return wanted, others


def apply_physics(env_cfg: EnvCfg, physics_name: str, device: str) -> str:
    """Give a task's configuration the physics that is wanted; returns the name of what it has then.

    Args:
        env_cfg: The configuration.
        wanted: As `split` gives it. ``auto`` takes MuJoCo's C library wherever MuJoCo-Warp would run on a CPU, and says in one
            line where it cannot; what only the model shows comes later, see `settled`.
        device: What is to simulate.

    Raises:
        PhysicsError: MuJoCo's C library is asked for by name and cannot be had.
    """
    name = get_physics_name(env_cfg.sim.physics)
    if physics_name not in (NATIVE, AUTO) or (physics_name == AUTO and (device != "cpu" or name != WARP)):
        return name
    if reason := get_unsupported_reason(env_cfg, name, device):
        if physics_name == NATIVE:
            raise PhysicsError(f"physics={NATIVE}: {reason}; use physics={WARP}")
        log_warp_fallback(reason)
        return name
    replace_manager(env_cfg.sim.physics, physics_name)  # type: ignore[arg-type]  # it is MuJoCo-Warp's
    return NATIVE


def log_warp_fallback(reason: str) -> None:
    """The one line of a run that was not told which physics it has, and for this ``reason`` has MuJoCo-Warp on a CPU."""
    log.warning("physics: %s, several times slower than %s: %s", WARP, NATIVE, reason)


def get_solver_name(env: WrappedEnv, name: str) -> str:
    """Name of the solver that steps the worlds of an ``env`` after its reset, ``name`` until now: its model may be one for MuJoCo-Warp alone."""
    settle = getattr(env.unwrapped.sim.physics_manager, "uses_native_solver", None)
    return name if settle is None or settle() else WARP


def replace_manager(physics: NewtonCfg, wanted: str) -> NewtonCfg:
    """Let ``physics``, a configuration of MuJoCo-Warp, name the manager of ``wanted``: ``mujoco`` or ``auto``; returns it."""
    from isaaclab.utils.string import ResolvableString

    physics.class_type = physics.solver_cfg.class_type = ResolvableString(MANAGERS[wanted])  # type: ignore[union-attr]
    return physics


def add_physics_preset(env_cfg: EnvCfg) -> EnvCfg:
    """Add ``mujoco`` to the physics that a task's ``env_cfg`` lets Isaac Lab's own commands choose from; returns it.

    It is the default where MuJoCo-Warp is. For a simulation on a CPU.
    """
    from isaaclab_tasks.utils import PresetCfg

    presets = env_cfg.sim.physics
    if not isinstance(presets, PresetCfg):
        apply_physics(env_cfg, AUTO, "cpu")
    elif hasattr(presets, WARP):
        native, auto = (replace_manager(copy.deepcopy(getattr(presets, WARP)), wanted) for wanted in MANAGERS)
        is_default = getattr(presets, "default", None) == getattr(presets, WARP)
        # a class of its own, because Isaac Lab reads alternatives from the class, and its own is shared by all tasks
        values = {NATIVE: native, **({"default": auto} if is_default else {})}
        env_cfg.sim.physics = type(type(presets).__name__, (type(presets),), values)()
    return env_cfg


def get_unsupported_reason(env_cfg: EnvCfg, name: str, device: str) -> str | None:
    """Why MuJoCo's C library cannot step a task, as far as it can be known before the simulator starts; None: it can.

    Args:
        env_cfg: The task's configuration.
        name: Name of the physics that it has.
        device: What is to simulate.
    """
    if device != "cpu":
        return f"it steps worlds on the CPU, and the device is {device}"
    if name != WARP:
        return f"it takes the place of {WARP}, and the task has {name}"
    solver = env_cfg.sim.physics.solver_cfg  # type: ignore[union-attr]  # it is MuJoCo-Warp's
    if solver.use_mujoco_cpu:
        return "use_mujoco_cpu is MuJoCo's own single world"
    if not solver.use_mujoco_contacts and str(solver.integrator).lower() == "rk4":
        return "it does not give Newton's contacts to the integrator rk4"
    from spiky_rl.hosts.isaaclab.mujoco.worlds import get_unavailable_reason

    return get_unavailable_reason()


def get_physics_name(physics: PhysicsCfg | None) -> str:
    """Isaac Lab's name of a configuration of ``physics``."""
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg

    if not isinstance(physics, NewtonCfg):
        return type(physics).__name__.removesuffix("Cfg").removesuffix("Auto").lower()
    if isinstance(physics.solver_cfg, MJWarpSolverCfg):
        return WARP
    words = type(physics.solver_cfg).__name__.removesuffix("SolverCfg").removesuffix("PADMM").lower()
    return f"newton_{words}"
