"""The pages of a report: one of HTML that needs no other file, and the same in Markdown with its figures."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spiky_rl.config import files
from spiky_rl.experiments.report import FIGURES, drawing
from spiky_rl.experiments.report.blocks import Section

HTML, MARKDOWN = "report.html", "report.md"
FIGURE_LINE = re.compile(rf"^!\[.*\]\({FIGURES}/([^/()]+)\.svg\)$", re.MULTILINE)
"""A figure in the Markdown page, as its template writes it."""
TAG = re.compile(r"<(?=[A-Za-z/!?])")
"""Beginning of an HTML element; ``< 0.001`` has none."""


def write_pages(
    folder: Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    colours: Mapping[str, str],
    date: str | None,
) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ into ``folder`` and return the two pages; sections without blocks are left out.

    ``colours`` are those of names in tables; a ``date`` of None takes today.
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
    _write_figures(folder, {b.name: b.svg for section in filled for b in section.blocks if b.svg})
    loader = PackageLoader("spiky_rl.experiments.report")
    for file, is_html in ((MARKDOWN, False), (HTML, True)):
        templates = Environment(loader=loader, autoescape=is_html, keep_trailing_newline=True)
        templates.filters |= {"plain": escape_text, "cell": escape_cell, "fence": make_fence}
        files.write_text(folder / file, templates.get_template(f"{file}.j2").render(context))
    return folder / HTML, folder / MARKDOWN


def _write_figures(folder: Path, figures: Mapping[str, str]) -> None:
    """Write the ``figures``, by file stem, and remove the others that the last report's Markdown page names."""
    page = folder / MARKDOWN
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    for stem in set(FIGURE_LINE.findall(text)) - figures.keys():
        (folder / FIGURES / f"{stem}.svg").unlink(missing_ok=True)
    for stem, svg in figures.items():
        files.write_text(folder / FIGURES / f"{stem}.svg", f"{svg}\n")


def escape_text(text: str) -> str:
    """Return ``text`` for Markdown on one line, without HTML, links, images, code and emphasis."""
    text = TAG.sub("&lt;", text.replace("&", "&amp;"))
    text = re.sub(r"([`*\\]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text).replace("](", "]\\(")
    return " ".join(text.splitlines())


def escape_cell(text: str) -> str:
    """Return ``text`` as a cell of a Markdown table, in which it may have several lines."""
    return "<br>".join(escape_text(line).replace("|", "\\|") for line in text.splitlines())


def make_fence(text: str) -> str:
    """Return backquotes for a Markdown code block that contains ``text``."""
    return "`" * (1 + max(map(len, re.findall(r"`{3,}", text)), default=2))
