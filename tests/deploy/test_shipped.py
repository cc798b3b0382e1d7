"""Every spiking policy that ships acts in C as it does here, to the last bit, whatever compiles it."""

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, CHIP_STEPS = 1000, 20
LEVELS = ("-O0", "-O1", "-O2", "-O3")
NAMES = [policy.name for policy in list_policies() if policy.spec.get("network")]


@pytest.fixture(name="written", params=NAMES)
def policy_and_file(request, tmp_path):
    """The policy's model, and the file that it is written into."""
    policy = read_policy(request.param)
    loaded = read_checkpoint(str(policy.weights), library=policy.library)
    spec = build_agent_spec(policy.agent, policy.spec, {})
    model = get_learner(policy.library).load_actor(spec, loaded).eval()
    target = c.C()
    assert target.get_tolerance(model) == 0.0
    return model, target.write(model, tmp_path)


@pytest.mark.parametrize("compiler", ["gcc", NEWEST])
def test_a_shipped_policy_acts_in_c_as_here_at_every_level(compiler, written, monkeypatch):
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


def test_a_shipped_policy_acts_on_a_cortex_m4_as_here(written):
    if missing := chips.find_missing("cortex-m4"):
        pytest.skip(f"{missing} is not installed")
    model, path = written
    seen = walk(model, steps=CHIP_STEPS)
    found, _ = chips.act(path, seen.flatten(1).numpy(), "cortex-m4")
    np.testing.assert_array_equal(found, live(model, seen))
