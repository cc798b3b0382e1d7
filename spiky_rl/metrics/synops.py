"""What a control step costs: effective synaptic operations, and an ANN's on the same scale.

A non-zero input of a connection costs its fan-out. Spikes are 0 or 1, so each operation is an accumulate; a graded input
(the observation, an ANN's activation) makes it a multiply-accumulate. Neuron updates are not counted here.
Source of the definitions: Yik et al. (2025), NeuroBench: effective ACs and MACs.
"""

from __future__ import annotations

import torch

from spiky_rl.connections.linear import Linear
from spiky_rl.networks.base import Record


def effective_operations(record: Record) -> float:
    """Mean effective operations per control step of a recorded pass: encoder, connections and decoder."""
    return float(sum(operations.float().mean().item() for operations in record.operations))


def dense_operations(model: torch.nn.Module) -> int:
    """Multiply-accumulates of one pass through an ANN's linear and recurrent modules."""
    total = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Linear):
            total += module.weight.numel()
        elif isinstance(module, torch.nn.RNNBase):
            total += sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
    return total
