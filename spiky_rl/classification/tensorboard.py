"""TensorBoard output of a classification: scalars and the confusion matrix."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.classification.training import Epoch
from spiky_rl.config import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard.writer import SummaryWriter

log = logging.getLogger(__name__)


def open_writer(folder: Path) -> SummaryWriter | None:
    """Return TensorBoard's writer into a run folder; log and return None if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        log.warning("tensorboard is not installed: no scalars are written")
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder))


def write_epoch(board: SummaryWriter, epoch: Epoch) -> None:
    """Write the scalars of an epoch."""
    scalars = {
        "Classification/loss": epoch.loss,
        "Classification/accuracy_train": epoch.accuracy_train,
        "Perf/seconds_learning": epoch.seconds,
        "Cost/operations_per_step": epoch.operations,
        "Spikes/rate": epoch.rate,
    }
    if epoch.accuracy_validation is not None:
        scalars["Classification/accuracy_validation"] = epoch.accuracy_validation
    for i, layer in enumerate(epoch.layers, start=1):
        scalars |= {f"Spikes/layer_{i}_{name}": value for name, value in vars(layer).items()}
    for name, value in scalars.items():
        board.add_scalar(name, value, epoch.index)


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix ``counts`` [classes, classes] with its numbers: true classes in rows, predicted ones in columns."""
    from matplotlib.figure import Figure

    matrix, side = np.asarray(counts), max(5.2, 0.3 * len(classes))
    figure = Figure(figsize=(side + 0.3, side), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Greys", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    rotation = "vertical" if max(map(len, classes)) > 2 else "horizontal"
    axes.set_xticks(range(len(classes)), classes, rotation=rotation)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def write_confusion(folder: Path, board: SummaryWriter | None, result: Mapping[str, Any], title: str) -> None:
    """Draw the confusion matrix into ``confusion.png``, and into TensorBoard if there is a ``board``.

    Logs a warning if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("matplotlib is not installed: confusion.png is not drawn")
        return
    figure = draw_confusion(result["confusion"], result["classes"], title)
    files.write_atomically(
        folder / "confusion.png", lambda temporary: figure.savefig(temporary, format="png", dpi=120)
    )
    if board is not None:
        board.add_figure("Classification/confusion", figure, result["epochs"] - 1)
