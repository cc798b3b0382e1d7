"""Operations of an ANN's forward pass, on the same scale as a spiking network's, counted from the values that its modules receive.

The rules are those of `spiky_rl.metrics.synops`: a zero input or weight costs nothing, and a layer with only -1, 0 or 1 as inputs
accumulates. Hidden states of recurrent layers count as non-zero, and recurrent layers always multiply.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spiky_rl.connections._cost import WeightStorage
from spiky_rl.metrics.updates import ArithmeticCounts, count_activation_arithmetic, count_recurrent_arithmetic

Hook = Callable[..., None]
"""A forward hook of torch: (module, inputs, output)."""


@dataclass
class OperationCounter:
    """Operations of a pass, summed over its samples."""

    macs: float = 0.0
    acs: float = 0.0
    dense: float = 0.0
    updates: int = 0
    """Number of activation values and steps of recurrent units."""
    zeros: int = 0
    """How many of the updates give 0."""
    arithmetic: ArithmeticCounts = field(default_factory=ArithmeticCounts)
    index_reads: float = 0.0
    """Bytes read from lists of synapses, apart from the weights."""

    def add_layer(self, effective: Tensor, dense: float, inputs: Tensor) -> None:
        """Add the ``effective`` and ``dense`` operations of a layer with these ``inputs``."""
        if bool(((inputs == 0) | (inputs.abs() == 1)).all()):
            self.acs += float(effective)
        else:
            self.macs += float(effective)
        self.dense += dense

    def add_activations(self, outputs: Tensor, each: ArithmeticCounts) -> None:
        """Add a layer's ``outputs`` as updates, with the arithmetic of ``each``."""
        self.updates += outputs.numel()
        self.zeros += int((outputs == 0).sum())
        self.arithmetic += each * outputs.numel()


@contextmanager
def count_operations(body: nn.Module) -> Iterator[OperationCounter]:
    """Count, inside the context, the operations of the linear, Conv2d and recurrent modules and the activations in ``body``."""
    tally, handles = OperationCounter(), []
    for module in body.modules():
        hook = _make_hook(tally, module)
        if hook is not None:
            handles.append(module.register_forward_hook(hook))
    try:
        yield tally
    finally:
        for handle in handles:
            handle.remove()


def get_weights(body: nn.Module) -> list[Tensor]:
    """Return the weights of all connections in ``body``."""
    matrices: list[Tensor] = []
    for module in body.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            matrices.append(module.weight.detach())
        elif isinstance(module, nn.RNNBase):
            matrices += [p.detach() for name, p in module.named_parameters() if name.startswith("weight")]
    return matrices


def get_weight_storage(body: nn.Module) -> list[WeightStorage]:
    """Return the storage of the weights in ``body``; the weights of linear layers may be stored as lists."""
    lists = [_get_storage(module) for module in body.modules() if isinstance(module, nn.Linear)]
    others = sum(w.numel() for w in get_weights(body)) - sum(s.inputs * s.neurons for s in lists)
    return [*lists, WeightStorage(1, others, 0)]


def _get_storage(module: nn.Linear) -> WeightStorage:
    return WeightStorage(module.in_features, module.out_features, int((module.weight == 0).sum()))


def count_cells(body: nn.Module) -> int:
    """Return the number of cells of the LSTMs in ``body``: states that are not outputs of units."""
    return sum(m.num_layers * m.hidden_size for m in body.modules() if isinstance(m, nn.LSTM))


def count_state_accesses(body: nn.Module) -> int:
    """Return how often a step of the recurrent layers in ``body`` accesses their states, beyond one write and one read of each output.

    The output of a unit is read once more, by its own layer. The cell of an LSTM's unit is no output: it is read and written.
    """
    layers = [module for module in body.modules() if isinstance(module, nn.RNNBase)]
    return sum(m.num_layers * m.hidden_size * (3 if isinstance(m, nn.LSTM) else 1) for m in layers)


def _make_hook(tally: OperationCounter, module: nn.Module) -> Hook | None:
    if isinstance(module, nn.Linear):
        return _make_linear_hook(tally, module)
    if isinstance(module, nn.Conv2d):
        return _make_convolution_hook(tally, module)
    if isinstance(module, nn.RNNBase):
        return _make_recurrent_hook(tally, module)
    each = count_activation_arithmetic(module)
    return None if each is None else lambda _, inputs, output: tally.add_activations(output.detach(), each)


def _make_linear_hook(tally: OperationCounter, module: nn.Linear) -> Hook:
    fan_out, storage = (module.weight.detach() != 0).float().sum(0), _get_storage(module)

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        effective = ((x != 0).float() @ fan_out).double().sum()
        tally.index_reads += float(storage.count_read_bytes(effective, (x != 0).double().sum()))
        tally.add_layer(effective, output.numel() * module.in_features, x)

    return hook


def _make_convolution_hook(tally: OperationCounter, module: nn.Conv2d) -> Hook:
    binary = copy.deepcopy(module)
    binary.bias = None
    full = copy.deepcopy(binary)
    with torch.no_grad():
        binary.weight.copy_(module.weight != 0)
        full.weight.fill_(1.0)

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        x = inputs[0].detach()
        with torch.no_grad():
            effective, dense = binary((x != 0).to(x)), full(torch.ones_like(x))
        tally.add_layer(effective.double().sum(), float(dense.double().sum()), x)

    return hook


def _make_recurrent_hook(tally: OperationCounter, module: nn.RNNBase) -> Hook:
    first, *hidden_weights = get_weights(module)
    fan_out = (first != 0).float().sum(0)
    hidden = sum(int((w != 0).sum()) for w in hidden_weights)
    each = count_recurrent_arithmetic(module) * module.num_layers

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        x, last = inputs[0].detach(), outputs[0].detach()
        rows = x.numel() // x.shape[-1]
        tally.macs += float(((x != 0).float() @ fan_out).double().sum()) + rows * hidden
        tally.dense += rows * sum(w.numel() for w in (first, *hidden_weights))
        tally.add_activations(last, each)
        # layers below the last return no outputs; count them as non-zero
        tally.updates += (module.num_layers - 1) * last.numel()

    return hook
