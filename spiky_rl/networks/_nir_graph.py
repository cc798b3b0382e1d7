"""Reader of NIR graphs: a chain of layers in numpy from a file of any library. No code of the file is executed.

A NIR file holds differential equations, and a network here takes steps. Forward Euler with the time step dt turns

    tau dv/dt = v_leak - v + r I   into   v <- (1 - dt/tau) v + (r dt/tau) I,   v relative to v_leak,

which is `lif` with the decay 1 - dt/tau and with input weights times r dt/tau. Libraries that read and write NIR take the same
step. An edge back to a neuron takes one step, and a Delay adds its duration.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from spiky_rl.config.errors import get_error_text
from spiky_rl.config.named_code import require_no_code
from spiky_rl.config.options import RegistryError
from spiky_rl.config.plain_data import PlainValue

FILE_VERSION = 1
"""Version of our own files, ``layout`` in their metadata."""
DT = 1e-4
"""Seconds per step: of our own files, and of snnTorch and SpikingJelly, which do not write it."""
PRODUCER = "spiky_rl"
SPIKING = ("CubaLIF", "IF", "LIF")
NEURONS = (*SPIKING, "LI")
MAPS = ("Affine", "Conv2d", "Linear")
ALLOWED = (*MAPS, *NEURONS, "AvgPool2d", "Delay", "Flatten", "Input", "NIRGraph", "Output")
"""Types of nodes that can be run."""
ALLOWED_POSITIONS = {
    **dict.fromkeys(NEURONS, f"behind {', '.join(MAPS)}"),
    "AvgPool2d": "one behind a Conv2d, before its neurons",
    "Flatten": "before a Conv2d, or behind neurons",
    "Delay": "in feedback to the same neurons",
    "Input": "at the beginning",
}
"""Position at which a type of node is allowed."""
MIN_VERSION = (1, 0, 7)
"""Oldest version of nir whose files have the reset and can be read without its own check of shapes."""
GAIN_TOLERANCE = 1e-6
"""Largest distance of a gain from 1 that counts as rounding of the file's numbers, which may have 32 bits."""
OWN_GAIN_TOLERANCE = 1e-14
"""The same for our own files, whose numbers have 64 bits."""
DELAY_TOLERANCE_STEPS = 1e-3
"""Largest distance of a delay from a whole number of steps, in steps."""
MAX_FLOAT32 = 3.4028234663852886e38
MAX_DELAY = 10_000
"""Longest delay of feedback, in steps, as in recurrent connections; the feedback itself takes one of them."""


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution with square kernels: shape (C, H, W) of the input, stride, padding, side of the average pooling."""

    inputs: tuple[int, ...]
    stride: int
    padding: int
    pool: int


@dataclass
class NirLayer:
    """A linear map or convolution with the neurons behind it; all arrays in double precision."""

    name: str
    """Name of the node of the neurons."""
    kind: str
    """Type of that node, one of `NEURONS`."""
    weight: np.ndarray
    """[N, C], or [C', C, k, k] of a convolution; times the gain of the neurons."""
    bias: np.ndarray | None
    """[N] or [C'], times the gain; None without a bias."""
    geometry: ConvGeometry | None
    """None if the weight is a matrix."""
    shape: tuple[int, ...]
    """Shape of the current, without the batch."""
    options: dict[str, PlainValue]
    """Options of the neuron that change the form of its step."""
    values: tuple[np.ndarray, ...]
    """Parameters of the neuron's step in its order, [N] each: decays, then the threshold if it spikes."""
    feedback: np.ndarray | None = None
    """Recurrent weights [D N, N], a block per delay from one step on, times the gain; None without feedback."""

    @property
    def width(self) -> int:
        """N."""
        return math.prod(self.shape)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of the input, without the batch."""
        return (self.weight.shape[1],) if self.geometry is None else self.geometry.inputs


@dataclass
class NirContent:
    """Content of a file as a network here needs it."""

    is_own_export: bool
    """Whether `spiky export` wrote the file."""
    inputs: tuple[int, ...]
    """Shape of an observation."""
    layers: list[NirLayer]
    readout: tuple[np.ndarray, np.ndarray | None] | None
    """Weight [F, N] and bias [F] of a linear map behind the last neurons; None if the graph ends in neurons."""
    normaliser: tuple[np.ndarray, np.ndarray] | None = None
    """Mean and divisor of an observation, [O] each."""
    codecs: dict[str, PlainValue] = field(default_factory=dict)
    """Settings of encoder and decoder; empty unless the file is our own."""
    encoder_state: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int | None = None
    stateful: bool | None = None
    digest: int = 0
    """Number that changes with the nodes and edges of the file."""


@dataclass(frozen=True)
class NirReadOptions:
    """Choices that a file leaves open."""

    file: str
    dt: float | None = None
    """Seconds per inner step; None for the file's."""
    spike: str | None = None
    """Whether a neuron spikes ``at`` the threshold or only ``above`` it; None for ``at`` in our own files and ``above`` in others."""
    reset: str | None = None
    """Reset of all neurons, ``zero`` or ``subtract``; None for the file's."""


def read_content(options: NirReadOptions) -> NirContent:
    """Read the graph of ``options.file``. Raises RegistryError that names the file, the node and what is allowed."""
    try:
        status = os.stat(options.file)
    except FileNotFoundError:
        raise RegistryError(f"{options.file}: no such file") from None
    except OSError as error:
        raise RegistryError(f"{options.file}: {error.strerror}") from None
    return _read_cached(options, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read_cached(options: NirReadOptions, _modified: int, _size: int) -> NirContent:
    graph = _read_file(options.file)
    try:
        return _Builder(graph, options).build()
    except RegistryError as error:
        raise RegistryError(f"{options.file}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise RegistryError(
            f"{options.file}: damaged: {type(error).__name__}: {get_error_text(error)}"
        ) from None


def require_nir(key: str) -> None:
    """Raise RegistryError, naming ``key``, if the package nir is absent or older than `MIN_VERSION`."""
    try:
        installed = version("nir")
    except PackageNotFoundError:
        raise RegistryError(f"{key}: nir is not installed; install it with: pip install nir") from None
    if tuple(map(int, re.findall(r"\d+", installed)[:3])) < MIN_VERSION:  # also of 1.1.0rc1
        allowed = ".".join(map(str, MIN_VERSION))
        raise RegistryError(f"{key}: nir {installed} is installed; allowed: {allowed} or later")


def _read_file(path: str) -> Any:
    """Return the graph of a file as `nir` reads it."""
    require_nir(path)
    import nir

    try:
        # without nir's check of shapes, because libraries write batch sizes into inputs and outputs; `_Builder` checks them
        return nir.read(path, type_check=False)
    except (OSError, KeyError, ValueError, TypeError, AssertionError, RuntimeError, AttributeError) as error:
        raise RegistryError(
            f"{path}: not a NIR file: {type(error).__name__}: {get_error_text(error)}"
        ) from None


@dataclass
class _Walk:
    """State of the walk from the input to the output: the signal behind the last visited node."""

    shape: tuple[int, ...]
    """Shape of the signal, without the batch."""
    link: str = ""
    """Name of the map since the last neurons; empty if there is none."""
    inputs: tuple[int, ...] = ()
    """Shape of the input of that map."""
    pool: int = 1
    """Side of the average pooling since that map."""


class _Builder:
    """Builder of a `NirContent` from a graph."""

    def __init__(self, graph: Any, options: NirReadOptions) -> None:
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self._add_graph("", graph)
        metadata = dict(graph.metadata)
        self.metadata = metadata if metadata.get("producer") == PRODUCER else {}
        """Metadata of one of our own files; empty for another file."""
        _check_finite("metadata", self.metadata)
        if self.metadata and int(self.metadata.get("layout", 0)) != FILE_VERSION:
            raise RegistryError(
                f"metadata.layout: {self.metadata.get('layout')} given; allowed: {FILE_VERSION}"
            )
        self.dt = options.dt or float(self.metadata.get("dt", DT))
        if self.dt <= 0.0:
            raise RegistryError(f"metadata.dt: {self.dt:g} given; allowed: above 0")
        self.spike = options.spike or ("at" if self.metadata else "above")
        self.reset = options.reset
        for name, node in self.nodes.items():
            self._check_node(name, node)
        self.after: dict[str, list[str]] = {}
        for source, target in self.edges:
            self.after.setdefault(source, []).append(target)

    def _add_graph(self, prefix: str, graph: Any) -> None:
        """Add the nodes of ``graph``, and those of the graphs in it, which lose their own inputs and outputs."""
        begins: dict[str, str] = {}
        ends: dict[str, str] = {}
        for name, node in graph.nodes.items():
            path = f"{prefix}{name}"
            if _get_type_name(node) != "NIRGraph":
                self.nodes[path] = node
                continue
            begins[path], ends[path] = self._add_inner_graph(path, node)
        for source, target in graph.edges:
            a, b = f"{prefix}{source}", f"{prefix}{target}"
            self.edges.append((ends.get(a, a), begins.get(b, b)))
        for name in (*begins.values(), *ends.values()):
            self._remove(name)

    def _add_inner_graph(self, path: str, graph: Any) -> tuple[str, str]:
        """Add the nodes of ``graph``, a node at ``path``; return the names of its input and its output."""
        earlier = set(self.nodes)
        self._add_graph(f"{path}.", graph)
        new = [name for name in self.nodes if name not in earlier]
        inputs = [name for name in new if _get_type_name(self.nodes[name]) == "Input"]
        outputs = [name for name in new if _get_type_name(self.nodes[name]) == "Output"]
        if len(inputs) != 1 or len(outputs) != 1:
            raise RegistryError(
                f"{path} (NIRGraph): {len(inputs)} inputs and {len(outputs)} outputs given; allowed: 1 each"
            )
        return inputs[0], outputs[0]

    def _remove(self, name: str) -> None:
        """Remove a node that only passes its input on."""
        before = [a for a, b in self.edges if b == name]
        behind = [b for a, b in self.edges if a == name]
        self.edges = [edge for edge in self.edges if name not in edge]
        self.edges += [(a, b) for a in before for b in behind]
        del self.nodes[name]

    def _check_node(self, name: str, node: Any) -> None:
        if _get_type_name(node) not in ALLOWED:
            raise RegistryError(f"{name}: {_get_type_name(node)} given; allowed: {', '.join(ALLOWED)}")
        _check_finite(name, vars(node))

    def build(self) -> NirContent:
        """Walk from the input to the output."""
        first = self._find_single_node("Input")
        self._find_single_node("Output")
        content = NirContent(bool(self.metadata), (), [], None, digest=self._compute_digest())
        walk = _Walk(tuple(int(side) for side in np.atleast_1d(self.nodes[first].input_type["input"])))
        visited, before, name = {first}, first, self._get_next_node(first)
        while (kind := _get_type_name(self.nodes[name])) != "Output":
            if name in visited:
                raise self._make_error(name, "in a loop of several layers", "a loop of one layer: feedback")
            visited.add(name)
            if kind in MAPS:
                self._pass_map(content, walk, name)
            elif kind in NEURONS and walk.link:
                visited.update(self._pass_neurons(content, walk, name))
            elif kind == "Flatten" and not self._is_in_convolution(walk):
                walk.shape = (math.prod(walk.shape),)
            elif kind == "AvgPool2d" and walk.pool == 1 and self._is_in_convolution(walk):
                walk.pool = self._get_pool(name)
                walk.shape = (walk.shape[0], *(side // walk.pool for side in walk.shape[1:]))
            else:
                raise self._make_error(name, f"behind {before}", ALLOWED_POSITIONS[kind])
            before, name = name, self._get_next_node(name)
        self._check_complete(content, visited | {name})
        content.inputs = content.layers[0].inputs
        if walk.link:
            self._read_readout(content, walk.link)
        if self.metadata:
            self._read_metadata(content)
        return content

    def _is_in_convolution(self, walk: _Walk) -> bool:
        """Return whether ``walk`` is between a convolution and its neurons."""
        return bool(walk.link) and _get_type_name(self.nodes[walk.link]) == "Conv2d"

    def _pass_map(self, content: NirContent, walk: _Walk, name: str) -> None:
        """Continue the walk behind the map ``name``. In our own files, two maps may begin the graph: the first one normalises observations."""
        if walk.link and not (self.metadata and not content.layers and content.normaliser is None):
            raise self._make_error(name, f"behind {walk.link}", f"behind {', '.join(NEURONS)}")
        if walk.link:
            content.normaliser = self._read_normaliser(walk.link)
        walk.link, walk.inputs = name, walk.shape
        walk.shape = self._get_map_shape(name, walk.shape)

    def _pass_neurons(self, content: NirContent, walk: _Walk, name: str) -> list[str]:
        """Continue the walk behind the neurons ``name``, which complete a layer; return the nodes of their feedback."""
        paths = [self._trace_back(name, start) for start in self.after.get(name, [])]
        feedback_paths = [path for path in paths if path is not None]
        content.layers.append(self._build_layer(name, walk, feedback_paths))
        walk.link, walk.pool = "", 1
        return [node for path in feedback_paths for node in path]

    def _check_complete(self, content: NirContent, visited: set[str]) -> None:
        """Raise RegistryError for nodes beside the chain, and for a chain without neurons that spike."""
        if unvisited := [name for name in self.nodes if name not in visited]:
            raise RegistryError(
                f"{', '.join(unvisited)}: outside the chain from input to output; allowed: feedback"
            )
        if not any(layer.kind in SPIKING for layer in content.layers):
            raise RegistryError(f"no neurons that spike; allowed: {', '.join(SPIKING)}")

    def _read_readout(self, content: NirContent, name: str) -> None:
        """Read the linear map ``name`` behind the last neurons."""
        node = self.nodes[name]
        if _get_type_name(node) == "Conv2d":
            raise self._make_error(name, "as the last node", "Affine, Linear")
        if content.layers[-1].kind == "LI" and not self.metadata:
            raise self._make_error(name, "behind LI", f"behind {', '.join(SPIKING)}")
        content.readout = _to_double(node.weight), self._get_bias(name)

    def _read_metadata(self, content: NirContent) -> None:
        """Read the metadata of one of our own files."""
        metadata = self.metadata
        content.steps, content.stateful = int(metadata["steps"]), bool(metadata["stateful"])
        content.inputs = tuple(int(side) for side in metadata["inputs"])
        content.codecs = {key: _read_codec(key, metadata[key]) for key in ("encoder", "decoder")}
        content.encoder_state = {
            key.removeprefix("encoder_"): _to_double(value)
            for key, value in metadata.items()
            if key.startswith("encoder_")
        }

        def read(key: str, count: int) -> np.ndarray:
            return _expand(f"metadata.{key}", _to_double(metadata[key]), count)

        if "normaliser_mean" in metadata:
            count = math.prod(content.inputs)
            content.normaliser = read("normaliser_mean", count), read("normaliser_scale", count)
        if content.readout is None:
            raise RegistryError("damaged: no readout")
        weight, _ = content.readout
        content.readout = weight, read("decoder_bias", len(weight))

    def _find_single_node(self, kind: str) -> str:
        """Return the name of the node of a ``kind``. Raises RegistryError unless there is exactly one."""
        names = [name for name, node in self.nodes.items() if _get_type_name(node) == kind]
        if len(names) != 1:
            raise RegistryError(f"{len(names)} nodes {kind} given; allowed: 1")
        return names[0]

    def _get_next_node(self, name: str) -> str:
        """Return the node behind ``name``, apart from its feedback."""
        ahead = [b for b in self.after.get(name, []) if self._trace_back(name, b) is None]
        if len(ahead) != 1:
            targets = ", ".join(ahead) if ahead else "none"
            raise RegistryError(
                f"{name} ({_get_type_name(self.nodes[name])}): edges to {targets} given; allowed: 1 edge"
            )
        return ahead[0]

    def _trace_back(self, name: str, start: str) -> list[str] | None:
        """Return the nodes from ``start`` back to the neurons ``name``, without them; None if that path leads elsewhere."""
        if _get_type_name(self.nodes[name]) not in NEURONS:
            return None
        path, here = [], start
        while here != name:
            ahead = self.after.get(here, [])
            if len(ahead) != 1 or here in path or _get_type_name(self.nodes[here]) not in (*MAPS, "Delay"):
                return None
            path.append(here)
            here = ahead[0]
        return path

    def _make_error(self, name: str, given: str, allowed: str) -> RegistryError:
        """Return the error of the node ``name``, which has ``given`` in place of ``allowed``."""
        return RegistryError(
            f"{name} ({_get_type_name(self.nodes[name])}): {given} given; allowed: {allowed}"
        )

    def _get_map_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape behind a map, for the ``shape`` of its input."""
        node = self.nodes[name]
        is_convolution = _get_type_name(node) == "Conv2d"
        if node.weight.ndim != (dims := 4 if is_convolution else 2):
            raise self._make_error(name, f"weight of shape {list(node.weight.shape)}", f"{dims} dimensions")
        if not is_convolution:
            if math.prod(shape) != node.weight.shape[1]:
                raise self._make_error(
                    name, f"an input of shape {list(shape)}", f"{node.weight.shape[1]} values"
                )
            return (node.weight.shape[0],)
        geometry = self._get_geometry(name, shape)
        side = node.weight.shape[-1]
        return (
            node.weight.shape[0],
            *((s + 2 * geometry.padding - side) // geometry.stride + 1 for s in geometry.inputs[1:]),
        )

    def _get_bias(self, name: str) -> np.ndarray | None:
        """Return the bias of the map ``name``, one value per output or channel; None if it has none."""
        node, kind = self.nodes[name], _get_type_name(self.nodes[name])
        if kind == "Linear":
            return None
        return _expand(f"{name} ({kind}): bias", _to_double(node.bias), len(node.weight))

    def _get_geometry(self, name: str, shape: tuple[int, ...]) -> ConvGeometry:
        """Return the geometry of a Conv2d without its pooling, for the ``shape`` of its input."""
        node = self.nodes[name]
        rows, columns = node.weight.shape[-2:]
        if rows != columns:
            raise self._make_error(name, f"kernel {rows} x {columns}", "square kernels")
        if node.groups != 1:
            raise self._make_error(name, f"groups {node.groups}", "1")
        stride = self._get_side(name, "stride", node.stride, 1)
        if self._get_side(name, "dilation", node.dilation) != 1:
            raise self._make_error(name, f"dilation {np.atleast_1d(node.dilation).tolist()}", "1")
        padding = self._get_padding(name, rows, stride)
        maps = (node.weight.shape[1], *shape[-2:])
        if len(shape) < 3 or math.prod(maps) != math.prod(shape):
            raise self._make_error(name, f"an input of shape {list(shape)}", f"[{maps[0]}, height, width]")
        return ConvGeometry(maps, stride, padding, 1)

    def _get_padding(self, name: str, kernel: int, stride: int) -> int:
        """Return the padding of a Conv2d. The file may hold a word: ``same``; any other word means no padding."""
        padding = self.nodes[name].padding
        if isinstance(padding, bytes):
            padding = padding.decode()
        if isinstance(padding, str):
            if padding == "same" and (kernel % 2 == 0 or stride != 1):
                raise self._make_error(name, "padding same", "odd kernels with stride 1")
            return kernel // 2 if padding == "same" else 0
        side = self._get_side(name, "padding", padding)
        if side >= kernel:
            raise self._make_error(name, f"padding {side}", f"less than the kernel, {kernel}")
        return side

    def _get_side(self, name: str, key: str, value: Any, lowest: int = 0) -> int:
        """Return the option ``key`` of a node, a number from ``lowest`` or equal numbers for rows and columns, as one number."""
        sides = {int(side) for side in np.atleast_1d(value)}
        if len(sides) != 1:
            raise self._make_error(
                name, f"{key} {np.atleast_1d(value).tolist()}", "the same for rows and columns"
            )
        (side,) = sides
        if side < lowest:
            raise self._make_error(name, f"{key} {side}", f"at least {lowest}")
        return side

    def _get_pool(self, name: str) -> int:
        """Return the side of the blocks of an AvgPool2d."""
        node = self.nodes[name]
        side = self._get_side(name, "kernel_size", node.kernel_size, 1)
        for key, allowed in (("stride", side), ("padding", 0)):
            if self._get_side(name, key, getattr(node, key)) != allowed:
                raise self._make_error(
                    name, f"{key} {np.atleast_1d(getattr(node, key)).tolist()}", str(allowed)
                )
        return side

    def _build_layer(self, name: str, walk: _Walk, feedback_paths: list[list[str]]) -> NirLayer:
        """Build the layer of the neurons ``name`` at ``walk``; each of the ``feedback_paths`` has the nodes of one path back to them."""
        link, shape = walk.link, walk.shape
        node, link_kind = self.nodes[link], _get_type_name(self.nodes[link])
        options, gain, values = self._read_neurons(name, math.prod(shape))
        # the gain is a product of rounded numbers of the file, so a gain meant as 1 is only near 1
        tolerance = OWN_GAIN_TOLERANCE if self.metadata else GAIN_TOLERANCE
        gain = np.where(np.abs(gain - 1.0) < tolerance, 1.0, gain)
        weight = _to_double(node.weight)
        bias = self._get_bias(link)
        feedback, constant = self._read_feedback(name, feedback_paths, math.prod(shape))
        if constant is not None:
            if link_kind == "Conv2d":
                raise self._make_error(name, "feedback with a bias", "Linear feedback behind a Conv2d")
            bias = constant if bias is None else bias + constant
        geometry, factor = None, gain
        if link_kind == "Conv2d":
            geometry = replace(self._get_geometry(link, walk.inputs), pool=walk.pool)
            channels = gain.reshape(shape[0], -1)
            if np.ptp(channels, axis=1).any():
                raise self._make_error(name, "r or tau that differ in a channel", "one value per channel")
            factor = channels[:, 0]
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = None if bias is None else bias * factor
        if feedback is not None:
            feedback = feedback * gain
        return NirLayer(
            name, _get_type_name(self.nodes[name]), weight, bias, geometry, shape, options, values, feedback
        )

    def _read_neurons(
        self, name: str, width: int
    ) -> tuple[dict[str, PlainValue], np.ndarray, tuple[np.ndarray, ...]]:
        """Return the options of the neurons ``name``, the gain of their input [N], and the values of their step."""
        node, kind = self.nodes[name], _get_type_name(self.nodes[name])

        def get(key: str) -> np.ndarray:
            return _expand(f"{name} ({kind}): {key}", _to_decimal(getattr(node, key)), width)

        def decay(key: str) -> np.ndarray:
            tau = get(key)
            if (tau < self.dt).any():
                raise self._make_error(name, f"{key} {tau.min():g} s", f"at least dt, {self.dt:g} s")
            return 1.0 - self.dt / tau

        r = get("r")
        if kind == "LI":
            self._require(name, "v_leak", get("v_leak"), 0.0)
            return {}, r, (decay("tau"),)
        v_rest = 0.0 if kind == "IF" else get("v_leak")
        options = self._read_reset(name, v_rest, get)
        threshold = self._read_threshold(name, v_rest, get)
        if kind == "IF":
            return options, r * self.dt, (np.ones(width), threshold)
        if kind == "CubaLIF":
            self._require(name, "v_leak", get("v_leak"), 0.0)
            gain = r * self.dt / get("tau_mem") * get("w_in") * self.dt / get("tau_syn")
            return options, gain, (decay("tau_syn"), decay("tau_mem"), threshold)
        metadata = node.metadata if self.metadata else {}
        options["input_gain"] = str(metadata.get("input_gain", "unit"))
        gain = r if options["input_gain"] == "ode" else r * self.dt / get("tau")
        return options, gain, (decay("tau"), threshold)

    def _read_reset(
        self, name: str, v_rest: float | np.ndarray, get: Callable[[str], np.ndarray]
    ) -> dict[str, PlainValue]:
        """Return the options of the neurons ``name`` for reset and time step.

        Args:
            name: The neurons.
            v_rest: The node's v_leak, or 0 if it has none.
            get: Returns a value of the node by key, [N].
        """
        metadata = self.nodes[name].metadata if self.metadata else {}
        reset = self.reset or str(metadata.get("reset", "zero"))
        if reset == "zero":
            self._require(name, "v_reset", get("v_reset"), v_rest)
        else:  # a spike subtracts v_threshold in some libraries, and v_threshold - v_leak in others
            self._require(name, "v_leak", np.asarray(v_rest), 0.0)
        return {"reset": reset, "dt": float(metadata.get("step_ms", 1e3 * self.dt))}

    def _read_threshold(
        self, name: str, v_rest: float | np.ndarray, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """Return the threshold relative to rest, [N]; the arguments are as for `_read_reset`."""
        threshold = get("v_threshold") - v_rest
        if not (threshold > 0.0).all():
            raise self._make_error(
                name, f"v_threshold - v_leak {threshold.min():g}", "above 0, so that a neuron rests"
            )
        if self.spike == "at":
            return threshold
        # a neuron here spikes at its threshold: the next larger number of 32 bits is the first above it
        return np.nextafter(threshold.astype(np.float32), np.float32(np.inf)).astype(np.float64)

    def _require(self, name: str, key: str, values: np.ndarray, allowed: float | np.ndarray) -> None:
        """Raise RegistryError unless the ``values`` of a node's ``key`` equal ``allowed``: a number, or the node's v_leak [N]."""
        if not np.array_equal(values, np.broadcast_to(allowed, values.shape)):
            wrong = values[values != allowed][0]
            text = "v_leak" if isinstance(allowed, np.ndarray) else f"{allowed:g}"
            raise self._make_error(name, f"{key} {wrong:g}", text)

    def _read_feedback(
        self, name: str, feedback_paths: list[list[str]], width: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the weights [D N, N] of the feedback of the neurons ``name``, and the sum of its biases [N]."""
        blocks: dict[int, np.ndarray] = {}
        constant: np.ndarray | None = None
        for path in feedback_paths:
            steps, weight, bias = self._read_feedback_path(name, path, width)
            if bias is not None:
                constant = bias + (0.0 if constant is None else constant)
            for step in np.unique(steps):
                chosen = (steps == step)[:, None] * weight.T
                blocks[1 + int(step)] = blocks.get(1 + int(step), 0.0) + chosen
        if not blocks:
            return None, None
        empty = np.zeros((width, width))
        return np.concatenate([blocks.get(d, empty) for d in range(1, max(blocks) + 1)]), constant

    def _read_feedback_path(
        self, name: str, path: list[str], width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return delay in steps [N], weight [N, N] and bias [N] of one path from the neurons ``name`` back to them."""
        delays = [each for each in path if _get_type_name(self.nodes[each]) == "Delay"]
        maps = path[len(delays) :]
        kinds = [_get_type_name(self.nodes[each]) for each in maps]
        if kinds not in ([], ["Affine"], ["Linear"]):
            raise self._make_error(
                name, f"feedback over {', '.join(path)}", "Delay, then one Affine or Linear"
            )
        delay, weight, bias = np.zeros(width), np.eye(width), None
        for each in delays:
            delay = delay + _expand(f"{each} (Delay): delay", _to_double(self.nodes[each].delay), width)
        for each in maps:
            weight = _to_double(self.nodes[each].weight)
            if weight.shape != (width, width):
                raise self._make_error(each, f"weight of shape {list(weight.shape)}", str([width, width]))
            bias = self._get_bias(each)
        steps = np.rint(delay / self.dt)
        if (np.abs(delay / self.dt - steps) > DELAY_TOLERANCE_STEPS).any():
            raise self._make_error(path[0], f"delay {delay.max():g} s", f"whole steps of {self.dt:g} s")
        if steps.min() < 0 or steps.max() >= MAX_DELAY:
            raise self._make_error(
                path[0], f"delays of {steps.min():g} to {steps.max():g} steps", f"0 to {MAX_DELAY - 1}"
            )
        return steps, weight, bias

    def _read_normaliser(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the divisor [O] of the diagonal map ``name``, which computes (x - mean) / divisor."""
        node = self.nodes[name]
        scale = 1.0 / np.diag(_to_double(node.weight))
        return -_to_double(node.bias) * scale, scale

    def _compute_digest(self) -> int:
        """Return 63 bits of a digest of all nodes and edges, and of the metadata of the nodes and of the file."""
        digest = hashlib.sha256(json.dumps(sorted(self.edges)).encode())
        _add_values(digest, "", self.metadata)
        for name, node in sorted(self.nodes.items()):
            digest.update(f"{name} {_get_type_name(node)}".encode())
            shapes = ("input_type", "output_type")  # nir derives them, each version in another form
            _add_values(digest, "", {key: x for key, x in vars(node).items() if key not in shapes})
        return int.from_bytes(digest.digest()[:8], "big") >> 1


def _add_values(digest: Any, path: str, values: Mapping[str, Any]) -> None:
    """Add numbers, arrays, texts, sequences and mappings in ``values`` to a ``digest``, each with its path."""
    for key, value in sorted(values.items()):
        name = f"{path}.{key}"
        if isinstance(value, Mapping):
            _add_values(digest, name, value)
        elif isinstance(value, str | bytes):
            digest.update(f"{name} {value!r}".encode())
        elif isinstance(value, np.ndarray | np.generic | int | float | tuple | list):
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())


def _check_finite(path: str, values: Mapping[str, Any]) -> None:
    """Raise RegistryError if a number or an array among the ``values`` at ``path`` is not finite in float32."""
    for key, value in values.items():
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
            if not (np.abs(value) <= MAX_FLOAT32).all():
                raise RegistryError(f"{path}.{key} is not finite in float32")


def _expand(path: str, values: np.ndarray, count: int) -> np.ndarray:
    """Return the ``values`` at ``path`` as ``count`` values; a single one is repeated. Raises RegistryError for another number."""
    if values.size not in (1, count):
        raise RegistryError(f"{path} of {values.size} values given; allowed: 1 or {count}")
    return np.broadcast_to(values.reshape(-1), (count,))


def _get_type_name(node: Any) -> str:
    return type(node).__name__


def _to_double(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _to_decimal(values: Any) -> np.ndarray:
    """Return ``values`` in double precision; a number of 32 bits becomes its shortest decimal, so that 0.002 stays 0.002."""
    values = np.asarray(values)
    return values.astype(str).astype(np.float64) if values.dtype == np.float32 else _to_double(values)


def _read_codec(key: str, text: str) -> PlainValue:
    """Return the settings of a codec in our own metadata. Raises RegistryError if they name code outside the package."""
    settings: PlainValue = json.loads(text)
    require_no_code(f"metadata.{key}", settings)
    return settings
