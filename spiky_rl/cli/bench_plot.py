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
SIZES = {"ms": 10, "±": 5, "ratio": 8, "MiB": 8, "same": 6, "cosine": 8}
OURS, OTHERS = ("#fdc9a0", "#8f2d05"), ("#c3d0de", "#1f3a56")
"""Colours from the smallest batch to the largest."""


def header(names: Iterable[str], device: str, threads: int, rounds: int) -> str:
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
    lines += [f"{name}: {CONTENDERS[name].note}" for name in names if CONTENDERS[name].note]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The CPU's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


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
    lines.append(" " * 18 + "".join(f"{f' {mode} ':─^{_width(mode) - 3}}".rjust(_width(mode)) for mode in modes))
    lines.append(" " * 18 + "".join(f"{name:>{SIZES[name]}}" for mode in modes for name in COLUMNS[mode]))
    for name in unique(rows, "contender"):
        mine = {row["mode"]: row for row in rows if row["contender"] == name}
        lines.append(f"{name:18}" + "".join(_cells(mine[mode], mode) for mode in modes).rstrip())
    for row in rows:
        if (row["first_call_s"] or 0.0) > SLOW:
            lines.append(f"{row['contender']} needed {row['first_call_s']:.1f} s for its first call ({row['mode']})")
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
        "MiB": _number(row["saved_bytes"] and row["saved_bytes"] / 2**20, "{:.2f}"),
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
        first = {size for size in sizes if size[1] == sizes[0][1]}
        lines = [f"{title:18}" + "".join((f"K {size[0]}" if size in first else "").rjust(8) for size in sizes).rstrip()]
        lines.append(f"{'ratio      batch':18}" + "".join(f"{batch:8}" for _, batch in sizes))
        for name in unique(group, "contender"):
            cells = [_number(ratios.get((name, *size)), "{:.2f}") or "failed" for size in sizes]
            lines.append(f"{name:18}" + "".join(cell.rjust(8) for cell in cells))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def figure(rows: Rows) -> Figure:
    """Ratios on a logarithmic axis: a row of panels per neuron and mode, a column per K, a line per contender, a dot per batch."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    groups, columns, batches = panels(rows), unique(rows, "steps"), unique(rows, "batch")
    heights = [len(unique(group, "contender")) for _, group in groups]
    found = Figure(figsize=(3.6 * len(columns) + 1.8, 0.3 * sum(heights) + 0.75 * len(groups) + 1.2), layout="constrained")
    axes = found.subplots(len(groups), len(columns), squeeze=False, sharex="row", sharey="row", height_ratios=heights)
    shade = [i / max(1, len(batches) - 1) for i in range(len(batches))]
    palettes = {
        ours: [LinearSegmentedColormap.from_list("", ends)(part) for part in shade]
        for ours, ends in ((True, OURS), (False, OTHERS))
    }
    for (title, group), line in zip(groups, axes, strict=True):
        for steps, axis in zip(columns, line, strict=True):
            _panel(axis, [row for row in group if row["steps"] == steps], unique(group, "contender"), palettes, batches)
            axis.set_title(f"{title}, K = {steps}", loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("times faster than the reference (log scale)", fontsize=9)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=color, label=f"batch {batch}")
        for batch, color in zip(batches, palettes[False], strict=True)
    ]
    found.legend(handles=marks, loc="outside upper right", ncols=len(marks), frameon=False, fontsize=9)
    place = rows[0]["device"] if rows[0]["device"] != "cpu" else f"CPU, {rows[0]['threads']} thread"
    found.suptitle(f"{'-'.join(map(str, WIDTHS))}, {place}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return found


def _panel(axis: Axes, rows: Rows, names: list[str], palettes: Mapping[bool, list[Any]], batches: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_xscale("log")
    axis.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
    for height, name in enumerate(reversed(names)):
        mine = [row for row in rows if row["contender"] == name and row["ratio"]]
        ours = name.startswith("spiky_rl")
        if mine and name not in REFERENCES:
            ratios = [row["ratio"] for row in mine]
            colors = [palettes[ours][batches.index(row["batch"])] for row in mine]
            axis.plot([min(ratios), max(ratios)], [height] * 2, color="0.85", linewidth=2, zorder=1)
            axis.scatter(ratios, [height] * len(mine), c=colors, s=34, zorder=2, edgecolors="white", linewidths=0.5)
    axis.set_yticks(range(len(names)), names[::-1])
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("spiky_rl") else "normal")
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="x", color="0.93", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
