"""Declarations of options (type, default, range, unit, description) on top of pydantic, with errors of one line."""

from __future__ import annotations

import operator
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic.config import JsonValue
from pydantic.fields import FieldInfo

from spiky_rl.config.errors import (  # pylint: disable=unused-import
    RegistryError,
    UnknownKey,
    UserError,  # noqa: F401
    shorten,
    suggest_name,
)

type Metadata = JsonValue
"""Value of a field's further metadata."""
LARGEST_INTEGER = 2**63 - 1
"""Largest signed integer of 64 bits, the type of torch's and the simulators' counters."""
LARGEST_FLOAT = 3.4e38
"""Largest float of 32 bits, the type that networks compute with."""
EXPECTED = {
    "float_type": ("a number", "numbers"),
    "int_type": ("a whole number", "whole numbers"),
    "string_type": ("text", "names"),
    "bool_type": ("true or false", "true or false"),
    "tuple_type": ("a list", "lists"),
    "list_type": ("a list", "lists"),
    "dict_type": ("a mapping", "mappings"),
    "mapping_type": ("a mapping", "mappings"),
    "model_type": ("a mapping", "mappings"),
}
"""pydantic's type of error -> the expected type in words: for a single value, and for the elements of a list."""
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
"""pydantic's types of errors for a key that no field has."""
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""pydantic's types of errors for a number beyond a bound."""
WRONG_LENGTH = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
"""pydantic's type of error for a list of a wrong length -> its bound in words and in the error's context."""


@contextmanager
def error_path(path: str) -> Iterator[None]:
    """Prefix every RegistryError of the block with ``path``, such as ``agent.network``, unless it is empty."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}" if path else str(error)) from None


def option(
    default: object,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
    max_length: int | None = None,
    neutral: bool = False,
    **extra: Metadata,
) -> Any:
    """Declare a field of `Settings`.

    Args:
        default: Default value; ``...`` if the field is required.
        description: One noun phrase for help, schema and documentation.
        low: Inclusive lower bound.
        high: Inclusive upper bound.
        above: Exclusive lower bound.
        below: Exclusive upper bound.
        unit: Unit of the number; ``1`` for a dimensionless number.
        max_length: Maximum number of elements of a list.
        neutral: Leave the option out of digests of specifications while it has its default. For an option that was added
            later: with its default the component computes the same as before, so earlier results keep their digest.
        extra: Further metadata. For command-line flags: ``flags`` (names of the flag if they differ from ``--FIELD``; an
            empty list if the field is not a flag) and ``metavar`` (name of the value in the help).

    Raises RegistryError for a number as default that is out of the bounds.
    """
    if isinstance(default, int | float) and not isinstance(default, bool):
        comparisons = ((operator.lt, low), (operator.gt, high), (operator.le, above), (operator.ge, below))
        if any(bound is not None and is_outside(default, bound) for is_outside, bound in comparisons):
            kind = type(default)
            check_number(
                f"default of {description!r}", default, kind, low=low, high=high, above=above, below=below
            )
    extra |= {"unit": unit} if unit else {}
    extra |= {"neutral": True} if neutral else {}
    return Field(
        default,
        description=description,
        ge=low,
        le=high,
        gt=above,
        lt=below,
        max_length=max_length,
        strict=False if isinstance(default, tuple) else None,  # YAML has lists, not tuples
        json_schema_extra=extra or None,
    )


def check_unique[T: Hashable](values: tuple[T, ...]) -> tuple[T, ...]:
    """Return ``values`` unchanged. Raises RegistryError if one is repeated."""
    if (repeated := find_repeated(values)) is not None:
        raise RegistryError(f"{shorten(repeated)} is given twice")
    return values


def find_repeated[T: Hashable](values: Iterable[T]) -> T | None:
    """Return the first repeated value, or None if all ``values`` differ."""
    seen = set[T]()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def check_range(limits: tuple[float, ...]) -> tuple[float, ...]:
    """Return ``limits`` unchanged. Raises RegistryError unless they are empty or (low, high) with low < high."""
    if len(limits) not in (0, 2):
        raise RegistryError(f"{shorten(list(limits))} has {len(limits)} values; it must have 0 or 2")
    if limits and limits[0] >= limits[1]:
        raise RegistryError(f"{list(limits)} is not a range; allowed: [low, high] with low < high")
    return limits


Names = Annotated[tuple[str, ...], AfterValidator(check_unique)]
"""Names without repetition."""
Widths = tuple[Annotated[int, Field(ge=1)], ...]
"""Layer sizes, each at least 1."""
Range = Annotated[tuple[float, ...], AfterValidator(check_range)]
"""[low, high], or empty."""


class Settings(BaseModel):
    """Base class of groups of options, each declared with `option`: frozen, strict about keys and types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,
    )

    @field_validator("*", mode="after")
    @classmethod
    def _check_magnitude[V](cls, value: V) -> V:
        """Refuse integers beyond 64 bits and floats beyond 32 bits."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                largest = LARGEST_INTEGER if isinstance(number, int) else LARGEST_FLOAT
                if abs(number) > largest:
                    raise RegistryError(_format_out_of_range(number, -largest, largest))
        return value

    @classmethod
    def check(cls, path: str, values: object) -> Self:
        """Build the settings from plain data. Raises RegistryError naming the key below ``path``."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _format_error(error, path, cls) from None

    @classmethod
    def default(cls, key: str) -> Any:
        """Return the default of the field ``key``."""
        return get_options(cls)[key].default

    def with_changes(self, **changes: object) -> Self:
        """Return a checked copy with ``changes`` by key."""
        return self.check("", {**self.model_dump(exclude_unset=True), **changes})


class FileRecord(Settings):
    """Part of a file that a program wrote; keys of later versions are ignored."""

    model_config = ConfigDict(extra="ignore")


def check_number[N: (int, float)](
    path: str,
    value: object,
    kind: type[N],
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> N:
    """Return ``value`` as a ``kind`` (int or float). Raises RegistryError naming ``path`` if it is out of the bounds of `option`."""
    declaration = option(..., "", low=low, high=high, above=above, below=below)
    settings: Any = create_model("Number", __base__=Settings, number=(kind, declaration))
    try:
        return settings(number=value).number
    except ValidationError as error:
        raise RegistryError(path + str(_format_error(error, "", settings)).removeprefix("number")) from None


@dataclass(frozen=True)
class OptionInfo:
    """Declaration of a field of `Settings`, for tables, help and schemas."""

    default: Any
    description: str
    kind: Any
    """Type of the value, or of the elements of a list."""
    many: bool
    """Whether the value is a list."""
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    unit: str
    extra: Mapping[str, Any]

    @property
    def limits(self) -> dict[str, float | None]:
        """Bounds as keyword arguments of `check_number`."""
        return {"low": self.low, "high": self.high, "above": self.above, "below": self.below}

    @property
    def bounds_text(self) -> str:
        """Bounds in words; empty if there are none."""
        if self.low is not None and self.high is not None:
            return f"between {self.low} and {self.high}"
        parts = (
            ("at least", self.low),
            ("above", self.above),
            ("at most", self.high),
            ("below", self.below),
        )
        return " and ".join(f"{text} {bound}" for text, bound in parts if bound is not None)

    @property
    def allowed_text(self) -> str:
        """Allowed values in words."""
        if self.choices:
            return " | ".join(self.choices)
        words = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
        kind = "a list" if self.many else words.get(self.kind, "anything")
        return f"{kind}, {self.bounds_text}" if self.bounds_text else kind

    def require(self, path: str, value: object) -> None:
        """Raise RegistryError naming ``path`` if ``value`` has the wrong type or is out of range."""
        check_number(path, value, self.kind, **self.limits)


@cache
def get_options(settings: type[Settings]) -> Mapping[str, OptionInfo]:
    """Return all fields of ``settings`` in order of declaration, inherited fields last."""
    fields = sorted(settings.model_fields.items(), key=lambda item: item[0] not in settings.__annotations__)
    return {key: _make_option_info(field) for key, field in fields}


def _make_option_info(field: FieldInfo) -> OptionInfo:
    kind, metadata = _strip_annotation(field.annotation), list(field.metadata)
    many = get_origin(kind) in (tuple, list)
    if many or (get_origin(kind) is dict and get_args(kind)):
        element = get_args(kind)[0 if many else -1]
        kind = _strip_annotation(element)
        for mark in getattr(element, "__metadata__", ()):  # bounds and validators
            metadata += getattr(mark, "metadata", ())
    choices = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
    extra = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    return OptionInfo(
        default=field.default,
        description=field.description or "",
        kind=str if choices else kind,
        many=many,
        choices=choices,
        low=_find_bound(metadata, "ge"),
        high=_find_bound(metadata, "le"),
        above=_find_bound(metadata, "gt"),
        below=_find_bound(metadata, "lt"),
        unit=str(extra.pop("unit", "")),
        extra=extra,
    )


def _find_bound(metadata: Iterable[object], name: str) -> float | None:
    """Return the last bound called ``name`` (pydantic's ``ge``, ``le``, ``gt`` or ``lt``) in a field's ``metadata``, or None."""
    bounds = [getattr(mark, name) for mark in metadata if hasattr(mark, name)]
    return bounds[-1] if bounds else None


def _strip_annotation(annotation: object) -> Any:
    """Return the bare type: without ``Annotated`` metadata and without ``| None``."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = next(arg for arg in get_args(annotation) if arg is not NoneType)
    return annotation


def _format_error(error: ValidationError, path: str, settings: type[Settings]) -> RegistryError:
    """Return one pydantic error as one line that names the key: the first unknown key, or else the first error."""
    errors: list[Any] = [*error.errors(include_url=False)]
    first = next((each for each in errors if each["type"] in UNKNOWN_KEY), errors[0])
    kind, keys = first["type"], first["loc"]
    is_element = kind not in UNKNOWN_KEY and isinstance(next(reversed(keys), ""), int)
    # an error in an element of a list is reported at the list
    path, model, field = _follow_keys(keys[:-1] if is_element else keys, path, settings)
    if kind in UNKNOWN_KEY:
        return UnknownKey(f"{path}: no such key", path, model.model_fields)
    if kind == "missing":
        return _format_missing(errors, path, model)
    if kind == "value_error" and (field is None or model is _strip_annotation(field.annotation)):
        return _format_validator_error(path, str(first["ctx"]["error"]))
    return RegistryError(f"{path}: {_format_reason(first, field, is_element)}".removeprefix(": "))


def _format_missing(errors: Sequence[Any], path: str, model: type[Settings]) -> RegistryError:
    """Return one error for the first missing key, at ``path``, and all other keys that are missing in the same settings ``model``."""
    first, parent = errors[0], path.rpartition(".")[0]
    siblings = [each["loc"] for each in errors if each["type"] == "missing"]
    missing = [str(loc[-1]) for loc in siblings if loc[:-1] == first["loc"][:-1]]
    unknown = [str(key) for key in first["input"] if key not in model.model_fields]
    prefix = f"{parent}: " if parent else ""
    return RegistryError(f"{prefix}missing {', '.join(missing)}{suggest_name(missing[0], unknown)}")


def _format_validator_error(path: str, message: str) -> RegistryError:
    """Return the error of a validator of several keys at ``path``; its ``message`` may begin with one of the keys."""
    if not path:
        return RegistryError(message)
    begins_with_key = re.match(r"[\w.]+: ", message)
    return RegistryError(f"{path}{'.' if begins_with_key else ': '}{message}")


def _follow_keys(
    keys: Iterable[str | int], path: str, model: type[Settings]
) -> tuple[str, type[Settings], FieldInfo | None]:
    """Follow ``keys`` down from ``model`` at ``path``; return the path, the settings there and the last declared field."""
    field = None
    for key in keys:
        path = f"{path}.{key}" if path else str(key)
        if isinstance(key, str) and key in model.model_fields:
            field = model.model_fields[key]
            kind = _make_option_info(field).kind
            if isinstance(kind, type) and issubclass(kind, Settings):
                model = kind
    return path, model, field


def _format_reason(error: Mapping[str, Any], declared: FieldInfo | None, is_element: bool) -> str:
    """Return the reason why a value is refused, and the allowed values; ``is_element`` if the value is an element of a list."""
    value, kind, limits = error["input"], error["type"], error.get("ctx", {})
    field = None if declared is None else _make_option_info(declared)
    if reason := _format_size_reason(error, field):
        return reason
    if kind == "literal_error" and field is not None:
        names = ", ".join(name or "''" for name in field.choices)
        if value is None:
            return f"expected one of {names}, got nothing"
        return f"{shorten(value)} is not allowed; choose from {names}{suggest_name(value, field.choices)}"
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind][is_element]}, got {'nothing' if value is None else shorten(value)}"
    return str(limits.get("error") or error["msg"])


def _format_size_reason(error: Mapping[str, Any], field: OptionInfo | None) -> str:
    """Return the reason if a number or a list is refused for its size; empty for other errors."""
    value, kind = error["input"], error["type"]
    if kind in WRONG_LENGTH:
        bound, key = WRONG_LENGTH[kind]
        limit = error.get("ctx", {})[key]
        return f"{shorten([*value])} has {len(value)} values; it must have {bound} {limit}"
    bounds = "" if field is None else field.bounds_text
    if kind in OUT_OF_RANGE and field is not None:
        number = float(value) if field.kind is float else value
        return f"{shorten(number)} is out of range; it must be {bounds}"
    if kind == "finite_number":
        return f"{value!r} is out of range; it must be finite{', ' if bounds else ''}{bounds}"
    # pylint: disable-next=unidiomatic-typecheck  # a bool is no number; an int is beyond the range of a float
    if kind == "float_type" and type(value) is int:
        return _format_out_of_range(value, -LARGEST_INTEGER, LARGEST_INTEGER, field)
    return ""


def _format_out_of_range(value: object, low: float, high: float, field: OptionInfo | None = None) -> str:
    bounds = (field and field.bounds_text) or f"between {low} and {high}"
    return f"{shorten(value)} is out of range; it must be {bounds}"
