"""Integer arithmetic of quantised policies, written once: on torch's tensors it runs, on symbols it prints itself as C.

A value is a tensor of int64, or a `Term`, the C expression of an int32_t. Results are clamped where 32 bits could overflow, so both are
equal to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spiky_rl.deploy import _c_term
from spiky_rl.deploy._c_term import Term

NARROW_LIMIT, WIDE_LIMIT = 2**15 - 1, 2**29
"""Largest absolute value of a state in 16 and in 32 bits. The second leaves room for the sums of a step below 2^31."""
CURRENT_LIMIT, SUM_LIMIT = 2**28, 2**29
"""Largest current of a step in a membrane's unit, and largest sum of weights times graded inputs. Sums of both do not overflow."""
DECAY_BITS = {False: 15, True: 30}
"""Fraction bits of a decay factor, by whether its state is wide (32 bits)."""
ACTIVITY_BITS = 15
"""Fraction bits of the activity of a receptive field; 2^ACTIVITY_BITS is 1."""

type Integer = Tensor | Term | int


def name(x: Any, called: str) -> Any:
    """Return ``x``; in C declare it as ``called`` and return that."""
    if isinstance(x, Tensor):
        return x
    x.lines.append(f"const int32_t {called} = {x.text};")
    return x.make(called)


def as_integer(condition: Any) -> Any:
    """Return 1 where the ``condition`` holds, else 0."""
    return condition.long() if isinstance(condition, Tensor) else condition


def is_equal(x: Any, y: Any) -> Any:
    """Return 1 where ``x`` is ``y``, else 0."""
    return (x == y).long() if isinstance(x, Tensor) else x.infix("==", y, 2)


def select(condition: Any, x: Any, y: Integer) -> Any:
    """Return ``x`` where the ``condition`` holds or is 1, else ``y``."""
    if isinstance(condition, Tensor):
        return torch.where(condition.bool(), x, y)  # type: ignore[arg-type]
    return _c_term.select(condition, x, y)  # type: ignore[arg-type]


def clamp(x: Any, limit: int) -> Any:
    """Return ``x``, at most ``limit`` in size."""
    return x.clamp(-limit, limit) if isinstance(x, Tensor) else x.call("clamped", limit)


def take_absolute(x: Any) -> Any:
    """Return the absolute value of a named ``x``."""
    return x.abs() if isinstance(x, Tensor) else x.make(f"({x.text} < 0 ? -{x.text} : {x.text})")


def shift(x: Any, bits: int) -> Any:
    """Return ``x`` / 2^``bits``, rounded to the nearest, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def multiply(x: Any, factor: Any, bits: int, limit: int) -> Any:
    """Return ``x`` * ``factor`` / 2^``bits`` by a product of 64 bits, rounded and clamped to ``limit``."""
    if isinstance(x, Tensor):
        return shift(x * factor, bits).clamp(-limit, limit)
    return x.call("multiplied", factor, bits, limit)


def decay(x: Any, factor: Integer, wide: bool, bits: int | None = None) -> Any:
    """Return ``x`` * ``factor`` / 2^``bits``, by default those of a decay, rounded; ``wide``: whether the product needs 64 bits."""
    bits = DECAY_BITS[wide] if bits is None else bits
    return multiply(x, factor, bits, WIDE_LIMIT) if wide else shift(x * factor, bits)


def scale_by_power(x: Any, bits: Integer) -> Any:
    """Return ``x`` * 2^``bits``; rounded if bits are negative, else clamped before the shift."""
    if not isinstance(x, Tensor):
        return x.call("scaled", bits)
    assert isinstance(bits, Tensor)
    up, down = bits.clamp(min=0), (-bits).clamp(min=0)
    limit = CURRENT_LIMIT >> up
    half = torch.where(down > 0, 1 << (down - 1).clamp(min=0), 0)
    return torch.where(down > 0, (x + half) >> down, x.clamp(-limit, limit) << up)


def divide(x: Any, y: Integer, bits: int, limit: int) -> Any:
    """Return ``x`` * 2^``bits`` / ``y``, towards 0, clamped to ``limit``; ``y`` > 0."""
    if isinstance(x, Tensor):
        return torch.div(x << bits, y, rounding_mode="trunc").clamp(-limit, limit)  # type: ignore[arg-type]
    return x.call("divided", y, bits, limit)


def interpolate(position: Any, table: Integer, bits: int) -> Any:
    """Return the value at ``position`` / 2^``bits`` of a ``table`` of integers, between two entries linearly.

    ``position`` must not be negative, and be below the last entry.
    """
    if not isinstance(position, Tensor):
        return position.call("interpolated", table, bits)
    assert isinstance(table, Tensor)
    table, i = table.to(position.device), position >> bits
    return table[i] + (((table[i + 1] - table[i]) * (position - (i << bits))) >> bits)


def send_change(x: Any, reference: Any, threshold: Any) -> tuple[Any, Any]:
    """Return the change of ``x`` from ``reference`` if it reaches the ``threshold``, else 0, and the new reference."""
    change = name(x - reference, "change")
    event = name(select(take_absolute(change) >= threshold, change, 0), "event")
    return event, reference + event


def fill(x: Any, value: int) -> Any:
    """Return ``value`` in the shape of ``x``."""
    return torch.full_like(x, value) if isinstance(x, Tensor) else x.make(str(value))


def clip(x: Any, limit: float) -> Any:
    """Return the float ``x``, at most ``limit`` in size."""
    return x.clamp(-limit, limit) if isinstance(x, Tensor) else x.call("observed", limit)


def round_clamped(x: Any, limit: int) -> Any:
    """Round floats ``x`` to the nearest integers, halves away from 0, clamped to ``limit``; NaN gives 0."""
    if not isinstance(x, Tensor):
        return x.call("whole", float(limit))
    x = x.nan_to_num(nan=0.0, posinf=float(limit), neginf=-float(limit)).clamp(-limit, limit)
    return (x + torch.where(x < 0, -0.5, 0.5)).trunc().long()


def integer_matmul(signal: Tensor, weight: Tensor) -> Tensor:
    """Return the product of integers ``signal`` [B, C] and ``weight`` [C, N]; computed in float64, which is exact here. Only in torch."""
    return (signal.double() @ weight.double()).long()
