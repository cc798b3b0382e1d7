"""rsl_rl's runner with what a run of ours keeps: atomic checkpoints, resumable state, measures, a quiet terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils.logger import Logger
from torch import Tensor, nn

from spiky_rl.hosts.common.checkpoints import (
    CheckpointError,
    check_identity,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from spiky_rl.hosts.common.episodes import EndedEpisodes
from spiky_rl.hosts.common.observe import write_pictures
from spiky_rl.hosts.common.runner import HostRunner, Iteration, Progress
from spiky_rl.hosts.rsl_rl.distillation import DistillingPPO
from spiky_rl.hosts.rsl_rl.export import write_onnx
from spiky_rl.hosts.rsl_rl.model import SpikingModel
from spiky_rl.hosts.rsl_rl.observe import Played, last_activity, raster
from spiky_rl.hosts.rsl_rl.teacher import Teacher

log = logging.getLogger(__name__)


class Runner(HostRunner, OnPolicyRunner):
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
        """Arguments as `OnPolicyRunner`'s, and what is written beside the training.

        Args:
            identity: ``task`` and ``agent`` of the run and whatever else its checkpoints should say of themselves.
            picture_interval: Iterations between spike rasters.
            notes: Texts for TensorBoard, by name.
            on_iteration: Called after every iteration; may raise `Stop`.
        """
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            # where a task names no observation groups, rsl_rl takes 'policy' for both models and warns of it three times
            warnings.filterwarnings("ignore", message="The observation configuration dictionary")
            # where the environment looks for numbers that are none, rsl_rl would wait for the device thrice more in every step
            if getattr(env, "checks_finite", False):
                train_cfg = {**train_cfg, "check_for_nan": False}
            super().__init__(env, train_cfg, log_dir, device)
        log.debug("%s", printed.getvalue())
        self.keep_books(identity, picture_interval, notes, on_iteration)
        self.alg.optimizer.register_step_pre_hook(self._update_begins)
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

    def _configure_multi_gpu(self) -> None:
        """As `OnPolicyRunner`'s, and on CPUs too: there processes talk through gloo."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.device != "cpu" or processes == 1:
            super()._configure_multi_gpu()
            return
        self.is_distributed, self.gpu_world_size = True, processes
        self.gpu_local_rank, self.gpu_global_rank = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
        self.cfg["multi_gpu"] = {
            "global_rank": self.gpu_global_rank,
            "local_rank": self.gpu_local_rank,
            "world_size": processes,
        }
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(backend="gloo")

    @property
    def models(self) -> Iterable[nn.Module]:
        """Actor and critic."""
        return self.alg.actor, self.alg.critic

    @property
    def played(self) -> Played:
        """The actor as playback uses it."""
        return Played(self.alg.get_policy())

    def take_teacher(self, teacher: Teacher) -> None:
        """Begin with distillation, before anything is loaded. Raises CheckpointError for a teacher that does not fit."""
        assert isinstance(self.alg, DistillingPPO)
        self.alg.take_teacher(teacher, self.env.get_observations().to(self.device), self.env.num_actions)
        assert self.alg.distillation is not None
        self.alg.distillation.optimizer.register_step_pre_hook(self._update_begins)

    @property
    def teacher_played(self) -> Played:
        """The teacher as playback uses a policy."""
        assert isinstance(self.alg, DistillingPPO) and self.alg.distillation is not None
        return Played(self.alg.distillation.teacher)

    @property
    def folder(self) -> str | None:
        """Where the run is kept; None: nowhere."""
        return self.logger.log_dir

    @property
    def writer(self) -> Any:
        """The logger's."""
        return self.logger.writer

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train; however that ends, the last finished iteration is saved, as `HostRunner.learning` says."""
        try:
            with self.learning():
                with contextlib.redirect_stdout(io.StringIO()):
                    self.logger.init_logging_writer()
                self.write_notes()
                super().learn(num_learning_iterations, init_at_random_ep_len)
        finally:
            self.logger.stop_logging_writer()
            if close := getattr(self.logger.writer, "close", None):
                close()

    def _update_begins(self, *_: Any) -> None:
        """Called by the optimizer before each of its steps: from the first one on, an update has changed the weights."""
        self.is_booked = False

    def get_inference_policy(self, device: str | None = None) -> Played:  # type: ignore[override]
        """The actor as playback uses it, in evaluation mode, on ``device``."""
        return Played(super().get_inference_policy(device))

    def export_policy_to_onnx(self, path: str, filename: str = "policy.onnx", verbose: bool = False) -> None:
        """As `OnPolicyRunner`'s: one file, whose metadata say how it is to be run."""
        write_onnx(self.alg.get_policy(), Path(path) / filename, verbose)

    def save(self, path: str, infos: dict | None = None) -> None:
        """As `OnPolicyRunner.save`, atomically, with progress, identity and random states; no code in the file."""
        state = self.alg.save()
        state["iter"] = max(self.progress.iterations - 1, 0)
        state["infos"] = {**(infos or {}), "spiky_rl": self.state_of_run()}
        write_checkpoint(Path(path), state)
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

    def _after_iteration(
        self, it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict
    ) -> None:
        """Book the iteration and draw what TensorBoard shows beside rsl_rl's scalars."""
        self.require_finite(it, loss_dict)
        if self.is_pictured(it):
            spiking = isinstance(self.alg.get_policy(), SpikingModel)
            figure = raster(self.alg) if spiking and hasattr(self.writer, "add_figure") else None
            write_pictures(self.writer, it, self.alg.storage.actions, figure)
        self.book(
            it,
            total_it - 1,
            self.cfg["num_steps_per_env"] * self.env.num_envs * self.gpu_world_size,
            (collect_time, learn_time),
            loss_dict,
            (self.logger.rewbuffer, self.logger.lenbuffer),
            last_activity(self.alg, self.meter),
        )


class _QuietLogger(Logger):
    """rsl_rl's logger without its page of text per iteration, and without asking the device in every control step."""

    after: Callable[..., None]
    log_dir: str | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended = EndedEpisodes(self.num_envs, self.device)
        self.rewbuffer, self.lenbuffer = self.ended.returns, self.ended.lengths

    def init_logging_writer(self) -> None:
        """As the parent's; once."""
        if self.writer is None:
            super().init_logging_writer()

    def process_env_step(
        self, rewards: Tensor, dones: Tensor, extras: dict, intrinsic_rewards: Tensor | None = None
    ) -> None:
        """As the parent's; which episodes ended is read at the end of the iteration."""
        if (
            intrinsic_rewards is not None
        ):  # of random network distillation: more returns, which the parent alone counts
            super().process_env_step(rewards, dones, extras, intrinsic_rewards)
        elif self.writer is not None:
            if report := extras.get("episode", extras.get("log")):
                self.ep_extras.append(report)
            self.ended.add(rewards, dones > 0)

    def log(self, it: int, start_it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict, **rest: Any) -> None:  # type: ignore[override]
        """Write the scalars, print nothing, and hand on to the runner."""
        self.ended.read()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                super().log(it, start_it, total_it, collect_time, learn_time, loss_dict, **rest)
        finally:  # where a disk is full, the iteration is finished all the same
            self.after(it, total_it, collect_time, learn_time, loss_dict)
