"""Printers of the commands: aligned columns, the outcome of a run, tables of numbers."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

WIDTH = 100
"""Maximum width of aligned columns in characters; a wider terminal is used."""
MIN_LAST = 30
"""Minimum width of the last column, even if a line gets wider than `WIDTH`."""


def print_columns(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns; long texts of the last column are wrapped."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    width = max(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns) if sys.stdout.isatty() else WIDTH
    left = sum(widths) + 2 * len(widths)
    for *first, last in rows:
        cells = [str(cell).ljust(width) for cell, width in zip(first, widths, strict=True)]
        head, *more = textwrap.wrap(str(last), max(width - left, MIN_LAST), break_on_hyphens=False) or [""]
        print("  ".join([*cells, head]).rstrip())
        for line in more:
            print(" " * left + line)


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
    Console().print(table)
