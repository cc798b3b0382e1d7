"""``bench.py classify``: a classifier beside snnTorch's of the same layers, in accuracy and time to train.

All start from the same weights and see the same frames in the same batches, with one optimiser and learning rate. They take
turns epoch by epoch in one process, on one thread, and process time is taken, so that a busy machine does not decide. snnTorch runs
as its tutorial writes it, and in the ways that may be faster: each layer over all steps at once before its neurons, channels last,
bfloat16. The fastest of them is the one to beat.
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
from benchmarks.classifiers import CONTENDERS, COUNTED, PEER, RATES, RIVALS, Ours
from benchmarks.common import check_name, keep_memory
from spiky_rl.classification import samples
from spiky_rl.classification.run import require_classes
from spiky_rl.classification.samples import Samples
from spiky_rl.classification.settings import HOST, configure_dataset, parse_dataset_options
from spiky_rl.classification.split import Split, select_subset, split
from spiky_rl.classification.training import EVALUATED, to_sequence
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int, seed_int
from spiky_rl.config import files, registry
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.datasets._events import MissingData
from spiky_rl.networks.base import SpikingNetwork

DATASET, SYNTHETIC = "nmnist", "nmnist_synthetic"
BATCH = 50


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="bench.py classify",
        description="Train a classifier of event recordings and snnTorch's, side by side.",
    )
    add = found.add_argument
    add(
        "--dataset",
        default=DATASET,
        metavar="NAME",
        help=f"what is classified: {', '.join(registry.list_names('datasets'))}, or path/file.py:Class",
    )
    add(
        "--data",
        type=Path,
        help="folder of the datasets; where none is named and N-MNIST is not there, it is simulated",
    )
    add(
        "--recordings",
        type=positive_int,
        metavar="N",
        help="use N of them, of every class its share, the same for everyone",
    )
    add("--epochs", type=positive_int, default=10, help="passes over the recordings")
    add("--seeds", type=seeds, default=[0, 1, 2], metavar="N,N", help="of weights and order; default: 0,1,2")
    add(
        "--split",
        type=seed_int,
        default=1,
        help="seed that draws the recordings to test on, where a dataset has no test set of its own; settings were chosen on"
        " those that 0 draws, so a race on them flatters; default: 1",
    )
    add(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        metavar="A,B",
        help=f"who takes part: {', '.join(CONTENDERS)}; default: all",
    )
    add("--json", type=Path, metavar="FILE", help="result; if not given, logs/bench/<time>_classify.json")
    add("overrides", nargs="*", metavar="key=value", help="dataset.x=v")
    return found


def seeds(text: str) -> list[int]:
    """Whole numbers between commas, each once."""
    found = [seed_int(part) for part in text.split(",")]
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, each once, got {text!r}")
    return found


def spiky_rl(agent: str, seed: int, inputs: Sequence[int], classes: int) -> tuple[SpikingNetwork, float]:
    """An agent's network, freshly drawn, and its learning rate."""
    spec = resolve_agent(agent, DATASET, HOST, [])
    assert spec.network is not None
    torch.manual_seed(seed)
    network = spec.network.build(inputs=tuple(inputs), outputs=classes)
    return network, spec.runner["algorithm"]["learning_rate"]


@dataclass
class Run:
    """One contender with one seed; a value for every epoch."""

    contender: str
    seed: int
    accuracy: list[float] = field(default_factory=list)
    """Share of the held-out recordings that are told right, after each epoch."""
    loss: list[float] = field(default_factory=list)
    """Mean over the epoch's batches."""
    seconds: list[float] = field(default_factory=list)
    """Process time of learning from all batches of an epoch."""


class Race:
    """The ``contenders`` of these names with one seed."""

    def __init__(
        self,
        agent: str,
        held: Samples,
        parted: Split,
        seed: int,
        contenders: Sequence[str] = tuple(CONTENDERS),
    ) -> None:
        self.held, self.parted, self.seed = held, parted, seed
        self.modules: dict[str, Ours] = {}
        for name in contenders:
            network, self.learning_rate = spiky_rl(agent, seed, held.shape, len(held.classes))
            self.modules[name] = CONTENDERS[name](network)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), self.learning_rate)
            for name, module in self.modules.items()
        }
        self.runs = [Run(name, seed) for name in self.modules]

    def run(self, epochs: int) -> list[Run]:
        """Train all, each epoch in turns of another order."""
        shuffle = torch.Generator().manual_seed(self.seed)
        for epoch in range(epochs):
            train = torch.from_numpy(self.parted.train)
            order = train[torch.randperm(len(train), generator=shuffle)].numpy()
            first = epoch % len(self.runs)
            for run in self.runs[first:] + self.runs[:first]:
                loss, seconds = self._learn(run.contender, order)
                run.loss.append(loss)
                run.seconds.append(seconds)
                run.accuracy.append(self.accuracy(run.contender))
        return self.runs

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames [T, B, O] and labels [B]."""
        return to_sequence(self.held.frames(indices)).contiguous(), torch.from_numpy(
            self.held.labels[indices]
        )

    def _learn(self, name: str, order: np.ndarray) -> tuple[float, float]:
        """One pass over the recordings in this order; returns the mean loss and the process time."""
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
        """Share of the recordings to test on that is told right."""
        right, test = 0, self.parted.test
        with torch.no_grad():
            for i in range(0, len(test), EVALUATED):
                frames, labels = self.batch(test[i : i + EVALUATED])
                output = self.modules[name](frames)
                counts = output.sum(0) if output.ndim == 3 else output
                right += int((counts.argmax(1) == labels).sum())
        return right / len(test)


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Per contender: accuracy after the last epoch, its mean and standard error over seeds, and time per epoch."""
    found = []
    for name in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == name]
        last, times = [run.accuracy[-1] for run in mine], [s for run in mine for s in run.seconds]
        quarters = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        error = statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else None
        row = {"contender": name, "accuracy": statistics.fmean(last), "standard_error": error}
        found.append({**row, "seconds": statistics.median(times), "spread": quarters[2] - quarters[0]})
    base = min(row["seconds"] for row in found if row["contender"] in RIVALS)
    return [{**row, "ratio": base / row["seconds"]} for row in found]


def header(agent: str, held: Samples, parted: Split, epochs: int, keeps_memory: bool) -> str:
    """What is trained, on what and how, and what the columns mean."""
    what = f"synthetic recordings ({held.synthetic}), not N-MNIST" if held.synthetic else held.name
    lines = [
        f"{agent} on {what}: {len(parted.train)} to learn from, {len(parted.test)} to test on, {held.size[0]} frames",
        f"{epochs} epochs, batches of {BATCH}, Adam, {bench_plot.processor()}, 1 thread, torch {torch.__version__},"
        f" snntorch {importlib.metadata.version('snntorch')}",
        "accuracy  of those to test on after the last epoch, which nothing is chosen by: mean over seeds; ± standard error",
        "s         median process CPU time of learning in an epoch, contenders in turns; ± interquartile range",
        "ratio     time of the fastest of snnTorch / contender's: above 1 is faster",
        f"{PEER}: the same weights, layers and loss in its own loop over time; it resets one step later",
        "_folded: a layer's currents of all steps at once, then its neurons; _last: channels last; _bfloat16: autocast",
        f"{COUNTED}: its tutorial's output neurons and loss, counts to be {RATES[0]:.0%} and {RATES[1]:.0%} of the steps",
    ]
    if keeps_memory:
        lines.append("malloc    keeps what is freed (mallopt), so that page faults do not decide")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each contender."""
    lines = [f"{'':32}{'accuracy':>10}{'±':>8}{'s':>10}{'±':>5}{'ratio':>8}"]
    for row in rows:
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.1%}"
        times = f"{row['seconds']:10.3f}{row['spread'] / row['seconds']:5.0%}{row['ratio']:8.2f}"
        lines.append(f"{row['contender']:32}{row['accuracy']:10.1%}{error:>8}{times}")
    return "\n".join(lines) + "\n"


def load(args: argparse.Namespace) -> tuple[str, Samples]:
    """The agent that is trained, and the recordings: N-MNIST's are simulated where no folder is named and there are none.

    Raises UserError.
    """
    folder, given = samples.get_data_folder(args.data), parse_dataset_options(args.overrides)
    try:
        name, dataset = args.dataset, configure_dataset(args.dataset, given).build(data=folder)
    except MissingData as error:
        if args.data is not None or args.dataset != DATASET:
            raise UserError(f"--data: {error}") from None
        name, dataset = SYNTHETIC, configure_dataset(SYNTHETIC, given).build(data=folder)
    chosen = select_subset(dataset.recordings, args.recordings, None)
    require_classes(dataset, chosen, folder)
    return dataset.agent, samples.load_samples(name, dataset, chosen)


def bench(argv: list[str]) -> int:
    """Train, print, write. Raises UserError before anything is trained."""
    args = parser().parse_intermixed_args(argv)
    if importlib.util.find_spec("snntorch") is None:
        raise UserError("bench.py classify: snntorch is not installed; install it with: pip install snntorch")
    path = args.json or Path(f"logs/bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}_classify.json")
    files.require_file("--json", path, (".json",))
    for name in args.contenders:
        check_name("--contenders", name, list(CONTENDERS))
    if not set(RIVALS).intersection(args.contenders):
        raise UserError(f"--contenders: times are held beside one of {', '.join(RIVALS)}; name one")
    common.setup_logging(False)
    agent, held = load(args)
    parted = split(held.labels, held.parts, None, 0, args.split)
    torch.set_num_threads(1)
    print(header(agent, held, parted, args.epochs, keep_memory()), flush=True)
    runs: list[Run] = []
    for seed in args.seeds:
        runs += Race(agent, held, parted, seed, args.contenders).run(args.epochs)
        rows = summary(runs)
        result = {
            "agent": agent,
            "data": held.name,
            "synthetic": held.synthetic,
            "digest": held.digest,
            "split": parted.digest,
            "processor": bench_plot.processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rows": rows,
            "runs": [asdict(run) for run in runs],
        }
        files.write_json(path, result)
    print(table(rows))
    print(f"result: {path}")
    return 0
