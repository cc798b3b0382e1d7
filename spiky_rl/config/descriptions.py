"""Descriptions of the registry's entries for people: one line, a text, the options."""

from __future__ import annotations

import sys

from spiky_rl.config import registry
from spiky_rl.config.options import get_options
from spiky_rl.config.plain_data import PlainValue
from spiky_rl.config.spec import read_yaml


def get_summary(kind: str, name: str) -> str:
    """One line that describes an entry.

    Args:
        kind: Kind of components, or of files such as agents.
        name: The entry's.
    """
    if kind in registry.FILE_KINDS:
        return str(read_yaml(registry.data_dir(kind) / f"{name}.yaml").get("summary", ""))
    return registry.summary(kind, name)


def get_text(cls: type[registry.Component]) -> str:
    """The text of the file of a component ``cls``, or its own."""
    return (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip()


def list_option_rows(cls: type[registry.Component]) -> list[tuple[str, str, str, str]]:
    """The options and parts of a component ``cls``: of each its name, default, what is allowed, and what it means."""
    rows = []
    for key, option in get_options(cls.Options).items():
        unit = "" if option.unit == "1" else option.unit
        rows.append(
            (key, f"{format_value(option.default)} {unit}".strip(), option.format_allowed, option.meaning)
        )
    parts = cls.parts.items()
    return rows + [
        (key, _format_part(part), f"one of show.py {kind}", "component") for key, (kind, part) in parts
    ]


def format_value(value: object) -> str:
    """The ``value`` as a table shows it: a list without brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _format_part(default: PlainValue) -> str:
    """The default of a part, as an agent would write it."""
    if isinstance(default, dict):
        return f"{{{', '.join(f'{key}: {value}' for key, value in default.items())}}}"
    return str(default) if default else "none"
