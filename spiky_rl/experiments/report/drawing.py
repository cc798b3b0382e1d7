"""Drawing tools for a report's figures: one style, SVG text, intervals, rows of agents.

Matplotlib's constrained layout measures text in DejaVu Sans, which comes with matplotlib and is wider than the fonts of a page. So a
figure is the same on every machine, and text that fits here fits everywhere.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, RULE, PALE = "#1c2126", "#5d6770", "#e3e6ea", "#f6f7f9"
FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
WIDTH, SIZE = 10.0, 9.0
"""Width of a figure in inches, which the page scales to its column; size of its text in points."""
LINE = 0.235
"""Height of a row of a list in inches."""
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name with dollars is no formula
    "svg.fonttype": "none",
    "svg.hashsalt": "spiky_rl",
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.edgecolor": "#b4bac1",
    "xtick.color": "#b4bac1",
    "ytick.color": "#b4bac1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.titlesize": SIZE,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "lines.linewidth": 1.6,
    "path.simplify": False,
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": True,
    "figure.labelsize": SIZE,
    "legend.frameon": False,
    "legend.fontsize": SIZE,
}
DOT: Mapping[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}
DOTTED: Mapping[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (1, 2))}


def render_svg(name: str, title: str, draw: Callable[[], Figure | None]) -> str | None:
    """Return the figure that ``draw`` makes as SVG that scales with its column; None if it makes none.

    ``name`` is the prefix of its identifiers, unique on the page; ``title`` is for screen readers.
    """
    file = io.StringIO()
    # the defaults replace what a matplotlibrc of the user or of the working directory says
    with matplotlib.style.context("default"), matplotlib.rc_context(STYLE):
        if (figure := draw()) is None:
            return None
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"\A.*?(?=<svg)|<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("'DejaVu Sans'", FONTS)
    text = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)
    narrow = 'class="narrow" ' if figure.get_figwidth() < WIDTH else ""
    return text.replace("<svg ", f'<svg {narrow}role="img" aria-label="{escape(title)}" ', 1).rstrip()


def make_rows(
    labels: Sequence[str], panels: Sequence[tuple[str, str]], colours: Mapping[str, str]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row for each of the ``labels``, from the top, and ``panels`` of these titles and units side by side."""
    figure = Figure(figsize=(WIDTH, LINE * len(labels) + 0.95))
    panel_axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    for axes, (title, unit) in zip(panel_axes, panels, strict=True):
        axes.set(title=title, xlabel=unit)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for y in range(0, len(labels), 2):
            axes.axhspan(y - 0.5, y + 0.5, color=PALE, linewidth=0, zorder=0)
    panel_axes[0].set_ylim(len(labels) - 0.4, -0.6)
    name_rows(panel_axes[0], labels, colours)
    return figure, panel_axes


def make_grid(
    count: int, columns: int, row_height: float, spare: float = 0.0, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels that share y, in rows of ``columns`` panels; heights are in inches."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, row_height * rows + spare))
    panels = list(figure.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def name_rows(axes: Axes, labels: Sequence[str], colours: Mapping[str, str], middle: float = 0.0) -> None:
    """Write the ``labels`` of rows of height 1 in their ``colours``, each ``middle`` below the beginning of its row."""
    axes.set_yticks([y + middle for y in range(len(labels))], [fit_label(label) for label in labels])
    for text, label in zip(axes.get_yticklabels(), labels, strict=True):
        text.set_color(colours[label])


def draw_interval(axes: Axes, y: float, interval: Interval, colour: str) -> None:
    """Draw a dot at the estimate of an ``interval`` along x and, if it has bounds, a line between them, at height ``y``."""
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([interval.estimate], [y], "o", color=colour, **DOT)


def add_legend(figure: Figure, bold: Sequence[str] = ()) -> None:
    """Name the labelled artists of a ``figure`` right of its panels, in their colours; the ``bold`` labels in bold."""
    legend = figure.legend(loc="outside right upper", labelcolor="linecolor", handlelength=1.2)
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in bold else "normal")


def make_logarithmic(axes: Axes) -> None:
    """Make x of finished ``axes`` logarithmic, with plain numbers; some between powers of ten if fewer than two of these are in sight."""
    axes.set_xscale("log")
    low, high = (math.log10(end) for end in axes.get_xlim())
    is_narrow = math.floor(high) - math.ceil(low) < 1
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axes.xaxis.set_minor_formatter(
        lambda value, _: f"{value:,.12g}" if is_narrow and f"{value:.1e}"[0] in "235" else ""
    )


def format_tick(value: float, _place: object = None) -> str:
    """Return the count ``value`` for an axis: 800 k, 1.6 M. Matplotlib passes a ``_place``, which is not used."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def fit_label(label: str, most: int = 38) -> str:
    """Return the ``label`` in at most ``most`` characters: first only the last part of each varied key stays, then the middle is cut out."""
    if len(label) > most:
        label = re.sub(r"\S+\.(\w+)=", r"\1=", label)
    return label if len(label) <= most else f"{label[: most // 2]}…{label[most // 2 + 1 - most :]}"
