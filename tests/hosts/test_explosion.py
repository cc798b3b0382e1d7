"""Training warns once of returns that nothing can earn, though they are finite; and of no others."""

import math

import pytest
import torch

from spiky_rl.learners.common import return_check
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.run.run_folders import write_result
from tests.hosts.point_env import PointEnv, config


class Scaled(PointEnv):
    """The point mass with other units of reward."""

    unit = 1.0

    def step(self, actions):
        observations, rewards, dones, extras = super().step(actions)
        return observations, self.unit * rewards, dones, extras


@pytest.fixture(name="lines")
def _lines(caplog):
    """Gives what is logged of returns."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == return_check.__name__]


@pytest.mark.parametrize(("unit", "warnings"), [(1.0, 0), (1e7, 0), (1e14, 1)])
def test_finite_returns_that_nothing_can_earn_are_warned_of_once(unit, warnings, lines, tmp_path):
    torch.manual_seed(0)
    env = Scaled()
    env.unit = unit
    RslRlRunner(env, config(), str(tmp_path)).learn(3)
    assert len(lines()) == warnings
    for line in lines():
        assert line.startswith("iteration 0: the mean return is -") and "e+1" in line
        assert "lower agent.algorithm.learning_rate or set agent.clip_actions" in line


class BlownUp(Scaled):
    """The point mass in a simulation that says of itself that it has blown up."""

    unit = math.nan

    def set_trained(self, is_trained):
        self.is_trained = is_trained

    def describe_blow_up(self):
        return "the simulation has blown up, with env.sim.dt=0.5"


def test_a_simulation_that_has_blown_up_is_blamed_and_not_the_learning_rate(lines, tmp_path):
    torch.manual_seed(0)
    env = BlownUp()
    env.checks_finite = True  # rsl_rl looks for NaN itself otherwise
    with pytest.raises(FloatingPointError, match="env.sim.dt=0.5") as caught:
        RslRlRunner(env, config(), str(tmp_path)).learn(1)
    assert "learning_rate" not in str(caught.value) and not env.is_trained
    env.unit = 1e14
    RslRlRunner(env, config(), str(tmp_path)).learn(1)
    (line,) = lines()
    assert "env.sim.dt=0.5" in line and "learning_rate" not in line and env.is_trained


def test_worlds_that_broke_are_counted_over_a_resumed_training_and_written_into_its_result(tmp_path):
    env = Scaled()
    runs = [RslRlRunner(env, config(), str(tmp_path / name)) for name in ("first", "second")]
    env.worlds_reset = 2  # while the simulator started
    runs[0].on_iteration = lambda iteration: setattr(env, "worlds_reset", env.worlds_reset + 3)
    env.worlds_reset = 5
    runs[0].learn(2)
    assert runs[0].progress.worlds_reset == 3, "those of the last iteration's callback come later"
    runs[1].load(str(tmp_path / "first" / "model_1.pt"))
    runs[1].learn(1)
    assert runs[1].progress.worlds_reset == 3
    assert write_result(tmp_path / "result.json", runs[1].progress)["worlds_reset"] == 3
