"""Reader of a file of ``export.py --to nir``: a policy from its nodes and metadata. No code of the file is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spiky_rl.config import registry
from spiky_rl.config.registry import ComponentSpec, UserError
from spiky_rl.deploy._nir_policy import ConvGeometry, NirPolicy, NirStage
from spiky_rl.deploy._nir_write import LAYOUT
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.launch import RecurrentFeedback

if TYPE_CHECKING:
    from nir import LIF, Affine, Conv2d, Linear, NIRGraph

CHAIN = ("Input", "Affine", "Conv2d", "AvgPool2d", "Flatten", "LIF", "Linear", "Output")


def read_policy(path: Path | str) -> NirPolicy:
    """Read the policy in the file ``path``.

    Raises UserError if the file is not a NIR file, was not written by ``export.py``, or is damaged.
    """
    try:
        import nir
    except ImportError:
        raise UserError(f"{path}: nir is not installed; install it with: pip install nir") from None
    try:
        graph = nir.read(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, KeyError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise UserError(f"{path}: not a NIR file: {' '.join(str(error).split())[:200]}") from None
    said = graph.metadata
    if said.get("producer") != "spiky_rl" or int(said.get("layout", 0)) != LAYOUT:
        raise UserError(f"{path}: not written by export.py --to nir (metadata layout {LAYOUT})")
    try:
        return _build_policy(graph)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, StopIteration) as error:
        raise UserError(
            f"{path}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None


def _build_policy(graph: NIRGraph) -> NirPolicy:
    said, nodes = graph.metadata, dict[str, Any](graph.nodes)
    for name, node in nodes.items():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{name}.{key} is not finite")
    chain, back = _find_chain(graph)
    stages: list[NirStage] = []
    normalisation, link, pool, flat = None, None, 1, None
    for name, following in zip(chain, [*chain[1:], ""], strict=True):
        node, kind = nodes[name], type(nodes[name]).__name__
        if kind == "Affine" and not stages and type(nodes[following]).__name__ != "LIF":
            scale = 1.0 / np.diag(node.weight)
            normalisation = _to_float32(-node.bias * scale), _to_float32(scale)
        elif kind in ("Affine", "Conv2d"):
            link = node
        elif kind == "AvgPool2d":
            pool = int(node.kernel_size[0])
        elif kind == "LIF":
            stages.append(_build_stage(name, node, link, pool, back.get(name, []), float(said["dt"])))
            pool = 1
        elif kind == "Linear":
            flat = node
    assert flat is not None
    if "normaliser_mean" in said:
        normalisation = _to_float32(said["normaliser_mean"]), _to_float32(said["normaliser_scale"])
    inputs, steps = tuple(map(int, said["inputs"])), int(said["steps"])
    encoder = _configure_component("encoders", said["encoder"]).build(
        inputs=int(np.prod(inputs)), steps=steps
    )
    encoder.load_state_dict(
        {
            key: _to_float32(said[f"encoder_{key}"]).view_as(value)
            for key, value in encoder.state_dict().items()
        }
    )
    decoder = _configure_component("decoders", said["decoder"]).build(
        inputs=stages[-1].width, outputs=len(flat.weight)
    )
    decoder.backend, decoder.binary = dispatch.REFERENCE, True
    with torch.no_grad():
        decoder.readout.weight.copy_(_to_float32(flat.weight))
        decoder.readout.bias.copy_(_to_float32(said["decoder_bias"]))
    return NirPolicy(stages, encoder, decoder, normalisation, inputs, steps, bool(said["stateful"]))


def _configure_component(kind: str, text: str) -> ComponentSpec:
    """Return a component of this package. Raises ValueError if its settings name other code."""
    settings = json.loads(text)
    if ":" in text.replace('": ', ""):
        raise ValueError(f"{text} names code outside this package")
    return registry.configure(kind, settings, kind)


def _find_chain(graph: NIRGraph) -> tuple[list[str], dict[str, list[tuple[int, Linear]]]]:
    """Return the nodes from input to output, and the recurrent connections of each `nir.LIF`: number of steps and node.

    Raises ValueError if the graph is not a chain with recurrent connections.
    """
    after: dict[str, list[str]] = {}
    for source, target in graph.edges:
        after.setdefault(source, []).append(target)
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    chain: list[str] = []
    nodes = dict[str, Any](graph.nodes)
    back: dict[str, list[tuple[int, Linear]]] = {}
    name = next(iter(graph.inputs))
    while True:
        if kinds[name] not in CHAIN or name in chain:
            raise ValueError(f"{name} ({kinds[name]}) is not in a chain from input to output")
        chain.append(name)
        ahead = []
        for target in after.pop(name, []):
            delay, link = 0.0, target
            if kinds[target] == "Delay":
                delay = float(nodes[target].delay.flat[0])
                link = _single_edge(after.pop(target))
            if kinds[name] == "LIF" and after.get(link) == [name]:
                steps = 1 + round(delay / float(graph.metadata["dt"]))
                back.setdefault(name, []).append((steps, nodes[link]))
                del after[link]
            else:
                ahead.append(target)
        if kinds[name] == "Output":
            break
        name = _single_edge(ahead)
    if after:
        raise ValueError(f"{', '.join(after)} are not in the chain from input to output")
    return chain, back


def _single_edge(names: list[str]) -> str:
    if len(names) != 1:
        raise ValueError(f"{len(names)} edges given; allowed: 1")
    return names[0]


def _build_stage(
    name: str, node: LIF, link: Affine | Conv2d | None, pool: int, back: list[tuple[int, Linear]], dt: float
) -> NirStage:
    """Build a layer.

    Args:
        link: The node that leads to them.
        pool: Side of the average pooling; 1 for none.
        back: Recurrent connections: number of steps and node.
        dt: Seconds per step in the file.
    """
    import nir

    if link is None:
        raise ValueError(f"{name} has no input")
    said, width = node.metadata, node.tau.size
    chosen = {
        "name": "lif",
        "reset": said["reset"],
        "input_gain": said["input_gain"],
        "dt": float(said["step_ms"]),
    }
    decay, gain = (1.0 - dt / node.tau).reshape(-1), node.r.reshape(-1)
    if said["input_gain"] == "unit":
        gain = gain * dt / node.tau.reshape(-1)
    maps = None
    if isinstance(link, nir.Conv2d):
        if link.input_shape is None:
            raise ValueError(f"the convolution before {name} has no input_shape")
        stride, padding = (tuple(int(side) for side in np.atleast_1d(x)) for x in (link.stride, link.padding))
        maps = ConvGeometry((link.weight.shape[1], *map(int, link.input_shape)), stride, padding, pool)
        weight, bias = _to_float32(link.weight * gain[0]), _to_float32(link.bias * gain[0])
    else:
        # the same memory layout as in the network: the weights of an event in a row, which decides the order of sums
        weight = _to_float32((link.weight * gain[:, None]).T).t()
        bias = _to_float32(link.bias * gain)
    feedback, synapses = None, None
    if returning := dict(back):
        feedback = RecurrentFeedback(max(returning), binary=True)
        blocks = [
            (returning[d].weight * gain[:, None]).T if d in returning else np.zeros((width, width))
            for d in range(1, max(returning) + 1)
        ]
        synapses = _to_float32(np.concatenate(blocks))
    params = _simplify(decay), _simplify(node.v_threshold.reshape(-1))
    neuron = registry.configure("neurons", chosen, name).build()
    return NirStage(weight, bias, maps, width, neuron, params, feedback, synapses)


def _simplify(values: np.ndarray) -> Tensor | float:
    """Return ``values`` as a tensor [N], or as a number if all are equal."""
    return _to_float32(values) if np.ptp(values) else float(values[0])


def _to_float32(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
