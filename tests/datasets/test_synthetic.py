"""Synthetic recordings: the same for the same seed, of a real sensor's statistics, and called synthetic."""

import gzip
import importlib.util
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.classification import samples
from spiky_rl.classification.cache import index_events
from spiky_rl.config.registry import UserError
from spiky_rl.datasets import digits
from spiky_rl.datasets import nmnist_synthetic as synthetic
from tests.recorded import dataset

REAL = os.environ.get("SPIKY_RL_DATA")
needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed: the extra 'dev'"
)


def bar():
    """A bright vertical bar."""
    image = np.zeros((28, 28))
    image[6:22, 12:16] = 255.0
    return image


def counted(events, bins):
    """Frames [bins, 2, 34, 34]."""
    held = dataset("nmnist_synthetic", Path("nowhere"), bins=bins, count=1)
    return np.bincount(index_events(events, held), minlength=bins * 2312).reshape(bins, 2, 34, 34)


def simulated(image, seed=0):
    return synthetic.simulate(image, np.random.default_rng(seed))


def test_the_same_seed_gives_the_same_events_and_another_others():
    a, b, c = simulated(bar()), simulated(bar()), simulated(bar(), seed=1)
    assert (a.t == b.t).all() and (a.x == b.x).all()
    assert len(a) != len(c) or (a.t != c.t).any()


def test_times_ascend_within_the_recording_and_pixels_lie_on_the_sensor():
    events = simulated(bar())
    assert (np.diff(events.t) >= 0).all() and events.t.min() >= 0 and events.t.max() < 310_000
    assert max(events.x.max(), events.y.max()) < 34 and set(np.unique(events.p)) == {0, 1}


def test_darkness_sends_noise_alone_at_its_rate():
    counts = [len(simulated(np.zeros((28, 28)), seed)) for seed in range(20)]
    assert np.mean(counts) == pytest.approx(0.3 * 34 * 34 * 0.31, rel=0.1)


def test_a_pixel_that_turns_bright_sends_off_events_first(monkeypatch):
    monkeypatch.setattr(synthetic, "NOISE_HZ", 0.0)
    events = simulated(bar())
    # in the second saccade (100 to 200 ms) the digit moves to the right: its right edge brightens
    second = (events.t > 100_000) & (events.t < 200_000)
    right = second & (events.x >= 19)
    left = second & (events.x <= 15)
    assert right.sum() > 50 and left.sum() > 50
    assert events.p[right].mean() < 0.1 and events.p[left].mean() > 0.9


def test_a_brighter_image_moves_more_events():
    assert len(simulated(bar())) > 1.5 * len(simulated(0.2 * bar()))


@pytest.mark.slow
@needs_digits
def test_enlarged_digits_move_about_as_many_events_over_as_many_pixels_as_recordings():
    # N-MNIST's first 1,000 recordings: 4,133 events on the mean, 448 active pixels; measured here: 3,490 and 454
    images, labels, source = synthetic.load_mnist_like(Path("nowhere"))
    assert (
        images.shape == (1797, 28, 28)
        and source == "scikit-learn's digits"
        and labels[:3].tolist() == [0, 1, 2]
    )
    found = [counted(simulated(image, i), 3) for i, image in enumerate(images[:40])]
    assert 3000 < np.mean([f.sum() for f in found]) < 4300
    assert 400 < np.mean([(f.sum((0, 1)) > 0).sum() for f in found]) < 500
    by_saccade = np.mean([f.sum((1, 2, 3)) for f in found], 0)
    assert by_saccade.min() > 0.75 * by_saccade.max(), "three saccades of about as many events"


@needs_digits
def test_synthetic_samples_say_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    found = dataset("nmnist_synthetic", tmp_path, bins=2, count=3)
    held = samples.load_samples("nmnist_synthetic", found, found.recordings)
    assert held.size == (2, 2, 34, 34) and len(held) == 3
    assert held.synthetic == "simulated sensor on scikit-learn's digits"
    assert "synthetic recordings" in caplog.text


@needs_digits
def test_more_recordings_than_images_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="dataset.count: 1798 .* at most 1797, the images of scikit-learn's digits"
    ):
        dataset("nmnist_synthetic", tmp_path, count=1798)


def test_mnists_own_files_are_taken_where_they_are(tmp_path):
    (tmp_path / "mnist").mkdir()
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    head = b"\0\0\x08\x03" + struct.pack(">3I", 2, 28, 28)
    (tmp_path / "mnist" / synthetic.IMAGES).write_bytes(head + images.tobytes())
    label = b"\0\0\x08\x01" + struct.pack(">I", 2) + bytes([7, 3])
    (tmp_path / "mnist" / f"{synthetic.LABELS}.gz").write_bytes(gzip.compress(label))
    found, labels, source = synthetic.load_mnist_like(tmp_path)
    assert (found == images).all() and labels.tolist() == [7, 3] and source == "MNIST"
    (tmp_path / "mnist" / synthetic.IMAGES).write_bytes(head + images.tobytes()[:-1])
    with pytest.raises(UserError, match="not an idx file of bytes, or truncated"):
        synthetic.load_mnist_like(tmp_path)


@needs_digits
def test_static_digits_are_one_frame_of_brightness(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    found = dataset("digits", tmp_path)
    held = samples.load_samples("digits", found, found.recordings)
    frames = held.frames(np.arange(len(held)))
    assert frames.shape == (1797, 1, 1, 8, 8) and held.shape == (1, 8, 8)
    assert frames.max() == 1.0 and held.synthetic == ""
    assert (frames.numpy()[:, 0, 0] == digits.load_images()[0] / 16).all()


@needs_digits
@pytest.mark.skipif(not REAL, reason="real recordings: SPIKY_RL_DATA is not set")
def test_real_recordings_move_as_the_simulated_ones_do():
    # rates of events over time: three saccades, at the same times, with pauses between them
    recordings = dataset("nmnist", Path(REAL or ""))
    images, _, _ = synthetic.load_mnist_like(Path("nowhere"))
    courses = np.zeros((2, 30))
    for i in range(40):
        courses[0] += counted(recordings.read_events(recordings.recordings[i]), 30).sum((1, 2, 3))
        courses[1] += counted(simulated(images[i], i), 30).sum((1, 2, 3))
    assert np.corrcoef(courses)[0, 1] > 0.9
