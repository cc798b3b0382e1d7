"""Processes of a distributed run, described by torchrun's environment variables."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from spiky_rl.config.command_line import remove_flag
from spiky_rl.config.registry import UserError

log = logging.getLogger(__name__)

RANK_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
FLAG = "--processes"
STARTER = "SPIKY_RL_STARTER"
"""Variable with the process id of our command that started a distributed run; the other processes end with it."""
PARENT_ENDED_EXIT_CODE = 3
"""Exit code of a process whose parent has ended."""
TORCHRUN_COMMAND = "torchrun --standalone --nproc_per_node N scripts/train.py --distributed"


def launch_processes(device: str, count: int, arguments: Sequence[str]) -> None:
    """Replace this process by torchrun, which trains in ``count`` processes that share the CPU threads; does not return.

    ``arguments`` are the checked ones of ``train.py``. Raises UserError if the device is not ``cpu``.
    """
    if device != "cpu":
        raise UserError(f"{FLAG} {count}: not available with --device {device}; allowed: cpu; use torchrun")
    import torch

    threads = max(1, torch.get_num_threads() // count)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    line = [*torchrun, "--module", "spiky_rl.cli", "train", "--distributed", *remove_flag(FLAG, arguments)]
    log.info("%d processes of %d threads, each with as many environments", count, threads)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # torchrun gets the process id of this process, which it replaces
    variables = {"OMP_NUM_THREADS": str(threads), STARTER: str(os.getpid())}
    os.execve(sys.executable, [sys.executable, *line], {**os.environ, **variables})


def die_with_parent(parent: int) -> None:
    """Ask the Linux kernel to kill this process when the process ``parent`` ends, even if ``parent`` is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent had already ended
        os._exit(PARENT_ENDED_EXIT_CODE)


def derive_seed(*numbers: int) -> int:
    """Return a seed below 2**31 for ``numbers``, such as seed and rank; any other numbers give an unrelated one."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) % 2**31


def setup_distributed_env(distributed: bool) -> None:
    """Check torchrun's variables, or remove them from a single process before a library reads them. Raises UserError.

    A batch job or a shell may have left them, and rsl_rl and skrl would wait for processes that never start.
    A process of a distributed run started by our command ends with torchrun, even if torchrun is killed.
    """
    if not distributed:
        leftover = [key for key in RANK_VARIABLES if os.environ.pop(key, None) not in (None, "1", "0")]
        if leftover:
            log.info("%s: ignored, because --distributed is not given", ", ".join(leftover))
        return
    if (starter := os.environ.get(STARTER, "")).isdecimal():
        die_with_parent(int(starter))
    _check_torchrun_variables()


def _check_torchrun_variables() -> None:
    """Raise UserError if torchrun's variables are missing, no numbers, or contradict each other."""
    missing = [key for key in RANK_VARIABLES + ADDRESS_VARIABLES if not os.environ.get(key)]
    if missing:
        raise UserError(
            f"--distributed: {', '.join(missing)} not set; start the processes with {TORCHRUN_COMMAND}"
        )
    for key in RANK_VARIABLES:
        if not os.environ[key].isdecimal():
            raise UserError(
                f"--distributed: {key}={os.environ[key]!r}: expected a whole number; start the processes with {TORCHRUN_COMMAND}"
            )
    processes = int(os.environ["WORLD_SIZE"])
    for key in RANK_VARIABLES[1:]:
        if int(os.environ[key]) >= processes:
            raise UserError(f"--distributed: {key}={os.environ[key]}: must be below WORLD_SIZE={processes}")
