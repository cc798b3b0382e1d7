"""``classify.py --evaluate`` and ``--predict``: what a trained network makes of recordings that it has not seen."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.cli import classify_settings as settings_of
from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.config import files
from spiky_rl.config.spec import complete

if TYPE_CHECKING:
    from spiky_rl.classification.samples import Samples
    from spiky_rl.datasets.base import Dataset

TAKEN = ("data", "recordings", "ids", "skip_bad")
"""Settings of a training that say here which recordings are read."""


def use(args: argparse.Namespace, path: Path, loaded: Mapping[str, Any]) -> int:
    """Evaluate the best network of a run, or predict with it. Raises UserError.

    Args:
        args: The command line.
        path: The checkpoint.
        loaded: Its content.
    """
    check(args)
    identity = loaded["infos"]["spiky_rl"]["identity"]
    settings_of.require_named(args, identity, path)
    device = common.check_device(args.device)
    spec = complete(identity["agent"], identity["spec"], {})
    held = recordings(args, identity)

    from spiky_rl.classification import result as results
    from spiky_rl.classification.training import confusion, scores
    from spiky_rl.classification.training import seen as shape_of

    assert spec.network is not None
    how = spec.runner.get("frames", "turn")
    _, inputs = shape_of(held.size, how)
    network = spec.network.build(inputs=inputs, outputs=len(identity["classes"])).to(device)
    network.load_state_dict(loaded["best"])
    seen = np.isin(held.digests.view(np.int64), loaded["learned"].numpy())
    classes = identity["classes"]
    name = {True: f"predictions_{held.digest[:8]}.csv", False: f"evaluation_{held.digest[:8]}.json"}[
        args.predict
    ]
    out = args.out or path.parent / name
    files.require_file("--out", out)
    if args.predict:
        found = scores(network, held, np.arange(len(held)), device, how)
        header = ("recording", "label", "predicted", "seen", *(f"score_{c}" for c in classes))
        rows: list[tuple[Any, ...]] = [header]
        for i, row in enumerate(found):
            known = classes[held.labels[i]] if held.labels[i] >= 0 else ""
            rows.append(
                (
                    held.names[i],
                    known,
                    classes[row.argmax()],
                    "yes" if seen[i] else "no",
                    *(f"{v:.6g}" for v in row),
                )
            )
        results.write_csv(out, rows)
        print(f"{len(held)} recordings predicted, {int(seen.sum())} of which the network was trained with")
        print(out)
        return 0
    fresh = np.flatnonzero(~seen & (held.labels >= 0))
    if len(fresh) == 0:
        raise common.UsageError(
            f"--evaluate: of {len(held)} recordings the network was trained with {int(seen.sum())}, and the others have no class;"
            " name other ones with --data"
        )
    found = scores(network, held, fresh, device, how).argmax(1)
    counts = confusion(held.labels[fresh], found, len(classes))
    right, count = int(counts.trace()), len(fresh)
    low, high = interval(right, count)
    result = {
        "checkpoint": str(path), "dataset": held.name, "data_hash": held.digest, "accuracy": right / count, "interval_95": [low, high],
        "samples": count, "trained_with": int(seen.sum()), "without_class": int((held.labels < 0).sum()),
        "skipped": list(held.skipped), "classes": classes, "confusion": counts.tolist(),
    }  # fmt: skip
    files.write_json(out, result)
    left = [
        f"{n} {why}"
        for n, why in (
            (int(seen.sum()), "that it was trained with"),
            (result["without_class"], "without a class"),
        )
        if n
    ]
    print(f"{spec.name} on {held.name}: {right / count:.1%} of {count} recordings  [{low:.1%}, {high:.1%}]")
    if left:
        print(f"  left out: {', '.join(left)}")
    print(out)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for what does not go together, or has no meaning here."""
    flag = "--predict" if args.predict else "--evaluate"
    if args.predict and args.evaluate:
        raise common.UsageError("--evaluate and --predict: pass one of them")
    if args.predict and args.data is None:
        raise common.UsageError("--predict: name the folder of the recordings with --data")
    for key in ("bins", "binary", *settings_of.DEFAULTS):
        if key not in TAKEN and getattr(args, key) is not None:
            raise common.UsageError(f"--{key}: goes with training; {flag} takes it from the checkpoint")
    if settings_of.agent_overrides(args):
        raise common.UsageError(
            f"{args.overrides[0]!r}: goes with training; {flag} takes the agent from the checkpoint"
        )


def recordings(args: argparse.Namespace, identity: Mapping[str, Any]) -> Samples:
    """The samples that are asked for: of an evaluation those of the test set, where there is one. Raises UserError."""
    from spiky_rl.classification import samples, split

    folder = samples.data_folder(args.data or Path(identity["settings"]["flags"]["data"]))
    name, dataset = reader(args, identity, folder)
    if list(dataset.shape) != identity["shape"]:
        raise common.UsageError(
            f"--data: {dataset.title} in {str(folder)!r} has frames of {list(dataset.shape)}, and the network sees {identity['shape']}"
            " (channels, rows, columns)"
        )
    if unknown := [c for c in dataset.classes if c not in identity["classes"]]:
        raise common.UsageError(
            f"--data: class {unknown[0]!r} of {dataset.title} is none that the network tells: {', '.join(identity['classes'])}"
        )
    chosen = split.subset(dataset.recordings, args.recordings, args.ids)
    if args.evaluate:
        chosen = [r for r in chosen if r.part == "test"] or chosen
    index = [identity["classes"].index(c) for c in dataset.classes]
    chosen = [replace(r, label=index[r.label] if r.label >= 0 else r.label) for r in chosen]
    held = samples.load(name, dataset, chosen, bool(args.skip_bad), Bar)
    return replace(held, scale=identity["scale"], classes=tuple(identity["classes"]))


def reader(args: argparse.Namespace, identity: Mapping[str, Any], folder: Path) -> tuple[str, Dataset]:
    """What reads the folder: the dataset that is named, or the checkpoint's, or where its layout is not there, any recordings."""
    from spiky_rl.datasets._events import MissingData

    theirs, given = identity["settings"]["dataset"], settings_of.given_of(args)
    frames = {key: theirs[key] for key in ("bins", "binary")}
    if args.dataset not in (None, theirs["name"], "own"):
        return args.dataset, settings_of.dataset_of(args.dataset, {**frames, **given}).build(data=folder)
    if args.dataset != "own" or theirs["name"] == "own":
        options = {key: value for key, value in theirs.items() if key != "name"}
        try:
            dataset = settings_of.dataset_of(theirs["name"], {**options, **given}).build(data=folder)
            # one that reads no files would be itself again, whatever folder is named
            if args.data is None or args.dataset is not None or any(r.store for r in dataset.recordings):
                return theirs["name"], dataset
        except MissingData:
            if args.data is None or args.dataset is not None or theirs["name"] == "own":
                raise
        log.info("%s holds no %s in its own layout; reading any recordings in it", folder, theirs["name"])
    channels, *sensor = identity["shape"]
    sees = {
        "sensor": sensor,
        "channels": channels,
        "window": identity["window"],
        "names": identity["classes"],
    }
    return "own", settings_of.dataset_of("own", {**frames, **sees, **given}).build(data=folder)


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.959964, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
