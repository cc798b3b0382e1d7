"""Every agent trains under rsl_rl on a pretended CUDA device: rollouts, resets, updates, local rules, the log and the meter."""

from functools import cache

import pytest

from spiky_rl.config.spec import resolve_agent
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import mark_slow, takes_images
from tests.hosts import syncs
from tests.hosts.point_env import config
from tests.hosts.pretend_case import AGENTS, STEPS, World, Writer, check_trained
from tests.hosts.pretend_cuda import DEVICE, pretended

ITERATIONS = 2
ELSEWHERE = ("skrl.", "spiky_rl.learners.skrl.", "spiky_rl.hosts.", "spiky_rl.classification.")
"""Modules of what is listed that other tests meet."""


def settings(agent: str) -> dict:
    host = config(steps=STEPS, class_name="PPO", schedule="adaptive", desired_kl=0.01, num_learning_epochs=1)
    if takes_images(agent):
        host["obs_groups"] = {"actor": ["policy"], "critic": ["critic"]}
    return make_runner_cfg(resolve_agent(agent, "Isaac-Point", host, []))


@cache
def trained(agent: str):
    """What was met and launched while an agent was trained, and what was written."""
    chosen, images = settings(agent), takes_images(agent)
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            run = RslRlRunner(World(images), chosen, "nowhere", DEVICE)
        writer = run.logger.writer = Writer()
        run.save = lambda path: run.alg.save()  # as far as there are values to be written
        run.learn(ITERATIONS)
        assert all(weight.is_cuda for model in run.models for weight in model.parameters())
    return cuda.pretence.met, cuda.cupy.launches, writer.scalars


@pytest.mark.parametrize("agent", mark_slow(AGENTS, ["alif_recurrent_ppo", "lif_eprop"]))
def test_every_agent_trains(agent):
    _, launches, scalars = trained(agent)
    check_trained(agent, launches, scalars, ITERATIONS)


@pytest.mark.slow
def test_everything_that_is_listed_is_met():
    met = set().union(*(trained(agent)[0] for agent in AGENTS))
    listed = {name for name in (*syncs.OURS, *syncs.HOSTS) if not name.startswith(ELSEWHERE)}
    assert met - set(syncs.TESTS) == listed
