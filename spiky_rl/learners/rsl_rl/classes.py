"""Classes and functions that a specification names for rsl_rl, checked by what they are before anything is built of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from spiky_rl.config.registry import RegistryError, format_exception, load_module, shorten
from spiky_rl.config.spec import SpecError

BASES = {
    "actor": "rsl_rl.models:MLPModel",
    "critic": "rsl_rl.models:MLPModel",
    "actor.distribution_cfg": "rsl_rl.modules.distribution:Distribution",
    "algorithm": "rsl_rl.algorithms:PPO",
}
"""Group of the specification -> what its ``class_name`` has to derive from."""
PROVIDED_ARGUMENTS = {"self", "obs", "obs_groups", "obs_set", "output_dim"}
"""Arguments that rsl_rl gives a model or a distribution by itself."""


def check_classes(config: dict[str, Any], origins: Mapping[str, str]) -> None:
    """Check every class and function that a configuration names.

    Args:
        config: rsl_rl's. Options that Isaac Lab registers for its own class are taken out where another in its place does not
            have them.
        origins: Who set each value, by its path.

    Raises:
        SpecError: rsl_rl would not find a class, or it is none of what it stands for.
    """
    trusted = {}
    for role in ("actor", "critic"):
        cls = resolve_class(role, config[role])
        trusted[role] = cls is None or _is_isaac_labs(role, cls, origins)
        if cls is not None:
            _check_options(role, cls, config[role], origins, trusted[role])
            _check_images(role, cls, config[role], config["algorithm"])
    distribution = config["actor"].get("distribution_cfg")
    if distribution:
        for key in ("std_range", "action_range"):
            if key in distribution and not distribution[key]:
                del distribution[key]  # empty: rsl_rl's own
        role = "actor.distribution_cfg"
        cls = resolve_class(role, distribution)
        if cls is not None:
            # what a task's own distribution lacks, only the task's own model gives it
            _check_options(
                role, cls, distribution, origins, trusted["actor"] and _is_isaac_labs(role, cls, origins)
            )
    if symmetry := config["algorithm"].get("symmetry_cfg"):
        path = "agent.algorithm.symmetry_cfg.data_augmentation_func"
        function = _resolve(path, symmetry["data_augmentation_func"])
        if not callable(function):
            raise SpecError(f"{path}: {shorten(symmetry['data_augmentation_func'])} is no function")
        _check_call(path, symmetry["data_augmentation_func"], function)


def _check_call(path: str, name: object, function: Callable[..., object]) -> None:
    """Refuse a function called ``name`` that cannot be called as rsl_rl calls it. Raises SpecError."""
    try:
        inspect.signature(function).bind(env=None, obs=None, actions=None)
    except (TypeError, ValueError):  # and a function of C, whose arguments nobody knows
        raise SpecError(
            f"{path}: {shorten(name)} given; allowed: a function of env, obs and actions"
        ) from None


def resolve_class(role: str, settings: Mapping[str, object]) -> type | None:
    """The class that a group's ``class_name`` stands for; None where it has none.

    Args:
        role: The group: a key of `BASES`.
        settings: All that it holds.

    Raises:
        SpecError: There is no such class, or it does not derive from the role's base.
    """
    name = settings.get("class_name")
    if name is None:
        return None
    path = f"agent.{role}.class_name"
    cls = _resolve(path, name)
    module, _, base = BASES[role].partition(":")
    if not inspect.isclass(cls) or not issubclass(cls, getattr(load_module(module), base)):
        raise SpecError(f"{path}: {shorten(name)} is not a class that derives from {module}.{base}")
    return cls


def _resolve(path: str, name: object) -> object:
    from rsl_rl.utils import resolve_callable

    try:
        if isinstance(name, str) and ":" in name:
            load_module(name.rpartition(":")[0])
        return resolve_callable(name)  # type: ignore[arg-type]  # it refuses what is none
    except RegistryError as error:
        raise SpecError(f"{path}: {shorten(name)}: {error}") from None
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SpecError(f"{path}: rsl_rl finds no {shorten(name)}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a name with dots is imported by rsl_rl, and may be anybody's
        raise SpecError(f"{path}: {shorten(name)} cannot be imported: {format_exception(error)}") from error


def _is_set_by_isaaclab(path: str, origins: Mapping[str, str]) -> bool:
    """Whether Isaac Lab's own configuration sets this value, and nobody else."""
    below = [origin for key, origin in origins.items() if key == path or key.startswith(f"{path}.")]
    return bool(below) and set(below) == {"Isaac Lab"}


def _is_isaac_labs(role: str, cls: type, origins: Mapping[str, str]) -> bool:
    """Whether a group has the class that Isaac Lab registers for the task; our models take its place unnamed."""
    return _is_set_by_isaaclab(f"{role}.class_name", origins) and not cls.__module__.startswith("spiky_rl.")


def _check_options(
    role: str, cls: type, settings: dict[str, object], origins: Mapping[str, str], trusted: bool
) -> None:
    """Refuse options that a class's constructor does not take, and those that it misses.

    Args:
        trusted: The class is the one that Isaac Lab registers for the task: with what is registered for it, and it may be
            given more by others. Else what Isaac Lab registers for its own class, and this one does not take, is left out.
    """
    path, parameters = f"agent.{role}", inspect.signature(cls).parameters
    own = {
        name: p
        for name, p in parameters.items()
        if name not in PROVIDED_ARGUMENTS and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in [key for key in settings if key != "class_name" and key not in own]:
        if anything or (trusted and _is_set_by_isaaclab(f"{role}.{key}", origins)):
            continue
        if not _is_set_by_isaaclab(f"{role}.{key}", origins):
            raise SpecError(
                f"{path}.{key}: {cls.__name__} has no such option; it has {', '.join(own) or 'none'}"
            )
        del settings[key]
    for key, parameter in own.items():
        if parameter.default is parameter.empty and key not in settings and not trusted:
            raise SpecError(f"{path}.{key}: is missing; {cls.__name__} has no default for it")


def _check_images(
    role: str, cls: type, settings: Mapping[str, object], algorithm: Mapping[str, object]
) -> None:
    """Refuse a CNN where there are no images, and CNNs to be shared where there are none."""
    from rsl_rl.models import CNNModel

    if issubclass(cls, CNNModel):
        if not settings.get("cnn_cfg"):
            raise SpecError(
                f"agent.{role}.class_name: {cls.__name__} is for tasks with images, whose cnn_cfg Isaac Lab registers"
            )
    elif algorithm.get("share_cnn_encoders"):
        raise SpecError(
            f"agent.algorithm.share_cnn_encoders: true needs two CNNs, and agent.{role} is a {cls.__name__}; set it to false"
        )
