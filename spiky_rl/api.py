"""Python API: spiking networks and layers as torch modules that take and return tensors, for `nn.Sequential` and training loops.

`import spiky_rl` offers the names of this module and imports torch at their first use.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

import torch
from torch import Tensor, nn

from spiky_rl.config.errors import RegistryError, UnknownKey, UserError
from spiky_rl.config.options import check_number
from spiky_rl.config.registry import configure
from spiky_rl.connections.base import Shape
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.base import SpikingNetwork, State
from spiky_rl.networks.feedforward import FeedForward

type ComponentSettings = str | Mapping[str, Any]
"""Name of a component, such as ``"lif"``, or its name and options, such as ``{"name": "lif", "tau": 4.0}``."""

_OMITTED: Final[Any] = object()
"""Default of ``state``; None is a state: zero."""
_LAYER_KEYS = (
    "connection",
    "recurrent",
    "neuron",
    "surrogate",
    "backend",
    "gradient_precision",
    "recompute",
    "quantize",
)
"""Options of a feed-forward network that apply to one layer."""


class SpikingModule(nn.Module):
    """Torch module with a spiking forward pass; the state is an optional argument and a result.

    ``module(x)`` returns the output y, so that the module fits into `nn.Sequential`. ``module(x, state)`` returns (y, state)
    for the next call; the first state is None, which means zero.
    """

    inputs: Shape
    """Shape of one sample: (O,), or (channels, height, width)."""
    state_sizes: tuple[int, ...]
    """Width of every state tensor [1, B, width]; empty if a call leaves no state."""

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor, *, keep: Tensor | None = None) -> Tensor: ...
        @overload
        def __call__(
            self, x: Tensor, state: State | None, keep: Tensor | None = None
        ) -> tuple[Tensor, State]: ...
        def __call__(self, x: Tensor, state: Any = None, keep: Tensor | None = None) -> Any: ...

    def forward(
        self, x: Tensor, state: State | None = _OMITTED, keep: Tensor | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """Return the output [B, F] or [T, B, F]; also the new state if ``state`` is given.

        Args:
            x: One control step [B, O] or a sequence of T [T, B, O]; maps may also have their shape, [B, C, H, W].
            state: State that an earlier call returned, or None for zero. If it is omitted, the sequence starts from zero
                and no state is returned.
            keep: [B] or [T, B], boolean or 0 and 1; 0 where an episode begins with that step, which resets the state. None
                if no episode begins.

        Raises:
            UserError: A shape does not fit.
        """
        x, is_step = self._to_sequence(x)
        steps, batch = x.shape[:2]
        if keep is not None:
            if not isinstance(keep, Tensor):
                raise UserError(
                    f"keep: {type(keep).__name__} given; allowed: a tensor, such as torch.as_tensor(keep)"
                )
            _check_shape("keep", keep.shape, x.shape[is_step:2])
            keep = keep.reshape(steps, batch).to(x.dtype)
        returns_state = state is not _OMITTED
        before: State | None = state if returns_state else None
        if before is not None:
            self._check_state(before, batch)
        if not self.state_sizes:
            # control steps are independent, and a network carries its neurons through T
            samples = x if steps == 1 else x.flatten(0, 1).unsqueeze(0)
            y, after = self._run(samples, None, None)
            y = y if steps == 1 else y.squeeze(0).unflatten(0, (steps, batch))
        else:
            if returns_state and before is None:
                before = tuple(x.new_zeros(1, batch, size) for size in self.state_sizes)
            y, after = self._run(x, before, keep)
        y = y.squeeze(0) if is_step else y
        return (y, after) if returns_state else y

    @abstractmethod
    def _run(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        """Return the output [T, B, F] of ``x`` [T, B, O], and the new state if ``state`` is not None."""

    def _to_sequence(self, x: Tensor) -> tuple[Tensor, bool]:
        """Return ``x`` as [T, B, O], and whether it is one control step."""
        if not isinstance(x, Tensor):
            raise UserError(f"x: {type(x).__name__} given; allowed: a tensor, such as torch.as_tensor(x)")
        width, dims = math.prod(self.inputs), len(self.inputs)
        if dims > 1 and x.dim() in (dims + 1, dims + 2) and tuple(x.shape[-dims:]) == self.inputs:
            x = x.flatten(-dims)
        if x.dim() not in (2, 3) or x.shape[-1] != width:
            shapes = [f"[B, {width}]", f"[T, B, {width}]"]
            if dims > 1:
                maps = ", ".join(map(str, self.inputs))
                shapes += [f"[B, {maps}]", f"[T, B, {maps}]"]
            raise UserError(f"x: shape {list(x.shape)} given; allowed: {', '.join(shapes)}")
        return (x.unsqueeze(0), True) if x.dim() == 2 else (x, False)

    def _check_state(self, state: State, batch: int) -> None:
        if len(state) != len(self.state_sizes):
            allowed = f"None, or {len(self.state_sizes)} tensors"
            if not self.state_sizes:
                allowed = "None or (), for a network without a state"
            raise UserError(f"state: {len(state)} tensors given; allowed: {allowed}")
        for i, (part, size) in enumerate(zip(state, self.state_sizes, strict=True)):
            _check_shape(f"state[{i}]", part.shape, (1, batch, size))


class NetworkModule(SpikingModule):
    """Spiking network as a torch module: x [B, O] -> y [B, F], or [T, B, O] -> [T, B, F]."""

    def __init__(self, spiking: SpikingNetwork, inputs: Shape, outputs: int) -> None:
        """Wrap a built network of encoder, layers or a reservoir, and decoder; ``inputs`` is the shape of one observation."""
        super().__init__()
        self.network = spiking
        self.inputs, self.outputs = inputs, outputs
        self.state_sizes = spiking.state_sizes if spiking.stateful else ()

    def _run(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        weights = self.network.readout.weight  # quicker than next(self.parameters())
        if x.dtype != weights.dtype and not torch.is_autocast_enabled(x.device.type):
            kind = str(weights.dtype).removeprefix("torch.")
            raise UserError(
                f"x: {x.dtype} given; allowed: {weights.dtype}, as the weights; call x.to(torch.{kind})"
            )
        return self.network(x, state, keep)

    def extra_repr(self) -> str:
        return (
            f"inputs={_format_shape(self.inputs)}, outputs={self.outputs}, stateful={self.network.stateful}"
        )


class LayerModule(SpikingModule):
    """Connection and neurons as a torch module: signal [B, C] -> spikes [B, N], or [T, B, C] -> [T, B, N]; always stateful."""

    def __init__(self, single: FeedForward, inputs: Shape) -> None:
        """Take the only layer of the network ``single`` with one inner step; ``inputs`` is the shape of its signal."""
        super().__init__()
        (self.layer,) = single.layers
        self.ops = TorchOps(single.surrogate, single.surrogate.slope)
        self.inputs, self.shape = inputs, self.layer.connection.shape
        self.outputs = self.layer.width
        self.state_sizes = (self.layer.width,) * self.layer.states

    def _run(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        before = None if state is None else tuple(part.squeeze(0) for part in state)
        spikes, after = self.layer(self.ops, x.unsqueeze(1), 1, before, keep, None)
        return spikes.squeeze(1), tuple(part.unsqueeze(0) for part in after)

    def extra_repr(self) -> str:
        return f"inputs={_format_shape(self.inputs)}, outputs={_format_shape(self.shape)}"


def network(
    inputs: int | Shape,
    outputs: int,
    layers: Sequence[int] | None = None,
    neuron: ComponentSettings | Sequence[ComponentSettings] | None = None,
    *,
    name: str = "feedforward",
    **options: Any,
) -> NetworkModule:
    """Build a spiking network as a torch module.

    On its own, or between other modules:

        net = spiky_rl.network(4, 2, layers=[64, 64], neuron={"name": "lif", "tau": 4.0}, steps=8)
        y = net(torch.randn(32, 4))  # [32, 2]

        policy = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), spiky_rl.network(16, 8, layers=[64]), nn.Linear(8, 2))

    With a state that lasts for an episode:

        net, state = spiky_rl.network(4, 2, layers=[64], stateful=True), None
        for x in observations:  # [B, 4] each
            y, state = net(x, state)

    ``net.network`` is the `SpikingNetwork` inside. Call its `count_update` after every optimiser step if the encoder is random
    or the surrogate's slope has a schedule, and its `apply_local_rules` if the learning rule is local.

    Args:
        inputs: O, or (channels, height, width) of maps.
        outputs: F.
        layers: Neurons of each layer, or channels of a convolutional layer; a feed-forward network needs them.
        neuron: Neuron of all layers, or a list with one per layer; by default lif.
        name: Network of the registry: feedforward, reservoir or nir.
        options: Further options and parts of the network, such as ``steps=8``, ``stateful=True``, ``encoder="population"``,
            ``recurrent="lateral"``, ``learning="eprop"``; ``spiky show networks feedforward`` lists them.

    Raises:
        RegistryError: Unknown name or option, wrong type, or value out of range.
    """
    shape, outputs = _check_inputs("network.inputs", inputs), _check_size("network.outputs", outputs)
    widths = list(map(_to_int, layers)) if isinstance(layers, list | tuple) else layers
    given = {"layers": widths, "neuron": neuron}
    settings = {"name": name, **{key: value for key, value in given.items() if value is not None}, **options}
    spec = configure("networks", settings, "network")
    if getattr(spec.options, "layers", None) == ():
        raise RegistryError(
            "network.layers: none given; allowed: a list of at least one width, such as [64, 64]"
        )
    return NetworkModule(spec.build(inputs=_to_inputs(shape), outputs=outputs), shape, outputs)


def layer(
    inputs: int | Shape, outputs: int, neuron: ComponentSettings | None = None, **options: Any
) -> LayerModule:
    """Build one spiking layer, a connection and its neurons, as a torch module with time as the first dimension.

    The signal may have any values, such as currents or spikes. A call with [T, B, C] runs T steps of the neurons; there are no
    inner steps, no encoder and no decoder:

        net = nn.Sequential(spiky_rl.layer(8, 64), spiky_rl.layer(64, 64), nn.Linear(64, 2))
        y = net(signal).mean(0)  # signal [T, B, 8]; y [B, 2] from the firing rates

    One step at a time, with an explicit state:

        hidden, state = spiky_rl.layer(8, 64, neuron="alif", recurrent="recurrent"), None
        for current in signal:  # [B, 8] each
            spikes, state = hidden(current, state)

    Args:
        inputs: C, or (channels, height, width) of maps.
        outputs: N, or channels of a convolutional layer, whose maps are flat in the output; ``shape`` of the module has their
            shape.
        neuron: By default lif.
        options: ``connection``, ``recurrent``, ``surrogate``, ``backend``, ``gradient_precision``, ``recompute`` and
            ``quantize``, as in `network`.

    Raises:
        RegistryError: Unknown name or option, wrong type, or value out of range.
    """
    shape, outputs = _check_inputs("layer.inputs", inputs), _check_size("layer.outputs", outputs)
    for key in options:
        if key not in _LAYER_KEYS:
            raise UnknownKey(f"layer.{key}: a layer has no such option", f"layer.{key}", _LAYER_KEYS)
    parts = options if neuron is None else {"neuron": neuron, **options}
    settings = {"name": "feedforward", "layers": [outputs], "steps": 1, "stateful": True, **parts}
    built: FeedForward = configure("networks", settings, "layer").build(inputs=_to_inputs(shape), outputs=1)
    if built.surrogate.schedule:
        raise RegistryError("layer.surrogate.schedule: the slope of a layer is constant; leave it out")
    return LayerModule(built, shape)


def _check_inputs(path: str, inputs: int | Shape) -> Shape:
    """Return ``inputs`` as a shape. Raises RegistryError unless it is a width or a shape of maps."""
    shape = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
    if len(shape) not in (1, 3):
        raise RegistryError(f"{path}: {list(shape)} given; allowed: a width, or (channels, height, width)")
    return tuple(_check_size(path, size) for size in shape)


def _check_size(path: str, size: int) -> int:
    """Return ``size`` as an int."""
    return check_number(path, _to_int(size), int, low=1)


def _to_int(size: object) -> object:
    """Return ``size`` as an int if it is one of NumPy's integers, such as ``action_space.n``; anything else as it is."""
    return int(size) if isinstance(size, numbers.Integral) and not isinstance(size, bool) else size


def _to_inputs(shape: Shape) -> int | Shape:
    return shape[0] if len(shape) == 1 else shape


def _check_shape(name: str, given: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(given) != tuple(wanted):
        raise UserError(f"{name}: shape {list(given)} given; allowed: {list(wanted)}")


def _format_shape(shape: Shape) -> str:
    return str(_to_inputs(shape))
