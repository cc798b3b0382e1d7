"""The header of policy.c says what an engineer needs, and two policies link into one program under names of their own."""

import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from spiky_rl.config.options import UserError
from spiky_rl.deploy import c, c_int8
from spiky_rl.deploy._contract import describe_contract
from spiky_rl.deploy._options import ExportOptions
from spiky_rl.run.run_plan import RunRequest
from tests.deploy.test_c import live, walk
from tests.deploy.test_c_int8 import rollout_of
from tests.deploy.trained import trained


class Managed:
    """An environment with managers, as Isaac Lab and mjlab have them."""

    step_dt = 0.02

    def __init__(self):
        terms = {
            "policy": [
                SimpleNamespace(scale=0.5, clip=(-1.0, 1.0), history_length=0),
                SimpleNamespace(scale=None, clip=None, history_length=2),
            ]
        }
        self.observation_manager = SimpleNamespace(
            active_terms={"policy": ["joint_pos", "velocity"]},
            group_obs_term_dim={"policy": [(2,), (2, 1)]},
            _group_obs_term_cfgs=terms,
        )
        self.action_manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: Legs())


class Legs:
    """A term of two joints."""

    action_dim = 2
    _joint_names = ("hip", "knee")
    cfg = SimpleNamespace(scale=0.25, offset=0.0, clip=None, use_default_offset=True)


@pytest.fixture(name="contract")
def described(tmp_path):
    (tmp_path / "model_7.pt").write_bytes(b"weights")
    return describe_contract(Managed(), ["policy"], "lif_ppo", "Isaac-Ant-v0", tmp_path / "model_7.pt")


def test_the_header_names_period_terms_joints_and_checkpoint(contract, tmp_path):
    target = c.C()
    target.contract = contract
    text = target.write(trained("lif_ppo"), tmp_path).with_suffix(".h").read_text()
    for line in (
        "// Agent lif_ppo on task Isaac-Ant-v0; checkpoint model_7.pt",
        "0 to 1    policy.joint_pos: scale 0.5, clip (-1.0, 1.0)",
        "2 to 3    policy.velocity: history_length 2",
        "0 to 1    legs (Legs): scale 0.25, use_default_offset True",
        "#define POLICY_PERIOD_US 20000",
        '#define POLICY_JOINTS {"hip", "knee"}',
    ):
        assert line in text, text
    assert contract.digest in text and len(contract.digest) == 16


def test_an_environment_without_managers_has_a_period_alone(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    found = describe_contract(SimpleNamespace(step_dt=0.1), ["policy"], "a", "t", tmp_path / "model.pt")
    assert (found.period, found.observations, found.actions, found.joints) == (0.1, (), (), ())


BOTH = """
#include <stdio.h>
#include "arm.h"
#include "left_leg.h"

static arm_state arm;
static left_leg_state leg;

int main(void) {
  float x[ARM_OBSERVATIONS], a[ARM_ACTIONS], b[LEFT_LEG_ACTIONS];
  arm_reset(&arm), left_leg_reset(&leg);
  while (1) {
    for (int i = 0; i < ARM_OBSERVATIONS; i++)
      if (scanf("%f", &x[i]) != 1) return 0;
    arm_step(&arm, x, a), left_leg_step(&leg, x, b);
    for (int i = 0; i < ARM_ACTIONS; i++) printf("%.9g ", (double)a[i]);
    for (int i = 0; i < LEFT_LEG_ACTIONS; i++) printf("%.9g ", (double)b[i]);
    puts("");
  }
}
"""


def test_two_policies_link_into_one_program_and_act_as_each_alone(tmp_path):
    arm, leg, targets = (
        trained("lif_stateful_ppo"),
        trained("sigma_delta_ppo", seed=1),
        (c.C(), c_int8.CInt8()),
    )
    targets[0].name, targets[1].name = "arm", "left_leg"
    targets[1].calibrate(rollout_of(leg))
    files = targets[0].write(arm, tmp_path), targets[1].write(leg, tmp_path)
    assert [path.name for path in files] == ["arm.c", "left_leg.c"]
    (tmp_path / "main.c").write_text(BOTH)
    flags = [*c.STANDARD, "-Werror", "-O2", "-march=native", *(f"-I{path.parent}" for path in files)]
    line = [*c.find_compiler(), *flags, tmp_path / "main.c", *files, "-lm", "-o", tmp_path / "main"]
    subprocess.run(line, check=True)
    seen = walk(arm)
    lines = "\n".join(" ".join(f"{x:.9g}" for x in step.reshape(-1).tolist()) for step in seen)
    done = subprocess.run([tmp_path / "main"], input=lines, capture_output=True, text=True, check=True)
    found = np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()], np.float32)
    expected = live(arm, seen), live(targets[1].get_reference_model(leg), seen)
    np.testing.assert_array_equal(found, np.concatenate(expected, 1))


@pytest.mark.parametrize("name", ["left-leg", "1st", "", "x" * 32])
def test_a_name_that_is_none_in_c_is_refused(name):
    with pytest.raises(UserError, match="--name: "):
        ExportOptions(name=name).check_request(RunRequest(task="cartpole"))


WRAPPED = """
#include <cstdio>
#include "policy.hpp"

int main() {
  spiky::Policy policy;
  spiky::Policy::Observation x;
  while (true) {
    for (float &value : x)
      if (std::scanf("%f", &value) != 1) return 0;
    for (float value : policy.step(x)) std::printf("%.9g ", (double)value);
    std::puts("");
  }
}
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_the_wrapper_for_cpp_acts_as_the_policy_does(tmp_path):
    from tests.deploy.test_example import EXAMPLE

    policy = trained("lif_stateful_ppo")
    path = c.C().write(policy, tmp_path)
    shutil.copy(EXAMPLE / "policy.hpp", tmp_path)
    (tmp_path / "main.cpp").write_text(WRAPPED)
    flags = ["-O2", "-march=native", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run(["gcc", "-std=c99", *flags, "-c", path, "-o", tmp_path / "policy.o"], check=True)
    line = [
        "g++",
        "-std=c++17",
        *flags,
        tmp_path / "main.cpp",
        tmp_path / "policy.o",
        "-lm",
        "-o",
        tmp_path / "main",
    ]
    subprocess.run(line, check=True)
    seen = walk(policy)
    lines = "\n".join(" ".join(f"{x:.9g}" for x in step.reshape(-1).tolist()) for step in seen)
    done = subprocess.run([tmp_path / "main"], input=lines, capture_output=True, text=True, check=True)
    found = np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_array_equal(found, live(policy, seen))


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_the_example_builds_with_cmake(tmp_path):
    from tests.deploy.test_example import EXAMPLE

    c.C().write(trained("lif_ppo"), tmp_path / "policy")
    shutil.copytree(EXAMPLE, tmp_path / "deploy")
    configure = [
        "cmake",
        "-S",
        tmp_path / "deploy",
        "-B",
        tmp_path / "build",
        f"-DPOLICY={tmp_path / 'policy'}",
    ]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    assert (tmp_path / "build" / "act").is_file()
