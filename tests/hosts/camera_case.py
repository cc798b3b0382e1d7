"""What a camera sees in a task: ``python -m tests.hosts.camera_case FILE TASK [OVERRIDE ...]`` writes images and states of seeded actions."""

import sys

import numpy as np
import torch

from spiky_rl.hosts.isaaclab.assets import configure_assets

configure_assets("local")  # Isaac Lab reads it when it is imported

# pylint: disable=wrong-import-position
from spiky_rl.hosts.isaaclab.environment import load_configs, open_simulation, resolve_task
from spiky_rl.hosts.isaaclab.mujoco import selection

ENVS, SEED, STEPS = 4, 1, 12


def main(path, task, *overrides):
    name = resolve_task(task)
    wanted, overrides = selection.split_physics_override(overrides)
    cfg, _ = load_configs(name, None, overrides)
    physics = selection.apply_physics(cfg, wanted, "cpu")
    draw, images, states = torch.Generator().manual_seed(SEED), [], []
    with open_simulation(cfg, task_id=name, device="cpu", num_envs=ENVS, seed=SEED) as env:
        seen, _ = env.reset(seed=SEED)
        physics = selection.get_solver_name(env, physics)
        for _ in range(STEPS):
            images.append(seen["policy"].numpy().copy())
            states.append(seen["critic"].numpy().copy())
            seen, *_ = env.step(2.0 * torch.rand(env.action_space.shape, generator=draw) - 1.0)
    np.savez(path, physics=physics, images=np.stack(images), states=np.stack(states))


if __name__ == "__main__":
    main(*sys.argv[1:])
