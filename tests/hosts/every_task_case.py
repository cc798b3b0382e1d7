"""One iteration of every registered task: ``python -m tests.hosts.every_task_case FOLDER [PATTERN]``; a line of JSON for each.

Isaac Lab is imported once, and every task runs in a process forked from this one, for a process holds one simulation.
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from spiky_rl.cli import common, train
from spiky_rl.hosts.isaaclab.assets import configure_assets

PATIENCE = 1800
"""Seconds after which a task counts as one that hangs: many, for the machine may be busy."""
SIZES = "--device cpu --assets local --num_envs 4 --max_iterations 1 --seed 1".split()


def registered(pattern):
    """The tasks with an rsl_rl configuration, as the registry has them."""
    configure_assets("local")
    import gymnasium
    import isaaclab_rl.rsl_rl  # noqa: F401
    import isaaclab_tasks  # noqa: F401  # registers the tasks
    from isaaclab.cli import load_external_tasks

    load_external_tasks()
    found = [
        name
        for name, spec in gymnasium.registry.items()
        if {"env_cfg_entry_point", "rsl_rl_cfg_entry_point"} <= set(spec.kwargs) and re.search(pattern, name)
    ]
    return sorted(found)


def attempt(task, folder):
    """Run the command in a child process: its exit code, None where it had to be ended, and what it wrote."""
    start, name = time.monotonic(), folder / task
    child = os.fork()
    if child == 0:
        for stream, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        code = 70
        try:
            argv = ["--task", task, "--agent", "mlp_ppo", *SIZES, "--log_root", f"{name}.logs"]
            code = common.run(train.train, argv)
        except SystemExit as error:
            code = error.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 70)
    while time.monotonic() < start + PATIENCE:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.2)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        code = None
    return {
        "task": task,
        "code": code,
        "seconds": round(time.monotonic() - start, 1),
        "error": Path(f"{name}.err").read_text(errors="replace"),
    }


def main(folder, pattern=""):
    for task in registered(pattern):
        print("RESULT" + json.dumps(attempt(task, Path(folder))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
