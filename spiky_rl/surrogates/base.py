"""What every surrogate is: the derivative that stands in for the Heaviside step's.

``x`` is the distance to the threshold; the spike is emitted at x >= 0. ``primitive`` is a function whose derivative is
``derivative``: the forward of the ``soft_spike`` debugging mode, in which the coded backward equals finite differences.
The primitive may also use ``ops.atan`` and ``ops.erf``, which only the torch reference offers.

A surrogate's file imports the types of ``ops``, ``x`` and ``slope`` from here; they are those of a neuron's step.
"""

from abc import abstractmethod
from typing import Any

from pydantic import field_validator

from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.config.registry import Component
from spiky_rl.neurons.base import Ops, ReferenceOps, Value


def declare_slope(default: float, meaning: str) -> Any:
    """Declare a surrogate's slope with its ``default`` and its ``meaning``."""
    return option(default, meaning, low=1e-3)


class Surrogate(Component):
    """The shape of d spike / d x in the backward pass; the forward pass is always the Heaviside step."""

    class Options(Settings):
        """Options of every surrogate; each declares the meaning of its own slope."""

        slope: float = declare_slope(1.0, "slope")
        schedule: tuple[float, ...] = option(
            (),
            "slope at the end of training and the updates until then, such as [10.0, 100]; empty: constant",
        )

        @field_validator("schedule")
        @classmethod
        def _pair(cls, schedule: tuple[float, ...]) -> tuple[float, ...]:
            if schedule and (len(schedule) != 2 or min(schedule) <= 0):
                raise RegistryError(f"expected [final slope, updates], both positive, got {list(schedule)}")
            return schedule

    def __init__(self, options: Options) -> None:
        self.slope, self.schedule = options.slope, options.schedule
        self.chosen = options.model_dump(exclude={"slope", "schedule"})
        """What shapes the derivative besides its slope: part of what identifies a program."""

    def slope_at(self, updates: int) -> float:
        """The slope after ``updates`` updates: linear from ``slope`` to the schedule's end, then constant."""
        if not self.schedule:
            return self.slope
        final, duration = self.schedule
        return self.slope + (final - self.slope) * min(1.0, updates / max(1, duration))

    @abstractmethod
    def derivative(self, ops: Ops, x: Value, slope: Value) -> Value:
        """d spike / d x at distance ``x`` to the threshold, by the surrogate's ``slope`` and the functions of ``ops``."""

    @abstractmethod
    def primitive(self, ops: ReferenceOps, x: Value, slope: Value) -> Value:
        """A function of ``x`` whose derivative is ``derivative``, of the same ``ops`` and ``slope``; 1/2 at x = 0."""
