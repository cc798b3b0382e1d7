"""Samples: a dataset by its name, as frames that a network sees and the classes that it is to tell."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiky_rl.config import files
from spiky_rl.config.registry import UserError, nearest
from spiky_rl.datasets import digits, nmnist, stmnist
from spiky_rl.datasets.download import Shown, unseen
from spiky_rl.datasets.events import Recordings
from spiky_rl.datasets.frames import Binning, digest, frames
from spiky_rl.datasets.synthetic import Synthetic

log = logging.getLogger(__name__)

NAMES = ("nmnist", "stmnist", "digits")


@dataclass(frozen=True)
class Samples:
    """Everything that is classified."""

    name: str
    frames: np.ndarray
    """[samples, T, channels, rows, columns]: event counts, or brightness from 0 to 1."""
    labels: np.ndarray
    """[samples], int64."""
    of_test: np.ndarray
    """[samples], bool: the official test set; none where there is no such set."""
    digest: str
    """Hash of the data."""
    classes: int = 10
    synthetic: str = ""
    """What stood in for the sensor; empty: nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, rows, columns]."""
        return self.frames.shape[2:]  # type: ignore[return-value]


def data_folder(given: Path | None = None) -> Path:
    """Where the data lie: ``given``, else the environment's SPIKY_RL_DATA, else ``datasets`` in our cache."""
    return (given or Path(os.environ.get("SPIKY_RL_DATA") or files.cache_folder() / "datasets")).absolute()


def load(
    name: str,
    data: Path,
    bins: int = 10,
    binary: bool = False,
    synthetic: int = 0,
    download: bool = False,
    shown: Shown = unseen,
) -> Samples:
    """A dataset as frames.

    Args:
        name: One of `NAMES`.
        data: The folder that holds the datasets.
        bins: T, frames of a recording; static images have one.
        binary: Whether a frame says that there were events, or how many.
        synthetic: Simulate so many recordings instead of reading real ones; 0: read.
        download: Fetch what is missing.
        shown: What displays how far a download is.

    Raises:
        UserError: The name is unknown, the data are missing or damaged, or an option does not go with the dataset.
    """
    if name not in NAMES:
        raise UserError(f"unknown dataset {name!r}; known: {', '.join(NAMES)}{nearest(name, NAMES)}")
    if name != "nmnist" and (synthetic or download):
        flag = "--synthetic" if synthetic else "--download"
        raise UserError(f"{flag}: goes with nmnist only, not with {name}")
    if name == "digits":
        images, labels = digits.load()
        held = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
        return Samples(name, images[:, None, None], labels, np.zeros(len(labels), bool), held)
    recordings = _recordings(name, data, synthetic, download, shown)
    binning = Binning(bins, *recordings.window, recordings.sensor, binary)
    if recordings.synthetic:
        log.warning("synthetic recordings (%s): no result of them is one of N-MNIST", recordings.synthetic)
    of = digest(recordings)
    return Samples(
        recordings.name,
        frames(recordings, binning, of),
        recordings.labels,
        recordings.of_test,
        of,
        recordings.classes,
        recordings.synthetic,
    )


def _recordings(name: str, data: Path, synthetic: int, download: bool, shown: Shown) -> Recordings:
    if synthetic:
        images, labels, source = digits.like_mnist(data)
        if synthetic > len(labels):
            raise UserError(
                f"--recordings {synthetic}: there are {len(labels)} images of {source} to simulate"
            )
        return Synthetic(images[:synthetic], labels[:synthetic], source, seed=0)
    if download:
        for archive in nmnist.ARCHIVES:
            archive.fetch(data / nmnist.FOLDERS[0], shown)
    return nmnist.find(data) if name == "nmnist" else stmnist.find(data)
