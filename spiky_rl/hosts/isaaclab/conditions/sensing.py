"""Conditions on the way from sensors to the policy and from the policy to the motors: noise, failures, delays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition

NOISE = 0.1
"""Standard deviation of sensor noise, in that of the sensor itself: 10 % of what there is to read."""
DROPOUT = 0.3
"""Probability that a sensor reads nothing in a control step."""
UPDATE_PROBABILITY = 0.5
"""Probability that a sensor which sends when it likes sends in a control step."""
DELAYS = (1, 2, 4, 8)
"""Control steps by which observations or actions come late."""


class ObservationNoise(EvalCondition):
    """White noise on everything observed."""

    text = f"Gaussian noise on every observed value, {NOISE:g} of its standard deviation under random actions"

    def perturb_observations(self, values: Tensor) -> Tensor:
        noise = torch.randn(values.shape, generator=self.generator, device=values.device)
        return values + NOISE * self.group.observation_std * noise


class SensorDropout(EvalCondition):
    """Sensors that fail now and then."""

    text = f"every sensor reads 0 with a probability of {DROPOUT:g} in each control step"

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors = self.group.sensors
        lost = self.sample_uniform(len(values), int(sensors.max()) + 1) < DROPOUT
        return values.masked_fill(lost[:, sensors], 0.0)


class SensorLoss(EvalCondition):
    """One sensor that has failed for good."""

    text = "one sensor reads 0 for the whole episode, each in as many episodes as any other"

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors, episodes = self.group.sensors, torch.arange(len(values), device=values.device)
        # where there are fewer episodes than sensors, those that are lost lie evenly among the others
        lost = episodes * (int(sensors.max()) + 1) // len(values)
        return values.masked_fill(lost[:, None] == sensors, 0.0)


class HeldObservations(EvalCondition):
    """Sensors without a common clock."""

    text = (
        f"every sensor sends a new value with a probability of {UPDATE_PROBABILITY:g} in each control step; until it does, the policy sees its"
        " last one"
    )

    def __init__(self, group: EnvGroup) -> None:
        super().__init__(group)
        self.held: Tensor | None = None
        self.begun = torch.ones(len(group.ids), dtype=torch.bool, device=group.ids.device)

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors = self.group.sensors
        fresh = self.sample_uniform(len(values), int(sensors.max()) + 1) < UPDATE_PROBABILITY
        fresh = fresh[:, sensors] | self.begun[:, None]
        self.held = values if self.held is None else torch.where(fresh, values, self.held)
        self.begun = torch.zeros_like(self.begun)
        return self.held

    def reset(self, dones: Tensor) -> None:
        self.begun = dones.bool()


class DelayLine:
    """A delay line of whole control steps, of its own for every environment.

    What goes in comes out ``delay`` calls later; before that comes what ``first`` makes of the first value that went in.
    """

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.values: list[Tensor] = []
        """The last ``delay`` values that went in, the oldest first."""
        self.begun: Tensor | None = None

    def __call__(self, value: Tensor, first: Tensor) -> Tensor:
        """A value [E, ...] goes in, one comes out; ``first`` [E, ...]: what fills the line of an episode that begins."""
        if not self.values:
            self.values = [first] * self.delay
        elif self.begun is not None and bool(self.begun.any()):
            self.values = [torch.where(self.begun[:, None], first, old) for old in self.values]
        self.begun = None
        self.values.append(value)
        return self.values.pop(0)

    def reset(self, dones: Tensor) -> None:
        """The episodes of ``dones`` [E] begin with the next value."""
        self.begun = dones.bool()


class Delay(EvalCondition):
    """Delayed observations or actions. Abstract: its subclasses say which, and those in `DELAY_CONDITIONS` how late."""

    delay: int

    def __init__(self, group: EnvGroup) -> None:
        super().__init__(group)
        self.line = DelayLine(self.delay)

    def reset(self, dones: Tensor) -> None:
        self.line.reset(dones)


class ObservationDelay(Delay):
    """Observations that come late; in the first steps of an episode the policy sees its first one."""

    def perturb_observations(self, values: Tensor) -> Tensor:
        return self.line(values, values)


class ActionDelay(Delay):
    """Actions that take effect late; before the first one does, they are 0."""

    def perturb_actions(self, actions: Tensor) -> Tensor:
        return self.line(actions, torch.zeros_like(actions))


def format_delay(steps: int) -> str:
    """So many control ``steps``, in words."""
    return f"{steps} control step{'s' * (steps > 1)}"


DELAY_CONDITIONS: dict[str, type[EvalCondition]] = {
    **{
        f"action_delay_{steps}": type(
            f"ActionDelay{steps}",
            (ActionDelay,),
            {
                "delay": steps,
                "text": f"actions take effect {format_delay(steps)} late; before the first one does, they are 0",
            },
        )
        for steps in DELAYS
    },
    **{
        f"observation_delay_{steps}": type(
            f"ObservationDelay{steps}",
            (ObservationDelay,),
            {
                "delay": steps,
                "text": f"everything observed is {format_delay(steps)} old; in the first steps of an episode it is the first observation",
            },
        )
        for steps in DELAYS
    },
}


def map_values_to_sensors(
    shapes: Sequence[Sequence[int]], device: torch.device | str | None = None
) -> Tensor:
    """Which sensor each value comes from, [C], of observations that are flat and one after another.

    Of a vector every column is a sensor; of an image [channels, height, width], every column of pixels.

    Args:
        shapes: Shapes of one environment's observations.
        device: Where the answer lies; None: torch's own.
    """
    found, count = [], 0
    for shape in shapes:
        found.append(torch.arange(count, count + shape[-1], device=device).repeat(math.prod(shape[:-1])))
        count += shape[-1]
    return torch.cat(found)
