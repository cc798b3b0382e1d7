"""Conditions on observations and actions: noise, failures, delays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spiky_rl.config.progress import format_count
from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition

NOISE = 0.1
"""Standard deviation of sensor noise, relative to the standard deviation of the sensor's values."""
DROPOUT = 0.3
"""Probability that a sensor reads 0 in a control step."""
UPDATE_PROBABILITY = 0.5
"""Probability that an asynchronous sensor sends a new value in a control step."""
DELAYS = (1, 2, 4, 8)
"""Delays of observations or actions in control steps."""


class ObservationNoise(EvalCondition):
    """White noise on all observed values."""

    text = f"Gaussian noise on every observed value, {NOISE:g} of its standard deviation under random actions"

    def perturb_observations(self, values: Tensor) -> Tensor:
        noise = torch.randn(values.shape, generator=self.generator, device=values.device)
        return values + NOISE * self.group.observation_std * noise


class SensorDropout(EvalCondition):
    """Sensors with random dropouts."""

    text = f"every sensor reads 0 with a probability of {DROPOUT:g} in each control step"

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors = self.group.sensors
        lost = self.sample_uniform(len(values), int(sensors.max()) + 1) < DROPOUT
        return values.masked_fill(lost[:, sensors], 0.0)


class SensorLoss(EvalCondition):
    """One permanently failed sensor."""

    text = "one sensor reads 0 for the whole episode, each in as many episodes as any other"

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors, episodes = self.group.sensors, torch.arange(len(values), device=values.device)
        # with fewer episodes than sensors, the lost sensors are evenly spaced
        lost = episodes * (int(sensors.max()) + 1) // len(values)
        return values.masked_fill(lost[:, None] == sensors, 0.0)


class HeldObservations(EvalCondition):
    """Sensors without a common clock."""

    text = (
        f"every sensor sends a new value with a probability of {UPDATE_PROBABILITY:g} in each control step; otherwise the policy gets"
        " its previous value"
    )

    def __init__(self, group: EnvGroup) -> None:
        super().__init__(group)
        self.latest: Tensor | None = None
        """Values that the policy saw last, [E, C]; None before the first ones."""
        self.episode_starts = torch.ones(len(group.ids), dtype=torch.bool, device=group.ids.device)
        """Whether an episode starts with the next observation, [E]."""

    def perturb_observations(self, values: Tensor) -> Tensor:
        sensors = self.group.sensors
        fresh = self.sample_uniform(len(values), int(sensors.max()) + 1) < UPDATE_PROBABILITY
        fresh = fresh[:, sensors] | self.episode_starts[:, None]
        self.latest = values if self.latest is None else torch.where(fresh, values, self.latest)
        self.episode_starts = torch.zeros_like(self.episode_starts)
        return self.latest

    def reset(self, dones: Tensor) -> None:
        self.episode_starts = dones.bool()


class DelayLine:
    """Delay line of whole control steps, separate for every environment.

    A value is returned ``delay`` calls after it was passed in; until then, an episode gets the value ``first`` of its first call.
    """

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.values: list[Tensor] = []
        """Latest ``delay`` values, oldest first."""
        self.episode_starts: Tensor | None = None
        """Whether an episode starts with the next value, [E]; None if `reset` has not been called since the last one."""

    def __call__(self, value: Tensor, first: Tensor) -> Tensor:
        """Store ``value`` [E, C] and return the delayed one; ``first`` [E, C] fills the line where an episode starts."""
        if not self.values:
            self.values = [first] * self.delay
        elif self.episode_starts is not None and bool(self.episode_starts.any()):
            self.values = [torch.where(self.episode_starts[:, None], first, old) for old in self.values]
        self.episode_starts = None
        self.values.append(value)
        return self.values.pop(0)

    def reset(self, dones: Tensor) -> None:
        """Start new episodes where ``dones`` [E], with the next value."""
        self.episode_starts = dones.bool()


class Delay(EvalCondition):
    """Abstract delay of observations or actions; subclasses choose which, and `DELAY_CONDITIONS` sets ``delay``."""

    delay: int

    def __init__(self, group: EnvGroup) -> None:
        super().__init__(group)
        self.line = DelayLine(self.delay)

    def reset(self, dones: Tensor) -> None:
        self.line.reset(dones)


class ObservationDelay(Delay):
    """Delayed observations; in the first steps of an episode the policy receives the first observation."""

    def perturb_observations(self, values: Tensor) -> Tensor:
        return self.line(values, values)


class ActionDelay(Delay):
    """Delayed actions; they are 0 before the first one takes effect."""

    def perturb_actions(self, actions: Tensor) -> Tensor:
        return self.line(actions, torch.zeros_like(actions))


def make_delay_conditions(name: str, base: type[Delay], text: str) -> dict[str, type[EvalCondition]]:
    """Return a subclass of ``base`` for each of `DELAYS`, by the name of its condition; ``text`` has a place for the delay."""
    return {
        f"{name}_delay_{steps}": type(
            f"{base.__name__}{steps}",
            (base,),
            {"delay": steps, "text": text.format(format_count(steps, "control step"))},
        )
        for steps in DELAYS
    }


DELAY_CONDITIONS = {
    **make_delay_conditions(
        "action", ActionDelay, "actions are delayed by {}; they are 0 until the first one takes effect"
    ),
    **make_delay_conditions(
        "observation",
        ObservationDelay,
        "observations are delayed by {}; in the first steps of an episode the policy gets the first observation",
    ),
}


def map_values_to_sensors(
    shapes: Sequence[Sequence[int]], device: torch.device | str | None = None
) -> Tensor:
    """Return the sensor index of each value of the flat, concatenated observations with these ``shapes``, [C].

    Every column of a vector is a sensor, and every column of pixels of an image [channels, height, width].
    """
    indices, count = [], 0
    for shape in shapes:
        indices.append(torch.arange(count, count + shape[-1], device=device).repeat(math.prod(shape[:-1])))
        count += shape[-1]
    return torch.cat(indices)
