"""The search space of a tuning: dimensions shared by all agents, and equally many own dimensions of each agent.

    set: {agent.algorithm.schedule: fixed}                    # in every trial but the first
    shared: {agent.algorithm.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
    own: {lif_ppo: {agent.network.steps: {choices: [2, 4, 8]}}, mlp_ppo: {agent.actor.activation: {choices: [elu, relu]}}}

The key of a dimension is an override of the agent; ``also`` lists further keys that take its value. A file without ``own`` fits every agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from spiky_rl.config import registry
from spiky_rl.config.options import RegistryError, Settings, UserError, find_repeated, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_override, format_value
from spiky_rl.config.spec import parse_overrides, read_yaml
from spiky_rl.experiments.design.grid import Number
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.design.tunings import get_agent_name

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def _format_choices(choices: object) -> object:
    return [format_value(choice) for choice in choices] if isinstance(choices, list) else choices


def _require_different(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(choices)) < max(2, len(choices)):
        raise RegistryError(
            f"{shorten(list(choices))} given; allowed: at least two different ones, each once"
        )
    return choices


FORMS = ({"low", "high"}, {"low", "high", "log"}, {"choices"})
"""Valid combinations of the keys of a dimension; ``also`` may join each."""
Choices = Annotated[
    tuple[str, ...],
    BeforeValidator(_format_choices),
    AfterValidator(_require_different),
    Field(strict=False),
]


class SearchDimension(Settings):
    """One parameter: a range of numbers, integers if both ends are, or a list of choices."""

    key: str
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    choices: Choices = ()
    """Choices as overrides write them."""
    also: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        given_keys = self.model_fields_set - {"key", "also"}
        if given_keys not in FORMS:
            given = ", ".join(sorted(given_keys)) or "nothing"
            raise RegistryError(f"{given} given; allowed: low and high (and log), or choices")
        low, high = self.low, self.high
        if low is not None and high is not None and (low >= high or (self.log and low <= 0)):
            above = " and low above 0" if self.log else ""
            raise RegistryError(f"low {low} and high {high} given; allowed: low < high{above}")
        return self

    @property
    def extremes(self) -> tuple[PlainValue, ...]:
        """Values that decide whether the dimension is valid: the ends of its range, or all choices."""
        return self.choices or (self.low, self.high)

    def make_overrides(self, value: PlainValue) -> list[str]:
        """Return the overrides that give an agent this ``value``."""
        return [format_override(key, value) for key in (self.key, *self.also)]

    def suggest(self, trial: BaseTrial) -> PlainValue:
        """Return the value in a ``trial``: the stored one, otherwise the sampler's."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


class SpaceFile(Settings):
    """Content of a file in ``spaces/``."""

    summary: str = ""
    set: dict[str, Any] = {}
    shared: dict[str, dict[str, Any]] = {}
    own: dict[str, dict[str, dict[str, Any]]] = {}


@dataclass(frozen=True)
class SearchSpace:
    """Search space: the content of its file, the shared dimensions, and each agent's own; without own ones it fits every agent."""

    name: str
    content: SpaceFile
    shared: tuple[SearchDimension, ...]
    own: Mapping[str, tuple[SearchDimension, ...]]

    @property
    def fixed_overrides(self) -> list[str]:
        """Overrides of every trial but the first."""
        return [format_override(key, value) for key, value in self.content.set.items()]

    def get_dimensions(self, agent: str) -> tuple[SearchDimension, ...]:
        """Return the dimensions of an ``agent``. Raises StudyError if ``own`` names other agents only, or there is no dimension for it."""
        stem = get_agent_name(agent)
        if self.own and stem not in self.own:
            raise StudyError(
                f"--space {self.name}: own: no dimensions for {stem}; allowed: {', '.join(self.own)}"
                f"{suggest_name(stem, self.own)}"
            )
        if not (dimensions := (*self.shared, *self.own.get(stem, ()))):
            raise StudyError(
                f"--space {self.name}: own.{stem}: nothing given; allowed: at least one dimension, or one in shared"
            )
        return dimensions

    def require_equal(self, agents: Sequence[str]) -> None:
        """Raise StudyError if the ``agents`` have different numbers of dimensions, which would make their tuning unequal."""
        counts = {get_agent_name(agent): len(self.get_dimensions(agent)) for agent in agents}
        if len(set(counts.values())) > 1:
            counts_text = ", ".join(f"{agent} {count - len(self.shared)}" for agent, count in counts.items())
            raise StudyError(f"--space {self.name}: own: unequal numbers of dimensions: {counts_text}")

    def select(self, agents: Sequence[str]) -> dict[str, PlainMapping]:
        """Return the part of the search space for these ``agents`` as plain data."""
        own = {stem: self.content.own.get(stem, {}) for stem in map(get_agent_name, agents)}
        return {"set": self.content.set, "shared": self.content.shared, "own": own}


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


def build_space(name: str, data: PlainMapping) -> SearchSpace:
    """Return the space ``name`` from plain ``data``, with all checks that need no agent. Raises UserError."""
    for key in data:
        if "." in str(key):
            raise StudyError(
                f"{key}: stands at the top; allowed: a dimension in shared, or in own of an agent"
            )
    content = SpaceFile.check("", data)
    shared = _parse_dimensions("shared", content.shared)
    own = {agent: _parse_dimensions(f"own.{agent}", value) for agent, value in content.own.items()}
    space = SearchSpace(name, content, shared, own)
    parse_overrides(space.fixed_overrides)  # raises if an override is invalid
    for path, dimensions in (
        ("shared", shared),
        *((f"own.{name}", space.get_dimensions(name)) for name in own),
    ):
        keys = [key for d in dimensions for key in (d.key, *d.also)]
        if (repeated := find_repeated([*keys, *content.set])) is not None:
            raise StudyError(f"{path}: {repeated!r} given twice, in own, set or shared")
    return space


def _parse_dimensions(path: str, data: Mapping[str, PlainMapping]) -> tuple[SearchDimension, ...]:
    dimensions = tuple(
        SearchDimension.check(f"{path}.{key}", {**values, "key": key}) for key, values in data.items()
    )
    for dimension in dimensions:
        for value in dimension.extremes:
            parse_overrides(dimension.make_overrides(value))  # raises if the value is invalid
    return dimensions
