"""How ``bench.py`` shows its rows: tables for the terminal and one figure. Rows are what its JSON file holds."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spiky_rl.cli.contenders import ALONE, CONTENDERS, REFERENCES, WIDTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

SLOW = 2.0
"""A first call that takes more seconds than this is told."""
COLUMNS = {
    "train": ("ms", "±", "ratio", "MiB", "same", "cosine"),
    "infer": ("ms", "±", "ratio", "same"),
}
SIZES = {"ms": 10, "±": 5, "ratio": 8, "MiB": 10, "same": 6, "cosine": 8}
OURS, OTHERS = ("#fdc9a0", "#8f2d05"), ("#c3d0de", "#1f3a56")
"""Colours from the smallest batch to the largest."""


def header(names: Iterable[str], device: str, threads: int, rounds: int, keeps_memory: bool) -> str:
    """What is measured, where and how, and what the columns mean."""
    place = f"{processor()}, {threads} thread{'s' * (threads > 1)}"
    clock = "process CPU time" if threads == 1 else "wall time"
    if device != "cpu":
        place, clock = f"{torch.cuda.get_device_name(device)} ({device})", "wall time"
    lines = [
        f"network {'-'.join(map(str, WIDTHS))}, {place}, torch {torch.__version__}",
        f"ms      median {clock} of {rounds} interleaved rounds; ± interquartile range",
        "ratio   plain_loop's time / contender's (a lone neuron: torch_neuron's): above 1 is faster",
        "MiB     kept for the backward pass, without weights",
        "same    share of the batch with plain_loop's outputs; cosine: between the weights' gradients",
    ]
    if keeps_memory:
        lines.append("malloc  keeps what is freed (mallopt), so that page faults do not decide")
    lines += [f"{name}: {CONTENDERS[name].note}" for name in names if CONTENDERS[name].note]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The CPU's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def table(rows: Rows) -> str:
    """All contenders of one neuron, K and batch size: one line each, modes side by side."""
    return "\n".join(
        _table([row for row in rows if CONTENDERS[row["contender"]].alone == alone], alone)
        for alone in (False, True)
        if any(CONTENDERS[row["contender"]].alone == alone for row in rows)
    )


def _table(rows: Rows, alone: bool) -> str:
    first, modes = rows[0], unique(rows, "mode")
    rates = " ".join(f"{100 * rate:.0f}" for rate in first["rates"] or [])
    title = f"{first['neuron']}{' alone' * alone}   K {first['steps']}   batch {first['batch']}{f' x {ALONE}' * alone}"
    lines = [f"{title}   firing {rates} %" if rates else title]
    lines.append(
        " " * 18 + "".join(f"{f' {mode} ':─^{_width(mode) - 3}}".rjust(_width(mode)) for mode in modes)
    )
    lines.append(" " * 18 + "".join(f"{name:>{SIZES[name]}}" for mode in modes for name in COLUMNS[mode]))
    for name in unique(rows, "contender"):
        mine = {row["mode"]: row for row in rows if row["contender"] == name}
        lines.append(f"{name:18}" + "".join(_cells(mine[mode], mode) for mode in modes).rstrip())
    for row in rows:
        if (row["first_call_s"] or 0.0) > SLOW:
            lines.append(
                f"{row['contender']} needed {row['first_call_s']:.1f} s for its first call ({row['mode']})"
            )
    return "\n".join(lines) + "\n"


def _width(mode: str) -> int:
    return sum(SIZES[name] for name in COLUMNS[mode])


def _cells(row: Mapping[str, Any], mode: str) -> str:
    if row["failed"]:
        return "failed".rjust(SIZES["ms"]).ljust(_width(mode))
    cells = {
        "ms": f"{row['ms']:.3f}",
        "±": f"{row['spread']:.0%}",
        "ratio": _number(row["ratio"], "{:.2f}"),
        "MiB": _number(row["saved_bytes"] and row["saved_bytes"] / 2**20, "{:.3f}"),
        "same": _number(row["same"], "{:.0%}"),
        "cosine": _number(row["cosine"], "{:.4f}"),
    }
    return "".join(cells[name].rjust(SIZES[name]) for name in COLUMNS[mode])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def unique(rows: Rows, key: str) -> list[Any]:
    """The values of a column, each once, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def panels(rows: Rows) -> list[tuple[str, Rows]]:
    """(title, rows) of everything that belongs into one comparison: a neuron in a mode, or alone."""
    found = []
    for neuron in unique(rows, "neuron"):
        mine = [row for row in rows if row["neuron"] == neuron]
        for mode in unique(mine, "mode"):
            networks = [row for row in mine if row["mode"] == mode and not CONTENDERS[row["contender"]].alone]
            found.append((f"{neuron}, {mode}", networks))
        found.append((f"{neuron} alone, train", [row for row in mine if CONTENDERS[row["contender"]].alone]))
    return [(title, group) for title, group in found if group]


def summary(rows: Rows) -> str:
    """The ratios of all contenders at all sizes, one table per neuron and mode."""
    blocks = []
    for title, group in panels(rows):
        sizes = [(steps, batch) for steps in unique(group, "steps") for batch in unique(group, "batch")]
        ratios = {(row["contender"], row["steps"], row["batch"]): row["ratio"] for row in group}
        first = [steps if batch == sizes[0][1] else "" for steps, batch in sizes]
        lines = [f"{title}, ratio"]
        lines.append(f"{'K':18}" + "".join(f"{steps:8}" for steps in first).rstrip())
        lines.append(f"{'batch':18}" + "".join(f"{batch:8}" for _, batch in sizes))
        for name in unique(group, "contender"):
            cells = [_number(ratios.get((name, *size)), "{:.2f}") or "failed" for size in sizes]
            lines.append(f"{name:18}" + "".join(cell.rjust(8) for cell in cells))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def figure(rows: Rows) -> Figure:
    """Ratios on a logarithmic axis: a row of panels per neuron and mode, a column per K, a line per contender, a dot per batch."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    groups, columns, batches = panels(rows), unique(rows, "steps"), unique(rows, "batch")
    names = [[name for name in unique(group, "contender") if name not in REFERENCES] for _, group in groups]
    heights = [max(1, len(some)) for some in names]
    size = 3.4 * len(columns) + 1.8, 0.3 * sum(heights) + 0.9 * len(groups) + 0.8
    found = Figure(figsize=size, layout="constrained", dpi=150)
    axes = found.subplots(
        *(len(groups), len(columns)), squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    shades = [(i + 1) / len(batches) for i in range(len(batches))]
    palettes = [
        [LinearSegmentedColormap.from_list("", ends)(shade) for shade in shades] for ends in (OTHERS, OURS)
    ]
    for (title, group), some, line in zip(groups, names, axes, strict=True):
        reference = REFERENCES[CONTENDERS[group[0]["contender"]].alone]
        for steps, axis in zip(columns, line, strict=True):
            _panel(axis, [row for row in group if row["steps"] == steps], some, palettes, batches)
            axis.set_title(f"{title}, K = {steps}", loc="left", fontsize=10)
            axis.set_xlabel(f"times as fast as {reference}", fontsize=8, color="0.35")
    marks: list[Any] = [
        tuple(Line2D([], [], marker="o", linestyle="", color=palette[i]) for palette in reversed(palettes))
        for i in range(len(batches))
    ]
    found.legend(
        *(marks, [f"batch {batch}" for batch in batches]),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
        loc="outside lower center",
        ncols=len(batches),
        frameon=False,
        fontsize=9,
    )
    device, threads = rows[0]["device"], rows[0]["threads"]
    place = f"{threads} CPU thread{'s' * (threads > 1)}" if device == "cpu" else device
    found.suptitle(
        f"{'-'.join(map(str, WIDTHS))} on {place}", x=0.01, ha="left", fontsize=12, fontweight="bold"
    )
    return found


def _panel(
    axis: Axes, rows: Rows, names: list[str], palettes: Sequence[list[Any]], batches: list[int]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.axvline(1.0, color="0.4", linewidth=1.0, zorder=1)
    for height, name in enumerate(reversed(names)):
        mine = [row for row in rows if row["contender"] == name and row["ratio"]]
        if mine:
            ratios = [row["ratio"] for row in mine]
            colors = [palettes[name.startswith("spiky_rl")][batches.index(row["batch"])] for row in mine]
            axis.plot([min(ratios), max(ratios)], [height] * 2, color="0.85", linewidth=2, zorder=2)
            axis.scatter(
                *(ratios, [height] * len(mine)), c=colors, s=38, zorder=3, edgecolors="white", linewidths=0.6
            )
    axis.set_yticks(range(len(names)), names[::-1])
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("spiky_rl") else "normal")
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="x", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=8, labelbottom=True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("0.8")
