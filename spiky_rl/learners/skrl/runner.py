"""skrl's runner with what a run of ours keeps: the surface, the checkpoints and the figures of the rsl_rl host's."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import torch
from torch import Tensor, nn

from spiky_rl.learners.common.activity import write_figures
from spiky_rl.learners.common.checkpoints import CheckpointError, check_identity, read_checkpoint
from spiky_rl.learners.common.interfaces import VectorEnv
from spiky_rl.learners.common.runner import BaseRunner, IterationSummary, wrap_load_errors
from spiky_rl.learners.skrl.activity import SkrlInferencePolicy, compute_last_activity, draw_raster
from spiky_rl.learners.skrl.components import ComponentRunner
from spiky_rl.learners.skrl.environment import SkrlEnv
from spiky_rl.learners.skrl.episodes import SkrlEpisodeStatistics, write_training
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PARTS = {
    "actor": ("policy", "observation_preprocessor"),
    "critic": ("value", "value_preprocessor", "state_preprocessor"),
    "optimizer": ("optimizer",),
}
"""What can be loaded by itself, in rsl_rl's words, and the modules of skrl's that belong to it."""


class SkrlRunner(BaseRunner, ComponentRunner):
    """Trains with skrl's agents, models from our configuration, and skrl's own update."""

    def __init__(
        self,
        env: VectorEnv,
        config: Mapping[str, Any],
        log_dir: str | None = None,
        device: str = "cpu",
        identity: Mapping[str, object] | None = None,
        picture_interval: int = 25,
        notes: dict[str, str] | None = None,
        on_iteration: Callable[[IterationSummary], None] | None = None,
    ) -> None:
        """Arguments of `BaseRunner.setup_bookkeeping`, and those of a run.

        Args:
            env: It stays in charge of timing and checks.
            config: Configuration as `spiky_rl.learners.skrl.config.make_runner_cfg` makes it.
            log_dir: Where the run is kept; None: nowhere.
            device: Device of the models.
        """
        self.env, self.device, self.cfg = env, device, config
        self.setup_bookkeeping(identity, picture_interval, notes, on_iteration)
        self.environment = SkrlEnv(env, config["obs_groups"], config["states"])
        self.current_learning_iteration = 0
        self.episodes = SkrlEpisodeStatistics(env.num_envs, env.device)
        self._folder, self._elapsed = log_dir, 0.0
        self._writer: SummaryWriter | None = None
        settings = {key: config[key] for key in ("models", "memory", "agent", "trainer")}
        # skrl seeds every generator: with the seed that torch has, so that who made the runner decides it
        seed = torch.initial_seed() % 2**32
        with silence_skrl():
            ComponentRunner.__init__(self, self.environment, {"seed": seed, **settings})
        self.alg: SkrlSpikingPPO | SpikingRecurrentPPO = self.agent  # type: ignore[assignment]
        self.policy, self.value = self.alg.policy, self.alg.value

    @property
    def models(self) -> Iterable[nn.Module]:
        """Policy and value function."""
        return self.policy, self.value

    @property
    def inference_policy(self) -> SkrlInferencePolicy:
        """The policy as playback uses it."""
        return SkrlInferencePolicy(self.alg, self.environment)

    @property
    def folder(self) -> str | None:
        """Where the run is kept; None: nowhere."""
        return self._folder

    @property
    def writer(self) -> SummaryWriter | None:
        """TensorBoard's, while training."""
        return self._writer

    def learn(self, iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train; however that ends, the last finished iteration is saved, as `BaseRunner.save_on_exit` says.

        Args:
            iterations: From the present one on.
            init_at_random_ep_len: Begin in the middle of episodes, so that time does not end all of them at once.
        """
        if self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=self.folder, flush_secs=10)
        try:
            with self.save_on_exit():
                self.write_text_summaries()
                self._learn(iterations, init_at_random_ep_len)
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _learn(self, iterations: int, init_at_random_ep_len: bool) -> None:
        if init_at_random_ep_len:
            self.env.episode_length_buf = torch.randint_like(
                self.env.episode_length_buf, high=int(self.env.max_episode_length)
            )
        self.alg.enable_training_mode(True)
        self.alg.reset_rollout()
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

    def _run_iteration(self, index: int, observations: Tensor) -> tuple[Tensor, float, float]:
        """A rollout and its update; the observations that follow and the seconds of both."""
        steps, agent, environment = self.cfg["num_steps_per_env"], self.alg, self.environment
        begun = collected = time.time()
        for step in range(steps):
            clock = {"timestep": index * steps + step, "timesteps": (index + 1) * steps}
            states = environment.state()
            agent.pre_interaction(**clock)
            with torch.no_grad():
                actions, _ = agent.act(observations, states, **clock)
                following, rewards, terminated, truncated, extras = environment.step(actions)
                self.episodes.add_step(rewards, terminated | truncated, extras)
                agent.record_transition(
                    observations=observations,
                    states=states,  # type: ignore[arg-type]
                    actions=actions,
                    rewards=rewards.clone(),  # skrl writes into them
                    next_observations=following,
                    next_states=environment.state(),  # type: ignore[arg-type]
                    terminated=terminated,
                    truncated=truncated,
                    infos=extras,
                    **clock,
                )
            observations = following
            if step == steps - 1:
                collected = time.time()
                self.is_recorded = False  # the update follows
            agent.post_interaction(**clock)
        return observations, collected - begun, time.time() - collected

    def _write_iteration(self, index: int, last: int, collecting: float, learning: float) -> None:
        """Book the iteration, with what rsl_rl's logger writes of one under the same names."""
        self.episodes.fetch()
        losses = self.losses()
        self.require_finite(index, losses)
        env_steps = self.cfg["num_steps_per_env"] * self.env.num_envs
        if self.writer is not None:
            deviation = self.action_std.mean().item()
            self._elapsed += collecting + learning
            seconds = (collecting, learning, self._elapsed)
            write_training(
                self.writer,
                index,
                losses,
                self._get_learning_rate(),
                deviation,
                env_steps,
                seconds,
                self.episodes,
            )
        if self.draws_figures(index):
            write_figures(self.writer, index, self.alg.get_rollout_tensor("actions"), draw_raster(self.alg))
        self.record_iteration(
            index,
            last,
            env_steps,
            (collecting, learning),
            losses,
            (self.episodes.returns, self.episodes.lengths),
            compute_last_activity(self.alg, self.meter),
        )

    @property
    def action_std(self) -> Tensor:
        """Standard deviation of the actions, [A], within its limits, as they are drawn."""
        policy = self.policy
        return policy.log_std.detach().clamp(*policy.limits).exp()

    def losses(self) -> dict[str, float]:
        """Losses of the last update, in rsl_rl's names and without their weights."""
        tracked, agent = self.alg.tracking_data, self.alg
        weight = agent.cfg.value_loss_scale or 1.0
        found = {"value": tracked["Loss / Value loss"], "surrogate": tracked["Loss / Policy loss"]}
        means = {name: sum(values) / len(values) for name, values in found.items()}
        tracked.clear()
        entropy = (self.action_std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum().item()
        return {"value": means["value"] / weight, "surrogate": means["surrogate"], "entropy": entropy}

    @override
    def save(self, path: str, infos: dict | None = None) -> None:
        # as skrl's agents write and read them
        self._write_checkpoint(
            path, {n: m.state_dict() for n, m in self.alg.checkpoint_modules.items()}, infos
        )

    @override
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        loaded = read_checkpoint(path, map_location or self.device, "skrl")
        check_identity(loaded, self.identity, path)
        wanted = load_cfg or dict.fromkeys((*PARTS, "iteration"), True)
        modules = [name for part, names in PARTS.items() if wanted.get(part) for name in names]
        for name in modules:
            if (name in loaded) != (name in self.alg.checkpoint_modules):
                where = "the checkpoint has" if name in loaded else "this agent has"
                raise CheckpointError(
                    f"{path}: {where} a {name} and the other has none; give agent.algorithm.value_normalization and"
                    " agent.actor.obs_normalization the values that it was trained with"
                )
        with wrap_load_errors(path):
            for name in modules:
                if module := self.alg.checkpoint_modules.get(name):
                    how = {} if name == "optimizer" else {"strict": strict}
                    module.load_state_dict(loaded[name], **how)
        if wanted.get("iteration"):
            self._resume(loaded)
        return loaded.get("infos") or {}

    def get_inference_policy(self, device: str | None = None) -> SkrlInferencePolicy:
        """The policy as playback uses it, in evaluation mode, on ``device``."""
        self.policy.to(device or self.device)
        self.alg.enable_training_mode(False, apply_to_models=True)
        return self.inference_policy


@contextlib.contextmanager
def silence_skrl() -> Iterator[None]:
    """Hold back what skrl says of itself; errors pass."""
    log = logging.getLogger("skrl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
