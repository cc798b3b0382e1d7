"""Recordings that tests make: bytes of N-MNIST's format, samples of given frames, and folders of easy classes."""

import hashlib

import numpy as np

from spiky_rl.classification.samples import Samples
from spiky_rl.config import registry


def encoded(events):
    """N-MNIST's bytes of (x, y, p, t)."""
    return b"".join(bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, p, t in events)


def listed(events):
    """Events as (x, y, p, t)."""
    columns = (events.x, events.y, events.p, events.t)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def dataset(name, data, **options):
    """A dataset of the registry, in a folder."""
    return registry.configure("datasets", {"name": name, **options}, "dataset").build(data=data)


def of_frames(frames, labels, classes=10, parts=None):
    """Samples of counts [samples, T, channels, rows, columns]."""
    counts = frames.reshape(len(frames), -1).astype(np.int64)
    places = [np.repeat(np.arange(counts.shape[1]), row).astype(np.uint32) for row in counts]
    digests = [
        int.from_bytes(hashlib.sha256(bytes([i]) + row.tobytes()).digest()[:8])
        for i, row in enumerate(counts)
    ]
    return Samples(
        "frames", frames.shape[1:], tuple(map(str, range(classes))), np.concatenate(places), np.cumsum([0, *map(len, places)]),
        np.asarray(labels, np.int64), parts or ["train"] * len(frames), [str(i) for i in range(len(frames))],
        np.array(digests, np.uint64),
    )  # fmt: skip


def bars(generator, label, count=40):
    """Events (x, y, p, t) on a sensor of 8 x 8: a row of class 0, a column of class 1, the diagonal of class 2."""
    along, across = generator.integers(0, 8, count), np.full(count, int(generator.integers(2, 6)))
    x, y = [(along, across), (across, along), (along, along)][label]
    return np.stack([x, y, generator.integers(0, 2, count), np.sort(generator.integers(0, 1000, count))], 1)
