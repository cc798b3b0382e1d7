"""Result files of a classification: checkpoints, the list of recordings, ``result.json``, and TensorBoard's."""

from __future__ import annotations

import csv
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.classification.samples import Samples
from spiky_rl.classification.split import Split
from spiky_rl.classification.training import (
    Epoch,
    Trainer,
    compute_confusion,
    get_sequence_shape,
)
from spiky_rl.config import files
from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners.common.checkpoints import write_checkpoint
from spiky_rl.run.provenance import get_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard.writer import SummaryWriter

log = logging.getLogger(__name__)

RESULT = "result.json"
"""File of the result in a run folder."""


def save(path: Path, trainer: Trainer, identity: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    write_checkpoint(path, {**trainer.state(), "infos": {"spiky_rl": {"identity": identity}}})


def write_recordings(folder: Path, samples: Samples, split: Split) -> None:
    """Write the list of recordings with their parts.

    ``--ids`` reads it to use the same recordings and split again; a run without validation recordings needs ``--validation 0`` again.
    """
    rows = zip(samples.names, samples.labels, split.get_parts(len(samples)), strict=True)
    write_csv(
        folder / "params" / "recordings.csv",
        [
            ("recording", "label", "part"),
            *((name, samples.classes[label], part) for name, label, part in rows),
        ],
    )


def write_csv(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Write rows as CSV; the first row is the header."""

    def write_content(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    files.write_atomically(path, write_content)


def write_result(
    folder: Path,
    trainer: Trainer,
    settings: Mapping[str, Any],
    spec: AgentSpec,
    outcome: str,
    changed: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``result.json`` and return its content.

    The test set is used only here, once, after a training that finished, with the network of the epoch that the validation set chose.
    """
    samples, history, split = trainer.samples, trainer.history, trainer.split
    finished = outcome == "finished"
    best = trainer.load_best() if finished else history.best_epoch
    rise = history.find_rise(len(split.validation), trainer.settings.schedule) if finished else None
    layers, rate, operations = trainer.measure_activity()
    steps, _ = get_sequence_shape(samples.size, trainer.settings.frame_mode)
    counts, accuracy = None, None
    if finished:
        counts = compute_confusion(
            samples.labels[split.test], trainer.predict(split.test), len(samples.classes)
        )
        accuracy = float(counts.trace() / counts.sum())
    result = {
        "dataset": samples.name,
        "agent": spec.name,
        "seed": settings["flags"]["seed"],
        "device": trainer.device,
        "outcome": outcome,
        "synthetic": samples.synthetic or None,
        "accuracy": accuracy,
        "accuracy_validation": history.accuracy_validation[best],
        "accuracy_train": history.accuracy_train[best],
        "loss": history.loss[best],
        "epoch": best + 1,
        "epochs": len(history.loss),
        "rising": None if rise is None else vars(rise),
        "ann": None,
        "samples_train": len(split.train),
        "samples_validation": len(split.validation),
        "samples_test": len(split.test),
        "skipped": list(samples.skipped),
        "steps": steps,
        "seconds_total": sum(history.seconds),
        "seconds_per_epoch": sum(history.seconds) / len(history.seconds),
        "firing_rate": rate,
        "firing": [vars(layer) for layer in layers],
        "synops_per_step": operations,
        "synops_per_sample": operations * steps,
        "classes": list(samples.classes),
        "confusion": None if counts is None else counts.tolist(),
        "data_hash": samples.digest,
        "split_hash": split.digest,
        "spec_hash": spec.digest,
        "settings": {**settings, "learning_rate": trainer.settings.learning_rate},
        "changed": dict(changed),
        "history": vars(history),
        "versions": get_versions(),
    }
    files.write_json(folder / RESULT, result)
    return result


def open_board(folder: Path) -> SummaryWriter | None:
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

    # a wider picture, as of a thousand classes, would take gigabytes
    matrix, side = np.asarray(counts), float(np.clip(0.3 * len(classes), 5.2, 40.0))
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
