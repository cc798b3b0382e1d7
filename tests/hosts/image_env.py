"""The point mass seen by a camera, for tests of models that take images."""

import torch
from tensordict import TensorDict

from tests.hosts.point_env import PointEnv

SIZE = (2, 9, 10)
"""Frames (the last one and the present), height and width."""
CONVOLUTIONAL = {
    "layers": [6, 8, 16],
    "connection": [
        {"name": "convolutional", "kernel": 3, "padding": 1, "gain": 4.0},
        {"name": "convolutional", "kernel": 3, "pool": 2},
        "linear",
    ],
    "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
}


class ImageEnv(PointEnv):
    """`PointEnv` whose policy group is two frames [B, 2, 9, 10] of a blob; the critic's is the state [B, 4]."""

    def get_observations(self) -> TensorDict:
        rows, columns = torch.linspace(-2, 2, SIZE[1]), torch.linspace(-2, 2, SIZE[2])
        position, velocity = self.state.split(2, -1)
        frames = []
        for place in (position - 0.5 * velocity, position):
            down = (rows - place[:, :1]).square()[:, :, None]
            right = (columns - place[:, 1:]).square()[:, None]
            frames.append(torch.exp(-2.0 * (down + right)))
        return TensorDict(
            {"policy": torch.stack(frames, 1), "critic": self.state.clone()}, batch_size=[self.num_envs]
        )
