# pyright: reportMissingImports=false
"""mjlab's environments without their prints, with a stopwatch and a check for non-finite values."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import warp
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.utils.random import seed_rng
from tensordict import TensorDict

from spiky_rl.hosts.base import NonFiniteError, SimulationOptions
from spiky_rl.hosts.environment import (
    Stopwatch,
    TimedEnvironment,
    get_leaves,
    initialise_warp,
    iterate_terms,
    seed_torch,
    share_terrain,
)
from spiky_rl.hosts.robot_measures import RobotMeasures
from spiky_rl.metrics.video import scale_frame

log = logging.getLogger(__name__)

ROBOT = "robot"
"""Name of the entity whose distance is measured; the tasks of mjlab with a robot use it."""
LARGEST_ACTION = 1e5
"""If an absolute action exceeds this, the policy and not the simulation has caused non-finite values; normal actions are near 1."""


@contextlib.contextmanager
def silence_mjlab() -> Iterator[None]:
    """Redirect the prints of mjlab, Warp and MuJoCo to the debug log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            log.debug("mjlab: %s", line)


@contextlib.contextmanager
def open_environment(
    env_cfg: ManagerBasedRlEnvCfg, device: str, options: SimulationOptions
) -> Iterator[MjlabVecEnv]:
    """Open the environments of ``env_cfg``, which has their number and seed, and close them at the end.

    A request for deterministic kernels makes only torch's deterministic; MuJoCo Warp has none.
    """
    log.info("building the worlds; the first time on a machine, Warp compiles its kernels for minutes")
    if not log.isEnabledFor(logging.DEBUG):
        # Warp announces every kernel that it loads, also during a training
        warp.config.log_level = warp.LOG_WARNING
    with silence_mjlab():
        initialise_warp()
        if options.deterministic:
            seed_rng(env_cfg.seed or 0, torch_deterministic=True)
        env = ManagerBasedRlEnv(env_cfg, device, render_mode="rgb_array" if options.video else None)
    try:
        with silence_mjlab():
            wrapped = MjlabVecEnv(env, options.clip_actions)
        yield wrapped
    finally:
        with silence_mjlab():
            env.close()


class MjlabVecEnv(TimedEnvironment, RslRlVecEnvWrapper):
    """rsl_rl environment of mjlab, with a stopwatch and a check for non-finite values."""

    worlds_reset = 0
    """Number of worlds that were reset because their physics broke; always 0, because mjlab does not count them."""

    def __init__(self, env: ManagerBasedRlEnv, clip_actions: float | None = None) -> None:
        RslRlVecEnvWrapper.__init__(self, env, clip_actions)
        self.stopwatch = Stopwatch(self.device)

    def restart(self, parts: Sequence[torch.Tensor], seed: int) -> TensorDict:
        """Begin an episode in every environment and return the first observations.

        ``parts`` are disjoint groups of environment indices. All groups start in the same states, drawn from ``seed``, on the same terrain.
        """
        with share_terrain(self.unwrapped, parts, seed):
            for ids in parts:
                with seed_torch(seed, self.device):
                    self.unwrapped.reset(env_ids=ids)
        return self.get_observations()

    def make_measures(self) -> RobotMeasures:
        """Return the measures of the task's aim per episode, besides the reward."""
        from mjlab.tasks.velocity.mdp import UniformVelocityCommand

        robot = self.unwrapped.scene.entities.get(ROBOT)
        return RobotMeasures(self.unwrapped, robot, UniformVelocityCommand, "root_link_lin_vel_b")

    def open_camera(self) -> MjlabCamera:
        """Return a camera on environment 0."""
        return MjlabCamera(self.unwrapped)

    @staticmethod
    def make_deterministic(seed: int) -> None:
        """Use torch's deterministic kernels and seed all generators. Call it after the networks are initialised."""
        seed_rng(seed, torch_deterministic=True)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Simulate a control step: ``actions`` [B, A] -> observations, rewards [B], dones [B], extras.

        Raises NonFiniteError for a non-finite value; the message names the step, the term and the number of environments.
        """
        self.stopwatch.start()
        observations, rewards, dones, extras = super().step(actions)
        self._add_terminations(extras)
        leaves = get_leaves(observations)
        # all checks together wait for the device once
        finite = [values.isfinite().all() for values in (actions, rewards, *leaves.values())]
        if not torch.stack(finite).all():
            named = {"action": actions, "reward": rewards}
            named |= {f"observation {name}": part for name, part in iterate_terms(self.unwrapped, leaves)}
            raise NonFiniteError(*self._explain_non_finite(named))
        self.stopwatch.stop()
        return observations, rewards, dones, extras

    def _explain_non_finite(self, named: dict[str, torch.Tensor]) -> tuple[str, bool]:
        """Return a message about the ``named`` values of a step, [B, ...] each, and whether the policy caused them."""
        bad_worlds: dict[str, torch.Tensor] = {}
        for name, values in named.items():
            bad_worlds[name] = ~values.isfinite().reshape(len(values), -1).all(1)
        any_bad = torch.stack(list(bad_worlds.values())).any(0)
        largest = float(named["action"].nan_to_num(0.0).abs().max())
        blames_policy = bool(bad_worlds["action"].any()) or (largest > LARGEST_ACTION and self.is_trained)
        if blames_policy:
            cause = "the policy has exploded"
            if self.is_trained:
                cause += ", lower agent.algorithm.learning_rate"
        else:
            cause = f"env.sim.mujoco.timestep={self.cfg.sim.mujoco.timestep:.6g}"
        bad_names = [name for name, mask in bad_worlds.items() if mask.any()]
        message = (
            f"environment step {self.unwrapped.common_step_counter}: {', '.join(bad_names)}"
            f" not finite in {int(any_bad.sum())} of {len(any_bad)} environments, the first is {int(any_bad.nonzero()[0])};"
            f" {cause}; the largest action was {largest:.3g}"
        )
        return message, blames_policy


class MjlabCamera:
    """mjlab's offscreen camera on environment 0, as the task's ``viewer`` configures it."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.env = env

    def render(self) -> np.ndarray:
        """Return a picture, uint8 [480, W, 3] with an even width; the configured one is half as high by default."""
        frame = self.env.render()
        assert frame is not None
        return scale_frame(frame)

    def close(self) -> None:
        """Do nothing: the environment closes its renderer."""
