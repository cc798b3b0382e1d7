"""The half of a runner in which no library has a say: progress, what TensorBoard shows of spikes, a saved end."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spiky_rl.hosts.common.checkpoints import random_state
from spiky_rl.hosts.common.observe import Activity, write_activity


class Stop(Exception):
    """Ends training after the iteration at hand; the run is saved."""


@dataclass
class Progress:
    """What a run has done so far; saved with every checkpoint, so that a resumed run counts on."""

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
        """Of simulation, inference and learning."""
        return self.seconds_simulation + self.seconds_inference + self.seconds_learning

    @property
    def total_operations(self) -> float:
        """Effective synaptic operations of all control steps so far, each iteration's at the rate at which it ended."""
        before = [0, *self.steps[:-1]]
        return sum(
            (after - start) * each
            for start, after, each in zip(before, self.steps, self.operations, strict=True)
        )


@dataclass(frozen=True)
class Iteration:
    """One finished iteration, for displays."""

    index: int
    last: int
    progress: Progress
    activity: Activity
    losses: dict[str, float]
    steps_per_second: float
    seconds: float


class HostRunner(ABC):
    """What the runners of all libraries share; each derives from this and from its library's own runner."""

    env: Any
    """The environment as rsl_rl sees one: `spiky_rl.hosts.isaaclab.environment.TimedVecEnv`, or one like it."""
    device: str
    identity: dict[str, Any]
    progress: Progress
    picture_interval: int
    notes: Mapping[str, str]
    on_iteration: Callable[[Iteration], None]
    current_learning_iteration: int
    _simulated: float = 0.0

    def keep_books(
        self,
        identity: dict[str, Any] | None,
        picture_interval: int,
        notes: Mapping[str, str] | None,
        on_iteration: Callable[[Iteration], None] | None = None,
    ) -> None:
        """Begin with nothing done. Arguments as the runners' constructors describe them."""
        self.identity = identity or {}
        self.progress = Progress()
        self.picture_interval = picture_interval
        self.notes = notes or {}
        self.on_iteration = on_iteration or (lambda iteration: None)

    @property
    @abstractmethod
    def models(self) -> Iterable[nn.Module]:
        """All that is trained."""

    @property
    @abstractmethod
    def folder(self) -> str | None:
        """Where the run is kept; None: nowhere."""

    @property
    @abstractmethod
    def writer(self) -> Any:
        """TensorBoard's writer or one like it, or None."""

    @abstractmethod
    def save(self, path: str, infos: dict | None = None) -> None:
        """Write a checkpoint, atomically."""

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Around a training: on any end that is not a crash of the learner itself, the last finished iteration is saved."""
        self._simulated = getattr(self.env, "seconds_simulation", 0.0)
        try:
            yield
        except (Stop, KeyboardInterrupt, RuntimeError) as error:
            finite = all(p.isfinite().all() for model in self.models for p in model.parameters())
            if self.folder is not None and self.progress.iterations and finite:
                path = Path(self.folder) / f"model_{self.progress.iterations - 1}.pt"
                if not path.exists():
                    self.save(str(path))
            if isinstance(error, RuntimeError) and not finite:
                # a loss that is no number spoils the weights, and torch then refuses to sample from them
                raise FloatingPointError(
                    f"iteration {self.progress.iterations}: the loss is no number; the last good checkpoint is kept"
                ) from error
            raise

    def write_notes(self) -> None:
        """The notes, once the writer is there."""
        if hasattr(self.writer, "add_text"):
            for name, text in self.notes.items():
                self.writer.add_text(name, text, self.current_learning_iteration)

    def state_of_run(self) -> dict[str, Any]:
        """What a checkpoint holds besides the library's own, as plain data and tensors."""
        return {
            "identity": self.identity,
            "progress": vars(self.progress),
            "random": random_state(str(self.device)),
        }

    def require_finite(self, index: int, losses: Mapping[str, float]) -> None:
        """Raise FloatingPointError for a loss that is no number."""
        for name, value in losses.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"iteration {index}: the {name} loss is {value}; the last good checkpoint is kept"
                )

    def book(
        self,
        index: int,
        last: int,
        env_steps: int,
        seconds: tuple[float, float],
        losses: dict[str, float],
        episodes: tuple[Sequence[float], Sequence[float]],
        activity: Activity,
    ) -> None:
        """Count a finished iteration, write what TensorBoard shows of it on every host, and tell the display.

        Args:
            index: Of this iteration.
            last: Index of the last one.
            env_steps: Environment steps that it took.
            seconds: Spent collecting, which includes the simulation, and learning.
            losses: By name.
            episodes: Returns and lengths of the latest episodes that ended.
            activity: The actor's.
        """
        progress, (collecting, learning) = self.progress, seconds
        simulated = getattr(self.env, "seconds_simulation", 0.0)
        simulation, self._simulated = simulated - self._simulated, simulated
        progress.iterations = index + 1
        progress.env_steps += env_steps
        progress.seconds_simulation += simulation
        progress.seconds_inference += collecting - simulation
        progress.seconds_learning += learning
        returns, lengths = episodes
        progress.returns.append(statistics.mean(returns) if returns else float("nan"))
        progress.lengths.append(statistics.mean(lengths) if lengths else float("nan"))
        progress.firing_rate, progress.synops_per_step = activity.rate, activity.operations
        progress.steps.append(progress.env_steps)
        progress.seconds.append(progress.seconds_total)
        progress.firing.append(activity.rate)
        progress.operations.append(activity.operations)
        if self.writer is not None:
            parts = {"simulation": simulation, "inference": collecting - simulation, "learning": learning}
            write_activity(self.writer, index, activity, parts)
        total = collecting + learning
        self.on_iteration(Iteration(index, last, progress, activity, losses, env_steps / total, total))

    def is_pictured(self, index: int) -> bool:
        """Whether this iteration's raster and action distribution are drawn."""
        return self.writer is not None and index % self.picture_interval == 0
