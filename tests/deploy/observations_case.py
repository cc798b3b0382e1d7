"""Observations of an episode of the real Isaac-Cartpole on the CPU: ``python -m tests.deploy.observations_case FILE.npy``."""

import sys

import numpy as np
import torch

from spiky_rl.hosts.isaaclab.assets import configure_assets

TASK, SEED, STEPS = "Isaac-Cartpole", 1, 150


def main(path: str) -> None:
    """Save them, [STEPS, 1, O]: what a cart sees that is pushed at random, again from the start where its pole fell."""
    configure_assets("local")
    from spiky_rl.hosts.isaaclab import physics_selection as selection
    from spiky_rl.hosts.base import SimulationOptions
    from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation

    config, _ = load_configs(TASK)
    selection.apply_physics(config, selection.NATIVE, "cpu")
    pushes = torch.randn(STEPS, 1, 1, generator=torch.Generator().manual_seed(SEED))
    with open_simulation(
        config, task_id=TASK, device="cpu", num_envs=1, options=SimulationOptions(seed=SEED)
    ) as robot:
        env = IsaacLabVecEnv(robot, clip_actions=None)
        env.reset()
        seen = []
        for push in pushes:
            seen.append(env.get_observations()["policy"].numpy().copy())
            env.step(push)
    np.save(path, np.stack(seen))


if __name__ == "__main__":
    main(sys.argv[1])
