"""Feed-forward: encoder, a stack of spiking layers, decoder; spikes reach the next layer in the same inner step.

Each layer runs over all inner steps before the next layer starts, so a call has one matrix product per layer, not per inner step.
The first layer's current is computed once per control step if the encoder's signal is constant over it.
"""

# pylint: disable=protected-access  # _modules is faster than attributes: a rollout step of one environment takes microseconds

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, override

import torch
from pydantic import field_validator
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import RegistryError, Settings, Widths, error_path, option
from spiky_rl.config.registry import ComponentSpec, Part, list_names, resolve
from spiky_rl.config.schema import MOST_LAYERS
from spiky_rl.connections.base import Connection, IntraLayerConnection, Shape, require_flat
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.kernels import dispatch, neuron_checks, precision
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.gpu_stack import ActivityCharge, GpuStack
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack import LayerStack
from spiky_rl.networks._layer import SpikingLayer, has_trainable_parameters, quantize_weights
from spiky_rl.networks.base import ForwardRecord, SpikeChannel, SpikingNetwork, State
from spiky_rl.penalties.base import Penalty, add_penalty_gradient, compute_rates

CPU_ROWS = 2048
"""Maximum number of samples in one pass of a stateless network on a CPU, so that tensors for the backward pass stay in the cache.
Measured with 8,192 rows of 400-200-100, forward and backward: 165 ms in parts of 2,048 or as a whole, 186 ms in parts of 1,024. As a
whole they take longer if the memory is newly allocated."""


def check_connection_position(path: str, connection: ComponentSpec, within: bool) -> None:
    """Raise RegistryError at ``path`` unless ``connection`` is for its position: within a layer if ``within``, else between layers."""

    def fits(cls: type) -> bool:
        return getattr(cls, "is_intra_layer", False) == within

    if not fits(connection.cls):
        allowed = [name for name in list_names("connections") if fits(resolve("connections", name))]
        position = "among the neurons of a layer" if within else "between layers"
        raise RegistryError(
            f"{path}: {connection.name!r} does not connect {position}; choose from {', '.join(allowed)}"
        )


def get_signal_shape(encoder: Encoder, inputs: Shape | int) -> Shape:
    """Return the shape of an encoder's signal: maps if the observations are maps and the encoder is topographic."""
    if isinstance(inputs, int) or len(inputs) == 1 or not encoder.topographic:
        return (encoder.width,)
    _, *size = inputs
    return (encoder.width // math.prod(size), *size)


def _list_parts(path: str, part: Part) -> list[tuple[str, ComponentSpec]]:
    """Return (path, component) of each component of a part: none, one, or one per layer."""
    if isinstance(part, tuple):
        return [(f"{path}[{i}]", each) for i, each in enumerate(part) if each is not None]
    return [] if part is None else [(path, part)]


def _get_layer_part(part: Part, layer: int) -> ComponentSpec | None:
    """Return the component of a part for a layer; a part has one component for all layers, or a tuple with one per layer."""
    return part[layer] if isinstance(part, tuple) else part


class FeedForward(SpikingNetwork):
    """Observations [T, B, O] -> features [T, B, F]."""

    class Options(Settings):
        layers: Widths = option(
            (),
            "neurons of each layer (channels of a convolutional layer); empty: hidden_dims of the ANN that the network replaces",
            max_length=MOST_LAYERS,
        )
        steps: int = option(4, "K: inner steps per control step", low=1, high=10_000)
        stateful: bool = option(
            False, "carry the neurons' states from one control step to the next, through the episode"
        )
        backend: str = dispatch.backend_option()
        gradient_precision: Literal["auto", "float32", "bfloat16"] = option(
            "auto",
            "precision, on the CPU, of the gradients of layers' inputs and convolutions' weights; auto: bfloat16 if the CPU"
            " multiplies it in hardware",
        )
        recompute: bool = option(
            False,
            "save memory: keep only each layer's input, as bits, and run the layer again in the backward pass",
        )
        quantize: Literal["none", "int8"] = option(
            "none",
            "quantisation of weights in training; int8 rounds them like the export target c_int8, with a scale per neuron",
            neutral=True,
        )

        @field_validator("gradient_precision")
        @classmethod
        def _check_precision(cls, name: str) -> str:
            if name == "bfloat16":
                precision.require_bfloat16()
            return name

    parts = {
        "encoder": ("encoders", "direct"),
        "connection": ("connections", "linear"),
        "recurrent": ("connections", None),
        "neuron": ("neurons", "lif"),
        "surrogate": ("surrogates", "arctangent"),
        "learning": ("rules", "bptt"),
        "sparsity": ("penalties", None),
        "decoder": ("decoders", "membrane"),
    }
    listed = ("connection", "recurrent", "neuron")

    @override
    @classmethod
    def is_recurrent(cls, options: Options) -> bool:
        return options.stateful

    @override
    @classmethod
    def validate(cls, path: str, options: Options, parts: Mapping[str, Any]) -> None:
        with error_path(f"{path}.backend"):
            dispatch.check(options.backend)
        rule = parts["learning"].build()
        with error_path(f"{path}.surrogate"):
            surrogate = rule.choose_surrogate(parts["surrogate"].build())
            neuron_checks.check_surrogate(surrogate)
        if parts["decoder"].name in rule.blocks_gradient:
            raise RegistryError(
                f"{path}.decoder: {parts['decoder'].name!r} counts spikes, for which {parts['learning'].name!r} has no gradient;"
                " use membrane, which depends on spike times"
            )
        if parts["sparsity"] is not None and not rule.counts:
            raise RegistryError(
                f"{path}.sparsity: {parts['learning'].name!r} has no gradient of spike counts; use its option regularization"
            )
        count = len(options.layers)
        for key in cls.listed:
            part = parts[key]
            if isinstance(part, tuple) and len(part) != count:
                raise RegistryError(
                    f"{path}.{key}: a list of {len(part)} for {count} layers; give one entry per layer"
                )
        for key in ("connection", "recurrent"):
            for place, each in _list_parts(f"{path}.{key}", parts[key]):
                check_connection_position(place, each, within=key == "recurrent")
                if options.quantize != "none" and not hasattr(each.cls, "unrounded_weights"):
                    raise RegistryError(
                        f"{path}.quantize: int8 is not available for the connection {each.name!r}"
                    )
        for place, each in _list_parts(f"{path}.neuron", parts["neuron"]):
            with error_path(place):
                neuron_checks.check_neuron(rule.wrap_neuron(each.build()), surrogate)

    def __init__(
        self,
        options: Options,
        encoder: ComponentSpec,
        connection: ComponentSpec | tuple[ComponentSpec, ...],
        recurrent: ComponentSpec | tuple[ComponentSpec, ...] | None,
        neuron: ComponentSpec | tuple[ComponentSpec, ...],
        surrogate: ComponentSpec,
        learning: ComponentSpec,
        sparsity: ComponentSpec | None,
        decoder: ComponentSpec,
        inputs: Shape | int,
        outputs: int,
    ) -> None:
        """Build the network from options and parts.

        ``inputs`` is O, or (channels, height, width) of maps that are flattened in x; ``outputs`` is F.
        """
        super().__init__()
        self.inputs, self.steps, self.stateful = require_flat(inputs), options.steps, options.stateful
        self.learning: Any = learning.build()
        self.surrogate = self.learning.choose_surrogate(surrogate.build())
        self._soft_spike = False
        self.encoder: Encoder = encoder.build(inputs=require_flat(inputs), steps=options.steps)
        wanted = options.gradient_precision
        bfloat16 = wanted == "bfloat16" or (wanted == "auto" and precision.has_fast_bfloat16())
        self.backend, self.bfloat16_gradient, self.recompute = options.backend, bfloat16, options.recompute
        self._set_encoder_backend(options.backend)
        shape = get_signal_shape(self.encoder, inputs)
        stack = self._build_layers(options.layers, connection, recurrent, neuron, shape)
        self.layers: Iterable[SpikingLayer] = torch.nn.ModuleList(stack)  # type: ignore[assignment]
        self.decoder: Decoder = decoder.build(inputs=stack[-1].width, outputs=outputs)
        self.decoder.configure(options.backend, not stack[-1].neuron.graded, bfloat16)
        if options.quantize == "int8":
            quantize_weights(stack, self.decoder)
        self._plain = all(getattr(layer.connection, "is_plain", False) for layer in stack)
        """Whether the connections are linear and no spike channel is set, as a stack requires."""
        # owner's modules, name and expected class of each linear map
        self._linear_maps = [(layer._modules, "connection", LinearConnection) for layer in stack]
        self._linear_maps.append((self.decoder._modules, "readout", torch.nn.Linear))  # type: ignore[arg-type]
        self._stack: tuple[Backend, LayerStack | GpuStack | None] | None = None
        """Backend of the last pass, and its stack of these layers or None if it has none."""
        self.state_sizes = self.encoder.state_sizes
        for layer in stack:
            self.state_sizes += (layer.width,) * layer.states
        if self.decoder.state_width:
            self.state_sizes += (self.decoder.state_width,)
        self.learning.setup(stack, decoder, outputs)
        self.sparsity: Penalty | None = None if sparsity is None else sparsity.build()
        if sparsity is not None and not has_trainable_parameters(self.encoder, *stack):
            raise RegistryError(
                f"sparsity: {learning.name!r} trains no weights by gradients that change rates"
            )
        readers = [*(layer.connection for layer in stack[1:]), self.decoder]
        self.fan_out = [layer.fan_out(reader) for layer, reader in zip(stack, readers, strict=True)]
        """Mean number of synapses that an event of each layer reaches, for the penalty."""
        if self.sparsity is not None:
            factors = torch.tensor(self.sparsity.compute_factors(self.layer_sizes, self.fan_out))
            factors = factors.repeat_interleave(torch.tensor(self.layer_sizes))
            self.register_buffer("penalty_factors", factors, persistent=False)
            self.penalty_factors: Tensor

    def _build_layers(
        self,
        widths: Sequence[int],
        connection: ComponentSpec | tuple[ComponentSpec, ...],
        recurrent: ComponentSpec | tuple[ComponentSpec, ...] | None,
        neuron: ComponentSpec | tuple[ComponentSpec, ...],
        shape: Shape,
    ) -> list[SpikingLayer]:
        """Build one layer per entry of ``widths``; ``shape`` is the shape of the encoder's signal."""
        layers: list[SpikingLayer] = []
        binary = self.encoder.binary
        for i, width in enumerate(widths):
            link: Connection = _get_layer_part(connection, i).build(inputs=shape, outputs=width)  # type: ignore[union-attr]
            cell = self.learning.wrap_neuron(_get_layer_part(neuron, i).build())  # type: ignore[union-attr]
            within: IntraLayerConnection | None = None
            if (part := _get_layer_part(recurrent, i)) is not None:
                within = part.build(inputs=link.shape, outputs=width)
            layers.append(
                SpikingLayer(
                    link,
                    cell,
                    within,
                    self.backend,
                    binary=binary,
                    bfloat16=self.bfloat16_gradient,
                    recompute=self.recompute,
                    rule=self.learning,
                )
            )
            shape, binary = link.shape, not cell.graded
        return layers

    @override
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        if record is None and state is None and self._can_split(x):
            parts = [self._forward(rows, None, None, None)[0] for rows in x.split(CPU_ROWS, 1)]
            return torch.cat(parts, 1), ()
        if record is None and state is not None and 0 < self.learning.truncate < x.shape[0]:
            return self._forward_truncated(x, state, keep, self.learning.truncate)
        return self._forward(x, state, keep, record)

    def _forward_truncated(
        self, x: Tensor, state: State, keep: Tensor | None, span: int
    ) -> tuple[Tensor, State]:
        """Compute `forward` in parts of ``span`` control steps; no gradient passes from a part to an earlier one."""
        features = []
        for t in range(0, x.shape[0], span):
            if t:
                state = tuple(s.detach() for s in state)
            part = x[t : t + span]
            part_keep = None if keep is None else keep[t : t + span]
            output, state = self._forward(part, state, part_keep, None, len(part) / x.shape[0])
            features.append(output)
        return torch.cat(features), state

    def _can_split(self, x: Tensor) -> bool:
        """Return whether ``x`` [T, B, O] is a large batch on the CPU whose parts may run one after the other."""
        return x.shape[1] > CPU_ROWS and x.device.type == "cpu" and self._has_independent_samples()

    @property
    def _has_penalty(self) -> bool:
        """Whether the penalty on activity applies in this pass."""
        return self.sparsity is not None and torch.is_grad_enabled()

    def _has_independent_samples(self) -> bool:
        """Return whether the gradient of each sample is independent of its batch."""
        return not torch.is_grad_enabled() or (self.learning.by_sample and not self._has_penalty)

    def _forward(
        self,
        x: Tensor,
        state: State | None,
        keep: Tensor | None,
        record: ForwardRecord | None,
        share: float = 1.0,
    ) -> tuple[Tensor, State]:
        """Compute `forward` without splitting; ``share`` scales the penalty if ``x`` is only a part of the rollout."""
        slope = self.surrogate.slope_at(self.updates) if self.surrogate.schedule else self.surrogate.slope
        ops = TorchOps(self.surrogate, slope, self.soft_spike)
        encoding: tuple[Tensor, ...] | None = None
        before: list[Tensor] | None = None
        if state is not None:
            count = len(self.encoder.state_sizes)
            encoding = tuple(s.squeeze(0) for s in state[:count])
            before = [s.squeeze(0) for s in state[count:]]
        signal, after = self.encoder.encode_stateful(x, encoding, keep)
        if record is not None and not record.only_signal:
            record.operations.append(self.encoder.count_operations(x))
        if stack := self._choose_fused_run(signal, ops, record):
            features, new, rates = self._forward_fused(stack, ops, signal, before, keep, share)
        else:
            features, new, outputs = self._forward_layerwise(ops, signal, before, keep, record)
            rates = [compute_rates(output) for output in outputs] if self._has_penalty else []
        if self.sparsity is not None and rates:
            features = add_penalty_gradient(features, share * self.sparsity.compute(rates, self.fan_out))
        if state is None:
            return features, ()
        return features, tuple(s.unsqueeze(0) for s in (*after, *new))

    def _choose_fused_run(
        self, signal: Tensor, ops: TorchOps, record: ForwardRecord | None
    ) -> LayerStack | GpuStack | None:
        """Return the stack that runs all layers in one call, or None to run them one by one.

        A stack needs linear connections and a backend with stacks. It does not support records, torch.compile, or learning rules
        with hooks; it supports a penalty only if all neurons spike.
        """
        plain = not torch.is_grad_enabled() or self.learning.plain
        if record is not None or not plain or not self._is_linear_stack() or torch.compiler.is_compiling():
            return None
        backend = dispatch.choose_backend(self.backend, signal, ops)
        if self._stack is None or self._stack[0] is not backend:
            stages = [layer.make_stage() for layer in self.layers]
            if self.decoder.potential is not None:
                stages.append(self.decoder.stage())
            self._stack = backend, backend.stack(stages, self.bfloat16_gradient, self.recompute)
        stack = self._stack[1]
        if stack is not None and self._has_penalty and not stack.events:
            return None
        return stack

    def _forward_fused(
        self,
        stack: LayerStack | GpuStack,
        ops: TorchOps,
        signal: Tensor,
        before: list[Tensor] | None,
        keep: Tensor | None,
        share: float,
    ) -> tuple[Tensor, Sequence[Tensor], list[Tensor]]:
        """Run all layers in one call; return features [T, B, F], the new states, and the layers' rates if there is a penalty.

        A stack that adds the penalty's gradient itself, times ``share``, returns no rates.
        """
        decoder: Any = self._modules["decoder"]
        if isinstance(stack, GpuStack):
            charge = self._make_charge(share) if self._has_penalty else None
            offset = decoder.readout.bias if decoder.last_step else None
            output, new = stack(signal, self.steps, ops, before, keep, charge, offset)
            if offset is not None:
                return output, new, []
            if decoder.potential is not None:
                return decoder.decode_potentials(output), new, []
            features, last = decoder(output, None if before is None else tuple(before[len(new) :]), keep)
            return features, (*new, *last), []
        learns = stack.learned or stack.recurrent or stack.masked or torch.is_grad_enabled()
        if before is None and decoder.last_step and not learns:
            return stack.run_last_step(signal, self.steps, ops, decoder.readout.bias), (), []
        # with an offset, the stack returns the features themselves: the last potential plus the bias
        offset = decoder.readout.bias if decoder.potential is not None and decoder.last_step else None
        output, new, rates = stack(signal, self.steps, ops, before, keep, self._has_penalty, offset)
        if offset is not None:
            return output, new, rates
        if decoder.potential is not None:
            return decoder.decode_potentials(output), new, rates
        decoder_state = None if before is None else tuple(before[len(new) :])
        features, last = decoder(output, decoder_state, keep)
        if self._has_penalty:
            rates = [*rates, compute_rates(output)]
        return features, (*new, *last), rates

    def _make_charge(self, share: float) -> ActivityCharge:
        """Return the penalty, times ``share``, for a stack that adds its gradient."""
        assert self.sparsity is not None
        penalty, factors, widths, fan_out = (
            self.sparsity,
            self.penalty_factors,
            self.layer_sizes,
            self.fan_out,
        )

        def compute_gradient(rates: Tensor) -> Tensor:
            gradient = penalty.compute_gradient(rates, factors, widths, fan_out)
            return gradient if share == 1.0 else gradient * share

        return ActivityCharge(len(widths), compute_gradient)

    def _forward_layerwise(
        self,
        ops: TorchOps,
        signal: Tensor,
        before: list[Tensor] | None,
        keep: Tensor | None,
        record: ForwardRecord | None,
    ) -> tuple[Tensor, Sequence[Tensor], list[Tensor]]:
        """Run the layers one by one and fill ``record``; return features, new states, and the layers' outputs [T, K, B, N]."""
        outputs: list[Tensor] = []
        after: list[Tensor] = []
        for layer in self.layers:
            trace: list[Tensor] | None = None if record is None or record.only_signal else []
            layer_state = None if before is None else tuple(before[len(after) : len(after) + layer.states])
            output, new = layer(ops, signal, self.steps, layer_state, keep, trace)
            after += new
            if record is not None:
                record.signal.append(signal)
                if trace is not None:
                    record.potentials.append(torch.stack(trace).view_as(output))
                    record.operations.append(layer.operations(signal, output))
            signal = output
            outputs.append(output)
        decoder_state = None if before is None else tuple(before[len(after) :])
        if self.learning.plain:
            features, new = self.decoder(signal, decoder_state, keep)
        else:
            features, new = self.learning.decode(self.decoder, outputs, decoder_state, keep)
        if record is not None:
            record.signal.append(signal)
            if not record.only_signal:
                record.operations.append(self.decoder.operations(signal))
        return features, (*after, *new), outputs

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        return tuple(layer.width for layer in self.layers)

    @override
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        for layer, channel in zip(self.layers, channels, strict=True):
            layer.channel = channel
        self._plain = False  # a stack does not support channels

    @property
    def readout(self) -> torch.nn.Linear:
        return self.decoder.readout

    @property
    def soft_spike(self) -> bool:
        """Debugging mode with smooth spikes on the torch reference, to check gradients against finite differences."""
        return self._soft_spike

    @soft_spike.setter
    def soft_spike(self, value: bool) -> None:
        self._soft_spike = value
        if value:
            self.set_backend(dispatch.REFERENCE)

    @override
    def set_backend(self, backend: str) -> None:
        dispatch.check(backend)
        for part in (self, *self.layers, self.decoder, *getattr(self.learning, "mirrors", ())):
            part.backend = backend
        self._set_encoder_backend(backend)

    def _set_encoder_backend(self, backend: str) -> None:
        """Set the backend of the encoder and of those that it is made of."""
        for part in self.encoder.modules():
            if isinstance(part, Encoder):
                part.backend = backend

    def _is_linear_stack(self) -> bool:
        """Return whether all connections and the readout are unmodified linear maps, because a stack does not call them.

        Hooks, pruning, parametrizations and subclasses may compute something else.
        """
        if not self._plain:
            return False
        for modules, name, kind in self._linear_maps:
            link: Any = modules[name]
            if link.__class__ is not kind or link._forward_pre_hooks or link._forward_hooks:
                return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        # a stack holds pointers to the weights of this instance
        return {**super().__getstate__(), "_stack": None}

    @property
    def local(self) -> bool:  # type: ignore[override]
        """Whether the learning rule is local."""
        return self.learning.local

    @override
    def apply_local_rules(self, x: Tensor, state: State | None, keep: Tensor | None, credit: Tensor) -> None:
        record = ForwardRecord(only_signal=True)
        with torch.no_grad():
            self(x, state, keep, record=record)
            self.learning.apply_weight_change(self.layers, record.signal, credit, keep)

    def count_update(self) -> None:
        super().count_update()
        self.encoder.resample_noise(self.updates)
