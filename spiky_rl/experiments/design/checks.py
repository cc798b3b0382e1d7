"""Checks of what result files hold: each names the path of a value, the value and what it ought to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config.registry import UserError, nearest

LARGEST = 1e100
"""Largest number that somebody can have measured: its square is finite too."""

Check = Callable[[str, Any], None]


class ResultsError(UserError):
    """A study's folder that says nothing, or a file whose content is not what it has to be."""


def expects(what: str, fits: Callable[[Any], bool], each: Check | None = None) -> Check:
    """A check that names the path and the value; ``each`` is that of a list's elements, or of a mapping's values."""

    def check(path: str, value: Any) -> None:
        if not fits(value):
            raise ResultsError(f"{path}: expected {what}, got {value!r}")
        if each is not None:
            for key, element in value.items() if isinstance(value, dict) else enumerate(value):
                each(f"{path}.{key}", element)

    return check


def is_number(value: Any) -> bool:
    """Whether it is a finite one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_name(value: Any) -> bool:
    """Whether it is a plain name of a file or folder, which leads nowhere else."""
    return (
        isinstance(value, str) and Path(value).name == value and value not in ("", "..") and "\0" not in value
    )


anything: Check = expects("anything", lambda value: True)
text: Check = expects("text", lambda value: isinstance(value, str))
number: Check = expects("a finite number", is_number)
whole: Check = expects("a whole number", lambda value: isinstance(value, int) and is_number(value))


def rows(each: Check) -> Check:
    """A check of every element of a list."""
    return expects("a list", lambda value: isinstance(value, list), each)


def table(each: Check) -> Check:
    """A check of every value of a mapping, whose keys may be any."""
    return expects("a mapping", lambda value: isinstance(value, dict), each)


def optional(check: Check) -> Check:
    """A check that lets null pass."""
    return lambda path, value: None if value is None else check(path, value)


def record(fields: Mapping[str, Check], later: Mapping[str, Check] | None = None) -> Check:
    """A check of a mapping that has at least these keys, and may have those that came ``later``."""

    def checked(path: str, value: Any) -> None:
        table(anything)(path, value)
        if missing := [key for key in fields if key not in value]:
            others = [key for key in value if key not in fields]
            raise ResultsError(f"{path}: missing {', '.join(missing)}{nearest(missing[0], others)}")
        for key, check in {**fields, **(later or {})}.items():
            if key in value:
                check(f"{path}.{key}" if path else key, value[key])

    return checked
