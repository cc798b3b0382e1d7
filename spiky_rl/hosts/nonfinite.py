"""Explanation of non-finite values: caused by the policy, a term of the task, or unstable settings of the simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tensordict import TensorDict
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.hosts.environment import TimedEnvironment

EXPLOSION_LIMIT = 1e5
"""Absolute value above which an action or observation counts as exploded; those of robots are near one."""

type Leaves = Mapping[str | tuple[str, ...], Tensor]
"""Observations by their nested names, [B, ...] each."""


def explain_non_finite(
    env: TimedEnvironment, actions: Tensor, rewards: Tensor, leaves: Leaves
) -> tuple[str, bool]:
    """Return a message about a control step with non-finite values, and whether the policy caused them.

    The policy is the cause if it gave extreme ``actions`` [B, A] for ordinary observations; before it is trained, its actions cannot
    have exploded. Otherwise the message names the term among ``rewards`` [B] and ``leaves``, the observations after the step, or the
    broken quantity, and the settings of the simulation.
    """
    bad = ~actions.isfinite().flatten(1).all(1)
    acted_badly = bool(bad.any())
    if acted_badly:
        fault = f"actions not finite {format_environments(bad)}"
    elif env.broken is not None and bool(env.broken.is_excessive):
        bad, fault = env.broken.mask, env.broken.describe()
    else:
        bad, fault = _find_faults(env.unwrapped, rewards, leaves)
    largest = float(actions.nan_to_num(0.0).abs().max())
    cause = env.describe_blow_up(bad)
    blames_policy = (acted_badly or (largest > EXPLOSION_LIMIT and env.is_trained)) and not cause
    if blames_policy:  # the action is too large for any simulation
        remedy = ", lower agent.algorithm.learning_rate" if env.is_trained else ""
        fault = f"the policy has exploded{remedy}: {fault}"
    else:
        fault = f"{fault}; {cause or env.format_settings()}"
    step = env.unwrapped.common_step_counter
    return f"environment step {step}: {fault}; the largest action was {largest:.3g}", blames_policy


def _find_faults(env: Any, rewards: Tensor, leaves: Leaves) -> tuple[Tensor, str]:
    """Return the mask [B] of environments with non-finite rewards or observations, and a phrase that names their terms."""
    bad = ~rewards.isfinite()
    faults = [f"reward {name}" for name in find_reward_terms(env, bad)]
    for name, part in iterate_terms(env, leaves):
        broken = ~part.isfinite().flatten(1).all(1)
        bad = bad | broken
        if broken.any():
            faults.append(f"observation {name}")
    return bad, f"{', '.join(faults)} not finite {format_environments(bad)}"


def format_environments(bad: Tensor) -> str:
    """Return a phrase with the number of ``bad`` [B] environments and the first of them."""
    hit = bad.nonzero().flatten().tolist()
    return f"in {len(hit)} of {len(bad)} environments, the first is {hit[0]}"


def find_largest(env: Any, seen: TensorDict, worlds: Tensor | None) -> tuple[str, float]:
    """Return the observation with the largest absolute value among those ``seen``, and that value; inf for a non-finite one.

    ``env`` is the simulator's own environment; ``worlds`` [B] masks the worlds to check, None for all.
    """
    sizes = {"": 0.0}
    for name, part in iterate_terms(env, get_leaves(seen)):
        values = part if worlds is None else part[worlds]
        sizes[name] = float(values.abs().nan_to_num(math.inf, math.inf).max()) if values.numel() else 0.0
    return max(sizes.items(), key=lambda item: item[1])


def find_reward_terms(env: Any, bad: Tensor) -> list[str]:
    """Return the non-finite reward terms in the first of the ``bad`` environments [B], or ``total`` if all terms are finite."""
    manager = getattr(env, "reward_manager", None)
    if manager is None or not bad.any():
        return ["total"] if bad.any() else []
    terms = manager.get_active_iterable_terms(int(bad.nonzero()[0]))
    return [name for name, values in terms if not all(map(math.isfinite, values))] or ["total"]


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
