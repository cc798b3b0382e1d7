"""Guard for code named in a file, such as the specification in a checkpoint: it runs only if the user names it too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from spiky_rl.config.options import RegistryError, UserError

PACKAGE = "spiky_rl"
PYTHON_NAMES = ("class_name", "data_augmentation_func")
"""Keys with an importable value, written with a dot or a colon before the class."""


def find_code(tree: object, packages: Collection[str] = ()) -> list[str]:
    """Return all names of code outside this package in nested plain data.

    Their forms are ``module:Class``, ``path/file.py:Class`` and ``module.Class``. ``packages`` are further trusted packages, such
    as those of a host.
    """
    allowed = {PACKAGE, *packages}
    return [name for key, name in _list_texts("", tree) if _is_code(key, name, allowed)]


def require_no_code(path: str, tree: object) -> None:
    """Raise RegistryError if the nested plain data at ``path`` of a file name code, which `find_code` finds."""
    if names := find_code(tree):
        raise RegistryError(f"{path}: {names[0]} names code; allowed: components of the package")


def check_code_is_named(
    file: object, spec: object, named: Collection[str], remedy: str, packages: Collection[str] = ()
) -> None:
    """Raise UserError if the content ``spec`` of a ``file`` names code that the user does not name.

    ``named`` are all texts from the user: flags, overrides, values of an agent file. ``remedy`` is the end of the message, which says how to
    name the code; for ``packages`` see `find_code`.
    """
    if missing := [repr(name) for name in dict.fromkeys(find_code(spec, packages)) if name not in named]:
        raise UserError(f"{file}: its run used the code {', '.join(missing)}; {remedy}")


def list_texts(tree: object) -> list[str]:
    """Return all strings in nested plain data."""
    return [text for _, text in _list_texts("", tree)]


def _is_code(key: str, name: str, packages: Collection[str]) -> bool:
    target, _, _ = name.rpartition(":")
    if not target and key in PYTHON_NAMES:
        target, _, _ = name.rpartition(".")
    return bool(target) and (target.endswith(".py") or target.partition(".")[0] not in packages)


def _list_texts(key: str, tree: object) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for all strings in ``tree``; ``key`` is the key of ``tree`` itself."""
    if isinstance(tree, Mapping):
        for below, value in tree.items():
            yield from _list_texts(str(below), value)
    elif isinstance(tree, list | tuple | set | frozenset):
        for value in tree:
            yield from _list_texts(key, value)
    elif isinstance(tree, str):
        yield key, tree
