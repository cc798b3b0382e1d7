"""The interface of engines: their orders, and what they report while cells are at work."""

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
    """An engine that is not there, or that was asked for what it does not have."""


@dataclass(frozen=True)
class WorkOrder:
    """The cells that an engine is to run, and how."""

    cells: Sequence[Cell]
    """Those that are not finished, in the order in which to begin them."""
    out: Path
    """The study's folder, absolute; on a cluster, one that all machines share."""
    parallel: int
    """Cells at once."""
    on_change: Callable[[Mapping[str, str]], None]
    """Called a few times a second with the states of the cells, by name."""
    stop_requested: Callable[[], bool]
    """Whether to stop: nothing new is begun, and what runs keeps a checkpoint."""
    gpus: Sequence[str] = ()
    """GPUs of this machine to spread cells over, as CUDA_VISIBLE_DEVICES names them; none: cells choose by themselves."""
    more_cells: Callable[[Mapping[str, str]], Sequence[Cell]] = lambda states: ()
    """Called as often with the states: cells to take besides."""

    def has_more(self, waiting: list[Cell], states: dict[str, str]) -> bool:
        """Add what there is besides; whether a cell is left to begin, which none is after a stop.

        Args:
            waiting: Cells to begin; more are put behind them.
            states: States of all cells by name; more are put beside them.
        """
        for cell in () if self.stop_requested() else self.more_cells(states):
            waiting.append(cell)
            states[cell.name] = WAITING
        return bool(waiting) and not self.stop_requested()


class Engine(ABC):
    """Runs cells, each in processes of its own; a cell that fails does not touch the others."""

    @abstractmethod
    def run(self, order: WorkOrder) -> dict[str, str]:
        """Work all cells of an ``order`` to their ends, or until it is asked to stop; their states, by name."""


def make_command(order: WorkOrder, cell: Cell) -> list[str]:
    """The command that works a ``cell`` of an ``order``; the number of the process that starts it goes behind."""
    work = [sys.executable, "-m", "spiky_rl.experiments.run.cell_worker"]
    return [*work, str(order.out / "cells" / cell.name), str(order.out)]


def make_environment(parallel: int, available: int, gpus: str | None = None) -> dict[str, str]:
    """A cell's environment: its part of the cores, unless the user gave a number of threads; its GPUs, if any.

    Args:
        parallel: Cells at once.
        available: Cores that they share.
        gpus: The cell's, as CUDA_VISIBLE_DEVICES names them; None leaves that variable as it is.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available // parallel))
    own = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    return {**os.environ, "OMP_NUM_THREADS": threads, "SPIKY_RL_CELLS": str(parallel), **own}


def list_visible_gpus(count: int, shown: str) -> tuple[str, ...]:
    """Names of the ``count`` GPUs there are: those in CUDA_VISIBLE_DEVICES, ``shown``, or their numbers where it is empty."""
    names = [name.strip() for name in shown.split(",") if name.strip()]
    return tuple(names[:count] or map(str, range(count)))


def split_gpus(gpus: Sequence[str], processes: int) -> list[str]:
    """The ``gpus`` in shares of one for each of a cell's ``processes``, as CUDA_VISIBLE_DEVICES takes them; none for a part."""
    whole = len(gpus) // processes
    return [",".join(gpus[i * processes : (i + 1) * processes]) for i in range(whole)]


def choose_gpus(offered: Sequence[str], taken: Iterable[str | None]) -> str | None:
    """The share among ``offered`` whose GPUs the fewest running cells use, by the shares ``taken``; None without any."""
    used = [set(share.split(",")) for share in taken if share]
    return min(
        offered, key=lambda share: sum(not own.isdisjoint(share.split(",")) for own in used), default=None
    )


def get_cell_state(code: int) -> str:
    """A cell's state after its process ended with ``code``. A process that was killed has left no word: it failed."""
    return {FINISHED: DONE, FAILED: BROKEN}.get(code, STOPPED if code > 0 else BROKEN)


def count_cores() -> int:
    """Processor cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0))
