"""Observations of a policy over an episode, recorded in the task or read from a file, and the ranges of its states in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressCallback
from spiky_rl.learners.common.inference_policy import clamp_observations
from spiky_rl.networks.base import ForwardRecord

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

MAX_ROBOTS = 64
"""Largest number of recorded environments."""
MAX_ROWS = 4096
"""Maximum number of observations in one pass of `compute_ranges`."""


@dataclass(frozen=True)
class CalibrationRollout:
    """Observations of a policy over an episode."""

    observations: Tensor
    """[T, B, O], not normalised."""
    keep: Tensor
    """[T, B]; 0 at the first step of an episode, else 1."""
    source: str = "under the policy in single precision"
    """Description of the observations, after the numbers of steps and robots."""


@dataclass(frozen=True)
class ValueRanges:
    """Largest absolute values in a rollout."""

    observed: float
    """Largest normalised observation."""
    states: tuple[Tensor, ...]
    """Largest first state (membrane, or sum) of every layer's neurons, [N] each."""
    source: str
    """Description of the rollout."""


def record_rollout(model: MLPModel, env: Any, report_progress: ProgressCallback) -> CalibrationRollout:
    """Record the observations of up to `MAX_ROBOTS` environments until the first environment's episode ends.

    Args:
        model: The policy. It is reset before and after.
        env: The environment. It is reset before.
        report_progress: Called after every control step with the share of the longest possible episode.
    """
    seen, keep = [], []
    with torch.inference_mode():
        env.reset()
        model.reset()
        begins, has_ended = torch.ones(min(MAX_ROBOTS, env.num_envs), device=env.device), False
        while not has_ended:
            obs = env.get_observations()
            x = torch.cat([obs[group] for group in model.obs_groups], dim=-1)
            seen.append(x[:MAX_ROBOTS].flatten(1).clone())
            keep.append(1.0 - begins)
            dones = env.step(model(obs))[2]
            model.reset(dones)
            begins, has_ended = (dones[:MAX_ROBOTS] > 0).float(), bool(dones[0])
            report_progress(float(len(seen) / env.max_episode_length))
        model.reset()
    return CalibrationRollout(torch.stack(seen).cpu(), torch.stack(keep).cpu())


def read_rollout(path: Path, inputs: int) -> CalibrationRollout:
    """Return the observations in the .npy file ``path``, an array [T, O] of one robot or [T, B, O] of several.

    Args:
        path: The file. An episode of every robot begins with the first step, and no other episode begins.
        inputs: Number of observations, O.

    Raises UserError if the file is not such an array of finite numbers.
    """
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError("no array of numbers")
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise UserError(
            f"--calibrate: {path}: {error}; allowed: an array of numbers, written by numpy.save"
        ) from None
    shape = list(values.shape)
    if values.ndim not in (2, 3) or shape[-1] != inputs or not values.size:
        raise UserError(
            f"--calibrate: {path}: shape {shape} given; allowed: [T, {inputs}] or [T, B, {inputs}]"
        )
    # torch, unlike NumPy, does not warn of a number that is too large for single precision
    observations = torch.from_numpy(values.astype(np.float64)).float().reshape(shape[0], -1, inputs)
    if not observations.isfinite().all():
        raise UserError(f"--calibrate: {path}: a value is not finite; allowed: finite numbers")
    keep = torch.ones(observations.shape[:2])
    keep[0] = 0.0
    return CalibrationRollout(observations, keep, f"in {path.name}")


def compute_ranges(model: SpikingModel, rollout: CalibrationRollout) -> ValueRanges:
    """Return the ranges in the network of ``model`` over ``rollout``."""
    network, device = model.network, model.network.readout.weight.device
    rows = rollout.observations.shape[1]
    observed, states = 0.0, [torch.zeros(width) for width in network.layer_sizes]
    with torch.no_grad():
        carried = network.zero_state(rows, rollout.observations.to(device))
        length = max(1, MAX_ROWS // rows)
        parts = (values.split(length) for values in (rollout.observations, rollout.keep))
        for x, keep in zip(*parts, strict=True):
            x, record = clamp_observations(model.obs_normalizer(x.to(device))), ForwardRecord()
            if network.stateful:
                _, carried = network(x, carried, keep.to(device), record=record)
            else:
                network(x.reshape(1, -1, x.shape[-1]), None, record=record)
            observed = max(observed, float(x.abs().max()))
            for i, potential in enumerate(record.potentials):
                states[i] = torch.maximum(states[i], potential.abs().flatten(0, -2).amax(0).cpu())
    count = rollout.observations.shape[0]
    text = f"{count} control steps of {rows} robot{'s' * (rows > 1)} {rollout.source}"
    return ValueRanges(observed, tuple(states), text)
