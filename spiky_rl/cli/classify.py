"""``classify.py``: train an agent's network to tell classes apart, evaluate it, and predict the classes of other recordings."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.cli import classify_settings as settings_of
from spiky_rl.cli import common
from spiky_rl.cli.classify_settings import LIBRARY, READ, Settings
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.stopping import Asked, stoppable
from spiky_rl.config import files, registry, sizes

if TYPE_CHECKING:
    from spiky_rl.classification.training import Trainer


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
        require_epochs(settings, loaded, path)
    device = common.check_device(args.device)
    batch = settings.flags["batch_size"]
    sizes.require(sizes.models(settings.spec, f"--batch_size {batch}", batch), common.memory_of(device))
    trainer = prepared(args, settings, device)
    if loaded is not None:
        require_same(trainer, identity_of(loaded), path)
        trainer.restore(loaded)
        log.info("resumed from %s after %d epochs", path, len(trainer.history.loss))
        for key, (before, now) in settings.changed.items():
            log.info("  --%s is %s now, and was %s", key, now, before)
    return run(args, settings, trainer)


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


def label(dataset: str) -> str:
    """What runs on a dataset are called: its name, or that of a class from elsewhere."""
    return dataset.rpartition(":")[2].lower()


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
        "window": list(settings.window), "scale": held.scale,
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
            show.summarise(result, args.log_root, folder)
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


def main() -> int:
    """Entry point of ``scripts/classify.py``."""
    return common.run(classify)
