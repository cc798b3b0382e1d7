"""Worlds whose physics breaks: ``python -m tests.hosts.broken_case TASK PHYSICS``; prints what became of them as one line of JSON.

With ``stale`` as third argument, Isaac-Cartpole also reads what Isaac Lab does not reset: a frame sensor, and accelerations in every
physics step. A module of its own because a process holds one simulation.
"""

import json
import math
import sys

import torch

from spiky_rl.hosts.base import NonFiniteError, SimulationOptions
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.conditions.body import find_robot
from spiky_rl.hosts.isaaclab.environment import (
    IsaacLabVecEnv,
    load_configs,
    open_simulation,
    resolve_task,
)

ENVS, SEED, STEPS, BREAKS = 16, 1, 25, {5: ([3], math.nan), 9: ([3, 7], 1e30), 15: ([0], math.inf)}
"""In which control step the joints of which worlds get which velocity."""
STILL = 1
"""A world of which nobody touches anything."""


def pole(env):
    """Where the frame sensor sees the pole."""
    return env.scene["frames"].data.target_pos_w.torch[:, 0]


def read_stale_values(cfg):
    from isaaclab.envs import mdp
    from isaaclab.managers import ObservationTermCfg, RewardTermCfg
    from isaaclab.sensors import FrameTransformerCfg

    cfg.decimation = 1
    frame = FrameTransformerCfg.FrameCfg(prim_path="{ENV_REGEX_NS}/Robot/pole")
    cfg.scene.frames = FrameTransformerCfg(prim_path="{ENV_REGEX_NS}/Robot/cart", target_frames=[frame])
    cfg.observations.policy.pole = ObservationTermCfg(func=pole)
    cfg.rewards.acceleration = RewardTermCfg(func=mdp.body_lin_acc_l2, weight=-1e-4)


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
        robot = find_robot(env.unwrapped)[1]
        logged = [float(value) for value in extras.get("log", {}).values()]
        rows.append(
            {
                "observation": obs["policy"].clone(), "rewards": rewards.clone(), "dones": dones.clone(),
                "time_outs": extras["time_outs"].clone(), "logged": all(map(math.isfinite, logged)),
                "lengths": env.episode_length_buf.clone(), "body": robot.data.body_link_pos_w.torch[worlds, -1].clone(),
            }
        )  # fmt: skip
    return rows


def main(task, wanted, *stale):
    configure_assets("local")
    cfg, _ = load_configs(resolve_task(task))
    if stale:
        read_stale_values(cfg)
    found = {"physics": selection.apply_physics(cfg, wanted, "cpu")}
    with (
        open_simulation(
            cfg, task_id=resolve_task(task), device="cpu", num_envs=ENVS, options=SimulationOptions(seed=SEED)
        ) as gym_env,
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
        if stale:
            found["pole"] = max(
                float((rows[step]["observation"][worlds, -3:] - rows[step]["body"]).abs().max())
                for step, (worlds, _) in BREAKS.items()
            )
        set_velocity(env, slice(None), math.nan)
        try:
            env.step(torch.zeros(ENVS, env.num_actions))
        except NonFiniteError as error:
            found["failed"] = str(error)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
