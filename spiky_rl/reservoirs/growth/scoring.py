"""Fitness of a grown graph: the error of a spiking reservoir that is wired by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, override

import numpy as np

from spiky_rl.config import registry
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.reservoirs import narma as narma_task
from spiky_rl.reservoirs.echo_state import Drive
from spiky_rl.reservoirs.graphs.base import ReservoirGraph, Wiring
from spiky_rl.reservoirs.graphs.grown import GrownGraph
from spiky_rl.reservoirs.growth.dgca import CellGraph, GrowthRule
from spiky_rl.reservoirs.growth.settings import Task
from spiky_rl.reservoirs.memory import memory_capacity, standardize_drive

NETWORK: Mapping[str, Any] = {"name": "reservoir", "traces": [10.0, 20.0, 50.0]}
"""The reservoir that a graph is put into; all else is the default."""
DELAYS = 30


class SpikingReservoir(Protocol):
    """Interface of the network ``reservoir`` for measures and pictures."""

    wiring: Wiring
    size: int
    """N: neurons."""
    trace_decays: tuple[float, ...]

    def compute_traces(self, u: np.ndarray) -> np.ndarray:
        """Inputs [series, time, channels] -> traces [series, time, N * traces], each series from rest."""
        ...


class FixedGraph(ReservoirGraph):
    """A wiring that is there already."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring

    @override
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        return self.wiring


def make_reservoir(wiring: Wiring, settings: PlainMapping) -> SpikingReservoir:
    """A spiking reservoir of one input.

    Args:
        wiring: Stands in the place of its graph.
        settings: Settings of the network, as an agent has them.
    """
    size = len(wiring.weights)
    configured = registry.configure("networks", {**settings, "size": size}, "network")
    fixed = registry.ComponentSpec("fixed", FixedGraph, None, {"wiring": wiring})
    return replace(configured, parts={**configured.parts, "graph": fixed}).build(inputs=1, outputs=1)


@dataclass(frozen=True)
class ReservoirScore:
    """A fitness: what a graph's reservoir achieves on a task with fixed data. Lower is better."""

    task: Task
    seed: int
    """Seed of input weights, of what calibrates, and of the task's series."""
    train: int = 2000
    test: int = 2000
    series: int = 20
    """The samples are divided among so many series, which cost no more time than one does."""
    washout: int = 50

    def __call__(self, cells: CellGraph) -> float:
        net = make_reservoir(
            make_graph_file(cells, GrowthRule((), ()), self, np.nan).wiring(), {**NETWORK, "seed": self.seed}
        )
        return self.evaluate(net.compute_traces)

    def evaluate(self, drive: Drive) -> float:
        """The score of any reservoir that expects standardised inputs, by its ``drive``."""
        generator = np.random.default_rng(self.seed)
        if self.task == "memory":
            drive = standardize_drive(drive, -1.0, 1.0)
            return -memory_capacity(
                drive, generator, DELAYS, self.train, self.test, self.washout, self.series
            ).total
        drive = standardize_drive(drive, *narma_task.INPUT)
        return narma_task.evaluate_narma(
            drive, generator, int(self.task.removeprefix("narma")),
            self.train, self.test, self.washout, self.series,
        ).nrmse  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """How the fitness was measured, for the graph's file."""
        unit = "-memory capacity" if self.task == "memory" else "NRMSE"
        return {**vars(self), "unit": unit, "network": {**NETWORK, "seed": self.seed}}


def make_graph_file(cells: CellGraph, rule: GrowthRule, score: ReservoirScore, fitness: float) -> GrownGraph:
    """Content of a grown graph's file: its ``cells``, the ``rule`` that grew them, the ``score`` and what ``fitness`` that gave."""
    chromosomes = {"action": list(rule.action), "state": list(rule.state)}
    return GrownGraph(
        cells.states,
        np.argwhere(cells.adjacency),
        chromosomes,
        score.seed,
        fitness,
        score.settings(),
        _versions(),
    )


def _versions() -> dict[str, str]:
    import torch

    from spiky_rl import __version__

    return {"spiky_rl": __version__, "numpy": np.__version__, "torch": torch.__version__}
