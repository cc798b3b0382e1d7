"""A classifier's training: from its settings to a run folder with checkpoints, result and pictures."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from spiky_rl.classification import ann as anns
from spiky_rl.classification import checkpoint, samples
from spiky_rl.classification import result as results
from spiky_rl.classification.checkpoint import ClassifierIdentity, LoadedCheckpoint
from spiky_rl.classification.initial import scale_to_recordings
from spiky_rl.classification.settings import (
    LIBRARY,
    ClassificationSettings,
    ClassifyOptions,
    ClassifyRequest,
    configure_dataset,
    format_dataset_label,
    get_dataset_class,
    load_agent,
    resume_settings,
)
from spiky_rl.classification.split import select_subset, split
from spiky_rl.classification.training import Epoch, History, Trainer, TrainerSettings, get_sequence_shape
from spiky_rl.config import files, memory_check, registry
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, format_count, no_progress
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.safe_loading import ReadingError, parse_json, read_file
from spiky_rl.config.spec import AgentSpec
from spiky_rl.datasets.base import Dataset, Recording
from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint
from spiky_rl.learners.common.runner import wrap_load_errors
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.run import run_folders
from spiky_rl.run.command import StopRequest
from spiky_rl.run.devices import get_memory, resolve_device

log = logging.getLogger(__name__)

TRAINER_KEYS = ("epochs", "batch_size", "schedule", "label_smoothing", "shift", "rotation", "patience")
"""Flags that become settings of the trainer."""
MIN_UPDATES = 1500
"""The default number of epochs gives at least this many optimiser steps, unless that needs more than `MAX_EPOCHS`."""
MIN_EPOCHS, MAX_EPOCHS = 30, 500
MIN_BATCH, MAX_BATCH = 16, 50
BATCHES_PER_EPOCH = 10
"""Number of batches per epoch, if the batch size is between its bounds."""


def create_run(
    request: ClassifyRequest,
    settings: ClassificationSettings | None,
    open_progress: ProgressFactory = no_progress,
) -> ClassificationRun:
    """Create a run; without ``settings`` it resumes the request's checkpoint. Raises UserError."""
    loaded = None
    if settings is None:
        loaded = find_checkpoint(request)
        settings = resume_settings(request, loaded)
    trainer = prepare_trainer(settings, loaded, request.device, request.download, open_progress)
    return ClassificationRun(trainer, settings, request.log_root, request.run_name)


def find_checkpoint(request: ClassifyRequest) -> LoadedCheckpoint:
    """Find and read the checkpoint of a request, by its dataset, agent and seed. Raises UserError."""
    checkpoint_name = request.checkpoint
    assert checkpoint_name is not None
    if request.dataset is None and checkpoint_name in ("latest", "best"):
        raise UserError(
            f"--checkpoint {checkpoint_name}: name the --dataset too, or the run's folder instead"
        )
    folder_name = _find_folder_name(request.log_root, format_dataset_label(request.dataset or "any"))
    agent = None if request.agent is None else Path(request.agent).stem
    seed = request.flags.get("seed")
    if not isinstance(seed, int) or seed == -1:
        seed = None
    path = run_folders.find_checkpoint(
        checkpoint_name,
        request.log_root,
        experiment=folder_name,
        task=folder_name,
        agent=agent,
        library=LIBRARY,
        seed=seed,
    )
    return checkpoint.read(path)


def _find_folder_name(log_root: Path, dataset: str) -> str:
    """Return the name of the folder with a dataset's runs: the dataset's name, or an old name if only such a folder exists."""
    old_names = [old for (kind, old), new in registry.RENAMED.items() if (kind, new) == ("datasets", dataset)]
    for name in (dataset, *old_names):
        if (log_root / LIBRARY / name).is_dir():
            return name
    return dataset


def prepare_trainer(
    settings: ClassificationSettings,
    loaded: LoadedCheckpoint | None,
    device: str | None,
    fetch: bool = False,
    open_progress: ProgressFactory = no_progress,
) -> Trainer:
    """Return a trainer with the data and a network, new or from the checkpoint ``loaded``. Checks that need no data come first.

    Adds the values that depend on the data to ``settings``; downloads the dataset if ``fetch`` and it is missing. Raises UserError if
    settings contradict each other, or data are missing.
    """
    _require_patience(settings.flags, settings.flags.validation)
    if loaded is not None:
        return _prepare_resume(settings, loaded, device, fetch, open_progress)
    device = resolve_device(device)
    _require_memory(settings, device)
    trainer = _make_trainer(settings, device, fetch, open_progress)
    if settings.flags.initial == "data":
        scale_to_recordings(trainer.network, trainer.sample_frames())
    return trainer


def _prepare_resume(
    settings: ClassificationSettings,
    loaded: LoadedCheckpoint,
    device: str | None,
    fetch: bool,
    open_progress: ProgressFactory,
) -> Trainer:
    """Return a trainer with the data and the state of the checkpoint ``loaded``. See `prepare_trainer`."""
    _require_epochs(settings, loaded)
    device = resolve_device(device)
    checkpoint.require_memory(loaded, settings.spec, get_memory(device))
    _require_memory(settings, device)
    if settings.flags.initial is None:  # a run from before this option existed
        settings.flags = settings.flags.with_changes(initial="agent")
    trainer = _make_trainer(settings, device, fetch, open_progress)
    _require_same(trainer, loaded, settings.flags.ids)
    with wrap_load_errors(str(loaded.path)):
        # checks that the best weights fit; `restore` loads the latest ones
        trainer.network.load_state_dict(loaded.content["best"])
        trainer.restore(dict(loaded.content))
    if device != loaded.identity["device"]:
        settings.changed["device"] = [loaded.identity["device"], device]
    log.info("resumed from %s after %s", loaded.path, format_count(len(trainer.history.loss), "epoch"))
    for key, (before, now) in settings.changed.items():
        log.info("  --%s is %s now, was %s", key, now, before)
    return trainer


def _require_epochs(settings: ClassificationSettings, loaded: LoadedCheckpoint) -> None:
    """Raise UserError if a resumed run has no epochs left and has its result; it may have been killed before that was written."""
    history, flags = History(**loaded.content["history"]), settings.flags
    done = len(history.loss)
    assert flags.epochs is not None
    if not _has_result(loaded.path.parent, flags.ann):
        return
    if done >= flags.epochs:
        raise UserError(
            f"--epochs {flags.epochs}: {loaded.path} has done {done} epochs; --epochs is the total number"
        )
    if flags.patience and history.epochs_without_improvement >= flags.patience:
        raise UserError(
            f"--patience {flags.patience}: {loaded.path} ended early by it after {done} epochs; a larger value or 0 resumes it"
        )


def _has_result(folder: Path, ann: str | None) -> bool:
    """Return whether the run in ``folder`` has a readable result, with its ``ann`` if the training ended and has one."""
    try:
        result = read_file(folder / results.RESULT, parse_json)
    except ReadingError:
        return False
    if not isinstance(result, dict):
        return False
    return result.get("outcome") != "finished" or ann != anns.NAME or result.get("ann") is not None


def _require_patience(flags: ClassifyOptions, n_validation: int | None) -> None:
    """Raise UserError if ``--patience`` is set without validation recordings; ``n_validation`` is None if their number is not known yet."""
    if flags.patience and n_validation == 0:
        raise UserError(
            f"--patience {flags.patience}: not available without validation recordings; pass --patience 0, or --validation K"
        )


def _require_same(trainer: Trainer, loaded: LoadedCheckpoint, ids: str | None) -> None:
    """Raise CheckpointError if recordings or split differ from the resumed run."""
    if loaded.identity["data"] != trainer.samples.digest:
        where, remedy = "--data holds", "the folder"
        if ids is not None:
            where, remedy = f"--ids {ids!r} lists in --data", "the list and the folder"
        raise CheckpointError(
            f"{loaded.path}: was trained on other recordings, or another window of them, than {where} now;"
            f" name {remedy} that it began with"
        )
    if loaded.identity["split"] != trainer.split.digest:
        now = "" if ids is None else f" than that of --ids {ids!r}"
        raise CheckpointError(
            f"{loaded.path}: was trained on another split of these recordings{now}; some of them might now be in the test set"
        )


def _require_memory(settings: ClassificationSettings, device: str, batch: int = MIN_BATCH) -> None:
    """Raise UserError if the network and a batch do not fit into the memory of ``device``.

    ``batch`` is the number of recordings in a batch if the run does not set ``--batch_size``.
    """
    text = f"batches of {batch} recordings"
    if settings.flags.batch_size is not None:
        batch = settings.flags.batch_size
        text = f"--batch_size {batch}"
    needed = memory_check.compute_model_bytes(settings.spec, text, batch)
    memory_check.require_memory(needed, get_memory(device))


def _make_trainer(
    settings: ClassificationSettings, device: str, fetch: bool, open_progress: ProgressFactory
) -> Trainer:
    """Return a trainer with the data and a new network; complete ``settings`` by what the data determine. Raises UserError."""
    dataset, folder = _open_dataset(settings, fetch, open_progress)
    if settings.pending_overrides is not None:
        settings.spec = load_agent(dataset.agent, settings.dataset["name"], settings.pending_overrides)
        _require_memory(settings, device)
    loaded_samples = _load_samples(settings, dataset, folder, open_progress)
    frame_mode = settings.spec.get_setting("frames")
    steps, inputs = get_sequence_shape(loaded_samples.size, frame_mode)
    require_state(settings.spec, steps)
    flags = settings.flags
    drawn_split = split(loaded_samples, flags.hold_out, flags.validation, flags.split)
    _require_patience(flags, len(drawn_split.validation))
    recordings = len(drawn_split.train)
    batch_size = flags.batch_size or compute_batch_size(recordings)
    epochs = flags.epochs or compute_epochs(recordings, batch_size)
    _require_memory(settings, device, batch_size)
    network = _build_network(settings.spec, inputs, len(loaded_samples.classes), flags.seed)
    initial = flags.initial or (dataset.initial if isinstance(network, FeedForward) else "agent")
    settings.flags = flags = flags.with_changes(batch_size=batch_size, epochs=epochs, initial=initial)
    training = TrainerSettings(
        learning_rate=settings.spec.runner["algorithm"]["learning_rate"],
        frame_mode=frame_mode,
        **{key: getattr(flags, key) for key in TRAINER_KEYS},
    )
    return Trainer(network, loaded_samples, drawn_split, training, device)


def _open_dataset(
    settings: ClassificationSettings, fetch: bool, open_progress: ProgressFactory
) -> tuple[Dataset, Path]:
    """Return the dataset and its folder, after a download if ``fetch``; set both in ``settings``."""
    data = settings.flags.data
    folder = samples.get_data_folder(None if data is None else Path(data))
    settings.flags = settings.flags.with_changes(data=str(folder))
    configured = configure_dataset(settings.dataset["name"], settings.dataset)
    if fetch:
        download(configured, folder, open_progress)
    dataset = configured.build(data=folder)
    settings.dataset |= dataset.settings()
    settings.window = dataset.window
    return dataset, folder


def _load_samples(
    settings: ClassificationSettings, dataset: Dataset, folder: Path, open_progress: ProgressFactory
) -> samples.Samples:
    """Return the recordings that the run chooses from a ``dataset``. Raises UserError if no classes can be learned from them."""
    flags = settings.flags
    ids = None if flags.ids is None else Path(flags.ids)
    chosen = select_subset(dataset.recordings, flags.recordings, ids)
    require_classes(dataset, chosen, folder)
    loaded_samples = samples.load_samples(
        settings.dataset["name"], dataset, chosen, flags.skip_bad, open_progress
    )
    if loaded_samples.skipped:
        names = {*loaded_samples.names}
        require_classes(dataset, [r for r in chosen if r.name in names], folder)
    return loaded_samples


def _build_network(spec: AgentSpec, inputs: Any, outputs: int, seed: int) -> SpikingNetwork:
    """Return the agent's network with initial weights drawn from ``seed``, which also sets all later random draws."""
    assert spec.network is not None
    torch.manual_seed(seed)
    random.seed(seed)
    network: SpikingNetwork = spec.network.build(inputs=inputs, outputs=outputs)
    return network


def compute_batch_size(recordings: int) -> int:
    """Return the batch size for a number of training ``recordings``: a tenth of them, within bounds."""
    return min(max(MIN_BATCH, math.ceil(recordings / BATCHES_PER_EPOCH)), MAX_BATCH)


def compute_epochs(recordings: int, batch_size: int) -> int:
    """Return the number of epochs with `MIN_UPDATES` optimiser steps in batches of ``batch_size``, within bounds."""
    per_epoch = math.ceil(recordings / batch_size)
    return min(max(MIN_EPOCHS, math.ceil(MIN_UPDATES / per_epoch)), MAX_EPOCHS)


def require_state(spec: AgentSpec, steps: int) -> None:
    """Raise UserError if the network takes several frames (``steps``) one after another, but is stateless."""
    assert spec.network is not None
    if steps > 1 and not getattr(spec.network.options, "stateful", True):
        raise UserError(
            f"agent.network.stateful: false given; a recording has {steps} frames, which need a stateful network;"
            " pass agent.network.stateful=true"
        )


def require_classes(dataset: Dataset, chosen: Sequence[Recording], folder: Path) -> None:
    """Raise UserError if no classes can be learned from the ``chosen`` recordings; ``folder`` is for messages."""
    where = f"{dataset.title} in {str(folder)!r}"
    usable = [r for r in chosen if not r.fault]
    learned = {r.label for r in usable if r.part == "train"}
    if not learned:
        raise UserError(
            f"{where}: all recordings are in the test set, none are left for training;"
            " --evaluate --checkpoint RUN evaluates on them"
        )
    if unknown := [r for r in usable if r.label < 0]:
        raise UserError(
            f"{dataset.path(unknown[0])}: has no class; put it into a folder of its class, or --predict it"
        )
    if len(learned) < 2:
        raise UserError(f"{where}: all recordings are of one class; at least two are needed")


def download(dataset: ComponentSpec, folder: Path, open_progress: ProgressFactory = no_progress) -> None:
    """Download a dataset's archives into the ``folder`` of all datasets. Raises UserError if it has none, or the download fails."""
    cls = get_dataset_class(dataset)
    if not cls.archives:
        names = registry.list_names("datasets")
        supported = [name for name in names if getattr(registry.resolve("datasets", name), "archives", ())]
        raise UserError(f"--download: not available for {dataset.name}; allowed: {', '.join(supported)}")
    for archive in cls.archives:
        archive.fetch(folder / cls.home, open_progress)


class ClassificationRun:
    """A training with its run folder."""

    def __init__(
        self, trainer: Trainer, settings: ClassificationSettings, log_root: Path, run_name: str
    ) -> None:
        """Make the run folder, below ``log_root`` and with an optional suffix ``run_name``, and write the run's specification.

        Raises RegistryError if the run's checkpoints could not be read again.
        """
        data, split_, spec, seed = trainer.samples, trainer.split, settings.spec, settings.flags.seed
        self.trainer, self.settings = trainer, settings
        self.identity = {
            "dataset": data.name, "agent": spec.name, "seed": seed, "data": data.digest, "split": split_.digest,
            "spec": spec.to_dict(), "settings": settings.to_dict(), "shape": list(data.shape), "classes": list(data.classes),
            "window": list(settings.window), "scale": data.scale, "device": trainer.device,
            "overridden": list(settings.overridden),
        }  # fmt: skip
        # a dataset of the user may declare what no checkpoint can hold
        ClassifierIdentity.check("dataset", self.identity)
        name = format_dataset_label(data.name)
        self.folder = run_folders.create_run_folder(log_root, name, run_name, name, spec.name, LIBRARY, seed)
        run_folders.write_spec(self.folder, spec)
        results.write_recordings(self.folder, data, split_)
        log.info(
            "%s on %s, %d training samples, %d for validation, %d for testing, %s, seed %d",
            spec.name, data.name, len(split_.train), len(split_.validation), len(split_.test), trainer.device, seed,
        )  # fmt: skip
        log.info("run folder: %s", self.folder)
        self.board = results.open_board(self.folder)
        self.latest: Path | None = None
        """The last checkpoint; None before the first one."""

    @property
    def title(self) -> str:
        """Agent and dataset."""
        return f"{self.settings.spec.name} on {self.trainer.samples.name}"

    def learn(self, stop: StopRequest, display: Callable[[Epoch], object]) -> str:
        """Train to the end or until a stop is requested; return the outcome: ``finished``, ``stopped`` or ``failed: reason``.

        ``display`` is called after every epoch.
        """
        try:
            if done := len(self.trainer.history.loss):  # resumed; perhaps no epoch is left
                self.latest = self.folder / f"model_{done - 1}.pt"
                results.save(self.latest, self.trainer, self.identity)
            for epoch in self.trainer.run_epochs():
                path = self.folder / f"model_{epoch.index}.pt"
                results.save(path, self.trainer, self.identity)
                previous, self.latest = self.latest, path
                if previous is not None:
                    previous.unlink(missing_ok=True)
                if self.trainer.history.best_epoch == epoch.index:
                    results.save(self.folder / run_folders.BEST, self.trainer, self.identity)
                display(epoch)
                if self.board is not None:
                    results.write_epoch(self.board, epoch)
                if stop() and epoch.index < epoch.last:
                    return "stopped"
        except KeyboardInterrupt:
            return "stopped"
        except FloatingPointError as error:
            return f"failed: {error}"
        return "finished"

    def write_result(self, outcome: str) -> dict[str, Any] | None:
        """Write ``result.json`` and pictures, given the outcome of `learn`; return the result, None if there is no checkpoint yet."""
        with ExitStack() as cleanup:
            if self.board is not None:
                cleanup.callback(self.board.close)
            if self.latest is None:
                return None
            if outcome != "finished":
                # the trainer may be in the middle of an epoch, or have non-finite weights
                self.trainer.restore(read_checkpoint(str(self.latest), self.trainer.device, LIBRARY))
            settings = self.settings
            result = results.write_result(
                self.folder, self.trainer, settings.to_dict(), settings.spec, outcome, settings.changed
            )
            if result["accuracy"] is not None:
                title = f"{self.title}: {result['accuracy']:.1%} of {len(self.trainer.split.test)}"
                results.write_confusion(self.folder, self.board, result, title)
            return result

    def compare(
        self, result: dict[str, Any], stop: StopRequest, open_progress: ProgressFactory = no_progress
    ) -> None:
        """With ``--ann mlp``, train an ANN on the same frames; add its entry to ``result`` and write ``result.json`` again."""
        if self.settings.flags.ann == anns.NAME:
            result["ann"] = anns.train(self.trainer, self.settings.flags.seed, stop, open_progress)
            files.write_json(self.folder / results.RESULT, result)
