"""A cell's steps run as processes that end with it; what fails leaves its last words, what is interrupted goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiky_rl import files
from spiky_rl.experiments import cells, work
from spiky_rl.experiments.work import Failed, Interrupted

PATIENCE = 30.0
"""Seconds."""


def run(folder: Path, code: str, asked=()) -> None:
    with cells.locked(folder) as lock:
        work.step("test", [sys.executable, "-c", code], folder, lock, list(asked))


def test_a_step_writes_what_it_says_into_the_log(tmp_path):
    run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    said = (tmp_path / "log.txt").read_text()
    assert "out\n" in said and "err\n" in said and sys.executable in said


def test_a_step_that_raises_is_reported_with_its_tracebacks_last_lines(tmp_path):
    run(tmp_path, "print('an earlier step')")
    with pytest.raises(Failed) as failure:
        run(tmp_path, "for i in range(100): print('line', i)\nraise ValueError('the reason')")
    lines = str(failure.value).splitlines()
    assert lines[0] == "the test ended with exit code 1"
    assert lines[-1] == "ValueError: the reason"
    assert "an earlier step" not in str(failure.value)
    assert len(lines) == 2 + work.TAIL


def test_a_step_that_is_killed_says_by_which_signal(tmp_path):
    with pytest.raises(Failed, match="signal SIGKILL"):
        run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_a_step_is_not_begun_when_a_stop_was_asked_for(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, "print('never')", [signal.SIGINT])
    assert not (tmp_path / "log.txt").exists()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_command_takes_its_cells_and_their_steps_with_it(tmp_path):
    """Three generations, as compare.py, a cell and its training are: the first is killed."""
    generation = (
        "import subprocess, sys, time, os\n"
        "from spiky_rl.experiments.work import end_with\n"
        "depth, parent = int(sys.argv[1]), int(sys.argv[2])\n"
        "end_with(parent)\n"
        "if depth: subprocess.Popen([sys.executable, __file__, str(depth - 1), str(os.getpid())])\n"
        f"open(os.path.join({str(tmp_path)!r}, str(depth)), 'w').write(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    script = tmp_path / "generation.py"
    script.write_text(generation)
    process = subprocess.Popen([sys.executable, str(script), "2", str(os.getpid())])
    until(lambda: all((tmp_path / str(i)).exists() and (tmp_path / str(i)).read_text() for i in range(3)))
    pids = [int((tmp_path / str(i)).read_text()) for i in range(3)]
    assert all(alive(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(alive(pid) for pid in pids))


def a_cell(folder: Path, **more) -> Path:
    """A cell whose training fails at once, on a bad argument."""
    own = {"hash": "a" * 16, "train": ["--task", "cartpole", "--agent", "lif_poo"], "processes": 1, **more}
    files.write_json(folder / "cell.json", own)
    return folder


def worked(folder: Path) -> int:
    command = [
        sys.executable,
        "-m",
        "spiky_rl.experiments.work",
        str(folder),
        str(folder.parent),
        str(os.getpid()),
    ]
    return subprocess.run(command, check=False, timeout=120).returncode


def test_a_finished_cell_is_left_alone(tmp_path):
    folder = a_cell(tmp_path / "cell")
    files.write_json(folder / "result.json", {"hash": "a" * 16})
    before = sorted(path.name for path in folder.iterdir())
    assert worked(folder) == work.FINISHED
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "lock"])


def test_a_cell_whose_parent_ended_before_it_could_say_so_does_nothing(tmp_path):
    folder = a_cell(tmp_path / "cell")
    command = [sys.executable, "-m", "spiky_rl.experiments.work", str(folder), str(tmp_path), "1"]
    assert subprocess.run(command, check=False, timeout=120).returncode == work.INTERRUPTED
    assert [path.name for path in folder.iterdir()] == ["cell.json"]


def test_a_cell_that_fails_leaves_an_error_with_the_reason_and_keeps_a_corrupt_result(tmp_path):
    folder = a_cell(tmp_path / "cell")
    (folder / "result.json").write_text("{")
    assert worked(folder) == work.FAILED
    text = (folder / "error.txt").read_text()
    assert text.startswith("the training ended with exit code 2") and "mean 'lif_ppo'" in text
    assert (folder / "result.corrupt.json").read_text() == "{"
    assert not (folder / "result.json").exists()


def test_a_training_that_ended_before_is_not_run_again(tmp_path):
    folder = a_cell(tmp_path / "cell", evaluate=["--task", "cartpole", "--agent", "lif_poo"])
    run_folder = folder / "run" / "rsl_rl" / "cartpole" / "first"
    files.write_json(run_folder / "result.json", {"outcome": "finished"})
    assert worked(folder) == work.FAILED
    assert (folder / "error.txt").read_text().startswith("the evaluation ended with exit code 2")
    assert json.loads((folder / "cell.json").read_text())["train"]
    assert " train " not in (folder / "log.txt").read_text()
