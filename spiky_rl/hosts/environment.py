"""Parts of the hosts' environments: conditions, timing, random numbers, observations term by term, and the start of Warp."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.condition_groups import ConditionGroups

log = logging.getLogger(__name__)

NO_GPU = "Could not find or load the NVIDIA CUDA driver"
"""Part of Warp's warning on a machine without a GPU."""

type Leaves = Mapping[str | tuple[str, ...], Tensor]
"""Observations by their nested names, [B, ...] each."""


class HostEnvironment:
    """Base of the hosts' environments: without conditions besides nominal and without a live view."""

    checks_finite = True
    """Whether `step` raises for non-finite values, so that rsl_rl need not check."""

    def make_condition_groups(
        self,
        names: Sequence[str],
        episodes: int,
        groups: Sequence[str],
        seed: int,
        leg: str = "",
        adapting: bool = False,
    ) -> ConditionGroups:
        """Divide the environments among conditions; `ConditionGroups` describes the arguments."""
        return self._get_condition_groups_class()(self, names, episodes, groups, seed, leg, adapting)

    def _get_condition_groups_class(self) -> type[ConditionGroups]:
        """Return the class with the conditions of the host."""
        return ConditionGroups

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

    def _add_terminations(self, extras: dict[str, Any]) -> None:
        """Add ``terminated`` [B] to the ``extras`` of a step, because an episode may fail in the step in which its time is up.

        Nothing is added if the simulator does not tell it as a tensor.
        """
        terminated = getattr(self.unwrapped, "reset_terminated", None)
        if isinstance(terminated, torch.Tensor):
            extras["terminated"] = terminated


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


def get_leaves(observations: TensorDict) -> Leaves:
    """Return the tensors of ``observations`` by nested name."""
    return dict(observations.items(include_nested=True, leaves_only=True))  # type: ignore[arg-type]


def iterate_terms(env: Any, leaves: Leaves) -> Iterator[tuple[str, Tensor]]:
    """Yield the terms of all observations ``leaves`` by name; a group is yielded whole if its terms are not joined in one vector.

    ``env`` is the simulator's own environment without wrappers, which may have an observation manager like Isaac Lab's.
    """
    manager = getattr(env, "observation_manager", None)
    for key, values in leaves.items():
        name = ".".join(key) if isinstance(key, tuple) else key
        if manager is None or values.ndim != 2 or not manager.group_obs_concatenate.get(name, False):
            yield name, values
            continue
        widths = [math.prod(shape) for shape in manager.group_obs_term_dim[name]]
        for term, part in zip(manager.active_terms[name], values.split(widths, dim=1), strict=True):
            yield f"{name}.{term}", part


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
