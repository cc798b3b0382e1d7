"""Around the networks a training does no more than its host's own: one check per step, no waiting for clocks, one meter."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch

from spiky_rl.hosts.environment import Stopwatch
from spiky_rl.learners.common import runner as common_runner
from spiky_rl.learners.common.episodes import WINDOW, EpisodeStatistics
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.metrics.meter import CostMeter
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.pretend_case import World
from tests.hosts.pretend_cuda import DEVICE, pretended

NETWORK = {**LIF, "layers": [8, 6]}
STEPS, ENVS = 40, 9


def test_episodes_are_those_of_a_loop_that_asks_in_every_step():
    generator = torch.Generator().manual_seed(0)
    episodes = EpisodeStatistics(ENVS, "cpu")
    returns, lengths = deque(maxlen=WINDOW), deque(maxlen=WINDOW)
    summed, counted = torch.zeros(ENVS), torch.zeros(ENVS)
    for step in range(STEPS):
        rewards = torch.randn(ENVS, generator=generator)
        ended = torch.rand(ENVS, generator=generator) > 0.6
        episodes.add(rewards, ended)
        summed, counted = summed + rewards, counted + 1
        returns.extend(summed[ended].tolist())
        lengths.extend(counted[ended].tolist())
        summed, counted = summed * ~ended, counted * ~ended
        if step % 7 == 0:
            episodes.fetch()
            assert (episodes.returns, episodes.lengths) == (returns, lengths)
    episodes.fetch()
    episodes.fetch()
    assert (episodes.returns, episodes.lengths) == (returns, lengths)
    assert len(returns) == WINDOW


class Checked(PointEnv):
    """An environment that looks for numbers that are none."""

    checks_finite = True


def spoilt(env):
    """The environment, whose rewards are none."""
    step = env.step

    def stepped(actions):
        obs, rewards, dones, extras = step(actions)
        return obs, rewards * float("nan"), dones, extras

    env.step = stepped
    return env


def test_rsl_rl_looks_for_nan_where_the_environment_does_not():
    with pytest.raises(ValueError, match="rewards returned by the environment contain NaN"):
        RslRlRunner(spoilt(PointEnv()), config(NETWORK, steps=3)).learn(1)
    run = RslRlRunner(spoilt(Checked()), config(NETWORK, steps=3))
    with pytest.raises(FloatingPointError):  # by the weights, after the update: nobody looked before
        run.learn(1)


def test_a_stopwatch_adds_up_what_is_between_start_and_stop():
    watch = Stopwatch("cpu")
    for _ in range(3):
        watch.start()
        watch.stop()
    first = watch.seconds
    assert 0.0 < first < 1.0 and watch.seconds == first


def test_a_stopwatch_of_a_cuda_device_waits_when_it_is_read_and_not_before():
    with pretended() as cuda:
        watch = Stopwatch(DEVICE)
        for _ in range(3):
            watch.start()
            torch.rand(3, device=DEVICE).sum()
            watch.stop()
        assert not cuda.pretence.met
        assert watch.seconds == pytest.approx(3e-3), "a millisecond each"
        assert set(cuda.pretence.met) == {"spiky_rl.hosts.environment:Stopwatch.seconds"}


def test_a_control_step_in_isaac_lab_waits_once(monkeypatch):
    environment = pytest.importorskip(
        "spiky_rl.hosts.isaaclab.environment", reason="the isaaclab extra is not installed"
    )
    with pretended() as cuda:
        world = World()
        monkeypatch.setattr(environment.RslRlVecEnvWrapper, "step", lambda _, actions: world.step(actions))
        env = environment.IsaacLabVecEnv.__new__(environment.IsaacLabVecEnv)
        env.env, env.stopwatch = world, Stopwatch(DEVICE)
        env.broken = SimpleNamespace(is_excessive=torch.zeros((), dtype=torch.bool, device=DEVICE))
        env.step(torch.rand(world.num_envs, world.num_actions, device=DEVICE))
    assert cuda.pretence.met == {"spiky_rl.hosts.environment:TimedEnvironment.step": 1}


def test_the_meter_is_made_once_in_a_training(monkeypatch):
    made = []

    def meter_of(network):
        made.append(network)
        return CostMeter(network)

    monkeypatch.setattr(common_runner, "make_meter", meter_of)
    run = RslRlRunner(PointEnv(), config(NETWORK, steps=3))
    run.learn(3)
    assert made == [run.alg.actor.network]
    run.learn(1)
    assert len(made) == 2, "what was loaded in between may have other zeros"


def test_the_meter_counts_weights_that_began_at_zero():
    recurrent = {"name": "recurrent", "gain": 0.0}
    run = RslRlRunner(PointEnv(), config({**NETWORK, "stateful": True, "recurrent": recurrent}, steps=3))
    zeros = run.meter.sparsity
    torch.nn.init.ones_(run.network.layers[0].recurrent.weight)
    assert run.meter.sparsity == CostMeter(run.network).sparsity < zeros


def test_the_meter_of_rounded_weights_counts_their_present_zeros():
    run = RslRlRunner(PointEnv(), config({**NETWORK, "quantize": "int8"}, steps=3))
    zeros = run.meter.sparsity
    with torch.no_grad():
        # less than half of a multiple of the scale, so that they are rounded to 0
        run.network.layers[0].connection.weight[1:] *= 1e-4
    assert run.meter.sparsity == CostMeter(run.network).sparsity > zeros + 0.1


def flags():
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize(
    ("device", "library", "changed"),
    [("cuda:0", "rsl_rl", True), ("cuda:0", "skrl", False), ("cpu", "rsl_rl", False)],
)
def test_training_begins_with_torchs_switches_as_isaac_lab_sets_them(device, library, changed, monkeypatch):
    from spiky_rl.learners import get_learner
    from spiky_rl.run.run_plan import RunRequest, TrainOptions
    from spiky_rl.run.train import TrainingRun

    class Begun(Exception):
        """The simulator would start."""

    def simulation(*_, **__):
        seen.append(flags())
        raise Begun

    seen, before = [], flags()
    plan = SimpleNamespace(
        request=RunRequest(task="cartpole", library=library),
        library=library,
        get_setting=lambda _: 1,
        learner=get_learner(library),
        host_task=SimpleNamespace(open=simulation),
        device=device,
        num_envs=1,
        process_seed=0,
        rank=0,
    )
    with pytest.raises(Begun):
        TrainingRun(plan, TrainOptions()).train(None, None)
    assert seen == [(True, True, False, True) if changed else before]
    assert flags() == before
