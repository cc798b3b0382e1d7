"""Progress of a run, as its checkpoints keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass
class Progress:
    """Progress of a run; saved with every checkpoint, so that a resumed run counts on."""

    iterations: int = 0
    env_steps: int = 0
    seconds_simulation: float = 0.0
    seconds_inference: float = 0.0
    seconds_learning: float = 0.0
    returns: list[float] = field(default_factory=list)
    """Mean return of each iteration; NaN until the first episode ends."""
    lengths: list[float] = field(default_factory=list)
    """Mean episode length of each iteration, in control steps."""
    firing_rate: float = 0.0
    synops_per_step: float = 0.0
    seconds: list[float] = field(default_factory=list)
    """Seconds of simulation, inference and learning when each iteration ended."""
    firing: list[float] = field(default_factory=list)
    """The actor's firing rate at the end of each iteration."""
    operations: list[float] = field(default_factory=list)
    """Its effective synaptic operations per control step then."""
    steps: list[int] = field(default_factory=list)
    """Environment steps done when each iteration ended."""

    @property
    def seconds_total(self) -> float:
        """Seconds of simulation, inference and learning together."""
        return self.seconds_simulation + self.seconds_inference + self.seconds_learning

    @property
    def total_operations(self) -> float:
        """Effective synaptic operations of all control steps so far, each iteration's at the rate at which it ended."""
        before = [0, *self.steps[:-1]]
        return sum(
            (after - start) * each
            for start, after, each in zip(before, self.steps, self.operations, strict=True)
        )

    @classmethod
    def saved(cls, held: object) -> Progress:
        """The progress that a checkpoint has as ``held``. Raises ValueError that names what of it is damaged."""
        if not isinstance(held, Mapping):
            raise ValueError(f"progress is {held!r:.60}, expected a mapping")
        declared = {item.name: item for item in fields(cls)}
        for key, value in held.items():
            if key not in declared:
                raise ValueError(f"progress has an unknown entry {key!r:.60}")
            kind, is_course = declared[key].type, declared[key].default_factory is list
            if isinstance(value, list) != is_course:
                raise ValueError(f"progress.{key} is {value!r:.60}, expected {kind}")
            for each in value if is_course else [value]:
                if not _is_sound(each, "int" in str(kind), key in ("returns", "lengths")):
                    raise ValueError(f"progress.{key} holds {each!r:.60}, expected {kind}")
        progress = cls(**held)
        booked = {len(getattr(progress, key)) for key in ("seconds", "firing", "operations", "steps")}
        both = {len(progress.returns), len(progress.lengths)}
        if len(booked) > 1 or len(both) > 1 or max(booked) > max(both):
            raise ValueError("progress holds courses of different lengths")
        return progress


def _is_sound(value: object, whole: bool, open_: bool) -> bool:
    """Whether ``value`` is a number, ``whole`` or not; an ``open_`` one may be negative, and NaN until an episode ends."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return not math.isinf(value) if open_ else 0 <= value < math.inf
