"""rsl_rl's runner with atomic checkpoints, resumable state, activity measures and a quiet terminal."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils.logger import Logger
from torch import Tensor, nn

from spiky_rl.config.options import UserError
from spiky_rl.learners.common.activity import write_figures
from spiky_rl.learners.common.checkpoint_names import CheckpointError
from spiky_rl.learners.common.checkpoints import check_identity, read_checkpoint, select_parts
from spiky_rl.learners.common.episodes import EpisodeStatistics
from spiky_rl.learners.common.interfaces import EnvSettings, ScalarWriter
from spiky_rl.learners.common.optimizers import keep_learning_rates
from spiky_rl.learners.common.runner import BaseRunner, wrap_load_errors
from spiky_rl.learners.common.processes import derive_seed
from spiky_rl.learners.rsl_rl.activity import RslRlInferencePolicy, compute_last_activity, draw_raster
from spiky_rl.learners.rsl_rl.config import CLASSES
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.learners.rsl_rl.ppo import REWARD_SCALER

if TYPE_CHECKING:
    from spiky_rl.learners.common.teacher import Teacher

log = logging.getLogger(__name__)


class RslRlRunner(BaseRunner, OnPolicyRunner):
    """`OnPolicyRunner` with our bookkeeping; its training steps are unchanged."""

    def __init__(
        self,
        env: VecEnv,
        train_cfg: dict,
        log_dir: str | None = None,
        device: str = "cpu",
        identity: Mapping[str, object] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
    ) -> None:
        """Initialise with the arguments of `OnPolicyRunner` and of `BaseRunner.setup_bookkeeping`."""
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            # without observation groups rsl_rl uses 'policy' for both models and warns three times
            warnings.filterwarnings("ignore", message="The observation configuration dictionary")
            # the environment already checks for non-finite values; rsl_rl's check waits for the device three times per step
            if getattr(env, "checks_finite", False):
                train_cfg = {**train_cfg, "check_for_nan": False}
            # rsl_rl 5.4 changes these groups, and 5.5 copies them
            groups = {key: copy.deepcopy(train_cfg[key]) for key in ("actor", "critic", "algorithm")}
            has_final_observations = getattr(env, "has_final_observations", False)
            if has_final_observations and groups["algorithm"].get("class_name") == "PPO":
                # at a time limit, rsl_rl's PPO bootstraps with the value of the observation before the last step
                groups["algorithm"]["class_name"] = f"{CLASSES}:SpikingPPO"
            super().__init__(env, {**train_cfg, **groups}, log_dir, device)
        log.debug("%s", printed.getvalue())
        self.setup_bookkeeping(log_dir, identity, picture_interval, notes)
        self.alg.optimizer.register_step_pre_hook(self._on_optimizer_step)
        self.logger = _QuietLogger(
            log_dir,
            self.cfg,
            EnvSettings(env.cfg),
            env.num_envs,
            self.is_distributed,
            self.gpu_world_size,
            self.gpu_global_rank,
            device,
        )
        self.logger.on_log = self._after_iteration

    def _configure_multi_gpu(self) -> None:
        """Set up distributed training as `OnPolicyRunner` does, and with gloo on CPUs."""
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
    def num_observations(self) -> int:
        """Number of the actor's observations."""
        return self.alg.get_policy().obs_dim

    @property
    def inference_policy(self) -> RslRlInferencePolicy:
        """Inference policy of the actor."""
        return RslRlInferencePolicy(self.alg.get_policy())

    def set_teacher(self, teacher: Teacher) -> None:
        """Set the ``teacher`` of a distillation; call it before `load`. Raises CheckpointError if the teacher does not fit."""
        from spiky_rl.learners.rsl_rl.distillation import DistillingPPO
        from spiky_rl.learners.rsl_rl.actor import build_teacher

        assert isinstance(self.alg, DistillingPPO)
        obs, actions = self.env.get_observations().to(self.device), self.env.num_actions
        self.alg.set_teacher(teacher, build_teacher(teacher, obs, actions, str(self.device)), obs, actions)
        assert self.alg.distillation is not None
        self.alg.distillation.optimizer.register_step_pre_hook(self._on_optimizer_step)

    @property
    def teacher_policy(self) -> RslRlInferencePolicy:
        """Inference policy of the teacher."""
        from spiky_rl.learners.rsl_rl.distillation import DistillingPPO

        assert isinstance(self.alg, DistillingPPO) and self.alg.distillation is not None
        return RslRlInferencePolicy(self.alg.distillation.teacher)

    @property
    def writer(self) -> ScalarWriter | None:
        """Writer of the logger."""
        return self.logger.writer

    @override
    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train for further iterations, and save the last finished one on every exit (see `BaseRunner.save_on_exit`).

        ``init_at_random_ep_len``: whether to start at random points of episodes, so that they do not all time out at once.
        """
        self._check_minibatches()
        try:
            with self.save_on_exit():
                with contextlib.redirect_stdout(io.StringIO()):
                    self.logger.init_logging_writer()
                self.write_notes()
                super().learn(num_learning_iterations, init_at_random_ep_len)
        finally:
            self.logger.stop_logging_writer()
            close = getattr(self.logger.writer, "close", None)
            if close is not None:
                close()

    def _check_minibatches(self) -> None:
        """Raise UserError if a minibatch of a recurrent model would have fewer than two environments, because its loss would be nan.

        rsl_rl splits rollouts of recurrent models by environment, and leaves out the environments that remain, of which a warning tells.
        """
        batches, envs = self.alg.num_mini_batches, self.env.num_envs
        is_recurrent = any(getattr(model, "is_recurrent", False) for model in self.models)
        if is_recurrent and envs < 2 * batches:
            raise UserError(
                f"agent.algorithm.num_mini_batches: {batches} given for a recurrent agent and {envs} environments; allowed: at"
                f" most {envs // 2}"
            )
        if is_recurrent and envs % batches:
            log.warning(
                "agent.algorithm.num_mini_batches: %d does not divide the %d environments, so rsl_rl never learns from %d of them",
                batches,
                envs,
                envs % batches,
            )

    def _on_optimizer_step(self, *_: object) -> None:
        """Mark the weights as changed; the optimiser calls this before each of its steps."""
        self.is_recorded = False

    @override
    def get_inference_policy(self, device: str | None = None) -> RslRlInferencePolicy:  # type: ignore[override]
        """Return the inference policy of the actor on ``device``, in evaluation mode."""
        return RslRlInferencePolicy(OnPolicyRunner.get_inference_policy(self, device))

    @override
    def export_policy_to_jit(self, path: str, filename: str = "policy.pt") -> None:
        """Write the policy as TorchScript with a usage description."""
        from spiky_rl.learners.rsl_rl.export import write_torchscript

        write_torchscript(self.alg.get_policy(), Path(path) / filename)

    @override
    def export_policy_to_onnx(self, path: str, filename: str = "policy.onnx", verbose: bool = False) -> None:
        """Write the policy as one ONNX file with a usage description in its metadata; ``verbose``: whether torch prints its progress."""
        from spiky_rl.learners.rsl_rl.export import write_onnx

        write_onnx(self.alg.get_policy(), Path(path) / filename, verbose)

    @override
    def save(self, path: str, infos: dict | None = None) -> None:
        self._write_checkpoint(path, self.alg.save(), infos)
        self.logger.save_model(path, self.current_learning_iteration)

    @override
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        loaded = read_checkpoint(path, map_location or self.device)
        check_identity(loaded, self.identity, path)
        parts = select_parts(loaded, load_cfg)
        if parts is None or parts.get("iteration"):
            self._check_reward_scaler(loaded, path)
        with wrap_load_errors(path), keep_learning_rates(self._list_unscheduled_optimizers()):
            loads_iteration = self.alg.load(loaded, parts, strict)
        self.alg.learning_rate = self._get_learning_rate()
        if loads_iteration:
            # the checkpoint has the random state of rank 0; other ranks must not repeat the noise of their beginning
            self._resume(loaded, with_random_state=self.gpu_global_rank == 0)
            if self.gpu_global_rank > 0:
                torch.manual_seed(derive_seed(torch.initial_seed(), self.progress.env_steps))
            if self.alg.rnd:  # the schedule of its weight counts control steps, which rsl_rl does not save
                self.alg.rnd.update_counter = self.current_learning_iteration * self.cfg["num_steps_per_env"]
        return loaded.get("infos") or {}

    def _check_reward_scaler(self, loaded: Mapping[str, object], path: str) -> None:
        """Raise CheckpointError if only this agent or only the checkpoint ``loaded`` from ``path`` learns from scaled rewards."""
        is_scaling = getattr(self.alg, "reward_scaler", None) is not None
        if is_scaling != (REWARD_SCALER in loaded):
            raise CheckpointError(
                f"{path}: agent.algorithm.reward_normalization: {str(is_scaling).lower()} given; allowed:"
                f" {str(not is_scaling).lower()}, as in the training of the checkpoint"
            )

    def _list_unscheduled_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers whose learning rates no schedule changes."""
        optimizers = [self.alg.optimizer] if self.alg.schedule == "fixed" else []
        parts = (self.alg.rnd, getattr(self.alg, "distillation", None))
        return optimizers + [part.optimizer for part in parts if part is not None]

    def _after_iteration(
        self, it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict
    ) -> None:
        """Record the iteration and write its figures; rsl_rl's logger has written the scalars."""
        self.require_finite(it, loss_dict)
        if self.draws_figures(it):
            spiking = isinstance(self.alg.get_policy(), SpikingModel)
            figure = draw_raster(self.alg) if spiking and hasattr(self.writer, "add_figure") else None
            write_figures(self.writer, it, self.alg.storage.actions, figure)
        self.record_iteration(
            it,
            last=total_it - 1,
            env_steps=self.cfg["num_steps_per_env"] * self.env.num_envs * self.gpu_world_size,
            seconds=(collect_time, learn_time),
            losses=loss_dict,
            episodes=(self.logger.rewbuffer, self.logger.lenbuffer),
            activity=compute_last_activity(self.alg, self.meter),
        )


class _QuietLogger(Logger):
    """rsl_rl's logger without its text output per iteration, and without waiting for the device in every control step.

    With random network distillation, ``Train/mean_reward`` is the return of the task alone. In rsl_rl it includes the intrinsic
    rewards, whose return is ``Rnd/mean_intrinsic_reward``.
    """

    on_log: Callable[[int, int, float, float, dict], None]
    """Called after the scalars of an iteration are written, with iteration, total, both durations and losses."""
    log_dir: str | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended = EpisodeStatistics(self.num_envs, self.device)
        self.intrinsic = EpisodeStatistics(self.num_envs, self.device)
        self.rewbuffer, self.lenbuffer = self.ended.returns, self.ended.lengths
        self.erewbuffer, self.irewbuffer = self.ended.returns, self.intrinsic.returns

    def init_logging_writer(self) -> None:
        """Initialise the writer as the parent does, but only once."""
        if self.writer is None:
            with warnings.catch_warnings():
                # rsl_rl 5.5 prefers a mapping, which rsl_rl 5.4 does not know
                warnings.filterwarnings("ignore", r"cfg\['logger'\]", DeprecationWarning)
                super().init_logging_writer()

    @override
    def process_env_step(
        self, rewards: Tensor, dones: Tensor, extras: dict, intrinsic_rewards: Tensor | None = None
    ) -> None:
        # stays on the device; `log` reads the ended episodes once per iteration
        if self.writer is None:
            return
        episode_log = extras.get("episode", extras.get("log"))
        if episode_log:
            self.ep_extras.append(episode_log)
        self.ended.add(rewards, dones > 0)
        if intrinsic_rewards is not None:
            self.intrinsic.add(intrinsic_rewards, dones > 0)

    @override
    def log(self, it: int, start_it: int, total_it: int, collect_time: float, learn_time: float, loss_dict: dict, **rest: Any) -> None:  # type: ignore[override]
        # writes the scalars, prints nothing, then calls the runner
        self.ended.fetch()
        self.intrinsic.fetch()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                # with `it + 1` as the total: rsl_rl's estimate of the remaining time overflows if there are very many iterations
                super().log(it, start_it, it + 1, collect_time, learn_time, loss_dict, **rest)
        finally:  # the iteration is finished even if the disk is full
            self.on_log(it, total_it, collect_time, learn_time, loss_dict)
