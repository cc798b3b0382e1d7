"""Inference with a trained classifier on new recordings: its accuracy, or the class of each recording."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from spiky_rl.classification import checkpoint, samples, split
from spiky_rl.classification import result as results
from spiky_rl.classification.checkpoint import LoadedCheckpoint
from spiky_rl.classification.samples import Samples
from spiky_rl.classification.settings import (
    FRAME_KEYS,
    OWN_DATA,
    ClassifyRequest,
    configure_dataset,
    load_run_agent,
    require_code_named,
)
from spiky_rl.classification.training import compute_confusion, compute_probabilities, get_sequence_shape
from spiky_rl.config import files, registry
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.datasets._events import MissingData
from spiky_rl.datasets.base import UNKNOWN, Dataset, to_time_unit
from spiky_rl.learners.common.runner import wrap_load_errors
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.run.devices import get_memory, resolve_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedClassifier:
    """The best network of a run, with recordings for inference."""

    loaded: LoadedCheckpoint
    agent: str
    network: SpikingNetwork
    frame_mode: str
    """See `TrainerSettings.frame_mode`."""
    device: str
    samples: Samples
    seen: np.ndarray
    """[samples]: whether the network was trained with the sample."""
    other_parts: int = 0
    """Number of recordings outside the test set, which are left out."""

    def compute_probabilities(self, indices: np.ndarray) -> np.ndarray:
        """Return the class probabilities of samples, [samples, classes]."""
        batch_size = self.loaded.identity["settings"]["flags"]["batch_size"]
        return compute_probabilities(
            self.network, self.samples, indices, self.device, batch_size, self.frame_mode
        )


def load_classifier(
    request: ClassifyRequest,
    loaded: LoadedCheckpoint,
    device: str | None,
    only_tests: bool,
    open_progress: ProgressFactory = no_progress,
) -> TrainedClassifier:
    """Load a run's best network and the requested recordings; only those of the test set if ``only_tests`` and there is one.

    Everything but the recordings is as in the run. Raises UserError.
    """
    identity = loaded.identity
    require_code_named(request, loaded)
    device = resolve_device(device)
    spec, _ = load_run_agent(request, loaded)
    checkpoint.require_memory(loaded, spec, get_memory(device))
    loaded_samples, other_parts = _load_samples(request, identity, only_tests, open_progress)
    frame_mode = spec.get_setting("frames")
    _, inputs = get_sequence_shape(loaded_samples.size, frame_mode)
    assert spec.network is not None
    network = spec.network.build(inputs=inputs, outputs=len(identity["classes"])).to(device)
    with wrap_load_errors(str(loaded.path)):
        network.load_state_dict(loaded.content["best"])
    seen = np.isin(loaded_samples.digests.view(np.int64), loaded.content["learned"].numpy())
    return TrainedClassifier(
        loaded, spec.name, network, frame_mode, device, loaded_samples, seen, other_parts
    )


def predict(trained: TrainedClassifier, out: Path | None) -> Path:
    """Write a CSV with the class of each recording to ``out``, by default in the run's folder; return its path.

    Raises UserError if the file cannot be written.
    """
    recordings, classes = trained.samples, trained.samples.classes
    out = out or trained.loaded.path.parent / f"predictions_{recordings.digest[:8]}.csv"
    files.require_file("--out", out)
    rows: list[tuple[str, ...]] = [
        ("recording", "label", "predicted", "seen", *(f"score_{c}" for c in classes))
    ]
    for i, row in enumerate(trained.compute_probabilities(np.arange(len(recordings)))):
        known = classes[recordings.labels[i]] if recordings.labels[i] >= 0 else ""
        seen = "yes" if trained.seen[i] else "no"
        rows.append((recordings.names[i], known, classes[row.argmax()], seen, *(f"{v:.6g}" for v in row)))
    results.write_csv(out, rows)
    return out


def evaluate(trained: TrainedClassifier, out: Path | None) -> tuple[Path, dict[str, Any]]:
    """Write the accuracy on recordings that the network was not trained with to ``out``; return its path and its content.

    The default of ``out`` is a file in the run's folder. Raises UserError if there is no such recording, or the file cannot be written.
    """
    recordings, count_seen = trained.samples, int(trained.seen.sum())
    out = out or trained.loaded.path.parent / f"evaluation_{recordings.digest[:8]}.json"
    files.require_file("--out", out)
    fresh = np.flatnonzero(~trained.seen & (recordings.labels >= 0))
    if len(fresh) == 0:
        raise UserError(
            f"--evaluate: of {len(recordings)} recordings the network was trained with {count_seen}, and the others have no class;"
            " name other ones with --data"
        )
    counts = compute_confusion(
        recordings.labels[fresh], trained.compute_probabilities(fresh).argmax(1), len(recordings.classes)
    )
    right, count = int(counts.trace()), len(fresh)
    result = {
        "checkpoint": str(trained.loaded.path), "dataset": recordings.name, "data_hash": recordings.digest, "accuracy": right / count,
        "interval_95": list(binomtest(right, count).proportion_ci(0.95, "wilson")), "samples": count, "trained_with": count_seen,
        "without_class": int((recordings.labels < 0).sum()), "other_parts": trained.other_parts, "skipped": list(recordings.skipped),
        "classes": list(recordings.classes), "confusion": counts.tolist(),
    }  # fmt: skip
    files.write_json(out, result)
    return out, result


def _load_samples(
    request: ClassifyRequest, identity: Mapping[str, Any], only_tests: bool, open_progress: ProgressFactory
) -> tuple[Samples, int]:
    """Return the requested samples, with the network's labels, and the number of recordings of other parts. Raises UserError."""
    flags, known = request.flags, identity["classes"]
    folder = samples.get_data_folder(Path(str(flags.get("data") or identity["settings"]["flags"]["data"])))
    name, dataset = _open_dataset(request, identity, folder)
    _require_fit(dataset, identity, folder)
    if list(dataset.window) != identity["window"] and "window" not in request.get_dataset_options():
        raise UserError(
            f"--dataset {name}: its recordings are from {dataset.window[0]} to {dataset.window[1]}; the network expects frames of the"
            f" time from {identity['window'][0]} to {identity['window'][1]}"
        )
    ids: Any = flags.get("ids")
    count: Any = flags.get("recordings")
    requested = split.select_subset(dataset.recordings, count, ids and Path(ids))
    tests = [r for r in requested if r.part == "test"] if only_tests else []
    index = {UNKNOWN: UNKNOWN} | {label: known.index(name) for label, name in enumerate(dataset.classes)}
    chosen = [replace(r, label=index[r.label]) for r in tests or requested]
    loaded_samples = samples.load_samples(name, dataset, chosen, bool(flags.get("skip_bad")), open_progress)
    loaded_samples = replace(loaded_samples, scale=identity["scale"], classes=tuple(known))
    return loaded_samples, len(requested) - len(chosen)


def _require_fit(dataset: Dataset, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if the ``dataset`` in ``folder`` has frames or classes that the network of a checkpoint does not know."""
    if list(dataset.shape) != identity["shape"]:
        raise UserError(
            f"--data: {dataset.title} in {str(folder)!r} has frames of {list(dataset.shape)}; the network expects"
            f" {identity['shape']} (channels, rows, columns)"
        )
    known = identity["classes"]
    if unknown := [c for c in dataset.classes if c not in known]:
        raise UserError(
            f"--data: class {unknown[0]!r} of {dataset.title} is unknown to the network; allowed: {', '.join(known)}"
        )


def _open_dataset(request: ClassifyRequest, identity: Mapping[str, Any], folder: Path) -> tuple[str, Dataset]:
    """Return name and reader of the dataset in ``folder``: the request's dataset, else the checkpoint's, else custom recordings.

    The folder is read as custom recordings if the request names only a folder, whose layout is not that of the checkpoint's dataset.
    """
    trained, requested_options = identity["settings"]["dataset"], request.get_dataset_options()
    name = trained["name"]
    frames = {key: trained[key] for key in FRAME_KEYS}
    others = {"others": "unlabelled"} if request.predict else {}
    if request.dataset not in (None, name, OWN_DATA):
        other = configure_dataset(request.dataset, {**frames, **requested_options})
        return request.dataset, other.build(data=folder)
    if name == OWN_DATA:
        return name, _build_trained_dataset(trained, {**others, **requested_options}, folder)
    if request.dataset is None:
        # a folder that the user names may have another layout
        if "data" not in request.flags or _has_trained_layout(trained, folder):
            return name, _build_trained_dataset(trained, requested_options, folder)
        log.info("%s does not have the layout of %s; reading it as custom recordings", folder, name)
    elif request.dataset == name:
        return name, _build_trained_dataset(trained, requested_options, folder)
    channels, *sensor = identity["shape"]
    layout = {
        "sensor": sensor,
        "channels": channels,
        "window": identity["window"],
        "time": get_time_unit(trained),
    }
    options = {**frames, **layout, **others, "names": identity["classes"], **requested_options}
    return OWN_DATA, configure_dataset(OWN_DATA, options).build(data=folder)


def _has_trained_layout(trained: Mapping[str, Any], folder: Path) -> bool:
    """Return whether ``folder`` has the layout of the checkpoint's dataset."""
    try:
        dataset = _build_trained_dataset(trained, {}, folder)
    except MissingData:
        return False
    # a dataset that reads no files is the same for any folder
    return any(r.store for r in dataset.recordings)


def _build_trained_dataset(
    trained: Mapping[str, Any], requested_options: Mapping[str, Any], folder: Path
) -> Dataset:
    """Return the dataset of a run in ``folder``, with its settings ``trained`` replaced by the ``requested_options``."""
    return configure_dataset(trained["name"], {**trained, **requested_options}).build(data=folder)


def get_time_unit(dataset_settings: Mapping[str, Any]) -> str:
    """Return the unit of times in a run's recordings; empty if the dataset is a user's class that does not set it."""
    if dataset_settings["name"] in registry.list_names("datasets") and "time" not in dataset_settings:
        cls = registry.resolve("datasets", dataset_settings["name"])
        assert issubclass(cls, Dataset)
        return to_time_unit(cls.times_are_steps)
    return dataset_settings.get("time", "")
