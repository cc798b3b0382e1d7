"""Tables and figure of ``bench.py``, from the rows of its JSON file."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.contenders import LONE_NEURONS
from benchmarks.entries import CONTENDERS, FORMS, NETWORKS, REFERENCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.contenders import Setting

Rows = Sequence[Mapping[str, Any]]

SLOW = 2.0
"""Seconds; a slower first call is reported."""
NAME = 32
"""Width of the column of names, in characters."""
COLUMNS = {
    "train": ("ms", "±", "ratio", "MiB", "same", "cosine"),
    "infer": ("ms", "±", "ratio", "same"),
}
"""Columns of the table, by mode; `format_header` explains them."""
SIZES = {"ms": 10, "±": 5, "ratio": 8, "MiB": 10, "same": 6, "cosine": 8}
"""Widths of the columns in characters."""
COLORS = {
    "spiky_rl": ("#fdc9a0", "#8f2d05"),
    "eager torch": ("#c3d0de", "#1f3a56"),
    "compiled": ("#cbe3c6", "#22591b"),
    "JAX": ("#ddcbe8", "#53246f"),
    "other work": ("#dedede", "#4d4d4d"),
}
"""Colours from the smallest batch to the largest, by form."""


def format_header(
    names: Iterable[str], compared: Sequence[Setting], threads: int, rounds: int, keeps_memory: bool
) -> str:
    """Return the header of the output: networks, machine, and the meaning of the columns."""
    device = compared[0].device
    machine = f"{get_processor()}, {threads} thread{'s' * (threads > 1)}"
    clock = "process CPU time" if threads == 1 else "wall time"
    if device != "cpu":
        machine, clock = f"{torch.cuda.get_device_name(device)} ({device})", "wall time"
    titles = {get_network(kind): setting for setting in compared for kind in setting.kinds}
    lines = [
        f"{network} {setting.format_widths()}"
        + f", {setting.control_steps} control steps" * setting.has_sequences
        + f", {machine}, torch {torch.__version__}"
        for network, setting in titles.items()
    ]
    lines += [
        f"ms      median {clock} of {rounds} interleaved rounds; ± interquartile range",
        "ratio   the first line's time / contender's: above 1 is faster",
        "MiB     kept for the backward pass, without weights",
        "same    share of the outputs that equal the first line's; cosine: between the weights' gradients",
    ]
    if "reservoir" in titles:
        lines.append("train   of a reservoir: run without gradients, and its readout forward and backward")
    if keeps_memory:
        lines.append("malloc  keeps freed memory (mallopt), so that page faults do not affect the times")
    lines += [f"{name}: {CONTENDERS[name].note}" for name in names if CONTENDERS[name].note]
    return "\n".join(lines) + "\n"


def get_network(kind: str) -> str:
    """Return the network of contenders of a kind."""
    return next(name for name, setting in NETWORKS.items() if kind in setting.kinds)


def get_kind(row: Mapping[str, Any]) -> str:
    """Return the kind of a row's contender."""
    return CONTENDERS[row["contender"]].kind


def get_processor() -> str:
    """Return the name of the CPU."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def format_table(rows: Rows) -> str:
    """Return a table of all contenders with one neuron, K and batch size: one line each, modes side by side."""
    groups = ([row for row in rows if get_kind(row) == kind] for kind in REFERENCES)
    return "\n".join(_format_block(group) for group in groups if group)


SUFFIXES = {"network": "", "neuron": " alone", "recurrent": " recurrent", "reservoir": " reservoir"}
"""Suffix of the neuron's name in a title, by kind of contender."""


def _format_title(row: Mapping[str, Any]) -> str:
    """Return neuron, inner steps, batch, control steps and firing rates of a ``row`` in one line."""
    kind = get_kind(row)
    title = f"{row['neuron']}{SUFFIXES[kind]}   K {row['steps']}   batch {row['batch']}"
    if kind == "neuron":
        title += f" x {LONE_NEURONS}"
    if row["control_steps"] > 1:
        title += f"   T {row['control_steps']}"
    rates = " ".join(f"{100 * rate:.0f}" for rate in row["rates"] or [])
    return f"{title}   firing {rates} %" if rates else title


def _format_block(rows: Rows) -> str:
    modes = list_distinct(rows, "mode")
    lines = [_format_title(rows[0])]
    lines.append(
        " " * NAME
        + "".join(f"{f' {mode} ':─^{_get_width(mode) - 3}}".rjust(_get_width(mode)) for mode in modes)
    )
    lines.append(" " * NAME + "".join(f"{name:>{SIZES[name]}}" for mode in modes for name in COLUMNS[mode]))

    def format_line(name: str) -> str:
        mine = {row["mode"]: row for row in rows if row["contender"] == name}
        return "".join(_format_cells(mine[mode], mode) for mode in modes)

    lines += _list_lines(rows, format_line)
    for row in rows:
        if (row["first_call_s"] or 0.0) > SLOW:
            lines.append(
                f"{row['contender']} needed {row['first_call_s']:.1f} s for its first call ({row['mode']})"
            )
    return "\n".join(lines) + "\n"


def _list_lines(rows: Rows, format_line: Callable[[str], str]) -> list[str]:
    """Return a line for each contender, from ``format_line``, below the name of its form and indented by it."""
    lines = []
    for form, names in group_contenders(rows):
        if form:
            lines.append(form)
        lines += [f"{'  ' * bool(form) + name:{NAME}}{format_line(name).rstrip()}" for name in names]
    return lines


def _get_width(mode: str) -> int:
    return sum(SIZES[name] for name in COLUMNS[mode])


def _format_cells(row: Mapping[str, Any], mode: str) -> str:
    if row["failed"]:
        return "failed".rjust(SIZES["ms"]).ljust(_get_width(mode))
    cells = {
        "ms": f"{row['ms']:.3f}",
        "±": f"{row['spread']:.0%}",
        "ratio": _format_number(row["ratio"], "{:.2f}"),
        "MiB": _format_number(row["saved_bytes"] and row["saved_bytes"] / 2**20, "{:.3f}"),
        "same": _format_number(row["same"], "{:.0%}"),
        "cosine": _format_number(row["cosine"], "{:.4f}"),
    }
    return "".join(cells[name].rjust(SIZES[name]) for name in COLUMNS[mode])


def _format_number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def list_distinct(rows: Rows, key: str) -> list[Any]:
    """Return the distinct values of a column, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def group_contenders(rows: Rows) -> list[tuple[str, list[str]]]:
    """Return (form, contenders) of each form; first the reference, whose form is ""."""
    names = list_distinct(rows, "contender")
    references = [name for name in names if name in REFERENCES.values()]
    others = [name for name in names if name not in REFERENCES.values()]
    groups = [("", references)]
    groups += [(form, [name for name in others if CONTENDERS[name].form == form]) for form in FORMS]
    return [(form, group) for form, group in groups if group]


def group_rows(rows: Rows) -> list[tuple[str, Rows]]:
    """Return (title, rows) of each comparison: a neuron in a network at one firing rate in one mode, or a neuron alone."""
    groups = []
    several = len(list_distinct(rows, "rate")) > 1
    for neuron, kind, rate in itertools.product(
        list_distinct(rows, "neuron"), REFERENCES, list_distinct(rows, "rate")
    ):
        mine = [row for row in rows if (row["neuron"], get_kind(row), row["rate"]) == (neuron, kind, rate)]
        for mode in list_distinct(mine, "mode"):
            title = f"{neuron}{SUFFIXES[kind]}, {mode}" + f", firing {100 * rate:.0f} %" * several
            groups.append((title, [row for row in mine if row["mode"] == mode]))
    return groups


def format_summary(rows: Rows) -> str:
    """Return the ratios of all contenders at all sizes, one table per neuron and mode."""
    return "\n".join(_format_ratios(title, group) for title, group in group_rows(rows))


def _format_ratios(title: str, group: Rows) -> str:
    """Return the table of the ratios of a neuron and mode."""
    sizes = list(itertools.product(list_distinct(group, "steps"), list_distinct(group, "batch")))
    row_by_place = {(row["contender"], row["steps"], row["batch"]): row for row in group}
    first = [steps if batch == sizes[0][1] else "" for steps, batch in sizes]
    lines = [f"{title}, ratio"]
    lines.append(f"{'K':{NAME}}" + "".join(f"{steps:8}" for steps in first).rstrip())
    lines.append(f"{'batch':{NAME}}" + "".join(f"{batch:8}" for _, batch in sizes))

    def format_line(name: str) -> str:
        rows = [row_by_place.get((name, *size), {}) for size in sizes]
        # without a ratio where the reference failed
        cells = [
            "failed" if row.get("failed") else _format_number(row.get("ratio"), "{:.2f}") or "-"
            for row in rows
        ]
        return "".join(cell.rjust(8) for cell in cells)

    return "\n".join([*lines, *_list_lines(group, format_line)]) + "\n"


def _make_palettes(count: int) -> dict[str, list[Any]]:
    """Return ``count`` shades of the colour of each form, from light to full."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = [(i + 1) / count for i in range(count)]
    return {
        form: [LinearSegmentedColormap.from_list("", ends)(shade) for shade in shades]
        for form, ends in COLORS.items()
    }


def _draw_legend(
    figure: Figure,
    palettes: Mapping[str, Sequence[Any]],
    batches: Sequence[int],
    forms: Sequence[str],
    columns: int,
) -> None:
    """Draw a dot for each batch in the colours of two forms, then a square for each form, in at most ``columns``."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    marks: list[Any] = [
        tuple(Line2D([], [], marker="o", linestyle="", color=palettes[form][i]) for form in FORMS[:2])
        for i in range(len(batches))
    ]
    marks += [Line2D([], [], marker="s", linestyle="", color=palettes[form][-1]) for form in forms]
    figure.legend(
        marks,
        [f"batch {batch}" for batch in batches] + list(forms),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
        loc="outside lower center",
        ncols=min(len(marks), columns),
        frameon=False,
        fontsize=9,
    )


UNDRAWN = ("autograd_floor",)
"""Contenders outside of the figure: the ratio of this one grows with the batch, and would press all others together."""


def draw_figure(rows: Rows) -> Figure:
    """Draw the ratios on a log axis: a row of panels per neuron and mode, a column per K, a line per contender, a dot per batch.

    Panels of one K with the same contenders are side by side.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["contender"] not in UNDRAWN]
    groups, batches = group_rows(rows), list_distinct(rows, "batch")
    columns = max(len(list_distinct(group, "steps")) for _, group in groups)
    names = [[name for form, some in group_contenders(group) if form for name in some] for _, group in groups]
    is_wide = columns == 1 and all(some == names[0] for some in names)
    heights = [max(1, len(some)) for some in (names[:1] if is_wide else names)]
    if is_wide:
        columns = len(groups)
    size = 3.4 * columns + 1.8, 0.3 * sum(heights) + 0.9 * len(heights) + 0.8
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    axes = figure.subplots(
        len(heights), columns, squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    if is_wide:
        axes = axes.T
    palettes = _make_palettes(len(batches))
    for (title, group), group_names, line in zip(groups, names, axes, strict=True):
        reference, inner = REFERENCES[get_kind(group[0])], list_distinct(group, "steps")
        for axis in line[len(inner) :]:
            axis.set_visible(False)
        for steps, axis in zip(inner, line, strict=False):
            _draw_panel(axis, [row for row in group if row["steps"] == steps], group_names, palettes, batches)
            axis.set_title(f"{title}, K = {steps}", loc="left", fontsize=10)
            axis.set_xlabel(f"times as fast as {reference}", fontsize=8, color="0.35")
    present = {CONTENDERS[row["contender"]].form for row in rows}
    _draw_legend(figure, palettes, batches, [form for form in FORMS if form in present], 3 * columns)
    figure.suptitle(_format_figure_title(rows), x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _format_figure_title(rows: Rows) -> str:
    """Return the networks and the device of all ``rows``."""
    device, threads = rows[0]["device"], rows[0]["threads"]
    machine = f"{threads} CPU thread{'s' * (threads > 1)}" if device == "cpu" else device
    titles = dict.fromkeys(
        NETWORKS[get_network(get_kind(group[0]))].format_widths() for _, group in group_rows(rows)
    )
    return f"{', '.join(titles)} on {machine}"


def _draw_panel(
    axis: Axes, rows: Rows, names: list[str], palettes: Mapping[str, list[Any]], batches: list[int]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.axvline(1.0, color="0.4", linewidth=1.0, zorder=1)
    for height, name in enumerate(reversed(names)):
        mine = [row for row in rows if row["contender"] == name and row["ratio"]]
        if mine:
            ratios = [row["ratio"] for row in mine]
            colors = [palettes[CONTENDERS[name].form][batches.index(row["batch"])] for row in mine]
            axis.plot([min(ratios), max(ratios)], [height] * 2, color="0.85", linewidth=2, zorder=2)
            heights = [height] * len(mine)
            axis.scatter(ratios, heights, c=colors, s=38, zorder=3, edgecolors="white", linewidths=0.6)
    axis.set_yticks(range(len(names)), names[::-1])
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if CONTENDERS[label.get_text()].form == "spiky_rl" else "normal")
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="x", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=8, labelbottom=True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("0.8")
