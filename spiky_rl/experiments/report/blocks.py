"""Building blocks of a report, independent of its format, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report import drawing

NONE = "–"
"""For what there is no number of."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    unit: str = ""
    is_text: bool = False
    """Then it is aligned to the left."""


@dataclass(frozen=True)
class Block:
    """A part of a section; which fields it has depends on its kind."""

    kind: str
    """``text``, ``list``, ``terms``, ``code``, ``table``, ``figure`` or ``details``."""
    text: str = ""
    """Content of a text or code; a figure's caption, a table's note."""
    title: str = ""
    items: Sequence[tuple[str, str]] = ()
    """Entries of a list: (term or nothing, text)."""
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[str]] = ()
    name: str = ""
    """Stem of a figure's file."""
    svg: str = ""
    blocks: Sequence[Block] = ()
    """What is folded away."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    name: str
    title: str
    blocks: Sequence[Block]


def make_paragraph(text: str) -> Block:
    """A text."""
    return Block("text", text)


def make_collapsible(title: str, *blocks: Block) -> Block:
    """``blocks`` below a ``title`` that a reader opens."""
    return Block("details", title=title, blocks=blocks)


def table(
    title: str,
    named: Sequence[str],
    *parts: tuple[Column, Sequence[str]],
    first: str = "agent",
    note: str = "",
) -> Block:
    """A table with a row for each name; columns in which no row has anything are left out.

    Args:
        title: What it shows.
        named: Names of its rows.
        parts: Its columns, each with a cell for every row.
        first: Title of the names' column.
        note: Text below it.
    """
    shown = [(column, cells) for column, cells in parts if any(cell != NONE for cell in cells)]
    rows = [[name, *(cells[i] for _, cells in shown)] for i, name in enumerate(named)]
    return Block("table", note, title, columns=[Column(first), *(column for column, _ in shown)], rows=rows)


def format_count(number: int, noun: str) -> str:
    """The ``number`` with its ``noun``: 1 seed, 5 seeds."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_names(names: Iterable[str], most: int = 6) -> str:
    """``a, b and c``; of more ``names`` than ``most`` the first ones, and how many others there are."""
    texts = list(names)
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} others"]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def slug(task: str) -> str:
    """The name of a ``task`` as a part of a file's."""
    return "".join(letter if letter.isalnum() else "_" for letter in task.lower())


def format_fixed(value: float | None, digits: int = 2) -> str:
    """The ``value`` with ``digits`` after the point, without a minus before a zero; a dash for None and nan."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "" if float(text.replace(",", "")) == 0 else "−")


def probability(p: float) -> str:
    """A p-value with two digits that count."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def format_interval(interval: Interval | None, digits: int = 2, scale: float = 1.0) -> str:
    """``4.89 [4.85, 4.92]``; the estimate alone where nothing varies, or where there are no bounds.

    Args:
        interval: None: a dash.
        digits: After the point.
        scale: What all three are multiplied by.
    """
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
    """A column of intervals, all with as many digits as the largest estimate asks for.

    Args:
        intervals: Row by row; None: a dash.
        scale: What they are multiplied by.
        least: Digits after the point, at least.
        each: Give each as many digits as its own size asks for.
    """
    shared = count_shared_digits(intervals, scale, least)
    return [
        format_interval(i, count_digits(i, scale, True) if each and i is not None else shared, scale)
        for i in intervals
    ]


def count_shared_digits(intervals: Sequence[Interval | None], scale: float = 1.0, least: int = 0) -> int:
    """Digits after the point of a column of intervals: as many as the largest estimate asks for.

    Args:
        intervals: Row by row; None: the row has none.
        scale: What they are multiplied by.
        least: Digits, at least.
    """
    return max(least, min((count_digits(i, scale, False) for i in intervals if i is not None), default=0))


def count_digits(interval: Interval, scale: float, alone: bool) -> int:
    """Digits after the point: three that count; none of a whole number that stands alone.

    Args:
        interval: Whose estimate is written.
        scale: What it is multiplied by.
        alone: Whether it is not one of a column, whose numbers have equally many.
    """
    size = abs(interval.estimate * scale)
    varies = math.isfinite(interval.low) and interval.low < interval.high
    if not math.isfinite(size) or (alone and not varies and size == round(size)):
        return 0
    if alone:
        return min(6, max(0, 2 - math.floor(math.log10(size)))) if size else 2
    return 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 else 4


def make_figure(name: str, title: str, caption: str, draw: Callable[[], Figure | None]) -> list[Block]:
    """The figure, or nothing where there is nothing to draw.

    Args:
        name: Stem of its file.
        title: What it shows, also read aloud.
        caption: Text below it.
        draw: Draws it; None: there is nothing to draw.
    """
    svg = drawing.svg(name, title, draw)
    return [] if svg is None else [Block("figure", caption, title, name=name, svg=svg)]
