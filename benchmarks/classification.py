"""``spiky bench classify``: accuracy and training time of a classifier and of snnTorch's with the same layers.

All contenders start from the same weights and get the same frames in the same batches, with the same optimiser and learning rate. They
take turns epoch by epoch in one process, on one thread, and process time is measured, so that other load on the machine does not matter.
snnTorch runs as in its tutorial, and in variants that may be faster: each layer's currents of all steps at once, channels last, bfloat16.
The baseline is the fastest of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plot as bench_plot
from benchmarks.classifiers import BASELINES, CONTENDERS, COUNTED, PEER, RATES, Ours
from benchmarks.common import check_name, compute_median_and_spread, keep_memory
from spiky_rl.classification import samples
from spiky_rl.classification.run import require_classes
from spiky_rl.classification.samples import Samples
from spiky_rl.classification.settings import DEFAULT_CFG, configure_dataset, parse_dataset_options
from spiky_rl.classification.split import Split, select_subset, split
from spiky_rl.classification.training import EVALUATION_BATCH_SIZE, to_sequence
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int, seed_int
from spiky_rl.config import files, registry
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.datasets._events import MissingData
from spiky_rl.networks.base import SpikingNetwork

DATASET, SYNTHETIC = "nmnist", "nmnist_synthetic"
BATCH = 50


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = common.Parser(
        "bench classify",
        description="Train a classifier of event recordings and snnTorch's, side by side.",
    )
    add = command_line.add_argument
    add(
        "--dataset",
        default=DATASET,
        metavar="NAME",
        help=f"dataset: {', '.join(registry.list_names('datasets'))}, or path/file.py:Class",
    )
    add(
        "--data",
        type=Path,
        help="folder of the datasets; without it and without N-MNIST, N-MNIST is simulated",
    )
    add(
        "--recordings",
        type=positive_int,
        metavar="N",
        help="use N recordings, a share of every class; the same ones for everyone",
    )
    add("--epochs", type=positive_int, default=10, help="passes over the recordings")
    add(
        "--seeds",
        type=parse_seeds,
        default=[0, 1, 2],
        metavar="N,N",
        help="seeds of weights and order; default: 0,1,2",
    )
    add(
        "--split",
        type=seed_int,
        default=1,
        help="seed of the test recordings, for a dataset without an official test set; settings were tuned with seed 0, whose"
        " results are therefore optimistic; default: 1",
    )
    add(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        metavar="A,B",
        help=f"contenders: {', '.join(CONTENDERS)}; default: all",
    )
    add("--json", type=Path, metavar="FILE", help="result; if not given, logs/bench/<time>_classify.json")
    add("overrides", nargs="*", metavar="key=value", help="dataset.x=v")
    return command_line


def parse_seeds(text: str) -> list[int]:
    """Parse distinct whole numbers, separated by commas."""
    seeds = [seed_int(part) for part in text.split(",")]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, each once, got {text!r}")
    return seeds


def require_one_step(agent: str) -> None:
    """Raise UserError if an agent's network has several inner steps per frame, or reads other values than rates.

    The networks of snnTorch have one step per frame and read rates.
    """
    network = resolve_agent(agent, DATASET, DEFAULT_CFG, []).network
    assert network is not None
    steps, decoder = getattr(network.options, "steps", None), network.parts.get("decoder")
    name = decoder.name if isinstance(decoder, registry.ComponentSpec) else None
    if (steps, name) != (1, "rate"):
        raise UserError(
            f"--dataset: its agent {agent} has network.steps: {steps}, network.decoder: {name}; allowed: 1, rate, as snnTorch's network"
        )


def build_network(agent: str, seed: int, inputs: Sequence[int], classes: int) -> tuple[SpikingNetwork, float]:
    """Return an agent's network with new weights, and its learning rate."""
    spec = resolve_agent(agent, DATASET, DEFAULT_CFG, [])
    assert spec.network is not None
    torch.manual_seed(seed)
    network = spec.network.build(inputs=tuple(inputs), outputs=classes)
    return network, spec.runner["algorithm"]["learning_rate"]


@dataclass
class Run:
    """Results of one contender with one seed, a value per epoch."""

    contender: str
    seed: int
    accuracy: list[float] = field(default_factory=list)
    """Accuracy on the test recordings after each epoch."""
    loss: list[float] = field(default_factory=list)
    """Mean over the epoch's batches."""
    seconds: list[float] = field(default_factory=list)
    """Process time of training on all batches of an epoch."""


class Race:
    """A race of contenders with one seed."""

    def __init__(
        self,
        agent: str,
        data: Samples,
        parts: Split,
        seed: int,
        contenders: Sequence[str] = tuple(CONTENDERS),
    ) -> None:
        self.data, self.parts, self.seed = data, parts, seed
        self.modules: dict[str, Ours] = {}
        for name in contenders:
            network, self.learning_rate = build_network(agent, seed, data.shape, len(data.classes))
            self.modules[name] = CONTENDERS[name](network)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), self.learning_rate)
            for name, module in self.modules.items()
        }
        self.runs = [Run(name, seed) for name in self.modules]

    def run(self, epochs: int) -> list[Run]:
        """Train all contenders, epoch by epoch; the order of turns changes with each epoch."""
        shuffle = torch.Generator().manual_seed(self.seed)
        for epoch in range(epochs):
            train = torch.from_numpy(self.parts.train)
            order = train[torch.randperm(len(train), generator=shuffle)].numpy()
            first = epoch % len(self.runs)
            for run in self.runs[first:] + self.runs[:first]:
                loss, seconds = self._learn(run.contender, order)
                run.loss.append(loss)
                run.seconds.append(seconds)
                run.accuracy.append(self.accuracy(run.contender))
        return self.runs

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return frames [T, B, O] and labels [B]."""
        return to_sequence(self.data.frames(indices)).contiguous(), torch.from_numpy(
            self.data.labels[indices]
        )

    def _learn(self, name: str, order: np.ndarray) -> tuple[float, float]:
        """Train for one epoch in the given order; return the mean loss and the process time."""
        module, optimiser, losses, seconds = self.modules[name], self.optimisers[name], [], 0.0
        for i in range(0, len(order), BATCH):
            frames, labels = self.batch(order[i : i + BATCH])
            start = time.process_time()
            loss = module.loss(module(frames), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds += time.process_time() - start
            losses.append(loss.item())
        return statistics.fmean(losses), seconds

    def accuracy(self, name: str) -> float:
        """Return a contender's accuracy on the test recordings."""
        right, test = 0, self.parts.test
        with torch.no_grad():
            for i in range(0, len(test), EVALUATION_BATCH_SIZE):
                frames, labels = self.batch(test[i : i + EVALUATION_BATCH_SIZE])
                output = self.modules[name](frames)
                counts = output.sum(0) if output.ndim == 3 else output
                right += int((counts.argmax(1) == labels).sum())
        return right / len(test)


def summarize_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row per contender: mean and standard error over seeds of the accuracy after the last epoch, and time per epoch."""
    timed = []
    for name in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == name]
        last, times = [run.accuracy[-1] for run in mine], [s for run in mine for s in run.seconds]
        seconds, spread = compute_median_and_spread(times)
        error = statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else None
        row = {"contender": name, "accuracy": statistics.fmean(last), "standard_error": error}
        timed.append({**row, "seconds": seconds, "spread": spread})
    base = min(row["seconds"] for row in timed if row["contender"] in BASELINES)
    return [{**row, "ratio": base / row["seconds"]} for row in timed]


def format_header(agent: str, data: Samples, parts: Split, epochs: int, keeps_memory: bool) -> str:
    """Return the header of the output: agent, data, settings, and the meaning of the columns."""
    title = f"synthetic recordings ({data.synthetic}), not N-MNIST" if data.synthetic else data.name
    lines = [
        f"{agent} on {title}: {len(parts.train)} training and {len(parts.test)} test recordings, {data.size[0]} frames",
        f"{epochs} epochs, batches of {BATCH}, Adam, {bench_plot.get_processor()}, 1 thread, torch {torch.__version__},"
        f" snntorch {importlib.metadata.version('snntorch')}",
        "accuracy  on the test recordings after the last epoch, without selection: mean over seeds; ± standard error",
        "s         median process CPU time of training per epoch, contenders in turns; ± interquartile range",
        "ratio     time of snnTorch's fastest variant / contender's: above 1 is faster",
        f"{PEER}: the same weights, layers and loss in its own loop over time; it resets one step later",
        "_folded: a layer's currents of all steps at once, then its neurons; _last: channels last; _bfloat16: autocast",
        f"{COUNTED}: its tutorial's output neurons and loss, target counts {RATES[0]:.0%} and {RATES[1]:.0%} of the steps",
    ]
    if keeps_memory:
        lines.append("malloc    keeps freed memory (mallopt), so that page faults do not affect the times")
    return "\n".join(lines) + "\n"


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one line per contender."""
    lines = [f"{'':32}{'accuracy':>10}{'±':>8}{'s':>10}{'±':>5}{'ratio':>8}"]
    for row in rows:
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.1%}"
        times = f"{row['seconds']:10.3f}{row['spread'] / row['seconds']:5.0%}{row['ratio']:8.2f}"
        lines.append(f"{row['contender']:32}{row['accuracy']:10.1%}{error:>8}{times}")
    return "\n".join(lines) + "\n"


def load(args: argparse.Namespace) -> tuple[str, Samples]:
    """Return the agent and the recordings; N-MNIST is simulated if it is missing and no folder is named. Raises UserError."""
    folder, options = samples.get_data_folder(args.data), parse_dataset_options(args.overrides)
    try:
        name, dataset = args.dataset, configure_dataset(args.dataset, options).build(data=folder)
    except MissingData as error:
        if args.data is not None or args.dataset != DATASET:
            raise UserError(f"--data: {error}") from None
        name, dataset = SYNTHETIC, configure_dataset(SYNTHETIC, options).build(data=folder)
    require_one_step(dataset.agent)
    chosen = select_subset(dataset.recordings, args.recordings, None)
    require_classes(dataset, chosen, folder)
    return dataset.agent, samples.load_samples(name, dataset, chosen)


def bench(argv: list[str]) -> int:
    """Run the benchmark. Raises UserError for invalid arguments, before training."""
    args = build_parser().parse_intermixed_args(argv)
    if importlib.util.find_spec("snntorch") is None:
        raise UserError(
            "spiky bench classify: snntorch is not installed; install it with: pip install snntorch"
        )
    path = args.json or Path(f"logs/bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}_classify.json")
    files.require_file("--json", path, (".json",))
    for name in args.contenders:
        check_name("--contenders", name, list(CONTENDERS))
    if not set(BASELINES).intersection(args.contenders):
        raise UserError(f"--contenders: the ratios need a baseline, one of {', '.join(BASELINES)}; name one")
    common.setup_logging(False)
    agent, data = load(args)
    parts = split(data, None, 0, args.split)
    torch.set_num_threads(1)
    print(format_header(agent, data, parts, args.epochs, keep_memory()), flush=True)
    runs: list[Run] = []
    for seed in args.seeds:
        runs += Race(agent, data, parts, seed, args.contenders).run(args.epochs)
        rows = summarize_runs(runs)
        result = {
            "agent": agent,
            "data": data.name,
            "synthetic": data.synthetic,
            "digest": data.digest,
            "split": parts.digest,
            "processor": bench_plot.get_processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rows": rows,
            "runs": [asdict(run) for run in runs],
        }
        files.write_json(path, result)
    print(format_table(rows))
    print(f"result: {path}")
    return 0
