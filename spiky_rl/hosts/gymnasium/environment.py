"""A task of Gymnasium as an rsl_rl environment."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, override

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.options import UserError
from spiky_rl.hosts.base import NonFiniteError, SimulationOptions
from spiky_rl.hosts.environment import HostEnvironment
from spiky_rl.metrics.video import scale_frame

if TYPE_CHECKING:
    from spiky_rl.hosts.gymnasium.host import GymnasiumTask
    from spiky_rl.hosts.gymnasium.interface import TaskInterface

FRAME_RATE = 30.0
"""Frames of a video per second if the task tells neither its control period nor a frame rate."""
RESTART_STREAM = 0x57A7
"""Number that enters the seeds of `GymnasiumVecEnv.restart`, so that no episode begins as in a training with the same seed."""
VELOCITY = "x_velocity"
"""Key of Gymnasium's infos: forward velocity in m/s, which its MuJoCo robots have."""


class GymnasiumVecEnv(HostEnvironment):
    """B environments of a task. The control step that ends an episode also resets its environment.

    Actions are in [-1, 1], see `TaskSpaces.to_actions`. Rewards are the task's own.
    """

    has_final_observations = True
    """Whether `step` returns the last observations of ended episodes in ``extras``."""
    takes_task_units = False
    """Whether actions of `step` are in the task's units, not in [-1, 1]."""
    worlds_reset = 0
    """Number of worlds reset because their physics broke."""

    def __init__(
        self, task: GymnasiumTask, device: torch.device | str, num_envs: int, options: SimulationOptions
    ) -> None:
        self.task_id, self.spaces, self.history = task.id, task.spaces, task.history
        self.device, self.num_envs = torch.device(device), num_envs
        self.num_actions, self.max_episode_length = task.spaces.num_actions, task.max_episode_steps
        self.control_period, self.clip_actions = task.spaces.control_period, options.clip_actions
        self.cfg = {"task": task.id, "num_envs": num_envs, "seed": options.seed, **task.settings}
        self._frames = torch.empty(0)
        """The latest ``history`` observations, [B, history, ...]."""
        self.seconds_simulation = 0.0
        """Total seconds in `step`."""
        settings: dict[str, Any] = dict(task.settings)
        if options.video:
            settings["render_mode"] = "rgb_array"
            if task.camera is not None and not settings.keys() & {"camera_id", "camera_name"}:
                settings["camera_name"] = task.camera
        flattening = [FlattenObservation] if task.spaces.needs_flattening else []
        self.vector_env: Any = gymnasium.make_vec(
            task.id,
            num_envs,
            # a task's own vector class would have an autoreset of its own
            vectorization_mode=task.vectorization_mode,
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            wrappers=[*flattening, CheckedTask],
            **settings,
        )
        frame_rate = self.vector_env.metadata.get("render_fps") or FRAME_RATE
        self.step_dt = self.control_period or 1.0 / frame_rate
        """Seconds of a control step for videos and rsl_rl's reward scales; a guess from the frame rate if `control_period` is None."""
        self.latest_infos: Mapping[str, Any] = {}
        """Gymnasium's infos of the latest step."""
        try:
            # Gymnasium would seed environment i with seed + i, so runs with neighbouring seeds would share nearly all episodes
            observations, _ = self.vector_env.reset(seed=derive_seeds(options.seed, num_envs))
            self._begin(observations)
            if options.video:
                self.open_camera().render()  # raises before a training starts
        except BaseException:
            self.close()
            raise

    @property
    def unwrapped(self) -> GymnasiumVecEnv:
        """This environment; rsl_rl reads ``step_dt`` from it."""
        return self

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest action in the task's units, [A] each; None for discrete actions."""
        if self.spaces.is_discrete:
            return None
        low, high = self.spaces.bounds
        return torch.as_tensor(low), torch.as_tensor(high)

    @property
    def takes_whole_numbers(self) -> bool:
        """Whether every component of an action is a whole number or a bool."""
        return self.spaces.takes_whole_numbers

    @property
    def interface(self) -> TaskInterface:
        """Meaning of the task's observations and actions, for the header of an exported policy."""
        return self.spaces.interface

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of an observation; empty if observations are vectors."""
        return self.spaces.observation_shape if self.spaces.is_image else ()

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps of the current episodes, [B]. Setting it has no effect: Gymnasium counts the steps itself."""
        return self._lengths

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        """Ignore ``value``."""

    def get_observations(self) -> TensorDict:
        """Return the current observations as group ``policy``."""
        return self._to_groups(self._frames)

    def reset(self) -> tuple[TensorDict, dict[str, Any]]:
        """Begin an episode in every environment, and return the first observations and Gymnasium's infos."""
        observations, infos = self.vector_env.reset()
        self._begin(observations)
        return self.get_observations(), infos

    @override
    def reseed(self, seed: int, env_steps: int) -> None:
        observations, _ = self.vector_env.reset(seed=derive_seeds([seed, env_steps], self.num_envs))
        self._begin(observations)

    def restart(self, parts: Sequence[Tensor], seed: int) -> TensorDict:
        """Begin an episode in every environment and return the first observations.

        ``parts`` are disjoint groups of environment indices. The i-th environments of all groups start in the same state, drawn from
        ``seed``; a training with this seed starts in other states.
        """
        seeds = np.zeros(self.num_envs, np.int64)
        for ids in parts:
            seeds[ids.cpu().numpy()] = derive_seeds([RESTART_STREAM, seed], len(ids))
        observations, _ = self.vector_env.reset(seed=seeds.tolist())
        self._begin(observations)
        return self.get_observations()

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Simulate a control step: ``actions`` [B, A] -> observations, rewards [B], dones [B], extras.

        ``extras`` has ``time_outs`` [B], true where the time limit alone ended an episode. If any episode ended, it also has
        ``final_observations``: the observations after this step, before environments were reset.

        Raises NonFiniteError for a non-finite action, reward or observation.
        """
        started = time.perf_counter()
        if not bool(actions.isfinite().all()):
            # `reset` checks no observation, so one that is not finite may be the cause
            self._require_finite("an observation", self._frames.cpu().numpy())
            raise NonFiniteError("an action is not finite", blames_policy=True)
        # the bound is in the policy's unit; clipping could make the scores of discrete actions equal
        if self.clip_actions is not None and not (self.takes_task_units or self.spaces.is_discrete):
            actions = actions.clamp(-self.clip_actions, self.clip_actions)
        observations, rewards, terminated, truncated, self.latest_infos = self.vector_env.step(
            self.spaces.to_actions(actions, self.takes_task_units)
        )
        # checked in float32, which a reward of double precision may overflow
        reward = torch.as_tensor(rewards, dtype=torch.float32)
        self._require_finite("a reward", reward.numpy())
        self._require_finite("an observation", observations)
        ended = terminated | truncated
        done = torch.as_tensor(ended, device=self.device)
        self._lengths = (self._lengths + 1) * ~done
        extras: dict[str, Any] = {"time_outs": torch.as_tensor(truncated & ~terminated, device=self.device)}
        latest = self.spaces.to_tensor(observations, self.device)
        if ended.any():
            # ``observations`` has the first observation of a new episode where one ended
            final = observations.copy()
            for i in np.flatnonzero(ended):
                final[i] = self.latest_infos["final_obs"][i]
            self._require_finite("an observation", final)
            final_frames = self._add_frame(self.spaces.to_tensor(final, self.device))
            extras["final_observations"] = self._to_groups(final_frames)
            is_new_episode = done.view(-1, *[1] * latest.ndim)
            self._frames = torch.where(is_new_episode, self._repeat(latest), final_frames)
        else:
            self._frames = self._add_frame(latest)
        self.seconds_simulation += time.perf_counter() - started
        return self.get_observations(), reward.to(self.device), done.long(), extras

    def make_measures(self) -> EpisodeMeasures:
        """Return the measures of the task's aim per episode, besides the reward."""
        return EpisodeMeasures(self)

    def open_camera(self) -> GymnasiumCamera:
        """Return a camera on environment 0."""
        return GymnasiumCamera(self.vector_env.envs[0])  # of a SyncVectorEnv

    @staticmethod
    def make_deterministic(seed: int) -> None:
        """Use torch's deterministic kernels and seed its generators. Call it after the networks are initialised."""
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)

    def close(self) -> None:
        """Close all environments."""
        self.vector_env.close()

    def _begin(self, observations: NDArray[Any]) -> None:
        """Begin an episode in every environment with its first observation."""
        self._frames = self._repeat(self.spaces.to_tensor(observations, self.device))
        self._lengths = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)

    def _repeat(self, observations: Tensor) -> Tensor:
        """Return first observations [B, ...] as frames [B, history, ...]."""
        return observations.unsqueeze(1).repeat_interleave(self.history, 1)

    def _add_frame(self, observations: Tensor) -> Tensor:
        """Return the frames with ``observations`` [B, ...] as the latest ones."""
        return torch.cat([self._frames[:, 1:], observations.unsqueeze(1)], dim=1)

    def _to_groups(self, frames: Tensor) -> TensorDict:
        """Return frames [B, history, ...] as the observation group ``policy``."""
        values = frames.squeeze(1) if self.spaces.is_image else frames.flatten(1)
        return TensorDict({"policy": values}, batch_size=[self.num_envs], device=self.device)

    def _require_finite(self, name: str, values: NDArray[Any]) -> None:
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{name} of {self.task_id} is not finite", blames_policy=False)


class CheckedTask(gymnasium.Wrapper):
    """Task whose observations have the declared shape and are copied: a task may reset into the array of its last observation.

    A seed also goes to the generators of `random` and NumPy, from which some tasks draw.
    """

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        observation, infos = self.env.reset(seed=seed, options=options)
        return self._copy(observation), infos

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        reward: Any
        observation, reward, terminated, truncated, infos = self.env.step(action)
        if shape := np.shape(reward):
            self._refuse(f"a reward has shape {shape}; allowed: a number")
        try:
            float(reward)
        except (TypeError, ValueError):
            self._refuse(f"a reward is {reward!r}; allowed: a number")
        return self._copy(observation), reward, terminated, truncated, infos

    def _copy(self, observation: Any) -> NDArray[Any]:
        copied, declared = np.array(observation), self.observation_space.shape
        if copied.shape != declared:
            self._refuse(
                f"an observation has shape {copied.shape}; allowed: {declared}, the shape of its observation space"
            )
        return copied

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(f"--task {self.spec.id if self.spec else self.env}: {reason}")


class EpisodeMeasures:
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    ``distance`` is the way forward in m, on tasks that tell the forward velocity and their control period.
    """

    def __init__(self, env: GymnasiumVecEnv) -> None:
        self.env = env
        self.distance = np.zeros(env.num_envs)

    def reset(self) -> None:
        """Start new episodes in all environments."""
        self.distance[:] = 0.0

    def step(self, dones: Tensor) -> dict[str, Tensor]:
        """Return the measures of the episodes that end with ``dones`` [B], by name, each [number of ended episodes]."""
        velocity, measures = read_info(self.env.latest_infos, VELOCITY, self.env.num_envs), {}
        ended = dones.cpu().numpy() > 0
        if velocity is not None and self.env.control_period is not None:
            self.distance += velocity * self.env.control_period
            distance = torch.as_tensor(self.distance[ended], dtype=torch.float32, device=dones.device)
            measures["distance"] = distance
        self.distance[ended] = 0.0
        return measures


def read_info(infos: Mapping[str, Any], key: str, num_envs: int) -> NDArray[np.float64] | None:
    """Return a number of all environments' infos after a step, [B], or None if the task does not give it, or no number.

    Where an episode ended, ``infos`` are of the next episode, and the ended one's are below ``final_info``.
    """
    values, known = np.zeros(num_envs), np.zeros(num_envs, dtype=bool)
    for source in (infos, infos.get("final_info", {})):
        found = np.asarray(source.get(key))
        if found.shape == (num_envs,) and found.dtype.kind in "iuf":
            present = np.asarray(source.get(f"_{key}", np.ones(num_envs, dtype=bool)))
            values[present] = found[present]
            known |= present
    return values if known.any() else None


class GymnasiumCamera:
    """Gymnasium's own rendering of an environment."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env

    def render(self) -> NDArray[np.uint8]:
        """Return a frame [480, W, 3] with an even width. Raises UserError if the task cannot be rendered."""
        try:
            frame: Any = self.env.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError, AttributeError) as error:
            raise UserError(f"--video: {error}") from error
        except Exception as error:
            # without graphics Gymnasium raises RuntimeError, and MuJoCo an error of its own that derives from Exception
            if not (isinstance(error, RuntimeError) or type(error).__module__.startswith("mujoco")):
                raise
            raise UserError(f"--video: {error}; allowed values of MUJOCO_GL: egl, osmesa, glfw") from error
        is_array = isinstance(frame, np.ndarray)
        if not (is_array and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] in (3, 4)):
            found = f"{frame.dtype} {frame.shape}" if is_array else type(frame).__name__
            raise UserError(f"--video: the task renders {found}; allowed: uint8 (height, width, 3 or 4)")
        return scale_frame(frame[..., :3])  # without transparency

    def close(self) -> None:
        """Do nothing: the environment closes its own renderer."""


def derive_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """Return ``count`` independent seeds, so that two runs with different seeds have no seed in common."""
    return [int(value) for value in np.random.SeedSequence(seed).generate_state(count, np.uint32)]
