"""Explanation of non-finite values: caused by the policy, a term of the task, or unstable settings of the simulation."""

from __future__ import annotations

import math

from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.environment import Leaves, get_leaves, iterate_terms
from spiky_rl.hosts.isaaclab.broken_worlds import BrokenWorlds
from spiky_rl.hosts.isaaclab.workflows import Env

EXPLODED = 1e5
"""Absolute value above which an action or observation counts as exploded; Isaac Lab's are near one."""


def explain_non_finite(
    env: Env,
    actions: Tensor,
    rewards: Tensor,
    leaves: Leaves,
    seen: TensorDict | None,
    broken: BrokenWorlds,
    is_trained: bool,
) -> tuple[str, bool]:
    """Return a message about a control step with non-finite values, and whether the policy caused them.

    The policy is the cause if it gave extreme ``actions`` [B, A] for ordinary observations ``seen``, None if unknown; before it
    ``is_trained``, its actions cannot have exploded. Otherwise the message names the term among ``rewards`` [B] and ``leaves``, the
    observations after the step, or the broken quantity, and the settings of the simulation.
    """
    bad = ~actions.isfinite().flatten(1).all(1)
    acted_badly = bool(bad.any())
    if acted_badly:
        fault = f"actions not finite {format_environments(bad)}"
    elif bool(broken.is_excessive):
        bad, fault = broken.mask, broken.describe()
    else:
        bad, fault = _find_faults(env, rewards, leaves)
    largest = float(actions.nan_to_num(0.0).abs().max())
    cause = describe_blow_up(env, seen, bad)
    blames_policy = (acted_badly or (largest > EXPLODED and is_trained)) and not cause
    if blames_policy:  # the action is too large for any simulation
        remedy = ", lower agent.algorithm.learning_rate" if is_trained else ""
        fault = f"the policy has exploded{remedy}: {fault}"
    else:
        fault = f"{fault}; {cause or format_settings(env)}"
    step = env.common_step_counter
    return f"environment step {step}: {fault}; the largest action was {largest:.3g}", blames_policy


def _find_faults(env: Env, rewards: Tensor, leaves: Leaves) -> tuple[Tensor, str]:
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


def describe_blow_up(env: Env, seen: TensorDict | None, worlds: Tensor | None = None) -> str:
    """Return a phrase with the physics settings of an ``env`` if its observations are extremely large, else "".

    ``seen`` are the policy's latest observations, None if unknown; ``worlds`` [B] masks the worlds to check, None for all.
    """
    if seen is None:
        return ""
    sizes = {"": 0.0}
    for name, part in iterate_terms(env, get_leaves(seen)):
        values = part if worlds is None else part[worlds]
        sizes[name] = float(values.abs().nan_to_num(math.inf, math.inf).max()) if values.numel() else 0.0
    name, largest = max(sizes.items(), key=lambda item: item[1])
    if largest <= EXPLODED:
        return ""
    return f"the simulation has blown up, with {format_settings(env)}: the policy saw {largest:.3g} in observation {name}"


def format_settings(env: Env) -> str:
    """Return the settings of an ``env`` that may make a simulation blow up."""
    sim = env.cfg.sim
    gravity = ", ".join(f"{value:g}" for value in sim.gravity)
    return f"env.sim.dt={sim.dt:.6g} and env.sim.gravity=[{gravity}]"


def find_reward_terms(env: Env, bad: Tensor) -> list[str]:
    """Return the non-finite reward terms in the first of the ``bad`` environments [B], or ``total`` if all terms are finite."""
    manager = getattr(env, "reward_manager", None)
    if manager is None or not bad.any():
        return ["total"] if bad.any() else []
    terms = manager.get_active_iterable_terms(int(bad.nonzero()[0]))
    return [name for name, values in terms if not all(map(math.isfinite, values))] or ["total"]
