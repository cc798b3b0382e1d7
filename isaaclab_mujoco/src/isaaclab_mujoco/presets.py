"""The preset ``mujoco`` in Isaac Lab's task configurations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from isaaclab_mujoco.selection import (
    AUTO,
    NATIVE,
    WARP,
    get_own_manager_reason,
    is_warp,
    log_warp_fallback,
    replace_manager,
)

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

ENTRY = "env_cfg_entry_point"
"""Key of a task's configuration in gymnasium's registry."""
ORIGINAL = "env_cfg_without_mujoco"
"""Key under which `offer_preset` keeps the task's own configuration."""


def offer_preset(tasks: Iterable[EnvSpec]) -> None:
    """Let Isaac Lab's commands select ``physics=mujoco`` for each of ``tasks`` that has MuJoCo-Warp."""
    for task in tasks:
        if ENTRY in task.kwargs and ORIGINAL not in task.kwargs:
            task.kwargs[ORIGINAL] = task.kwargs[ENTRY]
            task.kwargs[ENTRY] = _make_entry(task)


def _make_entry(task: EnvSpec) -> Any:
    """Return the function that gymnasium's registry holds for a ``task`` in place of its own configuration."""
    original = task.kwargs[ORIGINAL]

    def load_configuration() -> Any:
        from isaaclab_tasks.utils import load_cfg_from_registry

        return add_preset(load_cfg_from_registry(task.id, ORIGINAL))

    # an entry's module tells which package configures the task, so it stays the original's
    module = original.partition(":")[0] if isinstance(original, str) else original.__module__
    load_configuration.__module__ = module
    return load_configuration


def add_preset(env_cfg: Any, *, auto_default: bool = False) -> Any:
    """Return a task's configuration in which ``mujoco`` selects all that ``newton_mjwarp`` selects, with native MuJoCo as its physics.

    Args:
        env_cfg: Configuration with its presets, as the registry has it; it is changed in place, the classes of its presets are not.
        auto_default: Whether a default of MuJoCo-Warp is replaced by ``auto``: native MuJoCo if it can step the worlds. For
            simulations on a CPU.
    """
    from isaaclab_tasks.utils import PresetCfg

    if isinstance(env_cfg, PresetCfg):
        return _extend_presets(env_cfg, auto_default)
    _extend_presets_below(env_cfg, auto_default)
    return env_cfg


def _extend_presets_below(node: Any, auto_default: bool) -> None:
    """Extend all presets below a ``node`` of the configuration."""
    from isaaclab_tasks.utils import PresetCfg

    for key, value in _list_children(node):
        if isinstance(value, PresetCfg):
            _set_child(node, key, _extend_presets(value, auto_default))
        elif is_warp(value):  # the only physics of the task
            presets = _make_presets(PresetCfg, {"default": value, WARP: value})
            _set_child(node, key, _extend_presets(presets, auto_default))
        else:
            _extend_presets_below(value, auto_default)


def _extend_presets(presets: Any, auto_default: bool) -> Any:
    """Return ``presets`` with the alternative ``mujoco`` if they have ``newton_mjwarp``, and with extended alternatives."""
    from isaaclab_tasks.utils import PresetCfg

    alternatives = copy.deepcopy(_read_alternatives(presets))
    for name, value in alternatives.items():
        if isinstance(value, PresetCfg):
            alternatives[name] = _extend_presets(value, auto_default)
        elif not is_warp(value):
            _extend_presets_below(value, auto_default)
    if WARP in alternatives and not get_own_manager_reason(alternatives[WARP]):
        alternatives[NATIVE] = _replace_manager(alternatives[WARP], NATIVE)
    if auto_default and "default" in alternatives:
        alternatives["default"] = _replace_manager(alternatives["default"], AUTO)
    return _make_presets(type(presets), alternatives)


def _replace_manager(value: Any, choice: str) -> Any:
    """Return a copy of a MuJoCo-Warp configuration with the manager of ``choice``; any other ``value`` itself.

    A manager of the task's own stays, and one line says so.
    """
    if reason := get_own_manager_reason(value):
        log_warp_fallback(reason)
        return value
    return replace_manager(copy.deepcopy(value), choice) if is_warp(value) else value


def _read_alternatives(presets: Any) -> dict[str, Any]:
    """Return the alternatives of ``presets`` by name, as Isaac Lab reads them: a value of the class replaces a value of the object."""
    cls = type(presets)
    found = {}
    for name in presets.__dataclass_fields__:
        value = getattr(cls, name, None)
        found[name] = getattr(presets, name) if value is None else value
    others = {
        name: value for name, value in vars(cls).items() if not (name.startswith("_") or callable(value))
    }
    return others | found


def _make_presets(base: type, alternatives: Mapping[str, Any]) -> Any:
    """Return presets with these ``alternatives`` and a class of their own: Isaac Lab reads them from the class, which tasks share."""
    presets = type(base.__name__, (base,), dict(alternatives))()
    for name, value in alternatives.items():
        setattr(presets, name, value)
    return presets


def _list_children(node: Any) -> list[tuple[Any, Any]]:
    """Return keys and values of a ``node`` that Isaac Lab searches for presets; none for a plain value."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list):
        return list(enumerate(node))
    if not hasattr(node, "__dataclass_fields__") or isinstance(node, type):
        return []
    names = [name for name in dir(node) if not name.startswith("_")]
    return [(name, value) for name in names if (value := getattr(node, name, None)) is not None]


def _set_child(node: Any, key: Any, value: Any) -> None:
    if isinstance(node, Mapping | list):
        node[key] = value  # type: ignore[index]
    else:
        setattr(node, key, value)
