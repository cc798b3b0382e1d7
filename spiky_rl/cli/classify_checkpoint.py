"""Checkpoints of a classification: written whole, read without executing code, refused where they belong to another run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spiky_rl.classification.training import Trainer
from spiky_rl.cli import checkpoint, common
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.common import runs
from spiky_rl.hosts.common.checkpoints import CheckpointError, read_checkpoint, write_checkpoint

LIBRARY = "classify"
"""What stands in the place of a host library: runs lie in logs/classify/<dataset>."""


def save(path: Path, trainer: Trainer, identity: dict[str, Any]) -> None:
    """Write a checkpoint, atomically."""
    write_checkpoint(path, {**trainer.state(), "infos": {"spiky_rl": {"identity": identity}}})


def read(path: Path, device: str) -> dict[str, Any]:
    """A checkpoint's content. Raises CheckpointError for anything else."""
    return read_checkpoint(str(path), device, LIBRARY)


def resume(args: argparse.Namespace, trainer: Trainer, identity: dict[str, Any], spec: AgentSpec) -> Path:
    """Go on from what ``--checkpoint`` names. Raises UserError where it is of other data or another network."""
    dataset = identity["dataset"]
    path = runs.find_checkpoint(
        args.checkpoint, args.log_root, dataset, dataset, spec.name, LIBRARY, args.run_seed
    )
    loaded = read(path, trainer.device)
    theirs = loaded["infos"]["spiky_rl"]["identity"]
    for key, flag in (("dataset", "--dataset"), ("agent", "--agent")):
        if theirs[key] != identity[key]:
            raise CheckpointError(
                f"{path}: of {key} {theirs[key]!r}, not {identity[key]!r}; pass {flag} {theirs[key]}"
            )
    checkpoint.check_network(loaded, spec, path)
    for key, flags in (("data", "--data, --bins and --binary"), ("split", "--hold_out and --split")):
        if theirs[key] != identity[key]:
            raise CheckpointError(
                f"{path}: was trained on another {key}, of which some may be held out now; pass the same {flags}"
            )
    done = len(loaded["history"]["loss"])
    if done >= trainer.settings.epochs:
        raise common.UsageError(
            f"--epochs {trainer.settings.epochs}: {path} has seen {done} epochs; --epochs is how many there are in all"
        )
    trainer.restore(loaded)
    common.log.info("resumed from %s after %d epochs", path, done)
    return path
