"""Parts of an ANN in C: activations, GRU and LSTM, and the mapping of a policy's features to its action and to commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spiky_rl.deploy._c_memory import Declarations
from spiky_rl.deploy._commands import CommandMap
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import get_class_name
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.action_bounds import ActionBounds

if TYPE_CHECKING:
    from spiky_rl.deploy._c_network import NetworkWriter, Signal

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
PLAIN_DISTRIBUTIONS = (
    "GaussianDistribution",
    "HeteroscedasticGaussianDistribution",
    "CategoricalDistribution",
)
"""Distributions whose action is the first features."""
LARGEST = 3.4028234663852886e38
"""Largest float."""


def format_activation(module: nn.Module, x: str, use_function: Callable[[str], str]) -> str:
    """Return the C expression of an activation of ``x``. Raises ExportError if the ``module`` has no form in C.

    Args:
        module: The activation.
        x: C expression without side effects.
        use_function: Adds a helper function to the file and returns its name.
    """
    kind, settings = type(module), vars(module)

    def number(name: str) -> str:
        return format_literal(float(settings[name]))

    def exponential_below(scale: str, argument: str) -> str:
        return f"{x} > 0.0f ? {x} : {scale} * {use_function('exponential_less_one')}({argument})"

    if kind is nn.ELU:
        return exponential_below(number("alpha"), x)
    if kind is nn.CELU:
        return exponential_below(number("alpha"), f"{x} / {number('alpha')}")
    if kind is nn.SELU:
        return f"{format_literal(SELU_SCALE)} * ({exponential_below(format_literal(SELU_ALPHA), x)})"
    if kind is nn.ReLU:
        return f"{x} > 0.0f ? {x} : 0.0f"
    if kind is nn.LeakyReLU:
        return f"{x} > 0.0f ? {x} : {x} * {number('negative_slope')}"
    if kind is nn.Tanh:
        return f"{use_function('hyperbolic_tangent')}({x})"
    if kind is nn.Sigmoid:
        return f"{use_function('logistic')}({x})"
    if kind is nn.SiLU:
        return f"{x} * {use_function('logistic')}({x})"
    if kind is nn.Mish:
        return f"{x} * {use_function('hyperbolic_tangent')}({use_function('soft_plus')}({x}))"
    if kind is nn.GELU and settings["approximate"] == "none":
        return f"{use_function('gaussian_unit')}({x})"
    if kind is nn.Softplus and (settings["beta"], settings["threshold"]) == (1.0, 20.0):
        return f"{use_function('soft_plus')}({x})"
    raise ExportError(f"agent.actor.activation: {kind.__name__} given; it has no form in C")


def write_recurrent(writer: NetworkWriter, rnn: nn.GRU | nn.LSTM, signal: Signal) -> Signal:
    """Write one step of recurrent layers and return the output of the last one."""
    size, is_gru = rnn.hidden_size, isinstance(rnn, nn.GRU)
    gates = (3 if is_gru else 4) * size
    logistic, tanh = (writer.memory.use_function(name) for name in ("logistic", "hyperbolic_tangent"))
    for layer in range(rnn.num_layers):
        writer.comment(f"{type(rnn).__name__} layer {layer}: {size} units", writer.last)
        state = writer.memory.add_field("float", f"rnn_hidden_{layer}", size, "hidden state", True)
        inputs, back = (
            writer.memory.add_field("float", f"gates_{name}", gates, f"terms of the gates from the {name}")
            for name in ("input", "state")
        )
        for name, source, target in (("ih", signal, inputs), ("hh", type(signal)(state, size, False), back)):
            weight, bias = getattr(rnn, f"weight_{name}_l{layer}"), getattr(rnn, f"bias_{name}_l{layer}")
            writer.last += writer.format_product(
                f"rnn_{name}_l{layer}_weight", weight.t(), bias, source, target
            )

        def gate(function: str, i: int, terms: tuple[str, str] = (inputs, back)) -> str:
            place = f"{i * size} + n" if i else "n"
            return f"{function}({' + '.join(f'{term}[{place}]' for term in terms)})"

        if is_gru:
            new = f"{tanh}({inputs}[{2 * size} + n] + r * {back}[{2 * size} + n])"
            lines = [f"const float r = {gate(logistic, 0)}, z = {gate(logistic, 1)}, candidate = {new};",
                     f"{state}[n] = (1.0f - z) * candidate + z * {state}[n];"]  # fmt: skip
        else:
            cell = writer.memory.add_field("float", f"rnn_cell_{layer}", size, "cell state", True)
            lines = [f"const float in = {gate(logistic, 0)}, keep = {gate(logistic, 1)}, out = {gate(logistic, 3)};",
                     f"{cell}[n] = keep * {cell}[n] + in * {gate(tanh, 2)};",
                     f"{state}[n] = out * {tanh}({cell}[n]);"]  # fmt: skip
        writer.last.append(writer.format_loop(size, *lines))
        signal = type(signal)(state, size, False)
    return signal


def write_action(writer: NetworkWriter, distribution: Any, raw: str, actions: int) -> None:
    """Write the result of a control step.

    Args:
        writer: The statements of the control step.
        distribution: The policy's distribution of actions, or None.
        raw: C expression of the policy's action n.
        actions: Number of actions.
    """
    commands = get_commands(distribution)
    if commands is None:
        writer.last.append(writer.format_loop(actions, f"action[n] = {raw};"))
        return
    limited = _format_limits(commands.limit, raw, writer.memory)
    if not commands.units:
        text = f"action[n] = {_format_command(commands, limited, writer.memory)};"
        writer.last.append(writer.format_loop(actions, text))
        return
    held = writer.memory.add_field(
        "float",
        "raw_action",
        actions,
        "action before scale, offset and clip: the environment's last action",
        is_output=True,
    )
    command = _format_command(commands, f"{held}[n]", writer.memory)
    writer.last.append(writer.format_loop(actions, f"{held}[n] = {limited};", f"action[n] = {command};"))


def get_commands(distribution: Any) -> CommandMap | None:
    """Return the mapping of a ``distribution``'s actions to commands; None if they stay as they are."""
    bounds = getattr(distribution, "bounds", None)
    return CommandMap.from_bounds(bounds) if isinstance(bounds, ActionBounds) else bounds


def format_action(distribution: Any, features: str, actions: int, memory: Declarations) -> str:
    """Return the C expression of the policy's action n from the array ``features``. Raises ExportError if it has no form in C.

    Args:
        distribution: The policy's distribution of actions, or None.
        features: C expression of the network's output.
        actions: Number of actions.
        memory: Declarations of the file.
    """
    if distribution is None:
        return f"{features}[n]"
    kind = get_class_name(distribution)
    if kind == "BoundedDistribution":
        return format_action(distribution.inner, features, actions, memory)
    if kind in PLAIN_DISTRIBUTIONS:
        return f"{features}[n]"
    if kind == "TanhDistribution":
        return f"{memory.use_function('hyperbolic_tangent')}({features}[n])"
    if kind == "BetaDistribution":
        module = distribution.as_deterministic_output_module()
        scale, offset = format_literal(module.range_scale), format_literal(module.range_offset)
        ratio = f"{memory.use_function('beta_mean')}({features}[n], {features}[{actions} + n])"
        return f"{ratio} * {scale} + {offset}"
    known = ", ".join((*PLAIN_DISTRIBUTIONS, "BetaDistribution", "TanhDistribution"))
    raise ExportError(f"agent.actor.distribution_cfg.class_name: {kind} given; allowed for c: {known}")


def _format_limits(limit: Tensor, x: str, memory: Declarations) -> str:
    """Return the C expression of ``x``, at most ``limit`` [A] in size."""
    if limit.isinf().all():
        return x
    bound = memory.format_element("action_limit", limit.clamp(max=LARGEST))
    larger, smaller = memory.use_function("larger"), memory.use_function("smaller")
    return f"{smaller}({larger}({x}, -{bound}), {bound})"


def _format_command(commands: CommandMap, x: str, memory: Declarations) -> str:
    """Return the C expression of the command of the limited action ``x``."""
    if (commands.scale != 1.0).any():
        x = f"{x} * {memory.format_element('action_scale', commands.scale)}"
    if (commands.offset != 0.0).any():
        x = f"{x} + {memory.format_element('action_offset', commands.offset)}"
    if commands.low.isinf().all() and commands.high.isinf().all():
        return x
    low = memory.format_element("action_low", commands.low.clamp(min=-LARGEST))
    high = memory.format_element("action_high", commands.high.clamp(max=LARGEST))
    larger, smaller = memory.use_function("larger"), memory.use_function("smaller")
    return f"{smaller}({larger}({x}, {low}), {high})"


def get_observation_scale(normalizer: Any) -> tuple[Tensor, Tensor, float] | None:
    """Return mean and divisor [O] of the observations, and the bound of the result; None if they are not normalised."""
    if isinstance(normalizer, nn.Identity):
        return None
    mean, divisor = normalizer.mean.detach().cpu(), (normalizer.std + normalizer.eps).detach().cpu()
    return mean, divisor, getattr(normalizer, "bound", float("inf"))
