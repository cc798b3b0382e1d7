"""Writer of a training's scalars, settings, checkpoints and films to Weights & Biases, beside TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, override

import wandb  # type: ignore[import-not-found]  # pylint: disable=import-error  # of the extra wandb
from torch.utils.tensorboard import SummaryWriter


class WandbWriter(SummaryWriter):
    """TensorBoard's writer that sends the same to a W&B run as the writer of rsl_rl does."""

    def __init__(self, folder: str, project: str, settings: Mapping[str, Any]) -> None:
        """Begin the W&B run, which has the name of the run ``folder``; ``settings``: those of training and environment, by group."""
        super().__init__(folder, flush_secs=10)
        self.folder = Path(folder)
        self.run = wandb.init(
            project=project,
            entity=os.environ.get("WANDB_USERNAME"),
            name=self.folder.name,
            config={"log_dir": folder, **settings},
        )
        self._films: set[str] = set()

    @override
    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        super().add_scalar(tag, scalar_value, global_step, walltime, new_style, double_precision)
        # a curve over seconds is left out: W&B drops steps that are smaller than its latest
        if not tag.endswith("/time"):
            self.run.log({tag: scalar_value}, step=global_step)

    def save_model(self, path: str) -> None:
        """Upload the checkpoint at ``path``."""
        self.run.save(path, base_path=os.path.dirname(path))

    def save_films(self, index: int) -> None:
        """Upload the run folder's new films at iteration ``index``."""
        for film in self.folder.rglob("*.mp4"):
            if film.name not in self._films:
                self.run.log({"video": wandb.Video(str(film), format="mp4")}, step=index)
                self._films.add(film.name)

    @override
    def close(self) -> None:
        super().close()
        self.run.finish()
