"""Base classes of the hosts' environments, a stopwatch, seeded resets, and the start of Warp."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.base import NonFiniteError
from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.hosts.nonfinite import EXPLOSION_LIMIT, explain_non_finite, find_largest, get_leaves

log = logging.getLogger(__name__)

NO_GPU = "Could not find or load the NVIDIA CUDA driver"
"""Part of Warp's warning on a machine without a GPU."""


class HostEnvironment:
    """Base of the hosts' environments: without conditions besides nominal and without a live view."""

    checks_finite = True
    """Whether `step` raises for non-finite values, so that rsl_rl need not check."""
    condition_groups_class: type[ConditionGroups] = ConditionGroups
    """Class with the conditions of the host, which divides the environments among them."""

    def reseed(self, seed: int, env_steps: int) -> None:
        """Seed the environments' own random generators for a training with ``seed`` that is resumed after ``env_steps``.

        Otherwise they would give the episodes of the training's beginning again. By default it does nothing: a simulation draws from
        torch's generators, which a checkpoint restores.
        """

    def get_live_views(self) -> Sequence[Any]:
        """Return the live views that can show the spikes of a policy."""
        return ()

    def set_default_camera(self, follows: bool = False) -> None:
        """Point every live view at the robot of environment 0; if it ``follows``, cameras move with the robot."""


class TimedEnvironment(HostEnvironment):
    """Base of environments that wrap a simulator's own one; it comes before rsl_rl's wrapper in the bases of a class."""

    is_trained = True
    """Whether the policy has been updated yet; if not, the learner cannot be the cause of non-finite values."""
    stopwatch: Stopwatch
    unwrapped: Any
    broken: Any = None
    """Worlds that are reset because their physics broke; None if the host does not find them."""
    latest_observations: TensorDict | None = None
    """Observations that the policy got last."""

    @property
    def seconds_simulation(self) -> float:
        """Total seconds in `step`."""
        return self.stopwatch.seconds

    @property
    def step_dt(self) -> float:
        """Duration of a control step in seconds."""
        return self.unwrapped.step_dt

    def set_trained(self, is_trained: bool) -> None:
        """Set whether the policy has been updated yet."""
        self.is_trained = is_trained

    def restart(self, parts: Sequence[Tensor], seed: int) -> TensorDict:
        """Begin an episode in every environment and return the first observations.

        Each of the ``parts``, given by indices, starts in the same states, drawn from ``seed``, on the same terrain. A task of Isaac Lab's
        direct workflow resets all environments at once, so its parts start in different states.
        """
        env = self.unwrapped
        if hasattr(env, "observation_manager"):
            with share_terrain(env, parts, seed):
                for ids in parts:
                    with seed_torch(seed, env.device):
                        env.reset(env_ids=ids.int())
        else:
            with seed_torch(seed, env.device):
                env.reset()
        return self.get_observations()

    def get_observations(self) -> TensorDict:
        """Return the current observations by group."""
        # of rsl_rl's wrapper
        observations = super().get_observations()  # type: ignore[misc]  # pylint: disable=no-member
        self.latest_observations = observations
        return observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Simulate a control step: ``actions`` [B, A] -> observations, rewards [B], dones [B], extras.

        ``extras`` has ``terminated`` [B] if the simulator tells it as a tensor, because an episode may fail in the step in which its time
        is up. A world with broken physics begins a new episode. Raises NonFiniteError if too many worlds break, and for any other
        non-finite value; the message names the step, the term and the number of environments.
        """
        self.stopwatch.start()
        # of rsl_rl's wrapper
        observations, rewards, dones, extras = super().step(actions)  # type: ignore[misc]  # pylint: disable=no-member
        terminated = getattr(self.unwrapped, "reset_terminated", None)
        if isinstance(terminated, Tensor):
            extras["terminated"] = terminated
        leaves = get_leaves(observations)
        # all checks together wait for the device once
        valid = [values.isfinite().all() for values in (actions, rewards, *leaves.values())]
        if self.broken is not None:
            valid.append(~self.broken.is_excessive)
        if not torch.stack(valid).all():
            raise NonFiniteError(*explain_non_finite(self, actions, rewards, leaves))
        self.stopwatch.stop()
        self.latest_observations = observations
        return observations, rewards, dones, extras

    def describe_blow_up(self, worlds: Tensor | None = None) -> str:
        """Return a phrase with the physics settings if the policy's latest observations are extremely large; empty otherwise.

        ``worlds`` [B] masks the worlds to check, None for all.
        """
        if self.latest_observations is None:
            return ""
        name, largest = find_largest(self.unwrapped, self.latest_observations, worlds)
        if largest <= EXPLOSION_LIMIT:
            return ""
        return f"the simulation has blown up, with {self.format_settings()}: the policy saw {largest:.3g} in observation {name}"

    @abstractmethod
    def format_settings(self) -> str:
        """Return the settings of the physics that may make it blow up, as overrides."""


class Stopwatch:
    """Sum of the seconds between starts and stops. A CUDA device is timed by events, which only `seconds` reads."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._seconds, self._started_at = 0.0, 0.0
        self._start_event: torch.cuda.Event | None = None
        self._event_pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        """Start and stop of each interval that `seconds` has not added yet."""

    def start(self) -> None:
        """Start the clock; work queued before is not counted, even if the device has not finished it."""
        if self._device.type == "cuda":
            self._start_event = self._record_event()
        else:
            self._started_at = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock; work queued since `start` is counted."""
        if self._start_event is not None:
            self._event_pairs.append((self._start_event, self._record_event()))
        else:
            self._seconds += time.perf_counter() - self._started_at

    @property
    def seconds(self) -> float:
        """Total seconds so far. Waits for the device."""
        for start, stop in self._event_pairs:
            stop.synchronize()
            self._seconds += start.elapsed_time(stop) / 1000.0
        self._event_pairs.clear()
        return self._seconds

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


@contextmanager
def seed_torch(seed: int, device: torch.device | str) -> Iterator[None]:
    """Run the block with torch's generators, on the CPU and on ``device``, seeded with ``seed``; restore them afterwards.

    A simulation draws its random numbers from them.
    """
    torch_device = torch.device(device)
    with torch.random.fork_rng(devices=[torch_device] if torch_device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def share_terrain(env: Any, parts: Sequence[Tensor], seed: int) -> Iterator[None]:
    """Run the block so that a reset puts environment i of each of the ``parts`` on the same cell of a generated terrain.

    Isaac Lab and mjlab give types of terrain to environments in the order of their indices, so each part would have other types. The
    cells of a part are those of a simulation of its size: all types evenly, and random initial levels, here drawn from ``seed``.

    Args:
        env: The simulator's own environment without wrappers; without a generated terrain nothing changes.
        parts: Indices of environments.
        seed: Seed of the levels.
    """
    terrain = getattr(env.scene, "terrain", None)
    origins = getattr(terrain, "terrain_origins", None)
    if terrain is None or origins is None:
        yield
        return
    rows, columns = origins.shape[:2]
    highest, count = terrain.cfg.max_init_terrain_level, max(map(len, parts))
    with seed_torch(seed, origins.device):
        levels = torch.randint(rows if highest is None else min(highest + 1, rows), (count,)).to(
            origins.device
        )
    types = torch.arange(count, device=origins.device) * columns // count
    cells = torch.zeros(env.num_envs, dtype=torch.long, device=origins.device)
    for ids in parts:
        cells[ids.long()] = torch.arange(len(ids), device=origins.device)
    curriculum = env.curriculum_manager
    compute = curriculum.compute

    def compute_and_place(env_ids: Tensor) -> None:
        compute(env_ids=env_ids)  # the first act of a reset; it may move the environments to other levels
        ids = env_ids.long()
        terrain.terrain_levels[ids], terrain.terrain_types[ids] = levels[cells[ids]], types[cells[ids]]
        terrain.env_origins[ids] = origins[levels[cells[ids]], types[cells[ids]]]

    curriculum.compute = compute_and_place
    try:
        yield
    finally:
        del curriculum.compute


@contextmanager
def log_prints(source: str) -> Iterator[None]:
    """Redirect what the block prints to the debug log, each line after the name of its ``source``."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            log.debug("%s: %s", source, line)


def initialise_warp() -> None:
    """Initialise Warp, and send its native warning about a missing GPU from stderr to the debug log."""
    import warp

    saved = os.dup(2)
    with tempfile.TemporaryFile() as output:
        sys.stderr.flush()
        os.dup2(output.fileno(), 2)
        try:
            warp.init()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        output.seek(0)
        for line in output.read().decode(errors="replace").splitlines():
            log.log(logging.DEBUG if NO_GPU in line else logging.WARNING, "%s", line)
