"""The planned comparisons of a study: which agents are compared in which endpoints, written down before its first cell begins.

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
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from spiky_rl.config.options import RegistryError, Settings, option, shorten, suggest_name
from spiky_rl.metrics.energy import ENERGY_MODELS

RETURN, METRES = "return", "metres"
MEASURES = (RETURN, METRES, "kept", "energy_per_metre")
"""Keys that say what an endpoint measures; the first two stand alone."""
ALPHA, PERMUTATIONS = 0.05, 2**15
"""Probability of a false finding over all tests together; sign patterns that a sign-flip test tries at most."""


class Endpoint(Settings):
    """One number of a trained policy, by which agents are compared."""

    name: str = option("", "how the report calls it; empty: after what it measures")
    kept: tuple[str, ...] = option(
        (), "conditions; the share of the undisturbed return that is kept under them, in the mean"
    )
    energy_per_metre: str = option("", "an energy model; energy of a metre gone under it")
    measure: Literal["", "return", "metres"] = option(
        "", "mean return, or mean distance, of undisturbed episodes"
    )

    @model_validator(mode="after")
    def _measures_one_thing(self) -> Self:
        given = [key for key in ("kept", "energy_per_metre", "measure") if getattr(self, key)]
        if len(given) != 1:
            raise RegistryError(f"expected one of {', '.join(MEASURES)}, got {' and '.join(given) or 'none'}")
        if (price := self.energy_per_metre) and price not in ENERGY_MODELS:
            raise RegistryError(
                f"energy_per_metre: {shorten(price)} given; allowed: {', '.join(ENERGY_MODELS)}{suggest_name(price, ENERGY_MODELS)}"
            )
        return self

    @property
    def label(self) -> str:
        """Its name, or what it measures."""
        if self.kept:
            return self.name or f"kept under {', '.join(self.kept)}"
        return self.name or self.measure or f"energy per metre, {self.energy_per_metre}"

    @property
    def unit(self) -> str:
        """Unit of its numbers, as a report writes them; empty of a return."""
        return (
            "µJ/m" if self.energy_per_metre else "%" if self.kept else "m" if self.measure == METRES else ""
        )

    @property
    def scale(self) -> float:
        """Factor from its numbers to those that a report writes."""
        return 100.0 if self.kept else 1.0

    @property
    def is_lower_better(self) -> bool:
        """Whether the lower of two numbers is the better one."""
        return bool(self.energy_per_metre)


def read_endpoint(value: object) -> object:
    """Return what declares an `Endpoint`: ``return`` and ``metres`` stand for themselves."""
    if isinstance(value, str):
        if value not in (RETURN, METRES):
            known = (*MEASURES[:2], "a mapping with kept or energy_per_metre")
            raise RegistryError(
                f"{shorten(value)} given; allowed: {', '.join(known)}{suggest_name(value, MEASURES)}"
            )
        return {"measure": value}
    return value


def read_date(value: object) -> object:
    """Return a date as text: YAML reads 2026-11-28 as a date."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Pair = Annotated[tuple[str, ...], Field(strict=False, min_length=2, max_length=2)]
Endpoints = Annotated[
    tuple[
        Annotated[
            Endpoint,
            BeforeValidator(read_endpoint, json_schema_input_type=Literal["return", "metres"] | Endpoint),
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
    endpoints: Endpoints = option((Endpoint(measure=RETURN),), "what they are compared in")
    margin: float = option(
        0.05, "difference that counts as none, as a share of the baseline's mean", above=0.0, below=1.0
    )
    family: Literal["all", "endpoint"] = option(
        "all", "what Holm corrects together: all tests, or those of each endpoint"
    )
    date: Annotated[str, BeforeValidator(read_date)] = option(
        "", "when it was made; empty: when compare.py first wrote it"
    )
    commit: str = option("", "the project's commit then; empty: that of compare.py")
    seeds: tuple[int, ...] = option(
        (), "that the study had then; empty: those that it has when compare.py writes it"
    )

    @model_validator(mode="after")
    def _says_each_once(self) -> Self:
        for first, second in self.comparisons:
            if first == second:
                raise RegistryError(f"comparisons: {first!r} is compared with itself")
        for key, listed in (
            ("comparisons", [" and ".join(pair) for pair in self.comparisons]),
            ("endpoints", [endpoint.label for endpoint in self.endpoints]),
        ):
            for name in listed:
                if listed.count(name) > 1:
                    raise RegistryError(f"{key}: {name!r} stands twice")
        return self

    @property
    def agents(self) -> list[str]:
        """The agents that are compared, each once."""
        return list(dict.fromkeys(agent for pair in self.comparisons for agent in pair))

    @property
    def conditions(self) -> list[str]:
        """The conditions that its endpoints need."""
        return list(dict.fromkeys(name for endpoint in self.endpoints for name in endpoint.kept))

    def asks_the_same(self, other: StudyPlan | None) -> bool:
        """Return whether the ``other`` plan makes the same tests, whenever it was made."""
        stamp: dict[str, Any] = {"date": "", "commit": "", "seeds": ()}
        return other is not None and self.with_changes(**stamp) == other.with_changes(**stamp)

    def count_tests(self, tasks: int) -> int:
        """Return the number of tests that Holm corrects together in a study of so many ``tasks``."""
        return len(self.comparisons) * tasks * (len(self.endpoints) if self.family == "all" else 1)


def count_deciding_seeds(tests: int, alpha: float) -> int:
    """Return the fewest seeds with which a sign-flip test, as one of so many ``tests``, can come below ``alpha``."""
    return math.floor(math.log2(2 * tests / alpha)) + 1


def compute_min_p_value(pairs: int, comparisons: int = 1, permutations: int = PERMUTATIONS) -> float:
    """The lowest Holm-corrected p that a sign-flip test of so many pairs can give, as one of so many comparisons.

    Holm multiplies the smallest of the p-values by their number: 5 seeds of one task give 0.06 at best, alone.

    Args:
        pairs: Pairs of task and seed.
        comparisons: That are made together.
        permutations: See `sign_flip_test`.
    """
    lowest = 2 / 2**pairs if 2**pairs <= permutations else 2 / (permutations + 1)
    return min(1.0, lowest * max(1, comparisons))


def check_agents(plan: StudyPlan, labels: Sequence[str]) -> None:
    """Raise RegistryError for an agent of the ``plan`` that is none of the study's ``labels``."""
    for agent in plan.agents:
        if agent not in labels:
            raise RegistryError(
                f"comparisons: {agent!r} given; allowed: {', '.join(labels)}{suggest_name(agent, labels)}"
            )
