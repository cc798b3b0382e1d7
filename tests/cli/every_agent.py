"""Iterations of every agent on a real task, in one simulator: ``every_agent.py LIBRARY FOLDER TASK ITERATIONS TARGETS AGENT...``.

What was trained is exported to the TARGETS, with commas; ``-``: none. Prints one line of JSON per agent: what it did, or the traceback.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

from spiky_rl.cli.flags import parse_settings
from spiky_rl.cli.train import build_parser
from spiky_rl.config.options import UserError
from spiky_rl.deploy._export import write_and_verify
from spiky_rl.deploy._targets import ExportOptions, check_expressible
from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, open_simulation
from spiky_rl.learners.common.silent_layers import classify_layer, is_expected_to_spike
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

ONCE = "agent.algorithm.num_learning_epochs=1"
"""Each sample is learned from once: in all minibatches, eight times faster with skrl."""


def planned(library, logs, task, agent):
    line = ["--task", task, "--agent", agent, "--rl_library", library, "--log_root", logs]
    line += [*"--device cpu --assets local --num_envs 16 --seed 0".split(), ONCE]
    return make_plan(parse_settings(RunRequest, build_parser().parse_args(line)))


def warnings(runner, activity):
    """What training would warn of if it went on like this: ``silent`` or ``saturated`` layers."""
    network = next(iter(runner.models)).network if activity.layers else None
    return [
        classify_layer(layer)
        for i, layer in enumerate(activity.layers)
        if is_expected_to_spike(network, i) and classify_layer(layer)
    ]


def exported(plan, policy, env, targets):
    """By target how many control steps its file was compared over, the line that refuses it, or how it failed."""
    found = {}
    for name in targets.split(","):
        try:
            built = ExportOptions(to=name).check_request(plan.request)
            check_expressible(built.values(), plan.spec.to_dict())
        except UserError as error:
            found[name] = {"refused": str(error)}
            continue
        try:
            (agreement,) = write_and_verify(
                policy, env, Path(plan.request.log_root) / plan.agent, built
            ).values()
            found[name] = {"steps": agreement.steps}
        except Exception:  # pylint: disable=broad-exception-caught  # the test shows it
            found[name] = {"error": traceback.format_exc()}
    return found


def main(library, logs, task, iterations, targets, *agents):
    plan = planned(library, logs, task, agents[0])
    with open_simulation(
        plan.host_task.env_cfg,
        task_id=plan.host_task.id,
        device="cpu",
        num_envs=plan.num_envs,
        options=SimulationOptions(seed=0),
    ) as gym_env:
        for agent in agents:
            found = {"agent": agent}
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    plan = planned(library, logs, task, agent)
                    env = IsaacLabVecEnv(gym_env, clip_actions=plan.get_setting("clip_actions"))
                    env.reset()
                    runner = plan.learner.get_runner_class(plan.spec.algorithm)(
                        env, plan.config, None, "cpu", identity=plan.identity
                    )
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
