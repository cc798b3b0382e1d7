"""examples/deploy for C++, microcontrollers, ROS 2 and CMake: each program acts as the policy does, by any name of the policy.

Arduino and ROS 2 are headers in ``stubs``, which stand for theirs.
"""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from spiky_rl.deploy import c
from spiky_rl.deploy._commands import find_command_map
from spiky_rl.deploy._contract import describe_contract
from spiky_rl.learners.rsl_rl.action_bounds import convert_actions
from tests.deploy.test_c import answers, live, run, walk
from tests.deploy.test_contract import Driven, JointEffortAction, last_action, measured
from tests.deploy.trained import trained

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy"
STUBS = Path(__file__).with_name("stubs")
SKETCH = EXAMPLE / "arduino" / "policy_serial" / "policy_serial.ino"
MAIN = "#include <Arduino.h>\nint main() {\n  for (setup();;) loop();\n}\n"
FLAGS = ("-O2", "-march=native", "-Wall", "-Wextra", "-Werror")
LIMIT = 0.5
"""Limit of raw actions."""
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


@pytest.fixture(name="written", scope="module")
def written_once(tmp_path_factory):
    """A policy with a state, and its file with a contract."""
    folder, policy, target = tmp_path_factory.mktemp("robot"), trained("lif_stateful_ppo"), c.C()
    (folder / "model.pt").write_bytes(b"weights")
    environment = SimpleNamespace(step_dt=0.02)
    target.contract = describe_contract(environment, ["policy"], "a", "t", folder / "model.pt")
    return policy, target.write(policy, folder)


@pytest.fixture(name="repeating", scope="module")
def written_with_a_last_action(tmp_path_factory):
    """A policy that observes its last action, behind two measured values, and its file."""
    folder = tmp_path_factory.mktemp("repeating")
    return write_repeating(folder, "policy", 2)


def write_repeating(folder, name, start, seed=0):
    """Write a policy that observes its last action at ``start`` under a ``name``; return the policy and the path of its file."""
    policy, target, env = trained("lif_stateful_ppo", seed=seed), c.C(), Driven(clip_actions=LIMIT)
    functions = {start: last_action, 2 - start: measured}
    settings = {"scale": None, "clip": None, "history_length": 0, "params": {}}
    env.observation_manager = SimpleNamespace(
        active_terms={"policy": ["x", "y"]},
        group_obs_term_dim={"policy": [(2,), (2,)]},
        _group_obs_term_cfgs={
            "policy": [SimpleNamespace(**settings, func=functions[place]) for place in (0, 2)]
        },
    )
    env.step_dt = 0.02
    (folder / "model.pt").write_bytes(b"weights")
    target.contract = describe_contract(env, ["policy"], "a", "t", folder / "model.pt")
    target.name = name
    path = target.write(convert_actions(policy, find_command_map(env), 2), folder)
    assert f"#define {name.upper()}_LAST_ACTION {start}\n" in path.with_suffix(".h").read_text()
    return policy, path


def repeat(policy, seen, start=2):
    """Return the commands of a ``policy`` that observes its last raw action at ``start`` in place of the values that it is given."""
    policy.reset()
    term, last, found = JointEffortAction(), torch.zeros(1, 2), []
    with torch.inference_mode():
        for given in seen:
            x = given.clone()
            x[:, start : start + 2] = last
            last = policy(TensorDict(dict.fromkeys(policy.obs_groups, x), batch_size=[1])).clamp(
                -LIMIT, LIMIT
            )
            term.process_actions(last)
            found.append(term._processed_actions.numpy().copy())
    commands = np.concatenate(found)
    assert len(np.unique(commands)) > 20
    return commands


def build(sources, folder, path=None, compiler="g++", include=()):
    """Compile C++ ``sources`` and the file of a policy at ``path``; return the program."""
    folders = [*include, STUBS, *([path.parent] if path else [])]
    flags = [*FLAGS, *(f"-I{each}" for each in folders)]
    objects = []
    if path:
        objects = [folder / "policy.o"]
        subprocess.run(["gcc", "-std=c99", *flags, "-c", path, "-o", *objects], check=True)
    line = [compiler, "-std=c++17", *flags, "-x", "c++", *sources, "-x", "none", *objects, "-lm", "-o"]
    subprocess.run([*line, folder / "program"], check=True)
    return folder / "program"


def find_compilers():
    """Return gcc's and, if it is installed, clang's compilers of C and C++."""
    known = (("gcc", "g++"), ("clang", "clang++"), ("clang-14", "clang++-14"))
    return [pair for pair in known if all(map(shutil.which, pair))][:2]


def play_serial(program, seen):
    """Return what the sketch answers to the same episode twice, [2, T, A]; a transfer that is too short ends it."""
    episode = b"".join(b"s" + x.numpy().tobytes() for x in seen)
    data = episode + b"r" + episode + b"s123"
    done = subprocess.run([program], input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(2, len(seen), -1)


def play_ros(program, seen):
    """Return the commands [T, A] of a ROS node in five control steps and, after a reset, in an episode, and its errors."""
    lines = [" ".join(f"{x:.9g}" for x in step.reshape(-1).tolist()) for step in seen]
    text = "\n".join([*lines[:5], "1.0 2.0", "", *lines]) + "\n"
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    found = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    return np.array(found, np.float32), done.stderr


def test_a_microcontroller_answers_observations_and_begins_episodes(written, tmp_path):
    policy, path = written
    (tmp_path / "main.cpp").write_text(MAIN)
    program = build([SKETCH, tmp_path / "main.cpp"], tmp_path, path)
    expected = live(policy, walk(policy))
    np.testing.assert_array_equal(play_serial(program, walk(policy)), np.stack([expected, expected]))


def test_a_microcontroller_fills_in_the_last_action(repeating, tmp_path):
    policy, path = repeating
    (tmp_path / "main.cpp").write_text(MAIN)
    program = build([SKETCH, tmp_path / "main.cpp"], tmp_path, path)
    seen = 3.0 * walk(policy)
    expected = repeat(policy, seen)
    np.testing.assert_array_equal(play_serial(program, seen), np.stack([expected, expected]))


def test_the_sketch_has_the_layout_of_arduino_and_platformio():
    """The Arduino IDE opens a sketch whose folder has its name; PlatformIO gets that folder as ``src_dir``."""
    assert SKETCH.stem == SKETCH.parent.name
    settings = (SKETCH.parents[1] / "platformio.ini").read_text().splitlines()
    assert f"src_dir = {SKETCH.parent.name}" in settings


def test_the_program_in_c_fills_in_the_last_action(repeating, tmp_path):
    policy, path = repeating
    seen = 3.0 * walk(policy)
    for compiler, _ in find_compilers():
        flags = [*c.STANDARD, *FLAGS, f"-I{path.parent}"]
        run_line = [compiler, *flags, EXAMPLE / "act.c", path, "-lm", "-o", tmp_path / "act"]
        subprocess.run(run_line, check=True)
        np.testing.assert_array_equal(answers([tmp_path / "act"], seen), repeat(policy, seen))


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["written", "repeating"])
def test_compilers_have_nothing_to_say_of_the_examples(fixture, request, tmp_path):
    path = request.getfixturevalue(fixture)[1]
    (tmp_path / "main.cpp").write_text(f'#include "policy.h"\n{WRAPPED}')
    sources = (SKETCH, EXAMPLE / "ros2" / "src" / "policy_node.cpp", tmp_path / "main.cpp")
    folders = (f"-I{path.parent}", f"-I{EXAMPLE}", "-isystem", STUBS)
    for compiler, plus in find_compilers():
        more = ("-pedantic", "-Wshadow", "-Wconversion", "-fsyntax-only")
        done = [run([compiler, *c.STANDARD, *FLAGS, *more, *folders, EXAMPLE / "act.c"])]
        done += [
            run([plus, "-std=c++17", *FLAGS, *more, *folders, "-x", "c++", source]) for source in sources
        ]
        assert [each.stderr for each in done] == [""] * 4


@pytest.mark.slow
def test_a_ros_node_acts_once_per_observation_and_begins_episodes(written, tmp_path):
    policy, path = written
    program = build([EXAMPLE / "ros2" / "src" / "policy_node.cpp"], tmp_path, path)
    seen, expected = walk(policy), live(policy, walk(policy))
    found, errors = play_ros(program, seen)
    np.testing.assert_array_equal(found, np.concatenate([expected[:5], expected]))
    assert "observation: 2 values given; allowed: 4" in errors


@pytest.mark.slow
def test_a_ros_node_without_a_period_is_an_error_of_the_compiler(written, tmp_path):
    text = "".join(
        line for line in written[1].with_suffix(".h").read_text().splitlines(True) if "PERIOD_US" not in line
    )
    (tmp_path / "policy.h").write_text(text)
    source = EXAMPLE / "ros2" / "src" / "policy_node.cpp"
    done = run(["g++", "-std=c++17", f"-I{tmp_path}", f"-I{STUBS}", "-fsyntax-only", source])
    assert done.returncode and "POLICY_PERIOD_US" in done.stderr


ROS = {
    "ament_cmake": "function(ament_package)\nendfunction()\n",
    "rclcpp": f'add_library(rclcpp::rclcpp INTERFACE IMPORTED)\ntarget_include_directories(rclcpp::rclcpp INTERFACE "{STUBS}")\n',
    "std_msgs": "set(std_msgs_TARGETS rclcpp::rclcpp)\n",
}
"""CMake packages that stand for those of ROS 2, by name."""


@pytest.mark.slow
@needs_cmake
def test_the_ros_package_builds_a_node_for_each_policy(tmp_path):
    policies = {name: write_repeating(tmp_path, name, 2, seed)[0] for seed, name in enumerate(("arm", "leg"))}
    for name, text in ROS.items():
        (tmp_path / f"{name}Config.cmake").write_text(text)
    settings = (f"-DPOLICY={tmp_path}", "-DNAME=arm;leg", "-DCMAKE_C_FLAGS=-march=native")
    found = [f"-D{name}_DIR={tmp_path}" for name in ROS]
    configure(EXAMPLE / "ros2", tmp_path / "build", *settings, *found)
    install(tmp_path / "build", tmp_path / "prefix")
    for name, policy in policies.items():
        seen = 3.0 * walk(policy)
        expected = repeat(policy, seen)
        commands, errors = play_ros(tmp_path / "prefix" / "lib" / "spiky_policy" / f"{name}_node", seen)
        np.testing.assert_array_equal(commands, np.concatenate([expected[:5], expected]))
        assert errors.startswith(f"{name}: ")


WRAPPED = """
#include <cstdio>
#include "policy.hpp"

SPIKY_POLICY(Policy, policy, POLICY);

int main() {
  Policy policy;
  Policy::Observation x;
  while (true) {
    for (float &value : x)
      if (std::scanf("%f", &value) != 1) return 0;
    for (float value : policy.step(x)) std::printf("%.9g ", static_cast<double>(value));
    std::puts("");
  }
}
"""


def test_the_wrapper_for_cpp_acts_as_the_policy_does(written, repeating, tmp_path):
    (tmp_path / "main.cpp").write_text(f'#include "policy.h"\n{WRAPPED}')
    for (policy, path), act in ((written, live), (repeating, repeat)):
        program = build([tmp_path / "main.cpp"], tmp_path, path, include=[EXAMPLE])
        seen = 3.0 * walk(policy)
        np.testing.assert_array_equal(answers([program], seen), act(policy, seen))


BOTH = """
#include <arm.h>
#include <left_leg.h>

#include <cstdio>
#include <policy.hpp>

namespace robot {
SPIKY_POLICY(Arm, arm, ARM);
SPIKY_POLICY(LeftLeg, left_leg, LEFT_LEG);
}  // namespace robot

template <class Policy>
void print(Policy &policy, const typename Policy::Observation &x) {
  for (float value : policy.step(x)) std::printf("%.9g ", static_cast<double>(value));
  std::printf("%.9g ", static_cast<double>(policy.state().raw_action[0]));
}

int main() {
  robot::Arm arm;
  robot::LeftLeg leg;
  robot::Arm::Observation x;
  while (true) {
    for (float &value : x)
      if (std::scanf("%f", &value) != 1) return 0;
    print(arm, x), print(leg, x);
    std::puts("");
  }
}
"""
CONSUMER = """
cmake_minimum_required(VERSION 3.16)
project(consumer CXX)
find_package(arm REQUIRED)
find_package(left_leg REQUIRED)
add_executable(both both.cpp)
target_compile_features(both PRIVATE cxx_std_17)
target_link_libraries(both PRIVATE arm::arm left_leg::left_leg)
"""


def configure(source, build_folder, *settings):
    subprocess.run(["cmake", "-S", source, "-B", build_folder, *settings], check=True, capture_output=True)


def install(build_folder, prefix):
    subprocess.run(["cmake", "--build", build_folder], check=True, capture_output=True)
    subprocess.run(["cmake", "--install", build_folder, "--prefix", prefix], check=True, capture_output=True)


def check_both(program, policies):
    """Check that a program of `BOTH` acts as an arm and a leg, the ``policies`` with the index of their last action, do."""
    seen = 3.0 * walk(policies[0][0])
    found = answers([program], seen)
    for k, (policy, start) in enumerate(policies):
        np.testing.assert_array_equal(found[:, 3 * k : 3 * k + 2], repeat(policy, seen, start))
        assert (np.abs(found[:, 3 * k + 2]) <= LIMIT).all()


@pytest.fixture(name="both", scope="module")
def two_policies(tmp_path_factory):
    """A folder with the files of an arm and a leg, and both policies with the index of their last action."""
    folder = tmp_path_factory.mktemp("both")
    names = {"arm": 0, "left_leg": 2}
    written = [write_repeating(folder, name, start, seed) for seed, (name, start) in enumerate(names.items())]
    return folder, [(policy, start) for (policy, _), start in zip(written, names.values(), strict=True)]


def test_two_policies_in_one_program_of_cpp_act_as_each_alone(both, tmp_path):
    folder, policies = both
    (tmp_path / "both.cpp").write_text(BOTH)
    subprocess.run(
        ["gcc", "-std=c99", *FLAGS, "-c", folder / "left_leg.c", "-o", tmp_path / "leg.o"], check=True
    )
    subprocess.run(["gcc", "-std=c99", *FLAGS, "-c", folder / "arm.c", "-o", tmp_path / "arm.o"], check=True)
    flags = ("-std=c++17", *FLAGS, f"-I{folder}", f"-I{EXAMPLE}")
    sources = [tmp_path / name for name in ("both.cpp", "leg.o", "arm.o")]
    for _, plus in find_compilers():
        subprocess.run([plus, *flags, *sources, "-lm", "-o", tmp_path / "both"], check=True)
        check_both(tmp_path / "both", policies)


@pytest.mark.slow
@needs_cmake
def test_installed_policies_are_found_by_another_project(both, tmp_path):
    folder, policies = both
    for name in ("arm", "left_leg"):
        settings = (f"-DPOLICY={folder}", f"-DNAME={name}", "-DCMAKE_C_FLAGS=-march=native")
        configure(EXAMPLE, tmp_path / name, *settings)
        install(tmp_path / name, tmp_path / "prefix")
        assert (tmp_path / name / "act").is_file()
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER)
    (tmp_path / "both.cpp").write_text(BOTH)
    configure(tmp_path, tmp_path / "consumer", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    shutil.rmtree(tmp_path / "arm")
    subprocess.run(["cmake", "--build", tmp_path / "consumer"], check=True, capture_output=True)
    check_both(tmp_path / "consumer" / "both", policies)


@pytest.mark.slow
@needs_cmake
def test_a_cmake_project_takes_policies_as_folders_of_its_own(both, tmp_path):
    folder, policies = both
    parts = "".join(
        f'set(NAME {name})\nadd_subdirectory("{EXAMPLE}" {name})\n' for name in ("arm", "left_leg")
    )
    text = CONSUMER.replace("consumer CXX", "consumer C CXX").replace("find_package(left_leg REQUIRED)\n", "")
    (tmp_path / "CMakeLists.txt").write_text(text.replace("find_package(arm REQUIRED)\n", parts))
    (tmp_path / "both.cpp").write_text(BOTH)
    settings = (f"-DPOLICY={folder}", "-DCMAKE_C_FLAGS=-march=native")
    configure(tmp_path, tmp_path / "build", *settings)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    check_both(tmp_path / "build" / "both", policies)


@needs_cmake
def test_a_folder_without_the_policy_is_an_error_of_cmake_that_names_both(both, tmp_path):
    done = run(["cmake", "-S", EXAMPLE, "-B", tmp_path / "build", f"-DPOLICY={both[0]}"])
    assert done.returncode and "which has no policy.c" in " ".join(done.stderr.split())


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_makefile_builds_a_policy_of_another_name(both, tmp_path):
    folder, policies = both
    shutil.copytree(EXAMPLE, tmp_path / "deploy", ignore=shutil.ignore_patterns("act", "*.so"))
    line = ["make", "-s", "-C", tmp_path / "deploy", f"POLICY={folder}", "NAME=left_leg"]
    subprocess.run([*line, "CFLAGS=-O2 -march=native -Werror"], check=True)
    policy, start = policies[1]
    seen = 3.0 * walk(policy)
    program = tmp_path / "deploy" / "act"
    np.testing.assert_array_equal(answers([program], seen), repeat(policy, seen, start))
    assert (tmp_path / "deploy" / "left_leg.so").is_file()
