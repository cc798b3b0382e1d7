"""A camera sees on native physics what it sees on MuJoCo-Warp."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from processes import run

CASE = Path(__file__).with_name("camera_case.py")
SMALL = ["env.scene.tiled_camera.width=64", "env.scene.tiled_camera.height=32"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_camera_sees_the_same_pictures_on_either_physics(tmp_path, assets):
    found = {}
    for physics in ("mujoco", "newton_mjwarp"):
        path = tmp_path / f"{physics}.npz"
        line = [CASE, path, "Isaac-Cartpole-Camera", *SMALL, f"physics={physics}"]
        done = run(*line, ISAACSIM_ASSET_ROOT=assets)
        assert done.returncode == 0, done.stderr[-2000:]
        found[physics] = np.load(path)
        assert found[physics]["physics"] == physics
    ours, theirs = found["mujoco"], found["newton_mjwarp"]
    np.testing.assert_allclose(ours["states"], theirs["states"], atol=1e-4)
    np.testing.assert_allclose(ours["images"], theirs["images"], atol=1e-3)
    assert np.abs(np.diff(ours["images"], axis=0)).max() > 0.1, "nothing moved"
