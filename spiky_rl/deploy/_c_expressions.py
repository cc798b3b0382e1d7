"""Elementwise operations as C expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spiky_rl.deploy._program import ExportError, Value, ValueView
from spiky_rl.kernels.emit import format_literal

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "eq": "==",
    "ne": "!=",
}
INFIX |= {"bitwise_and": "&&", "bitwise_or": "||"}
# operations that call a function of `_c_functions.FUNCTIONS`
CALLS = {"abs": "absolute", "maximum": "larger", "minimum": "smaller", "round": "nearest"}
CALLS |= {name: name for name in ("exp", "expm1", "log1p", "tanh", "tan", "sqrt", "sigmoid", "trunc", "floor", "ceil")}  # fmt: skip
GELU = {"none": "gelu", "tanh": "gelu_by_tanh"}
"""Functions of `_c_functions.FUNCTIONS` by torch's name of the approximation."""


def format_expression(value: Value, terms: list[str], function: Callable[[str], str]) -> str:
    """Return the C expression of one element of a pointwise ``value``.

    Args:
        terms: C expressions of its operands.
        function: Adds a function of `_c_functions.FUNCTIONS` to the file and returns its name in C.
    """
    name = value.operation
    if name in INFIX:
        return f"{terms[0]} {INFIX[name]} {terms[1]}"
    if name in CALLS:
        return f"{function(CALLS[name])}({', '.join(terms)})"
    if name == "_to_copy":
        source = value.operands[0]
        boolean = isinstance(source, ValueView) and source.value.boolean
        if value.boolean:
            return terms[0] if boolean else f"{terms[0]} != 0.0f"
        return f"{terms[0]} ? 1.0f : 0.0f" if boolean else terms[0]
    if name == "where":
        return f"{terms[0]} ? {terms[1]} : {terms[2]}"
    if name in ("clamp", "hardtanh"):
        low, high = terms[1:]
        inner = f"{function('larger')}({terms[0]}, {low})" if low else terms[0]
        return f"{function('smaller')}({inner}, {high})" if high else inner
    if name == "pow" and value.operands[1] in (2, 3):
        return " * ".join([terms[0]] * int(value.operands[1]))  # type: ignore[arg-type]
    if name == "elu":
        alpha, scale, inside = (np.float32(x) for x in value.operands[1:])  # type: ignore[arg-type]
        below = scale_expression(f"{function('expm1')}({scale_expression(terms[0], inside)})", alpha * scale)
        return f"{terms[0]} > 0.0f ? {scale_expression(terms[0], scale)} : {below}"
    if name == "leaky_relu":
        return f"{terms[0]} > 0.0f ? {terms[0]} : {terms[0]} * {terms[1]}"
    if name == "gelu":
        return f"{function(GELU[value.settings['approximate']])}({terms[0]})"
    fixed = {"neg": f"-{terms[0]}", "relu": f"{terms[0]} > 0.0f ? {terms[0]} : 0.0f", "reciprocal": f"1.0f / {terms[0]}",
             "logical_not": f"!{terms[0]}", "bitwise_not": f"!{terms[0]}", "isnan": f"{terms[0]} != {terms[0]}"}  # fmt: skip
    if name in fixed:
        return fixed[name]
    raise ExportError(f"{value.place}: torch's operation {name!r} has no C form with these arguments")


def scale_expression(x: str, factor: np.float32) -> str:
    """Return the C expression of ``x`` times ``factor``, or ``x`` if the factor is 1."""
    return x if factor == 1 else f"{x} * {format_literal(float(factor))}"
