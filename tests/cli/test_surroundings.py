"""What surrounds a command: streams, signals, a batch job's variables, folders that cannot be written, no git, no home."""

import contextlib
import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spiky_rl.cli import common
from spiky_rl.config.registry import UserError
from spiky_rl.experiments.run import cell_worker, cells
from spiky_rl.learners.common import processes
from spiky_rl.run import command
from spiky_rl.run.command import handle_stop_signals, start_simulation

ROOT = Path(__file__).parents[2]
SHOW = [sys.executable, str(ROOT / "scripts" / "show.py")]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def shell(line: str, **more: str) -> subprocess.CompletedProcess:
    """Run a shell's line in which ``$RUN`` is a Python that has our package."""
    settings = {**HERE, "RUN": sys.executable, **more}
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=settings, capture_output=True, check=False, timeout=800
    )


def lines(done: subprocess.CompletedProcess) -> list[str]:
    return done.stderr.decode().splitlines()


SPEAK = """
import sys
from spiky_rl.cli import common
from spiky_rl.config.registry import UserError

def speak(argv):
    print("5.0 \\u00b1 0.1 \\u2581\\u2588 \\U0001f916")
    if argv:
        raise UserError("agent: 'l\\u00ebf' is unknown")
    return 0

raise SystemExit(common.run(speak))
"""


LEAVE = """
import sys
from spiky_rl.cli import common

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected", flush=True)

held = Garbage()
command = common.run if sys.argv[1:] else lambda function: function([])
raise SystemExit(command(lambda argv: 0))
"""


@pytest.mark.parametrize("arguments, printed", [([], "collected\n"), (["run"], "")])
def test_a_command_leaves_without_a_search_for_garbage(arguments, printed):
    line = [sys.executable, "-c", LEAVE, *arguments]
    done = subprocess.run(line, env=HERE, capture_output=True, text=True, check=True)
    assert done.stdout == printed


SLOW = [pytest.param(encoding, marks=pytest.mark.slow) for encoding in ("latin-1", "cp437")]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "ascii:strict", *SLOW])
def test_a_terminal_without_our_characters_shows_others_in_their_place(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SPEAK],
        env={**HERE, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"5.0 ") and done.stdout.count(b" ") == 4
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, "fail"], env={**HERE, "PYTHONIOENCODING": encoding}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (
        done.returncode == 2 and done.stderr.startswith(b"error: agent: 'l") and done.stderr.count(b"\n") == 1
    )


STREAMS = {
    "output to a full disk": (
        '"$RUN" scripts/show.py neurons > /dev/full',
        1,
        ["cannot write: No space left"],
    ),
    "closed output": ('"$RUN" scripts/show.py neurons >&-', 0, []),
    "closed errors": ('"$RUN" scripts/show.py nuerons 2>&-', 2, []),
    "all closed": ('"$RUN" scripts/show.py neurons <&- >&- 2>&-', 0, []),
    "a refusal with closed output": ('"$RUN" scripts/show.py nuerons >&-', 2, ["'nuerons'", "neurons"]),
    "a reader that has enough": (
        '"$RUN" scripts/show.py neurons | true; exit ${PIPESTATUS[0]}',
        (0, 141),
        [],
    ),
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_takes_nothing_ends_in_one_line_at_most(case):
    line, code, words = STREAMS[case]
    done = shell(line)
    assert done.returncode == code or done.returncode in (code if isinstance(code, tuple) else ())
    assert len(lines(done)) == bool(words)
    assert all(word in lines(done)[0] for word in words)


def test_what_is_opened_never_gets_the_number_of_a_closed_stream(tmp_path):
    """Else what a library prints lands in a file of ours."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nfrom spiky_rl.cli import common\n"
        f"def command(argv):\n    file = open({str(tmp_path / 'data')!r}, 'w')\n"
        "    os.write(1, b'chatter')\n    return 0 if file.fileno() > 2 else 5\n"
        "raise SystemExit(common.run(command))\n"
    )
    assert shell(f'"$RUN" {script} <&- >&- 2>&-').returncode == 0
    assert (tmp_path / "data").read_text() == ""


FAILURES = {
    errno.EACCES: 2, errno.EPERM: 2, errno.EEXIST: 2, errno.EROFS: 2, errno.ENOTDIR: 2, errno.EISDIR: 2, errno.ENAMETOOLONG: 2,
    errno.ENOSPC: 1, errno.EDQUOT: 1, errno.EFBIG: 1, errno.EIO: 1,
}  # fmt: skip


@pytest.mark.parametrize("number", FAILURES)
def test_what_the_system_refuses_is_one_line_with_the_file(number, capsys):
    def command(argv):
        raise OSError(number, os.strerror(number), "/some/file")

    assert common.run(command, []) == FAILURES[number]
    assert capsys.readouterr().err == f"error: /some/file: {os.strerror(number)}\n"


def test_an_error_that_may_be_our_own_is_not_hidden():
    def command(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/ours")

    with pytest.raises(FileNotFoundError):
        common.run(command, [])


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, 0), (errno.ENOENT, 1)])
def test_a_full_disk_in_a_writers_thread_is_told_once(number, said, capsys):
    def write():
        raise OSError(number, os.strerror(number))

    before = threading.excepthook
    try:
        command.prepare_libraries()
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    assert capsys.readouterr().err.count("Traceback") == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_asks_and_a_second_stops_at_once(number, monkeypatch):
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), handle_stop_signals("stopping") as asked:
        assert not asked() and asked.exit_code == 0
        os.kill(os.getpid(), number)
        assert asked() and asked.exit_code == 128 + number
        os.kill(os.getpid(), number)
        raise AssertionError("the second one stops")
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_second_signal_stops_has_the_exit_code_of_the_first(number, capsys):
    def command(_):
        with handle_stop_signals("stopping"):
            for sent in (number, signal.SIGINT):
                os.kill(os.getpid(), sent)
        return 0

    signal.signal(number, signal.SIG_DFL)
    assert common.run(command, []) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_while_a_simulation_starts_ends_the_command_once_it_has_and_closes_it():
    steps = []

    @contextlib.contextmanager
    def simulation():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # as libraries do that are loaded meanwhile
            steps.append("lost")
        steps.append("started")
        try:
            yield
        finally:
            steps.append("closed")

    with pytest.raises(KeyboardInterrupt), start_simulation(simulation()):
        steps.append("played")
    assert steps == ["started", "closed"]


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handle_stop_signals("stopping") as asked:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not asked()


HANGUP = """
import sys, time
from spiky_rl.cli import common
from spiky_rl.run.command import handle_stop_signals

def command(argv):
    with handle_stop_signals("stopping") as asked:
        print("ready", flush=True)
        while not asked():
            time.sleep(0.01)
        print("to a terminal that is gone", flush=True)
    open(argv[0], "w").write("saved")
    return asked.exit_code

raise SystemExit(common.run(command))
"""


def test_a_terminal_that_hangs_up_ends_a_command_in_good_order(tmp_path):
    ours, theirs = os.openpty()

    def begin():
        os.login_tty(theirs)
        # who runs the tests may ignore it, and a process inherits that
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with subprocess.Popen(
        [sys.executable, "-c", HANGUP, str(tmp_path / "file")], env=HERE, start_new_session=True,
        preexec_fn=begin,
    ) as process:  # fmt: skip
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.close(ours)
        assert process.wait(800) == 128 + signal.SIGHUP
    assert (tmp_path / "file").read_text() == "saved"


@pytest.mark.parametrize("code", [129, 130, 143])
def test_a_step_of_a_cell_that_was_stopped_by_itself_goes_on_another_time(code, tmp_path):
    with cells.lock_cell(tmp_path) as lock, pytest.raises(cell_worker.StepInterrupted):
        cell_worker.run_step(
            "training", [sys.executable, "-c", f"raise SystemExit({code})"], tmp_path, lock, []
        )


TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
TORCHRUN |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def with_variables(monkeypatch, variables):
    for key in TORCHRUN:
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)


STALE = [
    {"WORLD_SIZE": "4"},
    {"WORLD_SIZE": "4", "RANK": "2"},
    {"RANK": "3"},
    {"WORLD_SIZE": "many"},
    TORCHRUN,
]


@pytest.mark.parametrize("variables", STALE, ids=str)
def test_what_a_batch_job_left_is_taken_from_a_process_that_runs_alone(variables, monkeypatch, caplog):
    caplog.set_level("INFO")
    with_variables(monkeypatch, variables)
    processes.setup_distributed_env(distributed=False)
    assert not [key for key in processes.RANK_VARIABLES if key in os.environ]
    assert re.search("ignored, because --distributed is not given", caplog.text)


def test_a_process_alone_in_its_job_is_told_nothing(monkeypatch, caplog):
    caplog.set_level("INFO")
    with_variables(monkeypatch, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"})
    processes.setup_distributed_env(distributed=False)
    assert caplog.text == ""


UNSETTLED = {
    "nothing": (dict.fromkeys(TORCHRUN), "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
    "no local rank": ({"LOCAL_RANK": None}, "LOCAL_RANK not set; start the processes with torchrun"),
    "no rank": ({"RANK": None}, "RANK not set"),
    "no address": ({"MASTER_ADDR": None}, "MASTER_ADDR not set"),
    "text": ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a whole number"),
    "negative": ({"RANK": "-1"}, "RANK='-1': expected a whole number"),
    "rank too high": ({"RANK": "2"}, "RANK=2: must be below WORLD_SIZE=2"),
    "no processes": ({"WORLD_SIZE": "0"}, "must be below WORLD_SIZE=0"),
}


@pytest.mark.parametrize("case", UNSETTLED)
def test_a_distributed_run_names_what_torchrun_did_not_set(case, monkeypatch):
    change, message = UNSETTLED[case]
    variables = {key: value for key, value in {**TORCHRUN, **change}.items() if value is not None}
    with_variables(monkeypatch, variables)
    with pytest.raises(UserError, match=f"--distributed: .*{re.escape(message)}"):
        processes.setup_distributed_env(distributed=True)


@pytest.mark.skipif(importlib.util.find_spec("git") is None, reason="GitPython is not installed")
@pytest.mark.parametrize("prepared", [True, False])
def test_what_rsl_rls_logger_imports_needs_a_git_that_runs_only_where_nothing_is_prepared(prepared, tmp_path):
    code = "from spiky_rl.run import command; command.prepare_libraries(); import git"
    line = [sys.executable, "-c", code if prepared else "import git"]
    environment = {key: value for key, value in HERE.items() if key != "GIT_PYTHON_REFRESH"}
    done = subprocess.run(line, env={**environment, "PATH": str(tmp_path)}, capture_output=True, check=False)
    assert (done.returncode == 0) == prepared, done.stderr[-2000:]


@pytest.mark.skipif(importlib.util.find_spec("newton") is None, reason="Newton is not installed")
@pytest.mark.parametrize("cause", ["a file in the folder's place", "no home"])
def test_robots_that_cannot_be_written_are_refused_with_what_to_set(cause, tmp_path, monkeypatch):
    from spiky_rl.hosts.isaaclab.assets import AssetError, get_local_asset_root

    (tmp_path / "file").touch()
    if cause == "no home":
        for key in ("SPIKY_RL_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(key, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # whom no password file knows
    else:
        monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(AssetError, match="cannot write robots.*; set SPIKY_RL_CACHE"):
        get_local_asset_root()


@pytest.mark.skipif(importlib.util.find_spec("newton") is None, reason="Newton is not installed")
def test_a_full_disk_is_named_without_a_file():
    from spiky_rl.hosts.isaaclab.assets import AssetError, explain_write_errors

    with pytest.raises(AssetError, match="cannot write robots: No space left"), explain_write_errors():
        raise OSError(errno.ENOSPC, "No space left on device")
