"""Isaac-Ant driven by engineer.c beside the live policy: ``python -m tests.deploy.engineer_case FOLDER`` prints both as JSON.

FOLDER gets the files in C and the observations of the live episode, observations.npy [T, O].
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from spiky_rl.cli.export import build_parser
from spiky_rl.cli.flags import parse_settings
from spiky_rl.deploy import _export, c
from spiky_rl.deploy._contract import describe_contract
from spiky_rl.deploy._targets import make_targets
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest
from spiky_rl.run.simulate import open_policy

SEED = 7
PROGRAM = Path(__file__).with_name("engineer.c")


def main(folder: Path) -> None:
    """Export the recorded policy of Isaac-Ant, drive an episode with it and one with the program, both from the same state."""
    line = "--task Isaac-Ant-v0 --agent lif_ppo --device cpu --assets local --checkpoint pretrained".split()
    args = build_parser().parse([*line, "--log_root", str(folder / "logs")])
    plan = make_plan(resolve_pretrained(parse_settings(RunRequest, args)))
    checkpoint = find_checkpoint(plan)
    seen: list[np.ndarray] = []
    with open_policy(plan, checkpoint) as (env, runner, _):
        policy = runner.get_exportable_policy()
        targets = make_targets(["c", "c_int8"])
        for target in targets.values():
            target.contract = describe_contract(env, policy.obs_groups, plan.agent, plan.task, checkpoint)
        found = _export.write_and_verify(policy, env, folder, targets)
        report = {
            "mismatches": sum(each.mismatches for each in found.values()),
            "live": run_episode(env, lambda: act_live(env, policy, seen)),
            "c": drive(env, folder / "policy.c"),
            "c_int8": drive(env, folder / "int8" / "policy.c"),
            "velocities": read_velocities(env, targets["c"].contract.joints),
        }
    np.save(folder / "observations.npy", np.stack(seen))
    print(json.dumps(report))


def run_episode(env, act) -> dict[str, float]:
    """Return return and steps of an episode from the state of `SEED`; ``act``: gives the environment's actions [1, A]."""
    env.restart([torch.zeros(1, dtype=torch.long)], SEED)
    total, steps, done = 0.0, 0, False
    with torch.inference_mode():
        while not done:
            _, reward, dones, _ = env.step(act())
            total, steps, done = total + float(reward[0]), steps + 1, bool(dones[0])
    return {"return": total, "steps": steps}


def read_velocities(env, joints) -> list[float]:
    """Return the observed joint velocities after the velocity of each of the named ``joints`` was set to its number, from 1."""
    base = env.unwrapped
    robot = base.scene["robot"]
    ids, _ = robot.find_joints(list(joints), preserve_order=True)
    wanted = torch.arange(1.0, len(joints) + 1)[None]
    robot.write_joint_velocity_to_sim_index(velocity=wanted, joint_ids=ids)
    settings = base.observation_manager._group_obs_term_cfgs["policy"]
    [term] = [each for each in settings if each.func.__name__ == "joint_vel_rel"]
    return term.func(base, **term.params)[0].tolist()


def act_live(env, policy, seen: list[np.ndarray]):
    """Return the live policy's actions, and add its observation [O] to ``seen``."""
    if not seen:
        policy.reset()
    observations = env.get_observations()
    seen.append(observations["policy"][0].numpy().copy())
    return policy(observations)


def drive(env, source: Path) -> dict[str, float]:
    """Return return and steps of an episode whose joints take the commands of the program."""
    program = source.with_name("engineer")
    flags = (*c.STANDARD, "-Werror", *c.FLAGS, f"-I{source.parent}")
    subprocess.run([*c.find_compiler(), *flags, PROGRAM, source, "-lm", "-o", program], check=True)
    base = env.unwrapped
    term = base.action_manager.get_term(base.action_manager.active_terms[0])
    settings = base.observation_manager._group_obs_term_cfgs["policy"]
    given = {}

    def take_commands(actions):
        """Take the program's commands in the place of what the term computes of actions, which rewards are told."""
        term._raw_actions[:] = actions
        term._processed_actions = given["commands"]

    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:

        def act():
            measured = [
                each.func(base, **each.params) for each in settings if each.func.__name__ != "last_action"
            ]
            values = torch.cat(measured, -1)[0].tolist()
            print(" ".join(f"{x:.9g}" for x in values), file=running.stdin, flush=True)
            answer = np.array([float(x) for x in running.stdout.readline().split()], np.float32)
            given["commands"], actions = torch.from_numpy(answer).view(2, 1, -1)
            return actions

        term.process_actions = take_commands
        try:
            return run_episode(env, act)
        finally:
            del term.process_actions
            running.stdin.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
