"""One thread, seeded draws, and robots without a network."""

import os
import random
from pathlib import Path

# before torch is imported: small tensors are slower on more threads, and much slower on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import pytest
import torch
from processes import run

torch.set_num_threads(1)

ROOT = "ISAACSIM_ASSET_ROOT"
"""Environment variable of the folder or server with Isaac Lab's robots, which Isaac Lab reads once, at its import."""
DERIVED = """
import os
from spiky_rl.hosts.isaaclab.assets import configure_assets
configure_assets("local")
print(os.environ["ISAACSIM_ASSET_ROOT"])
"""
"""Builds robots from Newton's wheel, and prints their folder."""


@pytest.fixture(name="assets", scope="session")
def _assets(tmp_path_factory):
    """The root of robots for tasks: the user's, else derived robots if spiky_rl is in the same checkout or installed."""
    if root := os.environ.get(ROOT):
        return root
    done = run("-c", DERIVED, cwd=Path(__file__).parents[2])
    if done.returncode:
        pytest.skip(f"no robots: set {ROOT} to a folder of Isaac Lab's assets")
    return done.stdout.splitlines()[-1]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
