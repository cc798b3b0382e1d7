"""Policies as they are drawn, evaluated on the real Isaac-Cartpole in one simulator: ``evaluated_agents.py LIBRARY FOLDER AGENT...``.

Prints one line of JSON per agent: its groups, or the traceback.
"""

import contextlib
import io
import json
import sys
import traceback

import torch

from spiky_rl.cli.evaluate import build_parser
from spiky_rl.cli.flags import parse_settings
from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab.condition_groups import share_env_origin
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, open_simulation
from spiky_rl.run.evaluate import measure_conditions
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

EPISODES, SEED = 3, 2
NAMES = ["nominal", "observation_noise", "sensor_dropout", "sensor_loss", "push"]
NAMES += ["action_delay_2", "weights_4_bits", "dead_neurons"]


def planned(library, logs, agent):
    line = "--task cartpole --device cpu --assets local env.episode_length_s=1.0".split()
    line += ["--agent", agent, "--rl_library", library, "--log_root", logs]
    return make_plan(parse_settings(RunRequest, build_parser().parse_args(line)))


def parts(policy, env, groups):
    """Activity of all environments, and the mean of that of the groups, in a state that is not rest."""
    obs = groups.restart()
    policy.reset()
    for _ in range(5):
        obs, _, dones, _ = env.step(policy(obs))
        policy.reset(dones)
    whole, by_group = policy.compute_activity(obs), [policy.compute_activity(obs, ids) for ids in groups.ids]

    def numbers(seen):
        return [seen.rate, seen.operations, seen.cost.effective_operations, seen.cost.activation_sparsity]

    return {"whole": numbers(whole), "parts": torch.tensor([numbers(a) for a in by_group]).mean(0).tolist()}


def main(library, logs, *agents):
    plan = planned(library, logs, agents[0])
    share_env_origin(plan.host_task.env_cfg)
    count = len(NAMES) * EPISODES
    with open_simulation(
        plan.host_task.env_cfg,
        task_id=plan.host_task.id,
        device="cpu",
        num_envs=count,
        options=SimulationOptions(seed=0),
    ) as gym_env:
        for agent in agents:
            found = {"agent": agent}
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    plan = planned(library, logs, agent)
                    env = IsaacLabVecEnv(gym_env, clip_actions=plan.get_setting("clip_actions"))
                    torch.manual_seed(SEED)
                    runner = plan.learner.get_runner_class(plan.spec.algorithm)(
                        env, plan.config, None, "cpu", identity=plan.identity
                    )
                    policy = runner.get_inference_policy("cpu")
                    with torch.inference_mode():
                        groups = env.condition_groups_class(env, NAMES, EPISODES, ["policy"], SEED)
                        (conditions,), cost = measure_conditions(groups, policy)
                        found |= parts(policy, env, groups)
                found |= {"conditions": conditions, "cost": cost}
            except Exception:  # pylint: disable=broad-exception-caught  # the test shows it
                found["error"] = traceback.format_exc()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
