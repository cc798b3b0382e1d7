"""Pictures of the camera are rendered at twice the size and halved."""

import numpy as np
import pytest

camera = pytest.importorskip("spiky_rl.hosts.isaaclab.camera", reason="Isaac Lab is not installed")


def test_a_halved_picture_is_the_rounded_down_mean_of_four_pixels():
    fine = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    fine[:2, :2] = 255  # the largest sum
    halved = camera.halve_picture(fine)
    means = fine.reshape(6, 2, 10, 2, 3).mean((1, 3)).astype(np.uint8)
    assert halved.dtype == np.uint8 and np.array_equal(halved, means)
