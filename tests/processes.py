"""Commands in processes of their own that need not import Isaac Lab: ten seconds less for each.

A fork server imports once what the commands import, and starts nothing; a command is a fork of it with arguments, folder,
environment, output and signals of its own. What happens before those imports (a shell's variables, signals while they last)
needs ``subprocess``.
"""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
IMPORTED = [
    *("spiky_rl.cli.train", "spiky_rl.cli.play", "spiky_rl.cli.evaluate", "torch.utils.tensorboard"),
    *("isaaclab_tasks", "isaaclab.envs", "isaaclab_newton.physics", "newton", "mujoco_warp"),
    *("isaaclab.envs.manager_based_rl_env", "isaaclab_rl.entrypoints.common"),
    *("isaaclab_newton.assets.articulation.articulation", "isaaclab_newton.physics.mjwarp_manager"),
    *(
        "isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg",
        "isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg",
    ),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "rich.live"),
    *("spiky_rl.hosts.isaaclab.environment", "isaaclab_mujoco.solver"),
    *("spiky_rl.run.train", "spiky_rl.run.play", "spiky_rl.run.evaluate"),
    *("spiky_rl.hosts.isaaclab.agents", "spiky_rl.learners.rsl_rl.runner", "spiky_rl.learners.skrl.runner"),
]
"""What is not installed is passed over."""
PATIENCE = 800.0
"""Seconds in which a command has to get somewhere: for what hangs, not for a busy machine."""

Value = TypeVar("Value")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(IMPORTED)


class Command:
    """What ``python FILE ARGUMENTS`` or ``python -m MODULE ARGUMENTS`` does, at work; it is killed where its block ends."""

    def __init__(
        self,
        *line: object,
        cwd: Path = ROOT,
        stdin: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """``variables``: of the environment, beside those of this process."""
        self.arguments = [str(part) for part in line]
        self._folder = tempfile.TemporaryDirectory()  # pylint: disable=consider-using-with
        self._streams = [Path(self._folder.name) / name for name in ("stdin", "stdout", "stderr")]
        self._streams[0].write_text(stdin)
        for stream in self._streams[1:]:
            stream.touch()
        self._process = _server.Process(
            target=_fork, args=(self.arguments, str(cwd), {**os.environ, **(variables or {})}, self._streams)
        )

    def __enter__(self) -> Command:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """End it as no command can prevent."""
        self._process.kill()
        self._process.join()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def said(self) -> str:
        """Both of its streams, so far."""
        return "".join(stream.read_text() for stream in self._streams[1:])

    def until(self, condition: Callable[[], Value]) -> Value:
        """Wait until ``condition`` is true of what it does, and return what that gives."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert self._process.is_alive(), self.said()
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {self.said()}"
            time.sleep(0.05)
        return value

    def finished(self) -> subprocess.CompletedProcess:
        """How it ended; a test's own time limit ends it, too."""
        self._process.join()
        texts = [stream.read_text() for stream in self._streams[1:]]
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, *texts)


def run(*line: object, cwd: Path = ROOT, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    """A `Command` from its start to its end."""
    with Command(*line, cwd=cwd, stdin=stdin, variables=variables) as command:
        return command.finished()


def run_case(name: str, *arguments: object) -> dict[str, Any]:
    """Run the module ``tests.hosts.NAME_case``, which has a process for the one simulation that it holds; return what it found."""
    done = run("-m", f"tests.hosts.{name}_case", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("RESULT")[2])


def _fork(arguments: list[str], cwd: str, environment: dict[str, str], streams: list[Path]) -> None:
    """The whole life of a fork; multiprocessing turns what is raised into the exit code and a traceback."""
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR | os.O_CREAT | os.O_APPEND * (number > 0)), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [
        path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)
    ]
    gc.freeze()  # what was imported is not looked through again
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # who runs the tests may ignore them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # else a fork leaves them out
