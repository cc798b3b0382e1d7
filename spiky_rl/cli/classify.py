"""``classify.py``: train an agent's network to tell classes apart, evaluate it, and predict the classes of other recordings."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.classification import settings as settings_of
from spiky_rl.classification.settings import READ, Request
from spiky_rl.cli import common
from spiky_rl.cli.display import Bar, Display, sparkline
from spiky_rl.cli.tables import print_facts
from spiky_rl.config import files, registry
from spiky_rl.config.arguments import amount, positive, seed_number
from spiky_rl.config.options import UserError
from spiky_rl.hosts.common.stopping import stoppable

if TYPE_CHECKING:
    from spiky_rl.classification.training import Epoch

TAKEN = ("data", "recordings", "ids", "skip_bad")
"""Flags of a training that say here which recordings are read."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(
        prog="classify.py",
        description="Train an agent's network as a classifier (Ctrl-C keeps it), evaluate it, or predict with it.",
    )
    add = found.add_argument
    add("--dataset", metavar="NAME",
        help=f"what is classified: {', '.join(registry.names('datasets'))}, or path/file.py:Class; own: any recordings in --data")  # fmt: skip
    add("--agent", help="file stem of agents/, or a path to a YAML file; default: one that fits the dataset")
    add("--epochs", type=positive, help="passes over the samples, in all; default: 30")
    add(
        "--patience",
        type=whole,
        help="epochs without a better validation after which it ends; default: 0, never",
    )
    add("--seed", type=seed_number, help="of weights, order, augmentation; -1: a random one; default: 0")
    add("--hold_out", "--hold-out", type=positive, metavar="K",
        help="recordings of the training set to test on, of every class its part; default: the official test set, else a fifth")  # fmt: skip
    add("--validation", type=whole, metavar="K",
        help="recordings of the training set that choose the epoch, 0: none; default: the official ones, else a tenth")  # fmt: skip
    add("--split", type=seed_number, help="seed that draws these two; default: 0")
    add(
        "--recordings",
        type=positive,
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
    add("--bins", type=positive, help="frames of a recording; the same as dataset.bins=N")
    add(
        "--binary",
        action="store_true",
        default=None,
        help="frames say that there were events; the same as dataset.binary=true",
    )
    add("--batch_size", type=positive, help="samples that are learned from at once; default: 50")
    add("--schedule", choices=["cosine", "constant"], help="of the agent's learning rate; default: cosine")
    add("--label_smoothing", type=fraction, help="part of the target that all classes share; default: 0.1")
    add("--shift", type=amount, help="augmentation: pixels that a sample is moved by at most")
    add("--rotation", type=amount, help="augmentation: degrees that a sample is turned by at most")
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
    return 0 if text.strip() == "0" else positive(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, without 1."""
    if (value := amount(text)) >= 1.0:
        raise argparse.ArgumentTypeError(f"must be less than 1, got {text}")
    return value


def classify(argv: list[str]) -> int:
    """Train as the arguments say; what can be refused without the data is refused before they are read."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    files.require_writable("--log_root", args.log_root)
    if args.run_name:
        files.require_plain_name("--run_name", args.run_name)
    asked = request(args)
    if args.evaluate or args.predict:
        return use(args, asked)
    if args.out is not None:
        raise UserError("--out: goes with --evaluate or --predict")
    settings, found = None if args.checkpoint else settings_of.fresh(asked), None

    from spiky_rl.classification import run as running

    if settings is None:
        found = running.find(asked, args.checkpoint, args.log_root)
        settings = settings_of.resumed(asked, found)
    trainer = running.prepare(settings, found, args.device, args.download, Bar)
    run = running.Run(trainer, settings, args.log_root, args.run_name)
    display = Display(run.title, "epoch")
    first = len(trainer.history.loss)
    with stoppable("stopping after this epoch") as stop:
        with display:
            outcome = run.learn(stop, lambda epoch: show(display, epoch, first))
        if (result := run.keep(outcome)) is not None:
            summarise(result, args.log_root, run.folder, settings_of.named_again(asked, settings))
        print(f"{run.title}: {outcome}" if result is None else run.folder / "result.json")
    return stop.code_after(outcome)


def request(args: argparse.Namespace) -> Request:
    """What the arguments ask for."""
    flags = {key: value for key in settings_of.NAMES if (value := getattr(args, key)) is not None}
    return Request(args.dataset, args.agent, flags, args.bins, args.binary, tuple(args.overrides))


def use(args: argparse.Namespace, asked: Request) -> int:
    """Evaluate the best network of a run, or predict with it."""
    flag = "--predict" if args.predict else "--evaluate"
    if args.checkpoint is None:
        raise UserError("--checkpoint: name the run that is evaluated or predicts")

    from spiky_rl.classification import run
    from spiky_rl.classification import use as using

    found = run.find(asked, args.checkpoint, args.log_root)
    if args.predict and args.evaluate:
        raise UserError("--evaluate and --predict: pass one of them")
    if args.predict and args.data is None:
        raise UserError("--predict: name the folder of the recordings with --data")
    for key in ("bins", "binary", *settings_of.NAMES):
        if key not in TAKEN and getattr(args, key) is not None:
            raise UserError(f"--{key}: goes with training; {flag} takes it from the checkpoint")
    if asked.agent_overrides():
        raise UserError(
            f"{args.overrides[0]!r}: goes with training; {flag} takes the agent from the checkpoint"
        )
    trained = using.load(asked, found, args.device, args.evaluate, Bar)
    seen = int(trained.seen.sum())
    if args.predict:
        out = using.predict(trained, args.out)
        print(f"{len(trained.held)} recordings predicted, {seen} of which the network was trained with")
        print(out)
        return 0
    out, result = using.evaluate(trained, args.out)
    share, (low, high) = result["accuracy"], result["interval_95"]
    print(
        f"{trained.agent} on {result['dataset']}: {share:.1%} of {result['samples']} recordings  [{low:.1%}, {high:.1%}]"
    )
    left = ((seen, "that it was trained with"), (result["without_class"], "without a class"))
    if words := [f"{count} {why}" for count, why in left if count]:
        print(f"  left out: {', '.join(words)}")
    print(out)
    return 0


def show(display: Display, epoch: Epoch, first: int) -> None:
    """Show an epoch of a training that began with the ``first``."""
    chosen = epoch.accuracy_validation
    value, of = (
        (epoch.accuracy_train, "what is learned from") if chosen is None else (chosen, "the validation set")
    )
    display.course.append(value)
    line = (
        f"epoch {epoch.index + 1:3d}/{epoch.last + 1}  validation {'     -' if chosen is None else f'{chosen:6.1%}'}"
        f"  train {epoch.accuracy_train:6.1%}  loss {epoch.loss:6.3f}  firing {epoch.rate:5.1%}  {epoch.seconds:5.1f} s"
    )
    layers = "  ".join(f"{layer.rate:.1%}" for layer in epoch.layers)
    rows = [
        ("epoch", f"{epoch.index + 1} of {epoch.last + 1}"),
        ("accuracy", f"{value:.1%} of {of}   {sparkline(display.course)}"),
        ("", f"{epoch.accuracy_train:.1%} of what is learned from, loss {epoch.loss:.3f}"),
        ("firing rate", f"{epoch.rate:.1%}   by layer: {layers}"),
        ("operations", f"{epoch.operations:,.0f} per control step"),
        ("speed", f"{epoch.seconds:.1f} s per epoch"),
    ]
    display.show((epoch.index - first + 1) / (epoch.last - first + 1), line, rows)


def summarise(result: Mapping[str, Any], log_root: Path, folder: Path, named: Sequence[str]) -> None:
    """The end of a run on the terminal; ``named``: words of the command line that a later one must repeat."""
    synthetic = f" ({result['synthetic']})" if result["synthetic"] else ""
    chosen, tested = result["accuracy_validation"], result["samples_test"]
    by = f"{chosen:.1%} of {result['samples_validation']}" if chosen is not None else ""
    if result["accuracy"] is None:
        told = f"not yet: the {tested} to test on are seen once, at the end{by and f'; {by}'}"
    else:
        told = f"{result['accuracy']:.1%} of the {tested} to test on"
    words = shlex.join(["--checkpoint", str(folder), *named])
    root = f" --log_root {shlex.quote(str(log_root))}" if log_root != Path("logs") else ""
    command, outcome = "python scripts/classify.py", result["outcome"]
    print_facts(
        f"{result['agent']} on {result['dataset']}{synthetic}: {outcome}",
        ("accuracy", told),
        result["accuracy"] is not None
        and ("epoch", f"{result['epoch']} of {result['epochs']}{by and f', chosen by {by}'}"),
        ("firing rate", f"{result['firing_rate']:.1%} of all inner steps"),
        ("operations", f"{result['synops_per_sample']:,.0f} per sample"),
        ("time", f"{result['seconds_total']:.0f} s, {result['seconds_per_epoch']:.1f} s per epoch"),
        ("watch it", f"tensorboard --logdir {log_root}"),
        outcome == "stopped" and ("go on", f"{command} {words}{root}"),
        outcome == "finished" and ("use it", f"{command} --predict {words} --data FOLDER"),
    )


def main() -> int:
    """Entry point of ``scripts/classify.py``."""
    return common.run(classify)
