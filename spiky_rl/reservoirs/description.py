"""A reservoir in words and numbers: what it is wired like, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csgraph, csr_array

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import merge, parse_overrides, read_agent
from spiky_rl.reservoirs import memory
from spiky_rl.reservoirs import narma as narma_task
from spiky_rl.reservoirs.echo_state import Drive, random_echo_state
from spiky_rl.reservoirs.graphs import grown
from spiky_rl.reservoirs.graphs.base import Wiring
from spiky_rl.reservoirs.growth import scoring
from spiky_rl.reservoirs.growth.scoring import SpikingReservoir

SEEDS = range(5)
SERIES, WASHOUT = 20, 50
"""Samples of memory and NARMA run side by side in so many series; steps of each from rest that do not count."""
DELAYS = 40
PERTURBATION = 0.1
"""Change of an input in [-1, 1] that is enough to move a spike."""
REFERENCE = 200
"""Neurons of the echo-state network that every reservoir is compared with."""

type Rows = list[tuple[str, str]]
"""Names and values, in words."""


@dataclass(frozen=True)
class NamedReservoir:
    """A reservoir with the name of where it stands."""

    name: str
    title: str
    net: SpikingReservoir


def load_reservoir(name: str, overrides: Sequence[str] = ()) -> NamedReservoir:
    """The reservoir of a grown graph's file, or of an agent with one input in place of its task's.

    Args:
        name: The file's path, or the agent.
        overrides: Changes of the agent, ``agent.network.x=value``.

    Raises:
        UserError: There is no such reservoir, or it cannot be changed so.
    """
    layer = parse_overrides(overrides)
    if name.endswith(".json"):
        if overrides:
            raise UserError(f"{overrides[0]}: {name} is no agent, so there is nothing to override")
        graph = grown.read(Path(name))
        settings = graph.measured.get("network", {**scoring.NETWORK, "seed": 0})
        try:
            net = scoring.make_reservoir(graph.wiring(), settings)
        except (registry.RegistryError, TypeError) as error:
            raise UserError(f"{name}: measured: {error}") from None
        unit, task = graph.measured.get("unit", "fitness"), graph.measured.get("task", "an unnamed task")
        return NamedReservoir(
            Path(name).stem, f"grown with seed {graph.seed}, {unit} {graph.fitness:.4f} on {task}", net
        )
    stem, data, file = read_agent(name)
    data, _ = merge([(str(file), data), ("command line", layer)])
    settings = data.get("network")
    if not isinstance(settings, Mapping) or settings.get("name") != "reservoir":
        found = settings.get("name") if isinstance(settings, Mapping) else settings
        raise UserError(
            f"{file}: network.name: {found!r} is no reservoir; name an agent with network.name: reservoir"
        )
    configured = registry.configure("networks", settings, "network")
    if configured.options.seed is None:
        configured = replace(configured, options=configured.options.model_copy(update={"seed": 0}))
    return NamedReservoir(stem, str(data.get("summary", "")), configured.build(inputs=1, outputs=1))


def describe_structure(wiring: Wiring) -> Rows:
    """Properties of the graph: neurons, synapses, degrees, spectral radius, strong components."""
    weights = wiring.weights.astype(np.float64)
    there = weights != 0
    size = len(weights)
    inhibitory = int(wiring.inhibitory.sum())
    count, labels = csgraph.connected_components(csr_array(there), connection="strong")
    largest = int(np.bincount(labels).max())
    radius = float(np.abs(np.linalg.eigvals(weights)).max())

    def degrees(counts: np.ndarray) -> str:
        return f"{counts.mean():.2f} ± {counts.std():.2f}, {counts.min()} to {counts.max()}"

    return [
        ("neurons", f"{size}: {size - inhibitory} excitatory, {inhibitory} inhibitory"),
        ("synapses", f"{int(there.sum())}, density {wiring.density:.4f}"),
        ("synapses in", degrees(there.sum(0))),
        ("synapses out", degrees(there.sum(1))),
        ("spectral radius", f"{radius:.3f} of the graph's weights"),
        ("strong components", f"{count}, the largest with {largest} neurons"),
    ]


def compute_measures(net: SpikingReservoir) -> Rows:
    """Computational measures of the spiking reservoir, on inputs that are standardised as its observations are."""
    drive = memory.standardize_drive(net.compute_traces, -1.0, 1.0)
    features = net.size * len(net.trace_decays)
    kernel = memory.kernel_rank(drive, generator(0), series=features)
    general = memory.generalisation_rank(drive, generator(1), series=features)
    recalled = memory.memory_capacity(drive, generator(2), DELAYS, washout=WASHOUT, series=SERIES)
    growth = memory.compute_lyapunov(drive, generator(3), perturbation=PERTURBATION)
    apart = memory.compute_separation(drive, generator(4))
    rows = [
        (
            "features",
            f"{features}: {len(net.trace_decays)} trace(s) of every neuron, read once a control step",
        ),
        ("kernel rank", f"{kernel.value} of {kernel.size} ({kernel.fraction:.2f})"),
        ("generalisation rank", f"{general.value} of {general.size} ({general.fraction:.2f})"),
        ("memory capacity", f"{recalled.total:.2f} control steps"),
        ("Lyapunov exponent", f"{growth:+.3f} per control step, perturbed by {PERTURBATION}"),
        ("separation", f"{apart:.3f} mean state lengths"),
    ]
    drive = memory.standardize_drive(net.compute_traces, *narma_task.INPUT)
    for order in narma_task.COEFFICIENTS:
        found = narma(drive, order, 0)
        rows.append((f"NARMA-{order}", f"NRMSE {found.nrmse:.3f}, NMSE {found.nmse:.3f}"))
    return rows


def compare_with_echo_state(net: SpikingReservoir) -> dict[str, list[float]]:
    """NRMSE of NARMA-10 with every seed, by the same protocol and data, of this reservoir and of echo-state networks."""

    def errors(drives: Sequence[Drive]) -> list[float]:
        return [narma(drive, 10, seed).nrmse for seed, drive in zip(SEEDS, drives, strict=True)]

    spiking = memory.standardize_drive(net.compute_traces, *narma_task.INPUT)
    found = {f"spiking, N = {net.size}": errors([spiking] * len(SEEDS))}
    for size in dict.fromkeys([net.size, REFERENCE]):
        found[f"echo state, N = {size}"] = errors([random_echo_state(size, generator(s)) for s in SEEDS])
    return found


def format_comparison(found: Mapping[str, Sequence[float]]) -> Rows:
    """What `comparison` found, in words."""
    head = ("NARMA-10", f"2000 samples to train, 2000 to test, seeds {SEEDS[0]} to {SEEDS[-1]}")
    return [head, *((name, f"NRMSE {np.mean(e):.3f} ± {np.std(e):.3f}") for name, e in found.items())]


def narma(drive: Drive, order: int, seed: int) -> narma_task.NarmaError:
    """NARMA by the protocol of this description.

    Args:
        drive: The reservoir, for standardised inputs.
        order: Order of the NARMA system, 10 or 30.
        seed: Draws the series.
    """
    return narma_task.evaluate_narma(drive, generator(100 + seed), order, washout=WASHOUT, series=SERIES)


def generator(seed: int) -> np.random.Generator:
    """Each measure has its own."""
    return np.random.default_rng(seed)
