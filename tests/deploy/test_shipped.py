"""Every spiking policy that ships, and every spiking agent after a training, acts in C as it does here, to the last bit."""

import os
import shutil

import numpy as np
import pytest

from spiky_rl.config.spec import build_agent_spec
from spiky_rl.deploy import c
from spiky_rl.learners import get_learner
from spiky_rl.learners.common.checkpoints import read_checkpoint
from spiky_rl.run.policies import list_policies, read_policy
from tests.deploy import chips
from tests.deploy.test_c import NEWEST, act, live, walk
from tests.hosts.test_first_minibatch import SPIKING, agent_runner

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 1000
LEVELS = ("-O0", "-O1", "-O2", "-O3")
CHIP_VALUES = 400_000
"""Number of observed values that fit into a chip's memory beside the policy."""
NAMES = [policy.name for policy in list_policies() if policy.spec.get("network")]
AGENTS = [name for name in SPIKING if "reservoir" not in name]
"""Agents whose sums are the same in C; those of a reservoir's readout are torch's."""


def load_shipped(name):
    policy = read_policy(name)
    loaded = read_checkpoint(str(policy.weights), library=policy.library)
    spec = build_agent_spec(policy.agent, policy.spec, {})
    return get_learner(policy.library).load_actor(spec, loaded)


def train(agent):
    """The agent's policy after a short training on the point mass."""
    run = agent_runner(agent)
    run.learn(3)
    return run.alg.get_policy()


@pytest.fixture(name="written", params=[*NAMES, *AGENTS])
def policy_and_file(request, tmp_path):
    """The policy's model, and the file that it is written into."""
    model = (load_shipped if request.param in NAMES else train)(request.param).eval()
    target = c.C()
    model = target.get_reference_model(model)
    assert target.get_tolerance(model) == 0.0
    return model, target.write(model, tmp_path)


@pytest.mark.parametrize("compiler", ["gcc", NEWEST])
def test_a_trained_policy_acts_in_c_as_here_at_every_level(compiler, written, monkeypatch):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    model, path = written
    seen = walk(model, steps=STEPS)
    expected = live(model, seen)
    monkeypatch.setitem(os.environ, "CC", compiler)
    monkeypatch.setattr(c, "STANDARD", (*c.STANDARD, "-Werror"))
    for level in LEVELS:
        found = act(c.open_c_session(path, (level, "-march=native")), seen)
        np.testing.assert_array_equal(found, expected, err_msg=level)
    assert np.ptp(expected, axis=0).max() > 0.0


def test_a_trained_policy_acts_on_a_cortex_m4_as_here(written):
    if missing := chips.find_missing("cortex-m4"):
        pytest.skip(f"{missing} is not installed")
    model, path = written
    seen = walk(model, steps=STEPS)
    seen = seen[: CHIP_VALUES // seen[0].numel()]
    found, _ = chips.act(path, seen.flatten(1).numpy(), "cortex-m4")
    np.testing.assert_array_equal(found, live(model, seen))
