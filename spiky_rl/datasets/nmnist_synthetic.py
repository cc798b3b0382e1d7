"""Synthetic N-MNIST: a simulated event sensor that looks at digits which move as in N-MNIST. It contains no real recording.

    L = log(0.302 + I/255), moved along the measured path;   F <- F + (1 - exp(-1/1.6)) (L - F)   every millisecond
    if |F - R| > C and the pixel's last event is at least 2 ms ago:  an event with the sign of F - R;   R <- F

L is the log brightness at a pixel, F its low-pass filtered value, R the value of F at the pixel's last event, and C the pixel's threshold,
about 0.229. The events of a millisecond are spread over it. Each pixel has noise events at 0.3 Hz. Saccades begin some milliseconds early
or late. p = 0 means brighter, as in N-MNIST. The digits are MNIST's if its idx files, packed or unpacked, are in DIR/mnist, else
scikit-learn's, enlarged to MNIST's size.

The path is the measured offset of the 28 x 28 digit on the 34 x 34 sensor, averaged over recordings. Simulated / recorded, for the same
100 digits of MNIST: 4,058 / 4,187 events, 449 / 452 active pixels, 49 / 50 % of the events ON. Frames of 10 ms of 40 digits correlate by
0.72 without jitter, by 0.68 with it, and by 0.14 between different digits.
Source: calibrated on recordings of Orchard et al. (2015); contrast threshold and refractoriness: Lichtsteiner et al. (2008).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import override

import numpy as np

from spiky_rl.config.options import UserError, option
from spiky_rl.config.safe_loading import read_regular
from spiky_rl.datasets import digits
from spiky_rl.datasets._events import Events
from spiky_rl.datasets.base import Dataset, Recording
from spiky_rl.datasets.nmnist import SIDE

MNIST_SIDE, BOX = 28, 20
"""Side of MNIST's images in pixels, and of the box that a digit fills there."""
OFFSET, GAIN = 0.3, 1.6
"""Offset and gain of enlarged images. Enlarged strokes are wider and paler than MNIST's; with these values they cover as many pixels."""
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
MAX_BYTES = 1 << 28
"""Maximum bytes of a file of images; all 60,000 take a fifth of it."""
STEPS = 310
"""Duration in milliseconds."""
PATH = np.array(
    [
        (0.43, 1.28), (0.43, 1.30), (0.40, 1.66), (0.37, 2.35), (0.36, 3.41), (0.50, 4.65), (0.95, 5.68),
        (1.52, 6.29), (1.76, 6.46), (1.79, 6.44), (1.99, 6.47), (2.24, 6.44), (2.50, 6.34), (2.90, 6.10),
        (3.57, 5.41), (4.18, 4.35), (4.54, 3.22), (4.88, 2.26), (5.16, 1.74), (5.30, 1.59), (5.52, 1.48),
        (5.70, 1.40), (5.79, 1.33), (5.65, 1.29), (5.04, 1.39), (4.10, 1.43), (3.03, 1.39), (2.06, 1.30),
        (1.34, 1.23), (0.92, 1.17), (0.81, 1.22),
    ]
)  # fmt: skip
"""Offset (x, y) in pixels, every 10 ms."""
LEAD_MS = 3.2
"""Delay of events after the light; the path was measured on events."""
DARK = 0.302
"""Brightness of a black pixel, in units of a white pixel's value."""
LOW_PASS_MS = 1.6
CONTRAST, CONTRAST_DEVIATION = 0.229, 0.01
"""Mean and standard deviation of the pixels' thresholds, in log brightness."""
REFRACTORY_MS = 2
NOISE_HZ = 0.3
"""Rate of each pixel's noise events."""
JITTER_MS = 3.0
"""Standard deviation of the start of a saccade."""
SACCADES_MS = (50.0, 150.0, 255.0)
"""Times at which the saccades are fastest."""


def simulate(image: np.ndarray, generator: np.random.Generator) -> Events:
    """Simulate a recording of an ``image`` [28, 28] from 0 to 255; the events are ordered by time."""
    # 0 where the image is black, as in the margin that `_move_image` adds
    light = np.log(DARK + np.clip(image, 0.0, 255.0) / 255.0) - np.log(DARK)
    seen = _move_image(light, _draw_path(generator))
    threshold = np.maximum(generator.normal(CONTRAST, CONTRAST_DEVIATION, (SIDE, SIDE)), 0.0)
    noisy = generator.random((STEPS, SIDE, SIDE)) < NOISE_HZ / 1000.0
    follow = 1.0 - np.exp(-1.0 / LOW_PASS_MS)
    filtered, reference = seen[0].copy(), seen[0].copy()
    last_event = np.full((SIDE, SIDE), -REFRACTORY_MS)
    events: list[np.ndarray] = []  # [4, events] each: step, y, x, p
    for step in range(STEPS):
        filtered += follow * (seen[step] - filtered)
        difference = filtered - reference
        fired = (np.abs(difference) > threshold) & (step - last_event >= REFRACTORY_MS)
        reference[fired] = filtered[fired]
        last_event[fired] = step
        y, x = fired.nonzero()
        events.append(np.stack([np.full_like(x, step), y, x, difference[fired] < 0.0]))
    step, y, x = noisy.nonzero()
    events.append(np.stack([step, y, x, generator.integers(2, size=len(x))]))
    step, y, x, p = np.concatenate(events, 1)
    t = 1000 * step + generator.integers(1000, size=len(step))
    order = np.argsort(t, kind="stable")
    return Events(x[order], y[order], p[order], t[order])


def _draw_path(generator: np.random.Generator) -> np.ndarray:
    """Return the offsets (x, y) of the digit in every step, [steps, 2], with randomly shifted saccades."""
    time = np.arange(STEPS) + LEAD_MS
    late = np.interp(time, SACCADES_MS, generator.normal(0.0, JITTER_MS, len(SACCADES_MS)))
    known = 10.0 * np.arange(len(PATH))
    return np.stack([np.interp(time - late, known, PATH[:, axis]) for axis in (0, 1)], 1)


def _move_image(image: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return the image on the sensor at every offset of the path, [steps, 34, 34], with zeros around it and bilinear interpolation."""
    distance = np.arange(SIDE)[:, None] - np.arange(MNIST_SIDE)
    # weights [steps, 34, 28] of bilinear interpolation: 1 at a shifted pixel, falling to 0 at a distance of one pixel
    columns, rows = (np.clip(1.0 - np.abs(distance - offset[:, None, None]), 0.0, None) for offset in path.T)
    return rows @ image @ columns.transpose(0, 2, 1)


class NMnistSynthetic(Dataset):
    """Simulated recordings of digits."""

    title = "synthetic N-MNIST"
    licence = "that of the digits"
    source = "simulated here"
    shape = (2, SIDE, SIDE)
    window = (0, 300_000)
    classes = tuple("0123456789")

    class Options(Dataset.Options):
        count: int = option(1000, "number of digits to simulate, the first ones", low=1, high=60_000)

    options: Options
    shift, rotation = 2.0, 10.0

    def list_recordings(self) -> list[Recording]:
        images, labels, source = load_mnist_like(self.data)
        if self.options.count > len(labels):
            raise UserError(
                f"dataset.count: {self.options.count} is out of range; allowed: at most {len(labels)}, the images of {source}"
            )
        self.images, self.synthetic = images, f"simulated sensor on {source}"
        return [
            Recording(f"{i:05}", label, "train", row=i)
            for i, label in enumerate(labels[: self.options.count].tolist())
        ]

    def get_fingerprints(self) -> Iterator[str]:
        model = (PATH.tolist(), LEAD_MS, DARK, LOW_PASS_MS, CONTRAST, CONTRAST_DEVIATION, REFRACTORY_MS)
        yield repr((STEPS, NOISE_HZ, JITTER_MS, SACCADES_MS, model))
        yield hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()

    @override
    def read_events(self, recording: Recording) -> Events:
        return simulate(self.images[recording.row], np.random.default_rng([0, recording.row]))


def load_mnist_like(data: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Return images [images, 28, 28] from 0 to 255, labels, and the name of their source.

    The source is MNIST if its files are in the folder ``data``, else scikit-learn's digits, enlarged.
    """
    images, labels = (_read_idx(data / "mnist" / name) for name in (IMAGES, LABELS))
    if images is not None and labels is not None:
        if images.shape != (*labels.shape, MNIST_SIDE, MNIST_SIDE):
            raise UserError(
                f"{data / 'mnist'}: {IMAGES} is {list(images.shape)} and {LABELS} {list(labels.shape)}; they must be"
                f" [images, {MNIST_SIDE}, {MNIST_SIDE}] and [images]"
            )
        return images.astype(np.float32), labels.astype(np.int64), "MNIST"
    from scipy.ndimage import zoom

    images, labels = digits.load_images()
    images = (images / digits.LEVELS).astype(np.float32)
    enlarged = np.asarray(zoom(images, (1, BOX / digits.SIDE, BOX / digits.SIDE), order=3))
    large = np.clip(GAIN * (enlarged - OFFSET), 0.0, 1.0)
    margin = (MNIST_SIDE - BOX) // 2
    return (
        255.0 * np.pad(large, ((0, 0), (margin, margin), (margin, margin))),
        labels,
        "scikit-learn's digits",
    )


def _read_idx(path: Path) -> np.ndarray | None:
    """Read an idx file of bytes, packed or unpacked; None if it does not exist. Raises UserError if it is invalid."""
    packed = path.with_name(f"{path.name}.gz")
    if not (path.is_file() or packed.is_file()):
        return None
    try:
        data = read_regular(path, MAX_BYTES) if path.is_file() else _unpack(read_regular(packed, MAX_BYTES))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    dimensions = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start].ljust(4 * dimensions, b"\0"), ">u4").astype(int)
    if not dimensions or len(data) - start != math.prod(shape.tolist()):
        raise UserError(f"{path}: not an idx file of bytes, or truncated")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _unpack(data: bytes) -> bytes:
    """Return the unpacked gzip ``data``. Raises OSError if they are too large or not gzip."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(MAX_BYTES + 1)
    if len(unpacked) > MAX_BYTES:
        raise OSError(f"unpacks to more than {MAX_BYTES:,} bytes")
    return unpacked
