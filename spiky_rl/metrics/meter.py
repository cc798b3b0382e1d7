"""Measurement of the cost of a forward pass: of a spiking network from its record, of an ANN by hooks.

A spiking policy is measured in closed loop, with one record per control step. Plasticity costs nothing here, because it is off while
a network is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spiky_rl.connections._cost import ConnectionCost, WeightStorage
from spiky_rl.metrics import ann, synops
from spiky_rl.metrics.energy import RELU_ZERO_SHARE, WORD, InferenceCost
from spiky_rl.metrics.updates import (
    ArithmeticCounts,
    count_activation_arithmetic,
    count_neuron_arithmetic,
    count_synapse_and_traces,
)
from spiky_rl.networks.base import ForwardRecord, NetworkCost, SpikingNetwork, UnitGroup
from spiky_rl.neurons.base import Neuron


class CostMeter:
    """Computes the cost of a network's forward passes from their records. Make a new meter when the set of zero weights changes."""

    def __init__(self, network: SpikingNetwork) -> None:
        """Compute the costs that are the same in every pass."""
        cost = network.measure_cost()
        self.connections = cost.connections
        self.updates = sum(group.updates for group in cost.units)
        self.arithmetic = sum(
            (_count_update(group) * group.updates for group in cost.units), ArithmeticCounts()
        )
        self.accesses = 2.0 * sum(group.updates * group.states for group in cost.units)
        self.sparsity = synops.compute_connection_sparsity(cost.connections)
        self.memory = _measure_memory(
            network, [c.storage for c in cost.connections], sum(network.state_sizes)
        )
        self.equal_ann = _measure_equal_ann(network, cost)

    def __call__(self, record: ForwardRecord) -> InferenceCost:
        """Return the mean cost of a control step in the pass of ``record``."""
        counts = synops.count_operations(self.connections, record)
        return InferenceCost(
            effective_macs=counts.effective_macs,
            effective_acs=counts.effective_acs,
            dense_operations=counts.dense,
            encoder_operations=float(record.encoder_operations.double().mean()),
            neuron_updates=self.updates,
            **vars(self.arithmetic),
            activation_sparsity=counts.activation_sparsity,
            connection_sparsity=self.sparsity,
            **self.memory,
            state_accesses=self.accesses,
            index_reads=counts.index_reads,
            equal_ann=self.equal_ann,
        )


def make_meter(network: SpikingNetwork) -> CostMeter | None:
    """Return a meter for ``network``; None if its class does not override `SpikingNetwork.measure_cost`."""
    is_defined = type(network).measure_cost is not SpikingNetwork.measure_cost
    return CostMeter(network) if is_defined else None


def measure_ann(body: nn.Module, run: Callable[[], object], samples: int) -> InferenceCost:
    """Return the mean cost of a sample (or action) of the ANN ``body``.

    ``run`` is called once and must send ``samples`` samples through the ANN.
    """
    with ann.count_operations(body) as tally, torch.no_grad():
        run()
    weights = ann.get_weights(body)
    zeros = sum(int((w == 0).sum()) for w in weights)
    # every output is in memory until it is read
    state_values = round(tally.updates / samples) + ann.count_cells(body)
    return InferenceCost(
        effective_macs=tally.macs / samples,
        effective_acs=tally.acs / samples,
        dense_operations=tally.dense / samples,
        encoder_operations=0.0,
        neuron_updates=tally.updates / samples,
        **vars(tally.arithmetic * (1.0 / samples)),
        activation_sparsity=tally.zeros / max(tally.updates, 1),
        connection_sparsity=zeros / max(sum(w.numel() for w in weights), 1),
        **_measure_memory(body, ann.get_weight_storage(body), state_values),
        # every output is written and read once
        state_accesses=2.0 * tally.updates / samples + ann.count_state_accesses(body),
        index_reads=tally.index_reads / samples,
    )


def _count_update(group: UnitGroup) -> ArithmeticCounts:
    """Return the arithmetic of one update of one unit."""
    if not isinstance(group.unit, Neuron):
        return count_activation_arithmetic(group.unit) or ArithmeticCounts()
    count = count_neuron_arithmetic(group.unit)
    return count if group.traces is None else count + count_synapse_and_traces(group.traces)


def _measure_equal_ann(network: SpikingNetwork, cost: NetworkCost) -> InferenceCost:
    """Return the cost of an ANN with the same layers and synapses and with ReLU units.

    The ANN skips multiplications by zero; a share `RELU_ZERO_SHARE` of its hidden values is assumed to be zero. It reads the
    observations themselves, so its first layer has fewer inputs than that of a spiking network whose encoder has several channels
    per observation.
    """
    connections, size_factors, active_factors = cost.connections, [], []
    for connection in connections:
        reads_encoder = connection.signal_index == 0
        size_factors.append(cost.observations_per_channel if reads_encoder else 1.0)
        active_factors.append(cost.observations_per_channel if reads_encoder else 1.0 - RELU_ZERO_SHARE)
    units = sum(network.layer_sizes)
    vectors = cost.biases + network.readout.out_features
    parameters = round(_sum_weighted(connections, size_factors, lambda c: c.weights)) + vectors
    return InferenceCost(
        effective_macs=_sum_weighted(connections, active_factors, lambda c: c.max_operations),
        effective_acs=0.0,
        dense_operations=_sum_weighted(connections, size_factors, lambda c: c.dense),
        encoder_operations=0.0,
        neuron_updates=units,
        additions=units,
        multiplications=0.0,
        transcendental=0.0,
        activation_sparsity=RELU_ZERO_SHARE,
        connection_sparsity=synops.compute_connection_sparsity(connections),
        parameters=parameters,
        footprint_bytes=parameters * WORD,
        state_bytes=units * WORD,
        state_accesses=2.0 * units,
        stored_values=round(_sum_weighted(connections, size_factors, lambda c: c.storage.values)) + vectors,
        index_bytes=round(_sum_weighted(connections, size_factors, lambda c: c.storage.index_bytes)),
        # every input reads its list and every non-zero weight its index
        index_reads=_sum_weighted(
            connections,
            active_factors,
            lambda c: c.storage.count_read_bytes(c.max_operations, c.storage.inputs),
        ),
    )


def _sum_weighted(
    connections: Sequence[ConnectionCost],
    shares: Sequence[float],
    value: Callable[[ConnectionCost], float],
) -> float:
    """Return the sum of ``value`` over ``connections``, weighted by ``shares``."""
    return sum(value(connection) * share for connection, share in zip(connections, shares, strict=True))


def _measure_memory(
    module: nn.Module, matrices: Sequence[WeightStorage], state_values: int
) -> dict[str, Any]:
    """Return the sizes of a deployed ``module`` with these weight ``matrices`` and ``state_values``, as fields of `InferenceCost`."""
    parameters, buffers = _list_deployed_tensors(module)
    # a deployed network stores vectors, and fixed weights, whose buffers are named `weight`; other buffers of two dimensions are masks
    # and encoder noise
    fixed = [b for name, b in buffers.items() if b.ndim < 2 or name.endswith("weight")]
    values = sum(tensor.numel() for tensor in (*parameters.values(), *fixed))
    return {
        "parameters": sum(p.numel() for p in parameters.values()),
        "footprint_bytes": sum(
            t.numel() * t.element_size() for t in (*parameters.values(), *buffers.values())
        ),
        "state_bytes": state_values * next(iter(parameters.values())).element_size(),
        "stored_values": values - sum(matrix.omitted_values for matrix in matrices),
        "index_bytes": sum(matrix.index_bytes for matrix in matrices),
    }


def _list_deployed_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and the buffers, by name, that a deployed ``module`` holds.

    A deployed module lacks the buffers that no checkpoint holds, such as the factors of a penalty, and the weights that only carry errors:
    e-prop's mirrors of the readout, and SuperSpike's feedback.
    """

    def is_deployed(name: str) -> bool:
        return "mirrors" not in name.split(".") and not name.endswith(".feedback")

    saved = module.state_dict().keys()
    return (
        {name: value for name, value in module.named_parameters() if is_deployed(name)},
        {name: value for name, value in module.named_buffers() if name in saved and is_deployed(name)},
    )
