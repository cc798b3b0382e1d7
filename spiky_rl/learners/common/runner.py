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

from spiky_rl.learners.common.activity import PolicyActivity, write_activity
from spiky_rl.learners.common.checkpoint_names import list_checkpoints
from spiky_rl.learners.common.checkpoints import (
    CheckpointError,
    get_random_state,
    get_runner_state,
    restore_random_state,
    write_checkpoint,
)
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.learners.common.interfaces import ScalarWriter, VectorEnv
from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.learners.common.return_check import ReturnExplosionCheck
from spiky_rl.learners.common.silent_layers import SilentLayerCheck
from spiky_rl.metrics.meter import CostMeter, make_meter
from spiky_rl.networks.base import SpikingNetwork

log = logging.getLogger(__name__)


class StopTraining(Exception):
    """Ends training after the iteration at hand; the run is saved."""


@dataclass(frozen=True)
class IterationSummary:
    """One finished iteration, for displays."""

    index: int
    last: int
    progress: TrainingProgress
    activity: PolicyActivity
    losses: dict[str, float]
    steps_per_second: float
    seconds: float


class BaseRunner(ABC):
    """Base of the runners of all libraries; each derives from this and from its library's own runner."""

    env: VectorEnv
    """`spiky_rl.hosts.isaaclab.environment.TimedVecEnv`, or one like it."""
    device: str
    identity: Mapping[str, object]
    progress: TrainingProgress
    figure_interval: int
    text_summaries: Mapping[str, str]
    on_iteration: Callable[[IterationSummary], None]
    current_learning_iteration: int
    alg: Any
    """The library's algorithm, which has an ``optimizer``."""
    is_recorded: bool = True
    """Whether the weights are those with which the last booked iteration ended."""
    silence_check: SilentLayerCheck
    return_check: ReturnExplosionCheck
    _simulated: float = 0.0
    _resets: int = 0
    _meter: CostMeter | None = None

    def setup_bookkeeping(
        self,
        identity: Mapping[str, object] | None,
        picture_interval: int,
        notes: Mapping[str, str] | None,
        on_iteration: Callable[[IterationSummary], None] | None,
    ) -> None:
        """Begin with nothing done.

        Args:
            identity: ``task`` and ``agent`` of the run and whatever else its checkpoints should say of themselves.
            picture_interval: Iterations between spike rasters.
            notes: Texts for TensorBoard, by name.
            on_iteration: Called after every iteration; may raise `StopTraining`.
        """
        self.identity = identity or {}
        self.progress = TrainingProgress()
        self.figure_interval = picture_interval
        self.text_summaries = notes or {}
        self.silence_check, self.return_check = SilentLayerCheck(), ReturnExplosionCheck()
        self.on_iteration = on_iteration or (lambda iteration: None)

    @property
    @abstractmethod
    def models(self) -> Iterable[nn.Module]:
        """All that is trained."""

    @property
    @abstractmethod
    def inference_policy(self) -> InferencePolicy:
        """The policy of the rollouts as playback uses it; what it is in the middle of, training or not, stays."""

    @property
    @abstractmethod
    def folder(self) -> str | None:
        """Where the run is kept; None: nowhere."""

    @property
    @abstractmethod
    def writer(self) -> ScalarWriter | None:
        """Where the figures go, while training; None: nowhere."""

    @abstractmethod
    def get_inference_policy(self, device: str | None = None) -> InferencePolicy:
        """Return the policy as playback uses it, in evaluation mode, on ``device``."""

    @abstractmethod
    def save(self, path: str, infos: dict | None = None) -> None:
        """Write a checkpoint, atomically.

        Args:
            path: The file.
            infos: What else it should hold beside the run's progress, identity and random states.
        """

    @abstractmethod
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        """Take over a checkpoint without executing code from it; training goes on with the next iteration.

        Args:
            path: The file.
            load_cfg: Which of ``actor``, ``critic``, ``optimizer`` and ``iteration`` to take; None: all.
            strict: Whether the weights of a model have to be all of it, and no others.
            map_location: Where its tensors go first; None: to this runner's device.

        Raises:
            CheckpointError: It is no checkpoint of this task, agent and network.

        Returns:
            What it holds as ``infos``.
        """

    def _write(self, path: str, learned: Mapping[str, object], infos: Mapping[str, object] | None) -> None:
        """Write a checkpoint, atomically; no code is in the file.

        Args:
            path: The file.
            learned: The library's own part of it.
            infos: As `save` takes them.
        """
        ours = {
            "identity": self.identity,
            "progress": vars(self.progress),
            "random": get_random_state(str(self.device)),
        }
        held = {"iter": max(self.progress.iterations - 1, 0), "infos": {**(infos or {}), "spiky_rl": ours}}
        write_checkpoint(Path(path), {**learned, **held})

    def _resume(self, loaded: Mapping[str, Any], draws: bool = True) -> None:
        """Go on with the iteration after that of a checkpoint.

        Args:
            loaded: All that it holds.
            draws: Whether random numbers, too, go on as they would have.
        """
        ours, after = get_runner_state(loaded), loaded["iter"] + 1
        self.current_learning_iteration = after
        self.progress = TrainingProgress(**ours["progress"]) if ours else TrainingProgress(iterations=after)
        if ours and draws:
            restore_random_state(ours["random"], self.device)

    @contextmanager
    def save_on_exit(self) -> Iterator[None]:
        """Around a training: however it ends, its last finished iteration is saved, if no update has begun to change it.

        Raises FloatingPointError where the networks' weights are no numbers, and names them.
        """
        self._simulated = getattr(self.env, "seconds_simulation", 0.0)
        self._resets = getattr(self.env, "worlds_reset", 0)
        self.is_recorded, self._meter = True, None
        self._tell_trained(self.progress.iterations > 0)
        try:
            yield
        except BaseException as error:
            spoilt = self._find_non_finite()
            if spoilt is None:
                self.save_last()
            if isinstance(error, RuntimeError) and spoilt is not None:
                # torch refuses to sample from such weights, and a simulation cannot move by such actions
                self._fail(self.progress.iterations, f"{spoilt} has values that are no numbers")
            raise

    def _tell_trained(self, is_trained: bool) -> None:
        """Tell the environment, if it asks, whether the policy has learned from anything yet."""
        if tell := getattr(self.env, "tell_trained", None):
            tell(is_trained)

    def _blow_up(self) -> str:
        """A phrase that names the simulation's settings where it has blown up; else "", and of environments that do not say."""
        find = getattr(self.env, "blow_up", None)
        return "" if find is None else find()

    def save_last(self) -> None:
        """Save the last finished iteration, if it is not saved yet and the weights are still its own."""
        if self.folder is None or not self.progress.iterations:
            return
        path = Path(self.folder) / f"model_{self.progress.iterations - 1}.pt"
        if path.exists():
            return
        if not self.is_recorded:
            log.warning(
                "ended within an update, so nothing new is saved; %s", self.describe_last_checkpoint()
            )
            return
        try:
            self.save(str(path))
        except (OSError, RuntimeError) as error:  # what ended the training goes on being raised
            log.error(
                "the last finished iteration could not be saved (%s); %s",
                error,
                self.describe_last_checkpoint(),
            )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All that is trained, with names."""
        for role, model in zip(("actor", "critic"), self.models, strict=True):
            for name, weight in model.named_parameters():
                yield f"{role}.{name}", weight.detach()

    def _find_non_finite(self) -> str | None:
        """The first weight with values that are no numbers; None: all are finite. One answer from the device."""
        names, weights = zip(*self.named_weights(), strict=True)
        finite = torch.stack([weight.isfinite().all() for weight in weights]).tolist()
        return None if all(finite) else names[finite.index(False)]

    def describe_weights(self) -> str:
        """Facts about an exploding training: the largest weight, the learning rate, and the last good checkpoint."""
        name, largest = max(
            ((n, float(w.abs().max())) for n, w in self.named_weights()), key=lambda item: item[1]
        )
        return f"the largest weight is {largest:.3g} in {name}, the learning rate {self._rate():.3g}; {self.describe_last_checkpoint()}"

    def _rate(self) -> float:
        """The learning rate of the first group of weights."""
        return self.alg.optimizer.param_groups[0]["lr"]

    def describe_last_checkpoint(self) -> str:
        """A phrase that names the last good checkpoint, or says that there is none."""
        held = list_checkpoints(Path(self.folder)) if self.folder is not None else []
        return f"the last good checkpoint is {held[-1]}" if held else "there is no checkpoint yet"

    def _fail(self, index: int, what: str) -> None:
        """Raise FloatingPointError: in iteration ``index`` ``what`` is no number, who did it or what to do, and what is kept."""
        cause = self._blow_up()
        learners = f"at a learning rate of {self._rate():.3g}; lower agent.algorithm.learning_rate"
        raise FloatingPointError(
            f"iteration {index}: {what}, {cause or learners}; {self.describe_last_checkpoint()}"
        )

    @property
    def network(self) -> SpikingNetwork | None:
        """The actor's; None of an ANN."""
        return getattr(next(iter(self.models)), "network", None)

    @property
    def meter(self) -> CostMeter | None:
        """The actor's, made once in a training; None of an ANN and of a network from elsewhere.

        Anew in every call where rules of its own change a network's weights: they may come to rest at zero.
        """
        network = self.network
        if network is None:
            return None
        if self._meter is None or network.local or getattr(network, "plasticity", None) is not None:
            self._meter = make_meter(network)
        return self._meter

    def write_notes(self) -> None:
        """The notes, once the writer is there."""
        if add := getattr(self.writer, "add_text", None):
            for name, text in self.text_summaries.items():
                add(name, text, self.current_learning_iteration)

    def require_finite(self, index: int, losses: Mapping[str, float]) -> None:
        """Raise FloatingPointError where iteration ``index`` ended with ``losses``, or a weight, that are no numbers."""
        for name, value in losses.items():
            if not np.isfinite(value):
                self._fail(index, f"the {name} loss is {value}")
        if (spoilt := self._find_non_finite()) is not None:  # the last minibatch may have done that
            self._fail(index, f"{spoilt} has values that are no numbers")

    def record_iteration(
        self,
        index: int,
        last: int,
        env_steps: int,
        seconds: tuple[float, float],
        losses: dict[str, float],
        episodes: tuple[Sequence[float], Sequence[float]],
        activity: PolicyActivity,
    ) -> None:
        """Count a finished iteration, write what TensorBoard shows of it on every host, and tell the display.

        Args:
            index: Index of this iteration.
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
        resets = getattr(self.env, "worlds_reset", 0)
        progress.worlds_reset, self._resets = progress.worlds_reset + resets - self._resets, resets
        self.is_recorded = True
        self._tell_trained(True)
        if self.writer is not None:
            parts = {"simulation": simulation, "inference": collecting - simulation, "learning": learning}
            write_activity(self.writer, index, activity, parts)
            self.writer.add_scalar("Train/worlds_reset", progress.worlds_reset, index)
        if self.folder is not None:  # the other ranks of a distributed run have none
            self.return_check(index, progress.returns[-1], self._blow_up)
            if self.network is not None:
                self.silence_check(self.network, activity)
        total = collecting + learning
        self.on_iteration(IterationSummary(index, last, progress, activity, losses, env_steps / total, total))

    def draws_figures(self, index: int) -> bool:
        """Whether raster and action distribution of iteration ``index`` are drawn."""
        return self.writer is not None and index % self.figure_interval == 0


@contextmanager
def wrap_load_errors(path: str) -> Iterator[None]:
    """Raise CheckpointError that names ``path`` for whatever a library raises where weights do not fit its models."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: its networks do not fit this agent's: {detail}") from None
