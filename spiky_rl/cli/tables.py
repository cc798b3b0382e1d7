"""Printers of the commands: aligned columns, the outcome of a run, tables of numbers.

Tables fit 100 columns, or the terminal if it is wider: long texts are wrapped within their column.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

WIDTH = 100
"""Maximum width of aligned columns in characters; a wider terminal is used."""
MIN_LAST = 30
"""Minimum width of the last column in characters."""
GAP = 2
"""Characters between two columns."""
MEASURE_TITLES = {
    "distance": "distance\n[m]",
    "upright": "upright\n[s]",
    "velocity_error": "velocity\nerror [m/s]",
}
"""Measure of a task -> title of its column."""


def get_width() -> int:
    """Return the width of the output in characters: `WIDTH`, or that of a wider terminal."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)


def print_columns(rows: Sequence[Sequence[object]]) -> None:
    """Print rows of equal length in aligned columns; texts that are too long for their column are wrapped."""
    if not rows:
        return
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for line in format_columns(rows, fit_widths(widths, get_width() - GAP * (len(widths) - 1))):
        print(line)


def fit_widths(widths: Sequence[int], total: int) -> list[int]:
    """Return widths of columns whose sum is at most ``total``: the last column shrinks first, to `MIN_LAST`, then the widest ones."""
    *first, last = widths
    last = min(last, max(total - sum(first), MIN_LAST))
    while sum(first) + last > total and first:
        first[first.index(max(first))] -= 1
    return [*first, last]


def format_columns(rows: Sequence[Sequence[object]], widths: Sequence[int]) -> Iterator[str]:
    """Yield the lines of rows in aligned columns of these ``widths``."""
    for row in rows:
        cells = [
            textwrap.wrap(str(cell), width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue="") if any(cells) else [()]:
            yield (" " * GAP).join(
                part.ljust(width) for part, width in zip(parts, widths, strict=False)
            ).rstrip()


def print_text(text: str) -> None:
    """Print a docstring: lines that are too long are wrapped within their paragraph; indented equations are split between them."""
    width = get_width()
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        if all(len(line) <= width for line in lines):
            print(paragraph)
        elif lines[0].startswith(" "):
            for line in lines:
                print_equations(line, width)
        else:
            print(textwrap.fill(" ".join(lines), width, break_on_hyphens=False, break_long_words=False))
        print()


def print_equations(line: str, width: int) -> None:
    """Print an indented line; if it is longer than ``width``, equations, which three spaces separate, get lines of their own."""
    indent = line[: len(line) - len(line.lstrip())]
    parts = [line.strip()] if len(line) <= width else line.strip().split("   ")
    for part in parts:
        print(textwrap.fill(part.strip(), width, initial_indent=indent, subsequent_indent=f"{indent}    "))


def print_facts(title: str, *facts: tuple[str, str] | bool) -> None:
    """Print the outcome of a run: a title, and a line per fact (name, value); False leaves a fact out."""
    print(f"\n{title}")
    for fact in facts:
        if not isinstance(fact, bool):
            print(f"  {fact[0]:<20}{fact[1]}")


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    footers: Sequence[str] | None = None,
    padding: tuple[int, int, int, int] = (0, 1, 0, 1),
) -> None:
    """Print a table of numbers.

    ``footers`` give a table with a box, None a plain table with names in the first column; ``padding`` is that of the cells:
    above, right, below, left.
    """
    from rich.box import HEAVY_HEAD, SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    plain = footers is None
    table = Table(box=SIMPLE if plain else HEAVY_HEAD, padding=padding, show_footer=not plain)
    for i, (title, footer) in enumerate(zip(titles, footers or [""] * len(titles), strict=True)):
        justify = "left" if plain and i == 0 else "right"
        table.add_column(escape(title), footer, justify=justify, no_wrap=plain)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
