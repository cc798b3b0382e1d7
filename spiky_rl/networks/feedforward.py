"""Feed-forward: encoder, a stack of spiking layers, decoder; spikes reach the next layer in the same inner step.

Layer by layer over all inner steps, which a feed-forward stack allows: one matrix product per layer and call instead of
one per inner step, and the first layer's current is computed once per control step where the encoder is constant over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.base import Record, SpikingNetwork, State
from spiky_rl.networks.layer import Layer
from spiky_rl.registry import Configured, Option, RegistryError


class FeedForward(SpikingNetwork):
    """Observations [T, B, O] -> features [T, B, F]."""

    options = {
        "layers": Option(
            [], "neurons per layer; empty: the hidden layers of Isaac Lab's own network for the task", low=1
        ),
        "steps": Option(4, "K: inner steps per control step", low=1),
        "stateful": Option(False, "carry membranes from one control step to the next, through the episode"),
        "backend": Option("auto", "what runs the neurons"),
    }
    parts = {
        "encoder": ("encoders", "direct"),
        "connection": ("connections", "linear"),
        "neuron": ("neurons", "lif"),
        "surrogate": ("surrogates", "arctangent"),
        "decoder": ("decoders", "membrane"),
    }

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        try:
            dispatch.backend(options["backend"])
        except RegistryError as error:
            raise RegistryError(f"{path}.backend: {error}") from None

    def __init__(
        self,
        layers: tuple[int, ...],
        steps: int,
        stateful: bool,
        backend: str,
        encoder: Configured,
        connection: Configured,
        neuron: Configured,
        surrogate: Configured,
        decoder: Configured,
        inputs: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.steps, self.stateful = steps, stateful
        self.surrogate = surrogate.build()
        self.soft_spike = False
        self.encoder: Encoder = encoder.build(inputs=inputs, steps=steps)
        stack: list[Layer] = []
        width = self.encoder.width
        for size in layers:
            link = connection.build(inputs=width, outputs=size)
            stack.append(Layer(link, neuron.build(), size, backend))
            width = size
        self.layers: Iterable[Layer] = torch.nn.ModuleList(stack)  # type: ignore[assignment]
        self.decoder: Decoder = decoder.build(inputs=width, outputs=outputs)
        self.state_sizes = tuple(layer.width for layer in stack for _ in layer.neuron.states)
        self.state_sizes += (self.decoder.state_width,) if self.decoder.state_width else ()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.updates: Tensor

    def forward(
        self, x: Tensor, state: State, keep: Tensor | None = None, record: Record | None = None
    ) -> tuple[Tensor, State]:  # noqa: D102
        slope = (
            self.surrogate.slope_at(int(self.updates)) if self.surrogate.schedule else self.surrogate.slope
        )
        ops = TorchOps(self.surrogate, slope, self.soft_spike)
        before, after = [s.squeeze(0) for s in state], []
        signal = self.encoder(x)
        if record is not None:
            record.operations.append(self.encoder.operations(x))
        for layer in self.layers:
            trace: list[Tensor] | None = None if record is None else []
            count = len(layer.neuron.states)
            output, new = layer(ops, signal, self.steps, tuple(before[:count]), keep, trace)
            before, after = before[count:], [*after, *new]
            if record is not None and trace is not None:
                record.signal.append(signal)
                record.potentials.append(torch.stack(trace).view_as(output))
                record.operations.append(layer.operations(signal))
            signal = output
        features, new = self.decoder(signal, tuple(before), keep)
        if record is not None:
            record.signal.append(signal)
            record.operations.append(self.decoder.operations(signal))
        return features, tuple(s.unsqueeze(0) for s in (*after, *new))

    def advance(self) -> None:  # noqa: D102
        self.updates += 1
        self.encoder.redraw(int(self.updates))
