"""The interface of engines: their work orders, and the states that they report."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.config.registry import UserError
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.cell_worker import FAILED, FINISHED

WAITING, RUNNING, DONE, BROKEN, STOPPED = "waiting", "running", "finished", "failed", "stopped"
"""States of a cell."""


class EngineError(UserError):
    """An engine that is missing, or that cannot run an order."""


@dataclass(frozen=True)
class WorkOrder:
    """The cells that an engine runs, and how."""

    cells: Sequence[Cell]
    """Unfinished cells, in the order in which to begin them."""
    out: Path
    """Absolute path of the study's folder; on a cluster, one that all machines share."""
    parallel: int
    """Number of parallel cells."""
    on_change: Callable[[Mapping[str, str]], None]
    """Called a few times a second with the states of the cells, by name."""
    stop_requested: Callable[[], bool]
    """Returns whether to stop: no cell begins, and running ones keep a checkpoint."""
    gpus: Sequence[str] = ()
    """GPUs of this machine to distribute cells over, as in CUDA_VISIBLE_DEVICES; if empty, cells choose."""
    more_cells: Callable[[Mapping[str, str]], Sequence[Cell]] = lambda states: ()
    """Called as often as ``on_change``, with the states; returns further cells."""
    processes: int = 1
    """Number of processes of a cell's training; they share the cell's cores."""

    def choose_next(self, cells: Iterable[Cell], states: Mapping[str, str]) -> list[Cell]:
        """Return the waiting ``cells`` to begin now: the first ones whose teacher has ended, beside the running ones."""
        free = self.parallel - list(states.values()).count(RUNNING)
        waiting = [cell for cell in cells if states[cell.name] == WAITING]
        return [cell for cell in waiting if states.get(cell.teacher) not in (WAITING, RUNNING)][:free]


class Engine(ABC):
    """Runner of cells, each in processes of its own; a cell that fails does not affect others."""

    def run(self, order: WorkOrder) -> dict[str, str]:
        """Run all cells of an ``order`` to their ends or until a stop; return their states by name."""
        cells = {cell.name: cell for cell in order.cells}
        states = dict.fromkeys(cells, WAITING)
        while True:
            is_stopping = order.stop_requested()
            if is_stopping:
                self.stop()
            else:
                more = {cell.name: cell for cell in order.more_cells(states)}
                cells |= more
                states |= dict.fromkeys(more, WAITING)
                for cell in order.choose_next(cells.values(), states):
                    self.start(order, cell)
                    states[cell.name] = RUNNING
            order.on_change(states)
            if RUNNING not in states.values() and (is_stopping or WAITING not in states.values()):
                return {name: STOPPED if state == WAITING else state for name, state in states.items()}
            states |= self.wait(order)

    @abstractmethod
    def start(self, order: WorkOrder, cell: Cell) -> None:
        """Start the worker of a ``cell``."""

    @abstractmethod
    def stop(self) -> None:
        """Ask all running cells to stop; called again in every round until they have ended."""

    @abstractmethod
    def wait(self, order: WorkOrder) -> dict[str, str]:
        """Wait for a fraction of a second and return the states of the cells that have ended since, by name."""


def make_command(order: WorkOrder, cell: Cell) -> list[str]:
    """Return the command of a ``cell``'s worker; the caller appends the id of the process that starts it."""
    work = [sys.executable, "-m", "spiky_rl.experiments.run.cell_worker"]
    return [*work, str(order.out / "cells" / cell.name), str(order.out)]


def make_environment(
    parallel: int, available: int, gpus: str | None = None, processes: int = 1
) -> dict[str, str]:
    """Return a cell's environment variables: threads of each of its processes, unless the user set their number, and its GPUs.

    ``parallel`` cells share ``available`` cores, and the ``processes`` of a cell its share; ``gpus`` of None leaves CUDA_VISIBLE_DEVICES as
    it is.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available // (parallel * processes)))
    gpu_variables = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    return {**os.environ, "OMP_NUM_THREADS": threads, "SPIKY_RL_CELLS": str(parallel), **gpu_variables}


def list_visible_gpus(count: int, visible_devices: str) -> tuple[str, ...]:
    """Return the names of ``count`` GPUs from ``visible_devices`` (CUDA_VISIBLE_DEVICES), or their numbers if it is empty."""
    names = [name.strip() for name in visible_devices.split(",") if name.strip()]
    return tuple(names[:count] or map(str, range(count)))


def split_gpus(gpus: Sequence[str], processes: int) -> list[str]:
    """Return shares of ``gpus`` for CUDA_VISIBLE_DEVICES, one GPU for each of a cell's ``processes``; a partial share is dropped."""
    n_shares = len(gpus) // processes
    return [",".join(gpus[i * processes : (i + 1) * processes]) for i in range(n_shares)]


def choose_gpus(offered: Sequence[str], taken: Iterable[str | None]) -> str | None:
    """Return the share in ``offered`` with GPUs that the fewest running cells use, by their shares ``taken``; None if there is none."""
    taken_gpus = [set(share.split(",")) for share in taken if share]

    def count_users(share: str) -> int:
        gpus = share.split(",")
        return sum(not used.isdisjoint(gpus) for used in taken_gpus)

    return min(offered, key=count_users, default=None)


def get_cell_state(code: int) -> str:
    """Return a cell's state from the exit ``code`` of its process; a killed process counts as failed."""
    return {FINISHED: DONE, FAILED: BROKEN}.get(code, STOPPED if code > 0 else BROKEN)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
