"""What every surrogate is: the derivative that stands in for the Heaviside step's.

``x`` is the distance to the threshold; the spike is emitted at x >= 0. ``primitive`` is a function whose derivative is
``derivative``: the forward of the ``soft_spike`` debugging mode, in which the coded backward equals finite differences.
The primitive may also use ``ops.atan`` and ``ops.erf``, which only the torch reference offers.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from spiky_rl.config.registry import Component, Option, RegistryError

SCHEDULE = Option(
    [], "slope at the end of training and the updates until then, such as [10.0, 100]; empty: constant"
)


def declare(default: float, doc: str) -> dict[str, Option]:
    """The options that every surrogate has: its slope, and the slope's schedule over training."""
    return {"slope": Option(default, doc, low=1e-3), "schedule": SCHEDULE}


class Surrogate(Component):
    """The shape of d spike / d x in the backward pass; the forward pass is always the Heaviside step."""

    def __init__(self, slope: float, schedule: tuple[float, ...]) -> None:
        self.slope = slope
        self.schedule = schedule

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        schedule = options["schedule"]
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in schedule)
        if schedule and (len(schedule) != 2 or not numbers):
            raise RegistryError(
                f"{path}.schedule: expected [final slope, updates], both positive, got {list(schedule)}"
            )

    def slope_at(self, updates: int) -> float:
        """The slope after ``updates`` updates: linear from ``slope`` to the schedule's end, then constant."""
        if not self.schedule:
            return self.slope
        final, duration = self.schedule
        return self.slope + (final - self.slope) * min(1.0, updates / max(1, duration))

    @abstractmethod
    def derivative(self, ops: Any, x: Any, slope: Any) -> Any:
        """d spike / d x at distance x to the threshold."""

    @abstractmethod
    def primitive(self, ops: Any, x: Any, slope: Any) -> Any:
        """A function of x whose derivative is ``derivative``; 1/2 at x = 0."""
