"""``best.pt`` is the checkpoint that returns most without noise, chosen from the last ones of a run."""

from types import SimpleNamespace

import pytest
import torch

from spiky_rl.hosts.base import NonFiniteError
from spiky_rl.learners.common.runner import BaseRunner
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.run import train
from spiky_rl.run.best_checkpoint import choose_best_checkpoint
from tests.hosts.point_env import LIF, PointEnv, config

NETWORK = {**LIF, "layers": [16]}
STEPS = 8
PLAN = SimpleNamespace(device="cpu", seed=0, get_setting={"num_steps_per_env": STEPS}.__getitem__)


class ResettableEnv(PointEnv):
    """Points that can be reset as Isaac Lab's direct workflow is, all at once."""

    def restart(self, parts, seed):
        self.seed = seed
        self.reset()
        return self.get_observations()

    def reset(self) -> None:
        self.state = torch.randn(1, 4).expand(self.num_envs, 4).clone()
        self.limit[:] = self.max_episode_length
        self.episode_length_buf[:] = 0


def make_runner(env, folder) -> BaseRunner:
    torch.manual_seed(0)
    cfg = config(NETWORK, steps=STEPS)
    cfg["actor"]["obs_normalization"] = True
    return RslRlRunner(env, cfg, None if folder is None else str(folder))


def push(run, force: float) -> None:
    """Let the policy accelerate all points by ``force``: they leave the origin that they are to reach."""
    readout = list(run.alg.actor.network.parameters())[-1]
    with torch.no_grad():
        readout.fill_(force)


def choose(run, env, folder, is_stopped=lambda: False):
    return choose_best_checkpoint(run, env, PLAN, folder, is_stopped)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    env = ResettableEnv(num_envs=9)
    run = make_runner(env, tmp_path_factory.mktemp("learned"))
    run.learn(16)
    return run, env


@pytest.fixture
def trained(learned, tmp_path):
    """A trained run whose last policies are worse than that before them, and whose ``best.pt`` is one of those."""
    run, env = learned
    run.progress.iterations = 16
    for index, force in ((3, 90.0), (7, 0.0), (11, 60.0), (15, 90.0)):
        push(run, force)
        run.save(str(tmp_path / f"model_{index}.pt"))
    run.save(str(tmp_path / "best.pt"))
    return run, env, tmp_path


def test_the_checkpoint_that_returns_most_without_noise_is_the_best(trained):
    run, env, folder = trained
    best = choose(run, env, folder)
    assert best["checkpoint"] == "model_7.pt"
    assert list(best["returns"]) == ["model_7.pt", "model_11.pt", "model_15.pt", "best.pt"]
    seventh, eleventh, fifteenth, last = best["returns"].values()
    assert fifteenth == pytest.approx(last), "the same weights and states"
    assert seventh > eleventh > fifteenth
    assert (best["episodes"], best["control_steps"]) == (2, env.max_episode_length)
    assert (folder / "best.pt").read_bytes() == (folder / "model_7.pt").read_bytes()
    assert env.seed != PLAN.seed, "an evaluation with the training's seed has other episodes"


def test_a_short_training_has_a_shorter_evaluation(trained):
    run, env, folder = trained
    run.progress.iterations = 4
    assert choose(run, env, folder)["control_steps"] == 8  # a quarter of 4 times 8


def test_a_stop_leaves_the_best_checkpoint_as_it_was(trained):
    run, env, folder = trained
    before = (folder / "best.pt").read_bytes()
    assert choose(run, env, folder, lambda: True) is None
    assert (folder / "best.pt").read_bytes() == before


def test_fewer_environments_than_checkpoints_compare_the_last_ones(trained):
    run, _, folder = trained
    best = choose(run, ResettableEnv(num_envs=2), folder)
    assert list(best["returns"]) == ["model_15.pt", "best.pt"]


def test_a_run_without_a_checkpoint_has_nothing_to_choose(tmp_path):
    env = ResettableEnv()
    assert choose(make_runner(env, tmp_path), env, tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [NonFiniteError("joint velocity", False), OSError(28, "No space left on device"), KeyboardInterrupt()],
)
def test_a_finished_training_stays_finished_whatever_ends_what_follows_it(error, caplog):
    with train._warn_of_failure("best.pt stays as it is"):
        raise error
    assert caplog.messages == [f"best.pt stays as it is: {str(error) or 'stopped'}"]


def test_a_copy_of_a_policy_keeps_its_weights_and_normalisation_while_training_goes_on(tmp_path):
    """On both hosts, right after an update, whose gradient's graph the distribution of the actions belongs to."""
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    from tests.hosts import skrl_case

    for run in (make_runner(PointEnv(), None), skrl_case.runner(network=skrl_case.SPIKING)):
        run.learn(1)
        obs = run.env.get_observations()
        copy = run.inference_policy.copy()
        with torch.inference_mode():
            before = copy(obs)
        for model in run.models:
            model.train()
        run.learn(2)
        copy.reset()
        with torch.inference_mode():
            assert torch.equal(copy(obs), before)
            assert not torch.equal(run.get_inference_policy("cpu").copy()(obs), before)
