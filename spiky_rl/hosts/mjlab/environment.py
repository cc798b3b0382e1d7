# pyright: reportMissingImports=false
"""mjlab's environments without their prints, with a stopwatch and a check for non-finite values."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import override

import mujoco
import numpy as np
import warp
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.utils.random import seed_rng

from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.environment import Stopwatch, TimedEnvironment, initialise_warp, log_prints
from spiky_rl.hosts.robot_measures import RobotMeasures
from spiky_rl.metrics.video import scale_frame

log = logging.getLogger(__name__)

ROBOT = "robot"
"""Name of the entity whose distance is measured; the tasks of mjlab with a robot use it."""


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
    with log_prints("mjlab"):
        initialise_warp()
        if options.deterministic:
            seed_rng(env_cfg.seed or 0, torch_deterministic=True)
        env = ManagerBasedRlEnv(env_cfg, device, render_mode="rgb_array" if options.video else None)
    try:
        with log_prints("mjlab"):
            wrapped = MjlabVecEnv(env, options.clip_actions)
        yield wrapped
    finally:
        with log_prints("mjlab"):
            env.close()


class MjlabVecEnv(TimedEnvironment, RslRlVecEnvWrapper):
    """rsl_rl environment of mjlab, with a stopwatch and a check for non-finite values."""

    worlds_reset = 0
    """Number of worlds that were reset because their physics broke; always 0, because mjlab does not count them."""

    def __init__(self, env: ManagerBasedRlEnv, clip_actions: float | None = None) -> None:
        RslRlVecEnvWrapper.__init__(self, env, clip_actions)
        self.stopwatch = Stopwatch(self.device)

    def make_measures(self) -> RobotMeasures:
        """Return the measures of the task's aim per episode, besides the reward."""
        from mjlab.tasks.velocity.mdp import UniformVelocityCommand

        robot = self.unwrapped.scene.entities.get(ROBOT)
        return RobotMeasures(self.unwrapped, robot, UniformVelocityCommand, "root_link_lin_vel_b")

    @property
    def sliding_joints(self) -> frozenset[str]:
        """Names of the entities' joints that slide instead of turning, without the prefix of their entity."""
        joints = [joint for entity in self.unwrapped.scene.entities.values() for joint in entity.spec.joints]
        # pylint: disable-next=no-member
        slide = mujoco.mjtJoint.mjJNT_SLIDE  # pyright: ignore[reportAttributeAccessIssue]
        return frozenset(joint.name.rpartition("/")[2] for joint in joints if joint.type == slide)

    def open_camera(self) -> MjlabCamera:
        """Return a camera on environment 0."""
        return MjlabCamera(self.unwrapped)

    @staticmethod
    def make_deterministic(seed: int) -> None:
        """Use torch's deterministic kernels and seed all generators. Call it after the networks are initialised."""
        seed_rng(seed, torch_deterministic=True)

    @override
    def format_settings(self) -> str:
        return f"env.sim.mujoco.timestep={self.cfg.sim.mujoco.timestep:.6g}"


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
