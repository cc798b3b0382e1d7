"""Tasks whose observations are late or long, on the real simulator: ``python -m tests.hosts.delays_case TASK AGENT``.

Prints what an environment observed as one line of JSON: as the task has it, and what the manager's terms give at once.
"""

import json
import sys

import torch

from spiky_rl.cli.evaluate import build_parser
from spiky_rl.cli.flags import parse_settings
from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, open_simulation
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

ENVS, STEPS, LENGTH = 4, 45, 0.5


def main(task, agent):
    """Random actions over more than one episode of 30 control steps."""
    line = ["--task", task, "--agent", agent, "--device", "cpu", "--assets", "local"]
    plan = make_plan(
        parse_settings(RunRequest, build_parser().parse_args([*line, f"env.episode_length_s={LENGTH}"]))
    )
    with open_simulation(
        plan.host_task.env_cfg,
        task_id=plan.host_task.id,
        device="cpu",
        num_envs=ENVS,
        options=SimulationOptions(seed=0),
    ) as gym_env:
        env = IsaacLabVecEnv(gym_env)
        manager = env.unwrapped.observation_manager
        terms = [getattr(manager.cfg.policy, name) for name in manager.active_terms["policy"]]

        def now():
            """What the sensors read, scaled as the task says."""
            read = [term.func(env.unwrapped, **term.params) for term in terms]
            scaled = [x if t.scale is None else x * t.scale for x, t in zip(read, terms, strict=True)]
            return torch.cat(scaled, 1).tolist()

        with torch.inference_mode():
            groups = env.condition_groups_class(
                env, ["nominal", "observation_delay_1"], ENVS // 2, ["policy"], 0
            )
            policy, obs = groups.make_random_policy(), groups.restart()
            seen, true, ends = [], [], []
            groups.frames.reset()
            held = []
            for _ in range(STEPS):
                seen.append(obs["policy"].tolist())
                held.append(groups.perturb_observations(obs)["policy"].tolist())
                true.append(now())
                obs, _, dones, _ = env.step(0.3 * policy(obs))
                groups.frames.reset(dones)
                for condition in groups.conditions:
                    condition.reset(dones[condition.group.ids])
                ends.append(dones.bool().tolist())
            found = {"seen": seen, "true": true, "held": held, "ends": ends, "step": env.unwrapped.step_dt}
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
