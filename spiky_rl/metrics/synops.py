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
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import grad

from spiky_rl.config.registry import RegistryError
from spiky_rl.connections.base import Connection, IntraLayerConnection
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.metrics.sparse_storage import WeightStorage
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.networks.reservoir import Reservoir


@dataclass(frozen=True)
class ConnectionCost:
    """One connection: the signal that it reads, and its operations."""

    signal_index: int | None
    """Index in `ForwardRecord.signals`; None if the record does not hold the signal. The operations of this connection are then the last
    entry of `ForwardRecord.operations`."""
    weights: int
    zeros: int
    """Number of weights that are 0."""
    dense: float
    """Dense operations of a call."""
    count: Callable[[Tensor], Tensor] = lambda events: events
    """Maps events [T, K or 1, B, C] to effective operations [T, K or 1, B]."""
    read: Callable[[Tensor], Tensor] = lambda signal: signal
    """Maps the signal to the events that reach the weights, such as the last inner step."""
    fan_out: float | None = None
    """Operations of a call if every input is non-zero; None if they equal the number of non-zero weights."""
    matrix: WeightStorage | None = None
    """Storage of the weight matrix; None if the weights are not a matrix, as in a convolution."""

    @property
    def stored(self) -> WeightStorage:
        """Storage of the weights."""
        return self.matrix or WeightStorage(1, self.weights, 0)

    @property
    def max_operations(self) -> float:
        """Operations of a call if every input is non-zero."""
        return float(self.weights - self.zeros) if self.fan_out is None else self.fan_out


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


def list_connections(network: SpikingNetwork) -> list[ConnectionCost]:
    """Return all connections of a ``network``, including its readout, with their present weights.

    Raises RegistryError if ``network`` is of an unknown class.
    """
    if isinstance(network, FeedForward):
        connections = []
        widths = [network.encoder.width, *network.layer_sizes]
        for i, layer in enumerate(network.layers):
            ones = network.readout.weight.new_ones(1, 1, 1, widths[i])
            connections.append(make_connection_cost(layer.connection, i, ones))
            if layer.recurrent is not None:
                cost = make_connection_cost(layer.recurrent, i + 1)
                if not network.stateful:
                    arrivals = layer.recurrent.count_arrivals(network.steps, stateful=False)
                    cost = _drop_late_spikes(cost, arrivals)
                connections.append(cost)
        weight, read = network.decoder.synapses().t(), network.decoder.select_events
        return [*connections, _make_matrix_cost(weight, len(network.layer_sizes), read)]
    if isinstance(network, Reservoir):
        readout = [m.weight.detach() for m in network.decoder if isinstance(m, torch.nn.Linear)]
        return [
            _make_matrix_cost(network.input_weight, 0),
            _make_matrix_cost(network.weight, 1),
            *(ConnectionCost(None, w.numel(), _count_zeros(w), w.numel()) for w in readout),
        ]
    raise RegistryError(
        f"cost: the connections of a network {type(network).__name__!r} are unknown; allowed: FeedForward, Reservoir"
    )


def make_connection_cost(
    connection: Connection, signal_index: int = 0, ones: Tensor | None = None
) -> ConnectionCost:
    """Return the cost of a ``connection`` that reads `ForwardRecord.signals` [``signal_index``].

    ``ones`` is an input of ones [1, 1, 1, C], which a user's own connection needs: only it knows how many operations its weights make.
    """
    if isinstance(connection, IntraLayerConnection):
        delayed = connection.synapses().detach().view(connection.delays, connection.width, connection.width)
        # a synapse has one delay, or several in a network from a NIR file: then a spike reaches it once per delay
        most = max(1, int((delayed != 0).sum(0).max()))
        largest = delayed.abs().topk(most, dim=0).values  # [most, N, N]
        matrix = largest.transpose(0, 1).flatten(1)
        weight = getattr(connection, "weight", None)  # a user's own connection may have none
        held = weight.numel() if isinstance(weight, Tensor) else None
        return _make_matrix_cost(matrix, signal_index, delays=connection.delays, held=held)
    if isinstance(connection, LinearConnection):
        return _make_matrix_cost(connection.synapses(), signal_index)
    if isinstance(connection, Convolutional):
        weight, reached = connection.weight.detach(), _count_reached_weights(connection)
        dense = float(connection.fan_out.sum())
        return ConnectionCost(
            signal_index,
            weights=weight.numel(),
            zeros=_count_zeros(weight),
            dense=dense,
            count=lambda events: (events != 0).to(reached) @ reached,
            fan_out=float(reached.sum()),
        )
    # a user's own connection, whose neurons may share weights
    assert ones is not None
    weights = [p.detach() for p in connection.parameters() if p.ndim > 1]
    max_operations = float(connection.operations(ones))
    return ConnectionCost(
        signal_index,
        weights=sum(p.numel() for p in weights),
        zeros=sum(_count_zeros(p) for p in weights),
        dense=max_operations,
        count=connection.operations,
        fan_out=max_operations,
    )


def _drop_late_spikes(cost: ConnectionCost, arrivals: Tensor) -> ConnectionCost:
    """Return the ``cost`` of a recurrent connection without spikes that would arrive after the control step.

    ``arrivals`` [K, N] is from `IntraLayerConnection.count_arrivals`. No spike of the last inner step arrives.
    """
    reached = arrivals[:-1].float()
    return dataclasses.replace(
        cost,
        count=lambda events: torch.einsum("tkbn,kn->tkb", (events != 0).to(reached), reached),
        read=lambda outputs: outputs[:, :-1],
    )


def _make_matrix_cost(
    weight: Tensor,
    signal_index: int,
    read: Callable[[Tensor], Tensor] = lambda signal: signal,
    delays: int = 1,
    held: int | None = None,
) -> ConnectionCost:
    """Return the cost of the effective weights [C, N]; each weight has one of ``delays`` delays. ``held`` is as in `WeightStorage`."""
    fan_out = (weight.detach() != 0).sum(1).float()
    matrix = WeightStorage(weight.shape[0], weight.shape[1], _count_zeros(weight), delays, held)
    return ConnectionCost(
        signal_index,
        weights=weight.numel(),
        zeros=matrix.zeros,
        dense=weight.numel(),
        count=lambda events: (events != 0).to(fan_out) @ fan_out,
        read=read,
        matrix=matrix,
    )


def _count_reached_weights(connection: Convolutional) -> Tensor:
    """Return the number of non-zero weights that each input reaches, [C H W], without positions that pooling cuts off."""
    weight, stride, padding = connection.weight.detach(), connection.stride, connection.padding
    _, rows, columns = connection.shape
    used = weight.new_zeros(1, weight.shape[0], *connection.positions)
    used[..., : rows * connection.pool, : columns * connection.pool] = 1.0
    # the gradient of a convolution sums, for every input, the weights at the used positions that cover it
    reached = grad.conv2d_input((1, *connection.inputs), (weight != 0).to(weight), used, stride, padding)
    return reached.flatten()


def _count_zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


def connection_sparsity(connections: Sequence[ConnectionCost]) -> float:
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
            index_reads + connection.stored.count_read_bytes(operations, active_inputs).sum(1).mean()
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


def operations_by_environment(
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
        total += convolution_operations(cnn, (model.obs_channels_2d[i], *model.obs_dims_2d[i]))  # type: ignore
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | LinearConnection):
            total += module.weight.numel()
        elif isinstance(module, torch.nn.RNNBase):
            total += sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
    return total


def convolution_operations(cnn: torch.nn.Module, shape: tuple[int, ...]) -> int:
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
