"""examples/deploy for microcontrollers and ROS 2, built with headers that stand for theirs: each program acts as the policy does."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spiky_rl.deploy import c
from spiky_rl.deploy._contract import describe_contract
from tests.deploy.test_c import live, run, walk
from tests.deploy.trained import trained

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy"
STUBS = Path(__file__).with_name("stubs")
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


@pytest.fixture(name="written", scope="module")
def written_once(tmp_path_factory):
    """A policy with a state, and its file with a contract."""
    folder, policy, target = tmp_path_factory.mktemp("robot"), trained("lif_stateful_ppo"), c.C()
    (folder / "model.pt").write_bytes(b"weights")
    environment = SimpleNamespace(step_dt=0.02)
    target.contract = describe_contract(environment, ["policy"], "a", "t", folder / "model.pt")
    return policy, target.write(policy, folder)


def build(source, path, folder, *texts):
    """Compile a C++ ``source`` beside a policy.c at ``path`` and further texts of C++; return the program."""
    flags = ["-O2", "-march=native", "-Wall", "-Wextra", "-Werror", f"-I{path.parent}", f"-I{STUBS}"]
    subprocess.run(["gcc", "-std=c99", *flags, "-c", path, "-o", folder / "policy.o"], check=True)
    more = []
    for i, text in enumerate(texts):
        more.append(folder / f"more_{i}.cpp")
        more[-1].write_text(text)
    line = ["g++", "-std=c++17", *flags, source, *more, folder / "policy.o", "-lm", "-o", folder / "program"]
    subprocess.run(line, check=True)
    return folder / "program"


def test_a_microcontroller_answers_observations_and_begins_episodes(written, tmp_path):
    policy, path = written
    main = "#include <Arduino.h>\nint main() {\n  for (setup();;) loop();\n}\n"
    program = build(EXAMPLE / "platformio" / "src" / "main.cpp", path, tmp_path, main)
    seen, expected = walk(policy), live(policy, walk(policy))
    episode = b"".join(b"s" + x.numpy().tobytes() for x in seen)
    done = subprocess.run(
        [program], input=episode + b"r" + episode + b"s123", capture_output=True, check=True
    )
    found = np.frombuffer(done.stdout, np.float32).reshape(2, *expected.shape)
    np.testing.assert_array_equal(found, np.stack([expected, expected]))


@pytest.mark.slow
def test_a_ros_node_acts_once_per_observation_and_begins_episodes(written, tmp_path):
    policy, path = written
    program = build(EXAMPLE / "ros2" / "src" / "policy_node.cpp", path, tmp_path)
    seen, expected = walk(policy), live(policy, walk(policy))
    lines = [" ".join(f"{x:.9g}" for x in step.reshape(-1).tolist()) for step in seen]
    text = "\n".join([*lines[:5], "1.0 2.0", "", *lines]) + "\n"
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    found = np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_array_equal(found, np.concatenate([expected[:5], expected]))
    assert "observation: 2 values given; allowed: 4" in done.stderr


@pytest.mark.slow
def test_a_ros_node_without_a_period_is_an_error_of_the_compiler(written, tmp_path):
    text = "".join(
        line for line in written[1].with_suffix(".h").read_text().splitlines(True) if "PERIOD_US" not in line
    )
    (tmp_path / "policy.h").write_text(text)
    source = EXAMPLE / "ros2" / "src" / "policy_node.cpp"
    done = run(["g++", "-std=c++17", f"-I{tmp_path}", f"-I{STUBS}", "-fsyntax-only", source])
    assert done.returncode and "POLICY_PERIOD_US" in done.stderr
