"""Cells on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from typing import override

from spiky_rl.experiments.run.engines.base import (
    RUNNING,
    STOPPED,
    WAITING,
    Engine,
    WorkOrder,
    choose_gpus,
    count_cores,
    get_cell_state,
    make_command,
    make_environment,
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
        told = False
        while order.has_more(waiting, states) or running:
            while waiting and len(running) < order.parallel and not order.stop_requested():
                cell = waiting.pop(0)
                taken[cell.name] = choose_gpus(split_gpus(order.gpus, cell.processes), taken.values())
                running[cell.name] = subprocess.Popen(  # pylint: disable=consider-using-with
                    [*make_command(order, cell), str(os.getpid())],
                    env=make_environment(order.parallel, count_cores(), taken[cell.name]),
                    stdin=subprocess.DEVNULL,
                )
                states[cell.name] = RUNNING
            if order.stop_requested() and not told:
                told = True
                for process in running.values():
                    process.terminate()
            for name, process in list(running.items()):
                if (code := process.poll()) is not None:
                    states[name] = get_cell_state(code)
                    del running[name], taken[name]
            order.on_change(states)
            time.sleep(PAUSE)
        return {name: STOPPED if state == WAITING else state for name, state in states.items()}
