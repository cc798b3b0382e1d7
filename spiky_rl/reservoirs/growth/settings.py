"""Settings of an evolution of graphs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from spiky_rl.config import files, memory_check
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.schema import MAX_INT32

Task = Literal["narma10", "narma30", "memory"]
"""The NARMA tasks are scored by their NRMSE, memory by the negative capacity."""


class GrowRequest(Settings):
    """Options of `scripts/grow.py`."""

    out: Path = option(..., "file of the best graph, FILE.json; rewritten at every improvement")
    task: Task = option("narma10", "task that the reservoir is scored on")
    tournaments: int = option(200, "number of tournaments, each between two rules", low=1, high=MAX_INT32)
    population: int = option(10, "chromosomes of each kind", low=1, high=MAX_INT32)
    hidden: int | None = option(
        None, "neurons in the hidden layer of the rules; null for no hidden layer", low=1, high=MAX_INT32
    )
    min_size: int = option(20, "minimum nodes of the largest connected part", low=1, high=MAX_INT32)
    max_size: int = option(200, "maximum nodes of a graph", low=1, high=MAX_INT32)
    seed: int = option(0, "seed of rules, reservoirs and task; -1 for a random seed", low=-1, high=MAX_INT32)

    def check_request(self) -> None:
        """Raise UserError if settings contradict each other, or need more memory than this machine has."""
        files.require_file("--out", self.out, (".json",))
        if self.population < 2:
            raise UserError(f"--population {self.population}: a tournament needs at least 2")
        if not 2 <= self.min_size <= self.max_size:
            raise UserError(
                f"--min_size {self.min_size}: must be between 2 and --max_size, which is {self.max_size}"
            )
        needed = {f"--max_size {self.max_size}": 8 * self.max_size**2}  # a matrix of all its edges
        needed[f"--population {self.population}"] = 1000 * self.population  # minimum size of a rule's objects
        needed[f"--hidden {self.hidden}"] = 8 * self.population * (self.hidden or 0)
        memory_check.require_memory(needed, memory_check.get_machine_memory())

    def with_drawn_seed(self) -> GrowRequest:
        """Return the settings with a drawn seed in place of -1."""
        return self.with_changes(seed=random.randrange(2**31)) if self.seed == -1 else self
