"""Files are whole or absent, on the disk before they are in place, and what killed writers left goes away."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiky_rl.config import files
from spiky_rl.config.options import UserError

ROOT = Path(__file__).parents[1]
WRITER = """
import pathlib, sys, time
from spiky_rl.config import files

def fill(beside):
    beside.write_text("half")
    print("writing", flush=True)
    time.sleep(600)

files.write_atomically(pathlib.Path(sys.argv[1]), fill)
"""


def writer(path: Path) -> subprocess.Popen:
    """A process that is in the middle of writing ``path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_is_removed_and_a_living_writers_file_is_not(tmp_path):
    killed, living = writer(tmp_path / "killed"), writer(tmp_path / "living")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path)) == 2
    files.write_json(tmp_path / "another", {})
    left = names(tmp_path)
    living.kill()
    living.communicate()
    assert len(left) == 2 and left[0].startswith(".living.") and left[1] == "another"


@pytest.mark.parametrize(("age", "stays"), [(1.0, True), (2 * files.ABANDONED_AGE_S, False)])
@pytest.mark.parametrize("where", ["0123abcd-", ""], ids=["another machine", "an older version"])
def test_a_leftover_of_a_writer_elsewhere_goes_after_a_day(where, age, stays, tmp_path):
    left = tmp_path / f".model_3.pt.{where}{os.getpid()}-01234567.part"
    left.touch()
    os.utime(left, (time.time() - age, time.time() - age))
    files.remove_leftovers(tmp_path)
    assert left.exists() == stays


@pytest.mark.parametrize(
    "name",
    [
        *(".film.part", ".a.1-2.part", "x.0123abcd-1-01234567.part", ".x.1-zzzzzzzz.part"),
        f".x.{files.get_process_namespace()}-{2**63}-01234567.part",
    ],
)
def test_files_of_other_programs_are_left_alone(name, tmp_path):
    other = tmp_path / name
    other.touch()
    os.utime(other, (0, 0))
    files.remove_leftovers(tmp_path)
    assert other.exists()


def test_a_file_is_on_the_disk_before_it_is_in_place_and_its_name_is_after(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix))
        sync(descriptor)

    def move(source, target):
        events.append(("move", Path(target).suffix))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    files.write_json(tmp_path / "a.json", {})
    assert events == [("sync", ".part"), ("move", ".json"), ("sync", "")]
    events.clear()
    files.write_json(tmp_path / "b.json", {}, durable=False)
    assert events == [("move", ".json")]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    def full(beside):
        beside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as caught:
        files.write_atomically(tmp_path / "model.pt", full)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model.pt"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        files.write_atomically(tmp_path / "file" / "below" / "x", Path.touch)
    assert str(tmp_path / "file") in caught.value.filename
    assert names(tmp_path) == ["file"]


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for key in ("SPIKY_RL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # whom no password file knows
    with pytest.raises(files.UserError, match="no home folder; set SPIKY_RL_CACHE"):
        files.cache_folder()


OLDER = {"a": "older a", "c": "older c", "below/d": "older d", "stale": "older"}


@pytest.fixture(name="folder")
def a_folder_of_older_files(tmp_path):
    for name, text in OLDER.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def fill(aside):
    for name in ("a", "b", "below/d"):
        (aside / name).parent.mkdir(exist_ok=True)
        (aside / name).write_text(f"new {name}")


def test_files_that_belong_together_are_moved_together(folder):
    with files.stage_files(folder, ["stale", "b", "never"]) as aside:
        fill(aside)
        assert contents(folder).items() >= OLDER.items(), "nothing moves before the block ends"
    assert contents(folder) == {"a": "new a", "b": "new b", "c": "older c", "below/d": "new below/d"}
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    "error", [UserError("{}/b: is wrong"), OSError(errno.ENOSPC, "No space left on device", "{}/b")]
)
def test_a_block_that_fails_moves_nothing_and_names_the_places_that_its_files_would_have_had(folder, error):
    with pytest.raises(type(error)) as caught, files.stage_files(folder, ["stale"]) as aside:
        fill(aside)
        error.args = tuple(str(part).format(aside) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, OSError):
            error.filename = str(aside / "b")
        raise error
    assert str(folder / "b") in str(caught.value)
    assert contents(folder) == OLDER and not list(folder.rglob("*.part"))


def test_a_file_that_cannot_be_moved_takes_back_those_that_were(folder):
    (folder / "stale").unlink()
    (folder / "stale").mkdir()
    (folder / "stale" / "in").touch()
    before = contents(folder)
    with pytest.raises(IsADirectoryError) as caught, files.stage_files(folder, ["stale"]) as aside:
        fill(aside)
    assert str(folder / "stale") in str(caught.value)
    assert contents(folder) == before and not list(folder.rglob("*.part"))


def test_a_move_that_is_interrupted_takes_back_those_that_were_moved(folder, monkeypatch):
    replace, calls = os.replace, []

    def interrupt_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", interrupt_second)
    with pytest.raises(KeyboardInterrupt), files.stage_files(folder, ["stale"]) as aside:
        fill(aside)
    assert contents(folder) == OLDER and len(calls) > 2 and not list(folder.rglob("*.part"))


def test_what_a_killed_writer_of_several_files_left_goes_with_the_next(folder):
    left = folder / f".files.{files.get_process_namespace()}-{2**22 + 1}-01234567.part"
    (left / "new").mkdir(parents=True)
    (left / "new" / "a").touch()
    with files.stage_files(folder):
        pass
    assert contents(folder) == OLDER and not left.exists()
