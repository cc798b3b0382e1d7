"""What a classification leaves: its specification and ``result.json``."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import yaml

from spiky_rl.classification.training import Trainer
from spiky_rl.config import files
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.common import runs


def write_spec(folder: Path, spec: AgentSpec) -> None:
    """What the run was made from, with the origin of every value."""
    rows = {path: {"value": value, "origin": origin} for path, value, origin in spec.rows()}
    text = yaml.safe_dump(rows, sort_keys=False)
    files.write(folder / "params" / "spec.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))


def write_result(
    folder: Path, trainer: Trainer, args: argparse.Namespace, spec: AgentSpec, outcome: str
) -> dict[str, Any]:
    """Write ``result.json``; returns its content. The best accuracy is chosen on what is held out, the final one is not."""
    held, history = trainer.samples, trainer.history
    layers, rate, operations = trainer.observe()
    steps = held.frames.shape[1]
    result = {
        "dataset": held.name,
        "agent": spec.name,
        "seed": args.seed,
        "device": trainer.device,
        "outcome": outcome,
        "synthetic": held.synthetic or None,
        "accuracy": history.accuracy[-1],
        "accuracy_best": max(history.accuracy),
        "accuracy_train": history.accuracy_train[-1],
        "loss": history.loss[-1],
        "epochs": len(history.loss),
        "samples_train": len(trainer.split.train),
        "samples_held_out": len(trainer.split.test),
        "steps": steps,
        "seconds_total": sum(history.seconds),
        "seconds_per_epoch": sum(history.seconds) / len(history.seconds),
        "firing_rate": rate,
        "firing": [vars(layer) for layer in layers],
        "synops_per_step": operations,
        "synops_per_sample": operations * steps,
        "confusion": trainer.confusion().tolist(),
        "data_hash": held.digest,
        "split": args.split,
        "split_hash": trainer.split.digest,
        "spec_hash": spec.digest,
        "settings": {**vars(trainer.settings), "bins": args.bins, "binary": args.binary},
        "overrides": args.overrides,
        "history": vars(history),
        "versions": {**runs.versions(), "numpy": importlib.metadata.version("numpy")},
    }
    files.write_json(folder / "result.json", result)
    return result
