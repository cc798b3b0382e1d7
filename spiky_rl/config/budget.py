"""Training budgets in environment steps, seconds or synaptic operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

from spiky_rl.config.options import RegistryError, error_path, suggest_name

KINDS = {
    "env_steps": "environment steps",
    "wall": "seconds of simulation, inference and learning",
    "synops": "effective synaptic operations of the actor in its rollouts",
}
"""Kind of budget -> its unit."""

MAX_AMOUNT = {"env_steps": 1e15, "wall": 1e9, "synops": 1e24}
"""Kind -> largest amount: decades of computing time."""


@dataclass(frozen=True)
class Budget:
    """Amount of one of `KINDS`. Training ends after the first iteration that reaches it."""

    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:.12g}"

    @property
    def text(self) -> str:
        """Amount and unit in words."""
        amount = round(self.amount) if self.amount >= 1000 else self.amount
        return f"{amount:,.12g} {KINDS[self.kind]}"

    def to_iterations(self, steps: int, used: int = 0) -> int | None:
        """Return the number of iterations of ``steps`` environment steps, or None if the budget is not in steps.

        ``used`` environment steps were spent before; the result is 0 or less if they were all.
        """
        return math.ceil((self.amount - used) / steps) if self.kind == "env_steps" else None

    def compute_share(self, env_steps: int, seconds: float, operations: float) -> float:
        """Return the used share of the budget; 1 or more if it is spent."""
        used = {"env_steps": env_steps, "wall": seconds, "synops": operations}
        return used[self.kind] / self.amount


def parse_budget(data: object, path: str = "") -> Budget:
    """Parse ``KIND=AMOUNT``, such as ``env_steps=1e6``, or ``{KIND: AMOUNT}``. Raises RegistryError naming ``path``."""
    if isinstance(data, str):
        kind, _, amount = data.partition("=")
        data = {kind: amount or None}
    with error_path(path):
        if not isinstance(data, dict) or len(data) != 1:
            raise RegistryError(f"expected one KIND=AMOUNT, got {data!r}")
        ((kind, amount),) = data.items()
        if kind not in KINDS:
            raise RegistryError(
                f"{kind!r} is not a kind of budget; choose from {', '.join(KINDS)}{suggest_name(kind, KINDS)}"
            )
        return Budget(kind, _parse_amount(kind, amount))


def _parse_amount(kind: str, amount: object) -> float:
    """Return the ``amount`` of a budget as a number. Raises RegistryError unless it is above zero, or one step, and at most `MAX_AMOUNT`."""
    try:
        number = float(str(amount))
    except ValueError:
        number = math.nan
    if number > MAX_AMOUNT[kind]:
        raise RegistryError(f"{kind}: at most {MAX_AMOUNT[kind]:g} {KINDS[kind]}; got {amount!r}")
    if kind == "env_steps" and 0 < number < 1:
        raise RegistryError(f"{kind}: at least 1 step; got {amount!r}")
    if not number > 0:  # nor NaN
        raise RegistryError(f"{kind}: expected an amount above zero, as in {kind}=1e6; got {amount!r}")
    return number


def read_budget(value: object) -> Budget | None:
    """Return a budget from any of its forms: `Budget`, ``KIND=AMOUNT``, {KIND: AMOUNT} or {kind: KIND, amount: AMOUNT}.

    None if ``value`` is None.
    """
    if isinstance(value, Mapping) and set(value) == {"kind", "amount"}:
        value = {value["kind"]: value["amount"]}
    return value if value is None or isinstance(value, Budget) else parse_budget(value)


OptionalBudget = Annotated[Budget | None, BeforeValidator(read_budget, json_schema_input_type=str | None)]
"""Type of an option that holds a budget or None."""
