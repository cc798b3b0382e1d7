"""Splits and subsets: of every class its part, nothing in two of them, and the same for everyone."""

import os
from dataclasses import replace

import numpy as np
import pytest

from spiky_rl.classification.settings import ClassifyRequest, make_settings
from spiky_rl.classification.result import write_csv
from spiky_rl.classification.split import select_subset, split
from spiky_rl.config.registry import UserError
from spiky_rl.datasets.base import Dataset, Recording
from spiky_rl.datasets.ev_objects import EvObjects
from tests.recorded import of_frames


def make_samples(labels, parts=None, digests=None):
    """Samples without events, each with events of its own unless ``digests`` says otherwise."""
    samples = of_frames(np.zeros((len(labels), 1, 1, 1, 1)), labels, parts=parts)
    return replace(samples, digests=np.arange(len(labels)) if digests is None else np.array(digests))


LABELS = np.arange(100) % 10
PLAIN = make_samples(LABELS)
OFFICIAL = make_samples(LABELS, ["train"] * 70 + ["validation"] * 10 + ["test"] * 20)


def sizes(found):
    return [len(found.train), len(found.validation), len(found.test)]


def test_without_an_official_test_set_a_fifth_is_tested_on_and_a_tenth_of_the_rest_chooses():
    found = split(PLAIN, None, None, 0)
    assert sizes(found) == [72, 8, 20]
    assert sorted([*found.train, *found.validation, *found.test]) == list(range(100))
    assert (np.bincount(LABELS[found.test]) == 2).all()


def test_official_parts_are_taken_as_they_are_and_left_alone_where_others_are_drawn():
    found = split(OFFICIAL, None, None, 0)
    assert (found.train.tolist(), found.validation.tolist()) == (list(range(70)), list(range(70, 80)))
    assert found.test.tolist() == list(range(80, 100))
    drawn = split(OFFICIAL, 14, 7, 0)
    assert sizes(drawn) == [49, 7, 14]
    used = np.concatenate([drawn.train, drawn.validation, drawn.test])
    assert sorted(used) == list(range(70)), "the official validation and test sets are in none of them"
    assert sizes(split(OFFICIAL, None, 0, 0)) == [70, 0, 20]


def test_a_part_that_is_drawn_has_of_every_class_its_share():
    labels = np.repeat(np.arange(4), [40, 30, 20, 10])
    found = split(make_samples(labels), 21, 0, 3)
    assert (np.abs(np.bincount(labels[found.test]) - 0.21 * np.array([40, 30, 20, 10])) < 1.0).all()


def test_a_seed_draws_the_same_split_and_another_another():
    one, same, other = (split(PLAIN, None, None, seed).digest for seed in (0, 0, 1))
    assert one == same != other
    assert split(PLAIN, None, 0, 0).digest != one


def test_a_copy_is_not_on_two_sides_of_a_split(caplog):
    found = split(make_samples(LABELS, digests=np.arange(100) // 2), None, None, 0)
    assert len(found.test) == 20, "as many as without copies"
    sides = [{*(part // 2)} for part in (found.train, found.validation, found.test)]
    assert not sides[0] & sides[1] and not sides[1] & sides[2] and not sides[0] & sides[2]
    assert f"left out {100 - sum(sizes(found))} recordings that are copies of test or" in caplog.text


def test_an_official_test_set_keeps_its_copies():
    parts = ["train", "train", "validation", "validation", "test", "test"]
    found = split(make_samples([0, 1] * 3, parts, [0, 1, 4, 2, 4, 0]), None, None, 0)
    assert [part.tolist() for part in (found.train, found.validation, found.test)] == [[1], [3], [4, 5]]
    with pytest.raises(UserError, match="--data: all 2 other recordings are copies of test"):
        split(make_samples([0, 1] * 2, ["train", "train", "test", "test"], [0, 1, 0, 1]), None, 0, 0)


@pytest.mark.parametrize("count", [10, 11])
def test_a_part_of_all_is_refused(count):
    with pytest.raises(UserError, match=f"--hold_out {count}: must be between 1 and 9"):
        split(make_samples(np.arange(10)), count, None, 0)
    with pytest.raises(UserError, match=f"--validation {count}: must be between 1 and 7"):
        split(make_samples(np.arange(10)), None, count, 0)


RECORDINGS = [
    Recording(f"{part}/{i % 5}/{i:03}", i % 5, part)
    for part, count in (("train", 100), ("test", 25))
    for i in range(count)
]


def test_a_subset_has_of_every_class_and_part_its_share_and_is_the_same_again():
    found = select_subset(RECORDINGS, 50, None)
    assert [sum(r.part == part for r in found) for part in ("train", "test")] == [40, 10]
    assert all(sum(r.label == label for r in found) == 10 for label in range(5))
    assert found == select_subset(RECORDINGS, 50, None) and found == sorted(found, key=RECORDINGS.index)
    assert select_subset(RECORDINGS, 125, None) == RECORDINGS
    with pytest.raises(UserError, match="--recordings 126: allowed: at most 125"):
        select_subset(RECORDINGS, 126, None)


def test_a_list_chooses_recordings_by_name_and_may_say_what_each_is(tmp_path):
    plain, parted = tmp_path / "ids.txt", tmp_path / "recordings.csv"
    plain.write_text("# mine\ntest/0/005\n\n099\ntrain/0/000\n")
    assert [r.name for r in select_subset(RECORDINGS, None, plain)] == [
        "train/0/000",
        "train/4/099",
        "test/0/005",
    ]
    for text in (
        "recording,label,part\ntrain/1/001,1,test\ntrain/0/000,0,validation\ntrain/2/002,2,\n",
        "part, recording\ntest,train/1/001\nvalidation,train/0/000\n,train/2/002\n",
    ):
        parted.write_text(text)
        assert [(r.name, r.part) for r in select_subset(RECORDINGS, None, parted)] == [
            ("train/0/000", "validation"),
            ("train/1/001", "test"),
        ]


def test_below_a_header_a_name_may_begin_with_the_sign_of_a_comment(tmp_path):
    own = [Recording(name, 0, "train") for name in ("#1/a", "#1/b", "two/a")]
    written = tmp_path / "recordings.csv"
    write_csv(written, [("recording", "label", "part"), *((r.name, "0", "train") for r in own)])
    assert select_subset(own, None, written) == own
    written.write_text("# mine\n" + written.read_text())
    assert select_subset(own, None, written) == own


BAD_LISTS = {
    "a name that there is not": (
        "train/0/00O\n",
        "there is no recording 'train/0/00O'; did you mean 'train/0/0",
    ),
    "a name of two": ("000\n", "there is no recording '000'"),
    "a part": ("recording,part\ntrain/0/000,tset\n", "unknown part 'tset'; allowed: train, validation, test"),
    "nothing": ("# none\n", "lists no recording"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_list_that_does_not_fit_is_refused(case, tmp_path):
    text, words = BAD_LISTS[case]
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(UserError, match="ids.csv.*" + words):
        select_subset(RECORDINGS, None, tmp_path / "ids.csv")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        select_subset(RECORDINGS, None, tmp_path / "none")


def test_a_list_that_is_a_pipe_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "ids")
    with pytest.raises(UserError, match="--ids .*: cannot be read: it is not a regular file"):
        select_subset([Recording("a", 0, "train")], None, tmp_path / "ids")


def test_a_training_takes_what_its_dataset_declares_unless_it_is_given():
    declared = make_settings(ClassifyRequest(dataset="ev_objects")).flags
    assert (declared.epochs, declared.batch_size) == (EvObjects.epochs, EvObjects.batch_size) == (150, 20)
    assert make_settings(ClassifyRequest(dataset="ev_objects", flags={"epochs": 3})).flags.epochs == 3
    assert make_settings(ClassifyRequest(dataset="digits")).flags.epochs == Dataset.epochs


@pytest.mark.parametrize("override", ["dataset.bins=7", "dataset.binary=true"])
def test_a_network_is_not_used_with_other_frames_than_it_was_trained_on(override):
    request = ClassifyRequest(checkpoint="latest", evaluate=True, overrides=(override, "dataset.count=60"))
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=f"^{key}: available only for training; --evaluate takes it from"):
        request.check_request()
    request.with_changes(overrides=("dataset.count=60",)).check_request()
