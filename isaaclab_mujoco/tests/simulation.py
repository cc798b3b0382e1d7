"""A native simulation of one of Isaac Lab's tasks."""

import contextlib
import importlib.util
from argparse import Namespace
from pathlib import Path

import gymnasium
import isaaclab_tasks  # noqa: F401  # registers the tasks
from isaaclab.app import launch_simulation
from isaaclab_mujoco.presets import offer_preset
from isaaclab_rl.entrypoints.common import close_env
from isaaclab_tasks.utils import resolve_task_config


@contextlib.contextmanager
def open_simulation(name, *overrides, num_envs, seed, change=lambda cfg: None):
    """Open the environment of a task on the CPU; a file that registers it may stand before a colon.

    ``change`` changes its configuration after the ``overrides`` of Isaac Lab's command line.
    """
    file, _, task = name.rpartition(":")
    if file:
        spec = importlib.util.spec_from_file_location("task_file", Path(__file__).parent / file)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    offer_preset(gymnasium.registry.values())
    cfg, _ = resolve_task_config(task, None, overrides=list(overrides))
    change(cfg)
    cfg.scene.num_envs, cfg.sim.device, cfg.seed = num_envs, "cpu", seed
    with launch_simulation(cfg, Namespace(device="cpu", distributed=False, deterministic=False)):
        env = gymnasium.make(task, cfg=cfg)
        try:
            yield env
        finally:
            close_env(env)
