"""Physics probes of the Go1: ``python -m tests.hosts.go1_case``; prints what it found as one line of JSON.

A module of its own because a process holds one simulation; all probes share it.
"""

import json

import mujoco
import numpy as np
import torch

from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.condition_groups import share_env_origin
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation, resolve_task
from spiky_rl.hosts.isaaclab.wheel_assets import MJLAB, get_wheel_folder
from tests.hosts.robots_case import ENVS, SEED, Body, Simulation, beside, mirror, mirrored

SETTLE, REST = 150, 60
"""Control steps until a robot that was let fall stands still, and those over which contact forces are averaged."""


def undisturbed(cfg):
    """The robot as its file describes it, let alone: no random masses, no pushes, no noise, no end."""
    cfg.episode_length_s, cfg.terminations.base_contact = 1e6, None
    for name in ("physics_material", "add_base_mass", "base_com", "push_robot"):
        setattr(cfg.events, name, None)


def on_the_ground(path):
    """MuJoCo's own model of the robot's file, with a ground and without what is only there to be seen."""
    spec = mujoco.MjSpec.from_file(str(path))
    for geom in list(spec.geoms):
        if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
            spec.delete(geom)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 1])
    return spec.compile()


def main():
    found = {"assets": configure_assets("local")}
    from spiky_rl.hosts.isaaclab.go1_flat import ROBOT

    task = resolve_task("Spiky-Velocity-Flat-Go1")
    cfg, _ = load_configs(task)
    share_env_origin(cfg)
    undisturbed(cfg)
    with (
        open_simulation(
            cfg, task_id=task, device="cpu", num_envs=ENVS, options=SimulationOptions(seed=SEED)
        ) as gym_env,
        torch.inference_mode(),
    ):
        env = IsaacLabVecEnv(gym_env)
        sim = Simulation(env)
        theirs = Body(on_the_ground(get_wheel_folder(MJLAB) / ROBOT))
        found["beside"] = beside(sim.body, theirs)
        partners, found["symmetry"] = mirror(sim.body)
        weight = 9.81 * float(theirs.model.body_mass.sum())
        found["geoms"] = sorted(set(sim.body.geoms))

        env.reset()
        still = torch.zeros(ENVS, env.num_actions)
        lowest, lifted = [], []
        for step in range(SETTLE + REST):
            if step == SETTLE:
                measures = env.make_measures()
                commands = measures.command.command[:, :2].norm(dim=-1)
            _, _, dones, _ = env.step(still)
            if step >= SETTLE:
                ended = measures.step(torch.full_like(dones, step == SETTLE + REST - 1))
            lowest.append(sim.lowest())
            lifted.append(sim.lifted() / weight)
        found["velocity_error"], found["command"] = ended["velocity_error"].tolist(), commands.tolist()
        found["height"] = sim.robot.data.root_link_pos_w.torch[:, 2].tolist()
        found["upright"] = sim.robot.data.projected_gravity_b.torch[:, 2].tolist()
        found["lifted"] = np.mean(lifted[-REST:], 0).tolist()
        found["lowest"] = np.min(lowest, 0).tolist()
        found["lowest at rest"] = np.min(lowest[-REST:], 0).tolist()
        sensor = gym_env.unwrapped.scene["contact_forces"]
        feet, found["feet"] = sensor.find_sensors(".*_calf")
        forces = sensor.data.net_forces_w.torch
        found["on feet"] = (forces[:, feet, 2].sum(1) / weight).tolist()

        found["apart"], found["moved"] = mirrored(env, sim, partners)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main()
