"""A plan's simulation, and a trained policy in it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.config.run_plan import RunPlan
from spiky_rl.hosts.isaaclab import environment
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.kernels import dispatch
from spiky_rl.run.signals import start_simulation
from spiky_rl.run.visualized_env import VisualizedEnv, VisualizerSettings

if TYPE_CHECKING:
    from spiky_rl.learners.common.inference_policy import InferencePolicy
    from spiky_rl.learners.common.runner import BaseRunner

log = logging.getLogger(__name__)


@contextmanager
def open_env(plan: RunPlan, live: VisualizerSettings | None = None) -> Iterator[Any]:
    """The plan's environment as rsl_rl sees one; the plan then names the physics that its model really gets.

    Args:
        plan: What is simulated.
        live: How it is watched; None: it is not.
    """
    asked, watched = plan.request, {}
    if live is not None and plan.rank == 0:  # of the processes of a distributed run, the first one is watched
        watched = {"visualizers": live.visualizers, "visible": live.visible}
    with environment.open_simulation(
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
        env = environment.TimedVecEnv(gym_env, clip_actions=plan.get_setting("clip_actions"))
        plan.physics = selection.get_solver_name(gym_env, plan.physics)
        if plan.rank == 0:
            log.info("robots: %s; physics: %s%s", plan.assets, plan.physics, _neurons(plan))
        yield env


def _neurons(plan: RunPlan) -> str:
    """A phrase that names the backend of the agent's neurons; empty if it has none."""
    network = plan.spec.network or plan.spec.critic_network
    name = getattr(network.options, "backend", "") if network is not None else ""
    found = dispatch.resolve_auto(plan.device.partition(":")[0]) if name == dispatch.AUTO else name
    return f"; neurons: {found} backend" if found else ""


def wrap_for_visualizer(env: Any, live: VisualizerSettings | None) -> Any:
    """The environment as it is watched: ``env`` itself, or within a `VisualizedEnv`."""
    if live is None or not (live.visualizers or live.real_time):
        return env
    return VisualizedEnv(env, live.real_time)


def get_runner_class(plan: RunPlan) -> type[BaseRunner]:
    """The class of the host's runner."""
    name = {"rsl_rl": "RslRlRunner", "skrl": "SkrlRunner"}[plan.library]
    return getattr(importlib.import_module(f"spiky_rl.learners.{plan.library}.runner"), name)


def load_inference_policy(plan: RunPlan, env: Any, checkpoint: Path) -> tuple[BaseRunner, InferencePolicy]:
    """A trained policy in an environment, with the runner that holds it.

    Args:
        plan: What it was trained as.
        env: As rsl_rl sees one.
        checkpoint: Its weights.
    """
    runner: Any = get_runner_class(plan)
    runner = runner(env, plan.config, None, plan.device, plan.identity)
    runner.load(str(checkpoint), {"actor": True, "critic": True}, map_location=plan.device)
    return runner, runner.get_inference_policy(plan.device)


@contextmanager
def open_policy(
    plan: RunPlan, checkpoint: Path, live: VisualizerSettings | None = None
) -> Iterator[tuple[Any, BaseRunner, InferencePolicy]]:
    """A trained policy in its simulation: environment, runner and policy; a signal ends it at once.

    Args:
        plan: What the policy was trained as.
        checkpoint: Its weights.
        live: How it is watched; None: it is not.
    """
    with start_simulation(open_env(plan, live)) as plain:
        env = wrap_for_visualizer(plain, live)
        runner, policy = load_inference_policy(plan, env, checkpoint)
        if isinstance(env, VisualizedEnv) and live is not None and live.visualizers:
            env.set_policy(policy)
        yield env, runner, policy
