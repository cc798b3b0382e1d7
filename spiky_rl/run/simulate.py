"""The simulation of a run plan, and a trained policy in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.kernels import dispatch
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.learners.common.runner import BaseRunner
from spiky_rl.run.command import start_simulation
from spiky_rl.run.run_plan import RunPlan, VisualizerOptions
from spiky_rl.run.visualized_env import VisualizedEnv

log = logging.getLogger(__name__)


@contextmanager
def open_env(plan: RunPlan, view: VisualizerOptions | None = None) -> Iterator[Any]:
    """Open the plan's rsl_rl environment and set ``plan.physics`` to the physics backend that the model really gets.

    ``view``: options of the live view; None for no live view.
    """
    request = plan.request
    if plan.rank > 0:  # only the first process of a distributed run has a live view
        view = None
    options = SimulationOptions(
        seed=plan.process_seed,
        clip_actions=plan.get_setting("clip_actions"),
        video=request.video,
        deterministic=request.deterministic,
        distributed=request.distributed and plan.device != "cpu",
        visualizers=None if view is None else view.visualizer,
        visible_envs=None if view is None else view.max_visible_envs,
    )
    with plan.host_task.open(plan.device, plan.num_envs, options) as env:
        plan.physics = plan.host_task.physics
        if plan.rank == 0:
            log.info("robots: %s; physics: %s%s", plan.assets, plan.physics, _format_backend(plan))
        yield env


def _format_backend(plan: RunPlan) -> str:
    """Return a phrase that names the kernel backend of the agent's neurons; empty if the agent has no neurons."""
    network = plan.spec.network or plan.spec.critic_network
    name = getattr(network.options, "backend", "") if network is not None else ""
    backend = dispatch.resolve_auto(plan.device.partition(":")[0]) if name == dispatch.AUTO else name
    return f"; neurons: {backend} backend" if backend else ""


def wrap_for_visualizer(env: Any, view: VisualizerOptions | None, real_time: bool = False) -> Any:
    """Return ``env`` in a `VisualizedEnv` if ``view`` names visualizers or ``real_time`` is set, else ``env`` itself."""
    if not (real_time or (view is not None and view.visualizer)):
        return env
    return VisualizedEnv(env, real_time)


def load_inference_policy(plan: RunPlan, env: Any, checkpoint: Path) -> tuple[BaseRunner, InferencePolicy]:
    """Return the runner with the actor of a checkpoint, and its inference policy."""
    runner_class = plan.learner.get_runner_class(plan.spec.algorithm)
    runner = runner_class(env, plan.config, None, plan.device, identity=plan.identity)
    runner.load(str(checkpoint), {"actor": True}, map_location=plan.device)
    return runner, runner.get_inference_policy(plan.device)


@contextmanager
def open_policy(
    plan: RunPlan, checkpoint: Path, view: VisualizerOptions | None = None, real_time: bool = False
) -> Iterator[tuple[Any, BaseRunner, InferencePolicy]]:
    """Open a simulation with a trained policy: environment, runner and policy. A signal ends the simulation at once."""
    with start_simulation(open_env(plan, view)) as host_env:
        env = wrap_for_visualizer(host_env, view, real_time)
        runner, policy = load_inference_policy(plan, env, checkpoint)
        if view is not None and view.visualizer:
            env.set_policy(policy)
        yield env, runner, policy
