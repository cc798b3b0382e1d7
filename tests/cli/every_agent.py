"""Iterations of every agent on a real task, in one simulator: ``every_agent.py LIBRARY FOLDER TASK ITERATIONS TARGETS AGENT...``.

What was trained is exported to the TARGETS, with commas; ``-``: none. Prints one line of JSON per agent: what it did, or the traceback.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

from spiky_rl.cli.flags import picked
from spiky_rl.cli.train import parser
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import Request
from spiky_rl.deploy._asked import Export
from spiky_rl.deploy._export import export
from spiky_rl.deploy._targets import refuse
from spiky_rl.hosts.common.silence import expected_to_spike, state_of
from spiky_rl.hosts.isaaclab.environment import TimedVecEnv, simulation
from spiky_rl.hosts.run.prepare import prepare
from spiky_rl.hosts.run.simulate import runner_of

ONCE = "agent.algorithm.num_learning_epochs=1"
"""Each sample is learned from once: in all minibatches, eight times faster with skrl."""


def planned(library, logs, task, agent):
    line = [
        "--task",
        task,
        "--agent",
        agent,
        "--device",
        "cpu",
        "--assets",
        "local",
        "--num_envs",
        "16",
    ]
    line += ["--rl_library", library, "--log_root", logs, "--seed", "0", ONCE]
    return prepare(picked(Request, parser().parse_args(line)))


def warnings(runner, activity):
    """What training would warn of if it went on like this: ``silent`` or ``saturated`` layers."""
    network = next(iter(runner.models)).network if activity.layers else None
    return [
        state_of(layer)
        for i, layer in enumerate(activity.layers)
        if expected_to_spike(network, i) and state_of(layer)
    ]


def exported(plan, policy, env, targets):
    """By target how many control steps its file was compared over, the line that refuses it, or how it failed."""
    found = {}
    for name in targets.split(","):
        try:
            built = Export(to=name).require(plan.request)
            refuse(built.values(), plan.spec.tree())
        except UserError as error:
            found[name] = {"refused": str(error)}
            continue
        try:
            (agreement,) = export(policy, env, Path(plan.request.log_root) / plan.agent, built).values()
            found[name] = {"steps": agreement.steps}
        except Exception:  # pylint: disable=broad-exception-caught  # the test shows it
            found[name] = {"error": traceback.format_exc()}
    return found


def main(library, logs, task, iterations, targets, *agents):
    plan = planned(library, logs, task, agents[0])
    with simulation(
        plan.env_cfg, task_id=plan.gym_id, device="cpu", num_envs=plan.num_envs, seed=0
    ) as gym_env:
        for agent in agents:
            found = {"agent": agent}
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    plan = planned(library, logs, task, agent)
                    env = TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
                    env.reset()
                    runner = runner_of(plan)(env, plan.config, None, "cpu", plan.identity)
                    seen = []
                    runner.on_iteration = seen.append
                    runner.learn(int(iterations), True)
                    policy = runner.get_inference_policy("cpu")
                    policy.reset()
                    action = policy(env.get_observations())
                found |= {
                    "iterations": runner.progress.iterations,
                    "rate": seen[-1].activity.rate,
                    "warned": warnings(runner, seen[-1].activity),
                    "operations": seen[-1].activity.operations,
                    "losses": seen[-1].losses,
                    "action": action.flatten().tolist(),
                }
                if targets != "-":
                    found["exports"] = exported(plan, runner.alg.get_policy(), env, targets)
            except Exception:  # pylint: disable=broad-exception-caught  # the test shows it
                found["error"] = traceback.format_exc()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
