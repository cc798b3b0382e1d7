"""Flags from fields: what settings declare with `option` is what a command takes, and what its help says.

A field is a flag of its own name, or of those that it declares as ``flags``: one without dashes is positional, and where
there are none, the field is no flag.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config.arguments import number_type
from spiky_rl.config.options import OptionInfo, RegistryError, Settings, UserError, get_options

DEFAULT_SEPARATOR = re.compile(r"; (?:null|empty): ")
"""How a field's meaning says what holds where it has no value."""
CHECKPOINT_FLAGS: dict[str, Any] = {
    "without": ("distributed", "max_iterations"),
    "checkpoint": "latest",
    "verbose": True,
}
"""How a parser takes what asks for a trained policy."""
SHOWN_DEFAULT_TYPES = int | float | str | tuple | Path
"""Types of defaults that a help names, where they are not empty and no switch's."""


def add_flags(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    optional: bool = False,
    **defaults: object,
) -> None:
    """Add a flag for every field of some settings; one that is not given is left to its field's default.

    Args:
        parser: Takes the flags.
        settings: Declare the fields.
        only: Names of the fields that are flags here; empty: all.
        without: Names of those that are not.
        optional: Whether no flag must be given, although its field has no default.
        defaults: The command's own, by name, in the place of the fields'.
    """
    for key, field in get_options(settings).items():
        names = field.extra.get("flags", [f"--{key}"])
        if names and key not in without and (not only or key in only):
            arguments = _build_argument(key, field, defaults)
            if names[0].startswith("-"):
                required = settings.model_fields[key].is_required() and not optional
                arguments |= {"dest": key, "required": required}
            else:
                arguments |= {"nargs": "*", "default": None}
            parser.add_argument(*names, **arguments)


def get_given_values(settings: type[Settings], args: argparse.Namespace) -> dict[str, Any]:
    """Values in ``args`` of the fields of ``settings``, by name; only of flags that are given."""
    return {key: getattr(args, key) for key in settings.model_fields if hasattr(args, key)}


def parse_settings[Asked: Settings](settings: type[Asked], args: argparse.Namespace, **more: object) -> Asked:
    """The ``settings`` that ``args`` ask for, with ``more`` that is no flag. Raises UserError that names the flag."""
    try:
        return settings.check("", {**get_given_values(settings, args), **more})
    except RegistryError as error:
        raise UserError(f"--{error}") from None


def _build_argument(key: str, field: OptionInfo, defaults: Mapping[str, object]) -> dict[str, Any]:
    """What ``add_argument`` gets for a field, whatever it is called."""
    own, shown = key in defaults, field.default
    meaning = DEFAULT_SEPARATOR.split(field.meaning)
    text = meaning[0] if own else "; default: ".join(meaning)
    if not own and isinstance(shown, SHOWN_DEFAULT_TYPES) and shown is not False and shown not in ("", ()):
        text += f" (default: {','.join(map(str, shown)) if isinstance(shown, tuple) else shown})"
    arguments: dict[str, Any] = {"help": text.replace("%", "%%")}
    arguments["default"] = defaults[key] if own else argparse.SUPPRESS
    if field.kind is bool:
        return arguments | {"action": argparse.BooleanOptionalAction if shown else "store_true"}
    if field.choices:
        return arguments | {"choices": field.choices}
    if metavar := field.extra.get("metavar", "A,B" if field.many else None):
        arguments["metavar"] = metavar
    if field.many:  # a text with commas, which the settings read
        return arguments
    if field.kind in (int, float):
        return arguments | {"type": number_type(field.kind, **field.limits)}
    return arguments | ({"type": Path} if field.kind is Path else {})
