"""Isaac-Ant, driven for an episode by a compiled policy: ``python examples/deploy/drive.py FOLDER``.

FOLDER holds policy.c and policy.h of an export with ``--raw_actions``, since the environment scales actions itself and observes the last
one. ``make -C examples/deploy POLICY=FOLDER`` writes policy.so, which this program loads.
"""

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

TASK, SEED = "Isaac-Ant", 1
Action = Callable[[np.ndarray], np.ndarray]


def load_policy(folder: Path) -> Action:
    """Return the policy in policy.so as a function from an observation [O] to an action [A]."""
    header = (folder / "policy.h").read_text()
    sizes = {name: int(size) for name, size in re.findall(r"POLICY_(\w+) = (\d+)", header)}
    library = ctypes.CDLL(str(Path(__file__).with_name("policy.so")))
    state, action = np.zeros(sizes["BYTES"] // 4, np.float32), np.zeros(sizes["ACTIONS"], np.float32)
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    library.policy_reset.argtypes, library.policy_step.argtypes = [pointer], [pointer] * 3
    library.policy_reset(state)

    def act(observation: np.ndarray) -> np.ndarray:
        library.policy_step(state, observation, action)
        return action

    return act


def run_episode(act: Action) -> float:
    """Return the return of one robot's first episode."""
    from spiky_rl.hosts.isaaclab.assets import configure_assets

    configure_assets("local")
    from spiky_rl.hosts.base import SimulationOptions
    from spiky_rl.hosts.isaaclab import physics_selection as selection
    from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation

    config, _ = load_configs(TASK)
    selection.apply_physics(config, selection.NATIVE, "cpu")
    with open_simulation(config, TASK, "cpu", 1, SimulationOptions(seed=SEED)) as robot:
        env, total, done = IsaacLabVecEnv(robot, clip_actions=None), 0.0, False
        env.reset()
        while not done:
            observation = env.get_observations()["policy"][0].numpy().copy()
            _, reward, dones, _ = env.step(torch.from_numpy(act(observation))[None])
            total, done = total + float(reward), bool(dones)
    return total


if __name__ == "__main__":
    print(f"return: {run_episode(load_policy(Path(sys.argv[1]))):.4f}")
