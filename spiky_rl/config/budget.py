"""Budgets of a training: environment steps, seconds or synaptic operations, spent in whole iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BeforeValidator

from spiky_rl.config.registry import RegistryError, suggest_name

KINDS = {
    "env_steps": "environment steps",
    "wall": "seconds of simulation, inference and learning",
    "synops": "effective synaptic operations of the actor in its rollouts",
}


MAX_AMOUNT = {"env_steps": 1e15, "wall": 1e9, "synops": 1e24}
"""Decades of any machine's time."""


class BudgetProgress(Protocol):
    """How far a training is, such as `spiky_rl.learners.common.runner.Progress`."""

    env_steps: int

    @property
    def seconds_total(self) -> float: ...  # pylint: disable=missing-function-docstring

    @property
    def total_operations(self) -> float: ...  # pylint: disable=missing-function-docstring


@dataclass(frozen=True)
class Budget:
    """An amount of one of `KINDS`; a training ends with the first iteration that reaches it."""

    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:.12g}"

    @property
    def text(self) -> str:
        """For people."""
        amount = round(self.amount) if self.amount >= 1000 else self.amount
        return f"{amount:,.12g} {KINDS[self.kind]}"

    def to_iterations(self, steps: int) -> int | None:
        """How many iterations of ``steps`` environment steps that is; None where only the run itself can tell."""
        return math.ceil(self.amount / steps) if self.kind == "env_steps" else None

    def compute_share(self, progress: BudgetProgress) -> float:
        """Share of the budget that is used up after this ``progress``, in [0, ...); 1 and more: all of it."""
        used = {
            "env_steps": lambda: progress.env_steps,
            "wall": lambda: progress.seconds_total,
            "synops": lambda: progress.total_operations,
        }
        return used[self.kind]() / self.amount


def parse_budget(data: object, path: str = "") -> Budget:
    """A budget from plain data. Raises RegistryError.

    Args:
        data: ``KIND=AMOUNT``, such as ``env_steps=1e6``, or ``{KIND: AMOUNT}``.
        path: Where it stands, for messages.
    """
    place = f"{path}: " if path else ""
    if isinstance(data, str):
        kind, _, amount = data.partition("=")
        data = {kind: amount or None}
    if not isinstance(data, dict) or len(data) != 1:
        raise RegistryError(f"{place}expected one KIND=AMOUNT, got {data!r}")
    ((kind, amount),) = data.items()
    if kind not in KINDS:
        raise RegistryError(
            f"{place}{kind!r} is no budget; choose from {', '.join(KINDS)}{suggest_name(kind, KINDS)}"
        )
    try:
        number = float(str(amount))
    except ValueError:
        number = math.nan
    if number > MAX_AMOUNT[kind]:
        raise RegistryError(f"{place}{kind}: at most {MAX_AMOUNT[kind]:g} {KINDS[kind]}; got {amount!r}")
    if not math.isfinite(number) or number <= 0:
        raise RegistryError(f"{place}{kind}: expected an amount above zero, as in {kind}=1e6; got {amount!r}")
    return Budget(kind, number)


def read_budget(value: object) -> Budget | None:
    """The budget that ``value`` stands for: ``KIND=AMOUNT``, {KIND: AMOUNT}, {kind: KIND, amount: AMOUNT}; None: none."""
    if isinstance(value, Mapping) and set(value) == {"kind", "amount"}:
        value = {value["kind"]: value["amount"]}
    return value if value is None or isinstance(value, Budget) else parse_budget(value)


OptionalBudget = Annotated[Budget | None, BeforeValidator(read_budget, json_schema_input_type=str | None)]
"""A setting that is a budget, or none."""
