"""Parts of an ANN in C: activations, GRU and LSTM, and the mapping of a policy's features to its action and to commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from spiky_rl.deploy._c_writer import CWriter, Signal
from spiky_rl.deploy._commands import CommandMap
from spiky_rl.deploy.base import ExportError, get_class_name
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.action_bounds import ActionMap

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.CELU: "{x} > 0.0f ? {x} : {alpha} * exponential_less_one({x} / {alpha})",
    nn.ELU: "{x} > 0.0f ? {x} : {alpha} * exponential_less_one({x})",
    nn.GELU: "gaussian_unit({x})",
    nn.LeakyReLU: "{x} > 0.0f ? {x} : {x} * {negative_slope}",
    nn.Mish: "{x} * hyperbolic_tangent(soft_plus({x}))",
    nn.ReLU: "{x} > 0.0f ? {x} : 0.0f",
    nn.SELU: "1.0507010221481323f * ({x} > 0.0f ? {x} : 1.6732631921768188f * exponential_less_one({x}))",
    nn.Sigmoid: "logistic({x})",
    nn.SiLU: "{x} * logistic({x})",
    nn.Softplus: "soft_plus({x})",
    nn.Tanh: "hyperbolic_tangent({x})",
}
"""Activations of {x} in C, with the numbers that a module has as attributes."""
REQUIRED_SETTINGS = {nn.GELU: {"approximate": "none"}, nn.Softplus: {"beta": 1.0, "threshold": 20.0}}
"""Settings without which an activation has no form in C."""
PLAIN_DISTRIBUTIONS = (
    "GaussianDistribution",
    "HeteroscedasticGaussianDistribution",
    "CategoricalDistribution",
)
"""Distributions whose action is the first features."""
MAX_FLOAT = 3.4028234663852886e38
"""Largest float."""


def format_activation(module: nn.Module, x: str, use_function: Callable[[str], str]) -> str:
    """Return the C expression of an activation of ``x``. Raises ExportError if the ``module`` has no form in C.

    Args:
        module: The activation.
        x: C expression without side effects.
        use_function: Adds a helper function to the file and returns its name.
    """
    kind, settings = type(module), vars(module)
    if kind not in ACTIVATIONS or not REQUIRED_SETTINGS.get(kind, {}).items() <= settings.items():
        raise ExportError(f"agent.actor.activation: {kind.__name__} given; it has no form in C")
    for function in re.findall(r"(\w+)\(", ACTIVATIONS[kind]):
        use_function(function)
    numbers = {
        name: format_literal(value) for name, value in settings.items() if isinstance(value, int | float)
    }
    return ACTIVATIONS[kind].format(x=x, **numbers)


def write_mlp(w: CWriter, path: str, modules: Iterable[nn.Module], signal: Signal) -> Signal:
    """Write linear maps and activations after the inner steps, and return the output."""
    for i, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            name = f"{path}_{i}"
            array = w.add_scratch(name, module.out_features, f"output of {name}")
            w.write_product(w.last, f"{name}_weight", module.weight.t(), module.bias, signal, array)
            signal = Signal(array, module.out_features)
        elif not isinstance(module, nn.Unflatten | nn.Identity):
            text = format_activation(module, f"{signal.array}[n]", w.use_function)
            w.write_loop(w.last, "n", signal.width, f"{signal.array}[n] = {text};")
    return signal


def write_recurrent(w: CWriter, rnn: nn.GRU | nn.LSTM, signal: Signal) -> Signal:
    """Write one step of recurrent layers and return the output of the last one."""
    size, is_gru = rnn.hidden_size, isinstance(rnn, nn.GRU)
    gates = (3 if is_gru else 4) * size
    logistic, tanh = w.use_function("logistic"), w.use_function("hyperbolic_tangent")
    for layer in range(rnn.num_layers):
        w.write_comment(f"{type(rnn).__name__} layer {layer}: {size} units", w.last)
        state = w.add_state(f"rnn_hidden_{layer}", size, "hidden state")
        inputs = w.add_scratch("gates_input", gates, "terms of the gates from the input")
        back = w.add_scratch("gates_state", gates, "terms of the gates from the state")
        for name, source, target in (("ih", signal, inputs), ("hh", Signal(state, size), back)):
            weight, bias = getattr(rnn, f"weight_{name}_l{layer}"), getattr(rnn, f"bias_{name}_l{layer}")
            w.write_product(w.last, f"rnn_{name}_l{layer}_weight", weight.t(), bias, source, target)

        def gate(function: str, i: int, terms: tuple[str, str] = (inputs, back)) -> str:
            index = f"{i * size} + n" if i else "n"
            return f"{function}({' + '.join(f'{term}[{index}]' for term in terms)})"

        if is_gru:
            new = f"{tanh}({inputs}[{2 * size} + n] + r * {back}[{2 * size} + n])"
            lines = [
                f"const float r = {gate(logistic, 0)}, z = {gate(logistic, 1)}, candidate = {new};",
                f"{state}[n] = (1.0f - z) * candidate + z * {state}[n];",
            ]
        else:
            cell = w.add_state(f"rnn_cell_{layer}", size, "cell state")
            keep, out = f"keep = {gate(logistic, 1)}", f"out = {gate(logistic, 3)}"
            lines = [
                f"const float in = {gate(logistic, 0)}, {keep}, {out};",
                f"{cell}[n] = keep * {cell}[n] + in * {gate(tanh, 2)};",
                f"{state}[n] = out * {tanh}({cell}[n]);",
            ]
        w.write_loop(w.last, "n", size, *lines)
        signal = Signal(state, size)
    return signal


def write_action(w: CWriter, commands: ActionMap | None, raw: str, actions: int) -> None:
    """Write the result of a control step: ``commands`` of the C expression ``raw`` of action n, of which there are ``actions``.

    ``commands`` is None if actions stay as they are.
    """
    lines = []
    if commands is not None:
        raw = _format_limits(commands.limit, raw, w)
        if isinstance(commands, CommandMap):
            text = "action before scale, offset and clip: the environment's last action"
            output = f"{w.add_output('raw_action', actions, text)}[n]"
            lines, raw = [f"{output} = {raw};"], output
        raw = _format_command(commands, raw, w)
    w.write_loop(w.last, "n", actions, *lines, f"action[n] = {raw};")


def format_action(distribution: Any, features: str, actions: int, w: CWriter) -> str:
    """Return the C expression of the policy's action n from the array ``features``. Raises ExportError if it has no form in C.

    Args:
        distribution: The policy's distribution of actions.
        features: C expression of the network's output.
        actions: Number of actions.
        w: Writer of the file.
    """
    kind = get_class_name(distribution)
    if kind == "ConvertedDistribution":
        return format_action(distribution.inner, features, actions, w)
    if kind in PLAIN_DISTRIBUTIONS:
        return f"{features}[n]"
    if kind == "TanhDistribution":
        return f"{w.use_function('hyperbolic_tangent')}({features}[n])"
    if kind == "BetaDistribution":
        module = distribution.as_deterministic_output_module()
        scale, offset = format_literal(module.range_scale), format_literal(module.range_offset)
        ratio = f"{w.use_function('beta_mean')}({features}[n], {features}[{actions} + n])"
        return f"{ratio} * {scale} + {offset}"
    known = ", ".join((*PLAIN_DISTRIBUTIONS, "BetaDistribution", "TanhDistribution"))
    raise ExportError(f"agent.actor.distribution_cfg.class_name: {kind} given; allowed for c: {known}")


def _format_limits(limit: Tensor, x: str, w: CWriter) -> str:
    """Return the C expression of ``x``, at most ``limit`` [A] in size."""
    if limit.isinf().all():
        return x
    bound = w.format_element("action_limit", limit.clamp(max=MAX_FLOAT))
    return _format_clamp(x, f"-{bound}", bound, w)


def _format_command(commands: ActionMap, x: str, w: CWriter) -> str:
    """Return the C expression of the command of the limited action ``x``."""
    if (commands.scale != 1.0).any():
        x = f"{x} * {w.format_element('action_scale', commands.scale)}"
    if (commands.middle != 0.0).any():
        x = f"{x} + {w.format_element('action_offset', commands.middle)}"
    if commands.clips:
        low = w.format_element("action_low", commands.low.clamp(min=-MAX_FLOAT))
        high = w.format_element("action_high", commands.high.clamp(max=MAX_FLOAT))
        x = _format_clamp(x, low, high, w)
    return f"{w.use_function('nearest')}({x})" if commands.rounds else x


def _format_clamp(x: str, low: str, high: str, w: CWriter) -> str:
    return f"{w.use_function('smaller')}({w.use_function('larger')}({x}, {low}), {high})"
