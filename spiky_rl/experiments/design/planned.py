"""The planned comparisons of a study: pairs of agents, endpoints and controls, fixed before the first cell begins.

plan:
  comparisons: [[lif_ppo, mlp_matched_ppo], [lif_128_ppo, mlp_matched_128_ppo]]   # each with its baseline
  endpoints:
    - return
    - {name: late or held, kept: [action_delay_1, action_delay_2, observation_held]}
    - {energy_per_metre: fp32_sram}
  margin: 0.05                                                                    # of the baseline's mean
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from spiky_rl.config.options import RegistryError, Settings, find_repeated, option, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue, get_section
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, ENERGY_MODELS

NamedMeasure = Literal["return", "metres", "velocity_error"]
RETURN, METRES, VELOCITY_ERROR = NAMED_MEASURES = get_args(NamedMeasure)
"""Measures of which the name alone is an endpoint."""
MEASURES = (*NAMED_MEASURES, "kept", "energy_per_metre")
ALPHA, PERMUTATIONS = 0.05, 2**15
"""Probability of a false finding over all tests together; maximum number of sign patterns in a sign-flip test."""
CONTROLLED_KEYS = ("schedule", "learning_rate", "critic_learning_rate")
"""Algorithm keys in which a control agrees with its agent, unless both agents were tuned."""


class Endpoint(Settings):
    """One number of a trained policy in which agents are compared."""

    name: str = option("", "name in the report; empty: its measure")
    kept: tuple[str, ...] = option(
        (), "conditions; measures the mean share of the undisturbed return that is kept under them"
    )
    energy_per_metre: str = option("", "energy model; measures the energy per metre under it")
    measure: Literal["", NamedMeasure] = option(
        "", "mean return, distance (metres) or error of the commanded velocity of undisturbed episodes"
    )

    @model_validator(mode="after")
    def _check_one_measure(self) -> Self:
        given_measures = [key for key in ("kept", "energy_per_metre", "measure") if getattr(self, key)]
        if len(given_measures) != 1:
            raise RegistryError(
                f"{' and '.join(given_measures) or 'nothing'} given; allowed: one of {', '.join(MEASURES)}"
            )
        if (model := self.energy_per_metre) and model not in ENERGY_MODELS:
            raise RegistryError(
                f"energy_per_metre: {shorten(model)} given; allowed: {', '.join(ENERGY_MODELS)}{suggest_name(model, ENERGY_MODELS)}"
            )
        return self

    @property
    def label(self) -> str:
        """Name, or the measure if the name is empty."""
        if self.kept:
            return self.name or f"kept under {', '.join(self.kept)}"
        return self.name or self.measure.replace("_", " ") or f"energy per metre, {self.energy_per_metre}"

    @property
    def unit(self) -> str:
        """Unit in reports; empty for a return."""
        if self.energy_per_metre:
            return "µJ/m"
        if self.kept:
            return "%"
        return {METRES: "m", VELOCITY_ERROR: "m/s"}.get(self.measure, "")

    def fits(self, measure: str) -> bool:
        """Return whether a task with this ``measure`` has what the endpoint needs."""
        return (self.measure or ("kept" if self.kept else "energy_per_metre")) in list_measures(measure)

    @property
    def scale(self) -> float:
        """Factor from values of the endpoint to the numbers in reports."""
        return 100.0 if self.kept else 1.0

    @property
    def is_lower_better(self) -> bool:
        """Whether a lower number is better."""
        return bool(self.energy_per_metre) or self.measure == VELOCITY_ERROR


def list_measures(task_measure: str) -> list[str]:
    """Return the measures of endpoints that a task with this ``task_measure`` allows; an empty one allows all."""
    unavailable: tuple[str, ...] = () if task_measure in ("", VELOCITY_ERROR) else (VELOCITY_ERROR,)
    if task_measure == "upright":
        unavailable += (METRES, "energy_per_metre")
    return [name for name in MEASURES if name not in unavailable]


def read_endpoint(value: object) -> object:
    """Return the declaration of an `Endpoint`; a word alone is the short form of its ``measure``."""
    if isinstance(value, str):
        if value not in NAMED_MEASURES:
            known = (*NAMED_MEASURES, "a mapping with kept or energy_per_metre")
            raise RegistryError(
                f"{shorten(value)} given; allowed: {', '.join(known)}{suggest_name(value, MEASURES)}"
            )
        return {"measure": value}
    return value


Pair = Annotated[tuple[str, ...], Field(strict=False, min_length=2, max_length=2)]
Endpoints = Annotated[
    tuple[
        Annotated[
            Endpoint,
            BeforeValidator(read_endpoint, json_schema_input_type=NamedMeasure | Endpoint),
        ],
        ...,
    ],
    Field(strict=False, min_length=1),
]


class StudyPlan(Settings):
    """The comparisons that a study is made for."""

    comparisons: Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)] = option(
        ..., "pairs [agent, baseline]"
    )
    endpoints: Endpoints = option((Endpoint(measure=RETURN),), "measures in which they are compared")
    margin: float = option(
        0.05,
        "largest difference that counts as equivalent, as a share of the baseline's mean",
        above=0.0,
        below=1.0,
    )
    family: Literal["all", "endpoint"] = option(
        "all", "tests that Holm corrects together: all, or those of each endpoint"
    )
    date: str = option("", "date of the plan; empty: the day on which spiky compare first writes it")
    commit: str = option(
        "", "commit of the project on that date; empty: the commit that spiky compare runs from"
    )
    seeds: tuple[int, ...] = option(
        (), "seeds of the study on that date; empty: its seeds when spiky compare writes the plan"
    )
    tasks: tuple[str, ...] = option(
        (),
        "tasks of the study on that date; empty: its tasks when spiky compare writes the plan, or, in a plan written before"
        " they were kept, unknown",
    )

    @field_validator("date")
    @classmethod
    def _check_date(cls, date: str) -> str:
        # a text of another form would come before or after the dates of results by chance
        if date and not _is_day(date):
            raise RegistryError(f"{shorten(date)} given; allowed: a day such as 2026-11-28")
        return date

    @model_validator(mode="after")
    def _check_repetitions(self) -> Self:
        for first, second in self.comparisons:
            if first == second:
                raise RegistryError(f"comparisons: {first!r} is compared with itself")
        for key, names in (
            ("comparisons", [" and ".join(pair) for pair in self.comparisons]),
            ("endpoints", [endpoint.label for endpoint in self.endpoints]),
        ):
            if (repeated := find_repeated(names)) is not None:
                raise RegistryError(f"{key}: {repeated!r} given twice")
        return self

    @property
    def agents(self) -> list[str]:
        """The agents in its comparisons, each once."""
        return list(dict.fromkeys(agent for pair in self.comparisons for agent in pair))

    @property
    def conditions(self) -> list[str]:
        """The conditions that its endpoints need."""
        return list(dict.fromkeys(name for endpoint in self.endpoints for name in endpoint.kept))

    def has_same_tests(self, other: StudyPlan | None) -> bool:
        """Return whether the ``other`` plan has the same tests, whatever its date."""
        stamp: dict[str, Any] = {"date": "", "commit": "", "seeds": (), "tasks": ()}
        return other is not None and self.with_changes(**stamp) == other.with_changes(**stamp)

    def count_tests(self, tasks: int) -> int:
        """Return the number of tests that Holm corrects together, for a number of ``tasks``."""
        return len(self.comparisons) * tasks * (len(self.endpoints) if self.family == "all" else 1)


def _is_day(text: str) -> bool:
    """Return whether ``text`` is a day as ``datetime.date.isoformat`` writes it."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def count_deciding_seeds(tests: int, sides: int = 2) -> int:
    """Return the fewest seeds with which one of ``tests`` sign-flip tests can reach a p-value below `ALPHA`.

    ``sides`` is 2 for a difference and 1 for equivalence, which is two one-sided tests.
    """
    return math.floor(math.log2(sides * tests / ALPHA)) + 1


def compute_min_p_value(pairs: int, comparisons: int = 1) -> float:
    """Return the lowest p-value of a sign-flip test of so many ``pairs`` of task and seed, after Holm's correction.

    Holm multiplies the smallest p-value by the number of comparisons. 5 seeds of one task reach 0.06 in a single comparison.
    """
    lowest = 2 / 2**pairs if 2**pairs <= PERMUTATIONS else 2 / (PERMUTATIONS + 1)
    return min(1.0, lowest * max(1, comparisons))


def check_agents(plan: StudyPlan, labels: Sequence[str], anns: Collection[str] = ()) -> None:
    """Raise RegistryError if the ``plan`` does not fit the study's agents.

    It does not if it names an agent that is not among their ``labels``, or an energy model that does not apply to one of its ``anns``.
    """
    for agent in plan.agents:
        if agent not in labels:
            raise RegistryError(
                f"comparisons: {agent!r} given; allowed: {', '.join(labels)}{suggest_name(agent, labels)}"
            )
        for endpoint in plan.endpoints:
            model = endpoint.energy_per_metre
            if agent in anns and model and model not in ANN_ENERGY_MODELS:
                raise RegistryError(
                    f"endpoints: energy_per_metre: {model!r} given; allowed for the ANN {agent!r}: {', '.join(ANN_ENERGY_MODELS)}"
                )


def find_uncontrolled(
    specs: Mapping[str, PlainMapping], tuned: Collection[str] = (), anns: Collection[str] = ()
) -> dict[str, str]:
    """Return the spiking agents without a control among the others, with the widths that a control would have.

    Any ANN controls a network without layers of its own, such as a reservoir. ``specs`` are merged specifications on one task by label; the
    rates of ``tuned`` agents may differ. Agents without a network are ANNs, and those named in ``anns``.
    """
    anns = [label for label, spec in specs.items() if label in anns or not spec.get("network")]

    def get_widths(label: str) -> PlainValue:
        network = get_section(specs[label], "network")
        return network.get("layers") if network else get_section(specs[label], "actor").get("hidden_dims")

    def controls(ann: str, label: str) -> bool:
        layers = get_widths(label)
        widths_agree = layers is None or get_widths(ann) == layers
        first, second = (get_section(specs[name], "algorithm") for name in (ann, label))
        rates_agree = {ann, label} <= {*tuned} or all(
            first.get(key) == second.get(key) for key in CONTROLLED_KEYS
        )
        return widths_agree and rates_agree and "rnn_type" not in get_section(specs[ann], "actor")

    def name_widths(label: str) -> str:
        layers = get_widths(label)
        return "-".join(map(str, layers)) if isinstance(layers, Sequence) else "any"

    spiking = [label for label in specs if label not in anns]
    return {label: name_widths(label) for label in spiking if not any(controls(ann, label) for ann in anns)}
