"""The checkpoint of the best return while a run trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


class Best:
    """Keeps the checkpoint of the highest mean return.

    Environments start at random points of their episodes, so the first returns are of cut episodes, and the best of them
    where rewards are negative: nothing counts before a whole episode's time has passed.
    """

    def __init__(self, runner: Any, folder: Path | None, steps: int) -> None:
        """``steps``: control steps per environment and iteration."""
        self.runner, self.folder = runner, folder
        self.value = float("-inf")
        episode = math.ceil(runner.env.max_episode_length / steps)
        self.first = runner.current_learning_iteration + episode

    def __call__(self, iteration: Any) -> None:
        value = iteration.progress.returns[-1]
        if self.folder is not None and iteration.index >= self.first and value > self.value:
            self.value = value
            self.runner.save(str(self.folder / "best.pt"))
