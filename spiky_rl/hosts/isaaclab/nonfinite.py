"""Numbers that are none, blamed on who made them: the policy, a term of the task, or a simulation that its settings blew up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tensordict import TensorDict
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv

EXPLODED = 1e5
"""An action that no learner means, and an observation that no simulation means: Isaac Lab's are numbers near one."""

type Leaves = Mapping[str | tuple[str, ...], Tensor]
"""Observations by their nested names, [B, ...] each."""


def leaves_of(observations: TensorDict) -> Leaves:
    """The tensors of ``observations``."""
    return dict(observations.items(include_nested=True, leaves_only=True))  # type: ignore[arg-type]


def explain(env: TimedVecEnv, actions: Tensor, rewards: Tensor, leaves: Leaves) -> tuple[str, bool]:
    """A message about a control step of an ``env`` that cannot go on, and whether the policy is to blame.

    It is where it saw ordinary observations and gave an action that no simulation can follow. Else the message names the term, or the
    quantity that broke, and the settings of the simulation.

    Args:
        env: As rsl_rl sees it.
        actions: [B, A].
        rewards: [B].
        leaves: Observations that followed.
    """
    bad = ~actions.isfinite().flatten(1).all(1)
    is_none = bool(bad.any())
    if is_none:
        what = f"actions not finite {where(bad)}"
    elif env.broken is not None and bool(env.broken.is_excessive):
        bad, what = env.broken.mask, env.broken.describe()
    else:
        bad = ~rewards.isfinite()
        faults = [f"reward {name}" for name in reward_terms(env, bad)]
        for name, part in parts(env, leaves):
            broken = ~part.isfinite().flatten(1).all(1)
            bad = bad | broken
            faults += [f"observation {name}"] if broken.any() else []
        what = f"{', '.join(faults)} not finite {where(bad)}"
    largest = float(actions.nan_to_num(0.0).abs().max())
    cause = describe_blow_up(env, bad)
    blames_policy = (is_none or (largest > EXPLODED and env.is_trained)) and not cause
    if blames_policy:  # no simulation can follow
        remedy = ", lower agent.algorithm.learning_rate" if env.is_trained else ""
        what = f"the policy has exploded{remedy}: {what}"
    else:
        what = f"{what}; {cause or settings(env)}"
    step = env.unwrapped.common_step_counter
    return f"environment step {step}: {what}; the largest action was {largest:.3g}", blames_policy


def where(bad: Tensor) -> str:
    """How many environments are ``bad`` [B], and the first of them."""
    hit = bad.nonzero().flatten().tolist()
    return f"in {len(hit)} of {len(bad)} environments, the first is {hit[0]}"


def describe_blow_up(env: TimedVecEnv, worlds: Tensor | None = None) -> str:
    """A phrase that names the physics of an ``env`` where what its policy saw last is of no ordinary size; else "".

    Args:
        env: As rsl_rl sees it.
        worlds: Where it is looked for, [B]; None: everywhere.
    """
    if env.seen is None:
        return ""
    sizes = {"": 0.0}
    for name, part in parts(env, leaves_of(env.seen)):
        values = part if worlds is None else part[worlds]
        sizes[name] = float(values.abs().nan_to_num(math.inf, math.inf).max()) if values.numel() else 0.0
    name, largest = max(sizes.items(), key=lambda item: item[1])
    if largest <= EXPLODED:
        return ""
    return f"the simulation has blown up, with {settings(env)}: the policy saw {largest:.3g} in observation {name}"


def settings(env: TimedVecEnv) -> str:
    """The settings of an ``env`` by which a simulation blows up."""
    sim = env.unwrapped.cfg.sim
    gravity = ", ".join(f"{value:g}" for value in sim.gravity)
    return f"env.sim.dt={sim.dt:.6g} and env.sim.gravity=[{gravity}]"


def parts(env: TimedVecEnv, leaves: Leaves) -> Iterator[tuple[str, Tensor]]:
    """The named parts of all observations of an ``env``, ``leaves``."""
    for key, values in leaves.items():
        yield from terms(env, ".".join(key) if isinstance(key, tuple) else key, values)


def terms(env: TimedVecEnv, name: str, values: Tensor) -> list[tuple[str, Tensor]]:
    """The named parts of an observation of an ``env``, of ``values`` [B, ...] called ``name``: its columns by term where the manager knows them."""
    manager = getattr(env.unwrapped, "observation_manager", None)
    if manager is None or values.ndim != 2 or not manager.group_obs_concatenate.get(name, False):
        return [(name, values)]
    widths = [math.prod(shape) for shape in manager.group_obs_term_dim[name]]
    names = [f"{name}.{term}" for term in manager.active_terms[name]]
    return list(zip(names, values.split(widths, dim=1), strict=True))


def reward_terms(env: TimedVecEnv, bad: Tensor) -> list[str]:
    """The reward terms that are no number in the first of the ``bad`` environments [B]; their total where all are."""
    manager = getattr(env.unwrapped, "reward_manager", None)
    if manager is None or not bad.any():
        return ["total"] if bad.any() else []
    found = manager.get_active_iterable_terms(int(bad.nonzero()[0]))
    return [name for name, values in found if not all(map(math.isfinite, values))] or ["total"]
