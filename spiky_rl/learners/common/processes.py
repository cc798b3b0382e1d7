"""The processes of a distributed run, as torchrun tells each of them in its environment."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from spiky_rl.config.registry import UserError

log = logging.getLogger(__name__)

NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
FLAG = "--processes"
STARTER = "SPIKY_RL_STARTER"
"""Variable with the number of the process that starts those of a distributed run, where it is one of ours: they end with it."""
LOST = 3
"""Exit code of a process whose parent has ended."""
START = "torchrun --standalone --nproc_per_node N scripts/train.py --distributed"


def launch_processes(device: str, count: int, arguments: Sequence[str]) -> None:
    """Become torchrun, which trains in several processes that share this one's CPU threads; does not return.

    Args:
        device: What they train on.
        count: How many there are.
        arguments: Those of ``train.py``, which are checked before.

    Raises:
        UserError: The device is none that processes share.
    """
    if device != "cpu":
        raise UserError(f"{FLAG} {count}: is for --device cpu, not {device}; use torchrun")
    import torch

    threads = max(1, torch.get_num_threads() // count)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    line = [*torchrun, "--module", "spiky_rl.cli", "train", "--distributed", *remove_flag(FLAG, arguments)]
    log.info("%d processes of %d threads, each with as many environments", count, threads)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    own = {
        "OMP_NUM_THREADS": str(threads),
        STARTER: str(os.getpid()),
    }  # torchrun is this process from here on
    os.execve(sys.executable, [sys.executable, *line], {**os.environ, **own})


def die_with_parent(parent: int) -> None:
    """Ask the kernel, Linux's, to kill this process when its parent ends, even if that is killed itself; it is ``parent``."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was too late to ask
        os._exit(LOST)


def remove_flag(flag: str, arguments: Sequence[str]) -> list[str]:
    """Arguments without a flag and its value."""
    found, skipped = [], False
    for argument in arguments:
        if not skipped and argument != flag and not argument.startswith(f"{flag}="):
            found.append(argument)
        skipped = not skipped and argument == flag
    return found


def setup_distributed_env(distributed: bool) -> None:
    """Check what torchrun sets, or take it away from a process that runs alone, before a library reads it.

    A batch job or another program's shell may have left it: rsl_rl and skrl would wait for processes that never come.
    A process of a distributed run that one of our commands started ends with torchrun, even if that is killed. Raises UserError.
    """
    if not distributed:
        left = [key for key in NUMBERS if os.environ.pop(key, None) not in (None, "1", "0")]
        if left:
            log.info("%s: set, but without --distributed this is a single process", ", ".join(left))
        return
    if (starter := os.environ.get(STARTER, "")).isdecimal():
        die_with_parent(int(starter))
    missing = [key for key in NUMBERS + ADDRESS if not os.environ.get(key)]
    if missing:
        raise UserError(f"--distributed: {', '.join(missing)} not set; start the processes with {START}")
    for key in NUMBERS:
        if not os.environ[key].isdecimal():
            raise UserError(
                f"--distributed: {key}={os.environ[key]!r} is no whole number; start with {START}"
            )
    processes = int(os.environ["WORLD_SIZE"])
    for key in NUMBERS[1:]:
        if int(os.environ[key]) >= processes:
            raise UserError(f"--distributed: {key}={os.environ[key]}: must be below WORLD_SIZE={processes}")
