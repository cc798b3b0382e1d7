"""Result files of a classification: checkpoints, the list of recordings, and ``result.json``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.classification.samples import Samples
from spiky_rl.classification.split import Split
from spiky_rl.classification.training import (
    Trainer,
    compute_confusion,
    get_sequence_shape,
)
from spiky_rl.config import files
from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners.common.checkpoints import write_checkpoint
from spiky_rl.run.provenance import get_versions

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
