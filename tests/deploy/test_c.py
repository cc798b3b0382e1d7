"""policy.c is the policy: bit-equal actions, no warning, and nothing outside its struct, whatever it is given."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from spiky_rl.config import registry
from spiky_rl.deploy import c
from spiky_rl.config.options import UserError
from spiky_rl.deploy.base import ExportError
from spiky_rl.learners.rsl_rl.model import SpikingModel
from tests.deploy.trained import trained
from tests.hosts.test_first_minibatch import AGENTS, agent_runner

STEPS = 120
LAYER_1 = "layers_1_connection"
"""How names of the second layer's arrays begin."""
FAST = ("lif_ppo", "alif_recurrent_ppo", "gru_ppo", "lif_population_ppo")
"""One of each kind of program; all others are slow. test_c_parts.py has every neuron."""


def marked(names, fast=FAST):
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


@pytest.fixture(name="written", scope="module")
def written_once():
    """What was written so far, by agent."""
    return {}


@pytest.fixture(name="policy")
def policy_of_an_agent(request, written, tmp_path_factory):
    """An agent's policy as if trained, and the file that it is written into."""
    if request.param not in written:
        policy = trained(request.param)
        target = registry.configure("targets", "c", "--to").build()
        written[request.param] = policy, target, target.write(policy, tmp_path_factory.mktemp(request.param))
    return written[request.param]


def walk(policy, seed=0, steps=STEPS):
    """Observations [steps, 1, ...] that change little from one control step to the next."""
    shape = policy.as_onnx(verbose=False).get_dummy_inputs()[0].shape
    noise = torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed))
    x, seen = torch.zeros(shape), []
    for step in noise:
        x = 0.95 * x + 0.4 * step
        seen.append(x)
    return torch.stack(seen)


def run(line):
    return subprocess.run(line, capture_output=True, text=True, check=False)


def answers(line, seen):
    """What a program answers to observations, each a line of text."""
    lines = "\n".join(" ".join(f"{x:.9g}" for x in step.reshape(-1).tolist()) for step in seen)
    done = subprocess.run(line, input=lines, capture_output=True, text=True, check=True, timeout=120)
    return np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()], np.float32)


def act(step, seen):
    """What a file does, which ``step`` runs."""
    return np.concatenate([step(x.numpy(), [])[0] for x in seen])


def live(policy, seen):
    """What the policy itself does."""
    policy.reset()
    with torch.inference_mode():
        found = [policy(TensorDict(dict.fromkeys(policy.obs_groups, x), batch_size=[1])) for x in seen]
    return np.concatenate([action.numpy() for action in found])


@pytest.mark.parametrize("policy", marked(AGENTS), indirect=True)
def test_every_agents_file_acts_as_the_agent_does(policy):
    policy, target, path = policy
    seen, step = walk(policy), target.open_session(path)
    found = act(step, seen)
    expected = live(policy, seen)
    assert np.abs(expected).max() > 0.0
    if target.get_tolerance(policy) == 0.0:
        np.testing.assert_array_equal(found, live(target.get_reference_model(policy), seen))
    else:
        size = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=target.get_tolerance(policy) * size)


@pytest.mark.slow
def test_only_sums_of_torch_may_differ():
    exact = {
        name
        for name in AGENTS
        if isinstance(policy := agent_runner(name).alg.get_policy(), SpikingModel)
        and c.C().get_tolerance(policy) == 0.0
    }
    assert {"lif_ppo", "alif_recurrent_ppo", "hodgkin_huxley_ppo", "lif_conv_ppo"} <= exact
    assert not {name for name in exact if "reservoir" in name or name.startswith(("mlp", "gru"))}


@pytest.mark.parametrize("density", [0.05, pytest.param(0.15, marks=pytest.mark.slow), 0.9])
def test_weights_that_are_mostly_zero_are_lists_of_synapses(density, tmp_path):
    policy, target = (
        trained("lif_ppo", f"agent.network.connection.density={density}", "agent.network.layers=[40,300]"),
        c.C(),
    )
    path, seen = target.write(policy, tmp_path), walk(policy)
    step = target.open_session(path)
    np.testing.assert_array_equal(act(step, seen), live(policy, seen))
    sizes = dict(re.findall(r"static const \w+ (\w+)\[(\d+)\]", path.read_text()))
    synapses = [round(40 * density) * 300]
    held = [
        int(sizes[f"{LAYER_1}_weight"]),
        *(int(sizes.get(f"{LAYER_1}_weight_{name}", 0)) for name in ("neuron", "start")),
    ]
    assert held == ([40 * 300, 0, 0] if density == 0.9 else [*synapses, *synapses, 41])
    assert_compiles(path, tmp_path)


def test_weights_that_are_all_zero_are_none_the_less_a_policy(tmp_path):
    policy = trained("lif_ppo", "agent.network.layers=[40,30]")
    with torch.no_grad():
        policy.network.layers[1].connection.weight.zero_()
    step, seen = c.C().open_session(c.C().write(policy, tmp_path)), walk(policy)
    np.testing.assert_array_equal(act(step, seen), live(policy, seen))


NEWEST = max(
    (path.name for folder in os.get_exec_path() for path in Path(folder).glob("clang-[0-9]*")),
    key=lambda name: int(re.findall(r"\d+", name)[0]),
    default="clang",
)
"""The newest Clang that there is."""
COMPILERS = {
    "gcc": ("gcc",),
    "clang": (NEWEST,),
    "gcc for 32 bits": ("gcc", "-m32"),
    "Cortex-M4": ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
}


def skip_without(command, folder):
    """Skip a test where a compiler or its C library is missing."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    empty = folder / "empty.c"
    empty.write_text("#include <string.h>\n#include <math.h>\n")
    if run([*command, "-c", empty, "-o", folder / "empty.o"]).returncode:
        pytest.skip(f"{' '.join(command)} has no C library here")


def assert_compiles(path, folder, command=()):
    """Let a compiler, by default this machine's, refuse a policy.c of which it has anything to say."""
    if command:
        skip_without(command, folder)
    flags = (*c.STANDARD, "-Wshadow", "-Werror", "-O2")
    done = run([*(command or c.find_compiler()), *flags, "-c", path, "-o", folder / "policy.o"])
    assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.parametrize("command", COMPILERS.values(), ids=COMPILERS)
@pytest.mark.parametrize(
    "policy",
    marked(AGENTS, (*FAST, "lif_latency_ppo")),  # whose truths are stored and read again
    indirect=True,
)
def test_compilers_have_nothing_to_say(policy, command, tmp_path):
    assert_compiles(policy[2], tmp_path, command)


FUZZ = """
#include "policy.h"
#include <math.h>
#include <stdio.h>

int main(void) {
  static policy_state state;
  const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, 0.0f, -0.0f, 1.0f, 88.7f, -104.0f};
  float observation[POLICY_OBSERVATIONS], action[POLICY_ACTIONS];
  unsigned seed = 1;
  for (int episode = 0; episode < 40; episode++) {
    policy_reset(&state);
    for (int step = 0; step < 20; step++) {
      for (int i = 0; i < POLICY_OBSERVATIONS; i++) {
        seed = seed * 1664525u + 1013904223u;
        observation[i] = episode % 4 == 0 ? (float)(seed >> 16) / 32768.0f - 1.0f : odd[(seed >> 16) % 11];
      }
      policy_step(&state, observation, action);
      for (int i = 0; i < POLICY_ACTIONS; i++)
        if (!isfinite(action[i])) return 1;
    }
  }
  puts("whole");
  return 0;
}
"""


def assert_stays_within_its_struct(path, folder):
    """Compile a policy.c with sanitizers and let it observe odd numbers."""
    program = folder / "main"
    program.with_suffix(".c").write_text(FUZZ)
    flags = "-std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all".split()
    sources = (f"-I{path.parent}", program.with_suffix(".c"), path)
    done = run([*c.find_compiler(), *flags, *sources, "-lm", "-o", program])
    if "cannot find" in done.stderr:
        pytest.skip("the sanitizers' libraries are not installed")
    assert done.returncode == 0, done.stderr
    ran = run([program])
    assert (ran.returncode, ran.stdout) == (0, "whole\n"), ran.stderr[:3000]


@pytest.mark.parametrize("policy", marked(AGENTS), indirect=True)
def test_nothing_that_is_observed_leads_outside_of_the_struct(policy, tmp_path):
    assert_stays_within_its_struct(policy[2], tmp_path)


def test_a_finite_struct_of_the_callers_is_all_that_there_is(tmp_path):
    policy = trained("alif_recurrent_ppo")
    path = c.C().write(policy, tmp_path)
    source = path.read_text()
    statics = [line for line in source.splitlines() if line.startswith("static ") and "(" not in line]
    assert statics and all(line.startswith("static const float ") for line in statics)
    assert not {"malloc", "stdio", "stdlib", "int64", "double"} & set(
        source.replace("(", " ").replace(".", " ").split()
    )


def test_two_robots_share_the_code_and_nothing_else(tmp_path):
    policy = trained("lif_stateful_ppo")
    target = c.C()
    path = target.write(policy, tmp_path)
    one, other = target.open_session(path), target.open_session(path)
    seen = walk(policy)
    expected = live(policy, seen)
    for x, action in zip(seen, expected, strict=True):
        other(np.full_like(x.numpy(), 3.0), [])
        np.testing.assert_array_equal(one(x.numpy(), [])[0][0], action)


OWN_ENCODER = """
from spiky_rl.codecs.encoders.direct import Direct


class Own(Direct):
    \"\"\"An encoder of one's own.\"\"\"
"""


def test_an_encoder_of_ones_own_is_refused_by_its_key(tmp_path):
    (tmp_path / "own.py").write_text(OWN_ENCODER)
    policy = trained("lif_ppo", f"agent.network.encoder='{tmp_path / 'own.py'}:Own'")
    with pytest.raises(ExportError, match="agent.network.encoder: "):
        c.C().write(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_source_is_independent_of_the_number_of_inner_steps(tmp_path):
    """24 inner steps of recurrent neurons are one loop: the texts differ in the numbers of steps alone."""
    texts = {
        steps: c.C()
        .write(trained("alif_recurrent_ppo", f"agent.network.steps={steps}"), tmp_path / str(steps))
        .read_text()
        for steps in (2, 24)
    }
    assert texts[2].replace("k < 2;", "k < 24;") == texts[24]


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    policy = trained("lif_ppo")
    with torch.no_grad():
        policy.network.readout.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match="nan"):
        c.C().write(policy, tmp_path)
    assert not list(Path(tmp_path).iterdir())


def test_a_compilers_error_is_given_without_the_line_that_names_the_function(tmp_path):
    (tmp_path / "policy.c").write_text("int policy(void) { return missing; }")
    with pytest.raises(UserError, match="compiling failed: .*error: .*missing"):
        c.load_policy_library(tmp_path / "policy.c")
