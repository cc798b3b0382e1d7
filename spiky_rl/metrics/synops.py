"""Synaptic operations of a pass: effective ones, accumulates apart from multiply-accumulates, and dense ones.

Effective operations, also called EFLOPs (effective floating-point operations), are those that are left where zeros are
skipped: a non-zero input costs one for every non-zero weight that it reaches. A connection accumulates in an inner step in
which all its inputs are -1, 0 or 1, and multiplies and accumulates otherwise; a batch is one call. Dense is every input
times every weight. Biases, pooling, normalisation and neuron updates are not counted here. Where an encoder is constant
over the control step, its connection runs once. A readout of rates counts as it would run on events: an accumulate for each
spike, not a product for each mean; a reservoir's standardisation counts as part of its readout's weights.

Source of the definitions: Yik et al. (2025), NeuroBench, 10.1038/s41467-025-56739-4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import grad

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.decoders.first_spike import FirstSpike
from spiky_rl.codecs.decoders.linear import LinearDecoder as LastStep
from spiky_rl.codecs.decoders.population_vector import PopulationVector
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
    """One connection: which signal it reads, and what that costs."""

    signal: int | None
    """Index in `Record.signal`; None: what it reads is not there, and the record's last operations are its own."""
    weights: int
    zeros: int
    """How many of the weights are 0."""
    dense: float | None = None
    """Operations of a call in which every input and every weight counts; None: what `count` says of ones."""
    count: Callable[[Tensor], Tensor] = lambda events: events
    """Effective operations of events [T, K or 1, B, C]: [T, K or 1, B]."""
    read: Callable[[Tensor], Tensor] = lambda signal: signal
    """The signal as the weights see it."""
    fan_out: float | None = None
    """Operations of a call in which every input counts; None: one for each weight that is not 0."""
    matrix: WeightStorage | None = None
    """How a matrix of weights lies in memory; None: they are none, those of convolutions among them."""

    @property
    def stored(self) -> WeightStorage:
        """How the weights lie in memory."""
        return self.matrix or WeightStorage(1, self.weights, 0)

    @property
    def once(self) -> float:
        """Operations of a call in which every input counts, and every weight that is not 0."""
        return float(self.weights - self.zeros) if self.fan_out is None else self.fan_out


@dataclass(frozen=True)
class OperationCounts:
    """Operations of one control step, as means over those of a pass and over its environments."""

    effective_macs: float
    effective_acs: float
    dense: float
    activation_sparsity: float
    """Share of the neurons' outputs that are 0."""
    index_reads: float
    """Bytes of lists that are read, besides weights."""


def list_connections(network: SpikingNetwork) -> list[ConnectionCost]:
    """All connections of a ``network``, its readout among them, with the weights as they are now.

    Raises RegistryError for a network of which it is not known where its connections are.
    """
    if isinstance(network, FeedForward):
        links, count = [], 0
        for i, layer in enumerate(network.layers):
            links.append(make_connection_cost(layer.connection, i))
            if layer.recurrent is not None:
                links.append(make_connection_cost(layer.recurrent, i + 1))
            count = i + 1
        return [*links, _of_readout(network.decoder, count)]
    if isinstance(network, Reservoir):
        readout = [m.weight.detach() for m in network.decoder if isinstance(m, torch.nn.Linear)]
        return [
            _of_weights(network.input_weight, 0),
            _of_weights(network.weight, 1),
            *(ConnectionCost(None, w.numel(), _zeros(w), w.numel()) for w in readout),
        ]
    raise RegistryError(
        f"cost: where the connections of a network {type(network).__name__!r} are is not known; choose from FeedForward, Reservoir"
    )


def make_connection_cost(connection: Connection, signal: int = 0) -> ConnectionCost:
    """A ``connection`` that reads `Record.signal` number ``signal``."""
    if isinstance(connection, IntraLayerConnection):
        # every synapse has one delay
        delayed = connection.synapses().detach().view(connection.delays, connection.width, connection.width)
        return _of_weights(delayed.abs().sum(0), signal, delays=connection.delays)
    if isinstance(connection, LinearConnection):
        return _of_weights(connection.synapses(), signal)
    if isinstance(connection, Convolutional):
        weight, reached = connection.weight.detach(), _reached(connection)
        dense = float(connection.fan_out.sum())
        return ConnectionCost(
            *(
                signal,
                weight.numel(),
                _zeros(weight),
                dense,
                lambda events: (events != 0).to(reached) @ reached,
            ),
            fan_out=float(reached.sum()),
        )
    own = [p.detach() for p in connection.parameters() if p.ndim > 1]
    return ConnectionCost(
        signal, sum(p.numel() for p in own), sum(map(_zeros, own)), None, connection.operations
    )


def _of_weights(
    weight: Tensor,
    signal: int,
    read: Callable[[Tensor], Tensor] = lambda signal: signal,
    delays: int = 1,
) -> ConnectionCost:
    """The synapses of weights in force [C, N], each with one of so many ``delays``."""
    fan_out = (weight.detach() != 0).sum(1).float()

    def effective(events: Tensor) -> Tensor:
        return (events != 0).to(fan_out) @ fan_out

    matrix = WeightStorage(weight.shape[0], weight.shape[1], _zeros(weight), delays)
    return ConnectionCost(
        signal, weight.numel(), matrix.zeros, weight.numel(), effective, read, matrix=matrix
    )


def _of_readout(decoder: Decoder, signal: int) -> ConnectionCost:
    weight = decoder.readout.weight.detach().t()
    if isinstance(decoder, PopulationVector):
        weight = weight * decoder.mask.t()
    if isinstance(decoder, LastStep):
        return _of_weights(weight, signal, lambda spikes: spikes[:, -1:])
    if isinstance(decoder, FirstSpike):
        # how early each neuron first spikes: 1 in the first inner step, 0 if never
        return _of_weights(weight, signal, lambda spikes: spikes.cummax(1).values.mean(1, keepdim=True))
    return _of_weights(weight, signal)


def _reached(connection: Convolutional) -> Tensor:
    """Non-zero weights that each input reaches at places that pooling keeps, [C H W]."""
    weight, (channels, *size) = connection.weight.detach(), connection.inputs
    kernel, stride, padding = weight.shape[-1], connection.stride, connection.padding
    rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    places = weight.new_zeros(1, weight.shape[0], rows, columns)
    places[..., : connection.shape[1] * connection.pool, : connection.shape[2] * connection.pool] = 1.0
    return grad.conv2d_input(
        (1, channels, *size), (weight != 0).to(weight), places, stride, padding
    ).flatten()


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


def connection_sparsity(links: Sequence[ConnectionCost]) -> float:
    """Zero weights over all weights of the connections ``links``."""
    return sum(link.zeros for link in links) / sum(link.weights for link in links)


def count_operations(links: Sequence[ConnectionCost], record: ForwardRecord) -> OperationCounts:
    """Operations of a pass, by its ``record``, of the network whose connections are ``links``."""
    accumulated = multiplied = indices = torch.zeros((), dtype=torch.double, device=record.signal[0].device)
    dense = 0.0
    for link in links:
        if link.signal is None:
            dense += link.dense or 0.0
            continue
        events = link.read(record.signal[link.signal])
        operations = link.count(events).double().mean(2)  # [T, K or 1]
        plain = ((events == 0) | (events.abs() == 1)).flatten(2).all(2)
        accumulated = accumulated + (operations * plain).sum(1).mean()
        multiplied = multiplied + (operations * ~plain).sum(1).mean()
        spikes = (events != 0).sum(-1).double().mean(2)
        indices = indices + link.stored.count_read_bytes(operations, spikes).sum(1).mean()
        ones = torch.ones_like(events[:1, :1, :1])
        dense += events.shape[1] * (float(link.count(ones)) if link.dense is None else link.dense)
    if any(link.signal is None for link in links):
        multiplied = multiplied + record.operations[-1].double().mean()
    silent = torch.stack([(s == 0).sum() for s in record.signal[1:]]).sum()
    sparsity = silent.double() / sum(s.numel() for s in record.signal[1:])
    macs, acs, sparsity, read = torch.stack([multiplied, accumulated, sparsity, indices]).tolist()
    return OperationCounts(macs, acs, dense, sparsity, read)


def effective_operations(record: ForwardRecord) -> float:
    """Mean effective operations per control step of a ``record``, as its parts say: encoder, connections and decoder."""
    return float(sum(operations.float().mean().item() for operations in record.operations))


def operations_by_environment(record: ForwardRecord) -> Tensor:
    """As `effective_operations` of a ``record``, of every environment, [B]."""
    return torch.stack([operations.double().mean(0) for operations in record.operations]).sum(0)


def dense_operations(model: torch.nn.Module) -> int:
    """Multiply-accumulates of one pass through the linear and recurrent modules of an ANN, ``model``, and the CNNs of rsl_rl's CNNModel."""
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
    """Multiply-accumulates of one image of ``shape`` [C, H, W] in the two-dimensional convolutions of the network ``cnn``."""
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
