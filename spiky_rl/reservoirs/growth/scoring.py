"""Fitness of a grown graph: the error of a spiking reservoir with its wiring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, override

import numpy as np

from spiky_rl.config import registry
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.reservoirs import narma as narma_task
from spiky_rl.reservoirs.echo_state import ReservoirFunction
from spiky_rl.reservoirs.graphs.base import ReservoirGraph, Wiring
from spiky_rl.reservoirs.graphs.grown import GrownGraph
from spiky_rl.reservoirs.growth.dgca import CellGraph, GrowthRule
from spiky_rl.reservoirs.growth.settings import Task
from spiky_rl.reservoirs.memory import compute_memory_capacity, standardize_inputs

NETWORK: Mapping[str, Any] = {"name": "reservoir", "traces": [10.0, 20.0, 50.0]}
"""Settings of the reservoir that receives the graph; the others are the defaults."""
DELAYS = 30
"""Longest delay of the memory capacity, in control steps."""


@dataclass(frozen=True)
class SpikingReservoir:
    """The parts of a network ``reservoir`` that measures and pictures need."""

    wiring: Wiring
    traces: int
    """Number of traces per neuron."""
    drive: ReservoirFunction
    """Computes the traces [series, time, N * traces] of inputs [series, time, channels]; each series starts from rest."""

    @property
    def size(self) -> int:
        """N, the number of neurons."""
        return len(self.wiring.weights)


class FixedGraph(ReservoirGraph):
    """A given wiring as a graph component."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring

    @override
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        return self.wiring


def make_reservoir(wiring: Wiring, settings: PlainMapping) -> SpikingReservoir:
    """Return a spiking reservoir with one input, with ``wiring`` as its graph and the network ``settings`` of an agent."""
    size = len(wiring.weights)
    configured = registry.configure("networks", {**settings, "size": size}, "network")
    fixed = registry.ComponentSpec("fixed", FixedGraph, None, {"wiring": wiring})
    return build_reservoir(replace(configured, parts={**configured.parts, "graph": fixed}))


def build_reservoir(network: registry.ComponentSpec) -> SpikingReservoir:
    """Build the ``network``, a reservoir, with one input."""
    net = network.build(inputs=1, outputs=1)
    return SpikingReservoir(net.wiring, len(net.trace_decays), net.compute_traces)


@dataclass(frozen=True)
class ReservoirScore:
    """The fitness function: the score of a graph's reservoir on a task with fixed data. Lower is better."""

    task: Task
    seed: int
    """Seed of input weights, calibration, and the task's series."""
    train: int = 2000
    test: int = 2000
    series: int = 20
    """Number of series that share the samples; they run side by side and take no more time than one."""
    washout: int = 50

    def __call__(self, cells: CellGraph) -> float:
        net = make_reservoir(
            make_grown_graph(cells, GrowthRule((), ()), self, np.nan).make_wiring(),
            {**NETWORK, "seed": self.seed},
        )
        return self.evaluate(net.drive)

    def evaluate(self, drive: ReservoirFunction) -> float:
        """Return the score of a reservoir that expects standardised inputs, by its ``drive``."""
        generator = np.random.default_rng(self.seed)
        if self.task == "memory":
            drive = standardize_inputs(drive, -1.0, 1.0)
            return -compute_memory_capacity(
                drive, generator, DELAYS, self.train, self.test, self.washout, self.series
            ).total
        drive = standardize_inputs(drive, *narma_task.INPUT)
        return narma_task.evaluate_narma(
            drive, generator, int(self.task.removeprefix("narma")),
            self.train, self.test, self.washout, self.series,
        ).nrmse  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return the settings of the measurement, for the graph's file."""
        unit = "-memory capacity" if self.task == "memory" else "NRMSE"
        return {**vars(self), "unit": unit, "network": {**NETWORK, "seed": self.seed}}


def make_grown_graph(cells: CellGraph, rule: GrowthRule, score: ReservoirScore, fitness: float) -> GrownGraph:
    """Return the content of a graph's file: the ``cells``, the ``rule`` that grew them, the ``score`` and its value ``fitness``."""
    import torch

    from spiky_rl import __version__

    chromosomes = {"action": list(rule.action), "state": list(rule.state)}
    return GrownGraph(
        cells.states,
        np.argwhere(cells.adjacency),
        chromosomes,
        score.seed,
        fitness,
        score.settings(),
        {"spiky_rl": __version__, "numpy": np.__version__, "torch": torch.__version__},
    )
