"""Checks of encoders, connections, decoders, penalties and learning rules from outside the package, on zeros when a network is built.

Without them a wrong shape appears in a kernel, far from the part that returned it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.modules import format_exception
from spiky_rl.config.options import RegistryError
from spiky_rl.config.registry import Component, is_foreign
from spiky_rl.connections.base import Connection, IntraLayerConnection
from spiky_rl.kernels import dispatch
from spiky_rl.penalties.base import Penalty, expand_factors

if TYPE_CHECKING:
    from spiky_rl.networks.feedforward import FeedForward

T, B = 2, 3
"""Control steps and environments of a check: unequal, so that exchanged dimensions are found."""


def check_encoder(name: str, encoder: Encoder, inputs: int, steps: int) -> None:
    """Raise RegistryError if an own ``encoder`` has no ``width``, or returns signals or states of wrong shapes."""
    if not is_foreign(name):
        return
    if (width := getattr(encoder, "width", None)) is None:
        raise RegistryError(
            f"encoder: {name}: no width given; allowed: a number of channels, set in __init__"
        )
    x, meaning = torch.zeros(T, B, inputs), "[T, K or 1, B, width]"
    shapes = [[T, steps, B, width], [T, 1, B, width]]
    with _run(name, "encoder", encoder):
        signal = copy.deepcopy(encoder)(x)
    _check_shape("encoder", name, signal, meaning, *shapes)
    zero_state = tuple(torch.zeros(B, size) for size in encoder.state_sizes)
    for state in (None, zero_state):
        with _run(name, "encoder", encoder):
            result = copy.deepcopy(encoder).encode_stateful(x, state, None)
        _check_pair("encoder", name, result, "encode_stateful", meaning, *shapes)
    with _run(name, "encoder", encoder):
        given = [list(part.shape) for part in result[1]]
    if given != (allowed := [[B, size] for size in encoder.state_sizes]):
        raise RegistryError(
            f"encoder: {name}: encode_stateful returned states of shapes {given}; allowed: [B, size] for each of state_sizes, here {allowed}"
        )


def check_connection(name: str, connection: Connection, inputs: int) -> None:
    """Raise RegistryError if an own ``connection`` from ``inputs`` values returns currents, weights or counts of wrong shapes."""
    if not is_foreign(name):
        return
    key = "recurrent" if isinstance(connection, IntraLayerConnection) else "connection"
    events = torch.zeros(T, 1, B, inputs)
    with _run(name, key, connection):
        counts, width = connection.operations(events), connection.width
    _check_shape(key, name, counts, "[T, K or 1, B]", [T, 1, B], method="operations")
    if isinstance(connection, IntraLayerConnection):
        with _run(name, key, connection):
            weights, rows = connection.synapses(), connection.delays * width
        _check_shape(key, name, weights, "[D N, N]", [rows, width], method="synapses")
    else:
        with _run(name, key, connection):
            current = copy.deepcopy(connection)(events, dispatch.REFERENCE, False, False)
        _check_shape(key, name, current, "[T, K or 1, B, N]", [T, 1, B, width])


def check_decoder(name: str, decoder: Decoder, steps: int, inputs: int, outputs: int) -> None:
    """Raise RegistryError if an own ``decoder`` returns something other than features [T, B, F] and a tuple of states."""
    if not is_foreign(name):
        return
    with _run(name, "decoder", decoder):
        result = copy.deepcopy(decoder)(torch.zeros(T, steps, B, inputs), None, None)
    _check_pair("decoder", name, result, "forward", "features [T, B, F]", [T, B, outputs])


def check_penalty(name: str, penalty: Penalty, widths: Sequence[int], fan_out: Sequence[float]) -> None:
    """Raise RegistryError if an own ``penalty`` returns a cost that is no scalar, or its own gradient in another shape than the rates.

    Elements of a cost would be summed silently, and a kernel reads the gradient by its address.
    """
    if not is_foreign(name):
        return
    penalty = copy.deepcopy(penalty)
    with _run(name, "sparsity", penalty):
        term = penalty.compute([torch.zeros(width) for width in widths], fan_out)
    _check_shape("sparsity", name, term, "a scalar", [], [1], method="compute")
    if type(penalty).compute_gradient is Penalty.compute_gradient:
        return
    with _run(name, "sparsity", penalty):
        factors = expand_factors(penalty, widths, fan_out)
        gradient = penalty.compute_gradient(torch.zeros(sum(widths)), factors, widths, fan_out)
    _check_shape(
        "sparsity", name, gradient, "the shape of rates [M]", [sum(widths)], method="compute_gradient"
    )


def check_rule(name: str, network: FeedForward, outputs: int) -> None:
    """Raise RegistryError if a hook of the own learning rule of a ``network`` with F = ``outputs`` returns another shape than it should."""
    if not (is_foreign(name) and network.learning.has_hooks):
        return
    rule, results = copy.deepcopy(network.learning), []
    with _run(name, "learning", rule):
        signal = copy.deepcopy(network.encoder)(torch.zeros(T, B, network.inputs))
    for layer in network.layers:
        with _run(name, "learning", rule):
            given = rule.on_layer_input(signal)
        _check_shape("learning", name, given, "the signal's shape", [*signal.shape], method="on_layer_input")
        zeros = torch.zeros(T, network.steps, B, layer.width)
        with _run(name, "learning", rule):
            signal = rule.on_layer_output(layer, signal, zeros, zeros, None)
        _check_shape("learning", name, signal, "[T, K, B, N]", [*zeros.shape], method="on_layer_output")
        results.append(signal)
    with _run(name, "learning", rule):
        result = rule.decode(copy.deepcopy(network.decoder), results, None, None)
    _check_pair("learning", name, result, "decode", "features [T, B, F]", [T, B, outputs])


def _check_pair(key: str, name: str, result: object, method: str, meaning: str, *shapes: list[int]) -> None:
    """Raise RegistryError if the ``result`` of ``method`` is not a pair of a tensor of one of the ``shapes`` and states."""
    if not (isinstance(result, tuple) and len(result) == 2):
        kind = type(result).__name__
        raise RegistryError(
            f"{key}: {name}: {method} returned a {kind}; allowed: a pair, {meaning} and states"
        )
    _check_shape(key, name, result[0], meaning, *shapes, method=method)


@contextmanager
def _run(name: str, key: str, part: Component) -> Iterator[None]:
    """Run code of an own ``part`` without gradients and without a change of the random generator; its exceptions become RegistryErrors."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    except Exception as error:  # pylint: disable=broad-exception-caught  # any error of the user's code
        line = format_exception(error, inspect.getsourcefile(type(part)))
        raise RegistryError(f"{key}: {name} fails on zeros: {line}") from error


def _check_shape(
    key: str, name: str, value: object, meaning: str, *shapes: list[int], method: str = "forward"
) -> None:
    """Raise RegistryError if the ``value`` that ``method`` returned is not a tensor of one of the ``shapes``."""
    given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if given not in shapes:
        allowed = f"{meaning}, here {' or '.join(map(str, shapes))}"
        raise RegistryError(f"{key}: {name}: {method} returned {given}; allowed: {allowed}")
