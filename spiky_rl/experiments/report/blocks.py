"""What a report is made of, whatever it is written in, and how it writes numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report import drawing
from spiky_rl.experiments.report.drawing import Sheet

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


def paragraph(text: str) -> Block:
    """A text."""
    return Block("text", text)


def folded(title: str, *blocks: Block) -> Block:
    """Blocks that a reader opens."""
    return Block("details", title=title, blocks=blocks)


def table(
    title: str,
    named: Sequence[str],
    *parts: tuple[Column, Sequence[str]],
    first: str = "agent",
    note: str = "",
) -> Block:
    """A row for each name; columns in which no row has anything are left out."""
    kept = [(column, cells) for column, cells in parts if any(cell != NONE for cell in cells)]
    rows = [[name, *(cells[i] for _, cells in kept)] for i, name in enumerate(named)]
    return Block("table", note, title, columns=[Column(first), *(column for column, _ in kept)], rows=rows)


def count(number: int, noun: str) -> str:
    """1 seed, 5 seeds."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], most: int = 6) -> str:
    """``a, b and c``; of many the first ones, and how many others there are."""
    found = list(names)
    if len(found) > most:
        found = [*found[: most - 1], f"{len(found) - most + 1} others"]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def slug(task: str) -> str:
    """A task's name in a file's."""
    return "".join(letter if letter.isalnum() else "_" for letter in task.lower())


def plain(value: float | None, digits: int = 2) -> str:
    """A number as text, without a minus before a zero."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "" if float(text.replace(",", "")) == 0 else "−")


def probability(p: float) -> str:
    """A p-value with two digits that count."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def spell(interval: Interval | None, digits: int = 2, scale: float = 1.0) -> str:
    """``4.89 [4.85, 4.92]``; the estimate alone where nothing varies, or where there is no interval."""
    if interval is None or math.isnan(interval.estimate):
        return NONE
    low, middle, high = (plain(v * scale, digits) for v in (interval.low, interval.estimate, interval.high))
    alone = interval.low == interval.high or not math.isfinite(interval.low)
    return middle if alone else f"{middle} [{low}, {high}]"


def spelled(
    intervals: Sequence[Interval | None], scale: float = 1.0, *, least: int = 0, each: bool = False
) -> list[str]:
    """A column of intervals, all with as many digits as the largest estimate asks for, or ``each`` with its own."""
    shared = shared_digits(intervals, scale, least)
    return [
        spell(i, digits_of(i, scale, True) if each and i is not None else shared, scale) for i in intervals
    ]


def shared_digits(intervals: Sequence[Interval | None], scale: float = 1.0, least: int = 0) -> int:
    """After the point, of a column of intervals: as many as the largest estimate asks for."""
    return max(least, min((digits_of(i, scale, False) for i in intervals if i is not None), default=0))


def digits_of(interval: Interval, scale: float, alone: bool) -> int:
    """After the point: three that count; none of a whole number that stands alone."""
    size = abs(interval.estimate * scale)
    varies = math.isfinite(interval.low) and interval.low < interval.high
    if not math.isfinite(size) or (alone and not varies and size == round(size)):
        return 0
    if alone:
        return min(6, max(0, 2 - math.floor(math.log10(size)))) if size else 2
    return 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 else 4


def figure(name: str, title: str, caption: str, draw: Callable[[], Sheet | None]) -> list[Block]:
    """The figure, or nothing where there is nothing to draw."""
    svg = drawing.svg(name, title, draw)
    return [] if svg is None else [Block("figure", caption, title, name=name, svg=svg)]
