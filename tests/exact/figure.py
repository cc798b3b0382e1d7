"""Draws ``docs/adjoint.png``: python -m tests.exact.figure docs/adjoint.png

Left: the golden net of leaky neurons, its potentials and spikes, and the adjoints of potentials and currents, which run from the
end to the beginning and jump at spikes. Right: the gradient of six weights for every neuron, beside central finite
differences.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.exact.nets import GOLDEN, NETS, Net, six

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = 3e-5
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3))
"""Of the six weights in a net's matrix."""
POINTS = 60
"""Of a curve between two events."""
COLOURS = "#c3d0de", "#4d7ea8", "#8f2d05"
NAMES = "hidden neuron 0", "hidden neuron 1", "output neuron"
LABELS = {
    "lif, own reset": "user's own\nlif",
    "own resonate": "user's own\nresonate",
    "hodgkin_huxley": "hodgkin_\nhuxley",
}


def differences(net: Net) -> np.ndarray:
    """dL/d six weights, by central differences of the fourth order of the exact loss."""
    found = []
    for place in PLACES:
        size = net.matrix()[place]

        def loss(steps: int, place: Any = place, size: float = size) -> float:
            matrix = net.matrix()
            matrix[place] += steps * STEP * size
            return net.loss_of(net.solve(weights=matrix))

        found.append((8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * STEP * size))
    return np.array(found)


def figure() -> "Figure":
    """All panels."""
    from matplotlib.figure import Figure

    found = Figure(figsize=(12.5, 6.8), layout="constrained", dpi=150)
    halves: Any = found.subfigures(1, 2, width_ratios=(1.0, 1.3))
    left, right = halves
    _over_time(left.subplots(3, 1, sharex=True))
    _gradients(right.subplots(2, 1, sharex=True, height_ratios=(1.3, 1.0)))
    return found


def _over_time(axes: Any) -> None:
    solution = GOLDEN.solve()
    gradients = GOLDEN.gradient_of(solution)
    for axis, parts, row in zip(
        axes, (solution.segments, gradients.segments, gradients.segments), (0, 0, 1), strict=False
    ):
        curves = [_curve(part, row) for part in parts if part.pieces]
        # a gap, so that a jump is no line
        times = np.concatenate([np.append(t, np.nan) for t, _ in curves])
        values = np.concatenate([np.vstack([v, np.full(3, np.nan)]) for _, v in curves])
        for n, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
            axis.plot(times, values[:, n], color=colour, linewidth=1.6, label=name)
    for spike in solution.spikes:
        axes[0].plot(spike.time, 1.06, marker="v", markersize=5, color=COLOURS[spike.neuron], clip_on=False)
    axes[0].axhline(1.0, color="0.7", linewidth=0.8, linestyle=":")
    axes[0].set_title("the golden net of leaky neurons: potential V, spikes", loc="left", fontsize=10)
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    axes[1].set_title("adjoint of the potential, dL/dV(t)", loc="left", fontsize=10)
    axes[2].set_title("adjoint of the synaptic current, dL/dI(t)", loc="left", fontsize=10)
    axes[2].set_xlabel("time in ms", fontsize=9, color="0.35")
    axes[2].set_xlim(0.0, 35.0)
    for axis in axes:
        _clean(axis)


def _curve(part: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Times, and a row of the values [time, N], over a segment."""
    times = np.linspace(part.pieces[0][0], part.pieces[-1][1], POINTS)
    return times, np.array([part(time)[row] for time in times])


def _gradients(axes: Any) -> None:
    offsets = np.linspace(-0.3, 0.3, len(PLACES))
    for place, net in enumerate(NETS.values()):
        exact, near = six(net.gradient_of(net.solve())), differences(net)
        size = np.abs(exact).max()
        axes[0].scatter(
            place + offsets, near / size, s=62, facecolors="none", edgecolors=COLOURS[1], linewidths=1.3
        )
        axes[0].scatter(place + offsets, exact / size, s=14, color=COLOURS[2])
        axes[1].scatter(place + offsets, np.abs(exact / near - 1.0), s=16, color=COLOURS[2])
    axes[0].axhline(0.0, color="0.8", linewidth=0.8)
    axes[0].set_title(
        "dL/dw of six weights, over the largest: adjoint (dots), finite differences (rings)",
        loc="left",
        fontsize=10,
    )
    axes[1].set_title("relative difference of the two; the tests allow 1e-6", loc="left", fontsize=10)
    axes[1].axhline(1e-6, color="0.4", linewidth=1.0, linestyle=":")
    axes[1].set_yscale("log")
    axes[1].set_ylim(1e-13, 1e-5)
    axes[1].set_xticks(range(len(NETS)), [LABELS.get(name, name.replace(", ", ",\n")) for name in NETS])
    for axis in axes:
        _clean(axis)
        axis.grid(axis="y", color="0.92", linewidth=0.8)


def _clean(axis: "Axes") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("0.8")
    axis.tick_params(which="both", length=0, labelsize=7.5)
    axis.set_axisbelow(True)


if __name__ == "__main__":
    figure().savefig(Path(sys.argv[1]))
