"""Worlds whose physics breaks: ``python -m tests.hosts.broken_case TASK PHYSICS``; prints what became of them as one line of JSON.

A module of its own because a process holds one simulation.
"""

import json
import math
import sys

import torch

from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.conditions import find_robot
from spiky_rl.hosts.isaaclab.environment import (
    NonFiniteError,
    IsaacLabVecEnv,
    load_configs,
    open_simulation,
    resolve_task,
)

ENVS, SEED, STEPS, BREAKS = 16, 1, 25, {5: ([3], math.nan), 9: ([3, 7], 1e30), 15: ([0], math.inf)}
"""In which control step the joints of which worlds get which velocity."""
STILL = 1
"""A world of which nobody touches anything."""


def set_velocity(env, worlds, value):
    robot = find_robot(env.unwrapped)[1]
    speed = robot.data.joint_vel.torch.clone()
    speed[worlds] = value
    robot.write_joint_velocity_to_sim_index(velocity=speed)


def course(env, breaks):
    """What an episode of random actions returns, where worlds break and where none does."""
    torch.manual_seed(SEED)
    env.unwrapped.reset(seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    rows = []
    for step in range(STEPS):
        worlds, value = breaks.get(step, ([], 0.0))
        if worlds:
            set_velocity(env, worlds, value)
        actions = 0.2 * (2.0 * torch.rand(env.num_envs, env.num_actions, generator=generator) - 1.0)
        obs, rewards, dones, extras = env.step(actions)
        logged = [float(value) for value in extras.get("log", {}).values()]
        rows.append(
            {
                "observation": obs["policy"].clone(), "rewards": rewards.clone(), "dones": dones.clone(),
                "time_outs": extras["time_outs"].clone(), "logged": all(map(math.isfinite, logged)),
                "lengths": env.episode_length_buf.clone(),
            }
        )  # fmt: skip
    return rows


def main(task, wanted):
    configure_assets("local")
    cfg, _ = load_configs(resolve_task(task))
    found = {"physics": selection.apply_physics(cfg, wanted, "cpu")}
    with (
        open_simulation(cfg, task_id=resolve_task(task), device="cpu", num_envs=ENVS, seed=SEED) as gym_env,
        torch.inference_mode(),
    ):
        env = IsaacLabVecEnv(gym_env)
        whole, found["none"] = course(env, {}), env.worlds_reset
        rows, found["count"] = course(env, BREAKS), env.worlds_reset
        found["finite"] = all(
            bool(row["observation"].isfinite().all() and row["rewards"].isfinite().all() and row["logged"])
            for row in rows
        )
        found["dones"] = {
            step: [world for world in worlds if rows[step]["dones"][world]]
            for step, (worlds, _) in BREAKS.items()
        }
        found["truncated"] = sum(int(rows[step]["time_outs"].sum()) for step in BREAKS)
        found["lengths"] = {
            step: rows[step]["lengths"][worlds].tolist() for step, (worlds, _) in BREAKS.items()
        }
        found["rewards"] = {
            step: rows[step]["rewards"][worlds].tolist() for step, (worlds, _) in BREAKS.items()
        }
        found["apart"] = max(
            float((a["observation"][STILL] - b["observation"][STILL]).abs().max())
            for a, b in zip(whole[: max(BREAKS)], rows, strict=False)
        )
        set_velocity(env, slice(None), math.nan)
        try:
            env.step(torch.zeros(ENVS, env.num_actions))
        except NonFiniteError as error:
            found["failed"] = str(error)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
