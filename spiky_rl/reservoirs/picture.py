"""A picture of a reservoir's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spiky_rl.reservoirs.description import NamedReservoir
from spiky_rl.reservoirs.graphs.base import Wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXCITATORY, INHIBITORY = "#d1495b", "#2e6f95"


def compute_layout(wiring: Wiring) -> np.ndarray:
    """Return the neurons' positions in the picture, [N, 2]: an oblique view of their own positions, else a spring layout."""
    if wiring.position is not None:
        position = np.asarray(wiring.position, float)
        if position.shape[1] == 2:
            return position
        # the longest axis is horizontal
        x, y, z = position[:, np.argsort(np.ptp(position, axis=0), kind="stable")].T
        return np.stack([z + 0.35 * x, y + 0.25 * x], 1)
    return compute_spring_layout(wiring.weights != 0)


def compute_spring_layout(synapses: np.ndarray) -> np.ndarray:
    """Return the nodes' positions: a spring layout of each connected part, the parts in rows from the largest to single neurons."""
    import networkx

    graph = networkx.from_numpy_array(synapses | synapses.T)
    position = np.zeros((len(synapses), 2))
    parts = sorted(
        (sorted(part) for part in networkx.connected_components(graph)), key=lambda p: (-len(p), p)
    )
    width = 1.3 * np.sqrt(len(synapses))
    left = floor = height = 0.0
    for part in parts:
        side = 1.3 * np.sqrt(len(part))
        if left + side > width * 1.01 and left > 0.0:
            left, floor, height = 0.0, floor - height, 0.0
        layout = networkx.spring_layout(graph.subgraph(part), seed=0, iterations=200) if len(part) > 1 else {}
        members = np.array([layout.get(i, (0.0, 0.0)) for i in part])
        low, span = members.min(0), max(float(np.ptp(members, axis=0).max()), 1e-9)
        position[part] = [left, floor - side] + side * (0.1 + 0.8 * (members - low) / span)
        left, height = left + side, max(height, side)
    return position


def draw_graph(named: NamedReservoir) -> Figure:
    """Draw the graph: neurons coloured by kind and sized by their number of outgoing synapses, synapses in their neuron's colour."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    wiring = named.net.wiring
    synapses = wiring.weights != 0
    position = compute_layout(wiring)
    figure = Figure(figsize=(9, 9.5 if wiring.position is None else 5.5), layout="constrained")
    axes = figure.add_subplot()
    sources, targets = np.nonzero(synapses & ~np.eye(len(synapses), dtype=bool))
    faint = float(np.clip(60.0 / max(len(sources), 1) ** 0.7, 0.03, 0.6))
    colours = np.where(wiring.inhibitory, INHIBITORY, EXCITATORY)
    lines = np.stack([position[sources], position[targets]], 1)
    axes.add_collection(
        LineCollection(list(lines), colors=colours[sources], alpha=faint, linewidths=0.8, zorder=1)
    )
    sizes = 18.0 + 60.0 * synapses.sum(1) / max(synapses.sum(1).max(), 1)
    for kind, colour, label in ((False, EXCITATORY, "excitatory"), (True, INHIBITORY, "inhibitory")):
        members = wiring.inhibitory == kind
        axes.scatter(
            *position[members].T, s=sizes[members], color=colour, edgecolor="white", linewidth=0.6, zorder=2,
            label=f"{int(members.sum())} {label}",
        )  # fmt: skip
    self_connected = np.flatnonzero(synapses.diagonal())
    if len(self_connected):
        axes.scatter(
            *position[self_connected].T, s=2.2 * sizes[self_connected] + 20.0, facecolor="none", edgecolor=colours[self_connected], linewidth=0.9,
            zorder=2, label=f"{len(self_connected)} of them with a synapse onto itself",
        )  # fmt: skip
    axes.set_title(f"{named.name}: {len(position)} neurons, {int(synapses.sum())} synapses", fontsize=12)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.set_aspect("equal" if wiring.position is None else "auto")
    axes.margins(0.05)
    axes.axis("off")
    return figure
