"""Cells on this machine, so many at once."""

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
    Order,
    command,
    cores,
    environment,
    least_busy,
    shares,
    state_of,
)

PAUSE = 0.25
"""Seconds between looks."""


class LocalEngine(Engine):
    """Child processes of this one, which end with it."""

    @override
    def run(self, order: Order) -> dict[str, str]:
        states = {cell.name: WAITING for cell in order.cells}
        waiting, running = list(order.cells), dict[str, subprocess.Popen[bytes]]()
        taken = dict[str, str | None]()
        told = False
        while order.has_more(waiting, states) or running:
            while waiting and len(running) < order.parallel and not order.asked():
                cell = waiting.pop(0)
                taken[cell.name] = least_busy(shares(order.gpus, cell.processes), taken.values())
                running[cell.name] = subprocess.Popen(  # pylint: disable=consider-using-with
                    [*command(order, cell), str(os.getpid())],
                    env=environment(order.parallel, cores(), taken[cell.name]),
                    stdin=subprocess.DEVNULL,
                )
                states[cell.name] = RUNNING
            if order.asked() and not told:
                told = True
                for process in running.values():
                    process.terminate()
            for name, process in list(running.items()):
                if (code := process.poll()) is not None:
                    states[name] = state_of(code)
                    del running[name], taken[name]
            order.changed(states)
            time.sleep(PAUSE)
        return {name: STOPPED if state == WAITING else state for name, state in states.items()}
