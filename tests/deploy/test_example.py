"""examples/deploy: what its programs do is what the policy does."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.deploy import c, c_int8
from tests import processes
from tests.deploy.test_c import answers, live, walk
from tests.deploy.test_c_int8 import rollout_of
from tests.hosts.test_first_minibatch import agent_runner

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy"
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture(name="example")
def a_copy_of_the_example(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "deploy", ignore=shutil.ignore_patterns("act", "*.so"))
    return tmp_path / "deploy"


def make(example, folder):
    subprocess.run(["make", "-s", "-C", example, f"POLICY={folder}"], check=True)


def test_the_c_program_acts_as_the_policy_does(example, tmp_path):
    policy = agent_runner("lif_stateful_ppo").alg.get_policy().eval()
    c.C().write(policy, tmp_path)
    make(example, tmp_path)
    seen = walk(policy)
    # -O2 alone has no fused multiply-adds
    np.testing.assert_allclose(answers([example / "act"], seen), live(policy, seen), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("text", ["1.0 2.0", "x y z\n", "0 0 0 0\nx y z\n"])
def test_a_line_that_is_too_short_or_no_numbers_is_an_error(text, example, tmp_path):
    c.C().write(agent_runner("lif_ppo").alg.get_policy().eval(), tmp_path)
    make(example, tmp_path)
    done = subprocess.run([example / "act"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (1, text.count("0 0\n"))


def test_a_policy_in_integers_is_driven_from_python_by_the_bytes_that_its_header_says(example, tmp_path):
    policy, target = agent_runner("lif_stateful_ppo").alg.get_policy().eval(), c_int8.CInt8()
    target.calibrate(rollout_of(policy))
    folder = target.write(policy, tmp_path).parent
    make(example, folder)
    spec = importlib.util.spec_from_file_location("drive", example / "drive.py")
    assert spec is not None and spec.loader is not None
    drive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drive)
    seen, act = walk(policy), drive.load_policy(folder)
    found = np.stack([act(x.numpy().reshape(-1)).copy() for x in seen])
    np.testing.assert_array_equal(found, live(target.get_reference_model(policy), seen))


@pytest.mark.slow
def test_an_ant_driven_from_python_gets_the_return_of_the_live_policy(example, tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    task = "--task Isaac-Ant-v0 --agent lif_ppo --device cpu --assets local".split()
    logs = ["--log_root", str(tmp_path / "logs")]
    assert (
        processes.run(
            "scripts/train.py", *task, "--num_envs", "64", "--max_iterations", "2", *logs
        ).returncode
        == 0
    )
    out = ["--raw_actions", "--out", str(tmp_path / "out")]
    done = processes.run("scripts/export.py", *task, "--to", "c", *out, *logs)
    assert done.returncode == 0, done.stderr
    make(example, tmp_path / "out")
    driven = processes.run(str(example / "drive.py"), str(tmp_path / "out")).stdout.splitlines()[-1]
    (checkpoint,) = (tmp_path / "logs").rglob("model_1.pt")
    alive = processes.run("-m", "tests.deploy.drive_case", str(checkpoint)).stdout.splitlines()[-1]
    assert driven == alive and driven.startswith("return: ")
