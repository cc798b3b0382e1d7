"""``classify.py``: train an agent's network to tell classes apart, evaluate it, and predict the classes of other recordings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.cli import classify_settings as settings_of
from spiky_rl.cli import classify_train as train
from spiky_rl.cli import common
from spiky_rl.cli.classify_settings import LIBRARY, READ, label
from spiky_rl.cli.common import log
from spiky_rl.config import files, registry, sizes


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="classify.py",
        description="Train an agent's network as a classifier (Ctrl-C keeps it), evaluate it, or predict with it.",
    )
    add = found.add_argument
    add("--dataset", metavar="NAME",
        help=f"what is classified: {', '.join(registry.names('datasets'))}, or path/file.py:Class; own: any recordings in --data")  # fmt: skip
    add("--agent", help="file stem of agents/, or a path to a YAML file; default: one that fits the dataset")
    add("--epochs", type=common.positive, help="passes over the samples, in all; default: 30")
    add(
        "--patience",
        type=whole,
        help="epochs without a better validation after which it ends; default: 0, never",
    )
    add(
        "--seed",
        type=common.seed_number,
        help="of weights, order, augmentation; -1: a random one; default: 0",
    )
    add("--hold_out", "--hold-out", type=common.positive, metavar="K",
        help="recordings of the training set to test on, of every class its part; default: the official test set, else a fifth")  # fmt: skip
    add("--validation", type=whole, metavar="K",
        help="recordings of the training set that choose the epoch, 0: none; default: the official ones, else a tenth")  # fmt: skip
    add("--split", type=common.seed_number, help="seed that draws these two; default: 0")
    add(
        "--recordings",
        type=common.positive,
        metavar="N",
        help="use N of them, of every class and part its share, the same for everyone",
    )
    add(
        "--ids",
        type=Path,
        metavar="FILE",
        help="use those that it lists, as a run's params/recordings.csv does",
    )
    add(
        "--skip_bad",
        action="store_true",
        default=None,
        help="leave out recordings that are damaged or empty, and name them",
    )
    add(
        "--data",
        type=Path,
        help="folder of the datasets, or of your own recordings; default: SPIKY_RL_DATA, else the cache folder",
    )
    add("--download", action="store_true", help="fetch the dataset if it is not there (nmnist)")
    add("--bins", type=common.positive, help="frames of a recording; the same as dataset.bins=N")
    add(
        "--binary",
        action="store_true",
        default=None,
        help="frames say that there were events; the same as dataset.binary=true",
    )
    add("--batch_size", type=common.positive, help="samples that are learned from at once; default: 50")
    add("--schedule", choices=["cosine", "constant"], help="of the agent's learning rate; default: cosine")
    add("--label_smoothing", type=fraction, help="part of the target that all classes share; default: 0.1")
    add("--shift", type=size, help="augmentation: pixels that a sample is moved by at most")
    add("--rotation", type=size, help="augmentation: degrees that a sample is turned by at most")
    add("--device", help="cpu, cuda or cuda:N; default: the GPU if there is one")
    add("--checkpoint", metavar="RUN",
        help="a run's folder or file, or latest or best of the dataset's newest run: goes on with it, just as it was")  # fmt: skip
    add(
        "--evaluate",
        action="store_true",
        help="with --checkpoint: accuracy on recordings that the network has not seen",
    )
    add(
        "--predict",
        action="store_true",
        help="with --checkpoint: a CSV with the class of each recording in --data",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="with these two: where that is written; default: in the run's folder",
    )
    add("--log_root", type=Path, default=Path("logs"), help="folder of all runs")
    add("--run_name", default="", help="suffix of the run folder")
    add("--verbose", action="store_true", help="show the libraries' own messages")
    add(
        "overrides", nargs="*", metavar="key=value", help=f"dataset.x=v, or agent.x.y=v, of {', '.join(READ)}"
    )
    return found


def whole(text: str) -> int:
    """A whole number of 0 or more."""
    return 0 if text.strip() == "0" else common.positive(text)


def size(text: str) -> float:
    """A number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1, without 1."""
    if (value := size(text)) >= 1.0:
        raise argparse.ArgumentTypeError(f"must be less than 1, got {text}")
    return value


def classify(argv: list[str]) -> int:
    """Train as the arguments say; what can be refused without the data is refused before they are read."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    files.require_writable("--log_root", args.log_root)
    if args.run_name:
        files.require_plain_name("--run_name", args.run_name)
    if args.evaluate or args.predict:
        from spiky_rl.cli import classify_use

        if args.checkpoint is None:
            raise common.UsageError("--checkpoint: name the run that is evaluated or predicts")
        return classify_use.use(args, *find(args))
    if args.out is not None:
        raise common.UsageError("--out: goes with --evaluate or --predict")
    if args.checkpoint is None:
        settings, loaded = settings_of.fresh(args), None
    else:
        path, loaded = find(args)
        settings = settings_of.resumed(args, identity_of(loaded), path)
        train.require_epochs(settings, loaded, path)
    device = common.check_device(args.device)
    batch = settings.flags["batch_size"]
    sizes.require(sizes.models(settings.spec, f"--batch_size {batch}", batch), common.memory_of(device))
    trainer = train.prepared(args, settings, device)
    if loaded is not None:
        train.require_same(trainer, identity_of(loaded), path)
        trainer.restore(loaded)
        if device != identity_of(loaded)["device"]:
            settings.changed["device"] = [identity_of(loaded)["device"], device]
        log.info("resumed from %s after %d epochs", path, len(trainer.history.loss))
        for key, (before, now) in settings.changed.items():
            log.info("  --%s is %s now, and was %s", key, now, before)
    return train.run(args, settings, trainer)


def find(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that is named, and its content. Raises UserError."""
    from spiky_rl.hosts.common import runs
    from spiky_rl.hosts.common.checkpoints import CheckpointError, read_checkpoint

    if args.dataset is None and args.checkpoint in ("latest", "best"):
        raise common.UsageError(
            f"--checkpoint {args.checkpoint}: name the --dataset too, or the run's folder instead"
        )
    dataset = label(args.dataset or "any")
    agent = None if args.agent is None else Path(args.agent).stem
    seed = None if args.seed == -1 else args.seed
    path = runs.find_checkpoint(args.checkpoint, args.log_root, dataset, dataset, agent, LIBRARY, seed)
    loaded = read_checkpoint(str(path), "cpu", LIBRARY)
    if "settings" not in identity_of(loaded):
        raise CheckpointError(
            f"{path}: says nothing of its settings; it was written by an earlier version, so train again"
        )
    return path, loaded


def identity_of(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint says of its run."""
    return loaded["infos"]["spiky_rl"]["identity"]


def main() -> int:
    """Entry point of ``scripts/classify.py``."""
    return common.run(classify)
