"""Isaac-Ant, driven for an episode by a compiled policy: ``python examples/deploy/drive.py FOLDER``.

FOLDER holds policy.c and policy.h as ``export.py --raw_actions`` wrote them, for the environment scales actions itself; ``make -C examples/deploy POLICY=FOLDER`` has made policy.so.
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


def compiled(folder: Path) -> Action:
    """The policy in policy.so: an observation [O] to an action [A]."""
    told = re.findall(r"POLICY_(\w+) = (\d+)", (folder / "policy.h").read_text())
    sizes = {name: int(size) for name, size in told}
    library = ctypes.CDLL(str(Path(__file__).with_name("policy.so")))
    state, action = np.zeros(sizes["BYTES"] // 4, np.float32), np.zeros(sizes["ACTIONS"], np.float32)
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    library.policy_reset.argtypes, library.policy_step.argtypes = [pointer], [pointer] * 3
    library.policy_reset(state)

    def act(observation: np.ndarray) -> np.ndarray:
        library.policy_step(state, observation, action)
        return action

    return act


def episode(act: Action) -> float:
    """The return of one robot's first episode."""
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
    print(f"return: {episode(compiled(Path(sys.argv[1]))):.4f}")
