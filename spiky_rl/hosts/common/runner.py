"""Bookkeeping shared by the rsl_rl and skrl runners: progress, what TensorBoard shows of spikes, a saved end."""

from __future__ import annotations

import logging
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiky_rl.hosts.common.checkpoints import numbered, random_state
from spiky_rl.hosts.common.explosion import ReturnWatch
from spiky_rl.hosts.common.observe import Activity, write_activity
from spiky_rl.hosts.common.playing import PlayedPolicy
from spiky_rl.hosts.common.progress import Progress
from spiky_rl.hosts.common.silence import Watch
from spiky_rl.metrics.meter import Meter, meter_of

log = logging.getLogger(__name__)


class Stop(Exception):
    """Ends training after the iteration at hand; the run is saved."""


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
    alg: Any
    """The library's algorithm, which has an ``optimizer``."""
    is_booked: bool = True
    """Whether the weights are those with which the last booked iteration ended."""
    watch: Watch
    watch_returns: ReturnWatch
    _simulated: float = 0.0
    _meter: Meter | None = None

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
        self.watch, self.watch_returns = Watch(), ReturnWatch()
        self.on_iteration = on_iteration or (lambda iteration: None)

    @property
    @abstractmethod
    def models(self) -> Iterable[nn.Module]:
        """All that is trained."""

    @property
    @abstractmethod
    def played(self) -> PlayedPolicy:
        """The policy of the rollouts as playback uses it; what it is in the middle of, training or not, stays."""

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
        """Around a training: however it ends, its last finished iteration is saved, if no update has begun to change it.

        Raises FloatingPointError where the networks' weights are no numbers, and names them.
        """
        self._simulated = getattr(self.env, "seconds_simulation", 0.0)
        self.is_booked, self._meter = True, None
        try:
            yield
        except BaseException as error:
            spoilt = self.spoilt()
            if spoilt is None:
                self.save_last()
            if isinstance(error, RuntimeError) and spoilt is not None:
                # torch refuses to sample from such weights, and a simulation cannot move by such actions
                self.fail(self.progress.iterations, f"{spoilt} has values that are no numbers")
            raise

    def save_last(self) -> None:
        """Save the last finished iteration, if it is not saved yet and the weights are still its own."""
        if self.folder is None or not self.progress.iterations:
            return
        path = Path(self.folder) / f"model_{self.progress.iterations - 1}.pt"
        if path.exists():
            return
        if not self.is_booked:
            log.warning("ended within an update, so nothing new is saved; %s", self.kept())
            return
        try:
            self.save(str(path))
        except (OSError, RuntimeError) as error:  # what ended the training goes on being raised
            log.error("the last finished iteration could not be saved (%s); %s", error, self.kept())

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All that is trained, with names."""
        for role, model in zip(("actor", "critic"), self.models, strict=True):
            for name, weight in model.named_parameters():
                yield f"{role}.{name}", weight.detach()

    def spoilt(self) -> str | None:
        """The first weight with values that are no numbers; None: all are finite. One answer from the device."""
        names, weights = zip(*self.named_weights(), strict=True)
        finite = torch.stack([weight.isfinite().all() for weight in weights]).tolist()
        return None if all(finite) else names[finite.index(False)]

    def facts(self) -> str:
        """What an exploding training shows by: the largest weight and the learning rate; and the last good checkpoint."""
        name, largest = max(
            ((n, float(w.abs().max())) for n, w in self.named_weights()), key=lambda item: item[1]
        )
        rate = self.alg.optimizer.param_groups[0]["lr"]
        return f"the largest weight is {largest:.3g} in {name}, the learning rate {rate:.3g}; {self.kept()}"

    def kept(self) -> str:
        """The last good checkpoint in words."""
        held = numbered(Path(self.folder)) if self.folder is not None else []
        return f"the last good checkpoint is {held[-1]}" if held else "there is no checkpoint yet"

    def fail(self, index: int, what: str) -> None:
        """Raise FloatingPointError: what is no number in iteration ``index``, what to do, and what is kept."""
        rate = self.alg.optimizer.param_groups[0]["lr"]
        raise FloatingPointError(
            f"iteration {index}: {what}, at a learning rate of {rate:.3g};"
            f" lower agent.algorithm.learning_rate; {self.kept()}"
        )

    @property
    def meter(self) -> Meter | None:
        """The actor's, made once in a training; None of an ANN and of a network from elsewhere.

        Anew in every call where rules of its own change a network's weights: they may come to rest at zero.
        """
        network = getattr(next(iter(self.models)), "network", None)
        if network is None:
            return None
        if self._meter is None or network.local or getattr(network, "plasticity", None) is not None:
            self._meter = meter_of(network)
        return self._meter

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
        """Raise FloatingPointError for a loss or a weight that is no number."""
        for name, value in losses.items():
            if not np.isfinite(value):
                self.fail(index, f"the {name} loss is {value}")
        if (spoilt := self.spoilt()) is not None:  # the last minibatch may have done that
            self.fail(index, f"{spoilt} has values that are no numbers")

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
        progress = self.progress
        simulated = getattr(self.env, "seconds_simulation", 0.0)
        simulation, self._simulated = simulated - self._simulated, simulated
        # hosts measure by the clock of the day, which may be set back; a simulation has taken its time all the same
        collecting, learning = max(seconds[0], simulation), max(seconds[1], 0.0)
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
        self.is_booked = True
        if self.writer is not None:
            parts = {"simulation": simulation, "inference": collecting - simulation, "learning": learning}
            write_activity(self.writer, index, activity, parts)
        network = getattr(next(iter(self.models)), "network", None)
        if self.folder is not None:  # the other ranks of a distributed run have none
            self.watch_returns(index, progress.returns[-1])
            if network is not None:
                self.watch(network, activity)
        total = collecting + learning
        self.on_iteration(Iteration(index, last, progress, activity, losses, env_steps / total, total))

    def is_pictured(self, index: int) -> bool:
        """Whether this iteration's raster and action distribution are drawn."""
        return self.writer is not None and index % self.picture_interval == 0
