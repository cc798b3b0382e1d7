"""Bookkeeping of all runners: progress, scalars, figures, and a checkpoint however a training ends."""

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

from spiky_rl.config.errors import get_error_text
from spiky_rl.learners.common.activity import PolicyActivity, write_activity
from spiky_rl.learners.common.checkpoint_names import list_checkpoints
from spiky_rl.learners.common.checkpoints import (
    CONTENT_ERRORS,
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
    """Raised by ``on_iteration`` to end the training after the current iteration; the run is saved."""


@dataclass(frozen=True)
class IterationSummary:
    """Summary of a finished iteration, for displays."""

    index: int
    last: int
    """Index of the last iteration of the training."""
    progress: TrainingProgress
    activity: PolicyActivity
    losses: dict[str, float]
    steps_per_second: float
    """Environment steps per second of collecting and learning."""


class BaseRunner(ABC):
    """Base class of the runners; each derives from this class and from the runner of its library."""

    env: VectorEnv
    """The host's environments."""
    device: str
    identity: Mapping[str, object]
    progress: TrainingProgress
    folder: str | None
    """Run folder; None if the run is not saved."""
    picture_interval: int
    notes: Mapping[str, str]
    on_iteration: Callable[[IterationSummary], None]
    """Called after every iteration; may raise `StopTraining`."""
    current_learning_iteration: int
    alg: Any
    """The library's algorithm, which has an ``optimizer``."""
    is_recorded: bool = True
    """Whether the weights are still those of the last recorded iteration; False while an update changes them."""
    silence_check: SilentLayerCheck
    return_check: ReturnExplosionCheck
    _seconds_simulation: float = 0.0
    """The environment's ``seconds_simulation`` at the end of the last recorded iteration."""
    _worlds_reset: int = 0
    """The environment's ``worlds_reset`` at the end of the last recorded iteration."""
    _meter: CostMeter | None = None
    _meter_zeros: Tensor
    """Which weights were 0 when ``_meter`` was made."""

    def setup_bookkeeping(
        self,
        folder: str | None,
        identity: Mapping[str, object] | None,
        picture_interval: int,
        notes: Mapping[str, str] | None,
    ) -> None:
        """Initialise progress and checks of a new run.

        Args:
            folder: Run folder; None to save nothing.
            identity: ``task``, ``agent`` and further identity of the run, saved in its checkpoints.
            picture_interval: Iterations between spike rasters.
            notes: Texts for TensorBoard, by name.
        """
        self.folder, self.identity = folder, identity or {}
        self.progress = TrainingProgress()
        self.picture_interval, self.notes = picture_interval, notes or {}
        self.silence_check, self.return_check = SilentLayerCheck(), ReturnExplosionCheck()
        self.on_iteration = lambda iteration: None

    @property
    @abstractmethod
    def models(self) -> Iterable[nn.Module]:
        """Trained models: actor and critic."""

    @property
    @abstractmethod
    def num_observations(self) -> int:
        """Number of the actor's observations."""

    @property
    @abstractmethod
    def inference_policy(self) -> InferencePolicy:
        """Inference policy with the weights and the state of the rollouts; does not change the training mode."""

    @property
    @abstractmethod
    def writer(self) -> ScalarWriter | None:
        """Writer of scalars and figures during training; None if nothing is written."""

    @abstractmethod
    def get_inference_policy(self, device: str | None = None) -> InferencePolicy:
        """Return the inference policy on ``device``, in evaluation mode."""

    def get_exportable_policy(self) -> Any:
        """Return the trained policy as a model of rsl_rl, which export targets take."""
        return self.alg.get_policy()

    @abstractmethod
    def save(self, path: str, infos: dict | None = None) -> None:
        """Write a checkpoint to ``path``, atomically; ``infos``: further content besides progress, identity and random states."""

    @abstractmethod
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        """Load a checkpoint without executing code from it; training continues with the next iteration.

        Args:
            path: The file.
            load_cfg: Which of ``actor``, ``critic``, ``optimizer`` and ``iteration`` to load; None for all.
            strict: Whether weights must match a model's parameters exactly.
            map_location: Device to load the tensors to; None for this runner's device.

        Raises:
            CheckpointError: The file is not a checkpoint of this task, agent and network.

        Returns:
            The checkpoint's ``infos``.
        """

    def _write_checkpoint(
        self, path: str, learned: Mapping[str, object], infos: Mapping[str, object] | None
    ) -> None:
        """Write a checkpoint without code, atomically.

        ``learned`` is the library's own content, such as weights and optimiser states; for ``infos`` see `save`.
        """
        runner_state = {
            "identity": {
                **self.identity,
                "observations": self.num_observations,
                "actions": self.env.num_actions,
            },
            "progress": vars(self.progress),
            "random": get_random_state(str(self.device)),
        }
        iteration = max(self.progress.iterations - 1, 0)
        all_infos = {**(infos or {}), "spiky_rl": runner_state}
        write_checkpoint(Path(path), {**learned, "iter": iteration, "infos": all_infos})

    def _resume(self, loaded: Mapping[str, Any], with_random_state: bool = True) -> None:
        """Resume with the iteration after the one of a ``loaded`` checkpoint, and its random generators if ``with_random_state``."""
        runner_state, next_iteration = get_runner_state(loaded), loaded["iter"] + 1
        self.current_learning_iteration = next_iteration
        if not runner_state:  # the library's own command wrote the checkpoint
            self.progress = TrainingProgress(iterations=next_iteration)
            return
        self.progress = TrainingProgress(**runner_state["progress"])
        if with_random_state:
            restore_random_state(runner_state["random"], self.device)

    @contextmanager
    def save_on_exit(self) -> Iterator[None]:
        """Save the last finished iteration if an exception ends the training, unless an update has begun to change its weights.

        Raises FloatingPointError that names the first non-finite weight, if there is one.
        """
        self._seconds_simulation = getattr(self.env, "seconds_simulation", 0.0)
        self._worlds_reset = getattr(self.env, "worlds_reset", 0)
        self.is_recorded, self._meter = True, None
        self._set_env_trained(self.progress.iterations > 0)
        try:
            yield
        except BaseException as error:
            non_finite = self._find_non_finite()
            if non_finite is None:
                self.save_last()
            if isinstance(error, RuntimeError) and non_finite is not None:
                # torch cannot sample from such weights, and a simulation cannot follow such actions
                self._raise_non_finite(self.progress.iterations, f"{non_finite} has non-finite values")
            raise

    def _set_env_trained(self, is_trained: bool) -> None:
        """Tell the environment, if it has ``set_trained``, whether the policy has been updated yet."""
        if set_trained := getattr(self.env, "set_trained", None):
            set_trained(is_trained)

    def _describe_blow_up(self) -> str:
        """Return a phrase with the settings of a simulation that has blown up; empty if it has not, or if it cannot be known."""
        describe = getattr(self.env, "describe_blow_up", None)
        return "" if describe is None else describe()

    def save_last(self) -> None:
        """Save the last finished iteration if it is not saved yet and no update has changed its weights."""
        if self.folder is None or not self.progress.iterations:
            return
        path = Path(self.folder) / f"model_{self.progress.iterations - 1}.pt"
        if path.exists():
            return
        if not self.is_recorded:
            log.warning(
                "the training ended within an update, so no new checkpoint is saved; %s",
                self.describe_last_checkpoint(),
            )
            return
        try:
            self.save(str(path))
        except (OSError, RuntimeError) as error:  # the error that ended the training is still raised
            log.error(
                "the last finished iteration could not be saved (%s); %s",
                error,
                self.describe_last_checkpoint(),
            )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter of actor and critic with its name."""
        for role, model in zip(("actor", "critic"), self.models, strict=True):
            for name, weight in model.named_parameters():
                yield f"{role}.{name}", weight.detach()

    def _find_non_finite(self) -> str | None:
        """Return the name of the first weight with non-finite values, or None; waits for the device once."""
        names, weights = zip(*self.named_weights(), strict=True)
        finite = torch.stack([weight.isfinite().all() for weight in weights]).tolist()
        return None if all(finite) else names[finite.index(False)]

    def describe_weights(self) -> str:
        """Return a phrase for an exploding training: largest weight, learning rate and last good checkpoint."""
        largest_by_name = {name: float(weight.abs().max()) for name, weight in self.named_weights()}
        name = max(largest_by_name, key=largest_by_name.__getitem__)
        return (
            f"the largest weight is {largest_by_name[name]:.3g} in {name}, the learning rate {self._get_learning_rate():.3g};"
            f" {self.describe_last_checkpoint()}"
        )

    def _get_learning_rate(self) -> float:
        """Return the learning rate of the first parameter group."""
        return self.alg.optimizer.param_groups[0]["lr"]

    def describe_last_checkpoint(self) -> str:
        """Return a phrase that names the last good checkpoint, or says that there is none."""
        checkpoints = list_checkpoints(Path(self.folder)) if self.folder is not None else []
        if not checkpoints:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {checkpoints[-1]}"

    def _raise_non_finite(self, index: int, fault: str) -> None:
        """Raise FloatingPointError with iteration ``index``, the ``fault``, its cause or a remedy, and the last good checkpoint."""
        cause = self._describe_blow_up()
        if not cause:
            rate = self._get_learning_rate()
            cause = f"at a learning rate of {rate:.3g}; lower agent.algorithm.learning_rate"
        raise FloatingPointError(f"iteration {index}: {fault}, {cause}; {self.describe_last_checkpoint()}")

    @property
    def network(self) -> SpikingNetwork | None:
        """Network of the actor; None if the actor is an ANN."""
        return getattr(next(iter(self.models)), "network", None)

    @property
    def meter(self) -> CostMeter | None:
        """Cost meter of the actor's network; None for an ANN or a foreign network.

        It is made once per training, and anew when other weights are 0. If plasticity or rounding may set weights to zero, it is made
        anew in every call.
        """
        network = self.network
        if network is None:
            return None
        zeros = torch.cat([weight.flatten() == 0 for weight in network.parameters()])
        has_plasticity = getattr(network, "plasticity", None) is not None
        is_current = self._meter is not None and bool((zeros == self._meter_zeros).all())
        if not is_current or network.is_quantized or has_plasticity:
            self._meter, self._meter_zeros = make_meter(network), zeros
        return self._meter

    def write_notes(self) -> None:
        """Write the notes if the writer supports text."""
        add_text = getattr(self.writer, "add_text", None)
        if add_text is not None:
            for name, text in self.notes.items():
                add_text(name, text, self.current_learning_iteration)

    def require_finite(self, index: int, losses: Mapping[str, float]) -> None:
        """Raise FloatingPointError if a loss or a weight is non-finite after iteration ``index``."""
        for name, value in losses.items():
            if not np.isfinite(value):
                self._raise_non_finite(index, f"the {name} loss is {value}")
        non_finite = self._find_non_finite()
        if non_finite is not None:  # after the last minibatch, whose loss was still finite
            self._raise_non_finite(index, f"{non_finite} has non-finite values")

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
        """Record a finished iteration in the progress, write its scalars, and call ``on_iteration``.

        Args:
            index: Index of this iteration.
            last: Index of the last iteration.
            env_steps: Environment steps of this iteration.
            seconds: Duration of collecting (including the simulation) and of learning.
            losses: Losses by name.
            episodes: Returns and lengths of the latest ended episodes.
            activity: Activity of the actor.
        """
        progress = self.progress
        seconds_simulation = getattr(self.env, "seconds_simulation", 0.0)
        simulation = seconds_simulation - self._seconds_simulation
        self._seconds_simulation = seconds_simulation
        # rsl_rl measures wall-clock time, which may be set back during an iteration
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
        worlds_reset = getattr(self.env, "worlds_reset", 0)
        progress.worlds_reset += worlds_reset - self._worlds_reset
        self._worlds_reset = worlds_reset
        self.is_recorded = True
        self._set_env_trained(True)
        if self.writer is not None:
            parts = {"simulation": simulation, "inference": collecting - simulation, "learning": learning}
            write_activity(self.writer, index, activity, parts)
            self.writer.add_scalar("Train/worlds_reset", progress.worlds_reset, index)
        if self.folder is not None:  # the other ranks of a distributed run have none
            self.return_check(index, progress.returns[-1], self._describe_blow_up)
            if self.network is not None:
                self.silence_check(self.network, activity)
        self.on_iteration(
            IterationSummary(
                index=index,
                last=last,
                progress=progress,
                activity=activity,
                losses=losses,
                steps_per_second=env_steps / (collecting + learning),
            )
        )

    def draws_figures(self, index: int) -> bool:
        """Return whether raster and action histogram of iteration ``index`` are drawn."""
        return self.writer is not None and index % self.picture_interval == 0


@contextmanager
def wrap_load_errors(path: str) -> Iterator[None]:
    """Turn a library's error about weights that do not fit into CheckpointError that names ``path``."""
    try:
        yield
    except CONTENT_ERRORS as error:
        raise CheckpointError(
            f"{path}: the networks do not fit this agent: {get_error_text(error)}"
        ) from None
