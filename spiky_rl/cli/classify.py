"""``classify.py``: train an agent's spiking network to tell classes apart, on event recordings or digits."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.stopping import Asked, stoppable
from spiky_rl.config import files, sizes
from spiky_rl.config.spec import AgentSpec, read_agent, resolve_agent
from spiky_rl.hosts.common.rules import local_rule

if TYPE_CHECKING:
    from spiky_rl.classification.training import Trainer
    from spiky_rl.datasets.samples import Samples
    from spiky_rl.datasets.split import Split

DATASETS: dict[str, dict[str, Any]] = {
    "nmnist": {"agent": "lif_conv_classifier", "bins": 10, "shift": 2.0, "rotation": 10.0},
    "stmnist": {"agent": "lif_conv_small_classifier", "bins": 25, "shift": 1.0, "rotation": 10.0},
    "digits": {"agent": "lif_ppo", "bins": 1, "shift": 0.5, "rotation": 10.0},
}
"""What is taken for each of `spiky_rl.datasets.samples`, unless the command line says otherwise."""
HOST = {"actor": {"hidden_dims": [128, 128]}, "algorithm": {"learning_rate": 1e-3}}
"""What stands in the place of Isaac Lab's agent: layers and learning rate of an agent that names none."""
READ = ("network", "actor.hidden_dims", "algorithm.learning_rate")
"""What of an agent is read here."""
SYNTHETIC = 1000
"""Recordings that are simulated unless the command line says otherwise."""
HELD_OUT = 0.2
"""Part that is held out where a dataset has no test set of its own."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="classify.py", description="Train an agent's spiking network as a classifier; Ctrl-C keeps it."
    )
    add = found.add_argument
    add("--dataset", required=True, choices=tuple(DATASETS), help="what is classified")
    add("--agent", help="file stem of agents/, or a path to a YAML file; default: one that fits the dataset")
    add("--epochs", type=common.positive, default=30, help="passes over the samples, in all")
    add(
        "--seed",
        type=common.seed_number,
        help="of weights, order, augmentation; -1: a random one; default: 0",
    )
    add("--hold_out", "--hold-out", type=common.positive, metavar="K",
        help="samples to hold out, of every class its part; default: the official test set, else a fifth")  # fmt: skip
    add("--split", type=common.seed_number, default=0, help="seed that draws which samples are held out")
    add("--data", type=Path, help="folder of the datasets; default: SPIKY_RL_DATA, else the cache folder")
    add("--download", action="store_true", help="fetch the dataset if it is not there (nmnist)")
    add("--synthetic", action="store_true", help="simulate the recordings instead (nmnist)")
    add("--recordings", type=common.positive, default=SYNTHETIC, help="with --synthetic: how many")
    add("--bins", type=common.positive, help="frames of a recording; default: 10 of nmnist, 25 of stmnist")
    add("--binary", action="store_true", help="frames say that there were events, not how many")
    add("--batch_size", type=common.positive, default=50, help="samples that are learned from at once")
    add("--schedule", default="cosine", choices=["cosine", "constant"], help="of the agent's learning rate")
    add("--label_smoothing", type=fraction, default=0.1, help="part of the target that all classes share")
    add("--shift", type=size, help="augmentation: pixels that a sample is moved by at most")
    add("--rotation", type=size, help="augmentation: degrees that a sample is turned by at most")
    add("--device", help="cpu, cuda or cuda:N; default: the GPU if there is one")
    add(
        "--checkpoint",
        help="go on from a path, or from latest or best of the newest run of dataset and agent",
    )
    add("--log_root", type=Path, default=Path("logs"), help="folder of all runs")
    add("--run_name", default="", help="suffix of the run folder")
    add("--verbose", action="store_true", help="show the libraries' own messages")
    add("overrides", nargs="*", metavar="key=value", help=f"agent.x.y=v, of {', '.join(READ)}")
    return found


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
    args = complete(parser().parse_intermixed_args(argv))
    common.setup_logging(args.verbose)
    spec = resolve(args)
    files.require_writable("--log_root", args.log_root)
    if args.run_name:
        files.require_plain_name("--run_name", args.run_name)
    device = common.check_device(args.device)
    sizes.require(
        sizes.models(spec, f"--batch_size {args.batch_size}", args.batch_size), common.memory_of(device)
    )

    from spiky_rl.datasets import samples

    held = samples.load(
        args.dataset,
        samples.data_folder(args.data),
        args.bins,
        args.binary,
        args.recordings if args.synthetic else 0,
        args.download,
        Bar,
    )
    require_state(spec, held)
    return run(args, spec, held, part(args, held), device)


def part(args: argparse.Namespace, held: Samples) -> Split:
    """The split that is asked for; what is held out of the training set leaves an official test set alone."""
    from spiky_rl.datasets import split

    two = bool(held.of_test.any() and not held.of_test.all())
    if two and args.hold_out is None:
        return split.official(held.of_test)
    count = args.hold_out or round(HELD_OUT * len(held.labels))
    return split.stratified(held.labels, count, args.split, held.of_test if two else None)


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the dataset's defaults. Raises UsageError for those that it cannot have."""
    if args.dataset == "digits" and (args.bins, args.binary) != (None, False):
        raise common.UsageError("--bins, --binary: digits are images, which have no events to count")
    for key, value in DATASETS[args.dataset].items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    args.run_seed = None if args.seed == -1 else args.seed  # of the run to go on with, where one is named
    args.seed = random.randrange(10_000) if args.seed == -1 else args.seed or 0
    return args


def resolve(args: argparse.Namespace) -> AgentSpec:
    """The agent that is named, if there is a network in it. Raises UserError."""
    for text in args.overrides:
        key = text.partition("=")[0].removeprefix("agent.")
        if text.startswith("agent.") and not any(key == k or key.startswith(f"{k}.") for k in READ):
            raise common.UsageError(f"{text!r}: a classification reads of an agent {', '.join(READ)} only")
    read_agent(args.agent)
    spec = resolve_agent(args.agent, args.dataset, HOST, args.overrides)
    if spec.network is None:
        raise common.UsageError(f"--agent {args.agent}: has no `network`, so nothing in it spikes")
    if rule := local_rule(spec.network):
        raise common.UsageError(
            f"agent.network.learning: {rule!r} learns from what actions were worth, and a class is no action; name a rule"
            " that is a gradient, such as bptt"
        )
    return spec


def require_state(spec: AgentSpec, held: Samples) -> None:
    """Raise UsageError where frames come one after another and the network forgets each at once."""
    assert spec.network is not None
    steps = held.frames.shape[1]
    if steps > 1 and not getattr(spec.network.options, "stateful", True):
        raise common.UsageError(
            f"agent.network.stateful: a recording is {steps} frames, and this network forgets each at once;"
            " pass agent.network.stateful=true"
        )


def run(args: argparse.Namespace, spec: AgentSpec, held: Samples, parted: Split, device: str) -> int:
    """Train, and keep what comes of it in a run folder."""
    import torch

    from spiky_rl.classification import result as results
    from spiky_rl.classification.training import Settings, Trainer
    from spiky_rl.cli import classify_checkpoint as checkpoint
    from spiky_rl.cli import classify_show as show
    from spiky_rl.hosts.common import runs

    assert spec.network is not None
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    network = spec.network.build(inputs=held.shape, outputs=held.classes)
    rate = spec.runner["algorithm"]["learning_rate"]
    settings = Settings(
        args.epochs, args.batch_size, rate, args.schedule, args.label_smoothing, args.shift, args.rotation
    )
    trainer = Trainer(network, held, parted, settings, device)
    frames = f"{held.digest} {held.frames.shape} {held.frames.dtype}"
    identity = {
        "dataset": held.name, "agent": spec.name, "seed": args.seed, "data": frames, "split": parted.digest,
        "spec": spec.tree(),
    }  # fmt: skip
    if args.checkpoint:
        checkpoint.resume(args, trainer, identity, spec)
    folder = runs.new_run(
        args.log_root, held.name, args.run_name, held.name, spec.name, checkpoint.LIBRARY, args.seed
    )
    results.write_spec(folder, spec)
    log.info(
        "%s on %s, %d samples to learn from and %d held out, %s, seed %d",
        *(spec.name, held.name, len(parted.train), len(parted.test), device, args.seed),
    )
    log.info("run folder: %s", folder)
    board, name = show.writer(folder), f"{spec.name} on {held.name}"
    display = show.EpochDisplay(name, len(trainer.history.loss), args.epochs - 1)
    with stoppable("stopping after this epoch") as asked:
        outcome, latest = learn(trainer, folder, identity, display, board, asked)
        if latest is not None:
            if outcome != "finished":  # perhaps within an epoch, or with weights that are no numbers
                trainer.restore(checkpoint.read(latest, device))
            result = results.write_result(folder, trainer, args, spec, outcome)
            title = f"{name}: {result['accuracy']:.1%} of {len(parted.test)}"
            show.write_confusion(folder, board, trainer.confusion(), title, result["epochs"] - 1)
            show.summarise(result, args)
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
    from spiky_rl.cli import classify_checkpoint as checkpoint
    from spiky_rl.cli import classify_show as show
    from spiky_rl.hosts.common import runs

    latest: Path | None = None
    try:
        with display:
            for epoch in trainer.epochs():
                path = folder / f"model_{epoch.index}.pt"
                checkpoint.save(path, trainer, identity)
                before, latest = latest, path
                if before is not None:
                    before.unlink()
                if epoch.accuracy > max(trainer.history.accuracy[:-1], default=-1.0):
                    checkpoint.save(folder / runs.BEST, trainer, identity)
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
