"""rsl_rl's runner with what a run of ours keeps: atomic checkpoints, resumable state, measures, a quiet terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, override

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils.logger import Logger
from torch import Tensor, nn

from spiky_rl.learners.common.activity import write_figures
from spiky_rl.learners.common.checkpoints import check_identity, read_checkpoint
from spiky_rl.learners.common.episodes import EpisodeStatistics
from spiky_rl.learners.common.interfaces import ScalarWriter
from spiky_rl.learners.common.runner import BaseRunner, IterationSummary, wrap_load_errors
from spiky_rl.learners.common.teacher import Teacher
from spiky_rl.learners.rsl_rl.activity import RslRlInferencePolicy, compute_last_activity, draw_raster
from spiky_rl.learners.rsl_rl.distillation import DistillingPPO
from spiky_rl.learners.rsl_rl.export import write_onnx, write_torchscript
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.learners.rsl_rl.teacher import build_teacher

log = logging.getLogger(__name__)


class RslRlRunner(BaseRunner, OnPolicyRunner):
    """Trains as `OnPolicyRunner` does, step for step."""

    def __init__(
        self,
        env: VecEnv,
        train_cfg: dict,
        log_dir: str | None = None,
        device: str = "cpu",
        identity: Mapping[str, object] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
        on_iteration: Callable[[IterationSummary], None] | None = None,
    ) -> None:
        """Arguments as `OnPolicyRunner`'s and those of `BaseRunner.setup_bookkeeping`."""
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            # where a task names no observation groups, rsl_rl takes 'policy' for both models and warns of it three times
            warnings.filterwarnings("ignore", message="The observation configuration dictionary")
            # where the environment looks for numbers that are none, rsl_rl would wait for the device thrice more in every step
            if getattr(env, "checks_finite", False):
                train_cfg = {**train_cfg, "check_for_nan": False}
            super().__init__(env, train_cfg, log_dir, device)
        log.debug("%s", printed.getvalue())
        self.setup_bookkeeping(identity, picture_interval, notes, on_iteration)
        self.alg.optimizer.register_step_pre_hook(self._on_optimizer_step)
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
    def inference_policy(self) -> RslRlInferencePolicy:
        """The actor as playback uses it."""
        return RslRlInferencePolicy(self.alg.get_policy())

    def set_teacher(self, teacher: Teacher) -> None:
        """Begin with distillation from ``teacher``, before anything is loaded. Raises CheckpointError where it does not fit."""
        assert isinstance(self.alg, DistillingPPO)
        obs, actions = self.env.get_observations().to(self.device), self.env.num_actions
        self.alg.set_teacher(teacher, build_teacher(teacher, obs, actions, str(self.device)), obs, actions)
        assert self.alg.distillation is not None
        self.alg.distillation.optimizer.register_step_pre_hook(self._on_optimizer_step)

    @property
    def teacher_policy(self) -> RslRlInferencePolicy:
        """The teacher as playback uses a policy."""
        assert isinstance(self.alg, DistillingPPO) and self.alg.distillation is not None
        return RslRlInferencePolicy(self.alg.distillation.teacher)

    @property
    def folder(self) -> str | None:
        """Where the run is kept; None: nowhere."""
        return self.logger.log_dir

    @property
    def writer(self) -> ScalarWriter | None:
        """The logger's."""
        return self.logger.writer

    @override
    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train; however that ends, the last finished iteration is saved, as `BaseRunner.save_on_exit` says.

        Args:
            num_learning_iterations: From the present one on.
            init_at_random_ep_len: Begin in the middle of episodes, so that time does not end all of them at once.
        """
        try:
            with self.save_on_exit():
                with contextlib.redirect_stdout(io.StringIO()):
                    self.logger.init_logging_writer()
                self.write_notes()
                super().learn(num_learning_iterations, init_at_random_ep_len)
        finally:
            self.logger.stop_logging_writer()
            if close := getattr(self.logger.writer, "close", None):
                close()

    def _on_optimizer_step(self, *_: object) -> None:
        """Called by the optimizer before each of its steps: from the first one on, an update has changed the weights."""
        self.is_recorded = False

    @override
    def get_inference_policy(self, device: str | None = None) -> RslRlInferencePolicy:  # type: ignore[override]
        """The actor as playback uses it, in evaluation mode, on ``device``."""
        return RslRlInferencePolicy(OnPolicyRunner.get_inference_policy(self, device))

    @override
    def export_policy_to_jit(self, path: str, filename: str = "policy.pt") -> None:
        """Write the policy as TorchScript that says how it is to be run; arguments as `export_policy_to_onnx`'s."""
        write_torchscript(self.alg.get_policy(), Path(path) / filename)

    @override
    def export_policy_to_onnx(self, path: str, filename: str = "policy.onnx", verbose: bool = False) -> None:
        """Write the policy as one file whose metadata say how it is to be run.

        Args:
            path: The folder.
            filename: Name of the file in it.
            verbose: Let torch say what it does.
        """
        write_onnx(self.alg.get_policy(), Path(path) / filename, verbose)

    @override
    def save(self, path: str, infos: dict | None = None) -> None:
        self._write(path, self.alg.save(), infos)
        self.logger.save_model(path, self.current_learning_iteration)

    @override
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        loaded = read_checkpoint(path, map_location or self.device)
        check_identity(loaded, self.identity, path)
        with wrap_load_errors(path):
            goes_on = self.alg.load(loaded, load_cfg, strict)
        if goes_on:
            self._resume(loaded, draws=self.gpu_global_rank == 0)  # the other ranks keep draws of their own
        return loaded.get("infos") or {}

    def _after_iteration(
        self, it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict
    ) -> None:
        """Book the iteration and draw what TensorBoard shows beside rsl_rl's scalars."""
        self.require_finite(it, loss_dict)
        if self.draws_figures(it):
            spiking = isinstance(self.alg.get_policy(), SpikingModel)
            figure = draw_raster(self.alg) if spiking and hasattr(self.writer, "add_figure") else None
            write_figures(self.writer, it, self.alg.storage.actions, figure)
        self.record_iteration(
            it,
            total_it - 1,
            self.cfg["num_steps_per_env"] * self.env.num_envs * self.gpu_world_size,
            (collect_time, learn_time),
            loss_dict,
            (self.logger.rewbuffer, self.logger.lenbuffer),
            compute_last_activity(self.alg, self.meter),
        )


class _QuietLogger(Logger):
    """rsl_rl's logger without its page of text per iteration, and without asking the device in every control step."""

    after: Callable[[int, int, float, float, dict], None]
    log_dir: str | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended = EpisodeStatistics(self.num_envs, self.device)
        self.rewbuffer, self.lenbuffer = self.ended.returns, self.ended.lengths

    def init_logging_writer(self) -> None:
        """As the parent's; once."""
        if self.writer is None:
            super().init_logging_writer()

    @override
    def process_env_step(
        self, rewards: Tensor, dones: Tensor, extras: dict, intrinsic_rewards: Tensor | None = None
    ) -> None:
        # which episodes ended is read at the end of the iteration
        if intrinsic_rewards is not None:
            # of random network distillation: more returns, which the parent alone counts
            super().process_env_step(rewards, dones, extras, intrinsic_rewards)
        elif self.writer is not None:
            if report := extras.get("episode", extras.get("log")):
                self.ep_extras.append(report)
            self.ended.add(rewards, dones > 0)

    @override
    def log(self, it: int, start_it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict, **rest: Any) -> None:  # type: ignore[override]
        # writes the scalars, prints nothing, and hands on to the runner
        self.ended.fetch()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                super().log(it, start_it, total_it, collect_time, learn_time, loss_dict, **rest)
        finally:  # where a disk is full, the iteration is finished all the same
            self.after(it, total_it, collect_time, learn_time, loss_dict)
