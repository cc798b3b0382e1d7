"""The verdict of every planned comparison: better, worse, equivalent within the margin, or undecided.

A verdict rests on two sign-flip tests of paired seeds: one of a difference, and one of equivalence, which is two one-sided tests (TOST)
of whether an agent's mean lies between (1 - margin) and (1 + margin) times its baseline's. Holm corrects each kind over all tests of the
plan's family, so that each kind makes a false finding in at most a share alpha of studies.

Source: Schuirmann (1987), 10.1007/BF01068419, for the two one-sided tests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from spiky_rl.experiments.analysis.comparisons import (
    POWER,
    PairedComparison,
    compare_pair,
    compute_tails,
    find_fewest,
    holm,
)
from spiky_rl.experiments.analysis.measures import can_share_score, compute_metre_energy
from spiky_rl.experiments.analysis.statistics import Interval, pair_scores
from spiky_rl.experiments.design.planned import (
    ALPHA,
    METRES,
    RETURN,
    Endpoint,
    StudyPlan,
    count_deciding_seeds,
)
from spiky_rl.experiments.run.records import CellResult

type Cells = Mapping[tuple[str, str], Sequence[CellResult]]
"""Results of an agent's seeds, by label and task."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison in one endpoint on one task."""

    endpoint: Endpoint
    task: str
    comparison: PairedComparison
    """The comparison of the endpoint's numbers; Holm's family is the plan's."""
    reference: float
    """The baseline's mean of the endpoint over the pairs; nan without pairs."""
    margin: float
    """Share of the reference that counts as equivalent; 0 without a plan, and nothing is then equivalent."""
    equivalence: float
    """p-value of the two one-sided tests after Holm; 1 without a margin."""
    seeds_to_equate: int | None
    """Seeds that would show equivalence if there is no difference; None if no number does or there is no margin."""
    is_planned: bool
    unmeasured: int = 0
    """Seeds with results of both agents that are left out, because one of them has no number of the endpoint: see `measure`."""

    @property
    def text(self) -> str:
        """``better``, ``worse``, ``equivalent`` or ``undecided``."""
        if self.equivalence < ALPHA:
            return "equivalent"
        if self.endpoint.is_lower_better:
            return {"better": "worse", "worse": "better"}.get(self.comparison.verdict, "undecided")
        return self.comparison.verdict

    @property
    def relative(self) -> Interval:
        """The difference as a share of the reference, taken as exact; nan if the reference is zero or nan."""
        difference, size = self.comparison.difference, abs(self.reference) or math.nan
        return Interval(difference.estimate / size, difference.low / size, difference.high / size)


def measure(result: CellResult, endpoint: Endpoint, reference: float | None = None) -> float | None:
    """Return the number of an ``endpoint`` in the ``result`` of a seed; None if it was not measured or is meaningless.

    ``reference`` is the mean return of the study's baseline; a seed has nothing to keep if `can_share_score` is False.
    """
    if endpoint.kept:
        if not result.conditions.keys() >= set(endpoint.kept) or not can_share_score(result, reference):
            return None
        return float(np.mean([result.conditions[name].mean_return for name in endpoint.kept])) / result.score
    if endpoint.energy_per_metre:
        return compute_metre_energy(result, endpoint.energy_per_metre)
    if endpoint.measure == RETURN:
        return result.score
    return result.nominal.measures.get("distance" if endpoint.measure == METRES else endpoint.measure)


def judge(
    plan: StudyPlan, cells: Cells, tasks: Sequence[str], reference: Mapping[str, float], *, is_planned: bool
) -> tuple[Verdict, ...]:
    """Return the verdicts of a ``plan``: pair by pair, task by task, endpoint by endpoint.

    ``reference`` is the mean return of the study's baseline by task; ``is_planned`` says whether the plan was made before the first cell
    began.
    """
    tests = plan.count_tests(len(tasks))
    verdicts = []
    for (agent, baseline), task, endpoint in itertools.product(plan.comparisons, tasks, plan.endpoints):
        runs = {label: cells.get((label, task), ()) for label in (agent, baseline)}
        scores = {
            label: {task: _measure_by_seed(own, endpoint, reference.get(task))} for label, own in runs.items()
        }
        common = set.intersection(*({result.seed for result in own} for own in runs.values()))
        comparison = compare_pair(scores, agent, baseline, tests)
        first, second = pair_scores(scores[agent][task], scores[baseline][task])
        mean = float(second.mean()) if second.size else math.nan
        verdicts.append(
            Verdict(
                endpoint, task, comparison, mean, plan.margin,
                equivalence=compute_equivalence_p_value(first, second, plan.margin),
                seeds_to_equate=count_seeds_to_equate(first - second, plan.margin * abs(mean), tests),
                is_planned=is_planned, unmeasured=len(common) - comparison.pairs,
            )
        )  # fmt: skip
    if plan.family == "all":
        return tuple(_correct_family(verdicts))
    # the endpoints alternate, so each family is every count-th verdict
    count = len(plan.endpoints)
    families = [_correct_family(verdicts[first::count]) for first in range(count)]
    return tuple(verdict for row in zip(*families, strict=True) for verdict in row)


def _measure_by_seed(
    results: Sequence[CellResult], endpoint: Endpoint, reference: float | None
) -> dict[int, float]:
    measured = {result.seed: measure(result, endpoint, reference) for result in results}
    return {seed: value for seed, value in measured.items() if value is not None}


def _correct_family(family: Sequence[Verdict]) -> list[Verdict]:
    differences = holm([verdict.comparison.p_value for verdict in family])
    equivalences = holm([verdict.equivalence for verdict in family])
    return [
        replace(verdict, comparison=replace(verdict.comparison, corrected=p), equivalence=q)
        for verdict, p, q in zip(family, differences, equivalences, strict=True)
    ]


def compute_equivalence_p_value(first: np.ndarray, second: np.ndarray, margin: float) -> float:
    """Return the p-value of two one-sided sign-flip tests against a difference of the means beyond a ``margin``.

    The numbers of both agents are paired; the margin is a share of the second one's mean. The lowest possible value is 1 / 2**pairs.
    """
    if len(first) < 2:
        return 1.0
    reach = margin * math.copysign(1.0, float(second.mean()))
    weights = np.full(len(first), 1 / len(first))
    _, above_lower = compute_tails(first - (1 - reach) * second, weights)
    below_upper, _ = compute_tails(first - (1 + reach) * second, weights)
    return max(above_lower, below_upper)


def count_seeds_to_equate(differences: np.ndarray, margin: float, tests: int = 1) -> int | None:
    """Return the seeds with which two one-sided t tests show equivalence with probability `POWER` if there is no difference.

    Paired ``differences`` give the spread; the ``margin`` has their unit; several ``tests`` share `ALPHA`. None if the spread is unknown,
    or no number of seeds is enough.
    """
    if len(differences) < 3 or not margin > 0:
        return None
    share, deviation = ALPHA / tests, float(differences.std(ddof=1))

    def is_enough(seeds: int) -> bool:
        reach = margin * math.sqrt(seeds) / deviation if deviation else math.inf
        return bool(2 * stats.t.cdf(reach - stats.t.ppf(1 - share, seeds - 1), seeds - 1) - 1 >= POWER)

    return find_fewest(count_deciding_seeds(tests, sides=1), is_enough)
