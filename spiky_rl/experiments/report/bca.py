"""SciPy's BCa intervals beside ours: a column of a table, and a sentence on how far apart the two are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report.blocks import NONE, Column, plain, shared_digits

SHARE = 0.1
"""Share of our interval's width by which the two may differ without a mark."""


class BcaColumns:
    """Columns of SciPy's intervals beside ours, and the sentence on all of them."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Interval, Interval]] = []

    def column(
        self, title: str, ours: Sequence[Interval | None], theirs: Sequence[Interval | None], least: int = 0
    ) -> tuple[Column, list[str]]:
        """The column of theirs, with as many digits as ours has.

        Args:
            title: Title of the column.
            ours: Our intervals, row by row; None: the row has none.
            theirs: SciPy's.
            least: Digits after the point, at least.
        """
        digits, cells = shared_digits(ours, least=least), []
        for own, other in zip(ours, theirs, strict=True):
            if own is None or other is None or not math.isfinite(other.low + other.high):
                cells.append(NONE)
                continue
            self.pairs.append((own, other))
            mark = " ≠" if own.differs(other, SHARE) else ""
            cells.append(f"[{plain(other.low, digits)}, {plain(other.high, digits)}]{mark}")
        return Column(title, "BCa"), cells

    @property
    def note(self) -> str:
        """How many intervals differ and how much wider ours are, in the median; nothing where there are none."""
        if not self.pairs:
            return ""
        differing = sum(own.differs(other, SHARE) for own, other in self.pairs)
        ratio = statistics.median(
            (own.high - own.low) / (other.high - other.low)
            for own, other in self.pairs
            if other.high > other.low
        )
        return (
            f"{differing} of {len(self.pairs)} intervals differ from SciPy's BCa by more than a tenth of their width (≠); ours, corrected"
            f" for few seeds, are {ratio:.2f} times as wide in the median."
        )
