"""Drawing tools for a report's figures: panels placed in inches, SVG text, and labels that do not overlap.

Text stays text. Labels are placed by the width of DejaVu Sans, which matplotlib carries with it and which is wider than what a
page shows them in: so nothing depends on a machine's fonts, and what fits here fits everywhere.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, RULE, PALE = "#1c2126", "#5d6770", "#e3e6ea", "#f6f7f9"
FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
WIDTH, SIZE = 10.0, 9.0
"""Inches of a figure, which a page's column scales; points of its text."""
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
}
type Box = tuple[float, float, float, float]
"""Left, low, right, high, in inches."""
DOTTED: Mapping[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (1, 2))}


class FigureSheet:
    """A figure whose panels are placed in inches, so that their places depend on no font."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        self.height, self.width = height, width
        self.figure = Figure(figsize=(width, height))

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes of that ``width`` and ``height`` whose upper left corner lies at (``left``, ``top``) from the sheet's, in inches."""
        bottom = (self.height - top - height) / self.height
        return self.figure.add_axes((left / self.width, bottom, width / self.width, height / self.height))


def svg(name: str, title: str, draw: Callable[[], FigureSheet | None]) -> str | None:
    """The figure that ``draw`` makes, as SVG that scales with its column; None where it makes none.

    Args:
        name: Keeps its identifiers apart from those of other figures on the page.
        title: What is read aloud for it.
        draw: Makes it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        if (sheet := draw()) is None:
            return None
        sheet.figure.savefig(
            file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = re.sub(r"\A.*?(?=<svg)|<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("'DejaVu Sans'", FONTS)
    text = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)
    narrow = 'class="narrow" ' if sheet.width < WIDTH else ""
    return text.replace("<svg ", f'<svg {narrow}role="img" aria-label="{escape(title)}" ', 1).rstrip()


def draw_interval(axes: Axes, y: float, interval: Interval, colour: str) -> None:
    """Draw a dot at the estimate and a line over its interval, where it has bounds.

    Args:
        axes: To draw in.
        y: How high.
        interval: Along x.
        colour: Colour of both.
    """
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(
        [interval.estimate],
        [y],
        "o",
        color=colour,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.8,
    )


def format_tick(value: float, _place: object = None) -> str:
    """The count ``value`` for an axis: 800 k, 1.6 M. matplotlib gives its ``_place`` too."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def text_width(text: str, size: float = SIZE) -> float:
    """Inches that a line of ``text`` takes at most, ``size`` in points."""
    return 0.62 * size * len(text) / 72.0


def fit_label(label: str, most: int = 38) -> str:
    """The label; one of more than ``most`` characters with the last part of each varied key, then without its middle."""
    if len(label) > most:
        label = re.sub(r"\S+\.(\w+)=", r"\1=", label)
    return label if len(label) <= most else f"{label[: most // 2]}…{label[most // 2 + 1 - most :]}"


def spread_positions(wanted: Mapping[str, float], gap: float, highest: float) -> dict[str, float]:
    """Places near the wanted ones with ``gap`` between them, none above ``highest``."""
    places: dict[str, float] = {}
    last = highest + gap / 2
    for label, place in sorted(wanted.items(), key=lambda item: -item[1]):
        places[label] = last = min(place, last - gap)
    return places


def place_labels(
    points: Mapping[str, tuple[float, float]], drawn: Sequence[Box], width: float, height: float
) -> dict[str, tuple[float, float]]:
    """Where each label's left middle goes, in inches from its point: on no point, no other label, and nothing drawn.

    Args:
        points: By label, in inches from the lower left corner.
        drawn: Boxes to keep clear of.
        width: Inches of the panel.
        height: Likewise.
    """
    boxes = [(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y in points.values()]
    boxes += [(a - 0.015, b - 0.015, c + 0.015, d + 0.015) for a, b, c, d in drawn]
    offsets: dict[str, tuple[float, float]] = {}
    for label, (x, y) in sorted(points.items(), key=lambda item: (-item[1][1], item[1][0])):
        wide, candidates = text_width(fit_label(label), 8.0), []
        for step in range(1, 21):
            for angle in range(0, 360, 30):
                dx, dy = (0.12 * step * f(math.radians(angle)) for f in (math.cos, math.sin))
                dx -= wide if dx < -0.01 else wide / 2 if dx < 0.01 else 0.0
                box = (x + dx, y + dy - 0.075, x + dx + wide, y + dy + 0.075)
                outside = max(-box[0], 0) + max(box[2] - width, 0) + max(-box[1], 0) + max(box[3] - height, 0)
                covered = outside + sum(compute_overlap(box, other) for other in boxes)
                candidates.append((covered, step, angle, box))
        *_, box = min(candidates)
        boxes.append(box)
        offsets[label] = (box[0] - x, (box[1] + box[3]) / 2 - y)
    return offsets


def compute_overlap(a: Box, b: Box) -> float:
    """Area that the boxes ``a`` and ``b`` share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
