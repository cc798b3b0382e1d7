"""Sections as pages: one of HTML that needs nothing beside it, and the same in Markdown with its figures."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spiky_rl.config import files
from spiky_rl.experiments.report import FIGURES, drawing, markdown
from spiky_rl.experiments.report.blocks import Section

HTML, MARKDOWN = "report.html", "report.md"
FIGURE_LINE = re.compile(rf"^!\[.*\]\({FIGURES}/([^/()]+)\.svg\)$", re.MULTILINE)
"""How the Markdown page names a figure; the template writes it."""


def write_pages(
    folder: Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    colours: Mapping[str, str],
    date: str | None,
) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ into ``folder``; returns the two pages. A section without blocks is left out.

    Args:
        folder: Where to.
        title: What the page answers.
        subtitle: What it is made from.
        sections: In their order.
        colours: Colours of names in tables, by name.
        date: In ISO's form; None: today.
    """
    from jinja2 import Environment, PackageLoader

    files.require_own_folder(folder / FIGURES)
    filled = [section for section in sections if section.blocks]
    context = {
        "title": title,
        "subtitle": subtitle,
        "date": f"Report of {date or datetime.date.today().isoformat()}",
        "sections": filled,
        "colours": colours,
        "fonts": drawing.FONTS,
    }
    drawn = {block.name: block.svg for section in filled for block in section.blocks if block.svg}
    for stem in _list_last_figures(folder):
        if stem not in drawn:
            (folder / FIGURES / f"{stem}.svg").unlink(missing_ok=True)
    for stem, svg in drawn.items():
        files.write_text(folder / FIGURES / f"{stem}.svg", f"{svg}\n")
    loader = PackageLoader("spiky_rl.experiments.report")
    for file, is_html in ((MARKDOWN, False), (HTML, True)):
        templates = Environment(loader=loader, autoescape=is_html, keep_trailing_newline=True)
        templates.filters |= {"plain": markdown.plain, "cell": markdown.cell, "fence": markdown.fence}
        files.write_text(folder / file, templates.get_template(f"{file}.j2").render(context))
    return folder / HTML, folder / MARKDOWN


def _list_last_figures(folder: Path) -> list[str]:
    """Return the names of the figures that the last report in ``folder`` drew, as its Markdown page has them."""
    path = folder / MARKDOWN
    if not path.is_file():
        return []
    return FIGURE_LINE.findall(path.read_text(encoding="utf-8", errors="replace"))
