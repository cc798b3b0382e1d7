"""Coverage of intervals: how often they contain the true value, for normal scores and with some poor seeds.

A poor seed lies `FALL` standard deviations of the others below them. A study of a few seeds may draw none: its interval is then narrow
and above the true value, and no method detects that from the scores. tests/experiments/test_coverage.py simulates the table again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FALL = 10.0
"""Distance of a poor seed in standard deviations."""
SIZES = range(2, 21)
"""Numbers of seeds."""
COVERAGE: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "mean": {
            "no seed is poor": (93.7, 94.3, 94.5, 94.2, 94.7, 94.0, 94.0, 94.9, 93.8, 94.6, 94.8, 95.0, 94.5, 94.4, 94.2, 94.6, 94.6, 95.1, 94.6),
            "one seed in ten is poor": (89.2, 84.8, 79.3, 75.9, 72.8, 72.2, 70.5, 71.2, 70.9, 74.1, 73.0, 76.3, 77.6, 79.5, 81.8, 84.2, 83.7, 85.6, 87.2),
            "one seed in five is poor": (80.8, 75.2, 67.8, 71.1, 75.4, 80.3, 84.0, 85.5, 89.5, 91.0, 92.6, 93.9, 94.6, 95.1, 95.7, 96.0, 97.0, 97.3, 97.5),
        },
        "interquartile mean": {
            "no seed is poor": (93.7, 94.3, 96.4, 96.3, 96.5, 96.6, 96.8, 97.0, 96.5, 96.5, 96.2, 96.2, 96.3, 96.0, 95.5, 95.9, 96.0, 96.0, 96.0),
            "one seed in ten is poor": (93.7, 95.1, 95.9, 97.2, 96.9, 97.0, 96.7, 96.4, 96.6, 96.6, 96.6, 96.3, 95.7, 96.5, 96.2, 95.8, 96.0, 96.4, 96.2),
            "one seed in five is poor": (90.9, 95.1, 96.0, 97.0, 97.8, 97.1, 97.2, 97.5, 97.5, 97.4, 97.0, 97.1, 97.2, 96.5, 97.0, 96.7, 96.5, 96.6, 96.4),
        },
    }
)  # fmt: skip
"""Percentage of intervals that contain the true value in 4,000 simulated studies, with a standard error of 0.3 to 0.8 %: by statistic,
share of poor seeds in words, and number in `SIZES`.
"""


def find_coverage(statistic: str, seeds: int) -> dict[str, float]:
    """Return the coverage of intervals of a ``statistic`` over ``seeds`` seeds, at least two, by the share of poor seeds in words.

    More seeds than the largest simulated study has take its coverage.
    """
    place = min(seeds, SIZES[-1]) - SIZES[0]
    return {words: shares[place] for words, shares in COVERAGE[statistic].items()}
