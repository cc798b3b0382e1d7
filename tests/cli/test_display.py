"""The bar of commands at work: on a terminal's stderr alone, a line now and then elsewhere, nothing of it on stdout."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from spiky_rl.cli import common, display
from spiky_rl.cli.display import DisplayRow, ProgressBar, TrainingDisplay

ROOT = Path(__file__).parents[2]
WORK = """
import sys, time
from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
common.setup_logging(verbose=False)
with ProgressBar("playing", "16 episodes") as bar:
    for i in range(10):
        if i == 5:
            sys.stdin.read()  # half of it stays until it has been seen
        time.sleep(0.05)
        bar((i + 1) / 10)
        if i == 4:
            common.log.info("half of it")
print("the answer")
"""


def test_on_a_terminal_a_bar_stands_on_stderr_and_messages_above_it():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", WORK],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        assert process.stdin is not None and process.stdout is not None
        seen = b""
        while True:
            try:
                seen += os.read(ours, 65536)
                if b"50%" in seen:
                    process.stdin.close()
            except OSError:  # the terminal's other end is closed
                break
        stdout = process.stdout.read()
        process.wait(60)
    os.close(ours)
    assert process.returncode == 0
    assert stdout == b"the answer\n"
    text = seen.decode()
    assert "playing" in text and "50%" in text and "16 episodes" in text
    assert "half of it\r\n" in text, "on a line of its own"


@pytest.fixture
def logged(monkeypatch):
    """What goes to stderr, a line each, while stderr is no terminal."""
    common.setup_logging(verbose=False)
    lines = []
    monkeypatch.setattr(common.log.handlers[0], "emit", lambda record: lines.append(record.getMessage()))
    return lines


def test_without_a_terminal_short_work_is_silent(logged, capsys):
    with ProgressBar("playing") as bar:
        for i in range(100):
            bar(i / 100)
    assert logged == [] and capsys.readouterr() == ("", "")


def test_without_a_terminal_long_work_says_now_and_then_how_far_it_is(logged, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    with ProgressBar("playing", "16 episodes") as bar:
        for i in range(1, 11):
            now = 10.0 * i
            bar(i / 10)
    assert logged[0] == "playing: 40 %, 0:01:00 left  16 episodes"
    assert len(logged) == 2 and capsys.readouterr().out == ""


def test_a_line_fits_and_leaves_out_the_last_rows_first():
    rows = [
        DisplayRow("iteration", " 1/1000"),
        DisplayRow("return", "1.5", "a curve"),
        DisplayRow("length", "1000.00", line="length 1000"),
        DisplayRow("speed", "x" * 60),
        DisplayRow("operations", "12"),
    ]
    line = display.format_line(rows, "0:00:05 left")
    assert line == "iteration  1/1000  return 1.5  length 1000  operations 12  0:00:05 left"
    assert display.format_line(rows[:2], "left").endswith("return 1.5  left")


def test_a_share_that_is_almost_none_leaves_a_time_that_can_be_shown(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    with TrainingDisplay("training") as shown:
        now = 86_500.0  # a day
        shown.show(8.6e-12, [DisplayRow("iteration", "1")])
    assert capsys.readouterr().out == "iteration 1  999999999 days, 0:00:00 left\n"
