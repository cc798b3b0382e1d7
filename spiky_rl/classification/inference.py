"""A trained network on recordings that it has not seen: its accuracy, or the class of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spiky_rl.classification import checkpoint, samples, split
from spiky_rl.classification import result as results
from spiky_rl.classification.loaded import LoadedCheckpoint
from spiky_rl.classification.samples import Samples
from spiky_rl.classification.settings import ClassifyRequest, dataset_of, is_custom, require_code_named
from spiky_rl.classification.training import compute_confusion, compute_scores
from spiky_rl.classification.training import get_sequence_shape as shape_of
from spiky_rl.config import files, registry
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.datasets._events import MissingData
from spiky_rl.datasets.base import TIMES, Dataset
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.run.devices import get_memory, resolve_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedClassifier:
    """The best network of a run, and recordings for it."""

    loaded: LoadedCheckpoint
    agent: str
    network: SpikingNetwork
    frames: str
    """How it sees a recording's frames, as `training.Settings` says."""
    device: str
    held: Samples
    seen: np.ndarray
    """[samples], whether the network was trained with each."""
    elsewhere: int = 0
    """Recordings of other parts than the test set, which are left out."""

    def scores(self, indices: np.ndarray) -> np.ndarray:
        """How much speaks for each class of some samples, [samples, classes]."""
        return compute_scores(self.network, self.held, indices, self.device, self.frames)


def load_classifier(
    request: ClassifyRequest,
    loaded: LoadedCheckpoint,
    device: str | None,
    only_tests: bool,
    shown: ProgressFactory = no_progress,
) -> TrainedClassifier:
    """Read a run's best network and the recordings that are asked for. Raises UserError.

    Args:
        asked: Which recordings; what is not said of them is as in the run.
        loaded: The run's checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None: the GPU if there is one.
        only_tests: Whether to leave out, where there is a test set, what is not of it.
        shown: Shows how far reading is.
    """
    identity = loaded.identity
    require_code_named(request, loaded)
    device = resolve_device(device)
    spec = loaded.spec()
    checkpoint.require_memory(loaded, spec, get_memory(device))
    held, elsewhere = _recordings(request, identity, only_tests, shown)
    how = spec.runner.get("frames", "turn")
    _, inputs = shape_of(held.size, how)
    assert spec.network is not None
    network = spec.network.build(inputs=inputs, outputs=len(identity["classes"])).to(device)
    checkpoint.require_weights(network, loaded.content["best"], f"{loaded.path}: best")
    network.load_state_dict(loaded.content["best"])
    learned = np.isin(held.digests.view(np.int64), loaded.content["learned"].numpy())
    return TrainedClassifier(loaded, spec.name, network, how, device, held, learned, elsewhere)


def predict(trained: TrainedClassifier, out: Path | None) -> Path:
    """Write a CSV with the class of each recording; returns where. Raises UserError where it cannot be written.

    Args:
        trained: Network and recordings.
        out: The file; None: one in the run's folder.
    """
    held, classes = trained.held, trained.held.classes
    out = out or trained.loaded.path.parent / f"predictions_{held.digest[:8]}.csv"
    files.require_file("--out", out)
    rows: list[tuple[str, ...]] = [
        ("recording", "label", "predicted", "seen", *(f"score_{c}" for c in classes))
    ]
    for i, row in enumerate(trained.scores(np.arange(len(held)))):
        known = classes[held.labels[i]] if held.labels[i] >= 0 else ""
        seen = "yes" if trained.seen[i] else "no"
        rows.append((held.names[i], known, classes[row.argmax()], seen, *(f"{v:.6g}" for v in row)))
    results.write_csv(out, rows)
    return out


def evaluate(trained: TrainedClassifier, out: Path | None) -> tuple[Path, dict[str, Any]]:
    """Write the accuracy on the recordings that the network was not trained with; returns where, and what that file says.

    Args:
        trained: Network and recordings.
        out: The file; None: one in the run's folder.

    Raises:
        UserError: There is no such recording, or the file cannot be written.
    """
    held, count_seen = trained.held, int(trained.seen.sum())
    out = out or trained.loaded.path.parent / f"evaluation_{held.digest[:8]}.json"
    files.require_file("--out", out)
    fresh = np.flatnonzero(~trained.seen & (held.labels >= 0))
    if len(fresh) == 0:
        raise UserError(
            f"--evaluate: of {len(held)} recordings the network was trained with {count_seen}, and the others have no class;"
            " name other ones with --data"
        )
    counts = compute_confusion(held.labels[fresh], trained.scores(fresh).argmax(1), len(held.classes))
    right, count = int(counts.trace()), len(fresh)
    result = {
        "checkpoint": str(trained.loaded.path), "dataset": held.name, "data_hash": held.digest, "accuracy": right / count,
        "interval_95": list(compute_wilson_interval(right, count)), "samples": count, "trained_with": count_seen,
        "without_class": int((held.labels < 0).sum()), "other_parts": trained.elsewhere, "skipped": list(held.skipped), "classes": list(held.classes),
        "confusion": counts.tolist(),
    }  # fmt: skip
    files.write_json(out, result)
    return out, result


def _recordings(
    asked: ClassifyRequest, identity: Mapping[str, Any], only_tests: bool, shown: ProgressFactory
) -> tuple[Samples, int]:
    """The samples that are asked for, labelled as the network counts its classes, and how many are of other parts. Raises UserError."""
    given = asked.flags
    folder = samples.data_folder(Path(str(given.get("data") or identity["settings"]["flags"]["data"])))
    name, dataset = _reader(asked, identity, folder)
    where, known = f"--data: {dataset.title} in {str(folder)!r}", identity["classes"]
    if list(dataset.shape) != identity["shape"]:
        raise UserError(
            f"{where} has frames of {list(dataset.shape)}, and the network sees {identity['shape']}"
            " (channels, rows, columns)"
        )
    if unknown := [c for c in dataset.classes if c not in known]:
        raise UserError(
            f"--data: class {unknown[0]!r} of {dataset.title} is none that the network tells: {', '.join(known)}"
        )
    count, ids = given.get("recordings"), given.get("ids")
    assert count is None or isinstance(count, int)
    chosen = split.select_subset(dataset.recordings, count, None if ids is None else Path(str(ids)))
    asked_for = len(chosen)
    if only_tests:
        chosen = [r for r in chosen if r.part == "test"] or chosen
    # a label that is none of the classes stays so: its recording is refused, or skipped, where it is read
    index = {label: known.index(c) for label, c in enumerate(dataset.classes)}
    chosen = [replace(r, label=index.get(r.label, r.label)) for r in chosen]
    held = samples.load(name, dataset, chosen, bool(given.get("skip_bad")), shown)
    if "window" in dataset.settings() and "window" not in asked.dataset_options():
        _say_what_is_late(held, dataset.window)
    return replace(held, scale=identity["scale"], classes=tuple(known)), asked_for - len(chosen)


def _say_what_is_late(held: Samples, window: tuple[int, int]) -> None:
    """Say in one line where recordings go on after the ``window`` that a run took from those that it was trained with."""
    assert held.ends is not None
    late = np.flatnonzero(held.ends > window[1])
    if len(late):
        last = late[held.ends[late].argmax()]
        words = "dataset.window: %s, as in training; %d of %d recordings go on after it, %s until %d, and what comes later is not seen"
        log.warning(words, list(window), len(late), len(held), held.names[last], held.ends[last])


def _reader(asked: ClassifyRequest, identity: Mapping[str, Any], folder: Path) -> tuple[str, Dataset]:
    """What reads the folder: the dataset that is named, or the checkpoint's, or where its layout is not there, any recordings."""
    theirs, given = identity["settings"]["dataset"], asked.dataset_options()
    frames = {key: theirs[key] for key in ("bins", "binary")}
    others = {"others": "unlabelled"} if asked.predict else {}
    if asked.dataset not in (None, theirs["name"]) and not is_custom(asked.dataset):
        return asked.dataset, dataset_of(asked.dataset, {**frames, **given}).build(data=folder)
    # whether the user names a folder, and not what lies in it
    in_any_layout = "data" in asked.flags and asked.dataset is None
    if not is_custom(asked.dataset) or is_custom(theirs["name"]):
        options = {key: value for key, value in theirs.items() if key != "name"}
        options |= others if is_custom(theirs["name"]) else {}
        try:
            dataset = dataset_of(theirs["name"], {**options, **given}).build(data=folder)
            # one that reads no files would be itself again, whatever folder is named
            if not in_any_layout or any(r.store for r in dataset.recordings):
                return theirs["name"], dataset
        except MissingData:
            if not in_any_layout or is_custom(theirs["name"]):
                raise
        log.info("%s holds no %s in its own layout; reading any recordings in it", folder, theirs["name"])
    channels, *sensor = identity["shape"]
    sees = {
        "sensor": sensor,
        "channels": channels,
        "window": identity["window"],
        "time": format_time_layout(theirs),
    }
    options = {**frames, **sees, **others, "names": identity["classes"], **given}
    return "own", dataset_of("own", options).build(data=folder)


def format_time_layout(dataset_settings: Mapping[str, Any]) -> str:
    """What the times of a run's recordings are, by the settings of its dataset, ``theirs``; empty: code of its own alone knows."""
    if registry.is_registered("datasets", dataset_settings["name"]) and "time" not in dataset_settings:
        cls = registry.resolve("datasets", dataset_settings["name"])
        assert issubclass(cls, Dataset)
        return TIMES[cls.steps]
    return dataset_settings.get("time", "")


def compute_wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: ``right`` of ``count``."""
    z, share = 1.959964, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
