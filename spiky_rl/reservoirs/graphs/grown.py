"""Grown: a graph that ``scripts/grow.py`` evolved, read from its file.

Neurons in states 0 and 1 are excitatory, neurons in state 2 inhibitory (Dale's law). Every edge is a synapse of weight 1, times
``strength`` if inhibitory. An edge from a node to itself is a synapse too. The file determines the number of neurons.

Source: Barandiaran & Stovold (2025), Developmental Graph Cellular Automata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import numpy as np
from pydantic import field_validator

from spiky_rl.config import files, registry
from spiky_rl.config.named_code import require_no_code
from spiky_rl.config.options import RegistryError, Settings, option, shorten, suggest_name
from spiky_rl.config.safe_loading import ReadingError, parse_json, read_file
from spiky_rl.reservoirs.graphs.base import ReservoirGraph, Wiring

VERSION = 1
FORMAT = "spiky_rl grown graph"
STATES = 3
"""Number of states of a node."""
INHIBITORY = 2
"""The state of inhibitory neurons."""


@dataclass(frozen=True)
class GrownGraph:
    """Content of a file of a grown graph."""

    states: np.ndarray
    """int [N], 0 to 2"""
    edges: np.ndarray
    """int [edges, 2]: from, to"""
    rule: Mapping[str, Any]
    """The chromosomes of its rule: lists of matrices by name."""
    seed: int
    """Seed of the evolution."""
    fitness: float
    """Lower is better."""
    measured: Mapping[str, Any]
    """Settings of the fitness measurement."""
    versions: Mapping[str, str]
    """Versions of the libraries that computed the fitness."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.states)

    @property
    def adjacency(self) -> np.ndarray:
        """bool [N, N], from row to column."""
        adjacency = np.zeros((self.size, self.size), bool)
        adjacency[self.edges[:, 0], self.edges[:, 1]] = True
        return adjacency

    def make_wiring(self, strength: float = 1.0) -> Wiring:
        """Return the graph as a wiring; inhibitory synapses have ``strength`` times the weight of excitatory ones."""
        inhibits = self.states == INHIBITORY
        weights = self.adjacency.astype(np.float32)
        weights[inhibits] *= -strength
        return Wiring(weights, inhibits)


class Grown(ReservoirGraph):
    """Graph that ``scripts/grow.py`` evolved, read from its file."""

    class Options(Settings):
        file: str = option(
            "", "a graph file of scripts/grow.py (.json), by its path or by the name of one in agents/"
        )
        strength: float = option(
            1.0, "strength of an inhibitory synapse, relative to an excitatory one", low=0.0
        )

        @field_validator("file")
        @classmethod
        def _check_readable(cls, file: str) -> str:
            if file:
                read(find(file))
            return file

    options: Options

    @override
    def check(self, size: int) -> None:
        self._read(size)

    @override
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        return self._read(size).make_wiring(self.options.strength)

    def _read(self, size: int) -> GrownGraph:
        if not self.options.file:
            raise RegistryError("file: name a grown graph, as scripts/grow.py writes it")
        graph = read(find(self.options.file))
        if graph.size != size:
            raise RegistryError(
                f"file: {self.options.file} has {graph.size} neurons, not {size}; set the network's size to {graph.size}"
            )
        return graph


def find(file: str) -> Path:
    """Return the path of the graph ``file``: the path itself, or a shipped file beside the agents."""
    shipped = registry.find_data_folder("agents") / file
    return shipped if os.path.isfile(shipped) and not os.path.isfile(file) else Path(file)


def write(path: Path, graph: GrownGraph) -> None:
    """Write ``graph`` as JSON to ``path``, atomically."""
    lists = json.dumps
    rule = ",\n".join(
        f"    {lists(name)}: [\n"
        + ",\n".join(f"      {_format_rows(matrix)}" for matrix in chromosome)
        + "\n    ]"
        for name, chromosome in graph.rule.items()
    )
    edges = ",\n".join(f"    {lists(edge)}" for edge in graph.edges.tolist())
    text = f"""{{
  "format": {lists(FORMAT)},
  "version": {VERSION},
  "fitness": {lists(graph.fitness)},
  "measured": {lists(dict(graph.measured))},
  "seed": {graph.seed},
  "versions": {lists(dict(graph.versions))},
  "states": {lists(graph.states.tolist())},
  "edges": [
{edges}
  ],
  "rule": {{
{rule}
  }}
}}
"""
    files.write_text(path, text)


def _format_rows(matrix: object) -> str:
    rows = ",\n       ".join(json.dumps(row) for row in np.asarray(matrix).tolist())
    return f"[{rows}]"


def read(path: Path) -> GrownGraph:
    """Read the graph in the file at ``path``. Raises RegistryError that names file, key, value and the allowed values."""
    try:
        data = read_file(path, parse_json)
    except ReadingError as error:
        raise RegistryError(str(error)) from None
    _check_content(data, path)
    rule = {name: [np.array(matrix) for matrix in chromosome] for name, chromosome in data["rule"].items()}
    return GrownGraph(
        np.array(data["states"], int), np.array(data["edges"], int).reshape(-1, 2), rule,
        data["seed"], float(data["fitness"]), data["measured"], data["versions"],
    )  # fmt: skip


def _check_content(data: Any, path: Path) -> None:
    """Raise RegistryError if ``data``, the content of the file at ``path``, is not a grown graph."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise RegistryError(f"{path}: not a file of a grown graph; its format must be {FORMAT!r}")
    if data.get("version") != VERSION:
        raise RegistryError(f"{path}: version: {data.get('version')!r} is not supported; allowed: {VERSION}")
    for key in data:
        if key not in ("format", "version", *CHECKS):
            raise RegistryError(f"{path}: {key}: no such key{suggest_name(key, CHECKS)}")
    for key, (check, allowed) in CHECKS.items():
        if key not in data:
            raise RegistryError(f"{path}: {key}: missing; allowed: {allowed}")
        if not check(data[key]):
            raise RegistryError(f"{path}: {key}: {shorten(data[key])} given; allowed: {allowed}")
    require_no_code(f"{path}: measured.network", data["measured"].get("network"))
    size = len(data["states"])
    for i, edge in enumerate(data["edges"]):
        if max(edge) >= size:
            raise RegistryError(f"{path}: edges[{i}]: {edge} given; allowed: nodes 0 to {size - 1}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_index(value: object, below: int | None = None) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return value >= 0 and (below is None or value < below)


def _is_edge(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_index(end) for end in value)


def _is_matrix(value: object) -> bool:
    if not (isinstance(value, list) and value and all(isinstance(row, list) and row for row in value)):
        return False
    return len({len(row) for row in value}) == 1 and all(_is_number(x) for row in value for x in row)


def _is_rule(value: object) -> bool:
    if not (isinstance(value, dict) and set(value) == {"action", "state"}):
        return False
    return all(isinstance(c, list) and c and all(map(_is_matrix, c)) for c in value.values())


CHECKS = {
    "states": (
        lambda value: isinstance(value, list) and bool(value) and all(_is_index(x, STATES) for x in value),
        f"a list of whole numbers below {STATES}, one for each node",
    ),
    "edges": (
        lambda value: isinstance(value, list) and all(map(_is_edge, value)),
        "a list of [from, to], numbers of nodes counted from 0",
    ),
    "rule": (_is_rule, "a mapping of 'action' and 'state', each a list of matrices"),
    "seed": (_is_index, "a whole number from 0"),
    "fitness": (_is_number, "a number"),
    "measured": (lambda value: isinstance(value, dict), "a mapping"),
    "versions": (lambda value: isinstance(value, dict), "a mapping"),
}
"""For each key a check of its value, and the allowed values in words."""
