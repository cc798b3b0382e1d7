"""Base class of surrogates: the derivative d spike / d x that the backward pass uses instead of the Heaviside step's.

``x`` is the distance to the threshold; a neuron spikes at x >= 0. ``primitive`` is an antiderivative of ``derivative``. In the
debugging mode ``soft_spike`` a neuron's output is the primitive instead of 0 or 1, so gradients must equal finite differences.
``primitive`` may also use ``ops.atan`` and ``ops.erf``, which only the torch reference has.

A surrogate's file imports `Ops`, `ReferenceOps` and `Value` from here; they are the types of a neuron's step.
"""

from abc import abstractmethod
from typing import Any

from pydantic import field_validator

from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.config.registry import Component
from spiky_rl.neurons.base import Ops, ReferenceOps, Value


def declare_slope(default: float, description: str) -> Any:
    """Declare the option ``slope``."""
    return option(default, description, low=1e-3)


class Surrogate(Component):
    """Derivative d spike / d x of the backward pass; the forward pass is always the Heaviside step."""

    class Options(Settings):
        """Options of every surrogate; a surrogate declares its own ``slope``."""

        slope: float = declare_slope(1.0, "slope")
        schedule: tuple[float, ...] = option(
            (),
            "[final slope, number of updates until then], such as [10.0, 100]; empty: constant",
        )

        @field_validator("schedule")
        @classmethod
        def _check_schedule(cls, schedule: tuple[float, ...]) -> tuple[float, ...]:
            if schedule and (len(schedule) != 2 or min(schedule) <= 0):
                raise RegistryError(f"expected [final slope, updates], both positive, got {list(schedule)}")
            return schedule

    def __init__(self, options: Options) -> None:
        self.slope, self.schedule = options.slope, options.schedule
        self.chosen = options.model_dump(exclude={"slope", "schedule"})
        """Value of each further option that changes the derivative; part of the key of a compiled kernel."""

    def slope_at(self, updates: int) -> float:
        """Return the slope after a number of updates: linear from ``slope`` to the final slope, then constant."""
        if not self.schedule:
            return self.slope
        final, duration = self.schedule
        return self.slope + (final - self.slope) * min(1.0, updates / max(1, duration))

    @abstractmethod
    def derivative(self, ops: Ops, x: Value, slope: Value) -> Value:
        """Return d spike / d x at the distance ``x`` to the threshold."""

    @abstractmethod
    def primitive(self, ops: ReferenceOps, x: Value, slope: Value) -> Value:
        """Return the antiderivative of `derivative` at ``x`` that is 1/2 at x = 0."""
