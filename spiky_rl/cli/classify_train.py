"""A classifier's training: from its settings to a run folder with checkpoints, result and pictures."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.cli import classify_settings as settings_of
from spiky_rl.cli import common
from spiky_rl.cli.classify_settings import LIBRARY, Settings, label
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.stopping import Asked, stoppable
from spiky_rl.config import registry

if TYPE_CHECKING:
    from spiky_rl.classification.training import Trainer


def require_epochs(settings: Settings, loaded: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError where a run has nothing left to do."""
    from spiky_rl.classification.training import History

    history, flags = History(**loaded["history"]), settings.flags
    done, epochs, patience = len(history.loss), flags["epochs"], flags["patience"]
    if done >= epochs:
        raise common.UsageError(
            f"--epochs {epochs}: {path} has seen {done} epochs; --epochs is how many there are in all"
        )
    if patience and history.stale >= patience:
        raise common.UsageError(
            f"--patience {patience}: {path} ended early by it after {done} epochs; 0 or more of it goes on"
        )


def require_same(trainer: Trainer, identity: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError where recordings or split are not those that the run began with."""
    from spiky_rl.hosts.common.checkpoints import CheckpointError

    if identity["data"] != trainer.samples.digest:
        raise CheckpointError(
            f"{path}: was trained on other recordings than --data holds now; name the folder that it began with"
        )
    if identity["split"] != trainer.split.digest:
        raise CheckpointError(
            f"{path}: was trained on another split of these recordings, of which some may be tested on now"
        )


def prepared(args: argparse.Namespace, settings: Settings, device: str) -> Trainer:
    """The data and a network, freshly drawn. Raises UserError."""
    from spiky_rl.classification import samples, split
    from spiky_rl.classification.training import Settings as Training
    from spiky_rl.classification.training import Trainer, seen

    flags = settings.flags
    folder = samples.data_folder(None if flags["data"] is None else Path(flags["data"]))
    flags["data"] = str(folder)
    configured = settings_of.dataset_of(
        settings.dataset["name"], {k: v for k, v in settings.dataset.items() if k != "name"}
    )
    if args.download:
        download(configured, folder)
    dataset = configured.build(data=folder)
    settings.dataset |= dataset.settings()
    settings.window = dataset.window
    chosen = split.subset(
        dataset.recordings, flags["recordings"], None if flags["ids"] is None else Path(flags["ids"])
    )
    if not any(r.part == "train" for r in chosen):
        raise common.UsageError(
            f"{dataset.title} in {str(folder)!r}: all recordings are of the test set, so there is nothing to learn from;"
            " --evaluate --checkpoint RUN evaluates on them"
        )
    if unknown := [r for r in chosen if r.label < 0]:
        raise common.UsageError(
            f"{dataset.path(unknown[0])}: has no class; put it into a folder of its class, or --predict it"
        )
    if len({r.label for r in chosen if r.part == "train"}) < 2:
        raise common.UsageError(
            f"{dataset.title} in {str(folder)!r}: all recordings are of one class, so there is nothing to tell apart"
        )
    held = samples.load(settings.dataset["name"], dataset, chosen, flags["skip_bad"], Bar)
    how = settings.spec.runner.get("frames", "turn")
    steps, inputs = seen(held.size, how)
    settings_of.require_state(settings.spec, steps)
    parted = split.split(held.labels, held.parts, flags["hold_out"], flags["validation"], flags["split"])

    import torch

    torch.manual_seed(flags["seed"])
    random.seed(flags["seed"])
    assert settings.spec.network is not None
    network = settings.spec.network.build(inputs=inputs, outputs=len(held.classes))
    rate = settings.spec.runner["algorithm"]["learning_rate"]
    keys = ("epochs", "batch_size", "schedule", "label_smoothing", "shift", "rotation", "patience")
    training = Training(learning_rate=rate, frames=how, **{key: flags[key] for key in keys})
    return Trainer(network, held, parted, training, device)


def download(configured: registry.Configured, folder: Path) -> None:
    """Fetch a dataset's archives. Raises UserError where there are none, or they cannot be had."""
    cls: Any = configured.cls
    if not cls.archives:
        able = [
            name
            for name in registry.names("datasets")
            if getattr(registry.resolve("datasets", name), "archives", ())
        ]
        raise common.UsageError(f"--download: goes with {', '.join(able)} only, not with {configured.name}")
    for archive in cls.archives:
        archive.fetch(folder / cls.home, Bar)


def run(args: argparse.Namespace, settings: Settings, trainer: Trainer) -> int:
    """Train, and keep what comes of it in a run folder."""
    from spiky_rl.classification import result as results
    from spiky_rl.cli import classify_show as show
    from spiky_rl.hosts.common import runs

    held, parted, spec, seed = trainer.samples, trainer.split, settings.spec, settings.flags["seed"]
    dataset = label(held.name)
    identity = {
        "dataset": held.name, "agent": spec.name, "seed": seed, "data": held.digest, "split": parted.digest,
        "spec": spec.tree(), "settings": settings.tree(), "shape": list(held.shape), "classes": list(held.classes),
        "window": list(settings.window), "scale": held.scale, "device": trainer.device,
    }  # fmt: skip
    folder = runs.new_run(args.log_root, dataset, args.run_name, dataset, spec.name, LIBRARY, seed)
    results.write_spec(folder, spec)
    results.write_recordings(folder, held, parted)
    log.info(
        "%s on %s, %d samples to learn from, %d to choose by, %d to test on, %s, seed %d",
        *(
            spec.name,
            held.name,
            len(parted.train),
            len(parted.validation),
            len(parted.test),
            trainer.device,
            seed,
        ),
    )
    log.info("run folder: %s", folder)
    board, name = show.writer(folder), f"{spec.name} on {held.name}"
    display = show.EpochDisplay(name, len(trainer.history.loss), trainer.settings.epochs - 1)
    with stoppable("stopping after this epoch") as asked:
        outcome, latest = learn(trainer, folder, identity, display, board, asked)
        if latest is not None:
            if outcome != "finished":  # perhaps within an epoch, or with weights that are no numbers
                trainer.restore(results.read(latest, trainer.device))
            result = results.write_result(folder, trainer, settings.tree(), spec, outcome, settings.changed)
            if result["accuracy"] is not None:
                title = f"{name}: {result['accuracy']:.1%} of {len(parted.test)}"
                show.write_confusion(
                    folder, board, result["confusion"], held.classes, title, result["epochs"] - 1
                )
            show.summarise(result, args.log_root, folder, settings_of.named_again(args, settings))
        if board is not None:
            board.close()
        print(folder / "result.json" if latest is not None else f"{name}: {outcome}")
    return 1 if outcome.startswith("failed") else asked.exit_code if outcome == "stopped" else 0


def learn(
    trainer: Trainer, folder: Path, identity: dict[str, Any], display: Any, board: Any, asked: Asked
) -> tuple[str, Path | None]:
    """Train to the end, or until a stop is asked for.

    Returns how it ended (``finished``, ``stopped`` or ``failed: why``) and the last checkpoint, None before the first.
    """
    from spiky_rl.classification import result as results
    from spiky_rl.cli import classify_show as show
    from spiky_rl.hosts.common import runs

    latest: Path | None = None
    try:
        with display:
            for epoch in trainer.epochs():
                path = folder / f"model_{epoch.index}.pt"
                results.save(path, trainer, identity)
                before, latest = latest, path
                if before is not None:
                    before.unlink()
                if trainer.history.best == epoch.index:
                    results.save(folder / runs.BEST, trainer, identity)
                display(epoch)
                if board is not None:
                    show.write_epoch(board, epoch)
                if asked() and epoch.index < epoch.last:
                    return "stopped", latest
    except KeyboardInterrupt:
        return "stopped", latest
    except FloatingPointError as error:
        return f"failed: {error}", latest
    return "finished", latest
