"""The conditions on a real task: ``python -m tests.hosts.conditions_case TASK PHYSICS``; prints what they did as one line of JSON.

A module of its own because a process holds one simulation.
"""

import json
import sys

import torch

from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.condition_groups import share_env_origin
from spiky_rl.hosts.isaaclab.condition_names import ROBUSTNESS_NAMES
from spiky_rl.hosts.isaaclab.conditions.body import find_robot
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation, resolve_task

EPISODES, SEED, STEPS = 4, 5, 30
SETTLE, SLIDE, SPEED = 60, 30, 4.0


def model():
    """What MuJoCo-Warp computes with, a row per world."""
    from isaaclab_newton.physics import NewtonManager

    found = NewtonManager._solver.mjw_model  # pylint: disable=protected-access
    names = ("body_mass", "body_inertia", "dof_frictionloss", "dof_damping", "geom_friction")
    return {name: torch.from_numpy(getattr(found, name).numpy().copy()) for name in names}


def make_mass_event():
    """A task's own event at its start, which makes every robot another one."""
    from isaaclab.envs import mdp
    from isaaclab.managers import EventTermCfg, SceneEntityCfg

    params = {
        "asset_cfg": SceneEntityCfg("robot"),
        "mass_distribution_params": (0.9, 1.1),
        "operation": "scale",
        "min_mass": 1e-6,
    }
    return EventTermCfg(func=mdp.randomize_rigid_body_mass, mode="startup", params=params)


def velocities(env):
    """Joints' where the base is fixed, else the base's: [B, ...]."""
    _, robot = find_robot(env)
    data = robot.data.joint_vel if robot.is_fixed_base else robot.data.root_vel_w
    return data.torch.clone()


def slide(groups, env):
    """How far every robot goes, [B], that stands and is set going at SPEED."""
    still = torch.zeros(env.num_envs, env.num_actions)
    groups.restart()
    for _ in range(SETTLE):
        env.step(still)
    _, robot = find_robot(env.unwrapped)
    start = robot.data.root_link_pos_w.torch.clone()
    robot.write_root_velocity_to_sim_index(
        root_velocity=torch.tensor([SPEED, 0, 0, 0, 0, 0.0]).repeat(env.num_envs, 1)
    )
    over = torch.zeros(env.num_envs)
    for _ in range(SLIDE):
        over += env.step(still)[2]
    assert not over.any(), "nobody fell, so nobody was put back"
    return (robot.data.root_link_pos_w.torch - start)[:, 0]


def main(task, physics):
    configure_assets("local")
    cfg, _ = load_configs(resolve_task(task))
    selection.apply_physics(cfg, physics, "cpu")
    share_env_origin(cfg)
    cfg.events.own_mass = make_mass_event()
    names = list(ROBUSTNESS_NAMES)
    count = len(names) * EPISODES
    with open_simulation(
        cfg, task_id=resolve_task(task), device="cpu", num_envs=count, options=SimulationOptions(seed=1)
    ) as gym_env:
        env = IsaacLabVecEnv(gym_env)
        with torch.inference_mode():
            groups = env.condition_groups_class(env, names, EPISODES, ["policy"], SEED)
            start = groups.restart()["policy"].clone()
            still = torch.zeros(count, env.num_actions)
            before, stream = model(), torch.get_rng_state()
            for condition in groups.conditions:
                condition.begin()
            push = groups.conditions[names.index("push")]
            push.seconds_to_push.zero_()
            velocity = velocities(env.unwrapped)
            for condition in groups.conditions:
                condition.step()
            pushed = velocities(env.unwrapped) - velocity
            untouched = torch.equal(stream, torch.get_rng_state())
            env.step(still)
            after, velocity = model(), velocities(env.unwrapped)
            for _ in range(STEPS - 1):
                obs, _, dones, _ = env.step(still)
                assert not dones.any()
            found = {
                "names": names,
                "start": start.view(len(names), EPISODES, -1).tolist(),
                "end": obs["policy"].view(len(names), EPISODES, -1).tolist(),
                "pushed": pushed.view(len(names), EPISODES, -1).tolist(),
                "velocity": velocity.view(len(names), EPISODES, -1).tolist(),
                "before": {key: value.flatten(1).tolist() for key, value in before.items()},
                "after": {key: value.flatten(1).tolist() for key, value in after.items()},
                "untouched": untouched,
            }
            if not find_robot(env.unwrapped)[1].is_fixed_base:
                found["slide"] = slide(groups, env).view(len(names), EPISODES).tolist()
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
