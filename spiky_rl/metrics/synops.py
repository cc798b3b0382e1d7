"""Synaptic operations of a forward pass: effective accumulates, effective multiply-accumulates, and dense operations.

Effective operations, also called EFLOPs (effective floating-point operations), skip zeros: a non-zero input costs one operation per
non-zero weight that it reaches. In an inner step in which all inputs of the batch are -1, 0 or 1, a connection's operations are
accumulates, else multiply-accumulates. A recurrent spike that would arrive after a stateless network's control step reaches no
weight. Dense operations count every input and every weight. Biases, pooling, normalisation and neuron updates are not counted here.
If an encoder's signal is constant over the control step, its connection runs once. A readout of rates counts as if it ran on events:
one accumulate per spike instead of one product per mean. The standardisation of a reservoir's features counts nothing, because it can
be merged into the readout's weights.

Source of the definitions: Yik et al. (2025), NeuroBench, 10.1038/s41467-025-56739-4.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spiky_rl.connections._cost import ConnectionCost
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.networks.base import ForwardRecord


@dataclass(frozen=True)
class OperationCounts:
    """Operations of one control step: means over the control steps and environments of a pass."""

    effective_macs: float
    effective_acs: float
    dense: float
    activation_sparsity: float
    """Share of zeros in the neurons' outputs."""
    index_reads: float
    """Bytes read from lists of synapses, apart from the weights."""


def compute_connection_sparsity(connections: Sequence[ConnectionCost]) -> float:
    """Return the share of zero weights in these ``connections``."""
    return sum(c.zeros for c in connections) / sum(c.weights for c in connections)


def count_operations(connections: Sequence[ConnectionCost], record: ForwardRecord) -> OperationCounts:
    """Return the operations of the pass of ``record`` through a network with these ``connections``."""
    zero = torch.zeros((), dtype=torch.double, device=record.signals[0].device)
    accumulated, multiplied, index_reads, dense = zero, zero, zero, 0.0
    for connection in connections:
        if connection.signal_index is None:
            dense += connection.dense
            continue
        events = connection.read(record.signals[connection.signal_index])
        operations = connection.count(events).double().mean(2)  # [T, K or 1]
        is_ternary = ((events == 0) | (events.abs() == 1)).flatten(2).all(2)
        accumulated = accumulated + (operations * is_ternary).sum(1).mean()
        multiplied = multiplied + (operations * ~is_ternary).sum(1).mean()
        active_inputs = (events != 0).sum(-1).double().mean(2)
        index_reads = (
            index_reads + connection.storage.count_read_bytes(operations, active_inputs).sum(1).mean()
        )
        dense += events.shape[1] * connection.dense
    if any(c.signal_index is None for c in connections):
        multiplied = multiplied + record.operations[-1].double().mean()
    outputs = record.layer_spikes
    zeros = torch.stack([(s == 0).sum() for s in outputs]).sum()
    sparsity = zeros.double() / sum(s.numel() for s in outputs)
    # one transfer from the device for all numbers
    macs, acs, sparsity, index_reads = torch.stack([multiplied, accumulated, sparsity, index_reads]).tolist()
    return OperationCounts(macs, acs, dense, sparsity, index_reads)


def count_operations_by_environment(
    record: ForwardRecord, connections: Sequence[ConnectionCost] | None = None
) -> Tensor:
    """Return the effective operations per control step of a ``record`` for every environment, [B]: of encoder, connections and decoder.

    ``connections`` are those of the network. None if they are unknown: then the record's own counts are taken, in which weights of 0
    may count.
    """
    counts = record.operations
    if connections is not None:
        counts = [record.encoder_operations]
        counts += [
            c.count(c.read(record.signals[c.signal_index])).sum(1)
            for c in connections
            if c.signal_index is not None
        ]
        if any(c.signal_index is None for c in connections):
            counts.append(record.operations[-1])
    return torch.stack([operations.double().mean(0) for operations in counts]).sum(0)


def dense_operations(model: torch.nn.Module) -> int:
    """Return the multiply-accumulates of one pass through an ANN: its linear and recurrent modules, and an rsl_rl CNNModel's CNNs."""
    total = 0
    for i, cnn in enumerate(getattr(model, "cnns", {}).values()):
        total += count_convolution_operations(cnn, (model.obs_channels_2d[i], *model.obs_dims_2d[i]))  # type: ignore
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | LinearConnection):
            total += module.weight.numel()
        elif isinstance(module, torch.nn.RNNBase):
            total += sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
    return total


def count_convolution_operations(cnn: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of the Conv2d modules of ``cnn`` for one image of ``shape`` [C, H, W]."""
    operations: list[int] = []

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        operations.append(output[0, 0].numel() * module.weight.numel())

    cnn = copy.deepcopy(cnn).eval()
    for module in cnn.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        cnn(next(cnn.parameters()).new_zeros(1, *shape))
    return sum(operations)
