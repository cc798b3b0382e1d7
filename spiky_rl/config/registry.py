"""A file name is the registry entry: every public file in a room is a component, and nothing needs to be listed twice.

Names come in three forms, everywhere: ``lif`` (a file of the room), ``package.module:Class`` (anything importable)
and ``path/to/file.py:Class`` (anything on disk).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from spiky_rl.config.errors import UnknownKey, message_of
from spiky_rl.config.options import RegistryError, Settings, UserError, get_options, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]

COMPONENT_KINDS = {
    "neurons": "neurons",
    "surrogates": "surrogates",
    "encoders": "codecs/encoders",
    "decoders": "codecs/decoders",
    "connections": "connections",
    "graphs": "reservoirs/graphs",
    "plasticities": "reservoirs/plasticity",
    "rules": "learning",
    "penalties": "penalties",
    "networks": "networks",
    "targets": "deploy",
    "backends": "kernels/backends",
    "datasets": "datasets",
}
"""Kinds whose entries are Python files, and the room that holds them."""

FILE_KINDS = ("agents", "tasks", "spaces")
"""Kinds whose entries are YAML files."""

RENAMED = {("encoders", "beside"): "concat", ("datasets", "own"): "custom"}
"""New name of an entry by its kind and old name; the old name is accepted for one release."""

SINGULAR_NAMES = {"plasticities": "plasticity", "penalties": "penalty"}
"""Kinds whose singular is not the word without its last letter."""

BASE = "base"
"""The file of every room that says what its entries are; it and files whose names begin with ``_`` are no entries."""


class Component:
    """Anything that an agent names. What is declared in it is what the agent may set."""

    Options: ClassVar[type[Settings]] = Settings
    """Its values, each with type, default, meaning and range; one that has any gets them as its constructor's first argument."""
    parts: ClassVar[Mapping[str, tuple[str, str | PlainMapping | None]]] = {}
    """Its components: key -> (kind, the default: a name or settings); a part without a default may be absent."""
    listed: ClassVar[tuple[str, ...]] = ()
    """Keys of parts that may also be a list of components: one for each of whatever the component has several of."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Old name -> name of a member; for one release a class may define it under the old one."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in cls.renamed.items():
            if old in vars(cls) and new not in vars(cls):
                setattr(cls, new, vars(cls)[old])

    @classmethod
    def from_options(cls, **values: object) -> Self:
        """A component that needs nothing but options, such as a neuron: with these ``values``, the others at their defaults."""
        component: Any = cls
        return component(cls.Options.check(cls.__name__, values))

    of = from_options  # the old name, for one release

    @classmethod
    def validate(cls, path: str, options: Settings, parts: Mapping[str, Part]) -> None:
        """Raise RegistryError for options and parts that are well configured but not what this component can take.

        Args:
            path: Where the component stands in the agent, for messages.
            options: Its `Options`.
            parts: Its parts by key, each ready to be built.
        """


@dataclass(frozen=True)
class ComponentSpec:
    """A component's class with the complete, checked settings it is to be built from."""

    name: str
    cls: type[Component]
    options: Any
    """Its `Component.Options`."""
    parts: Mapping[str, Any]
    """A `Part` each."""

    def build(self, **context: object) -> Any:
        """The instance; ``context`` goes to its constructor as it is, and its parts go there unbuilt."""
        cls: Any = self.cls
        options = (self.options,) if cls.Options.model_fields else ()
        try:
            return cls(*options, **self.parts, **context)
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if ":" not in self.name:
                raise
            raise RegistryError(f"{self.name!r} cannot be built: {format_exception(error)}") from error

    def get_parts(self, key: str) -> tuple[ComponentSpec, ...]:
        """The components that the part ``key`` consists of: one, several or none."""
        part = self.parts[key]
        return tuple(each for each in (part if isinstance(part, tuple) else (part,)) if each is not None)

    def settings(self, neutral: bool = True) -> dict[str, Any]:
        """Everything as plain data, defaults included: what YAML holds and `configure` accepts.

        Args:
            neutral: With options that were added later and whose values change nothing.
        """
        values = self.options.model_dump(mode="json")
        for key, field in get_options(type(self.options)).items() if not neutral else ():
            if field.extra.get("neutral") and getattr(self.options, key) == field.default:
                del values[key]
        parts = {key: _settings(part, neutral) for key, part in self.parts.items()}
        # digests of specifications keep the old name, so that results of before the rename are found again
        name = self.name if neutral else _OLD_NAMES.get(self.cls.__module__, self.name)
        return {"name": name, **values, **parts}


type Part = ComponentSpec | tuple[ComponentSpec | None, ...] | None
"""A component's part; None for one that is absent, a tuple for a list."""


def _settings(part: Part, neutral: bool) -> PlainValue:
    if isinstance(part, tuple):
        return [_settings(element, neutral) for element in part]
    return None if part is None else part.settings(neutral)


def data_dir(kind: str) -> Path:
    """The folder of a ``kind`` of YAML files: inside an installed package, beside it in a checkout."""
    for folder in (PACKAGE / kind, PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise RegistryError(f"the folder '{kind}' is missing beside the package; install spiky_rl again")


def list_names(kind: str) -> list[str]:
    """All entries of a ``kind``, sorted. Reads file names only."""
    if kind in FILE_KINDS:
        return sorted(path.stem for path in data_dir(kind).glob("*.yaml"))
    if kind not in COMPONENT_KINDS:
        raise RegistryError(
            f"unknown kind {kind!r}; choose from {', '.join((*COMPONENT_KINDS, *FILE_KINDS))}{suggest_name(kind, (*COMPONENT_KINDS, *FILE_KINDS))}"
        )
    return sorted(_files(kind))


def _files(kind: str) -> dict[str, Path]:
    """Every entry of a room with its file: of all folders on the path of the room's package."""
    package = importlib.import_module(_module(kind))
    files = {path.stem: path for folder in package.__path__ for path in Path(folder).glob("*.py")}
    return {name: path for name, path in files.items() if name != BASE and name[0] != "_"}


def parse_file(kind: str, name: str) -> ast.Module:
    """The syntax tree of the entry ``name`` of a ``kind`` in a room, which is not imported."""
    return ast.parse(_files(kind)[name].read_text(encoding="utf-8"))


def _module(kind: str, name: str = "") -> str:
    """What Python imports a room, or a file of it, by."""
    return ".".join(filter(None, ("spiky_rl", *COMPONENT_KINDS[kind].split("/"), name)))


_OLD_NAMES = {_module(kind, new): old for (kind, old), new in RENAMED.items()}


def update_name(kind: str, name: str) -> str:
    """Return the present name of the entry ``name``: of an old name in `RENAMED` the new one, which is logged once."""
    new = RENAMED.get((kind, name))
    if new is None or name in list_names(kind):
        return name
    _log_rename(kind, name, new)
    return new


@cache
def _log_rename(kind: str, old: str, new: str) -> None:
    log.warning("%s %r is called %r now; write the new name", SINGULAR_NAMES.get(kind, kind[:-1]), old, new)


def summary(kind: str, name: str) -> str:
    """First docstring line of the entry ``name`` of a ``kind`` in a room, read without importing it."""
    return (ast.get_docstring(parse_file(kind, name)) or "").partition("\n")[0]


@cache
def resolve(kind: str, name: str) -> type[Component]:
    """The class that ``name`` stands for, of that ``kind``. Raises RegistryError that names the nearest entry."""
    name = update_name(kind, name)
    target, _, attribute = name.rpartition(":")
    if target:
        try:
            module = load_module(target)
        except RegistryError as error:
            raise RegistryError(f"{name!r}: {error}") from error.__cause__
        if not hasattr(module, attribute):
            public = [key for key in vars(module) if key[0] != "_"]
            raise RegistryError(f"{name!r}: {target} has no {attribute!r}{suggest_name(attribute, public)}")
        cls = getattr(module, attribute)
        base = _get_base_class(kind)
        if not (inspect.isclass(cls) and issubclass(cls, base)):
            raise RegistryError(
                f"{name!r} is no entry of {kind}: it does not derive from {base.__module__}:{base.__name__}"
            )
        if missing := [key for key in dir(cls) if _list_abstract_methods(cls, key)]:
            raise RegistryError(
                f"{name!r} is not whole: it does not define {', '.join(missing)}; see {base.__module__}:{base.__name__}"
            )
        _check_declarations(name, cls)
        return cls
    _require_known(kind, name)
    module = importlib.import_module(_module(kind, name))
    return _get_single_class(
        module,
        [cls for cls in _list_defined_classes(module) if issubclass(cls, _get_base_class(kind))],
        _get_base_class(kind),
    )


def configure(kind: str, settings: PlainValue, path: str) -> ComponentSpec:
    """A component's settings, completed with defaults and checked.

    Args:
        kind: One of `COMPONENT_KINDS`.
        settings: Such as ``{name: lif, tau: 5.0}``, or just ``lif``.
        path: Where they stand, for messages.

    Raises RegistryError for an unknown name or option and for a value of the wrong type or out of range.
    """
    tree = check_name(kind, settings, path)
    name = tree.get("name")
    if not isinstance(name, str):
        raise RegistryError(f"{path}.name: name one of {', '.join(list_names(kind))}")
    try:
        cls = resolve(kind, name)
    except RegistryError as error:
        raise RegistryError(f"{path}.name: {error}") from None
    known = ("name", *get_options(cls.Options), *cls.parts)
    for key in tree:
        if key not in known:
            raise UnknownKey(f"{path}.{key}: {name!r} has no such option", f"{path}.{key}", known[1:])
    with wrap_foreign_errors(path, name):
        options = cls.Options.check(
            path, {key: value for key, value in tree.items() if key != "name" and key not in cls.parts}
        )
    parts: dict[str, Part] = {}
    for key, (part_kind, default) in cls.parts.items():
        given, place = tree.get(key, default), f"{path}.{key}"
        if given is None and default is None:
            parts[key] = None
        elif isinstance(given, list | tuple) and key in cls.listed:
            parts[key] = tuple(
                (
                    None
                    if element is None and default is None
                    else configure(part_kind, _merge_part_settings(element, default), f"{place}[{i}]")
                )
                for i, element in enumerate(given)
            )
        else:
            parts[key] = configure(part_kind, _merge_part_settings(given, default), place)
    with wrap_foreign_errors(path, name):
        cls.validate(path, options, parts)
    return ComponentSpec(name, cls, options, parts)


@contextmanager
def wrap_foreign_errors(path: str, name: str) -> Iterator[None]:
    """Turn whatever a component of someone else's, called ``name`` at ``path``, raises while it is checked into one line."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if ":" not in name:
            raise
        raise RegistryError(f"{path}: {name!r} cannot be checked: {format_exception(error)}") from error


def check_name(kind: str, settings: PlainValue, path: str) -> PlainMapping:
    """The ``settings`` of a ``kind`` at ``path``, a name or a mapping with one, as a mapping. Imports and executes nothing.

    Raises RegistryError for what are no component's settings, and for a component that the package does not have.
    """
    tree = {"name": settings} if isinstance(settings, str) else settings
    if not isinstance(tree, Mapping):
        raise RegistryError(f"{path}: expected a name or a mapping, got {shorten(settings)}")
    name = tree.get("name")
    if isinstance(name, str) and ":" not in name:
        if (new := update_name(kind, name)) != name:
            tree, name = {**tree, "name": new}, new
        try:
            _require_known(kind, name)
        except RegistryError as error:
            raise RegistryError(f"{path}.name: {error}") from None
    return tree


def _require_known(kind: str, name: str) -> None:
    if name not in list_names(kind):
        raise RegistryError(
            f"unknown {SINGULAR_NAMES.get(kind, kind[:-1])} {name!r}; known: {', '.join(list_names(kind))}{suggest_name(name, list_names(kind))}"
        )


def _merge_part_settings(settings: PlainValue, default: str | PlainMapping | None) -> PlainValue:
    """A part's settings; those that name no component are the default's, over its own."""
    if not isinstance(settings, Mapping) or default is None or "name" in settings:
        return settings
    return {**({"name": default} if isinstance(default, str) else default), **settings}


def _list_defined_classes(module: ModuleType) -> list[type]:
    """The public classes that a module defines, as opposed to those it imports."""
    return [
        cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls)
        and cls.__module__ == module.__name__
        and name == cls.__name__
        and name[0] != "_"
    ]


def _get_single_class(
    module: ModuleType, classes: list[type[Component]], base: type[Component]
) -> type[Component]:
    """The one class of a file. Raises RegistryError where there is none or more than one."""
    if len(classes) == 1:
        return classes[0]
    there = " and ".join(cls.__name__ for cls in classes) or "none"
    raise RegistryError(
        f"{module.__file__} defines {there}, and must define one public class that derives from"
        f" {base.__module__}:{base.__name__}; a helper's name begins with '_', or it lives in a file of its own"
    )


def _check_declarations(name: str, cls: type[Component]) -> None:
    """Refuse a class from outside the package whose options or parts are not declared as ours are."""
    old = isinstance(vars(cls).get("options"), Mapping)
    own = inspect.isclass(cls.Options) and issubclass(cls.Options, Settings)
    if old or not own or not all(field.description for field in cls.Options.model_fields.values()):
        raise RegistryError(
            f"{name!r}: its options are not declared as {Settings.__module__} has it: class Options(Settings), and in it"
            " key: type = option(default, meaning)"
        )
    fine = isinstance(cls.parts, Mapping) and all(
        isinstance(part, tuple) and len(part) == 2 and part[0] in COMPONENT_KINDS
        for part in cls.parts.values()
    )
    if not fine:
        raise RegistryError(
            f"{name!r}: its parts are no mapping of names to (kind, default), kind one of {', '.join(COMPONENT_KINDS)}"
        )


def _list_abstract_methods(cls: type, key: str) -> bool:
    # components are no ABCs: torch.nn.Module would have to be one
    return getattr(inspect.getattr_static(cls, key, None), "__isabstractmethod__", False)


@cache
def _get_base_class(kind: str) -> type[Component]:
    """What every entry of a kind derives from: the one component of its room's ``base.py`` that derives from nothing else of ours."""
    module = importlib.import_module(_module(kind, BASE))
    bases = [
        cls
        for cls in _list_defined_classes(module)
        if issubclass(cls, Component) and Component in cls.__bases__
    ]
    return _get_single_class(module, bases, Component)


def load_module(target: str) -> ModuleType:
    """The module ``target``, or in that ``.py`` file. Raises RegistryError in one line, whatever importing it does."""
    if target.endswith(".py"):
        return _load_file(Path(target))
    if target.startswith("."):
        raise RegistryError(
            f"{target!r} is a relative name; write the whole name of the module, as Python imports it"
        )
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        raise RegistryError(f"there is no module {error.name!r}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RegistryError(f"the module {target!r} cannot be imported: {format_exception(error)}") from error


def format_exception(error: BaseException, file: str | None = None) -> str:
    """Where and how code that is not ours went wrong, which raised ``error``; in one line.

    The line number that it names is that of ``file``, or of what raised it.
    """
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    frame = next((f for f in frames if file is None or os.path.abspath(file) == f.filename), None)
    text = f"{type(error).__name__}: {message_of(error)}"
    if isinstance(error, SystemExit):
        text = f"it ends the program (exit code {error.code}), which a component may not"
    where = f"{file or frame.filename}, line {frame.lineno}: " if frame else f"{file}: " if file else ""
    return where + " ".join(text.split())


def _load_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise RegistryError(f"there is no file {shorten(str(path))}")
    key = f"spiky_rl_file_{path.resolve()}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(key, None)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise RegistryError(format_exception(error, str(path))) from error
    return sys.modules[key]
