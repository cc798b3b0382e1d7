"""Which checkpoint a name stands for: the newest run's, of the seed asked for, and the newest of it that is whole."""

import datetime
import json
import logging
import os

import pytest
import torch

from spiky_rl.config.registry import UserError
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.run import run_folders


@pytest.fixture
def said(caplog):
    """What the package says while a test runs."""
    caplog.set_level(logging.INFO)
    return caplog


def a_run(root, agent="lif", checkpoints=("model_0.pt", "model_9.pt", "model_10.pt", "best.pt"), seed=0):
    folder = run_folders.create_run_folder(root, "point", "", "Isaac-Point", agent, seed=seed)
    for name in checkpoints:
        torch.save({"actor_state_dict": {}, "critic_state_dict": {}, "iter": 0}, folder / name)
    return folder


def find(name, root, agent="lif", seed=None, requires_seed=True):
    return run_folders.find_checkpoint(
        name, root, "point", "Isaac-Point", agent, seed=seed, requires_seed=requires_seed
    )


def test_latest_and_best_are_those_of_the_newest_run_of_this_agent(tmp_path):
    old, new, other = a_run(tmp_path), a_run(tmp_path), a_run(tmp_path, agent="mlp")
    a_run(tmp_path, checkpoints=())  # ended before its first checkpoint
    assert find("latest", tmp_path) == new / "model_10.pt"
    assert find("best", tmp_path) == new / "best.pt"
    assert find("latest", tmp_path, agent="mlp") == other / "model_10.pt"
    (new / "run.json").write_text("{", encoding="utf-8")
    assert find("latest", tmp_path) == old / "model_10.pt", "an unreadable manifest hides no other run"


def test_a_path_and_a_run_folder_are_checkpoints_too(tmp_path):
    folder = a_run(tmp_path)
    assert find(str(folder / "model_9.pt"), tmp_path) == folder / "model_9.pt"
    assert find(str(folder), tmp_path) == folder / "model_10.pt"


def test_a_checkpoint_that_is_not_there_is_named_with_what_to_do(tmp_path):
    empty = a_run(tmp_path, checkpoints=())
    for name in (str(tmp_path / "model_3.pt"), str(empty), "lates"):
        with pytest.raises(CheckpointError, match="--checkpoint .*not found"):
            find(name, tmp_path)
    for name in ("latest", "best"):
        with pytest.raises(CheckpointError, match=f"--checkpoint {name}: no run of lif on Isaac-Point"):
            find(name, tmp_path)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    folders = {a_run(tmp_path) for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "rsl_rl" / "point"}


def test_a_seed_that_was_given_is_that_of_the_run_that_goes_on(tmp_path):
    first, second = a_run(tmp_path, seed=0), a_run(tmp_path, seed=1)
    assert find("latest", tmp_path) == second / "model_10.pt"
    assert find("latest", tmp_path, seed=0) == first / "model_10.pt"
    assert find("best", tmp_path, seed=0) == first / "best.pt"
    with pytest.raises(CheckpointError, match="with --seed 7 in .*; seeds of its runs: 0, 1; remove --seed"):
        find("latest", tmp_path, seed=7)


def test_playback_has_a_seed_of_its_own_and_says_which_run_it_takes(said, tmp_path):
    first, second = a_run(tmp_path, seed=0), a_run(tmp_path, seed=1)
    assert find("latest", tmp_path, seed=0, requires_seed=False) == first / "model_10.pt"
    assert find("latest", tmp_path, seed=1000, requires_seed=False) == second / "model_10.pt"
    assert "--seed 1000: no run was trained with it; taking the newest run" in said.text


def test_a_run_without_a_seed_in_its_manifest_has_that_of_its_checkpoint(tmp_path):
    from tests.hosts.test_runner import IDENTITY, runner

    folder = a_run(tmp_path, checkpoints=(), seed=None)
    runner(identity={**IDENTITY, "seed": 3}).save(str(folder / "model_0.pt"))
    assert find("latest", tmp_path, seed=3) == folder / "model_0.pt"
    with pytest.raises(CheckpointError, match="seeds of its runs: 3"):
        find("latest", tmp_path, seed=4)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_run_whose_manifest_is_damaged_is_that_of_its_checkpoint(content, said, tmp_path):
    from tests.hosts.test_runner import IDENTITY, runner

    older = a_run(tmp_path, agent=IDENTITY["agent"])
    folder = a_run(tmp_path, checkpoints=())
    runner(identity={**IDENTITY, "task": "Isaac-Point", "seed": 3}).save(str(folder / "model_0.pt"))
    (folder / "run.json").write_text(content, encoding="utf-8")
    assert find("latest", tmp_path, agent=IDENTITY["agent"]) == folder / "model_0.pt"
    assert find("latest", tmp_path, agent=IDENTITY["agent"], seed=0) == older / "model_10.pt"
    assert f"{folder / 'run.json'}: is damaged" in said.text


@pytest.mark.parametrize("content", [b"", b"half", bytes(1000)])
@pytest.mark.parametrize("name", ["latest", "best", "folder"])
def test_a_damaged_newest_checkpoint_makes_way_for_the_newest_whole_one(name, content, said, tmp_path):
    run = a_run(tmp_path)
    for damaged in ("model_10.pt", "best.pt"):
        (run / damaged).write_bytes(content)
    asked = str(run) if name == "folder" else name
    assert find(asked, tmp_path) == run / "model_9.pt"
    assert f"{run / 'model_10.pt'}: not a checkpoint, or damaged" in said.text


def test_an_older_run_is_taken_where_all_of_the_newest_are_damaged(tmp_path):
    older, newer = a_run(tmp_path), a_run(tmp_path, checkpoints=("model_0.pt",))
    (newer / "model_0.pt").write_bytes(b"")
    assert find("latest", tmp_path) == older / "model_10.pt"
    with pytest.raises(
        CheckpointError, match="all 1 checkpoints are damaged; train again without --checkpoint"
    ):
        find(str(newer), tmp_path)


def test_the_run_of_another_library_is_not_called_damaged(said, tmp_path):
    run = a_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"model_10.pt: .*; it is rsl_rl's: pass --rl_library rsl_rl"):
        run_folders.find_named_checkpoint(str(run), "skrl")
    assert not said.text


class Clock(datetime.datetime):
    """A clock that is set."""

    said = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.said.astimezone(tz)


@pytest.mark.parametrize("set_back", [datetime.timedelta(0), datetime.timedelta(days=40)])
def test_the_newest_run_is_the_one_that_was_made_last_whatever_the_clock_says(
    set_back, tmp_path, monkeypatch
):
    folders = []
    monkeypatch.setattr(run_folders.datetime, "datetime", Clock)
    for back in range(3):
        monkeypatch.setattr(Clock, "said", Clock.said - back * set_back)
        folders.append(a_run(tmp_path))
        os.utime(folders[-1] / "run.json", (10**9 - back, 10**9 - back))
        assert find("latest", tmp_path) == folders[-1] / "model_10.pt"
    # Isaac Lab's command line takes the greatest of these times, too
    times = [json.loads((folder / "run.json").read_text())["created_at"] for folder in folders]
    assert times == sorted(set(times), key=datetime.datetime.fromisoformat)


MANIFESTS = {
    "a list as seed": ("seed", [0]),
    "a truth as seed": ("seed", True),
    "a seed below 0": ("seed", -1),
    "a list as task": ("task", ["Isaac-Point"]),
    "a list as metadata": ("metadata", [1]),
    "a mapping as agent": ("metadata", {"agent": {}}),
    "a number as time": ("created_at", 3),
    "no time": ("created_at", "yesterday"),
    "the end of time": ("created_at", "9999-12-31T23:59:59.999999+00:00"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_with_a_value_of_another_kind_is_damaged(case, said, tmp_path):
    key, value = MANIFESTS[case]
    older, newer = a_run(tmp_path), a_run(tmp_path)
    manifest = json.loads((newer / "run.json").read_text())
    (newer / "run.json").write_text(json.dumps({**manifest, key: value}))
    assert find("latest", tmp_path, seed=0) == older / "model_10.pt"
    assert f"{newer / 'run.json'}: is damaged" in said.text
    last = a_run(tmp_path)
    assert find("latest", tmp_path) == last / "model_10.pt", "a run can be made beside it"


def test_a_manifest_that_is_a_pipe_is_damaged_and_waits_for_nobody(said, tmp_path):
    older, newer = a_run(tmp_path), a_run(tmp_path)
    (newer / "run.json").unlink()
    os.mkfifo(newer / "run.json")
    assert find("latest", tmp_path) == older / "model_10.pt"
    assert f"{newer / 'run.json'}: is damaged" in said.text


NAMES = ["../x", "a/b", "/absolute", ".", "..", ".hidden", "-flag", "a b", "new\nline", "nul\0", "x" * 101]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["--run_name", "--experiment_name"])
def test_a_run_lies_in_a_plain_folder_below_the_log_root(flag, name, tmp_path):
    names = {"--run_name": "", "--experiment_name": "point", flag: name}
    with pytest.raises(UserError, match=f"{flag} .*must be a plain folder name: letters, digits and"):
        run_folders.create_run_folder(
            tmp_path, names["--experiment_name"], names["--run_name"], "Isaac-Point", "lif"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["v1.2", "lr=1e-3", "größer", "_a", "2025-01-01_x+y"])
def test_plain_names_are_taken(name, tmp_path):
    assert run_folders.create_run_folder(tmp_path, name, name, "Isaac-Point", "lif").name.endswith(f"_{name}")
