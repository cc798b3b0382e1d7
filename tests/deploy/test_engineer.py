"""An engineer's test: a program written from policy.h alone drives the recorded Ant and gets the live policy's return."""

import json

import pytest

from tests import processes
from tests.deploy.engineer_case import PROGRAM

HEADER = (
    "policy.joint_vel_rel, rad/s: scale 0.2; of the joints of the actions",
    "policy.feet_body_forces (body_incoming_wrench), force X Y Z in N, then torque X Y Z in N m about the joint's anchor, that the joint to"
    " the parent exerts on the body, in the joint's frame on the body's side: scale 0.1; of front_left_foot, front_right_foot, left_back_foot,"
    " right_back_foot, 6 values each",
    "raw_action[8];  // action before scale, offset and clip: the environment's last action\n",
    "a value is the measured one, minus its default value where one is named, clipped, then times the scale",
    "commands to the robot",
    "action[0]: effort of ",
    "For the observation of the last action pass raw_action",
)
"""What the program relies on, beside the places of the terms."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_program_from_the_header_alone_gets_the_return_of_the_live_policy(tmp_path):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    done = processes.run("-m", "tests.deploy.engineer_case", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["mismatches"] == 0
    assert report["live"]["return"] > 60.0 and report["live"]["steps"] > 500, "an Ant that walks"
    assert report["c"] == report["live"]
    assert abs(report["c_int8"]["return"] - report["live"]["return"]) < 0.1 * report["live"]["return"]
    assert report["velocities"] == [
        *range(1, 9)
    ], "the header's order of the joints is that of the observation"
    header = (tmp_path / "policy.h").read_text()
    assert all(line in header for line in HEADER), header
    places = dict(
        reversed(line.strip("/ ").split(" policy.")) for line in header.splitlines() if " policy." in line
    )
    for name, place in (
        ("joint_vel_rel", "20 to 27"),
        ("feet_body_forces", "28 to 51"),
        ("actions", "52 to 59"),
    ):
        assert [each.strip() for key, each in places.items() if key.startswith(name)] == [place]
    assert PROGRAM.is_file()
