"""Python in a process of its own: a process holds one simulation, and Isaac Lab reads some settings only once."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"


def run(*line, cwd=None, **variables):
    """Run ``python LINE`` with the package and further environment ``variables``."""
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    command = [sys.executable, *map(str, line)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
