"""rsl_rl's runner with what a run of ours keeps: atomic checkpoints, resumable state, measures, a quiet terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils.logger import Logger

from spiky_rl import files
from spiky_rl.hosts.rsl_rl.observe import Activity, last_activity, raster
from spiky_rl.registry import UserError
from spiky_rl.hosts.rsl_rl.model import SpikingModel

log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A file that is no checkpoint, or one of another run."""


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


class Runner(OnPolicyRunner):
    """Trains as `OnPolicyRunner` does, step for step."""

    def __init__(
        self,
        env: VecEnv,
        train_cfg: dict,
        log_dir: str | None = None,
        device: str = "cpu",
        identity: dict[str, Any] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
        on_iteration: Callable[[Iteration], None] | None = None,
    ) -> None:
        """Arguments as `OnPolicyRunner`'s, and:

        Args:
            identity: ``task`` and ``agent`` of the run and whatever else its checkpoints should say of themselves.
            picture_interval: Iterations between spike rasters.
            notes: Texts for TensorBoard, by name.
            on_iteration: Called after every iteration; may raise `Stop`.
        """
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            # where a task names no observation groups, rsl_rl takes 'policy' for both models and warns of it three times
            warnings.filterwarnings("ignore", message="The observation configuration dictionary")
            super().__init__(env, train_cfg, log_dir, device)
        log.debug("%s", printed.getvalue())
        self.identity = identity or {}
        self.progress = Progress()
        self.picture_interval = picture_interval
        self.notes = notes or {}
        self.on_iteration = on_iteration or (lambda iteration: None)
        self.logger = _QuietLogger(
            log_dir,
            self.cfg,
            env.cfg,
            env.num_envs,
            self.is_distributed,
            self.gpu_world_size,
            self.gpu_global_rank,
            device,
        )
        self.logger.after = self._after_iteration
        self._simulated = 0.0

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train; on any end that is not a crash of the learner itself, the last finished iteration is saved."""
        self._simulated = getattr(self.env, "seconds_simulation", 0.0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.logger.init_logging_writer()
            for name, text in self.notes.items():
                if hasattr(self.logger.writer, "add_text"):
                    self.logger.writer.add_text(name, text, self.current_learning_iteration)  # type: ignore
            super().learn(num_learning_iterations, init_at_random_ep_len)
        except (Stop, KeyboardInterrupt, RuntimeError) as error:
            finite = self._finite()
            if self.logger.log_dir is not None and self.progress.iterations and finite:
                path = Path(self.logger.log_dir) / f"model_{self.progress.iterations - 1}.pt"
                if not path.exists():
                    self.save(str(path))
            if isinstance(error, RuntimeError) and not finite:
                # a loss that is no number spoils the weights, and torch then refuses to sample from them
                raise FloatingPointError(
                    f"iteration {self.progress.iterations}: the loss is no number; the last good checkpoint is kept"
                ) from error
            raise
        finally:
            self.logger.stop_logging_writer()
            if close := getattr(self.logger.writer, "close", None):
                close()

    def save(self, path: str, infos: dict | None = None) -> None:
        """As `OnPolicyRunner.save`, atomically, with progress, identity and random states; no code in the file."""
        state = self.alg.save()
        state["iter"] = max(self.progress.iterations - 1, 0)
        state["infos"] = {
            **(infos or {}),
            "spiky_rl": {
                "identity": self.identity,
                "progress": vars(self.progress),
                "random": random_state(self.device),
            },
        }
        files.write(Path(path), lambda beside: torch.save(state, beside))
        self.logger.save_model(path, self.current_learning_iteration)

    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        """As `OnPolicyRunner.load`, without executing code from the file; training goes on with the next iteration.

        Raises CheckpointError for a file that is no checkpoint of this task, agent and network.
        """
        loaded = read_checkpoint(path, map_location or self.device)
        check_identity(loaded, self.identity, path)
        try:
            goes_on = self.alg.load(loaded, load_cfg, strict)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path}: its networks do not fit this agent's: {detail}") from None
        ours = (loaded.get("infos") or {}).get("spiky_rl")
        if goes_on:
            self.current_learning_iteration = loaded["iter"] + 1
            self.progress = Progress(**ours["progress"]) if ours else Progress(iterations=loaded["iter"] + 1)
            if ours and self.gpu_global_rank == 0:  # the other ranks keep draws of their own
                restore_random_state(ours["random"], self.device)
        return loaded.get("infos") or {}

    def _finite(self) -> bool:
        return all(
            p.isfinite().all() for model in (self.alg.actor, self.alg.critic) for p in model.parameters()
        )

    def _after_iteration(
        self, it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict
    ) -> None:
        """Book the iteration, write what TensorBoard shows beside rsl_rl's scalars, tell the display."""
        for name, value in loss_dict.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"iteration {it}: the {name} loss is {value}; the last good checkpoint is kept"
                )
        progress, logger = self.progress, self.logger
        simulated = getattr(self.env, "seconds_simulation", 0.0)
        simulation, self._simulated = simulated - self._simulated, simulated
        steps = self.cfg["num_steps_per_env"] * self.env.num_envs * self.gpu_world_size
        progress.iterations = it + 1
        progress.env_steps += steps
        progress.seconds_simulation += simulation
        progress.seconds_inference += collect_time - simulation
        progress.seconds_learning += learn_time
        progress.returns.append(statistics.mean(logger.rewbuffer) if logger.rewbuffer else float("nan"))
        progress.lengths.append(statistics.mean(logger.lenbuffer) if logger.lenbuffer else float("nan"))
        activity = last_activity(self.alg)
        progress.firing_rate, progress.synops_per_step = activity.rate, activity.operations
        if logger.writer is not None:
            self._write(it, activity, simulation, collect_time - simulation, learn_time)
        seconds = collect_time + learn_time
        self.on_iteration(
            Iteration(it, total_it - 1, progress, activity, loss_dict, steps / seconds, seconds)
        )

    def _write(
        self, it: int, activity: Activity, simulation: float, inference: float, learning: float
    ) -> None:
        writer: Any = self.logger.writer
        for name, seconds in (("simulation", simulation), ("inference", inference), ("learning", learning)):
            writer.add_scalar(f"Perf/seconds_{name}", seconds, it)
        writer.add_scalar("Cost/operations_per_step", activity.operations, it)
        writer.add_scalar("Cost/ann_operations_per_step", activity.ann_operations, it)
        if activity.layers:
            writer.add_scalar("Spikes/rate", activity.rate, it)
        for i, layer in enumerate(activity.layers, start=1):
            writer.add_scalar(f"Spikes/layer_{i}_rate", layer.rate, it)
            writer.add_scalar(f"Spikes/layer_{i}_silent", layer.silent, it)
            writer.add_scalar(f"Spikes/layer_{i}_saturated", layer.saturated, it)
        if it % self.picture_interval == 0:
            if hasattr(writer, "add_histogram"):
                writer.add_histogram("Policy/actions", self.alg.storage.actions, it)
            if isinstance(self.alg.get_policy(), SpikingModel) and hasattr(writer, "add_figure"):
                writer.add_figure("Spikes/raster", raster(self.alg), it)


class _QuietLogger(Logger):
    """rsl_rl's logger without its page of text per iteration."""

    after: Callable[..., None]
    log_dir: str | None

    def init_logging_writer(self) -> None:
        """As the parent's; once."""
        if self.writer is None:
            super().init_logging_writer()

    def log(self, it: int, start_it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict, **rest: Any) -> None:  # type: ignore[override]
        """Write the scalars, print nothing, and hand on to the runner."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().log(it, start_it, total_it, collect_time, learn_time, loss_dict, **rest)
        self.after(it, total_it, collect_time, learn_time, loss_dict)


def read_checkpoint(path: str, map_location: str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, read without executing code from it. Raises CheckpointError."""
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no checkpoint {path!r}")
    try:
        loaded = torch.load(path, weights_only=True, map_location=map_location)
    except (
        Exception
    ) as error:  # pylint: disable=broad-exception-caught  # a foreign file trips the unpickler anywhere
        detail = re.sub(r"\s+", " ", str(error)).split(". ")[0][:200]
        raise CheckpointError(f"{path}: no checkpoint, or a damaged one ({detail})") from None
    missing = [
        key
        for key in ("actor_state_dict", "critic_state_dict", "iter")
        if not isinstance(loaded, dict) or key not in loaded
    ]
    if missing:
        raise CheckpointError(f"{path}: no rsl_rl checkpoint: {', '.join(missing)} missing")
    return loaded


def check_identity(loaded: dict[str, Any], identity: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint that says it belongs to another task or agent."""
    theirs = ((loaded.get("infos") or {}).get("spiky_rl") or {}).get("identity", {})
    for key in ("task", "agent"):
        if key in theirs and key in identity and theirs[key] != identity[key]:
            raise CheckpointError(
                f"{path}: a checkpoint of {key} {theirs[key]!r}, not {identity[key]!r}; pass --{key} {theirs[key]}"
            )


def random_state(device: str) -> dict[str, Any]:
    """The states of every generator that training draws from, as plain data and tensors."""
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: str) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
