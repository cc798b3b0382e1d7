"""Description of a reservoir: the structure of its graph, and its computational measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import default_rng
from scipy.sparse import csgraph, csr_array

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import merge, parse_overrides, read_agent
from spiky_rl.reservoirs import memory
from spiky_rl.reservoirs import narma as narma_task
from spiky_rl.reservoirs.echo_state import ReservoirFunction, draw_echo_state
from spiky_rl.reservoirs.graphs import grown
from spiky_rl.reservoirs.graphs.base import Wiring
from spiky_rl.reservoirs.growth import scoring
from spiky_rl.reservoirs.growth.scoring import SpikingReservoir

SEEDS = range(5)
"""Seeds of the comparison with echo-state networks."""
SERIES, WASHOUT = 20, 50
"""Number of series of memory and NARMA that run side by side, and steps at the start of each that do not count."""
DELAYS = 40
"""Longest delay of the memory capacity, in control steps."""
PERTURBATION = 0.1
"""Change of an input in [-1, 1] that is large enough to move a spike."""
ECHO_STATE_SIZE = 200
"""Neurons of the echo-state network that every reservoir is compared with."""

type Rows = list[tuple[str, str]]
"""Rows of a table: name and value."""


@dataclass(frozen=True)
class NamedReservoir:
    """A reservoir with its name and title."""

    name: str
    title: str
    net: SpikingReservoir


def load_reservoir(name: str, overrides: Sequence[str] = ()) -> NamedReservoir:
    """Load the reservoir of a grown graph's file, or of an agent; it gets one input in place of a task's observations.

    Args:
        name: Path of the file, or name of the agent.
        overrides: Overrides of the agent, ``agent.network.x=value``.

    Raises:
        UserError: If there is no such reservoir, or an override does not apply.
    """
    layer = parse_overrides(overrides)
    if name.endswith(".json"):
        if overrides:
            raise UserError(f"{overrides[0]}: {name} is not an agent; overrides apply to agents only")
        graph = grown.read(Path(name))
        settings = graph.measured.get("network", {**scoring.NETWORK, "seed": 0})
        try:
            net = scoring.make_reservoir(graph.make_wiring(), settings)
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
        network_name = settings.get("name") if isinstance(settings, Mapping) else settings
        raise UserError(f"{file}: network.name: {network_name!r} given; allowed: reservoir")
    configured = registry.configure("networks", settings, "network")
    if configured.options.seed is None:
        configured = replace(configured, options=configured.options.model_copy(update={"seed": 0}))
    return NamedReservoir(stem, str(data.get("summary", "")), scoring.build_reservoir(configured))


def describe_structure(wiring: Wiring) -> Rows:
    """Return properties of the graph: neurons, synapses, degrees, spectral radius, strong components."""
    weights = wiring.weights.astype(np.float64)
    synapses = weights != 0
    size = len(weights)
    inhibitory = int(wiring.inhibitory.sum())
    count, labels = csgraph.connected_components(csr_array(synapses), connection="strong")
    largest = int(np.bincount(labels).max())
    radius = float(np.abs(np.linalg.eigvals(weights)).max())

    def degrees(counts: np.ndarray) -> str:
        return f"{counts.mean():.2f} ± {counts.std():.2f}, {counts.min()} to {counts.max()}"

    return [
        ("neurons", f"{size}: {size - inhibitory} excitatory, {inhibitory} inhibitory"),
        ("synapses", f"{int(synapses.sum())}, density {wiring.density:.4f}"),
        ("synapses in", degrees(synapses.sum(0))),
        ("synapses out", degrees(synapses.sum(1))),
        ("spectral radius", f"{radius:.3f} of the graph's weights"),
        ("strong components", f"{count}, the largest with {largest} neurons"),
    ]


def compute_measures(net: SpikingReservoir) -> Rows:
    """Return computational measures of the spiking reservoir, with inputs standardised like its observations."""
    drive = memory.standardize_inputs(net.drive, -1.0, 1.0)
    states = net.size * net.traces
    kernel = memory.compute_kernel_rank(drive, default_rng(0), series=states)
    generalisation = memory.compute_generalisation_rank(drive, default_rng(1), series=states)
    capacity = memory.compute_memory_capacity(drive, default_rng(2), DELAYS, washout=WASHOUT, series=SERIES)
    exponent = memory.compute_lyapunov(drive, default_rng(3), perturbation=PERTURBATION)
    separation = memory.compute_separation(drive, default_rng(4))
    rows = [
        ("features", f"{states}: {net.traces} trace(s) of every neuron, read once a control step"),
        ("kernel rank", f"{kernel.value} of {kernel.size} ({kernel.fraction:.2f})"),
        (
            "generalisation rank",
            f"{generalisation.value} of {generalisation.size} ({generalisation.fraction:.2f})",
        ),
        ("memory capacity", f"{capacity.total:.2f} control steps"),
        ("Lyapunov exponent", f"{exponent:+.3f} per control step, perturbed by {PERTURBATION}"),
        ("separation", f"{separation:.3f} mean state lengths"),
    ]
    drive = memory.standardize_inputs(net.drive, *narma_task.INPUT)
    for order in narma_task.COEFFICIENTS:
        score = evaluate_narma(drive, order, 0)
        rows.append((f"NARMA-{order}", f"NRMSE {score.nrmse:.3f}, NMSE {score.nmse:.3f}"))
    return rows


def compare_with_echo_state(net: SpikingReservoir) -> dict[str, list[float]]:
    """Return the NARMA-10 NRMSE of this reservoir and of echo-state networks for every seed, with the same protocol and data."""

    def errors(drives: Sequence[ReservoirFunction]) -> list[float]:
        return [evaluate_narma(drive, 10, seed).nrmse for seed, drive in zip(SEEDS, drives, strict=True)]

    spiking = memory.standardize_inputs(net.drive, *narma_task.INPUT)
    errors_by_network = {f"spiking, N = {net.size}": errors([spiking] * len(SEEDS))}
    for size in dict.fromkeys([net.size, ECHO_STATE_SIZE]):
        drives = [draw_echo_state(size, default_rng(seed)) for seed in SEEDS]
        errors_by_network[f"echo state, N = {size}"] = errors(drives)
    return errors_by_network


def format_comparison(errors_by_network: Mapping[str, Sequence[float]]) -> Rows:
    """Return the result of `compare_with_echo_state` as rows of a table."""
    head = ("NARMA-10", f"2000 samples to train, 2000 to test, seeds {SEEDS[0]} to {SEEDS[-1]}")
    return [
        head,
        *((name, f"NRMSE {np.mean(e):.3f} ± {np.std(e):.3f}") for name, e in errors_by_network.items()),
    ]


def evaluate_narma(drive: ReservoirFunction, order: int, seed: int) -> narma_task.NarmaScore:
    """Return the NARMA error of ``drive`` with the protocol of this description; ``seed`` draws the series."""
    return narma_task.evaluate_narma(drive, default_rng(100 + seed), order, washout=WASHOUT, series=SERIES)
