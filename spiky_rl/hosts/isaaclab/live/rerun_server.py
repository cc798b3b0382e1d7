"""rerun's server as a separate process that listens only on this machine; rerun's library would listen on all interfaces."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from spiky_rl.config.errors import format_install_command
from spiky_rl.hosts.isaaclab.camera import GraphicsError

START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 10.0
START = "import os, sys; from spiky_rl.learners.common.processes import die_with_parent; die_with_parent(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
"""Code that starts rerun's program so that it ends with this process."""


class RerunServer:
    """Server that stores a run's data and serves rerun's page."""

    def __init__(self, address: str, data_port: int, page_port: int) -> None:
        """Start a server at ``address`` with ports for data and page, and wait until it listens.

        Raises GraphicsError if the server does not start.
        """
        line = [str(_find_program()), "--serve-web", "--bind", address]
        line += ["--port", str(data_port), "--web-viewer-port", str(page_port)]
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with  # `close` ends it
            [sys.executable, "-c", START, str(os.getpid()), *line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(_is_open(address, port) for port in (data_port, page_port)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise GraphicsError(
                    f"--visualizer rerun: its server did not start (exit code {self.process.returncode}); use viser"
                )
            time.sleep(0.1)

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _find_program() -> Path:
    """Return the path of the program in rerun's package. Raises GraphicsError if it is missing."""
    spec = importlib.util.find_spec("rerun_cli")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or []:
        if (path := Path(folder) / "rerun").is_file():
            return path
    raise GraphicsError(
        f"--visualizer rerun: its program is not installed; install it {format_install_command('.[live]')}"
    )


def _is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0
