"""Training warns once of returns that nothing can earn, though they are finite; and of no others."""

import logging

import pytest
import torch

from spiky_rl.hosts.common import explosion
from spiky_rl.hosts.rsl_rl.runner import Runner
from tests.hosts.point_env import PointEnv, config


class Scaled(PointEnv):
    """The point mass with other units of reward."""

    unit = 1.0

    def step(self, actions):
        observations, rewards, dones, extras = super().step(actions)
        return observations, self.unit * rewards, dones, extras


@pytest.fixture(name="lines")
def _lines():
    """What is logged, whoever has set up logging before."""
    handler = logging.Handler()
    handler.lines = []
    handler.emit = lambda record: handler.lines.append(record.getMessage())
    explosion.log.addHandler(handler)
    yield handler.lines
    explosion.log.removeHandler(handler)


@pytest.mark.parametrize(("unit", "warnings"), [(1.0, 0), (1e7, 0), (1e14, 1)])
def test_finite_returns_that_nothing_can_earn_are_warned_of_once(unit, warnings, lines, tmp_path):
    torch.manual_seed(0)
    env = Scaled()
    env.unit = unit
    Runner(env, config(), str(tmp_path)).learn(3)
    assert len(lines) == warnings
    for line in lines:
        assert line.startswith("iteration 0: the mean return is -") and "e+1" in line
        assert "lower agent.algorithm.learning_rate or set agent.clip_actions" in line
