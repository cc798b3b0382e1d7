"""A plan's simulation, and a trained policy in it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.config.plan import Plan
from spiky_rl.hosts.common.stopping import started
from spiky_rl.hosts.isaaclab import environment
from spiky_rl.hosts.isaaclab.mujoco import choice
from spiky_rl.hosts.run.watched import Live, Watched
from spiky_rl.kernels import dispatch

if TYPE_CHECKING:
    from spiky_rl.hosts.common.playing import PlayedPolicy
    from spiky_rl.hosts.common.runner import HostRunner

log = logging.getLogger(__name__)


@contextmanager
def simulated(plan: Plan, live: Live | None = None) -> Iterator[Any]:
    """The plan's environment as rsl_rl sees one; the plan then names the physics that its model really gets.

    Args:
        plan: What is simulated.
        live: How it is watched; None: it is not.
    """
    asked, watched = plan.request, {}
    if live is not None and plan.rank == 0:  # of the processes of a distributed run, the first one is watched
        watched = {"visualizers": live.visualizers, "visible": live.visible}
    with environment.simulation(
        plan.env_cfg,
        task_id=plan.gym_id,
        device=plan.device,
        num_envs=plan.num_envs,
        seed=plan.seed + plan.rank,
        video=asked.video,
        deterministic=asked.deterministic,
        distributed=asked.distributed and plan.device != "cpu",
        **watched,
    ) as gym_env:
        env = environment.TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
        plan.physics = choice.settled(gym_env, plan.physics)
        if plan.rank == 0:
            log.info("robots: %s; physics: %s%s", plan.assets, plan.physics, _neurons(plan))
        yield env


def _neurons(plan: Plan) -> str:
    """A phrase that names the backend of the agent's neurons; empty if it has none."""
    network = plan.spec.network or plan.spec.critic_network
    name = getattr(network.options, "backend", "") if network is not None else ""
    found = dispatch.automatic(plan.device.partition(":")[0]) if name == dispatch.AUTO else name
    return f"; neurons: {found} backend" if found else ""


def seen(env: Any, live: Live | None) -> Any:
    """The environment as it is watched: ``env`` itself, or within a `Watched`."""
    if live is None or not (live.visualizers or live.real_time):
        return env
    return Watched(env, live.real_time)


def runner_of(plan: Plan) -> type[HostRunner]:
    """The class of the host's runner."""
    return importlib.import_module(f"spiky_rl.hosts.{plan.library}.runner").Runner


def played(plan: Plan, env: Any, checkpoint: Path) -> tuple[HostRunner, PlayedPolicy]:
    """A trained policy in an environment, with the runner that holds it.

    Args:
        plan: What it was trained as.
        env: As rsl_rl sees one.
        checkpoint: Its weights.
    """
    runner: Any = runner_of(plan)
    runner = runner(env, plan.config, None, plan.device, plan.identity)
    runner.load(str(checkpoint), {"actor": True, "critic": True}, map_location=plan.device)
    return runner, runner.get_inference_policy(plan.device)


@contextmanager
def opened(
    plan: Plan, checkpoint: Path, live: Live | None = None
) -> Iterator[tuple[Any, HostRunner, PlayedPolicy]]:
    """A trained policy in its simulation: environment, runner and policy; a signal ends it at once.

    Args:
        plan: What the policy was trained as.
        checkpoint: Its weights.
        live: How it is watched; None: it is not.
    """
    with started(simulated(plan, live)) as plain:
        env = seen(plain, live)
        runner, policy = played(plan, env, checkpoint)
        if isinstance(env, Watched) and live is not None and live.visualizers:
            env.show(policy)
        yield env, runner, policy
