"""Few recordings are learned from in many passes: what is sized is the number of updates, and a training that is not over says so."""

import pytest

from spiky_rl.classification.run import (
    MAX_EPOCHS,
    MIN_EPOCHS,
    MIN_UPDATES,
    compute_batch_size,
    compute_epochs,
)
from spiky_rl.classification.training import History
from tests.recorded import dataset


@pytest.mark.parametrize("recordings", [2, 17, 100, 216, 499, 2_000, 60_000])
def test_epochs_make_the_number_of_updates_within_their_bounds(recordings):
    batch_size = compute_batch_size(recordings)
    epochs = compute_epochs(recordings, batch_size)
    per_epoch = -(-recordings // batch_size)
    assert 16 <= batch_size <= 50 and MIN_EPOCHS <= epochs <= MAX_EPOCHS
    if MIN_EPOCHS < epochs < MAX_EPOCHS:
        assert MIN_UPDATES <= epochs * per_epoch < MIN_UPDATES + per_epoch


@pytest.mark.parametrize(
    ("recordings", "batch_size", "epochs"), [(10, 16, MAX_EPOCHS), (216, 22, 150), (60_000, 50, MIN_EPOCHS)]
)
def test_sizes_of_some_numbers_of_recordings(recordings, batch_size, epochs):
    assert compute_batch_size(recordings) == batch_size
    assert compute_epochs(recordings, batch_size) == epochs


def make_history(validation, training):
    ones = [1.0] * len(training)
    return History(loss=ones, accuracy_train=training, accuracy_validation=validation, seconds=ones)


FLAT, RISING = [0.5] * 20, [0.025 * i for i in range(20)]
LATE = [0.5] * 12 + [0.5 + 0.05 * i for i in range(1, 9)]
EARLY = [0.1, 0.3, 0.5] + [0.6] * 17
NONE = [None] * 20


@pytest.mark.parametrize(
    ("validation", "training", "schedule", "what"),
    [
        (FLAT, FLAT, "cosine", None),
        (EARLY, EARLY, "cosine", None),
        (RISING, FLAT, "cosine", "validation"),
        (RISING, FLAT, "constant", "validation"),
        (FLAT, RISING, "cosine", "training"),
        (NONE, RISING, "cosine", "training"),
        (NONE, EARLY, "constant", None),
        # with a rate that falls to zero the last fifth alone would look converged
        (FLAT[:10] + [0.7] * 10, FLAT, "cosine", "validation"),
        (FLAT[:10] + [0.7] * 10, FLAT, "constant", None),
        (RISING[:9], RISING[:9], "cosine", None),
    ],
)
def test_an_accuracy_that_still_rises_is_found(validation, training, schedule, what):
    rise = make_history(validation, training).find_rise(100, schedule)
    assert (rise and rise.what) == what
    assert rise is None or rise.last > rise.before


def test_one_recording_more_is_no_rise():
    history = make_history([0.5] * 10 + [0.55] * 10, FLAT)
    assert history.find_rise(100, "cosine") is not None
    assert history.find_rise(20, "cosine") is None


@pytest.mark.parametrize(("window", "given", "bins"), [(100, {}, 32), (12, {}, 12), (100, {"bins": 7}, 7)])
def test_own_recordings_are_counted_into_frames_that_fit_their_window(tmp_path, window, given, bins):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.csv").write_text("t,x,y,p\n1,0,0,0\n2,1,1,0\n")
    own = dataset("custom", tmp_path, window=[0, window], sensor=[2, 2], **given)
    assert own.bins == bins == own.settings()["bins"]
