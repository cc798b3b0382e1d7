"""A quantised network: the reference of ``policy.c`` in integers, which replaces the original network in a policy.

It is made of a trained feed-forward network: weights of 8 bits, and states in fixed point that fits the ranges of a rollout.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import UserError
from spiky_rl.connections._quantization import compute_scales, quantize
from spiky_rl.deploy._calibration import ValueRanges
from spiky_rl.deploy._int8_codecs import Int8Readout, encode, quantize_encoder
from spiky_rl.deploy._int8_layers import Int8Layer, get_layer_class
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels import dispatch
from spiky_rl.networks.base import ForwardRecord, SpikeChannel, SpikingNetwork, State
from spiky_rl.networks.feedforward import FeedForward

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import SpikingModel

type StepRecord = tuple[list[list[Tensor]], list[list[Tensor]]]
"""Records of one control step: the outputs of encoder and layers, then the layers' potentials; each a list per layer of tensors
per inner step."""


class Int8Network(SpikingNetwork):
    """A feed-forward network in integers: observations [T, B, O] -> features [T, B, F]. It is not trained."""

    def __init__(self, origin: FeedForward, ranges: ValueRanges) -> None:
        """Quantise the network ``origin``, which must have passed `CInt8.check_network`."""
        super().__init__()
        rounded = [_round_weights(weights) for weights in _list_weights(origin)]
        largest = [max(1, int(weights[0].abs().sum(0).max())) for weights, _ in rounded]
        self.encoders, source = quantize_encoder(origin, ranges.observed, largest[0])
        self.stages: list[Int8Layer] = []
        for i, (layer, seen) in enumerate(zip(origin.layers, ranges.states, strict=True)):
            weights, unit = rounded[i]
            title, layer_class = f"layer {i}: {layer.width} neurons", get_layer_class(layer, len(weights[0]))
            self.stages.append(layer_class(layer, title, source, weights, unit, seen, largest[i + 1]))
            source = self.stages[-1].output_format
        (weight,), unit = rounded[-1]
        self.decoding = Int8Readout(origin, weight, unit, source, largest[-1])
        self.origin, self.calibration_source = origin, ranges.source
        self.steps, self.stateful, self.backend = origin.steps, origin.stateful, dispatch.REFERENCE
        self.updates = origin.updates
        sizes = [origin.encoder.state_sizes, *(stage.sizes for stage in self.stages), self.decoding.sizes]
        self.counts = [len(part) for part in sizes]
        self.state_sizes = tuple(itertools.chain(*sizes))

    @classmethod
    @override
    def is_recurrent(cls, options: Settings) -> bool:
        return False

    @property
    @override
    def layer_sizes(self) -> tuple[int, ...]:
        return self.origin.layer_sizes

    @property
    @override
    def readout(self) -> torch.nn.Linear:
        return self.origin.readout

    @override
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        """Raise UserError: the code for chips has no lost or added spikes."""
        raise UserError(
            "conditions on spikes and neurons are not available for a quantised policy; leave them out"
        )

    @override
    def set_backend(self, backend: str) -> None:
        """Ignored: a quantised network runs on torch's integer tensors only."""

    @override
    def zero_state(self, batch: int, like: Tensor) -> State:
        return tuple(like.new_zeros(1, batch, size, dtype=torch.int64) for size in self.state_sizes)

    @override
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        self._move_to(x.device)
        states = [s.squeeze(0) for s in (self.zero_state(x.shape[1], x) if state is None else state)]
        features, seen = [], []
        for t, observed in enumerate(x):
            if keep is not None:
                states = [s * keep[t].long().unsqueeze(-1) for s in states]
            output, states, notes = self._step(observed, states)
            features.append(output)
            seen.append(notes)
        if record is not None:
            self._record(record, x, seen)
        return torch.stack(features), () if state is None else tuple(s.unsqueeze(0) for s in states)

    def _step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor], StepRecord]:
        """Run one control step; return features [B, F], the new states, and the record."""
        remaining = iter(states)
        parts = [list(itertools.islice(remaining, count)) for count in self.counts]
        signals, parts[0] = encode(self.encoders.values(), x, parts[0])
        read, potentials = [signals], []
        currents = [self.stages[0].compute_current(signal) for signal in signals]
        for i, stage in enumerate(self.stages):
            outputs, levels = [], []
            for k in range(self.steps):
                output, parts[i + 1] = stage(currents[min(k, len(currents) - 1)], parts[i + 1])
                outputs.append(output)
                levels.append(stage.compute_potential(parts[i + 1]))
            read.append(outputs)
            potentials.append(levels)
            if i + 1 < len(self.stages):
                currents = [self.stages[i + 1].compute_current(output) for output in outputs]
        features, parts[-1] = self.decoding(read[-1], parts[-1])
        return features, list(itertools.chain(*parts)), (read, potentials)

    def _record(self, record: ForwardRecord, x: Tensor, seen: list[StepRecord]) -> None:
        sources = [self.stages[0].source, *(stage.output_format for stage in self.stages)]
        for i, source in enumerate(sources):
            record.signals.append(
                torch.stack([torch.stack(read[i]) for read, _ in seen]).float() * source.unit
            )
        if record.only_signals:
            return
        record.operations.append(self.origin.encoder.count_operations(x))
        for i, layer in enumerate(self.origin.layers):
            record.potentials.append(torch.stack([torch.stack(levels[i]) for _, levels in seen]))
            record.operations.append(
                layer.operations(record.signals[i], record.signals[i + 1], self.stateful)
            )
        record.operations.append(self.origin.decoder.operations(record.signals[-1]))

    def _move_to(self, device: torch.device) -> None:
        """Move the parts to ``device``."""
        if self.decoding.weight.device != device:
            for part in (*self.encoders.values(), *self.stages, self.decoding):
                for name, value in vars(part).items():
                    if isinstance(value, Tensor):
                        setattr(part, name, value.to(device))


def _list_weights(network: FeedForward) -> Iterator[list[Tensor]]:
    """Yield the matrices [*, N] to the neurons of each layer, and then to the outputs."""
    for layer in network.layers:
        links: list[Any] = [layer.connection, *([layer.recurrent] if layer.recurrent else [])]
        yield [link.synapses() for link in links]
    yield [network.decoder.synapses().t()]


def _round_weights(weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Round matrices [*, N] with the same postsynaptic neurons; return the integers and their common unit [N]."""
    weights = [weight.detach().cpu() for weight in weights]
    for weight in weights:
        if not weight.isfinite().all():
            raise ExportError(f"a weight is {float(weight[~weight.isfinite()][0])}; weights must be finite")
    unit = compute_scales(*weights)
    return [quantize(weight, unit).long() for weight in weights], unit.double()


def replace_network(model: SpikingModel, network: SpikingNetwork) -> SpikingModel:
    """Return a copy of ``model`` without a state, with ``network`` in the place of its own."""
    replaced = copy.copy(model)
    replaced._modules = dict(model._modules)  # pylint: disable=protected-access  # of the copy
    replaced.network, replaced.state = network, None
    replaced.is_recurrent = network.stateful
    return replaced
