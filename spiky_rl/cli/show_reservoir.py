"""``show.py reservoir``: what a reservoir is wired like, what it can do, and a picture of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csgraph, csr_array

from spiky_rl.cli import common
from spiky_rl.config import files, registry
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import read_agent
from spiky_rl.networks.reservoir import Reservoir
from spiky_rl.reservoirs import memory as metrics
from spiky_rl.reservoirs import narma as narma_task
from spiky_rl.reservoirs.echo_state import Drive, random_echo_state
from spiky_rl.reservoirs.graphs import grown
from spiky_rl.reservoirs.graphs.base import Wiring
from spiky_rl.reservoirs.growth import scoring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = range(5)
SERIES, WASHOUT = 20, 50
"""Samples of memory and NARMA run side by side in so many series; steps of each from rest that do not count."""
DELAYS = 40
PERTURBATION = 0.1
"""Change of an input in [-1, 1] that is enough to move a spike."""
REFERENCE = 200
EXCITATORY, INHIBITORY = "#d1495b", "#2e6f95"


@dataclass(frozen=True)
class Shown:
    """A reservoir with the name of where it stands."""

    name: str
    title: str
    net: Reservoir


def load(name: str) -> Shown:
    """The reservoir of a grown graph's file, or of an agent with one input in place of its task's. Raises UserError."""
    if name.endswith(".json"):
        graph = grown.read(Path(name))
        settings = graph.measured.get("network", {**scoring.NETWORK, "seed": 0})
        try:
            net = scoring.reservoir(graph.wiring(), settings)
        except (registry.RegistryError, TypeError) as error:
            raise UserError(f"{name}: measured: {error}") from None
        unit, task = graph.measured.get("unit", "fitness"), graph.measured.get("task", "an unnamed task")
        return Shown(
            Path(name).stem, f"grown with seed {graph.seed}, {unit} {graph.fitness:.4f} on {task}", net
        )
    stem, data, file = read_agent(name)
    settings = data.get("network")
    if not isinstance(settings, Mapping) or settings.get("name") != "reservoir":
        found = settings.get("name") if isinstance(settings, Mapping) else settings
        raise UserError(
            f"{file}: network.name: {found!r} is no reservoir; name an agent with network.name: reservoir"
        )
    configured = registry.configure("networks", settings, "network")
    if configured.options.seed is None:
        configured = replace(configured, options=configured.options.model_copy(update={"seed": 0}))
    return Shown(stem, str(data.get("summary", "")), configured.build(inputs=1, outputs=1))


def show(name: str, out: Path | None, compare: bool) -> None:
    """Print structure and measures, and draw the graph."""
    if out is None:
        out = Path(f"{Path(name).stem}.png")
    files.require_file("--out", out, (".png", ".pdf", ".svg"))
    common.require("matplotlib", "isaaclab")
    torch.set_num_threads(1)
    shown = load(name)
    print(f"{shown.name}: {shown.title}\n")
    rows = structure(shown.net.wiring)
    print_rows(rows)
    print()
    print_rows(measures(shown.net))
    if compare:
        print()
        print_rows(comparison(shown.net))
    files.write(out, lambda beside: figure(shown).savefig(beside, dpi=150, format=out.suffix[1:]))
    print(f"\npicture: {out}")


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Aligned names and values."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}")


def structure(wiring: Wiring) -> list[tuple[str, str]]:
    """What the graph is like."""
    weights = wiring.weights.astype(np.float64)
    there = weights != 0
    size = len(weights)
    inhibitory = int(wiring.inhibitory.sum())
    count, labels = csgraph.connected_components(csr_array(there), connection="strong")
    largest = int(np.bincount(labels).max())
    radius = float(np.abs(np.linalg.eigvals(weights)).max())

    def degrees(found: np.ndarray) -> str:
        return f"{found.mean():.2f} ± {found.std():.2f}, {found.min()} to {found.max()}"

    return [
        ("neurons", f"{size}: {size - inhibitory} excitatory, {inhibitory} inhibitory"),
        ("synapses", f"{int(there.sum())}, density {wiring.density:.4f}"),
        ("synapses in", degrees(there.sum(0))),
        ("synapses out", degrees(there.sum(1))),
        ("spectral radius", f"{radius:.3f} of the graph's weights"),
        ("strong components", f"{count}, the largest with {largest} neurons"),
    ]


def measures(net: Reservoir) -> list[tuple[str, str]]:
    """What the spiking reservoir can do, on inputs that are standardised as its observations are."""
    drive = metrics.standardised(net.drive, -1.0, 1.0)
    features = net.size * len(net.trace_decays)
    kernel = metrics.kernel_rank(drive, generator(0), series=features)
    general = metrics.generalisation_rank(drive, generator(1), series=features)
    memory = metrics.memory_capacity(drive, generator(2), DELAYS, washout=WASHOUT, series=SERIES)
    growth = metrics.lyapunov(drive, generator(3), perturbation=PERTURBATION)
    apart = metrics.separation(drive, generator(4))
    rows = [
        (
            "features",
            f"{features}: {len(net.trace_decays)} trace(s) of every neuron, read once a control step",
        ),
        ("kernel rank", f"{kernel.value} of {kernel.size} ({kernel.fraction:.2f})"),
        ("generalisation rank", f"{general.value} of {general.size} ({general.fraction:.2f})"),
        ("memory capacity", f"{memory.total:.2f} control steps"),
        ("Lyapunov exponent", f"{growth:+.3f} per control step, perturbed by {PERTURBATION}"),
        ("separation", f"{apart:.3f} mean state lengths"),
    ]
    drive = metrics.standardised(net.drive, *narma_task.INPUT)
    for order in narma_task.COEFFICIENTS:
        found = narma(drive, order, 0)
        rows.append((f"NARMA-{order}", f"NRMSE {found.nrmse:.3f}, NMSE {found.nmse:.3f}"))
    return rows


def comparison(net: Reservoir) -> list[tuple[str, str]]:
    """NARMA-10 by the same protocol and data for this reservoir and for echo-state networks."""

    def spread(drives: list[Drive]) -> str:
        errors = [narma(drive, 10, seed).nrmse for seed, drive in zip(SEEDS, drives, strict=True)]
        return f"NRMSE {np.mean(errors):.3f} ± {np.std(errors):.3f}"

    spiking = metrics.standardised(net.drive, *narma_task.INPUT)
    rows = [(f"spiking, N = {net.size}", spread([spiking] * len(SEEDS)))]
    for size in dict.fromkeys([net.size, REFERENCE]):
        rows.append(
            (f"echo state, N = {size}", spread([random_echo_state(size, generator(s)) for s in SEEDS]))
        )
    return [("NARMA-10", f"2000 samples to train, 2000 to test, seeds {SEEDS[0]} to {SEEDS[-1]}"), *rows]


def narma(drive: Drive, order: int, seed: int) -> narma_task.Narma:
    """NARMA by the protocol of this command."""
    return narma_task.narma(drive, generator(100 + seed), order, washout=WASHOUT, series=SERIES)


def generator(seed: int) -> np.random.Generator:
    """Each measure has its own."""
    return np.random.default_rng(seed)


def layout(wiring: Wiring) -> np.ndarray:
    """Where to draw the neurons, [N, 2]: their own places, seen at a slant, or what springs make of the synapses."""
    if wiring.position is not None:
        place = np.asarray(wiring.position, float)
        if place.shape[1] == 2:
            return place
        # the long axis lies across the picture
        x, y, z = place[:, np.argsort(np.ptp(place, axis=0), kind="stable")].T
        return np.stack([z + 0.35 * x, y + 0.25 * x], 1)
    return packed(wiring.weights != 0)


def packed(there: np.ndarray) -> np.ndarray:
    """What springs make of every connected part, the parts laid out in rows from the largest to single neurons."""
    import networkx

    graph = networkx.from_numpy_array(there | there.T)
    place = np.zeros((len(there), 2))
    parts = sorted(
        (sorted(part) for part in networkx.connected_components(graph)), key=lambda p: (-len(p), p)
    )
    width = max(1.3 * np.sqrt(len(there)), 1.3 * np.sqrt(len(parts[0])))
    left = floor = height = 0.0
    for part in parts:
        side = 1.3 * np.sqrt(len(part))
        if left + side > width * 1.01 and left > 0.0:
            left, floor, height = 0.0, floor - height, 0.0
        found = networkx.spring_layout(graph.subgraph(part), seed=0, iterations=200) if len(part) > 1 else {}
        own = np.array([found.get(i, (0.0, 0.0)) for i in part])
        low, span = own.min(0), max(float(np.ptp(own, axis=0).max()), 1e-9)
        place[part] = [left, floor - side] + side * (0.1 + 0.8 * (own - low) / span)
        left, height = left + side, max(height, side)
    return place


def figure(shown: Shown) -> Figure:
    """The graph: neurons by kind, sized by how many they project to, synapses in the colour of their neuron."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    wiring = shown.net.wiring
    there = wiring.weights != 0
    place = layout(wiring)
    found = Figure(figsize=(9, 9.5 if wiring.position is None else 5.5), layout="constrained")
    axes = found.add_subplot()
    sources, targets = np.nonzero(there & ~np.eye(len(there), dtype=bool))
    faint = float(np.clip(60.0 / max(len(sources), 1) ** 0.7, 0.03, 0.6))
    colours = np.where(wiring.inhibitory, INHIBITORY, EXCITATORY)
    lines = np.stack([place[sources], place[targets]], 1)
    axes.add_collection(
        LineCollection(list(lines), colors=colours[sources], alpha=faint, linewidths=0.8, zorder=1)
    )
    sizes = 18.0 + 60.0 * there.sum(1) / max(there.sum(1).max(), 1)
    for kind, colour, word in ((False, EXCITATORY, "excitatory"), (True, INHIBITORY, "inhibitory")):
        own = wiring.inhibitory == kind
        axes.scatter(
            *place[own].T, s=sizes[own], color=colour, edgecolor="white", linewidth=0.6, zorder=2,
            label=f"{int(own.sum())} {word}",
        )  # fmt: skip
    itself = np.flatnonzero(there.diagonal())
    if len(itself):
        axes.scatter(
            *place[itself].T, s=2.2 * sizes[itself] + 20.0, facecolor="none", edgecolor=colours[itself], linewidth=0.9,
            zorder=2, label=f"{len(itself)} of them with a synapse onto itself",
        )  # fmt: skip
    axes.set_title(f"{shown.name}: {len(place)} neurons, {int(there.sum())} synapses", fontsize=12)
    found.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.set_aspect("equal" if wiring.position is None else "auto")
    axes.margins(0.05)
    axes.axis("off")
    return found
