"""Digits: scikit-learn's 1,797 images of handwritten digits, 8 x 8 pixels. Each is one static frame of brightness from 0 to 1.

A pixel's level, 0 to 16, becomes as many events, each of value 1/16.

Source: Alpaydin & Kaynak (1998), UCI.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from typing import override

import numpy as np

from spiky_rl.config.options import UserError, option
from spiky_rl.datasets._events import Events, decode_tensor
from spiky_rl.datasets.base import Dataset, Recording

SIDE, LEVELS = 8, 16


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's images [1797, 8, 8], whole numbers from 0 to 16, and labels. Raises UserError without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("scikit-learn is not installed; install it with: pip install scikit-learn")
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    return images.reshape(-1, SIDE, SIDE).astype(np.uint8), labels.astype(np.int64)


class Digits(Dataset):
    """The images as recordings, in scikit-learn's order."""

    title = "scikit-learn's digits"
    licence = "Creative Commons Attribution 4.0"
    source = "https://doi.org/10.24432/C50P49"
    shape = (1, SIDE, SIDE)
    window = (0, 1)
    times_are_steps = True
    classes = tuple("0123456789")
    scale = 1.0 / LEVELS

    class Options(Dataset.Options):
        # an image has no time, so it has one frame
        bins: int = option(1, "frames per image, always one", low=1, high=1)

    agent = "lif_ppo"
    shift, rotation = 0.5, 10.0

    def list_recordings(self) -> list[Recording]:
        self.images, labels = load_images()
        return [Recording(f"{i:04}", label, "train", row=i) for i, label in enumerate(labels.tolist())]

    def get_fingerprints(self) -> Iterator[str]:
        yield hashlib.sha256(self.images.tobytes()).hexdigest()

    @override
    def read_events(self, recording: Recording) -> Events:
        return decode_tensor(self.images[recording.row][np.newaxis, np.newaxis], self.path(recording))
