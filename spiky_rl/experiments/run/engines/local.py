"""Cells on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from typing import override

from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.engines.base import (
    RUNNING,
    WAITING,
    Engine,
    WorkOrder,
    choose_gpus,
    count_cores,
    get_cell_state,
    make_command,
    make_environment,
    name_never_begun,
    split_gpus,
)

PAUSE = 0.25
"""Seconds between checks of the processes."""


class LocalEngine(Engine):
    """Runs cells as child processes, which end with this process."""

    @override
    def run(self, order: WorkOrder) -> dict[str, str]:
        states = {cell.name: WAITING for cell in order.cells}
        waiting, running = list(order.cells), dict[str, subprocess.Popen[bytes]]()
        taken = dict[str, str | None]()
        terminated = False
        while order.has_more(waiting, states) or running:
            while order.can_start(waiting, running):
                cell = order.take_next(waiting, states)
                if cell is None:
                    break
                taken[cell.name] = choose_gpus(split_gpus(order.gpus, cell.processes), taken.values())
                running[cell.name] = start_cell(order, cell, taken[cell.name])
                states[cell.name] = RUNNING
            if order.stop_requested() and not terminated:
                terminated = True
                for process in running.values():
                    process.terminate()
            for name, process in list(running.items()):
                if (code := process.poll()) is not None:
                    states[name] = get_cell_state(code)
                    del running[name], taken[name]
            order.on_change(states)
            time.sleep(PAUSE)
        return name_never_begun(states)


def start_cell(order: WorkOrder, cell: Cell, gpus: str | None) -> subprocess.Popen[bytes]:
    """Start the worker of a ``cell`` on its share of ``gpus``, None leaves the choice to the cell, and return its process."""
    return subprocess.Popen(
        [*make_command(order, cell), str(os.getpid())],
        env=make_environment(order.parallel, count_cores(), gpus),
        stdin=subprocess.DEVNULL,
    )
