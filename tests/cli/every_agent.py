"""Two iterations of every agent on the real Isaac-Cartpole, in one simulator: ``every_agent.py LIBRARY FOLDER AGENT...``.

Prints one line of JSON per agent: what it did, or the traceback.
"""

import contextlib
import io
import json
import sys
import traceback

from spiky_rl.cli.flags import picked
from spiky_rl.cli.train import parser
from spiky_rl.config.plan import Request
from spiky_rl.hosts.common.silence import expected_to_spike, state_of
from spiky_rl.hosts.isaaclab.environment import TimedVecEnv, simulation
from spiky_rl.hosts.run.prepare import prepare
from spiky_rl.hosts.run.simulate import runner_of

ONCE = "agent.algorithm.num_learning_epochs=1"
"""Each sample is learned from once: in all minibatches, eight times faster with skrl."""


def planned(library, logs, agent):
    line = [
        "--task",
        "cartpole",
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


def main(library, logs, *agents):
    plan = planned(library, logs, agents[0])
    with simulation(
        plan.env_cfg, task_id=plan.gym_id, device="cpu", num_envs=plan.num_envs, seed=0
    ) as gym_env:
        for agent in agents:
            found = {"agent": agent}
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    plan = planned(library, logs, agent)
                    env = TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
                    env.reset()
                    runner = runner_of(plan)(env, plan.config, None, "cpu", plan.identity)
                    seen = []
                    runner.on_iteration = seen.append
                    runner.learn(2, True)
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
            except Exception:  # pylint: disable=broad-exception-caught  # the test shows it
                found["error"] = traceback.format_exc()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
