"""Result files of a classification: its specification, its checkpoints, the list of its recordings and ``result.json``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.classification.samples import Samples
from spiky_rl.classification.split import Split
from spiky_rl.classification.training import Trainer, compute_confusion, compute_scores, get_sequence_shape
from spiky_rl.config import files
from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners.common.checkpoints import read_checkpoint, write_checkpoint
from spiky_rl.run.provenance import get_versions


def save(path: Path, trainer: Trainer, identity: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    write_checkpoint(path, {**trainer.state(), "infos": {"spiky_rl": {"identity": identity}}})


def read(path: Path, device: str) -> dict[str, Any]:
    """A checkpoint's content. Raises CheckpointError for anything else."""
    return read_checkpoint(str(path), device, "classify")


def write_recordings(folder: Path, samples: Samples, split: Split) -> None:
    """Which recordings were used, and as what: ``--ids`` takes the file for the same ones and the same split."""
    rows = zip(samples.names, samples.labels, split.get_parts(len(samples)), strict=True)
    write_csv(
        folder / "params" / "recordings.csv",
        [
            ("recording", "label", "part"),
            *((name, samples.classes[label], part) for name, label, part in rows),
        ],
    )


def write_csv(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Write rows, the first of them names of columns."""

    def fill(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    files.write_atomically(path, fill)


def write_result(
    folder: Path,
    trainer: Trainer,
    settings: Mapping[str, Any],
    spec: AgentSpec,
    outcome: str,
    changed: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``result.json``; returns its content.

    The test set is seen here, once, and only by a training that finished: by the network of the epoch that the validation set chose.
    """
    held, history, split = trainer.samples, trainer.history, trainer.split
    finished = outcome == "finished"
    best = trainer.load_best() if finished else history.best
    rise = history.find_rise(len(split.validation), trainer.settings.schedule) if finished else None
    layers, rate, operations = trainer.measure_activity()
    steps, _ = get_sequence_shape(held.size, trainer.settings.frames)
    counts, accuracy = None, None
    if finished:
        predicted = compute_scores(
            trainer.network, held, split.test, trainer.device, trainer.settings.frames
        ).argmax(1)
        counts = compute_confusion(held.labels[split.test], predicted, len(held.classes))
        accuracy = float(counts.trace() / counts.sum())
    result = {
        "dataset": held.name,
        "agent": spec.name,
        "seed": settings["flags"]["seed"],
        "device": trainer.device,
        "outcome": outcome,
        "synthetic": held.synthetic or None,
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
        "skipped": list(held.skipped),
        "steps": steps,
        "seconds_total": sum(history.seconds),
        "seconds_per_epoch": sum(history.seconds) / len(history.seconds),
        "firing_rate": rate,
        "firing": [vars(layer) for layer in layers],
        "synops_per_step": operations,
        "synops_per_sample": operations * steps,
        "classes": list(held.classes),
        "confusion": None if counts is None else counts.tolist(),
        "data_hash": held.digest,
        "split_hash": split.digest,
        "spec_hash": spec.digest,
        "settings": {**settings, "learning_rate": trainer.settings.learning_rate},
        "changed": dict(changed),
        "history": vars(history),
        "versions": get_versions(),
    }
    write(folder, result)
    return result


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a ``result`` into a run's ``folder``, atomically."""
    files.write_json(folder / "result.json", result)
