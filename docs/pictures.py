"""Draws what components do, by running them: a neuron's response, a surrogate's shape, an encoder's raster.

One function per kind, which takes any entry of it: a new file gets its picture without a word here. Pictures are drawn in dark ink on
nothing; on a dark page the site's style sheet turns them round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from spiky_rl.config import registry
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.connections.base import IntraLayerConnection
from spiky_rl.kernels.ops import TorchOps

INK, BLUE, RED, GREEN = "#333333", "#2e6f95", "#d1495b", "#3a7d44"
COLOURS = [BLUE, RED, GREEN, "#b07d2b", "#7b5ea7"]
STYLE = {
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "svg.hashsalt": "spiky_rl",
    "font.size": 9,
    "axes.titlesize": 9,
}
CURRENTS = np.concatenate([[0.0], np.geomspace(0.02, 50.0, 79)])
ONSET, OFFSET, END = 20, 120, 150
"""Inner steps: when the current begins, when it ends, and the picture's last."""
WIDTH = 6.2
"""Inches: narrow enough to be read on a telephone."""
FEW = 6
"""Spikes that a neuron's picture shows at least, if any current makes it fire so often."""


def draw(kind: str, name: str, configured: ComponentSpec) -> Figure | None:
    """What an entry does; None for kinds of which there is no picture."""
    painter = PAINTERS.get(kind)
    if painter is None:
        return None
    torch.manual_seed(0)
    with matplotlib.rc_context(STYLE):
        return painter(name, configured)


def save(figure: Figure, path: Path) -> None:
    """As SVG, with the same bytes for the same picture."""
    with matplotlib.rc_context(STYLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def blank(height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure of the pages' width, and its axes [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def ops() -> TorchOps:
    """The torch reference with the default surrogate."""
    return TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build(), 2.0)


def neuron(name: str, configured: ComponentSpec) -> Figure:
    """States and spikes under a step of current, and the rate for every current."""
    cell = configured.build()
    if cell.graded:
        return graded_neuron(cell)
    current = torch.zeros(END, len(CURRENTS), dtype=torch.float64)
    current[ONSET:OFFSET] = torch.from_numpy(CURRENTS)
    states, spikes = run(cell, current)
    counts = spikes[ONSET:OFFSET].sum(0)
    lively = np.flatnonzero(counts >= FEW)
    shown = int(lively[0]) if len(lively) else int(counts.argmax())
    alone = len(cell.states) == 1
    figure = Figure(figsize=(WIDTH, 2.6 if alone else 3.4), layout="constrained")
    heights = {"membrane": 2.2, "others": 1.3, "drive": 0.5}
    if alone:
        del heights["others"]
    left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1])
    places = left.subplots(len(heights), height_ratios=list(heights.values()), sharex=True)
    axes = dict(zip(heights, places, strict=True))
    membrane, drive, time = axes["membrane"], axes["drive"], np.arange(END) * cell.dt
    membrane.plot(time, states[:, 0, shown], color=BLUE, linewidth=1.2)
    fired = np.flatnonzero(spikes[:, shown])
    top, low = states[:, 0, shown].max() or 1.0, min(states[:, 0, shown].min(), 0.0)
    membrane.vlines(time[fired], top + 0.08 * (top - low), top + 0.24 * (top - low), color=RED, linewidth=1.2)
    membrane.set_ylabel(cell.states[0])
    membrane.set_title(f"under a current of {CURRENTS[shown]:.2g}; its spikes in red", loc="left")
    for k, state in enumerate(cell.states[1:], start=1):
        size = np.abs(states[:, k, shown]).max() or 1.0
        scale = size if size >= 2.0 else 1.0
        label = state if scale == 1.0 else f"{state} / {size:.3g}"
        axes["others"].plot(time, states[:, k, shown] / scale, linewidth=1.0, label=label)
    if not alone:
        axes["others"].legend(
            frameon=False, fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0.0, 0.9), borderpad=0.0
        )
    drive.fill_between(time, current[:, shown], color=INK, alpha=0.25, step="pre", linewidth=0)
    drive.set(ylabel="I", yticks=[], xlabel="time in ms")
    rate, busiest = right.subplots(), int(counts.argmax())
    first = max(1, int(np.flatnonzero(counts)[0]) - 6) if counts.any() else 1
    span = slice(first, min(busiest + 4, len(CURRENTS)) if counts.any() else len(CURRENTS))
    rate.plot(CURRENTS[span], counts[span] / (OFFSET - ONSET), color=BLUE, marker=".", markersize=3)
    rate.axvline(CURRENTS[shown], color=RED, linewidth=0.8, linestyle=":")
    rate.set(xscale="log", xlabel="current")
    rate.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    rate.xaxis.set_major_formatter("{x:g}")
    rate.xaxis.set_minor_formatter(NullFormatter())
    rate.set_title("spikes per inner step", loc="left")
    return figure


def run(cell, current: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """States [time, states, lanes] and outputs [time, lanes] under a current [time, lanes]."""
    vocabulary, params = ops(), cell.named_params(*(cell.get_step_value(p) for p in cell.params))
    state = cell.named_states(*(torch.zeros_like(current[0]) for _ in cell.states))
    states, outputs = [], []
    with torch.no_grad():
        for now in current:
            output, state = cell.step(vocabulary, now, state, params)
            states.append(torch.stack(state))
            outputs.append(output)
    return torch.stack(states).numpy(), torch.stack(outputs).numpy()


def graded_neuron(cell) -> Figure:
    """What a neuron of graded events sends of a value that changes."""
    time = np.arange(END)
    value = 2.0 + 2.0 * np.sin(2 * np.pi * time / 75.0)
    states, events = run(cell, torch.from_numpy(np.diff(value, prepend=0.0))[:, None])
    figure, axes = blank(2.8, 2, sharex=True, height_ratios=[2, 1])
    for k, state in enumerate(cell.states):
        axes[0, 0].plot(time, states[:, k, 0], label=state, drawstyle="steps-post" if k else "default")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 0].set_title("its input are the changes of a slow wave", loc="left")
    sent = np.flatnonzero(events[:, 0])
    axes[1, 0].vlines(sent, 0.0, events[sent, 0], color=RED, linewidth=1.2)
    axes[1, 0].axhline(0.0, color=INK, linewidth=0.6)
    axes[1, 0].set(ylabel="events", xlabel="inner steps")
    return figure


def surrogate(name: str, configured: ComponentSpec) -> Figure:
    """The derivative, and the function that it is the derivative of, at two slopes."""
    shape, x = configured.build(), torch.linspace(-3.0, 3.0, 601, dtype=torch.float64)
    figure, axes = blank(2.2, 1, 2)
    for slope, style in ((shape.slope, "-"), (2 * shape.slope, "--")):
        axes[0, 0].plot(x, shape.derivative(ops(), x, slope), style, label=f"slope {slope:g}")
        axes[0, 1].plot(x, shape.primitive(ops(), x, slope), style)
    axes[0, 1].plot(x, (x >= 0).double(), color=INK, linewidth=0.8, alpha=0.6, label="the spike itself")
    for one, title in zip(axes[0], ("derivative, used backward", "its integral: a soft spike"), strict=True):
        one.legend(frameon=False, fontsize=8)
        one.set_title(title, loc="left")
        one.set_xlabel("distance to the threshold")
    return figure


T, K = 16, 8
"""Control steps and inner steps of the codecs' pictures."""


def encoder(name: str, configured: ComponentSpec) -> Figure:
    """The signal that an encoder makes of an observation that rises and falls."""
    coder = configured.build(inputs=1, steps=K)
    x = 2.0 * torch.sin(torch.linspace(0.0, 2.0 * np.pi, T)).view(T, 1, 1)
    state = tuple(torch.zeros(1, size) for size in coder.state_sizes)
    with torch.no_grad():
        signal = (
            coder.encode_stateful(x, state, None)[0]
            .expand(T, K, 1, coder.width)
            .reshape(T * K, coder.width)
            .numpy()
        )
    figure, axes = blank(2.8, 2, sharex=True, height_ratios=[1, 1.6])
    axes[0, 0].step(np.arange(T * K), np.repeat(x.flatten().numpy(), K), where="post", color=BLUE)
    axes[0, 0].set(ylabel="observation")
    raster(axes[1, 0], signal, f"channel{'s' if coder.width > 1 else ''}", names=coder.width <= 12)
    axes[1, 0].set_xlabel(f"inner steps, {K} in each of {T} control steps")
    return figure


def raster(axes: Axes, signal: np.ndarray, label: str, names: bool = False) -> None:
    """A signal [time, channels]: spikes as bars, anything else as colours."""
    times, width = signal.shape
    if np.isin(signal, (0.0, 1.0)).all():
        when, who = np.nonzero(signal)
        axes.vlines(when + 0.5, who - 0.4, who + 0.4, color=INK, linewidth=1.1)
    else:
        most = np.abs(signal).max() or 1.0
        axes.pcolormesh(
            np.arange(times + 1),
            np.arange(width + 1) - 0.5,
            signal.T,
            cmap="RdBu_r",
            vmin=-most,
            vmax=most,
            rasterized=True,
        )
    axes.set(ylabel=label, ylim=(-0.6, width - 0.4), xlim=(0, times))
    if names:
        axes.set_yticks(range(width))


def decoder(name: str, configured: ComponentSpec) -> Figure:
    """The features that a decoder reads of neurons whose activity moves through the population."""
    count = 24
    reader = configured.build(inputs=count, outputs=2)
    reader.binary = True
    place, time = np.arange(count)[None], np.linspace(0.0, 1.0, T * K)[:, None]
    chance = 0.5 * np.exp(-(((place - count * (0.5 + 0.4 * np.sin(2 * np.pi * time))) / 3.0) ** 2))
    spikes = (np.random.default_rng(0).random(chance.shape) < chance).astype(np.float32)
    state = (torch.zeros(1, reader.state_width),) if reader.state_width else ()
    with torch.no_grad():
        features, _ = reader(torch.from_numpy(spikes).view(T, K, 1, count), state, None)
    figure, axes = blank(3.0, 2, sharex=True, height_ratios=[1.4, 1])
    raster(axes[0, 0], spikes, "neuron")
    for k in range(2):
        axes[1, 0].step(
            np.arange(T + 1) * K,
            np.append(features[:, 0, k], features[-1, 0, k]),
            where="post",
            label=f"feature {k + 1}",
        )
    axes[1, 0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes[1, 0].set(ylabel="features", xlabel=f"inner steps, {K} in each of {T} control steps")
    return figure


def connection(name: str, configured: ComponentSpec) -> Figure:
    """The current that an event at every place brings to every neuron."""
    count = 40
    if hasattr(configured.options, "kernel"):
        link = configured.build(inputs=(1, 15, 15), outputs=4)
        event = torch.zeros(1, 225)
        event[0, 112] = 1.0
        with torch.no_grad():
            maps = (link(event) - link(0.0 * event)).view(link.shape).numpy()
        pictures = [(f"channel {k + 1}", one) for k, one in enumerate(maps)]
    else:
        link = configured.build(inputs=(count,), outputs=count)
        with torch.no_grad():
            if isinstance(link, IntraLayerConnection):
                blocks = link.synapses().view(-1, count, count).numpy()
                pictures = [
                    (f"after {k + 1} inner step{'s' if k else ''}", one) for k, one in enumerate(blocks)
                ]
            else:
                pictures = [("weights", (link(torch.eye(count)) - link(torch.zeros(count, count))).numpy())]
    figure, axes = blank(3.0 if len(pictures) == 1 else 2.2, 1, len(pictures))
    most = max(np.abs(one).max() for _, one in pictures) or 1.0
    for place, (title, one) in zip(axes[0], pictures, strict=True):
        shown = place.imshow(one, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        place.set_title(title, loc="left")
        if not hasattr(configured.options, "kernel"):
            place.set(xlabel="to neuron", ylabel="from")
    figure.colorbar(shown, ax=list(axes[0]), shrink=0.8)
    return figure


NEURONS = 151
"""Neurons in the pictures of graphs: as many as the grown graph beside our agents has, whose file says so."""


def graph(name: str, configured: ComponentSpec) -> Figure:
    """Neurons and synapses, and the weights as a matrix; red excites, blue inhibits."""
    wirer = configured.build()
    wiring = wirer.wire(NEURONS, np.random.default_rng(0))
    figure, axes = blank(3.4, 1, 2)
    place = wiring.position
    if place is None:
        import networkx

        there = networkx.from_numpy_array((wiring.weights != 0) | (wiring.weights != 0).T)
        place = np.array(list(networkx.spring_layout(there, seed=0, iterations=60).values()))
    elif place.shape[1] == 3:
        x, y, z = place.T
        place = np.stack([z + 0.45 * x, y + 0.28 * x], 1)
    sources, targets = np.nonzero(wiring.weights)
    colours = np.where(wiring.inhibitory, BLUE, RED)
    lines = LineCollection(list(np.stack([place[sources], place[targets]], 1)), colors=colours[sources])
    lines.set(alpha=float(np.clip(60.0 / len(sources) ** 0.7, 0.05, 0.6)), linewidths=0.6, rasterized=True)
    axes[0, 0].add_collection(lines)
    axes[0, 0].scatter(*place.T, s=9, color=colours, zorder=2)
    axes[0, 0].set_title(f"{NEURONS} neurons, {len(sources)} synapses", loc="left")
    axes[0, 0].axis("off")
    most = np.quantile(np.abs(wiring.weights[wiring.weights != 0]), 0.95)
    axes[0, 1].imshow(wiring.weights, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axes[0, 1].set(xlabel="to neuron", ylabel="from")
    return figure


def penalty(name: str, configured: ComponentSpec) -> Figure:
    """What a layer costs whose neurons all fire at one rate."""
    cost, rates = configured.build(), np.linspace(0.0, 1.0, 51)
    values = [float(cost.compute([torch.full((1,), float(rate))], [1.0])) for rate in rates]
    figure, axes = blank(2.0)
    axes[0, 0].plot(rates, values)
    axes[0, 0].set(xlabel="firing rate of all neurons, spikes per inner step", ylabel="cost")
    return figure


def rule(name: str, configured: ComponentSpec) -> Figure:
    """How a rule changes the weights of two layers, weight by weight beside the gradient of BPTT."""
    figure, axes = blank(2.6, 1, 2)
    layers = zip(changes(configured), changes(registry.configure("rules", "bptt", "rule")), strict=True)
    for k, (own, exact) in enumerate(layers):
        place = axes[0, k]
        place.set_title(f"layer {k + 1}: it changes nothing", loc="left")
        if own.any():
            alike = float((own * exact).sum() / (np.linalg.norm(own) * np.linalg.norm(exact)))
            place.scatter(exact / exact.std(), own / own.std(), s=4, alpha=0.5, linewidths=0, rasterized=True)
            place.set_title(f"layer {k + 1}: cosine {alike:.2f}", loc="left")
        place.axhline(0.0, color=INK, linewidth=0.5)
        place.axvline(0.0, color=INK, linewidth=0.5)
        place.set(xlabel="change of a weight by BPTT", ylabel=f"by {name}" if k == 0 else "")
    return figure


def changes(configured: ComponentSpec) -> list[np.ndarray]:
    """What a rule would change in the weights of each layer, for one batch and one loss: minus the gradient, or its own."""
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [32, 32],
        "steps": 8,
        "neuron": {"name": "lif", "tau": 4.0},
        "backend": "torch",
    }
    settings["learning"] = configured.settings()
    network = registry.configure("networks", settings, "network").build(inputs=4, outputs=2)
    before = [layer.connection.weight.detach().clone() for layer in network.layers]
    x = torch.randn(1, 64, 4)
    y, _ = network(x, None)
    wrong = (y - torch.stack([x[..., 0], x[..., 1] * x[..., 2]], -1)).square().mean((0, 2))
    wrong.mean().backward()
    if network.has_local_rules:
        network.apply_local_rules(x, None, None, (wrong.detach().mean() - wrong.detach()).unsqueeze(0))
        return [
            (layer.connection.weight.detach() - old).flatten().numpy()
            for layer, old in zip(network.layers, before, strict=True)
        ]
    grads = [layer.connection.weight.grad for layer in network.layers]
    return [
        np.zeros(old.numel()) if grad is None else -grad.flatten().numpy()
        for grad, old in zip(grads, before, strict=True)
    ]


def plasticity(name: str, configured: ComponentSpec) -> Figure:
    """How a synapse changes by one pair of spikes, for every gap between them."""
    gaps, weights = np.arange(-40, 41), []
    for gap in gaps:
        weight = torch.zeros(3, 3)
        # the third neuron is silent: its synapse gives way where sums are kept
        weight[0, 1] = weight[2, 1] = 1.0
        bias, quiet = torch.zeros(3), torch.zeros(3, dtype=torch.bool)
        rule_ = configured.build(weight=weight.clone(), bias=bias, inhibitory=quiet, unit=1.0, dt=1.0)
        spikes = torch.zeros(100, 1, 3)
        spikes[50, 0, 0] = spikes[50 + int(gap), 0, 1] = 1.0
        rule_.observe(spikes, tuple(torch.zeros(1, size) for size in rule_.state_sizes))
        rule_.adapt(weight, bias)
        weights.append(float(weight[0, 1]) - 1.0)
    figure, axes = blank(2.2)
    axes[0, 0].plot(gaps, weights, marker=".", markersize=3, linewidth=0.8)
    axes[0, 0].axhline(0.0, color=INK, linewidth=0.5)
    axes[0, 0].axvline(0.0, color=INK, linewidth=0.5)
    axes[0, 0].set(
        xlabel="ms from the spike before the synapse to that behind it", ylabel="change of its weight"
    )
    return figure


PAINTERS: dict[str, Callable[[str, ComponentSpec], Figure]] = {
    "neurons": neuron,
    "surrogates": surrogate,
    "encoders": encoder,
    "decoders": decoder,
    "connections": connection,
    "graphs": graph,
    "penalties": penalty,
    "plasticities": plasticity,
    "rules": rule,
}
