"""What an engine is asked for, and what it tells while cells are at work."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.experiments.grid import Cell
from spiky_rl.experiments.work import FAILED, FINISHED
from spiky_rl.registry import UserError

WAITING, RUNNING, DONE, BROKEN, STOPPED = "waiting", "running", "finished", "failed", "stopped"
"""States of a cell."""


class EngineError(UserError):
    """An engine that is not there, or that was asked for what it does not have."""


@dataclass(frozen=True)
class Order:
    """What an engine is to do."""

    cells: Sequence[Cell]
    """Those that are not finished, in the order in which to begin them."""
    out: Path
    """The study's folder, absolute; on a cluster, one that all machines share."""
    parallel: int
    """Cells at once."""
    changed: Callable[[Mapping[str, str]], None]
    """Called a few times a second with the states of the cells, by name."""
    asked: Callable[[], bool]
    """Whether to stop: nothing new is begun, and what runs keeps a checkpoint."""


class Engine(ABC):
    """Runs cells, each in processes of its own; a cell that fails does not touch the others."""

    @abstractmethod
    def run(self, order: Order) -> dict[str, str]:
        """Work all cells to their ends, or until it is asked to stop; their states, by name."""


def command(order: Order, cell: Cell) -> list[str]:
    """What works a cell; the number of the process that starts it goes behind."""
    work = [sys.executable, "-m", "spiky_rl.experiments.work"]
    return [*work, str(order.out / "cells" / cell.name), str(order.out)]


def environment(parallel: int, available: int) -> dict[str, str]:
    """A cell's environment: its part of the available cores, unless the user gave a number of threads."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available // parallel))
    return {**os.environ, "OMP_NUM_THREADS": threads, "SPIKY_RL_CELLS": str(parallel)}


def state_of(code: int) -> str:
    """A cell's state after its process ended with ``code``. A process that was killed has left no word: it failed."""
    return {FINISHED: DONE, FAILED: BROKEN}.get(code, STOPPED if code > 0 else BROKEN)


def cores() -> int:
    """Of this machine, for this process."""
    return len(os.sched_getaffinity(0))
