"""Checks of the classes and functions that a specification names for rsl_rl, before anything is built from them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from spiky_rl.config.modules import format_exception, load_module
from spiky_rl.config.registry import RegistryError, shorten
from spiky_rl.config.spec import SpecError, is_host_origin

BASES = {
    "actor": "rsl_rl.models:MLPModel",
    "critic": "rsl_rl.models:MLPModel",
    "actor.distribution_cfg": "rsl_rl.modules.distribution:Distribution",
    "algorithm": "rsl_rl.algorithms:PPO",
}
"""Group of the specification -> required base class of its ``class_name``."""
PROVIDED_ARGUMENTS = {"self", "obs", "obs_groups", "obs_set", "output_dim"}
"""Arguments that rsl_rl itself passes to a model or a distribution."""


def check_classes(config: dict[str, Any], origins: Mapping[str, str]) -> None:
    """Check every class and function that rsl_rl's ``config`` names; ``origins`` has the origin of each value, by path.

    Options that the host registers for its own class are removed if the class in its place does not have them.

    Raises SpecError if rsl_rl would not find a class, or the class has the wrong base.
    """
    trusted = {}
    for role in ("actor", "critic"):
        cls = resolve_class(role, config[role])
        trusted[role] = cls is None or _is_registered(role, cls, origins)
        if cls is not None:
            _check_options(role, cls, config[role], origins, trusted[role])
            _check_images(role, cls, config[role], config["algorithm"])
    if distribution := config["actor"].get("distribution_cfg"):
        _check_distribution(distribution, origins, trusted["actor"])
    if symmetry := config["algorithm"].get("symmetry_cfg"):
        path, name = "agent.algorithm.symmetry_cfg.data_augmentation_func", symmetry["data_augmentation_func"]
        function = _resolve(path, name)
        if not callable(function):
            raise SpecError(f"{path}: {shorten(name)} is not a function")
        _check_call(path, name, function)


def _check_distribution(settings: dict[str, object], origins: Mapping[str, str], trusted: bool) -> None:
    """Check the settings of the actor's distribution; ``trusted``: whether the host registers the actor's class for the task."""
    for key in ("std_range", "action_range"):
        if key in settings and not settings[key]:
            del settings[key]  # empty means rsl_rl's default
    role = "actor.distribution_cfg"
    cls = resolve_class(role, settings)
    if cls is not None:
        # only the task's own model passes missing arguments to the task's own distribution
        _check_options(role, cls, settings, origins, trusted and _is_registered(role, cls, origins))


def _check_call(path: str, name: object, function: Callable[..., object]) -> None:
    """Raise SpecError if the function called ``name`` does not accept rsl_rl's arguments."""
    try:
        inspect.signature(function).bind(env=None, obs=None, actions=None)
    except (TypeError, ValueError):  # also raised for C functions without a signature
        raise SpecError(
            f"{path}: {shorten(name)} given; allowed: a function of env, obs and actions"
        ) from None


def resolve_class(role: str, settings: Mapping[str, object]) -> type | None:
    """Return the class of a group's ``class_name``, or None if the group has none; ``role`` is a key of `BASES`.

    Raises SpecError if there is no such class, or it does not derive from the role's base.
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
    """Return the class or function called ``name``, a value at ``path``. Raises SpecError if there is none."""
    from rsl_rl.utils import resolve_callable

    try:
        return resolve_callable(make_importable(name))  # type: ignore[arg-type]  # it raises for other types
    except RegistryError as error:
        raise SpecError(f"{path}: {shorten(name)}: {error}") from None
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SpecError(f"{path}: rsl_rl does not find {shorten(name)}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # rsl_rl imports dotted names, whose foreign code may raise anything
        raise SpecError(f"{path}: {shorten(name)} cannot be imported: {format_exception(error)}") from error


def make_importable(name: object) -> object:
    """Load the module or file in ``module:Class`` or ``path/file.py:Class``; return a name that rsl_rl can import.

    Any other ``name`` is returned as it is. Raises RegistryError if the module or file cannot be loaded.
    """
    module, _, attribute = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    return f"{load_module(module).__name__}:{attribute}" if module and module not in sys.modules else name


def _is_set_by_host(path: str, origins: Mapping[str, str]) -> bool:
    """Return whether only the host's configuration sets the value at ``path``."""
    below = [origin for key, origin in origins.items() if key == path or key.startswith(f"{path}.")]
    return bool(below) and all(map(is_host_origin, below))


def _is_registered(role: str, cls: type, origins: Mapping[str, str]) -> bool:
    """Return whether a group has the class that the host registers for the task, and not one of our models in its place."""
    return _is_set_by_host(f"{role}.class_name", origins) and not cls.__module__.startswith("spiky_rl.")


def _check_options(
    role: str, cls: type, settings: dict[str, object], origins: Mapping[str, str], trusted: bool
) -> None:
    """Raise SpecError for unknown or missing arguments of the constructor of a group's class; ``role`` is a key of `BASES`.

    If the host registers this class for the task, it is ``trusted``: its registered options are accepted as they are, and missing
    arguments may be passed by others. Otherwise, unknown options from the host's registration are removed.
    """
    own, accepts_all = _list_arguments(cls)
    unknown = [] if accepts_all else sorted(settings.keys() - {"class_name", *own}, key=list(settings).index)
    for key in unknown:
        if not _is_set_by_host(f"{role}.{key}", origins):
            raise SpecError(
                f"agent.{role}.{key}: {cls.__name__} has no such option; allowed: {', '.join(own) or 'none'}"
            )
    if trusted:
        return
    for key in unknown:
        del settings[key]
    for key, argument in own.items():
        if argument.default is argument.empty and key not in settings:
            raise SpecError(f"agent.{role}.{key}: missing; {cls.__name__} has no default for it")


def _list_arguments(cls: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the arguments of a class's constructor that an agent may set, and whether the constructor takes any keyword."""
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    arguments = {p.name: p for p in named if p.name not in PROVIDED_ARGUMENTS}
    return arguments, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _check_images(
    role: str, cls: type, settings: Mapping[str, object], algorithm: Mapping[str, object]
) -> None:
    """Raise SpecError for a CNN without images, and for shared CNN encoders without CNNs."""
    from rsl_rl.models import CNNModel

    if issubclass(cls, CNNModel):
        if not settings.get("cnn_cfg"):
            raise SpecError(
                f"agent.{role}.class_name: {cls.__name__} needs a task with images, for which Isaac Lab registers cnn_cfg"
            )
    elif algorithm.get("share_cnn_encoders"):
        raise SpecError(
            f"agent.algorithm.share_cnn_encoders: true needs two CNNs, but agent.{role} is a {cls.__name__}; set it to false"
        )
