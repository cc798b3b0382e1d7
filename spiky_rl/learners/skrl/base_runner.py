"""Base class of the runners of skrl's agents, with the interface, checkpoints and figures of our rsl_rl runner."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, override

import torch
from torch import Tensor

from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.learners.common.checkpoints import (
    CheckpointError,
    check_identity,
    read_checkpoint,
    select_parts,
)
from spiky_rl.learners.common.episodes import EpisodeStatistics
from spiky_rl.learners.common.interfaces import EnvSettings, VectorEnv
from spiky_rl.learners.common.optimizers import keep_learning_rates
from spiky_rl.learners.common.runner import BaseRunner, wrap_load_errors
from spiky_rl.learners.skrl.activity import SkrlInferencePolicy
from spiky_rl.learners.skrl.environment import SkrlEnv
from spiky_rl.learners.skrl.models import SequenceModel

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class SkrlEpisodeStatistics(EpisodeStatistics):
    """Returns and lengths of the latest episodes, and the environment's reports about them."""

    def __init__(self, num_envs: int, device: torch.device | str) -> None:
        super().__init__(num_envs, device)
        self.reports: list[Mapping[str, float | Tensor]] = []

    def add_step(
        self, rewards: Tensor, dones: Tensor, extras: Mapping[str, Mapping[str, float | Tensor]]
    ) -> None:
        """Count a control step: ``rewards`` and ``dones`` [B, 1], and the environment's ``extras``."""
        if report := extras.get("episode", extras.get("log")):
            self.reports.append(report)
        self.add(rewards.view(-1), dones.view(-1))

    def fetch_reports(self) -> dict[str, float]:
        """Return the means of the environment's reports since the last call, by tag."""
        values: dict[str, list[float]] = {}
        for report in self.reports:
            for key, value in report.items():
                numbers = torch.as_tensor(value, dtype=torch.float32).flatten().tolist()
                values.setdefault(key if "/" in key else f"Episode/{key}", []).extend(numbers)
        self.reports.clear()
        return {tag: statistics.mean(numbers) for tag, numbers in values.items() if numbers}


class SkrlBaseRunner(BaseRunner):
    """Base class of the runners; subclasses build the agent and run its iterations."""

    parts: ClassVar[Mapping[str, Sequence[str]]]
    """Separately loadable parts in rsl_rl's names, and their modules in skrl."""
    same_settings: ClassVar[str]
    """Settings that decide which modules a checkpoint has, as text in error messages."""
    policy: SequenceModel

    def __init__(
        self,
        env: VectorEnv,
        config: Mapping[str, Any],
        log_dir: str | None = None,
        device: str = "cpu",
        identity: Mapping[str, object] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
    ) -> None:
        """Initialise with the arguments of a run and of `BaseRunner.setup_bookkeeping`.

        Args:
            env: Environment with rsl_rl's interface; it also measures times and checks values.
            config: The configuration from ``make_runner_cfg`` of the module `config` or `replay_config`.
            log_dir: The run folder.
            device: Device of the models.
        """
        self.env, self.device, self.cfg = env, device, config
        self.setup_bookkeeping(log_dir, identity, picture_interval, notes)
        bound = config.get("action_bound", math.inf)
        self.environment = SkrlEnv(env, config["obs_groups"], config["states"], bound)
        self.current_learning_iteration = 0
        self.episodes = SkrlEpisodeStatistics(env.num_envs, env.device)
        self._elapsed = 0.0
        self._writer: SummaryWriter | None = None
        with silence_skrl():
            self._build_agent()

    @abstractmethod
    def _build_agent(self) -> None:
        """Set ``alg``, the agent of ``cfg``, and its models."""

    @property
    def num_observations(self) -> int:
        """Number of the actor's observations."""
        return self.policy.num_observations

    @property
    def inference_policy(self) -> SkrlInferencePolicy:
        """Inference policy of the agent."""
        return SkrlInferencePolicy(self.alg, self.environment)

    @property
    def writer(self) -> SummaryWriter | None:
        """TensorBoard's writer during training."""
        return self._writer

    @property
    @abstractmethod
    def action_std(self) -> Tensor:
        """Standard deviation of the action noise, [A]; of SAC before the tanh."""

    def learn(self, iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train for further ``iterations``, and save the last finished one on every exit (see `BaseRunner.save_on_exit`).

        ``init_at_random_ep_len``: whether to start at random points of episodes, so that they do not all time out at once.
        """
        if self.folder is not None:
            self._writer = self._open_writer(self.folder)
        try:
            self._start()  # if it fails, such as for a damaged replay file, there is nothing new to save
            with self.save_on_exit():
                self.write_notes()
                self._learn(iterations, init_at_random_ep_len)
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _open_writer(self, folder: str) -> SummaryWriter:
        """Return the writer of the run ``folder`` for the logger of the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        if self.cfg.get("logger", "tensorboard") == "tensorboard":
            return SummaryWriter(log_dir=folder, flush_secs=10)
        from spiky_rl.learners.skrl.wandb_writer import WandbWriter

        settings = {
            "train_cfg": dict(self.cfg),
            "env_cfg": EnvSettings(getattr(self.env, "cfg", {})).to_dict(),
        }
        return WandbWriter(folder, self.cfg["wandb_project"], settings)

    def _learn(self, iterations: int, init_at_random_ep_len: bool) -> None:
        if init_at_random_ep_len:
            self.env.episode_length_buf = torch.randint_like(
                self.env.episode_length_buf, high=int(self.env.max_episode_length)
            )
        first = self.current_learning_iteration
        observations, _ = self.environment.reset()
        for index in range(first, first + iterations):
            observations, collecting, learning = self._run_iteration(index, observations)
            self.current_learning_iteration = index
            self._write_iteration(index, first + iterations - 1, collecting, learning)
            if self.folder is not None and index % self.cfg["save_interval"] == 0:
                self.save(str(Path(self.folder) / f"model_{index}.pt"))
        if self.folder is not None:
            self.save(str(Path(self.folder) / f"model_{self.current_learning_iteration}.pt"))

    @abstractmethod
    def _start(self) -> None:
        """Prepare the agent for training. Raises UserError or CheckpointError before anything is trained."""

    @abstractmethod
    def _run_iteration(self, index: int, observations: Tensor) -> tuple[Tensor, float, float]:
        """Run the control steps and updates of an iteration; return the next observations and the seconds of both."""

    def _run_control_step(self, observations: Tensor, clock: Mapping[str, int]) -> Tensor:
        """Act, and record the transition; return the next observations. ``clock``: skrl's ``timestep`` and ``timesteps``."""
        states = self.environment.state()
        with torch.no_grad():
            actions, _ = self.alg.act(observations, states, **clock)
            next_observations, rewards, terminated, truncated, extras = self.environment.step(actions)
            self.episodes.add_step(rewards, terminated | truncated, extras)
            successors, next_states = self.environment.get_successors(extras)
            self.alg.record_transition(
                observations=observations,
                states=states,
                actions=actions,
                rewards=rewards.clone(),  # skrl writes into them
                next_observations=successors,
                next_states=next_states,
                terminated=terminated,
                truncated=truncated,
                infos=extras,
                **clock,
            )
        return next_observations

    @abstractmethod
    def compute_losses(self) -> dict[str, float]:
        """Return the unweighted losses of the latest updates, in rsl_rl's names."""

    @abstractmethod
    def _write_figures(self, index: int) -> None:
        """Write action histogram and raster of an iteration."""

    @abstractmethod
    def _compute_activity(self) -> PolicyActivity:
        """Return the actor's activity at the end of an iteration."""

    def _write_iteration(self, index: int, last: int, collecting: float, learning: float) -> None:
        """Record the iteration, and write its scalars under the names of rsl_rl's logger."""
        self.episodes.fetch()
        reports = self.episodes.fetch_reports()
        losses = self.compute_losses()
        self.require_finite(index, losses)
        env_steps = self.cfg["num_steps_per_env"] * self.env.num_envs
        if self.writer is not None:
            action_std = self.action_std.mean().item()
            self._elapsed += collecting + learning
            scalars = {
                **reports,
                **{f"Loss/{name}": value for name, value in losses.items()},
                "Loss/learning_rate": self._get_learning_rate(),
                "Policy/mean_std": action_std,
                "Perf/total_fps": int(env_steps / (collecting + learning)),
                "Perf/collection_time": collecting,
                "Perf/learning_time": learning,
            }
            if self.episodes.returns:
                latest = {"mean_reward": self.episodes.returns, "mean_episode_length": self.episodes.lengths}
                for name, values in latest.items():
                    mean = scalars[f"Train/{name}"] = statistics.mean(values)
                    self.writer.add_scalar(f"Train/{name}/time", mean, int(self._elapsed))
            for tag, value in scalars.items():
                self.writer.add_scalar(tag, value, index)
            if save_films := getattr(self.writer, "save_films", None):
                save_films(index)
        if self.draws_figures(index):
            self._write_figures(index)
        self.record_iteration(
            index,
            last,
            env_steps,
            (collecting, learning),
            losses,
            (self.episodes.returns, self.episodes.lengths),
            self._compute_activity(),
        )

    @override
    def save(self, path: str, infos: dict | None = None) -> None:
        # in the layout of skrl's agents
        states = {name: module.state_dict() for name, module in self.alg.checkpoint_modules.items()}
        self._write_checkpoint(path, states, infos)
        if save_model := getattr(self.writer, "save_model", None):
            save_model(path)

    @override
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        loaded = read_checkpoint(path, map_location or self.device, "skrl")
        check_identity(loaded, self.identity, path)
        parts = select_parts(loaded, load_cfg) or dict.fromkeys((*self.parts, "iteration"), True)
        names = [name for part, names in self.parts.items() if parts.get(part) for name in names]
        modules = self._select_modules(path, names, loaded)
        scheduled = self.cfg["agent"].get("learning_rate_scheduler") is not None
        optimizers = [module for name, module in modules.items() if name.endswith("optimizer")]
        with wrap_load_errors(path), keep_learning_rates([] if scheduled else optimizers):
            for name, module in modules.items():
                options = {} if name.endswith("optimizer") else {"strict": strict}
                module.load_state_dict(loaded[name], **options)
        if parts.get("iteration"):
            self._resume(loaded)
        return loaded.get("infos") or {}

    def _select_modules(self, path: str, names: Collection[str], loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Return those modules of ``names`` that this agent and the checkpoint ``loaded`` from ``path`` have.

        Raises CheckpointError for a module that only one of the two has.
        """
        for name in names:
            if (name in loaded) != (name in self.alg.checkpoint_modules):
                owner = "the checkpoint" if name in loaded else "this agent"
                raise CheckpointError(
                    f"{path}: only {owner} has a {name}; set {self.same_settings} as in the training of the checkpoint"
                )
        return {name: self.alg.checkpoint_modules[name] for name in names if name in loaded}

    def get_inference_policy(self, device: str | None = None) -> SkrlInferencePolicy:
        """Return the inference policy on ``device``, in evaluation mode."""
        self.policy.to(device or self.device)
        self.alg.enable_training_mode(False, apply_to_models=True)
        return self.inference_policy


@contextlib.contextmanager
def silence_skrl() -> Iterator[None]:
    """Suppress skrl's log messages below the level ERROR."""
    log = logging.getLogger("skrl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
