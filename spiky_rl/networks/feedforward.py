"""Feed-forward: encoder, a stack of spiking layers, decoder; spikes reach the next layer in the same inner step.

Each layer runs over all inner steps before the next layer starts, so a call has one matrix product per layer, not per inner step.
The first layer's current is computed once per control step if the encoder's signal is constant over it.

`FeedForward.forward` splits a large stateless batch on the CPU, or a rollout for truncated BPTT. `_forward` encodes, runs the layers,
decodes and adds the penalty. The layers run in one call of a kernel backend (`_run_stack`) where this gives the same result, else one
by one (`_run_layers`).
"""

# pylint: disable=protected-access  # _modules is faster than attributes: a rollout step of one environment takes microseconds

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, override

import torch
from pydantic import field_validator
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.decoders.membrane import Membrane
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import RegistryError, Settings, Widths, error_path, option
from spiky_rl.config.registry import ComponentSpec, Part, list_names, resolve
from spiky_rl.config.schema import MAX_LAYERS
from spiky_rl.connections._cost import ConnectionCost
from spiky_rl.connections.base import Connection, IntraLayerConnection, Shape, count_values
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.kernels import dispatch, neuron_checks, precision
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.gpu_stack import ActivityPenalty, GpuStack
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack import LayerStack
from spiky_rl.networks import _own_parts
from spiky_rl.networks._layer import SpikingLayer, quantize_weights
from spiky_rl.networks.base import (
    ForwardRecord,
    NetworkCost,
    SpikeChannel,
    SpikingNetwork,
    State,
    UnitGroup,
)
from spiky_rl.neurons.base import Neuron
from spiky_rl.penalties.base import Penalty, add_penalty_gradient, compute_rates, expand_factors
from spiky_rl.surrogates.base import Surrogate

MAX_CPU_ROWS = 2048
"""Maximum number of samples in one pass of a stateless network on a CPU, so that tensors for the backward pass stay in the cache.
Measured with 8,192 rows of 400-200-100, forward and backward: 165 ms in parts of 2,048 or as a whole, 186 ms in parts of 1,024. A pass
over all rows takes longer if its memory is newly allocated."""
WEIGHTS = {"weight", "bias"}
"""Parameters of a linear map that a stack reads."""


def check_connection_position(path: str, connection: ComponentSpec, is_recurrent: bool) -> None:
    """Raise RegistryError at ``path`` unless ``connection`` is for its position: in a layer if ``is_recurrent``, else between layers."""

    def fits(cls: type) -> bool:
        return issubclass(cls, IntraLayerConnection) == is_recurrent

    if not fits(connection.cls):
        allowed = [name for name in list_names("connections") if fits(resolve("connections", name))]
        position = "among the neurons of a layer" if is_recurrent else "between layers"
        raise RegistryError(
            f"{path}: {connection.name!r} does not connect {position}; choose from {', '.join(allowed)}"
        )


def get_signal_shape(encoder: Encoder, inputs: Shape | int) -> Shape:
    """Return the shape of an encoder's signal: maps if the observations are maps and the encoder is topographic."""
    if isinstance(inputs, int) or len(inputs) == 1 or not encoder.topographic:
        return (encoder.width,)
    _, *size = inputs
    return (encoder.width // math.prod(size), *size)


def check_learning(path: str, backend: str, parts: Mapping[str, Any], decoder: str) -> tuple[Any, Surrogate]:
    """Check ``backend``, surrogate, the name of the ``decoder`` and the penalty against the learning rule.

    Returns the rule and the surrogate that it uses. Raises RegistryError naming the key below ``path``.
    """
    with error_path(f"{path}.backend"):
        dispatch.check(backend)
    rule, name = parts["learning"].build(), parts["learning"].name
    with error_path(f"{path}.surrogate"):
        surrogate = rule.choose_surrogate(parts["surrogate"].build())
        neuron_checks.check_surrogate(surrogate)
    if decoder in rule.decoders_without_gradient:
        raise RegistryError(
            f"{path}.decoder: {decoder!r} counts spikes, for which {name!r} has no gradient;"
            " use membrane, which depends on spike times"
        )
    if parts["sparsity"] is not None and not rule.counts_have_gradient:
        raise RegistryError(
            f"{path}.sparsity: {name!r} has no gradient of spike counts; use its option regularization"
        )
    return rule, surrogate


def _list_components(path: str, part: Part) -> list[tuple[str, ComponentSpec]]:
    """Return (path, component) of each component of a part: none, one, or one per layer."""
    if isinstance(part, tuple):
        return [(f"{path}[{i}]", each) for i, each in enumerate(part) if each is not None]
    return [] if part is None else [(path, part)]


def _get_component(part: Part, layer: int) -> ComponentSpec | None:
    """Return the component of a part for a layer; a part has one component for all layers, or a tuple with one per layer."""
    return part[layer] if isinstance(part, tuple) else part


def _take(states: list[Tensor] | None, start: int, count: int | None = None) -> tuple[Tensor, ...] | None:
    """Return ``count`` states (None for all) from index ``start`` on; None without states."""
    if states is None:
        return None
    return tuple(states[start:] if count is None else states[start : start + count])


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


def _list_hooks(module: torch.nn.Module) -> list[Mapping[int, Any]]:
    """Return the tables of the hooks that a call of ``module``, or its backward pass, also runs."""
    return [
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    ]


def _can_run_last_step(stack: LayerStack | GpuStack) -> TypeGuard[LayerStack]:
    """Return whether `LayerStack.run_last_step`, the short path of a rollout, computes this pass."""
    if isinstance(stack, GpuStack) or torch.is_grad_enabled():
        return False
    return not (stack.learned or stack.recurrent or stack.masked)


class FeedForward(SpikingNetwork):
    """Observations [T, B, O] -> features [T, B, F]."""

    class Options(Settings):
        layers: Widths = option(
            (),
            "neurons of each layer (channels of a convolutional layer); empty: hidden_dims of the ANN that the network replaces",
            max_length=MAX_LAYERS,
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

        _check_precision = field_validator("gradient_precision")(precision.check_gradient_precision)

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
        rule, surrogate = check_learning(path, options.backend, parts, parts["decoder"].name)
        for key in cls.listed:
            part, n_layers = parts[key], len(options.layers)
            if isinstance(part, tuple) and len(part) != n_layers:
                raise RegistryError(
                    f"{path}.{key}: a list of {len(part)} for {n_layers} layers; give one entry per layer"
                )
        for key in ("connection", "recurrent"):
            for key_path, connection in _list_components(f"{path}.{key}", parts[key]):
                check_connection_position(key_path, connection, is_recurrent=key == "recurrent")
                if options.quantize != "none" and not hasattr(connection.cls, "unrounded_weights"):
                    raise RegistryError(
                        f"{path}.quantize: int8 is not available for the connection {connection.name!r}"
                    )
        for key_path, neuron in _list_components(f"{path}.neuron", parts["neuron"]):
            with error_path(key_path):
                neuron_checks.check_neuron(rule.wrap_neuron(neuron.build()), surrogate)

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
        self.inputs, self.steps, self.stateful = count_values(inputs), options.steps, options.stateful
        self.learning: Any = learning.build()
        self.surrogate = self.learning.choose_surrogate(surrogate.build())
        self._soft_spike = False
        self.encoder: Encoder = encoder.build(inputs=self.inputs, steps=options.steps)
        _own_parts.check_encoder(encoder.name, self.encoder, self.inputs, options.steps)
        self.backend, self.recompute = options.backend, options.recompute
        chosen_precision = options.gradient_precision
        self.bfloat16_gradient = chosen_precision == "bfloat16" or (
            chosen_precision == "auto" and precision.has_fast_bfloat16()
        )
        if not self.learning.trains_encoder and any(p.requires_grad for p in self.encoder.parameters()):
            raise RegistryError(
                f"encoder: {encoder.name!r} is learned, and {learning.name!r} gives it no gradient; allowed: an encoder without"
                " weights, such as direct or rate"
            )
        self.encoder.set_backend(options.backend)
        shape = get_signal_shape(self.encoder, inputs)
        layers = self._build_layers(options.layers, connection, recurrent, neuron, shape)
        self.layers: Iterable[SpikingLayer] = torch.nn.ModuleList(layers)  # type: ignore[assignment]
        self.decoder: Decoder = decoder.build(inputs=layers[-1].width, outputs=outputs)
        self.decoder.configure(options.backend, not layers[-1].neuron.graded, self.bfloat16_gradient)
        _own_parts.check_decoder(decoder.name, self.decoder, options.steps, layers[-1].width, outputs)
        self.is_quantized = options.quantize == "int8"
        if self.is_quantized:
            quantize_weights(layers, self.decoder)
        self.state_sizes = self._list_state_sizes()
        self.learning.setup(layers, decoder, outputs)
        _own_parts.check_rule(learning.name, self, outputs)
        readers = [*(layer.connection for layer in layers[1:]), self.decoder]
        self.fan_out = [layer.fan_out(reader) for layer, reader in zip(layers, readers, strict=True)]
        """Mean number of synapses that an event of each layer reaches, for the penalty."""
        self.sparsity: Penalty | None = None
        if sparsity is not None:
            if not any(p.requires_grad for part in (self.encoder, *layers) for p in part.parameters()):
                raise RegistryError(
                    f"sparsity: {learning.name!r} trains no weights by gradients that change rates"
                )
            penalty = sparsity.build()
            _own_parts.check_penalty(sparsity.name, penalty, self.layer_sizes, self.fan_out)
            self.sparsity = penalty
            factors = expand_factors(penalty, self.layer_sizes, self.fan_out)
            self.register_buffer("penalty_factors", factors, persistent=False)
            self.penalty_factors: Tensor
        self._stack_backend: Backend | None = None
        """Backend that the stack was made for; None if the modules are new since."""
        self._stack: LayerStack | GpuStack | None = None
        """Stack of these layers on that backend, or None if it has no stacks."""
        self._inspect_stack()

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
            spec: Any = _get_component(connection, i)
            link: Connection = spec.build(inputs=shape, outputs=width)
            _own_parts.check_connection(spec.name, link, count_values(shape))
            cell = self.learning.wrap_neuron(_get_component(neuron, i).build())  # type: ignore[union-attr]
            feedback = None
            if (spec := _get_component(recurrent, i)) is not None:
                feedback = spec.build(inputs=link.shape, outputs=width)
                _own_parts.check_connection(spec.name, feedback, link.width)
            layers.append(self._make_layer(link, cell, feedback, binary))
            shape, binary = link.shape, not cell.graded
        return layers

    def _make_layer(
        self, connection: Connection, neuron: Neuron, recurrent: IntraLayerConnection | None, binary: bool
    ) -> SpikingLayer:
        """Return a layer with the options of the network; ``binary`` if its input is 0 or 1."""
        return SpikingLayer(
            connection,
            neuron,
            recurrent,
            self.backend,
            binary=binary,
            bfloat16=self.bfloat16_gradient,
            recompute=self.recompute,
            rule=self.learning,
        )

    @override
    def measure_cost(self) -> NetworkCost:
        connections, units = [], []
        widths = [self.encoder.width, *self.layer_sizes]
        for i, layer in enumerate(self.layers):
            connections.append(layer.connection.measure_cost(i, widths[i]))
            if layer.recurrent is not None:
                cost = layer.recurrent.measure_cost(i + 1, layer.width)
                if not self.stateful:
                    arrivals = layer.recurrent.count_arrivals(self.steps, stateful=False)
                    cost = _drop_late_spikes(cost, arrivals)
                connections.append(cost)
            # a filtered synaptic current is a state too
            is_filtered = layer.loop is not None and layer.loop.decay is not None
            units.append(
                UnitGroup(layer.neuron, layer.width * self.steps, len(layer.neuron.states) + is_filtered)
            )
        connections.append(self.decoder.measure_cost(len(self.layer_sizes)))
        if isinstance(self.decoder, Membrane):
            potential = self.decoder.potential
            units.append(UnitGroup(potential, self.readout.out_features * self.steps, len(potential.states)))
        biases = sum(layer.connection.shape[0] for layer in self.layers)
        return NetworkCost(connections, units, biases, self.inputs / self.encoder.width)

    def _list_state_sizes(self) -> tuple[int, ...]:
        """Return the width of every state tensor: those of the encoder, of each layer, and of the decoder if it has one."""
        sizes = self.encoder.state_sizes
        for layer in self.layers:
            sizes += (layer.width,) * layer.states
        return (*sizes, self.decoder.state_width) if self.decoder.state_width else sizes

    @override
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        if record is None and state is None and self._can_split(x):
            rows = x.split(MAX_CPU_ROWS, 1)
            masks = [None] * len(rows) if keep is None else keep.split(MAX_CPU_ROWS, 1)
            parts = [self._forward(part, None, mask, None)[0] for part, mask in zip(rows, masks, strict=True)]
            return torch.cat(parts, 1), ()
        # without a state, encoder and decoder would begin anew in every control step of the sequence, while neurons go on
        before = self.zero_state(x.shape[1], x) if state is None and self.stateful else state
        span = self.learning.truncate
        if record is None and before is not None and 0 < span < x.shape[0]:
            features, after = self._forward_truncated(x, before, keep, span)
        else:
            features, after = self._forward(x, before, keep, record)
        return features, () if state is None else after

    def _can_split(self, x: Tensor) -> bool:
        """Return whether ``x`` [T, B, O] is a large stateless batch on the CPU whose parts may run one after the other."""
        if self.stateful or x.shape[1] <= MAX_CPU_ROWS or x.device.type != "cpu":
            return False
        # the gradient of a sample must not depend on the other samples
        return not torch.is_grad_enabled() or (
            self.learning.has_independent_samples and self.sparsity is None
        )

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
        encoder_state, states = self._split_state(state)
        encoder: Any = self._modules["encoder"]
        signal, new_encoder_state = encoder.encode_stateful(x, encoder_state, keep)
        if record is not None and not record.only_signals:
            record.operations.append(encoder.count_operations(x))
        if stack := self._choose_stack(signal, ops, record):
            features, new, rates = self._run_stack(stack, ops, signal, states, keep, share)
        else:
            features, new, rates = self._run_layers(ops, signal, states, keep, record)
        if self.sparsity is not None and rates:
            features = add_penalty_gradient(features, share * self.sparsity.compute(rates, self.fan_out))
        if state is None:
            return features, ()
        return features, tuple(s.unsqueeze(0) for s in (*new_encoder_state, *new))

    def _split_state(self, state: State | None) -> tuple[tuple[Tensor, ...] | None, list[Tensor] | None]:
        """Return the states [B, N] of the encoder, and those of layers and decoder; None for both without a ``state``."""
        if state is None:
            return None, None
        count = len(self.encoder.state_sizes)
        return tuple(s.squeeze(0) for s in state[:count]), [s.squeeze(0) for s in state[count:]]

    @property
    def _has_penalty(self) -> bool:
        """Whether the penalty on activity applies in this pass."""
        return self.sparsity is not None and torch.is_grad_enabled()

    def _choose_stack(
        self, signal: Tensor, ops: TorchOps, record: ForwardRecord | None
    ) -> LayerStack | GpuStack | None:
        """Return the stack that runs all layers in one call, or None to run them one by one.

        A stack needs linear connections and a backend with stacks. It does not support records, tracing (`dispatch.is_traced`), or
        learning rules with hooks; it supports a penalty only if all neurons spike and the penalty raises no rates.
        """
        if record is not None or dispatch.is_traced():
            return None
        if (torch.is_grad_enabled() and self.learning.has_hooks) or not self._is_linear_stack():
            return None
        stack = self._get_stack(dispatch.choose_backend(self.backend, signal, ops))
        if stack is not None and self.sparsity is not None and torch.is_grad_enabled():
            return stack if stack.supports_penalty and not self.sparsity.raises_rates else None
        return stack

    def _is_linear_stack(self) -> bool:
        """Return whether all connections and the readout are unmodified linear maps, and layers and decoder are unmodified.

        A stack reads the weights and calls no part, so it would ignore hooks, pruning, parametrizations and subclasses.
        """
        if self._list_stack_modules() != self._stack_modules:
            self._inspect_stack()
        if not self._can_use_stack or any(self._stack_hooks):
            return False
        for link, kind in self._linear_maps:
            if link.__class__ is not kind or not link._parameters.keys() >= WEIGHTS:
                return False
        return not _has_any_global_hook()

    def _list_stack_modules(self) -> list[Any]:
        """Return the layers, the decoder, and the modules in them."""
        parts: list[Any] = [*self._modules["layers"]._modules.values(), self._modules["decoder"]]  # type: ignore[union-attr]
        return parts + [module for part in parts for module in part._modules.values()]

    def _inspect_stack(self) -> None:
        """Set whether a stack can run the present modules, and drop the stack of the previous ones."""
        layers, decoder = [*self.layers], self.decoder
        # whether a stack computes what these modules do, unless they have hooks or are changed in place
        self._can_use_stack = all(
            layer.__class__ is SpikingLayer
            and layer.channel is None
            and isinstance(layer.connection, LinearConnection)
            and layer.connection.quantiser is None
            for layer in layers
        ) and (decoder.__class__ is Membrane or not isinstance(decoder, Membrane))
        # linear maps and their expected classes: a parametrization changes the class in place
        links: list[Any] = [layer.connection for layer in layers]
        self._linear_maps = [
            *((link, LinearConnection) for link in links),
            (decoder.readout, torch.nn.Linear),
        ]
        modules = (*layers, *links, decoder, decoder.readout)
        self._stack_hooks = [hooks for module in modules for hooks in _list_hooks(module)]
        self._stack_backend, self._stack_modules = None, self._list_stack_modules()

    def _get_stack(self, backend: Backend) -> LayerStack | GpuStack | None:
        """Return the stack of these layers on ``backend``, or None if it has no stacks; the last one is kept."""
        if self._stack_backend is not backend:
            stages = [layer.make_stage() for layer in self.layers]
            if isinstance(self.decoder, Membrane):
                stages.append(self.decoder.make_stage())
            self._stack = backend.stack(stages, self.bfloat16_gradient, self.recompute)
            self._stack_backend = backend
        return self._stack

    def _run_stack(
        self,
        stack: LayerStack | GpuStack,
        ops: TorchOps,
        signal: Tensor,
        states: list[Tensor] | None,
        keep: Tensor | None,
        share: float,
    ) -> tuple[Tensor, Sequence[Tensor], list[Tensor]]:
        """Run all layers in one call; return features [T, B, F], the new states, and the layers' rates if there is a penalty.

        A stack on a GPU adds the penalty's gradient itself, times ``share``, and returns no rates.
        """
        decoder: Any = self._modules["decoder"]
        is_membrane = isinstance(decoder, Membrane)
        # features are then the last potential plus the bias
        reads_last_step = is_membrane and decoder.which == "last"
        # in a single control step a mask has no state to reset
        if states is None and signal.shape[0] == 1:
            keep = None
        if states is None and keep is None and reads_last_step and _can_run_last_step(stack):
            readout: Any = decoder._modules["readout"]
            return stack.run_last_step(signal, self.steps, ops, readout._parameters["bias"]), (), []
        # with an offset, the stack returns the features themselves
        offset = decoder.readout.bias if reads_last_step else None
        rates: list[Tensor] = []
        if isinstance(stack, GpuStack):
            output, new = stack(
                signal, self.steps, ops, states, keep, self._make_activity_penalty(share), offset
            )
        else:
            output, new, rates = stack(signal, self.steps, ops, states, keep, self._has_penalty, offset)
        if offset is not None:
            return output, new, rates
        if is_membrane:
            return decoder.decode_potentials(output), new, rates
        features, last = decoder(output, _take(states, len(new)), keep)
        if self._has_penalty and isinstance(stack, LayerStack):
            rates = [*rates, compute_rates(output)]
        return features, (*new, *last), rates

    def _make_activity_penalty(self, share: float) -> ActivityPenalty | None:
        """Return the penalty, times ``share``, for a stack that adds its gradient; None if it does not apply in this pass."""
        if self.sparsity is None or not torch.is_grad_enabled():
            return None
        penalty, factors = self.sparsity, self.penalty_factors
        widths, fan_out = self.layer_sizes, self.fan_out

        def compute_gradient(rates: Tensor) -> Tensor:
            gradient = penalty.compute_gradient(rates, factors, widths, fan_out)
            return gradient if share == 1.0 else gradient * share

        return ActivityPenalty(len(widths), compute_gradient)

    def _run_layers(
        self,
        ops: TorchOps,
        signal: Tensor,
        states: list[Tensor] | None,
        keep: Tensor | None,
        record: ForwardRecord | None,
    ) -> tuple[Tensor, Sequence[Tensor], list[Tensor]]:
        """Run the layers one by one and fill ``record``; return as `_run_stack`."""
        signals, potentials = [signal], []
        records_all = record is not None and not record.only_signals
        new: list[Tensor] = []
        for layer in self.layers:
            layer_potentials: list[Tensor] | None = [] if records_all else None
            layer_state = _take(states, len(new), layer.states)
            output, layer_new = layer(ops, signals[-1], self.steps, layer_state, keep, layer_potentials)
            new += layer_new
            signals.append(output)
            if layer_potentials is not None:
                potentials.append(torch.stack(layer_potentials).view_as(output))
        decoder_state = _take(states, len(new))
        if self.learning.has_hooks:
            features, last = self.learning.decode(self.decoder, signals[1:], decoder_state, keep)
        else:
            features, last = self.decoder(signals[-1], decoder_state, keep)
        if record is not None:
            self._fill_record(record, signals, potentials)
        rates = [compute_rates(output) for output in signals[1:]] if self._has_penalty else []
        return features, (*new, *last), rates

    def _fill_record(
        self, record: ForwardRecord, signals: Sequence[Tensor], potentials: Sequence[Tensor]
    ) -> None:
        """Record the input of every layer and of the decoder (``signals``), the ``potentials``, and the operations."""
        record.signals += signals
        # a learning rule wraps the neurons of all layers or of none
        record.splits_spikes = all(layer.neuron.splits_spikes for layer in self.layers)
        if record.only_signals:
            return
        record.potentials += potentials
        for layer, signal, output in zip(self.layers, signals, signals[1:], strict=False):
            record.operations.append(layer.operations(signal, output, self.stateful))
        record.operations.append(self.decoder.operations(signals[-1]))

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        return tuple(layer.width for layer in self.layers)

    @override
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        for layer, channel in zip(self.layers, channels, strict=True):
            layer.channel = channel
        self._can_use_stack = False  # a stack does not support channels

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
        for module in (self, *self.layers, self.decoder, *getattr(self.learning, "mirrors", ())):
            module.backend = backend
        self.encoder.set_backend(backend)

    def __getstate__(self) -> dict[str, Any]:
        # a stack holds pointers to the weights of this instance
        return {**super().__getstate__(), "_stack_backend": None, "_stack": None}

    @property
    def has_local_rules(self) -> bool:  # type: ignore[override]
        """Whether the learning rule is local."""
        return self.learning.is_local

    @override
    def apply_local_rules(self, x: Tensor, state: State | None, keep: Tensor | None, credit: Tensor) -> None:
        record = ForwardRecord(only_signals=True)
        with torch.no_grad():
            self(x, state, keep, record=record)
            self.learning.apply_weight_change(self.layers, record.signals, credit, keep)

    def count_update(self) -> None:
        super().count_update()
        self.encoder.resample_noise(self.updates)
