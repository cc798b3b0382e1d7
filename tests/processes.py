"""Commands in processes of their own that need not import Isaac Lab: ten seconds less for each.

A fork server imports once what the commands import, and starts nothing; a command is a fork of it with arguments, folder,
environment and output of its own. What happens before those imports (a shell's variables, signals while they last, another
package's folder on the path) needs ``subprocess``; so does whatever is watched while it runs.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = [
    *("spiky_rl.cli.train", "spiky_rl.cli.play", "spiky_rl.cli.evaluate", "torch.utils.tensorboard"),
    *("isaaclab_tasks", "isaaclab.envs", "isaaclab_newton.physics", "newton", "mujoco_warp"),
    *("spiky_rl.hosts.isaaclab.environment", "spiky_rl.hosts.rsl_rl.runner", "spiky_rl.hosts.skrl.runner"),
]
"""What is not installed is passed over."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(IMPORTED)


def run(*line: object, cwd: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess:
    """What ``python FILE ARGUMENTS`` or ``python -m MODULE ARGUMENTS`` does; a test's own time limit ends it, too."""
    arguments = [str(part) for part in line]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = _server.Process(target=_fork, args=(arguments, str(cwd), dict(os.environ), streams))
        process.start()
        try:
            process.join()
        finally:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(
            arguments, process.exitcode, *(stream.read_text() for stream in streams[1:])
        )


def _fork(arguments: list[str], cwd: str, environment: dict[str, str], streams: list[Path]) -> None:
    """The whole life of a fork; multiprocessing turns what is raised into the exit code and a traceback."""
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR | os.O_CREAT | os.O_APPEND * (number > 0)), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # else a fork leaves them out
