"""Optimisers with one kernel for all weights, beside torch's own loop over the weights."""

import pytest
import torch

from spiky_rl.learners.common.optimizers import fuse_optimizer
from tests.hosts import test_distillation, test_replay, test_skrl_runner
from tests.hosts.point_env import PointEnv
from tests.hosts.test_runner import equal, parameters, runner

STEPS = 5


def train(make, fused):
    """Return weights and biases after some steps of the optimiser that ``make`` makes."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((7, 5), (5,), (1, 3))]
    optimizer = make(weights)
    if fused:
        fuse_optimizer(optimizer)
    for _ in range(STEPS):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_the_kernel_takes_the_same_steps_up_to_rounding(name):
    def make(weights):
        return getattr(torch.optim, name)(
            [{"params": weights[:1]}, {"params": weights[1:], "lr": 1e-2}], lr=1e-3
        )

    torch.testing.assert_close(train(make, True), train(make, False), atol=1e-6, rtol=1e-6)


def list_groups(run):
    modules = getattr(run.alg, "checkpoint_modules", {"optimizer": run.alg.optimizer})
    return [
        group
        for module in modules.values()
        if hasattr(module, "param_groups")
        for group in module.param_groups
    ]


RUNS = {
    "PPO of rsl_rl": runner,
    "two rates": lambda: runner(critic_learning_rate=2e-3),
    "PPO of skrl": lambda: test_skrl_runner.runner(*test_skrl_runner.RATES["fixed"]),
    "TD3": lambda: test_replay.runner("lif_td3", "agent.algorithm.target=proxy"),
    "SAC": lambda: test_replay.runner("lif_sac", "agent.algorithm.learn_entropy=false"),
}


@pytest.mark.parametrize("case", RUNS)
def test_every_learner_changes_all_weights_in_one_kernel(case):
    groups = list_groups(RUNS[case]())
    assert groups and all(group["fused"] for group in groups)


def test_so_does_distillation(tmp_path):
    run = test_distillation.student_of(test_distillation.a_teacher(), folder=tmp_path)
    assert all(group["fused"] for group in run.alg.distillation.optimizer.param_groups)


def test_a_training_that_began_without_the_kernel_goes_on_without_it(tmp_path):
    def begin(env):
        run = runner(env)
        for group in list_groups(run):
            group["fused"] = None
        return run

    whole = begin(PointEnv())
    whole.learn(4)
    env = PointEnv()
    first = begin(env)
    first.learn(2)
    first.save(str(tmp_path / "model.pt"))
    resumed = runner(env, seed=5)
    resumed.load(str(tmp_path / "model.pt"))
    resumed.learn(2)
    assert [group["fused"] for group in list_groups(resumed)] == [None]
    assert equal(parameters(resumed), parameters(whole))
