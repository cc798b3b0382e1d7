"""Progress of a run, saved in its checkpoints."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from spiky_rl.config.options import RegistryError, Settings


def check_not_infinite(value: float) -> float:
    """Return ``value``, a finite number or NaN. Raises RegistryError if it is infinite."""
    if math.isinf(value):
        raise RegistryError(f"{value} is out of range; it must be finite or NaN")
    return value


Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Mean = Annotated[float, Field(allow_inf_nan=True), AfterValidator(check_not_infinite)]
"""Mean over episodes; NaN before the first episode ends."""


class TrainingProgress(Settings):
    """Progress of a run; saved with every checkpoint, so that a resumed run continues counting."""

    model_config = ConfigDict(frozen=False)
    iterations: Count = 0
    env_steps: Count = 0
    seconds_simulation: Amount = 0.0
    seconds_inference: Amount = 0.0
    seconds_learning: Amount = 0.0
    returns: list[Mean] = Field(default_factory=list)
    """Mean return of each iteration."""
    lengths: list[Mean] = Field(default_factory=list)
    """Mean episode length of each iteration, in control steps."""
    firing_rate: Amount = 0.0
    synops_per_step: Amount = 0.0
    worlds_reset: Count = 0
    """Worlds that were reset because their physics broke."""
    seconds: list[Amount] = Field(default_factory=list)
    """Seconds of simulation, inference and learning when each iteration ended."""
    firing: list[Amount] = Field(default_factory=list)
    """The actor's firing rate at the end of each iteration."""
    operations: list[Amount] = Field(default_factory=list)
    """The actor's effective synaptic operations per control step at the end of each iteration."""
    steps: list[Count] = Field(default_factory=list)
    """Environment steps at the end of each iteration."""
    evaluations: list[Finite] = Field(default_factory=list)
    """Mean return of each evaluation during the training."""
    evaluation_steps: list[Count] = Field(default_factory=list)
    """Environment steps of the training at each evaluation."""
    seconds_evaluation: Amount = 0.0
    """Seconds of the evaluations, which `seconds_total` leaves out."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        booked = {len(course) for course in (self.seconds, self.firing, self.operations, self.steps)}
        both = {len(self.returns), len(self.lengths)}
        if len(booked) > 1 or len(both) > 1 or max(booked) > max(both):
            raise RegistryError("lists per iteration have different lengths")
        if len(self.evaluations) != len(self.evaluation_steps):
            raise RegistryError("lists per evaluation have different lengths")
        return self

    @property
    def seconds_total(self) -> float:
        """Seconds of simulation, inference and learning together."""
        return self.seconds_simulation + self.seconds_inference + self.seconds_learning

    @property
    def total_operations(self) -> float:
        """Effective synaptic operations of all control steps; each iteration counts with its final value per step."""
        before = [0, *self.steps][:-1]
        return sum(
            (after - start) * each
            for start, after, each in zip(before, self.steps, self.operations, strict=True)
        )
