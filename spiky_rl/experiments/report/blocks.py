"""Building blocks of a report, independent of its format, and the formats of its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.design.planned import ALPHA
from spiky_rl.experiments.report import drawing

NONE = "–"
"""Text of a missing number."""


@dataclass(frozen=True)
class Column:
    """One column of a table, with a cell for each row."""

    title: str
    cells: Sequence[str]
    unit: str = ""
    is_text: bool = False
    """Text is aligned to the left."""


@dataclass(frozen=True)
class Block:
    """A part of a section; its kind decides which fields it has."""

    kind: str
    """``text``, ``list``, ``terms``, ``code``, ``table``, ``figure`` or ``details``."""
    text: str = ""
    """Content of a text or code; caption of a figure, note of a table."""
    title: str = ""
    items: Sequence[tuple[str, str]] = ()
    """Entries of a list: (term or empty, text)."""
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[str]] = ()
    name: str = ""
    """File stem of a figure."""
    svg: str = ""
    blocks: Sequence[Block] = ()
    """Collapsed content."""


@dataclass(frozen=True)
class Section:
    """A heading and its content."""

    name: str
    title: str
    blocks: Sequence[Block]


def make_paragraph(text: str) -> Block:
    """Return a paragraph."""
    return Block("text", text)


def make_collapsible(title: str, *blocks: Block) -> Block:
    """Return ``blocks`` below a ``title`` that opens them."""
    return Block("details", title=title, blocks=blocks)


def make_table(
    title: str, names: Sequence[str], *columns: Column, first: str = "agent", note: str = ""
) -> Block:
    """Return a table with a row for each of the ``names``, whose column has the title ``first``; columns without any number are left out."""
    shown = [Column(first, names), *(c for c in columns if any(cell != NONE for cell in c.cells))]
    return Block("table", note, title, columns=shown, rows=list(zip(*(c.cells for c in shown), strict=True)))


def list_cells(items: Iterable[object], attribute: str, format_cell: Callable[[Any], str] = str) -> list[str]:
    """Return the cells of a column: an ``attribute`` of each of the ``items`` as text, a dash for None."""
    values = [getattr(item, attribute) for item in items]
    return [NONE if value is None else format_cell(value) for value in values]


def make_figure(name: str, title: str, caption: str, draw: Callable[[], Figure | None]) -> list[Block]:
    """Return the figure with the file stem ``name``, or no block if ``draw`` returns None; the ``title`` is for screen readers too."""
    svg = drawing.render_svg(name, title, draw)
    return [] if svg is None else [Block("figure", caption, title, name=name, svg=svg)]


def make_slug(task: str) -> str:
    """Return ``task`` as a part of a file name."""
    return "".join(letter if letter.isalnum() else "_" for letter in task.lower())


def join_names(names: Iterable[str], most: int = 6) -> str:
    """Return ``a, b and c``; of more than ``most`` names the first ones and the number of others."""
    texts = list(names)
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} others"]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def format_fixed(value: float | None, digits: int = 2) -> str:
    """Return ``value`` with ``digits`` decimals, without the sign of a zero; a dash for None and nan."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "" if float(text.replace(",", "")) == 0 else "−")


def format_p_value(p: float) -> str:
    """Return a p-value with two significant digits, or with those that show on which side of `ALPHA` it lies."""
    if p < 0.001:
        return "< 0.001"
    digits = 3 if p < 0.1 else 2
    while p < ALPHA <= float(f"{p:.{digits}f}"):
        digits += 1
    return f"{p:.{digits}f}"


def format_interval(interval: Interval | None, digits: int = 2, scale: float = 1.0) -> str:
    """Return ``4.89 [4.85, 4.92]``, all three times ``scale``; the estimate alone without variation or bounds, a dash for None."""
    if interval is None or math.isnan(interval.estimate):
        return NONE
    low, middle, high = (
        format_fixed(v * scale, digits) for v in (interval.low, interval.estimate, interval.high)
    )
    alone = interval.low == interval.high or not math.isfinite(interval.low)
    return middle if alone else f"{middle} [{low}, {high}]"


def format_intervals(
    intervals: Sequence[Interval | None], scale: float = 1.0, *, least: int = 0, each: bool = False
) -> list[str]:
    """Return the cells of a column of intervals times ``scale``, with the decimals that the largest estimate needs, at ``least`` so many.

    With ``each`` every interval has the decimals of its own size. None gives a dash.
    """
    needed = [_count_decimals(i, scale) for i in intervals if i is not None and not math.isnan(i.estimate)]
    shared = max(least, min(needed, default=0))
    return [
        format_interval(i, _count_own_decimals(i, scale) if each and i is not None else shared, scale)
        for i in intervals
    ]


def _count_decimals(interval: Interval, scale: float) -> int:
    """Return the decimals of an estimate in a column."""
    size = abs(interval.estimate * scale)
    return 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 else 4


def _count_own_decimals(interval: Interval, scale: float) -> int:
    """Return the decimals that give three significant digits; none for an integer without variation."""
    size = abs(interval.estimate * scale)
    varies = math.isfinite(interval.low) and interval.low < interval.high
    if not math.isfinite(size) or (not varies and size == round(size)):
        return 0
    return min(6, max(0, 2 - math.floor(math.log10(size)))) if size else 2
