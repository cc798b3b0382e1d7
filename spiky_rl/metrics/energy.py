"""Cost of an action or a classified sample: operations, memory, and the energy that arithmetic and memory take.

Energy is a sum of counts times prices of single operations and of accesses to memory. It knows nothing of caches, wires,
clocks and idle hardware, so it orders architectures under an assumption and predicts no device; `CAVEATS` say so wherever it
is shown.

Memory: every synaptic operation reads its weight, because one robot's actions leave nothing to share a weight with, and every
update of a neuron reads and writes each of its states. An ANN's units write their output and read it once. Biases, spikes (a
bit each) and observations are left out, of both.

An SRAM is exactly as large as its content, and the price of an access follows its size without a step (`compute_access_energy`), so that no
network is cheap because its weights just fit into a memory.

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
from typing import Any

from spiky_rl.config.registry import RegistryError, suggest_name

CAVEATS = (
    "prices without memory count arithmetic alone: moving data takes most of the energy of real hardware, and often reverses the"
    " order",
    "prices with memory count weights and states: no biases, spikes, observations, program, wires or leakage",
    "with 5 inner steps it takes rates below about 6 % to beat a quantised ANN (Yan et al. 2024, arXiv 2409.08290)",
    "an ANN may run in int8, where an accumulate saves less",
    "per action or sample: all inner steps, with encoder, neuron updates and readout",
    "on a GPU none of this holds: a product of spikes costs what one of floats costs; measure time instead",
    "spikes in training are not those of a deployed network: take the numbers of a playback or a test set",
)


DIVISION = 7.1
"""Energy of a floating-point division in multiplications, measured on a Cortex-M4F (PMC8934428, table 3): what is taken for
every transcendental operation."""


SRAM = ((8 * 2**10, 10.0), (32 * 2**10, 20.0), (2**20, 100.0))
"""Published memories on a chip: size in bytes, and energy of an access to 8 bytes in pJ."""
DRAM = 1950.0
"""Energy of an access to 8 bytes of memory beside the chip in pJ: the middle of 1.3 to 2.6 nJ."""
WORD = 4
"""Bytes of a number as networks hold it here."""
ZEROS = 0.5
"""Share of an ANN's hidden activations that are 0 with ReLU and inputs to it that are as often below 0 as above."""


@dataclass(frozen=True)
class EnergyModel:
    """Energy per operation, in pJ."""

    text: str
    """The assumption, for what shows a number."""
    accumulate: float
    multiply_accumulate: float
    addition: float
    multiplication: float
    transcendental: float
    update: float = 0.0
    """Price of a neuron's update, whatever its arithmetic."""
    word: int = 0
    """Bytes of a weight, a state and an activation in memory; 0: memory costs nothing."""
    outside: bool = False
    """Whether weights come from DRAM; else from an SRAM as large as all of them, as states always do from one of theirs."""
    lists: bool = False
    """Whether the weights of sparse connections lie in memory as lists of synapses; else as matrices with their zeros."""


FP32 = EnergyModel("fp32 arithmetic at 45 nm, no memory", 0.9, 4.6, 0.9, 3.7, DIVISION * 3.7)
INT8 = EnergyModel("int8 arithmetic at 45 nm, no memory", 0.03, 0.23, 0.03, 0.2, DIVISION * 0.2)
IN_SRAM, IN_DRAM = (
    "weights and states each in an SRAM of their size",
    "weights in DRAM, states in SRAM",
)
IN_LISTS = f"{IN_SRAM}, sparse connections as lists of synapses"


def _with_memory(price: EnergyModel, kind: str, word: int, where: str) -> EnergyModel:
    return dataclasses.replace(
        price, text=f"{kind} at 45 nm, {where}", word=word, outside=where == IN_DRAM, lists=where == IN_LISTS
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
"""By name. Loihi has one price for any synaptic operation, memory included, and says nothing of an ANN."""
ANN_ENERGY_MODELS = tuple(name for name in ENERGY_MODELS if name != "loihi")
"""Prices under which a spiking network stands beside an ANN of its sizes that skips zeros: all that are an ANN's as well."""
MAIN: Mapping[str, str] = MappingProxyType({"fp32_sram": "fp32", "int8_sram": "int8"})
"""Prices that stand first wherever energies are shown, of every agent alike, and the arithmetic that they are named by there."""
AS_LISTS: Mapping[str, str] = MappingProxyType({"fp32_sram": "fp32_lists", "int8_sram": "int8_lists"})
"""Prices of matrices with their zeros, and the same of lists of synapses."""


def get_energy_model(name: str) -> EnergyModel:
    """The assumption called ``name``. Raises RegistryError for one that there is not."""
    if name not in ENERGY_MODELS:
        raise RegistryError(
            f"prices: {name!r} is not known; choose from {', '.join(ENERGY_MODELS)}{suggest_name(name, ENERGY_MODELS)}"
        )
    return ENERGY_MODELS[name]


@dataclass(frozen=True)
class InferenceCost:
    """Cost of one action, or of one sample; counts are means over what was measured."""

    effective_macs: float
    """Synaptic operations with graded inputs."""
    effective_acs: float
    """Those with inputs of -1, 0 and 1 alone."""
    dense_operations: float
    """Synaptic operations if every input and weight counted."""
    encoder_operations: float
    """Arithmetic of the encoder."""
    neuron_updates: float
    """Steps of all neurons, readout potentials and traces among them; an ANN's activations."""
    additions: float
    """Additions of the updates; the next two are theirs as well."""
    multiplications: float
    transcendental: float
    activation_sparsity: float
    """Share of outputs of neurons (or activations) that are 0."""
    connection_sparsity: float
    """Share of weights that are 0."""
    parameters: int
    footprint_bytes: int
    """Parameters and buffers."""
    state_bytes: int
    """What one environment needs besides, while it runs."""
    stored_values: int
    """Numbers in memory where sparse connections lie there as lists: weights, and what belongs to single neurons."""
    index_bytes: int
    """What those lists take besides: the neuron of every weight, and where the list of every input begins."""
    state_accesses: float = 0.0
    """Reads and writes of numbers that are neither weights nor inputs: neurons' states, an ANN's activations."""
    index_reads: float = 0.0
    """Bytes of lists that are read, besides weights."""
    rival: InferenceCost | None = None
    """Cost of an ANN of the same sizes and synapses that skips zeros, beside a spiking network; None: there is none."""

    @property
    def effective_operations(self) -> float:
        """Synaptic operations of both kinds, also called EFLOPs; encoder and updates stand apart."""
        return self.effective_macs + self.effective_acs

    def energy(self, price: EnergyModel) -> float:
        """In pJ at a ``price``. An encoder's operations count as multiplications, the dearer ones."""
        return (
            price.multiply_accumulate * self.effective_macs
            + price.accumulate * self.effective_acs
            + price.addition * self.additions
            + price.multiplication * (self.multiplications + self.encoder_operations)
            + price.transcendental * self.transcendental
            + price.update * self.neuron_updates
            + self.traffic(price)
        )

    def traffic(self, price: EnergyModel) -> float:
        """Energy of the memory traffic at that ``price``, in pJ."""
        held, read = self.footprint_bytes * price.word / WORD, price.word * self.effective_operations
        if price.lists:
            held, read = self.stored_values * price.word + self.index_bytes, read + self.index_reads
        weight = DRAM if price.outside else compute_access_energy(held)
        state = compute_access_energy(self.state_bytes * price.word / WORD)
        return (weight * read + price.word * state * self.state_accesses) / 8

    def throughput(self, per_second: float) -> float:
        """Effective operations per second at so many actions or samples ``per_second``."""
        return self.effective_operations * per_second

    def scale(self, passes: int) -> InferenceCost:
        """The cost of so many ``passes``, one after another: counts multiply, shares and memory stay."""
        rival = None if self.rival is None else self.rival.scale(passes)
        return dataclasses.replace(
            self, rival=rival, **{name: getattr(self, name) * passes for name in COUNTS}
        )

    def counts(self) -> dict[str, float]:
        """Return all numbers but those of the ``rival``, by name: `energy` is computed from nothing else."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "rival"}

    def as_dict(self) -> dict[str, Any]:
        """For a result file: all numbers, and ``energy_nj`` by assumption; those of the ANN beside it likewise."""
        energies = {name: self.energy(price) / 1000.0 for name, price in ENERGY_MODELS.items()}
        data = {**self.counts(), "effective_operations": self.effective_operations, "energy_nj": energies}
        if self.rival is not None:
            data["ann_skipping_zeros"] = self.rival.counts()
            data["ann_skipping_zeros_energy_nj"] = self.get_ann_energies()
        return data

    def get_ann_energies(self) -> dict[str, float]:
        """Energy in nJ of the ANN beside it, by the name of the prices; empty where there is none."""
        if self.rival is None:
            return {}
        return {name: self.rival.energy(ENERGY_MODELS[name]) / 1000.0 for name in ANN_ENERGY_MODELS}


COUNTS = (
    "effective_macs effective_acs dense_operations encoder_operations neuron_updates"
    " additions multiplications transcendental state_accesses index_reads"
).split()
"""Fields of `InferenceCost` that grow with the number of passes."""


def compute_access_energy(size: float) -> float:
    """Return the energy in pJ of an access to 8 bytes of an SRAM of ``size`` bytes.

    It is a power law between two memories of `SRAM`: they rise with about the square root of the size, as the length of wires
    across an area does. Beyond the largest memory the last power law goes on until an access to `DRAM` costs no more (600 MB).
    Below the smallest memory its price holds: nothing is published there, and decoders, amplifiers and the way to a memory do
    not shrink with it. A power law would give the states of spiking networks, which are small, a price that nobody measured.
    """
    smallest, least = SRAM[0]
    if size <= smallest:
        return least
    pairs = list(itertools.pairwise(SRAM))
    (small, cheap), (large, dear) = next((pair for pair in pairs if size <= pair[1][0]), pairs[-1])
    slope = math.log(dear / cheap) / math.log(large / small)
    return min(cheap * (size / small) ** slope, DRAM)


def compute_energy_per_metre(
    energy_nj: Mapping[str, float], steps: float, distance: float
) -> dict[str, float] | None:
    """Energy per metre, in µJ by the name of the prices.

    Args:
        energy_nj: Energy of a control step, in nJ.
        steps: Control steps of an episode, as a mean.
        distance: Metres gone in it, as a mean; None comes back where they are none.
    """
    if distance <= 0.0:
        return None
    return {name: energy * steps / distance / 1000.0 for name, energy in energy_nj.items()}


def mean(costs: Sequence[InferenceCost], weights: Sequence[float] | None = None) -> InferenceCost:
    """The mean of the ``costs`` of a model's passes, each counted by its own of the ``weights``. Raises ValueError for no costs."""
    if not costs:
        raise ValueError("the mean of no costs")
    moving = (*COUNTS, "activation_sparsity", "connection_sparsity")
    return dataclasses.replace(
        costs[-1], **{name: statistics.fmean((getattr(c, name) for c in costs), weights) for name in moving}
    )


def format_cost(cost: InferenceCost, name: str = "fp32", ann_operations: float = 0.0) -> str:
    """A few lines for people, with what the numbers do not say.

    Args:
        cost: Cost of an action or a sample.
        name: Name of the prices. Raises RegistryError for one that there is not.
        ann_operations: Multiply-accumulates of the ANN that it is compared with; 0: none.
    """
    lines = [
        f"synaptic operations  {cost.effective_acs:,.0f} AC + {cost.effective_macs:,.0f} MAC of {cost.dense_operations:,.0f} dense",
        f"neuron updates       {cost.neuron_updates:,.0f}: {cost.additions:,.0f} additions, "
        f"{cost.multiplications:,.0f} multiplications, {cost.transcendental:,.0f} functions",
        f"encoder              {cost.encoder_operations:,.0f} operations",
        f"sparsity             activations {cost.activation_sparsity:.1%}, connections {cost.connection_sparsity:.1%}",
        f"memory               {cost.footprint_bytes:,} bytes for {cost.parameters:,} parameters and buffers, "
        f"{cost.state_bytes:,} per environment",
        f"energy               {energy_text(cost, name, ann_operations)}",
        *(f"                     {text}" for text in format_ann_energy(cost)),
    ]
    return "\n".join([*lines, *(f"  note: {caveat}" for caveat in CAVEATS)])


def energy_text(cost: InferenceCost, name: str = "fp32", ann_operations: float = 0.0) -> str:
    """The energy of ``cost`` in words, with the assumption; the other arguments are those of `report`: ``name`` and ``ann_operations``."""
    price = get_energy_model(name)
    text = f"{cost.energy(price) / 1000.0:,.1f} nJ"
    if ann_operations:
        text += f", the ANN's products {ann_operations * price.multiply_accumulate / 1000.0:,.1f} nJ"
    return f"{text} ({price.text})"


def format_ann_energy(cost: InferenceCost) -> list[str]:
    """The energy of ``cost`` beside that of an ANN of the same sizes which skips zeros, in words, for each of `MAIN`; none without one."""
    others = cost.get_ann_energies()
    return [
        f"{cost.energy(ENERGY_MODELS[name]) / 1000.0:,.1f} nJ, an ANN of the same sizes that skips zeros {others[name]:,.1f} nJ"
        f" ({ENERGY_MODELS[name].text})"
        for name in MAIN
        if name in others
    ]
