"""Plans of trainings on Gymnasium's tasks, and their runners."""

import torch

from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunPlan, RunRequest


def plan_of(
    task: str, agent: str, *overrides: str, num_envs: int = 32, library: str | None = None
) -> RunPlan:
    """The plan of a training on the CPU."""
    return make_plan(
        RunRequest(
            task=task, agent=agent, device="cpu", num_envs=num_envs, library=library, overrides=overrides
        )
    )


def make_runner(plan: RunPlan, env):
    """The runner of a plan, with weights of seed 0."""
    torch.manual_seed(0)
    return plan.learner.get_runner_class(plan.spec.algorithm)(
        env, plan.config, None, "cpu", identity=plan.identity
    )
