"""Observations of a policy on its way through an episode, and the ranges of its states there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiky_rl.networks.base import ForwardRecord

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv
    from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

ROBOTS = 64
"""Environments whose observations are kept, at most."""
ROWS = 4096
"""Observations that ranges are taken from at once."""


@dataclass(frozen=True)
class CalibrationRollout:
    """Observations of a policy that acts."""

    observations: Tensor
    """[T, B, O], as the environment gives them."""
    keep: Tensor
    """[T, B]; 0 where an episode begins with this step."""


@dataclass(frozen=True)
class ValueRanges:
    """The largest sizes in a rollout."""

    observed: float
    """Normalised observations."""
    states: tuple[Tensor, ...]
    """First state of every layer, [N] each."""
    source: str
    """What they were taken from, in words."""


def record_rollout(
    model: MLPModel, env: TimedVecEnv, progress: Callable[[float], None] = lambda share: None
) -> CalibrationRollout:
    """Record what up to `ROBOTS` environments observe until the first one's episode is over.

    Args:
        model: The policy, which acts.
        env: Where it does; at rest and the policy too when this begins.
        progress: Told after every control step which share of the longest episode is over.
    """
    seen, keep = [], []
    with torch.inference_mode():
        env.reset()
        model.reset()
        begins, over = torch.ones(min(ROBOTS, env.num_envs), device=env.device), False
        while not over:
            obs = env.get_observations()
            seen.append(
                torch.cat([obs[group] for group in model.obs_groups], dim=-1)[:ROBOTS].flatten(1).clone()
            )
            keep.append(1.0 - begins)
            dones = env.step(model(obs))[2]
            model.reset(dones)
            begins, over = (dones[:ROBOTS] > 0).float(), bool(dones[0])
            progress(float(len(seen) / env.max_episode_length))
        model.reset()
    return CalibrationRollout(torch.stack(seen).cpu(), torch.stack(keep).cpu())


def compute_ranges(model: SpikingModel, rollout: CalibrationRollout) -> ValueRanges:
    """The ranges that the network of a ``model`` has over a ``rollout``."""
    network, device = model.network, model.network.readout.weight.device
    rows = rollout.observations.shape[1]
    observed, states = 0.0, [torch.zeros(width) for width in network.layer_sizes]
    with torch.no_grad():
        carried = network.zero_state(rows, rollout.observations.to(device))
        for x, keep in zip(
            rollout.observations.split(max(1, ROWS // rows)),
            rollout.keep.split(max(1, ROWS // rows)),
            strict=True,
        ):
            x, noted = model.obs_normalizer(x.to(device)), ForwardRecord()
            if network.stateful:
                _, carried = network(x, carried, keep.to(device), record=noted)
            else:
                network(x.reshape(1, -1, x.shape[-1]), None, record=noted)
            observed = max(observed, float(x.abs().max()))
            for i, potential in enumerate(noted.potentials):
                states[i] = torch.maximum(states[i], potential.abs().flatten(0, -2).amax(0).cpu())
    count = rollout.observations.shape[0]
    text = f"{count} control steps of {rows} robot{'s' * (rows > 1)} under the policy in single precision"
    return ValueRanges(observed, tuple(states), text)
