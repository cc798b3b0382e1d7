"""The return of a live policy in the episode of examples/deploy/drive.py: ``python -m tests.deploy.drive_case CHECKPOINT``."""

import importlib.util
import sys
from pathlib import Path

import torch
from tensordict import TensorDict

from spiky_rl.cli.evaluate import build_parser
from spiky_rl.cli.flags import parse_settings
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy" / "drive.py"


def main(checkpoint: str) -> None:
    """Print it as the example does."""

    spec = importlib.util.spec_from_file_location("drive", EXAMPLE)
    assert spec is not None and spec.loader is not None
    drive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drive)
    line = (
        f"--task Isaac-Ant-v0 --agent lif_ppo --device cpu --assets local --checkpoint {checkpoint}".split()
    )
    plan = make_plan(parse_settings(RunRequest, build_parser().parse_intermixed_args(line)))
    held: list = []

    def live(observation):
        if not held:
            held.append(policy_of(plan, checkpoint))
        obs = TensorDict({"policy": torch.from_numpy(observation)[None]}, batch_size=[1])
        with torch.inference_mode():
            return held[0](obs)[0].numpy()

    print(f"return: {drive.run_episode(live):.4f}")


def policy_of(plan, checkpoint):
    """The policy of a checkpoint, built for what an Ant observes."""
    from tests.hosts.point_env import PointEnv

    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)["actor_state_dict"]
    inputs = loaded["obs_normalizer._mean"].shape[-1]
    env = PointEnv(1)
    env.num_actions = next(
        value.shape[0] for name, value in loaded.items() if name.endswith("readout.weight")
    )
    env.get_observations = lambda: TensorDict({"policy": torch.zeros(1, inputs)}, batch_size=[1])
    runner = plan.learner.get_runner_class(plan.spec.algorithm)(
        env, plan.config, None, "cpu", identity=plan.identity
    )
    runner.load(checkpoint, {"actor": True, "critic": True}, map_location="cpu")
    runner.get_inference_policy("cpu")
    return runner.alg.get_policy()


if __name__ == "__main__":
    main(sys.argv[1])
