"""A classifier's training: from its settings to a run folder with checkpoints, result and pictures."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from spiky_rl.classification import ann as anns
from spiky_rl.classification import checkpoint, samples
from spiky_rl.classification import result as results
from spiky_rl.classification import tensorboard as boards
from spiky_rl.classification.initial import scale_to_recordings
from spiky_rl.classification.loaded import LoadedCheckpoint
from spiky_rl.classification.settings import (
    LIBRARY,
    ClassificationSettings,
    ClassifyOptions,
    ClassifyRequest,
    agent_of,
    class_of,
    dataset_of,
    format_dataset_label,
    resume_settings,
)
from spiky_rl.classification.sizing import MIN_BATCH, compute_batch_size, compute_epochs
from spiky_rl.classification.split import select_subset, split
from spiky_rl.classification.training import Epoch, History, Trainer, get_sequence_shape
from spiky_rl.classification.training import TrainerSettings as Training
from spiky_rl.config import memory_check, registry
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.spec import AgentSpec
from spiky_rl.datasets.base import Dataset, Recording
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.run import run_folders
from spiky_rl.run.devices import get_memory, resolve_device
from spiky_rl.run.signals import StopRequest

log = logging.getLogger(__name__)

TRAINING_ONLY_KEYS = ("epochs", "batch_size", "schedule", "label_smoothing", "shift", "rotation", "patience")
"""Flags that say how a network is trained."""


def create_run(
    request: ClassifyRequest, settings: ClassificationSettings | None, shown: ProgressFactory = no_progress
) -> ClassificationRun:
    """The run that is asked for: a new one, or a checkpoint's that goes on. Raises UserError.

    Args:
        asked: What is trained, and how.
        settings: A new run's; None: it goes on from the checkpoint.
        shown: Shows how far reading the recordings is.
    """
    loaded = None
    if settings is None:
        loaded = find_checkpoint(request)
        settings = resume_settings(request, loaded)
    trainer = prepare_data(settings, loaded, request.device, request.download, shown)
    return ClassificationRun(trainer, settings, request.log_root, request.run_name)


def find_checkpoint(asked: ClassifyRequest) -> LoadedCheckpoint:
    """The checkpoint that is ``asked`` for, of the run that dataset, agent and seed tell, and its content. Raises UserError."""
    named = asked.checkpoint
    assert named is not None
    if asked.dataset is None and named in ("latest", "best"):
        raise UserError(f"--checkpoint {named}: name the --dataset too, or the run's folder instead")
    name = format_dataset_label(asked.dataset or "any")
    agent = None if asked.agent is None else Path(asked.agent).stem
    given = asked.flags.get("seed")
    seed = given if isinstance(given, int) and given != -1 else None
    path = run_folders.find_checkpoint(named, asked.log_root, name, name, agent, LIBRARY, seed)
    return checkpoint.read(path)


def prepare_data(
    settings: ClassificationSettings,
    loaded: LoadedCheckpoint | None,
    device: str | None,
    fetch: bool = False,
    progress: ProgressFactory = no_progress,
) -> Trainer:
    """The data and a network: freshly drawn, or that of a checkpoint. What needs no data is refused before they are read.

    Args:
        settings: What the run is made from; the dataset's part of them is completed.
        loaded: The checkpoint that the run goes on from; None: a new run.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None: the GPU if there is one.
        fetch: Whether to download the dataset where it is not there.
        shown: Shows how far reading is.

    Raises:
        UserError: Something does not go together, or is not there.
    """
    if loaded is not None:
        _require_epochs(settings, loaded)
    device = resolve_device(device)
    if loaded is not None:
        checkpoint.require_memory(loaded, settings.spec, get_memory(device))
    _require_memory(settings, device)
    if loaded is not None and settings.flags.initial is None:  # of a run before there was a choice
        settings.flags = settings.flags.with_changes(initial="agent")
    trainer = _make_trainer(settings, device, fetch, progress)
    if loaded is None and settings.flags.initial == "data":
        scale_to_recordings(trainer.network, trainer.sample_frames())
    if loaded is not None:
        _require_same(trainer, loaded, settings.flags.ids)
        for key in ("network", "best"):
            checkpoint.require_weights(trainer.network, loaded.content[key], f"{loaded.path}: {key}")
        checkpoint.require_optimiser(trainer, loaded.content["optimizer"], f"{loaded.path}: optimizer")
        trainer.restore(dict(loaded.content))
        if device != loaded.identity["device"]:
            settings.changed["device"] = [loaded.identity["device"], device]
        log.info("resumed from %s after %d epochs", loaded.path, len(trainer.history.loss))
        for key, (before, now) in settings.changed.items():
            log.info("  --%s is %s now, and was %s", key, now, before)
    return trainer


def _require_epochs(settings: ClassificationSettings, loaded: LoadedCheckpoint) -> None:
    """Raise UserError where a run has nothing left to do."""
    history, flags = History(**loaded.content["history"]), settings.flags
    done = len(history.loss)
    assert flags.epochs is not None
    if done >= flags.epochs:
        raise UserError(
            f"--epochs {flags.epochs}: {loaded.path} has seen {done} epochs; --epochs is how many there are in all"
        )
    if flags.patience and history.epochs_without_improvement >= flags.patience:
        raise UserError(
            f"--patience {flags.patience}: {loaded.path} ended early by it after {done} epochs; 0 or more of it goes on"
        )


def _require_same(trainer: Trainer, loaded: LoadedCheckpoint, ids: str | None) -> None:
    """Raise CheckpointError where recordings or split are not those that the run began with."""
    if loaded.identity["data"] != trainer.samples.digest:
        where, what = "--data holds", "the folder"
        if ids is not None:
            where, what = f"--ids {ids!r} lists in --data", "the list and the folder"
        raise CheckpointError(
            f"{loaded.path}: was trained on other recordings than {where} now; name {what} that it began with"
        )
    if loaded.identity["split"] != trainer.split.digest:
        now = "" if ids is None else f" than --ids {ids!r} says now"
        raise CheckpointError(
            f"{loaded.path}: was trained on another split of these recordings{now}, of which some may be tested on now"
        )


def _require_memory(settings: ClassificationSettings, device: str, batch: int = MIN_BATCH) -> None:
    """Raise UserError where the network does not fit the ``device`` with the batches of the run, or of ``batch`` if none are given."""
    given = settings.flags.batch_size
    rows = f"batches of {batch} recordings" if given is None else f"--batch_size {given}"
    memory_check.require_memory(
        memory_check.compute_model_bytes(settings.spec, rows, given or batch), get_memory(device)
    )


def _make_trainer(
    settings: ClassificationSettings, device: str, fetch: bool, shown: ProgressFactory
) -> Trainer:
    """The data and a network, freshly drawn. Raises UserError."""
    flags = settings.flags
    folder = samples.data_folder(None if flags.data is None else Path(flags.data))
    settings.flags = flags = flags.with_changes(data=str(folder))
    configured = dataset_of(
        settings.dataset["name"], {k: v for k, v in settings.dataset.items() if k != "name"}
    )
    if fetch:
        download(configured, folder, shown)
    dataset = configured.build(data=folder)
    settings.dataset |= dataset.settings()
    settings.window = dataset.window
    if settings.unnamed is not None:
        settings.spec = agent_of(dataset.agent, settings.dataset["name"], settings.unnamed)
        _require_memory(settings, device)
    spec = settings.spec
    chosen = select_subset(
        dataset.recordings, flags.recordings, None if flags.ids is None else Path(flags.ids)
    )
    require_classes(dataset, chosen, folder)
    held = samples.load(settings.dataset["name"], dataset, chosen, flags.skip_bad, shown)
    how = spec.runner.get("frames", "turn")
    steps, inputs = get_sequence_shape(held.size, how)
    require_state(spec, steps)
    parted = split(held.labels, held.parts, flags.hold_out, flags.validation, flags.split)
    sized = _complete_sizes(flags, len(parted.train))
    assert sized.batch_size is not None
    _require_memory(settings, device, sized.batch_size)
    torch.manual_seed(flags.seed)
    random.seed(flags.seed)
    assert spec.network is not None and flags.shift is not None and flags.rotation is not None
    network = spec.network.build(inputs=inputs, outputs=len(held.classes))
    initial = flags.initial or (dataset.initial if isinstance(network, FeedForward) else "agent")
    settings.flags = flags = sized.with_changes(initial=initial)
    rate = spec.runner["algorithm"]["learning_rate"]
    training = Training(
        learning_rate=rate, frames=how, **{key: getattr(flags, key) for key in TRAINING_ONLY_KEYS}
    )
    return Trainer(network, held, parted, training, device)


def _complete_sizes(flags: ClassifyOptions, recordings: int) -> ClassifyOptions:
    """Return ``flags`` with the batches and epochs that fit a number of ``recordings`` where none are given."""
    batch_size = flags.batch_size or compute_batch_size(recordings)
    epochs = flags.epochs or compute_epochs(recordings, batch_size)
    return flags.with_changes(batch_size=batch_size, epochs=epochs)


def require_state(spec: AgentSpec, steps: int) -> None:
    """Raise UserError where frames come one after another and the network forgets each at once.

    Args:
        spec: The agent.
        steps: T, frames that its network takes one after another.
    """
    assert spec.network is not None
    if steps > 1 and not getattr(spec.network.options, "stateful", True):
        raise UserError(
            f"agent.network.stateful: a recording is {steps} frames, and this network forgets each at once;"
            " pass agent.network.stateful=true"
        )


def require_classes(dataset: Dataset, chosen: Sequence[Recording], folder: Path) -> None:
    """Raise UserError where recordings are nothing to learn classes from.

    Args:
        dataset: Whose recordings they are.
        chosen: Those that are used.
        folder: Where the data lie, for messages.
    """
    where = f"{dataset.title} in {str(folder)!r}"
    learned = {r.label for r in chosen if r.part == "train"} - {len(dataset.classes)}
    if not learned:
        raise UserError(
            f"{where}: all recordings are of the test set, so there is nothing to learn from;"
            " --evaluate --checkpoint RUN evaluates on them"
        )
    if unknown := [r for r in chosen if r.label < 0]:
        raise UserError(
            f"{dataset.path(unknown[0])}: has no class; put it into a folder of its class, or --predict it"
        )
    if len(learned) < 2:
        raise UserError(f"{where}: all recordings are of one class, so there is nothing to tell apart")


def download(dataset: ComponentSpec, folder: Path, shown: ProgressFactory = no_progress) -> None:
    """Fetch a dataset's archives. Raises UserError where there are none, or they cannot be had.

    Args:
        dataset: The dataset with its options.
        folder: The folder of all datasets.
        shown: Shows how far it is.
    """
    cls = class_of(dataset)
    if not cls.archives:
        names = registry.list_names("datasets")
        able = [name for name in names if getattr(registry.resolve("datasets", name), "archives", ())]
        raise UserError(f"--download: goes with {', '.join(able)} only, not with {dataset.name}")
    for archive in cls.archives:
        archive.fetch(folder / cls.home, shown)


class ClassificationRun:
    """A training with its run folder."""

    def __init__(
        self, trainer: Trainer, settings: ClassificationSettings, log_root: Path, run_name: str
    ) -> None:
        """Make the folder, with what the run is made from.

        Args:
            trainer: Data and network, as `prepare` gives them.
            settings: What they were made from.
            log_root: Folder of all runs.
            run_name: Suffix of the run's folder; empty: none.
        """
        held, parted, spec, seed = trainer.samples, trainer.split, settings.spec, settings.flags.seed
        self.trainer, self.settings = trainer, settings
        self.identity = {
            "dataset": held.name, "agent": spec.name, "seed": seed, "data": held.digest, "split": parted.digest,
            "spec": spec.to_dict(), "settings": settings.tree(), "shape": list(held.shape), "classes": list(held.classes),
            "window": list(settings.window), "scale": held.scale, "device": trainer.device,
            "overridden": list(settings.overridden),
        }  # fmt: skip
        name = format_dataset_label(held.name)
        self.folder = run_folders.create_run_folder(log_root, name, run_name, name, spec.name, LIBRARY, seed)
        run_folders.write_spec(self.folder, spec)
        results.write_recordings(self.folder, held, parted)
        counts = tuple(map(len, (parted.train, parted.validation, parted.test)))
        words = "%s on %s, %d samples to learn from, %d to choose by, %d to test on, %s, seed %d"
        log.info(words, spec.name, held.name, *counts, trainer.device, seed)
        log.info("run folder: %s", self.folder)
        self.board = boards.writer(self.folder)
        self.latest: Path | None = None
        """The last checkpoint; None before the first."""

    @property
    def title(self) -> str:
        """Agent and dataset."""
        return f"{self.settings.spec.name} on {self.trainer.samples.name}"

    def learn(self, asked: StopRequest, display: Callable[[Epoch], object]) -> str:
        """Train to the end, or until a stop is asked for.

        Args:
            asked: Tells whether to stop.
            display: Is shown every epoch.

        Returns:
            How it ended: ``finished``, ``stopped`` or ``failed: why``.
        """
        try:
            for epoch in self.trainer.epochs():
                path = self.folder / f"model_{epoch.index}.pt"
                results.save(path, self.trainer, self.identity)
                before, self.latest = self.latest, path
                if before is not None:
                    before.unlink()
                if self.trainer.history.best == epoch.index:
                    results.save(self.folder / run_folders.BEST, self.trainer, self.identity)
                display(epoch)
                if self.board is not None:
                    boards.write_epoch(self.board, epoch)
                if asked() and epoch.index < epoch.last:
                    return "stopped"
        except KeyboardInterrupt:
            return "stopped"
        except FloatingPointError as error:
            return f"failed: {error}"
        return "finished"

    def write_result(self, outcome: str) -> dict[str, Any] | None:
        """Write what came of the run: ``result.json`` and pictures.

        Args:
            outcome: How it ended, as `learn` says.

        Returns:
            The result; None where there is no checkpoint yet, and so nothing to tell of.
        """
        with ExitStack() as ends:
            if self.board is not None:
                ends.callback(self.board.close)
            if self.latest is None:
                return None
            if outcome != "finished":  # perhaps within an epoch, or with weights that are no numbers
                self.trainer.restore(results.read(self.latest, self.trainer.device))
            settings = self.settings
            result = results.write_result(
                self.folder, self.trainer, settings.tree(), settings.spec, outcome, settings.changed
            )
            if result["accuracy"] is not None:
                title = f"{self.title}: {result['accuracy']:.1%} of {len(self.trainer.split.test)}"
                boards.write_confusion(self.folder, self.board, result, title)
            return result

    def compare(
        self, result: dict[str, Any], asked: StopRequest, shown: ProgressFactory = no_progress
    ) -> None:
        """Train the ANN that the run asks for on the same frames, and add what came of it to the ``result`` and its file.

        Args:
            result: A finished run's, as `keep` gives it.
            asked: Tells whether to stop: then the ANN is left out.
            shown: Shows how far it is.
        """
        if self.settings.flags.ann == "mlp":
            result["ann"] = anns.train(self.trainer, self.settings.flags.seed, asked, shown)
            results.write(self.folder, result)
