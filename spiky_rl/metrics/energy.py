"""Cost of an action or a classified sample: operations, memory, and the energy of arithmetic and memory accesses.

Energy is a sum: the number of operations and memory accesses, each times its energy. It ignores caches, wires, clocks and idle
hardware. So it ranks architectures under an assumption and predicts no device; `CAVEATS` are shown with every energy.

Memory: every synaptic operation reads its weight, because one robot has no batch that could share the read. Every update of a neuron
reads and writes each of its states. Every output of an ANN's unit is written and read once. Neither for spiking networks nor for ANNs
are biases, spikes (one bit each) and observations counted.

An SRAM is exactly as large as its content, and the energy of an access grows smoothly with the size (`compute_access_energy`). So no
network has an advantage because its weights just fit into a memory.

Source: Yik et al. (2025), NeuroBench; Horowitz (2014), 10.1109/ISSCC.2014.6757323, 45 nm at 0.9 V: 64 bits cost
10 pJ from 8 KB of SRAM, 20 pJ from 32 KB, 100 pJ from 1 MB and 1.3 to 2.6 nJ from DRAM; Davies et al. (2018), Loihi,
10.1109/MM.2018.112130359, table 2.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from spiky_rl.config.registry import RegistryError, suggest_name

CAVEATS = (
    "prices without memory count arithmetic alone: moving data takes most of the energy of real hardware, and often reverses the"
    " order",
    "prices with memory count weights and states: no biases, spikes, observations, program, wires or leakage",
    "with 5 inner steps it takes rates below about 6 % to beat a quantised ANN (Yan et al. 2024, arXiv 2409.08290)",
    "an ANN may run in int8, where an accumulate saves less",
    "per action or sample: all inner steps, with encoder, neuron updates and readout",
    "on a GPU none of this holds: a product of spikes costs as much as one of floats; measure time instead",
    "spikes in training differ from those of a deployed network: measure a playback or a test set",
)

DIVISION_IN_MULTIPLICATIONS = 7.1
"""Energy of a floating-point division, in multiplications, measured on a Cortex-M4F (PMC8934428, table 3). Every transcendental
operation is assumed to cost as much."""

SRAM = ((8 * 2**10, 10.0), (32 * 2**10, 20.0), (2**20, 100.0))
"""Published on-chip memories: size in bytes, and energy in pJ of an access to 8 bytes."""
DRAM = 1950.0
"""Energy in pJ of an access to 8 bytes of off-chip memory: the middle of 1.3 to 2.6 nJ."""
WORD = 4
"""Bytes of a number in the networks of this package."""
RELU_ZERO_SHARE = 0.5
"""Assumed share of zeros in an ANN's hidden activations: with ReLU, if its inputs are as often negative as positive."""


@dataclass(frozen=True)
class EnergyModel:
    """Energy per operation, in pJ."""

    text: str
    """Description of the assumption, shown beside each number."""
    accumulate: float
    multiply_accumulate: float
    addition: float
    multiplication: float
    transcendental: float
    update: float = 0.0
    """Energy of a neuron's update on top of its arithmetic."""
    bytes_per_value: int = 0
    """Bytes of a weight, a state or an activation in memory; 0 if memory costs nothing."""
    has_dram: bool = False
    """Whether weights are in DRAM instead of an SRAM of their total size. States are always in an SRAM of their total size."""
    has_lists: bool = False
    """Whether the weights of sparse connections are stored as lists of synapses instead of matrices with zeros."""


FP32 = EnergyModel(
    "fp32 arithmetic at 45 nm, no memory", 0.9, 4.6, 0.9, 3.7, DIVISION_IN_MULTIPLICATIONS * 3.7
)
INT8 = EnergyModel(
    "int8 arithmetic at 45 nm, no memory", 0.03, 0.23, 0.03, 0.2, DIVISION_IN_MULTIPLICATIONS * 0.2
)
IN_SRAM = "weights and states each in an SRAM of their size"
IN_DRAM = "weights in DRAM, states in SRAM"
IN_LISTS = f"{IN_SRAM}, sparse connections as lists of synapses"


def _with_memory(model: EnergyModel, kind: str, bytes_per_value: int, where: str) -> EnergyModel:
    """Return ``model``, of numbers of a ``kind``, with memory; ``where`` is `IN_SRAM`, `IN_LISTS` or `IN_DRAM`."""
    return dataclasses.replace(
        model,
        text=f"{kind} at 45 nm, {where}",
        bytes_per_value=bytes_per_value,
        has_dram=where == IN_DRAM,
        has_lists=where == IN_LISTS,
    )


ENERGY_MODELS: Mapping[str, EnergyModel] = MappingProxyType(
    {
        "fp32": FP32,
        "int8": INT8,
        "fp32_sram": _with_memory(FP32, "fp32", WORD, IN_SRAM),
        "fp32_lists": _with_memory(FP32, "fp32", WORD, IN_LISTS),
        "fp32_dram": _with_memory(FP32, "fp32", WORD, IN_DRAM),
        "int8_sram": _with_memory(INT8, "int8", 1, IN_SRAM),
        "int8_lists": _with_memory(INT8, "int8", 1, IN_LISTS),
        "int8_dram": _with_memory(INT8, "int8", 1, IN_DRAM),
        "loihi": EnergyModel("Loihi's synapses and neurons, no encoder", 23.6, 23.6, 0.0, 0.0, 0.0, 81.0),
    }
)
"""Energy models by name. In ``loihi`` every synaptic operation has the same energy, memory included; it does not apply to ANNs."""
ANN_ENERGY_MODELS = tuple(name for name in ENERGY_MODELS if name != "loihi")
"""Names of the energy models that apply to ANNs too, so that a spiking network can be compared with its equal-size ANN."""
MAIN_ENERGY_MODELS: Mapping[str, str] = MappingProxyType({"fp32_sram": "fp32", "int8_sram": "int8"})
"""Energy models that tables show first, for every agent, with their column titles."""
LIST_ENERGY_MODELS: Mapping[str, str] = MappingProxyType(
    {"fp32_sram": "fp32_lists", "int8_sram": "int8_lists"}
)
"""The energy model with lists of synapses for each energy model with matrices."""


def get_energy_model(name: str) -> EnergyModel:
    """Return the energy model called ``name``. Raises RegistryError if it is unknown."""
    if name not in ENERGY_MODELS:
        raise RegistryError(
            f"energy model: {name!r} given; allowed: {', '.join(ENERGY_MODELS)}{suggest_name(name, ENERGY_MODELS)}"
        )
    return ENERGY_MODELS[name]


@dataclass(frozen=True)
class InferenceCost:
    """Cost of one action, or of one classified sample; a count is the mean over all measured actions or samples."""

    effective_macs: float
    """Synaptic operations with graded inputs."""
    effective_acs: float
    """Synaptic operations with inputs of -1, 0 and 1 only."""
    dense_operations: float
    """Synaptic operations if every input and weight counted."""
    encoder_operations: float
    """Arithmetic of the encoder."""
    neuron_updates: float
    """Updates of all neurons, readout potentials and traces; in an ANN the number of activations."""
    additions: float
    """Additions in the neuron updates."""
    multiplications: float
    """Multiplications in the neuron updates."""
    transcendental: float
    """Transcendental operations in the neuron updates."""
    activation_sparsity: float
    """Share of outputs of neurons (or activations) that are 0."""
    connection_sparsity: float
    """Share of weights that are 0."""
    parameters: int
    footprint_bytes: int
    """Parameters and saved buffers."""
    state_bytes: int
    """State of one environment; of an ANN the outputs of its units, too."""
    stored_values: int
    """Numbers in memory if sparse connections are stored as lists: weights, and parameters of single neurons."""
    index_bytes: int
    """Size of the lists apart from the weights: the neuron of every weight, and the start of every input's list."""
    state_accesses: float = 0.0
    """Reads and writes of the neurons' states, or of an ANN's activations."""
    index_reads: float = 0.0
    """Bytes read from lists of synapses, apart from the weights."""
    equal_ann: InferenceCost | None = None
    """Cost of an ANN of the same sizes and synapses that skips zeros; None if the network is not a spiking one."""

    @property
    def effective_operations(self) -> float:
        """Synaptic operations of both kinds, also called EFLOPs, without encoder and neuron updates."""
        return self.effective_macs + self.effective_acs

    def compute_energy(self, model: EnergyModel) -> float:
        """Return the energy in pJ under the energy ``model``. All operations of an encoder count as multiplications."""
        return (
            model.multiply_accumulate * self.effective_macs
            + model.accumulate * self.effective_acs
            + model.addition * self.additions
            + model.multiplication * (self.multiplications + self.encoder_operations)
            + model.transcendental * self.transcendental
            + model.update * self.neuron_updates
            + self.compute_memory_energy(model)
        )

    def compute_memory_energy(self, model: EnergyModel) -> float:
        """Return the energy in pJ of the memory traffic under the energy ``model``."""
        stored_bytes = self.footprint_bytes * model.bytes_per_value / WORD
        read_bytes = model.bytes_per_value * self.effective_operations
        if model.has_lists:
            stored_bytes = self.stored_values * model.bytes_per_value + self.index_bytes
            read_bytes = read_bytes + self.index_reads
        # energies of an access to 8 bytes
        weight_access = DRAM if model.has_dram else compute_access_energy(stored_bytes)
        state_access = compute_access_energy(self.state_bytes * model.bytes_per_value / WORD)
        return (weight_access * read_bytes + model.bytes_per_value * state_access * self.state_accesses) / 8

    def scale(self, passes: int) -> InferenceCost:
        """Return the cost of a number of ``passes``: counts are multiplied, shares and memory stay."""
        equal_ann = None if self.equal_ann is None else self.equal_ann.scale(passes)
        return dataclasses.replace(
            self, equal_ann=equal_ann, **{name: getattr(self, name) * passes for name in COUNT_FIELDS}
        )

    def counts(self) -> dict[str, float]:
        """Return all numbers of this network by name, without ``equal_ann``. `compute_energy` depends on them only."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "equal_ann"}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a result file: all numbers, and ``energy_nj`` by energy model, also of the equal-size ANN.

        An ANN has the energies of `ANN_ENERGY_MODELS` only.
        """
        models = ANN_ENERGY_MODELS if self.equal_ann is None else ENERGY_MODELS
        energies = {name: self.compute_energy(ENERGY_MODELS[name]) / 1000.0 for name in models}
        data = {**self.counts(), "effective_operations": self.effective_operations, "energy_nj": energies}
        if self.equal_ann is not None:
            data["ann_skipping_zeros"] = self.equal_ann.counts()
            data["ann_skipping_zeros_energy_nj"] = self.get_ann_energies()
        return data

    def get_ann_energies(self) -> dict[str, float]:
        """Return the energy in nJ of the equal-size ANN by energy model; empty without that ANN."""
        if self.equal_ann is None:
            return {}
        return {
            name: self.equal_ann.compute_energy(ENERGY_MODELS[name]) / 1000.0 for name in ANN_ENERGY_MODELS
        }


COUNT_FIELDS = (
    "effective_macs effective_acs dense_operations encoder_operations neuron_updates"
    " additions multiplications transcendental state_accesses index_reads"
).split()
"""Fields of `InferenceCost` that grow with the number of passes."""


def compute_access_energy(size: float) -> float:
    """Return the energy in pJ of an access to 8 bytes of an SRAM of ``size`` bytes.

    Between two memories of `SRAM` the energy follows a power law. Its exponent is near 1/2, as for wires across an area. Above the
    largest memory the last power law continues up to the energy of an access to `DRAM` (at 600 MB). Below the smallest memory the
    energy is constant: no smaller memory is published, and decoders, amplifiers and the path to a memory do not shrink with it. A
    power law there would give the small states of spiking networks an energy that nobody measured.
    """
    smallest_size, smallest_energy = SRAM[0]
    if size <= smallest_size:
        return smallest_energy
    pairs = list(itertools.pairwise(SRAM))
    (small, energy_small), (large, energy_large) = next(
        (pair for pair in pairs if size <= pair[1][0]), pairs[-1]
    )
    slope = math.log(energy_large / energy_small) / math.log(large / small)
    return min(energy_small * (size / small) ** slope, DRAM)


def compute_energy_per_metre(
    energy_nj: Mapping[str, float], steps: float, distance: float
) -> dict[str, float] | None:
    """Return the energy per metre in µJ by energy model; None if the distance is not positive.

    Args:
        energy_nj: Energy of a control step in nJ, by energy model.
        steps: Mean number of control steps per episode.
        distance: Mean distance per episode in m.
    """
    if distance <= 0.0:
        return None
    return {name: spread_over_distance(energy, steps, distance) for name, energy in energy_nj.items()}


def spread_over_distance(energy_nj: float, steps: float, distance: float) -> float:
    """Return the energy per metre in µJ of episodes of ``steps`` control steps that cost ``energy_nj`` each and go ``distance`` m."""
    return energy_nj * steps / distance / 1000.0


def average(costs: Sequence[InferenceCost], weights: Sequence[float] | None = None) -> InferenceCost:
    """Return the mean of the ``costs`` of one model, weighted by ``weights`` if given. Raises ValueError if there are no costs."""
    if not costs:
        raise ValueError("cannot average an empty list of costs")
    means = {}
    for name in (*COUNT_FIELDS, "activation_sparsity", "connection_sparsity"):
        means[name] = statistics.fmean([getattr(cost, name) for cost in costs], weights)
    return dataclasses.replace(costs[-1], **means)


class EnergyRow(NamedTuple):
    """Energy of one action in nJ, under one energy model."""

    assumption: str
    policy: float
    ann_products: float | None
    """Energy of the products of a dense ANN of the same sizes; None if there is no such ANN, or another column has it."""
    ann_skipping_zeros: float | None
    """Energy of an ANN of the same sizes that skips zeros; None if there is no such ANN, or another column has it."""


def tabulate_energies(cost: InferenceCost, ann_operations: float = 0.0) -> list[EnergyRow]:
    """Return the energies of ``cost``: of its arithmetic in single precision, and, if it has an equal-size ANN, under the models of `MAIN_ENERGY_MODELS`.

    Args:
        ann_operations: Multiply-accumulates of an ANN to compare with; 0 for none.
    """
    products = ann_operations * FP32.multiply_accumulate / 1000.0 if ann_operations else None
    rows = [EnergyRow(FP32.text, cost.compute_energy(FP32) / 1000.0, products, None)]
    for name in MAIN_ENERGY_MODELS if cost.equal_ann is not None else ():
        model = ENERGY_MODELS[name]
        rows.append(
            EnergyRow(model.text, cost.compute_energy(model) / 1000.0, None, cost.get_ann_energies()[name])
        )
    return rows
