"""Stress on a real task: ``python -m tests.hosts.stress_case TASK PHYSICS``; prints what it did as one line of JSON.

A module of its own because a process holds one simulation.
"""

import json
import sys

import torch

from spiky_rl.config.spec import load_task
from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.condition_groups import configure_env
from spiky_rl.hosts.isaaclab.conditions import parse_conditions
from spiky_rl.hosts.isaaclab.conditions.body import find_robot
from spiky_rl.hosts.isaaclab.conditions.requirements import ConditionSubject
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation, resolve_task

EPISODES, SEED, STEPS = 3, 5, 40
SHORT = "env.episode_length_s=0.667"  # 40 control steps, so that the middle is the 20th
SIZE = 0.3
"""Of the random actions: nobody falls by them."""


def model(env):
    """What the solver computes with, a row per world."""
    found = env.sim.physics_manager._solver.mjw_model  # pylint: disable=protected-access
    names = ("body_mass", "dof_armature", "dof_frictionloss", "geom_friction")
    return {name: torch.from_numpy(getattr(found, name).numpy().copy()).flatten(1) for name in names}


def main(task, wanted):
    configure_assets("local")
    spec = load_task(task)
    cfg, _ = load_configs(resolve_task(spec.id), overrides=[SHORT])
    physics = selection.apply_physics(cfg, wanted, "cpu")
    names = parse_conditions("stress", ConditionSubject(task, cfg, spec.leg))
    names = [name for name in names if "spikes" not in name and name != "dead_neurons" and "bits" not in name]
    configure_env(cfg, names)
    count = len(names) * EPISODES
    with open_simulation(
        cfg, task_id=resolve_task(spec.id), device="cpu", num_envs=count, options=SimulationOptions(seed=1)
    ) as gym_env:
        env = IsaacLabVecEnv(gym_env)
        with torch.inference_mode():
            groups = env.condition_groups_class(env, names, EPISODES, ["policy"], SEED, spec.leg)
            robot = find_robot(env.unwrapped)[1]
            policy, obs = groups.make_random_policy(), groups.restart()
            for condition in groups.conditions:
                condition.begin()
            rows = {key: [] for key in ("true", "seen", "joints", "wanted", "sent", "effort")}
            models = []
            for step in range(STEPS - 1):
                rows["true"].append(groups._flatten(obs))
                seen = groups.perturb_observations(obs)
                rows["seen"].append(groups._flatten(seen))
                actions = SIZE * policy(seen)
                rows["wanted"].append(actions)
                actions = torch.cat([c.perturb_actions(actions[c.group.ids]) for c in groups.conditions])
                rows["sent"].append(actions)
                for condition in groups.conditions:
                    condition.step()
                obs, _, dones, _ = env.step(actions)
                assert not dones.any(), f"step {step}: an episode ended"
                rows["joints"].append(robot.data.joint_pos.torch.clone())
                rows["effort"].append(robot.data.joint_effort_target.torch.clone())
                if step in (5, STEPS - 2):
                    models.append(model(env.unwrapped))
    found = {
        key: torch.stack(values).unflatten(1, (len(names), EPISODES)).tolist() for key, values in rows.items()
    }
    found |= {
        "names": names,
        "middle": groups.conditions[0].group.damage_step,
        "physics": physics,
        "joint_names": robot.joint_names,
    }
    found["before"], found["after"] = ({k: v.tolist() for k, v in m.items()} for m in models)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
