"""The search space of a tuning: dimensions shared by all agents, and equally many own dimensions of each agent.

    set: {agent.algorithm.schedule: fixed}                    # in every trial but the first
    shared: {agent.algorithm.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
    own: {lif_ppo: {agent.network.steps: {choices: [2, 4, 8]}}, mlp_ppo: {agent.actor.activation: {choices: [elu, relu]}}}

The key of a dimension is an override of the agent; ``also`` lists further keys that take its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_override, format_value, get_section
from spiky_rl.config.spec import parse_overrides, read_yaml
from spiky_rl.experiments.design.study import StudyError

if TYPE_CHECKING:
    from optuna.trial import Trial

KEYS = ("summary", "set", "shared", "own")
NUMBER, FLAG, LIST = (int | float, "a number"), (bool, "true or false"), (list, "a list")
KINDS: dict[str, tuple[type | UnionType, str]] = {
    "low": NUMBER,
    "high": NUMBER,
    "log": FLAG,
    "choices": LIST,
    "also": LIST,
}
"""Keys of a dimension, each with the type of its value and a description."""
FORMS = ({"low", "high"}, {"low", "high", "log"}, {"choices"})
"""Valid combinations of these keys; ``also`` may join each."""


@dataclass(frozen=True)
class SearchDimension:
    """One parameter: a range of numbers, integers if both ends are, or a list of choices."""

    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    """Choices as overrides write them."""
    also: tuple[str, ...] = ()

    @property
    def extremes(self) -> tuple[PlainValue, ...]:
        """Values that decide whether the dimension is valid: the ends of its range, or all choices."""
        return self.choices or (self.low, self.high)

    def make_overrides(self, value: PlainValue) -> list[str]:
        """Return the overrides that give an agent this ``value``."""
        return [format_override(key, value) for key in (self.key, *self.also)]

    def suggest(self, trial: Trial) -> PlainValue:
        """Return the value in a ``trial``: the stored one, otherwise the sampler's."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class SearchSpace:
    """Content of a file in ``spaces/``."""

    name: str
    data: PlainMapping
    """The file's content."""
    fixed: tuple[str, ...]
    """Overrides of every trial but the first."""
    shared: tuple[SearchDimension, ...]
    own: Mapping[str, tuple[SearchDimension, ...]]

    def get_dimensions(self, agent: str) -> tuple[SearchDimension, ...]:
        """Return the dimensions of an ``agent``. Raises StudyError if the space does not name it, or if there is none."""
        stem = Path(agent).stem
        if stem not in self.own:
            raise StudyError(
                f"--space {self.name}: own: no dimensions for {stem}; allowed: {', '.join(self.own) or 'no agent'}"
                f"{suggest_name(stem, self.own)}"
            )
        if not (dimensions := (*self.shared, *self.own[stem])):
            raise StudyError(
                f"--space {self.name}: own.{stem}: nothing given; allowed: at least one dimension, or one in shared"
            )
        return dimensions

    def require_equal(self, agents: Sequence[str]) -> None:
        """Raise StudyError if the ``agents`` have different numbers of dimensions, which would make their tuning unequal."""
        counts = {Path(agent).stem: len(self.get_dimensions(agent)) for agent in agents}
        if len(set(counts.values())) > 1:
            counts_text = ", ".join(f"{agent} {count - len(self.shared)}" for agent, count in counts.items())
            raise StudyError(f"--space {self.name}: own: unequal numbers of dimensions: {counts_text}")

    def select(self, agents: Sequence[str]) -> dict[str, PlainMapping]:
        """Return the part of the search space for these ``agents`` as plain data."""
        own = {Path(agent).stem: get_section(self.data, "own")[Path(agent).stem] for agent in agents}
        return {"set": get_section(self.data, "set"), "shared": get_section(self.data, "shared"), "own": own}


def read_space(name: str) -> SearchSpace:
    """Return the space ``name``, a file stem of ``spaces/`` or a YAML file. Raises UserError that names file and key."""
    if not name.endswith(".yaml") and name not in (known := registry.list_names("spaces")):
        raise StudyError(f"--space {name!r} given; allowed: {', '.join(known)}{suggest_name(name, known)}")
    path = Path(name) if name.endswith(".yaml") else registry.find_data_folder("spaces") / f"{name}.yaml"
    data = read_yaml(path)
    try:
        return build_space(path.stem, data)
    except UserError as error:
        raise StudyError(f"{path.name}: {error}") from None


def _check_space_keys(data: PlainMapping) -> None:
    """Raise StudyError for an unknown key, or a section that is no mapping."""
    for key, value in data.items():
        if key not in KEYS:
            raise StudyError(
                f"{key}: unknown key{suggest_name(key, KEYS) or '; allowed: ' + ', '.join(KEYS)}"
            )
        if key != "summary":
            _require_mapping(key, value)


def build_space(name: str, data: PlainMapping) -> SearchSpace:
    """Return the space ``name`` from plain ``data``, with all checks that need no agent. Raises UserError."""
    _check_space_keys(data)
    fixed = tuple(format_override(key, value) for key, value in get_section(data, "set").items())
    parse_overrides(fixed)  # raises if an override is invalid
    shared = _parse_dimensions("shared", get_section(data, "shared"))
    own = {
        agent: _parse_dimensions(f"own.{agent}", value) for agent, value in get_section(data, "own").items()
    }
    space = SearchSpace(name, data, fixed, shared, own)
    for agent in own:
        keys = [key for d in space.get_dimensions(agent) for key in (d.key, *d.also)] + list(
            get_section(data, "set")
        )
        if repeated := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise StudyError(f"own.{agent}: {repeated[0]!r} given twice, in own, set or shared")
    return space


def _parse_dimensions(path: str, data: PlainValue) -> tuple[SearchDimension, ...]:
    return tuple(
        _parse_dimension(f"{path}.{key}", key, value) for key, value in _require_mapping(path, data).items()
    )


def _check_dimension_keys(path: str, values: PlainMapping) -> None:
    """Raise StudyError, naming the key below ``path``, for an unknown key or a value of the wrong type."""
    for name, value in values.items():
        if name not in KINDS:
            raise StudyError(
                f"{path}: {name}: unknown key; allowed: {', '.join(KINDS)}{suggest_name(name, KINDS)}"
            )
        kind, words = KINDS[name]
        if not isinstance(value, kind) or isinstance(value, bool) != (name == "log"):
            raise StudyError(f"{path}.{name}: {shorten(value)} given; allowed: {words}")


def _make_choice(path: str, key: str, choices: PlainValue, also: tuple[str, ...]) -> SearchDimension:
    """Return the dimension of ``choices`` for ``key``. Raises StudyError unless there are two, and all differ."""
    assert isinstance(choices, list)
    dimension = SearchDimension(key, choices=tuple(map(format_value, choices)), also=also)
    if len(set(dimension.choices)) < max(2, len(dimension.choices)):
        raise StudyError(
            f"{path}.choices: {shorten(choices)} given; allowed: at least two different ones, each once"
        )
    return dimension


def _make_range(path: str, key: str, values: PlainMapping, also: tuple[str, ...]) -> SearchDimension:
    """Return the dimension from ``low`` to ``high`` for ``key``. Raises StudyError if the range is empty, or has no logarithm."""
    low, high = values.get("low"), values.get("high")
    assert isinstance(low, int | float) and isinstance(high, int | float)
    dimension = SearchDimension(key, low, high, bool(values.get("log")), also=also)
    if not low < high or (dimension.log and low <= 0):
        above = " and low above 0" if dimension.log else ""
        raise StudyError(f"{path}: low {low} and high {high} given; allowed: low < high{above}")
    return dimension


def _parse_dimension(path: str, key: str, data: PlainValue) -> SearchDimension:
    values = dict(_require_mapping(path, data))
    _check_dimension_keys(path, values)
    further_keys = values.pop("also", [])
    if set(values) not in FORMS:
        raise StudyError(f"{path}: {shorten(data)} given; allowed: low and high (and log), or choices")
    assert isinstance(further_keys, list)
    also = tuple(map(str, further_keys))
    if "choices" in values:
        dimension = _make_choice(path, key, values["choices"], also)
    else:
        dimension = _make_range(path, key, values, also)
    for value in dimension.extremes:
        parse_overrides(dimension.make_overrides(value))  # raises if the value is invalid
    return dimension


def _require_mapping(path: str, value: PlainValue) -> PlainMapping:
    if not isinstance(value, Mapping):
        raise StudyError(f"{path}: {shorten(value)} given; allowed: a mapping")
    return value
