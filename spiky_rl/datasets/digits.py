"""Digits: images of handwritten digits, static, and where those lie that are not shipped with a library.

scikit-learn's 1,797 images of 8 x 8 pixels are the dataset ``digits``. Enlarged to MNIST's size they also stand in for MNIST
where MNIST itself (its idx files, packed or not, in DIR/mnist) is absent.

Source: Alpaydin & Kaynak (1998), UCI; LeCun et al. (1998), MNIST.
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from spiky_rl.config.registry import UserError

SIDE, LEVELS = 8, 16.0
MNIST_SIDE, BOX = 28, 20
"""Pixels of a side of MNIST's images, and of the box that a digit fills there."""
FLOOR, CONTRAST = 0.3, 1.6
"""Enlarged strokes are wider and paler than MNIST's; taken from here and saturated they cover as many pixels."""
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def load() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's images [1797, 8, 8], float32 in [0, 1], and their labels. Raises UserError without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("scikit-learn is not installed; install it with: pip install scikit-learn")
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(found) for found in load_digits(return_X_y=True))
    return (images.reshape(-1, SIDE, SIDE) / LEVELS).astype(np.float32), labels.astype(np.int64)


def like_mnist(data: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Images [images, 28, 28] from 0 to 255, labels, and whose they are: MNIST's own, else scikit-learn's enlarged."""
    found = [_idx(data / "mnist" / name) for name in (IMAGES, LABELS)]
    if found[0] is not None and found[1] is not None:
        if found[0].shape != (*found[1].shape, MNIST_SIDE, MNIST_SIDE):
            raise UserError(
                f"{data / 'mnist'}: {IMAGES} is {list(found[0].shape)} and {LABELS} {list(found[1].shape)}; they must be"
                f" [images, {MNIST_SIDE}, {MNIST_SIDE}] and [images]"
            )
        return found[0].astype(np.float32), found[1].astype(np.int64), "MNIST"
    from scipy.ndimage import zoom

    images, labels = load()
    enlarged = np.asarray(zoom(images, (1, BOX / SIDE, BOX / SIDE), order=3))
    large = np.clip(CONTRAST * (enlarged - FLOOR), 0.0, 1.0)
    margin = (MNIST_SIDE - BOX) // 2
    return (
        255.0 * np.pad(large, ((0, 0), (margin, margin), (margin, margin))),
        labels,
        "scikit-learn's digits",
    )


def _idx(path: Path) -> np.ndarray | None:
    """An idx file of bytes, packed or not; None where there is neither. Raises UserError for another kind of file."""
    packed = path.with_name(f"{path.name}.gz")
    if not (path.is_file() or packed.is_file()):
        return None
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    count = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * count
    shape = np.frombuffer(data[4:start].ljust(4 * count, b"\0"), ">u4").astype(int)
    if not count or len(data) - start != np.prod(shape):
        raise UserError(f"{path}: no idx file of bytes, or a truncated one")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
