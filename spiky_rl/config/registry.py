"""Registry of components: every public Python file in a component folder is one entry, named after the file.

A component has three forms of name: ``lif`` (a file of the folder), ``package.module:Class`` (an importable class) and
``path/to/file.py:Class`` (a class in a file on disk). Hosts and learners are packages, found by their folders.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from spiky_rl.config.errors import UnknownKey
from spiky_rl.config.modules import format_exception, load_module
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
"""Kind of component -> folder of its Python files."""

FILE_KINDS = ("agents", "tasks", "spaces", "policies")
"""Kinds with YAML files as entries."""

RENAMED = {("encoders", "beside"): "concat", ("datasets", "own"): "custom"}
"""New name of an entry by its kind and old name; the old name is accepted for one release."""

SINGULAR_NAMES = {"plasticities": "plasticity", "penalties": "penalty"}
"""Singular of a kind, for kinds whose singular is not the kind without its last letter."""

BASE = "base"
"""Name of the file with the base class in every component folder. This file and files with a leading ``_`` are not entries."""


class Component:
    """Base class of everything that an agent file can name. The file may set the declared options and parts."""

    Options: ClassVar[type[Settings]] = Settings
    """Declared options. If there are any, the constructor gets an instance of this class as its first argument."""
    parts: ClassVar[Mapping[str, tuple[str, str | PlainMapping | None]]] = {}
    """Declared parts: key -> (kind, default name or settings). A part with the default None is optional."""
    listed: ClassVar[tuple[str, ...]] = ()
    """Keys of parts that may also be a list of components, such as one neuron per layer."""

    @classmethod
    def from_options(cls, **values: object) -> Self:
        """Build a component without parts, such as a neuron, from option ``values``; other options have their defaults."""
        component: Any = cls
        return component(cls.Options.check(cls.__name__, values))

    of = from_options  # old name, kept for one release

    @classmethod
    def validate(cls, path: str, options: Settings, parts: Mapping[str, Part]) -> None:
        """Raise RegistryError naming ``path`` if options and parts are valid one by one but not together."""


@dataclass(frozen=True)
class ComponentSpec:
    """Checked and complete configuration of a component, ready to build."""

    name: str
    cls: type[Component]
    options: Any
    """Instance of the component's `Component.Options`."""
    parts: Mapping[str, Any]
    """`Part` by key."""

    def build(self, **context: object) -> Any:
        """Build the component. Its constructor gets the options, the parts (not yet built) and ``context``."""
        cls: Any = self.cls
        options = (self.options,) if cls.Options.model_fields else ()
        with wrap_foreign_errors(self.name, f"{self.name!r} cannot be built"):
            return cls(*options, **self.parts, **context)

    def get_parts(self, key: str) -> tuple[ComponentSpec, ...]:
        """Return the components of the part ``key``: none, one or several."""
        part = self.parts[key]
        components = part if isinstance(part, tuple) else (part,)
        return tuple(component for component in components if component is not None)

    def settings(self, for_digest: bool = False) -> dict[str, Any]:
        """Return all settings, defaults included, as plain data that `configure` accepts.

        Args:
            for_digest: Leave out neutral options (see `option`) that have their defaults, and give renamed entries their old names,
                so that earlier results keep their digest.
        """
        values = self.options.model_dump(mode="json")
        if for_digest:
            for key, field in get_options(type(self.options)).items():
                if field.extra.get("neutral") and getattr(self.options, key) == field.default:
                    del values[key]
        parts = {key: _get_part_settings(part, for_digest) for key, part in self.parts.items()}
        name = _OLD_NAMES.get(self.cls.__module__, self.name) if for_digest else self.name
        return {"name": name, **values, **parts}


type Part = ComponentSpec | tuple[ComponentSpec | None, ...] | None
"""Part of a component: None if it is absent, a tuple if the agent file has a list."""


def _get_part_settings(part: Part, for_digest: bool) -> PlainValue:
    if isinstance(part, tuple):
        return [_get_part_settings(element, for_digest) for element in part]
    return None if part is None else part.settings(for_digest)


def find_data_folder(kind: str) -> Path:
    """Return the folder of a ``kind`` of YAML files: inside the installed package, or beside it in a checkout."""
    for folder in (PACKAGE / kind, PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise RegistryError(f"the folder '{kind}' is missing beside the package; install spiky_rl again")


def list_names(kind: str) -> list[str]:
    """Return the names of all entries of a ``kind``, sorted. Only lists files; imports nothing."""
    if kind in FILE_KINDS:
        return sorted(path.stem for path in find_data_folder(kind).glob("*.yaml"))
    if kind not in COMPONENT_KINDS:
        kinds = (*COMPONENT_KINDS, *FILE_KINDS)
        raise RegistryError(
            f"unknown kind {kind!r}; choose from {', '.join(kinds)}{suggest_name(kind, kinds)}"
        )
    return sorted(_list_files(kind))


def _list_files(kind: str) -> dict[str, Path]:
    """Return the file of every entry of a kind by name."""
    package = importlib.import_module(_get_module_name(kind))
    files = {path.stem: path for folder in package.__path__ for path in Path(folder).glob("*.py")}
    return {name: path for name, path in files.items() if name != BASE and name[0] != "_"}


def is_foreign(name: str) -> bool:
    """Return whether ``name`` names a class outside the component folders: ``module:Class`` or ``path/file.py:Class``."""
    return ":" in name


def parse_file(kind: str, name: str) -> ast.Module:
    """Parse the file of a component without importing it."""
    return ast.parse(_list_files(kind)[get_current_name(kind, name)].read_text(encoding="utf-8"))


def _get_module_name(kind: str, name: str = "") -> str:
    return ".".join(filter(None, ("spiky_rl", *COMPONENT_KINDS[kind].split("/"), name)))


_OLD_NAMES = {_get_module_name(kind, new): old for (kind, old), new in RENAMED.items()}
"""Old name of a renamed entry by the name of its module."""


def get_current_name(kind: str, name: str) -> str:
    """Return the current name of the entry ``name``. If ``name`` is an old one in `RENAMED`, a warning is logged once."""
    new = RENAMED.get((kind, name))
    if new is None or name in list_names(kind):
        return name
    _log_rename(kind, name, new)
    return new


def is_same_entry(first: object, second: object) -> bool:
    """Return whether two values name the same component: they are equal, or are the old and the new name in `RENAMED`."""
    if first == second:
        return True
    if not (isinstance(first, str) and isinstance(second, str)):
        return False
    # the kind of the component is not known here
    return any(get_current_name(kind, first) == get_current_name(kind, second) for kind, _ in RENAMED)


@cache
def _log_rename(kind: str, old: str, new: str) -> None:
    log.warning("%s %r is called %r now; write the new name", _get_singular(kind), old, new)


def _get_singular(kind: str) -> str:
    return SINGULAR_NAMES.get(kind, kind[:-1])


def read_summary(kind: str, name: str) -> str:
    """Return the first line of a component's module docstring without importing the module."""
    return (ast.get_docstring(parse_file(kind, name)) or "").partition("\n")[0]


def read_options(kind: str, name: str) -> list[str]:
    """Return the names of the options in a component's own file, without importing it."""
    return [
        field.target.id
        for node in ast.walk(parse_file(kind, name))
        if isinstance(node, ast.ClassDef) and node.name == "Options"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]


def read_parts(kind: str, name: str) -> dict[str, tuple[str, Any]]:
    """Return `Component.parts` from a component's file, without importing it."""
    for cls in parse_file(kind, name).body:
        for node in cls.body if isinstance(cls, ast.ClassDef) else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "parts":
                return ast.literal_eval(node.value)
    return {}


def resolve(kind: str, name: str) -> type[Component]:
    """Return the component class for ``name`` (any of the three forms). Raises RegistryError naming the nearest entry."""
    if is_foreign(name):
        # the name may mean another class than before: in another working folder, or redefined in a notebook
        return _resolve_foreign(kind, name)
    return _resolve_entry(kind, get_current_name(kind, name))


@cache
def _resolve_entry(kind: str, name: str) -> type[Component]:
    """Return the component class of the package's entry ``name``."""
    _require_known(kind, name)
    module, base = importlib.import_module(_get_module_name(kind, name)), _get_base_class(kind)
    classes = [cls for cls in list_defined_classes(module) if issubclass(cls, base)]
    return _get_single_class(module, classes, base)


def _resolve_foreign(kind: str, name: str) -> type[Component]:
    """Return the class for ``name`` outside the package, ``module:Class`` or ``path/file.py:Class``."""
    target, _, attribute = name.rpartition(":")
    try:
        module = load_module(target)
    except RegistryError as error:
        raise RegistryError(f"{name!r}: {error}") from error.__cause__
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if key[0] != "_"]
        raise RegistryError(f"{name!r}: {target} has no {attribute!r}{suggest_name(attribute, public)}")
    cls = getattr(module, attribute)
    _check_class(name, cls, kind)
    _check_declarations(name, cls)
    return cls


def _check_class(name: str, cls: object, kind: str) -> None:
    """Raise RegistryError if ``cls``, given as ``name``, is not a complete class of a ``kind``."""
    base = _get_base_class(kind)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise RegistryError(
            f"{name!r} is not of kind {kind}: it does not derive from {base.__module__}:{base.__name__}"
        )
    # components are plain classes, not ABCs, so Python does not check this itself
    members = {key: inspect.getattr_static(cls, key, None) for key in dir(cls)}
    if missing := [key for key, member in members.items() if getattr(member, "__isabstractmethod__", False)]:
        raise RegistryError(
            f"{name!r} is incomplete: it does not define {', '.join(missing)}; see {base.__module__}:{base.__name__}"
        )


def configure(kind: str, settings: PlainValue, path: str) -> ComponentSpec:
    """Check the settings of a component and complete them with defaults.

    Args:
        kind: One of `COMPONENT_KINDS`.
        settings: A name such as ``lif``, or a mapping such as ``{name: lif, tau: 5.0}``.
        path: Path of the settings in the agent, for messages.

    Raises:
        RegistryError: Unknown name or option, wrong type, or value out of range.
    """
    mapping = normalize_settings(kind, settings, path)
    name = mapping.get("name")
    if not isinstance(name, str):
        raise RegistryError(f"{path}.name: name one of {', '.join(list_names(kind))}")
    try:
        cls = resolve(kind, name)
    except RegistryError as error:
        raise RegistryError(f"{path}.name: {error}") from None
    known = (*get_options(cls.Options), *cls.parts)
    for key in mapping:
        if key != "name" and key not in known:
            raise UnknownKey(f"{path}.{key}: {name!r} has no such option", f"{path}.{key}", known)
    values = {key: value for key, value in mapping.items() if key != "name" and key not in cls.parts}
    with wrap_foreign_errors(name, f"{path}: {name!r} cannot be checked"):
        options = cls.Options.check(path, values)
        parts = _configure_parts(cls, mapping, path)
        cls.validate(path, options, parts)
    return ComponentSpec(name, cls, options, parts)


def _configure_parts(cls: type[Component], mapping: PlainMapping, path: str) -> dict[str, Part]:
    """Return the parts of a component ``cls`` with the settings ``mapping``; a key of `Component.listed` may give one per layer."""
    parts: dict[str, Part] = {}
    for key, (kind, default) in cls.parts.items():
        settings, part_path = mapping.get(key, default), f"{path}.{key}"
        if isinstance(settings, list | tuple) and key in cls.listed:
            parts[key] = tuple(
                _configure_part(kind, element, default, f"{part_path}[{i}]")
                for i, element in enumerate(settings)
            )
        else:
            parts[key] = _configure_part(kind, settings, default, part_path)
    return parts


def _configure_part(
    kind: str, settings: PlainValue, default: str | PlainMapping | None, path: str
) -> ComponentSpec | None:
    """Check the settings of a part; None if an optional part is absent."""
    if settings is None and default is None:
        return None
    return configure(kind, merge_default(settings, default), path)


def merge_default(settings: PlainValue, default: str | PlainMapping | None) -> PlainValue:
    """Return a part's ``settings``; if they are options without a name, merged over the part's ``default``."""
    if not isinstance(settings, Mapping) or "name" in settings or default is None:
        return settings
    return {**({"name": default} if isinstance(default, str) else default), **settings}


@contextmanager
def wrap_foreign_errors(name: str, fault: str) -> Iterator[None]:
    """Turn an exception of the block into a RegistryError that begins with ``fault``, if the component ``name`` is from outside the package."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not is_foreign(name):
            raise
        raise RegistryError(f"{fault}: {format_exception(error)}") from error


def normalize_settings(kind: str, settings: PlainValue, path: str) -> PlainMapping:
    """Return ``settings`` (a name, or a mapping with a name) as a mapping; an old name becomes the current one. Imports nothing.

    Raises RegistryError naming ``path`` if they are neither, or if the package has no such component.
    """
    mapping = {"name": settings} if isinstance(settings, str) else settings
    if not isinstance(mapping, Mapping):
        raise RegistryError(f"{path}: expected a name or a mapping, got {shorten(settings)}")
    name = mapping.get("name")
    if isinstance(name, str) and not is_foreign(name):
        if (new := get_current_name(kind, name)) != name:
            mapping, name = {**mapping, "name": new}, new
        try:
            _require_known(kind, name)
        except RegistryError as error:
            raise RegistryError(f"{path}.name: {error}") from None
    return mapping


def _require_known(kind: str, name: str) -> None:
    known = list_names(kind)
    if name not in known:
        hint = f"; of a file: {name}:CLASS" if name.endswith(".py") else suggest_name(name, known)
        raise RegistryError(f"unknown {_get_singular(kind)} {name!r}; known: {', '.join(known)}{hint}")


def list_defined_classes(module: ModuleType) -> list[type]:
    """Return the public classes that a module defines itself."""
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
    """Return the only element of ``classes``. Raises RegistryError if there is none or more than one."""
    if len(classes) == 1:
        return classes[0]
    names = " and ".join(cls.__name__ for cls in classes) or "none"
    raise RegistryError(
        f"{module.__file__} defines {names}; it must define one public class that derives from"
        f" {base.__module__}:{base.__name__}; give helper classes a leading '_', or move them to another file"
    )


def _check_declarations(name: str, cls: type[Component]) -> None:
    """Raise RegistryError if a class from outside the package does not declare options and parts as `Component` requires."""
    is_old_form = isinstance(vars(cls).get("options"), Mapping)  # an earlier release had options = {key: ...}
    is_declared = inspect.isclass(cls.Options) and issubclass(cls.Options, Settings)
    if is_old_form or not is_declared or not all(f.description for f in cls.Options.model_fields.values()):
        raise RegistryError(
            f"{name!r}: its options are not declared; write class Options(Settings) with fields"
            f" key: type = option(default, description); see {Settings.__module__}"
        )
    if not isinstance(cls.parts, Mapping) or not all(map(_is_part, cls.parts.values())):
        raise RegistryError(
            f"{name!r}: its parts are not a mapping of keys to (kind, default); kinds: {', '.join(COMPONENT_KINDS)}"
        )


def _is_part(declared: object) -> bool:
    """Return whether ``declared`` is a part's (kind, default)."""
    return isinstance(declared, tuple) and len(declared) == 2 and declared[0] in COMPONENT_KINDS


@cache
def _get_base_class(kind: str) -> type[Component]:
    """Return the base class of a component kind, defined in its ``base.py``."""
    module = importlib.import_module(_get_module_name(kind, BASE))
    bases = [
        cls
        for cls in list_defined_classes(module)
        if issubclass(cls, Component) and Component in cls.__bases__
    ]
    return _get_single_class(module, bases, Component)


@cache
def list_packages(kind: str) -> tuple[str, ...]:
    """Return the names of all packages of a ``kind``, ``hosts`` or ``learners``, sorted, without importing them.

    A package counts if it has a module of the kind's name in the singular, such as ``learners/rsl_rl/learner.py``.
    """
    return tuple(sorted(path.parent.name for path in (PACKAGE / kind).glob(f"*/{kind[:-1]}.py")))


@cache
def load_package(kind: str, name: str) -> Any:
    """Import the package ``name`` of a ``kind`` and return its object, such as ``LEARNER`` of ``learners/rsl_rl/learner.py``."""
    module = importlib.import_module(f"spiky_rl.{kind}.{name}.{kind[:-1]}")
    return getattr(module, kind[:-1].upper())
