"""What a camera sees in a task: ``python camera_case.py FILE TASK [OVERRIDE ...]`` writes images and states of seeded actions."""

import sys

import numpy as np
import torch
from simulation import open_simulation

from isaaclab_mujoco import selection

ENVS, SEED, STEPS = 4, 1, 12


def main(path, task, *overrides):
    draw, images, states = torch.Generator().manual_seed(SEED), [], []
    with open_simulation(task, *overrides, num_envs=ENVS, seed=SEED) as env:
        seen, _ = env.reset(seed=SEED)
        physics = selection.get_solver_name(env, selection.WARP)
        for _ in range(STEPS):
            images.append(seen["policy"].numpy().copy())
            states.append(seen["critic"].numpy().copy())
            seen, *_ = env.step(2.0 * torch.rand(env.action_space.shape, generator=draw) - 1.0)
    np.savez(path, physics=physics, images=np.stack(images), states=np.stack(states))


if __name__ == "__main__":
    main(*sys.argv[1:])
