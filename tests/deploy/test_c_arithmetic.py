"""policy.c where arithmetic is not as usual: observations that are no numbers, and compilers that round otherwise."""

import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spiky_rl.deploy import c, c_int8
from spiky_rl.learners.common.inference_policy import MAX_OBSERVATION, clamp_observations, reset_nonfinite
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.learners.skrl import activity as skrl
from tests.deploy.test_c import NEWEST, act, live, walk
from tests.deploy.test_c_int8 import rollout_of
from tests.deploy.trained import trained

CARRYING = {
    "lif": ("lif_stateful_ppo", "agent.actor.obs_normalization=true"),
    "delta": ("lif_stateful_ppo", "agent.network.encoder=delta"),
    "recurrent": ("alif_recurrent_ppo",),
    "changes": ("sigma_delta_ppo",),
    "GRU": ("gru_ppo",),
    "LSTM": ("gru_ppo", "agent.actor.rnn_type=lstm"),
}
"""Agents that remember: one of each kind."""


def spoilt(seen):
    """Observations of which some are none, or larger than any robot's."""
    seen = seen.clone()
    seen[10], seen[20, :, 0], seen[21], seen[30, :, 1] = float("nan"), float("inf"), -float("inf"), 3e38
    return seen


def acts(path, seen):
    return act(c.C().open_session(path), seen)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case in ("delta", "recurrent", "LSTM")))
        for case in CARRYING
    ],
)
def test_observations_that_are_no_numbers_are_forgotten(case, tmp_path):
    policy = trained(*CARRYING[case])
    path, seen = c.C().write(policy, tmp_path), walk(policy)
    found = acts(path, spoilt(seen))
    assert np.isfinite(found).all()
    undisturbed = acts(path, seen)
    assert np.abs(found - undisturbed)[:40].max() > 1e-3, "they were seen"
    # a sum without a leak keeps the rounding of the largest number that it held
    assert np.abs(found - undisturbed)[-1].max() < (0.1 if case == "changes" else 1e-5)
    if isinstance(policy, SpikingModel):
        np.testing.assert_array_equal(found, live(policy, spoilt(seen)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_policy_takes_what_is_no_number_as_it_is_while_it_learns(value):
    policy = trained("lif_stateful_ppo")
    seen = torch.full_like(walk(policy)[:1], value)
    live(policy.train(), seen)
    assert not all(s.abs().max() < 1e30 for s in policy.state)
    live(policy.eval(), seen)
    assert all(s.isfinite().all() for s in policy.state)


def test_numbers_that_are_some_keep_their_bits():
    x = torch.tensor([[0.0, -0.0, 1e-40, -MAX_OBSERVATION, 123.456, float("nan"), float("inf"), -3e38]])
    expected = torch.tensor(
        [[0.0, -0.0, 1e-40, -MAX_OBSERVATION, 123.456, 0.0, MAX_OBSERVATION, -MAX_OBSERVATION]]
    )
    assert torch.equal(clamp_observations(x).view(torch.int32), expected.view(torch.int32))
    whole, (real,) = torch.tensor([[1, -2]]), (torch.tensor([[-0.0, 3e38, float("nan"), -float("inf")]]),)
    counts, values = reset_nonfinite((whole, real))
    assert counts is whole
    assert torch.equal(values.view(torch.int32), torch.tensor([[-0.0, 3e38, 0.0, 0.0]]).view(torch.int32))


def test_the_policy_of_skrl_does_so_too():
    given = torch.tensor([[float("nan"), 1.0, float("inf")]])
    environment = SimpleNamespace(get_actor_observations=lambda obs: obs)
    after = {"rnn": [torch.tensor([[[float("nan"), 2.0]]])]}
    model = SimpleNamespace(
        network=None, ann_operations=0.0, compute=lambda inputs: (inputs["observations"], after)
    )
    policy = skrl.SkrlInferencePolicy(
        SimpleNamespace(normalize_observations=lambda x: x, policy=model), environment
    )
    assert policy(given).tolist() == [[0.0, 1.0, MAX_OBSERVATION]]
    assert policy.state[0].tolist() == [[[0.0, 2.0]]]


@pytest.fixture(name="written", scope="module")
def a_policy_with_sums_and_products(tmp_path_factory):
    policy = trained("alif_recurrent_ppo", "agent.network.layers=[40,30]")
    return policy, c.C().write(policy, tmp_path_factory.mktemp("arithmetic"))


@pytest.mark.parametrize(
    "command",
    [
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in ("gcc -std=gnu17 -O2", "gcc -std=c99 -O3", f"{NEWEST} -std=gnu17 -O2")
        ),
        "gcc -std=gnu17 -O2 -ffp-contract=fast",
        f"{NEWEST} -O3",
    ],
)
def test_no_compiler_rounds_otherwise(command, written, monkeypatch):
    policy, path = written
    words = command.split()
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed")
    monkeypatch.setitem(os.environ, "CC", words[0])
    monkeypatch.setattr(c, "STANDARD", ())
    seen = walk(policy)
    step = c.open_c_session(path, (*words[1:], "-march=native"))
    found = act(step, seen)
    np.testing.assert_array_equal(found, live(policy, seen))


LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
KINDS = {
    "lif": ("lif_ppo", c.C),
    "recurrent": ("alif_recurrent_ppo", c.C),
    "graded": ("sigma_delta_ppo", c.C),
    "integers": ("alif_recurrent_ppo", c_int8.CInt8),
    "graded integers": ("sigma_delta_ppo", c_int8.CInt8),
}
"""One of each kind of sum: spikes, spikes and their feedback, and values, in floats and in integers."""


@pytest.fixture(name="kinds", scope="module")
def files_of_each_kind(tmp_path_factory):
    """By kind: the file, observations, and the actions that it must give."""
    found = {}
    for kind, (agent, target_class) in KINDS.items():
        policy, target = trained(agent, "agent.network.layers=[40,30]"), target_class()
        target.calibrate(rollout_of(policy))
        path = target.write(policy, tmp_path_factory.mktemp(kind.replace(" ", "_")))
        seen = walk(policy)
        found[kind] = path, seen, live(target.get_reference_model(policy), seen)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("compiler", ["gcc", NEWEST])
def test_every_level_of_every_compiler_gives_the_same_bits(compiler, level, kinds, monkeypatch):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setitem(os.environ, "CC", compiler)
    for kind, (path, seen, expected) in kinds.items():
        step = c.open_c_session(path, (level, "-march=native"))
        found = act(step, seen)
        np.testing.assert_array_equal(found, expected, err_msg=kind)


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
@pytest.mark.parametrize("compiler", ["gcc", NEWEST])
def test_a_compiler_that_takes_numbers_for_finite_is_refused(compiler, flag, written, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    line = [compiler, flag, "-c", written[1], "-o", tmp_path / "policy.o"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode and "needs IEEE 754 arithmetic" in done.stderr


def test_the_header_says_so(written):
    header = " ".join(written[1].with_suffix(".h").read_text().replace("// ", "").split())
    for words in ("contraction", "-ffast-math", f"beyond {MAX_OBSERVATION:g}", "not a number counts as 0"):
        assert words in header
