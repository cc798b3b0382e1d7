"""Cells on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from typing import override

from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.engines.base import (
    Engine,
    WorkOrder,
    choose_gpus,
    count_cores,
    get_cell_state,
    make_command,
    make_environment,
    split_gpus,
)

POLL_INTERVAL_S = 0.25
"""Seconds between checks of the processes."""


class LocalEngine(Engine):
    """Engine whose cells are child processes, which end with this process."""

    def __init__(self) -> None:
        self.running = dict[str, subprocess.Popen[bytes]]()
        self.gpus = dict[str, str | None]()
        """GPUs of the running cells, as in CUDA_VISIBLE_DEVICES; None leaves the choice to the cell."""
        self.is_stopped = False

    @override
    def start(self, order: WorkOrder, cell: Cell) -> None:
        gpus = choose_gpus(split_gpus(order.gpus, cell.processes), self.gpus.values())
        self.gpus[cell.name] = gpus
        self.running[cell.name] = subprocess.Popen(  # pylint: disable=consider-using-with  # ends in `wait`
            [*make_command(order, cell), str(os.getpid())],
            env=make_environment(order.parallel, count_cores(), gpus, order.processes),
            stdin=subprocess.DEVNULL,
        )

    @override
    def stop(self) -> None:
        if not self.is_stopped:  # a second signal would stop a training without a checkpoint
            for process in self.running.values():
                process.terminate()
        self.is_stopped = True

    @override
    def wait(self, order: WorkOrder) -> dict[str, str]:
        time.sleep(POLL_INTERVAL_S)
        codes = {name: process.poll() for name, process in self.running.items()}
        ended = {name: get_cell_state(code) for name, code in codes.items() if code is not None}
        for name in ended:
            del self.running[name], self.gpus[name]
        return ended
