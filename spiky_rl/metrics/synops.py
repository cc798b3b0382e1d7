"""What a control step costs: effective synaptic operations, and an ANN's on the same scale.

A non-zero input of a connection costs its fan-out. Spikes are 0 or 1, so each operation is an accumulate; a graded input
(the observation, an ANN's activation) makes it a multiply-accumulate. Neuron updates are not counted here.
Source of the definitions: Yik et al. (2025), NeuroBench: effective ACs and MACs.
"""

from __future__ import annotations

import copy

import torch

from spiky_rl.connections.linear import Linear
from spiky_rl.networks.base import Record


def effective_operations(record: Record) -> float:
    """Mean effective operations per control step of a recorded pass: encoder, connections and decoder."""
    return float(sum(operations.float().mean().item() for operations in record.operations))


def dense_operations(model: torch.nn.Module) -> int:
    """Multiply-accumulates of one pass through an ANN's linear and recurrent modules, and of the CNNs of rsl_rl's CNNModel."""
    total = 0
    for i, cnn in enumerate(getattr(model, "cnns", {}).values()):
        total += convolution_operations(cnn, (model.obs_channels_2d[i], *model.obs_dims_2d[i]))  # type: ignore
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Linear):
            total += module.weight.numel()
        elif isinstance(module, torch.nn.RNNBase):
            total += sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
    return total


def convolution_operations(cnn: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one pass of an image [C, H, W] through a network's two-dimensional convolutions."""
    found: list[int] = []

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        found.append(output[0, 0].numel() * module.weight.numel())

    cnn = copy.deepcopy(cnn).eval()
    for module in cnn.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        cnn(next(cnn.parameters()).new_zeros(1, *shape))
    return sum(found)
