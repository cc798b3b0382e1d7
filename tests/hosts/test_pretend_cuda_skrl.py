"""Every agent that skrl takes trains under it on a pretended CUDA device."""

from functools import cache

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")

from spiky_rl.config.spec import resolve_agent
from spiky_rl.learners.skrl.config import make_runner_cfg, to_agent_layout
from spiky_rl.learners.skrl.runner import SkrlRunner
from tests.agents import mark_slow, refused_by_skrl, takes_images
from tests.hosts import syncs
from tests.hosts.pretend_case import AGENTS, STEPS, World, Writer, check_trained
from tests.hosts.pretend_cuda import DEVICE, pretended
from tests.hosts.skrl_case import RAW

TAKEN = [name for name in AGENTS if not takes_images(name) and not refused_by_skrl(name)]
ITERATIONS = 2
HERE = ("skrl.", "spiky_rl.learners.skrl.")


def settings(agent: str) -> dict:
    raw = {**RAW, "agent": {**RAW["agent"], "rollouts": STEPS, "learning_epochs": 1}}
    return make_runner_cfg(resolve_agent(agent, "Isaac-Point", to_agent_layout(raw, "Isaac-Point"), []))


@cache
def trained(agent: str):
    """As in `test_pretend_cuda_rsl_rl`."""
    chosen = settings(agent)
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            run = SkrlRunner(World(), chosen, None, DEVICE)
        run._writer = writer = Writer()
        run.learn(ITERATIONS)
        assert all(weight.is_cuda for model in run.models for weight in model.parameters())
    return cuda.pretence.met, cuda.cupy.launches, writer.scalars


@pytest.mark.parametrize("agent", mark_slow(TAKEN, ["alif_recurrent_ppo"]))
def test_every_agent_trains(agent):
    _, launches, scalars = trained(agent)
    check_trained(agent, launches, scalars, ITERATIONS)


@pytest.mark.slow
def test_everything_that_is_listed_is_met():
    met = set().union(*(trained(agent)[0] for agent in TAKEN))
    listed = {name for name in (*syncs.OURS, *syncs.HOSTS) if name.startswith(HERE)}
    assert {name for name in met if name.startswith(HERE)} == listed
    assert met <= {*syncs.OURS, *syncs.HOSTS, *syncs.TESTS}
