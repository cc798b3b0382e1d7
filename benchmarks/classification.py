"""``bench.py classify``: a convolutional classifier beside snnTorch's of the same layers, in accuracy and time to train.

All start from the same weights and see the same frames in the same batches, with one optimiser and learning rate. They take
turns epoch by epoch in one process, on one thread, and process time is taken, so that a busy machine does not decide.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import plot as bench_plot
from benchmarks.common import keep_memory
from spiky_rl.classification.training import logits, over_time
from spiky_rl.cli import common
from spiky_rl.cli.classify import DATASETS, HOST
from spiky_rl.config import files
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.datasets import samples
from spiky_rl.datasets.events import MissingData
from spiky_rl.datasets.samples import Samples
from spiky_rl.datasets.split import Split, stratified
from spiky_rl.networks.base import SpikingNetwork

DATASET = "nmnist"
AGENT: str = DATASETS[DATASET]["agent"]
BINS: int = DATASETS[DATASET]["bins"]
HELD_OUT = 200
RECORDINGS = 1000
"""Simulated where there are no real ones."""
BATCH = 50
BASE = "snntorch"
"""Whose time ratios are relative to."""
RATES = (0.8, 0.2)
"""Share of steps at which an output neuron should spike: the right class's, and the others'."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="bench.py classify",
        description="Train a classifier of event recordings and snnTorch's, side by side.",
    )
    add = found.add_argument
    add("--data", type=Path, help="folder of the datasets; without N-MNIST there, recordings are simulated")
    add("--epochs", type=common.positive, default=10, help="passes over the recordings")
    add("--seeds", type=seeds, default=[0, 1, 2], metavar="N,N", help="of weights and order; default: 0,1,2")
    add("--json", type=Path, metavar="FILE", help="result; if not given, logs/bench/<time>_classify.json")
    return found


def seeds(text: str) -> list[int]:
    """Whole numbers between commas, each once."""
    found = [common.seed_number(part) for part in text.split(",")]
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, each once, got {text!r}")
    return found


def spiky_rl(seed: int, inputs: Sequence[int], classes: int) -> tuple[SpikingNetwork, float]:
    """The agent's network, freshly drawn, and its learning rate."""
    spec = resolve_agent(AGENT, DATASET, HOST, [])
    assert spec.network is not None
    torch.manual_seed(seed)
    network = spec.network.build(inputs=tuple(inputs), outputs=classes)
    return network, spec.runner["algorithm"]["learning_rate"]


class Ours(torch.nn.Module):
    """The network of this package."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [T, B, O] -> what the largest of tells the class, [B, classes]."""
        return logits(self.network, frames)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of outputs [B, classes]."""
        return functional.cross_entropy(output, labels)


class SnnTorch(Ours):
    """snnTorch's network as its tutorial writes it, with a copy of our weights; the readout is linear, as ours is."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network)
        del self.network
        leaky = importlib.import_module("snntorch").Leaky
        surrogate: Any = network.surrogate
        gradient = importlib.import_module("snntorch.surrogate").atan(alpha=surrogate.slope)
        layers: Any = network.layers
        neuron = next(iter(layers)).neuron

        def cell() -> torch.nn.Module:
            return leaky(beta=neuron.number("tau"), threshold=neuron.number("threshold"), spike_grad=gradient)

        self.maps = layers[0].connection.inputs
        self.stages = torch.nn.ModuleList(_stage(layer.connection, cell()) for layer in layers)
        self.readout = torch.nn.Linear(network.readout.in_features, network.readout.out_features)
        self.readout.load_state_dict(network.readout.state_dict())
        self.last = cell()

    def forward(self, frames: Tensor) -> Tensor:  # noqa: D102
        return torch.stack([self.readout(spikes) for spikes in self.spikes(frames)]).mean(0)

    def spikes(self, frames: Tensor) -> Iterator[Tensor]:
        """Spikes of the last hidden layer, [B, N] for each step."""
        potentials: list[Tensor | None] = [None] * len(self.stages)
        for frame in frames:
            signal = frame.view(-1, *self.maps)
            for i, stage in enumerate(self.stages):
                current = stage.get_submodule("current")(signal)
                start = torch.zeros_like(current) if potentials[i] is None else potentials[i]
                signal, potentials[i] = stage.get_submodule("neuron")(current, start)
            yield signal.flatten(1)


class Counted(SnnTorch):
    """The tutorial's own readout and loss: output neurons whose spikes are counted, and the counts' squared error."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network)
        self.criterion = importlib.import_module("snntorch.functional").mse_count_loss(*RATES)

    def forward(self, frames: Tensor) -> Tensor:  # noqa: D102
        potential, found = torch.zeros(frames.shape[1], self.readout.out_features), []
        for spikes in self.spikes(frames):
            output, potential = self.last(self.readout(spikes), potential)
            found.append(output)
        return torch.stack(found)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The criterion's loss of output spikes [T, B, classes]."""
        return self.criterion(output, labels)


def _stage(link: Any, neuron: torch.nn.Module) -> torch.nn.ModuleDict:
    """A convolution with these weights, its pooling, and the neuron."""
    outputs, channels, size, _ = link.weight.shape
    convolution = torch.nn.Conv2d(channels, outputs, size, link.stride, link.padding)
    convolution.load_state_dict({"weight": link.weight, "bias": link.bias})
    current = torch.nn.Sequential(convolution, torch.nn.MaxPool2d(link.pool))
    return torch.nn.ModuleDict({"current": current, "neuron": neuron})


CONTENDERS: Mapping[str, Callable[[SpikingNetwork], Ours]] = {
    "spiky_rl": Ours,
    BASE: SnnTorch,
    "snntorch_counts": Counted,
}


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
    """All contenders with one seed."""

    def __init__(self, held: Samples, split: Split, seed: int) -> None:
        self.frames, self.labels = torch.tensor(held.frames).float(), torch.tensor(held.labels)
        self.split, self.seed = split, seed
        self.modules: dict[str, Ours] = {}
        for name, build in CONTENDERS.items():
            network, self.learning_rate = spiky_rl(seed, held.shape, held.classes)
            self.modules[name] = build(network)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), self.learning_rate)
            for name, module in self.modules.items()
        }
        self.runs = [Run(name, seed) for name in self.modules]

    def run(self, epochs: int) -> list[Run]:
        """Train all, each epoch in turns of another order."""
        shuffle = torch.Generator().manual_seed(self.seed)
        for epoch in range(epochs):
            train = torch.from_numpy(self.split.train)
            order = train[torch.randperm(len(train), generator=shuffle)]
            first = epoch % len(self.runs)
            for run in self.runs[first:] + self.runs[:first]:
                loss, seconds = self._learn(run.contender, order)
                run.loss.append(loss)
                run.seconds.append(seconds)
                run.accuracy.append(self.accuracy(run.contender))
        return self.runs

    def _learn(self, name: str, order: Tensor) -> tuple[float, float]:
        """One pass over the recordings in this order; returns the mean loss and the process time."""
        module, optimiser, losses, seconds = self.modules[name], self.optimisers[name], [], 0.0
        for indices in order.split(BATCH):
            frames, labels = over_time(self.frames[indices]).contiguous(), self.labels[indices]
            start = time.process_time()
            loss = module.loss(module(frames), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds += time.process_time() - start
            losses.append(loss.item())
        return statistics.fmean(losses), seconds

    def accuracy(self, name: str) -> float:
        """Part of the held-out recordings that is told right."""
        with torch.no_grad():
            output = self.modules[name](over_time(self.frames[self.split.test]))
        counts = output.sum(0) if output.ndim == 3 else output
        return (counts.argmax(1) == self.labels[self.split.test]).float().mean().item()


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
    [base] = [row["seconds"] for row in found if row["contender"] == BASE]
    return [{**row, "ratio": base / row["seconds"]} for row in found]


def header(held: Samples, split: Split, epochs: int, keeps_memory: bool) -> str:
    """What is trained, on what and how, and what the columns mean."""
    what = f"synthetic recordings ({held.synthetic}), not N-MNIST" if held.synthetic else held.name
    lines = [
        f"{AGENT} on {what}: {len(split.train)} to learn from, {len(split.test)} held out, {held.frames.shape[1]} bins",
        f"{epochs} epochs, batches of {BATCH}, Adam, {bench_plot.processor()}, 1 thread, torch {torch.__version__},"
        f" snntorch {importlib.metadata.version('snntorch')}",
        "accuracy  of those held out after the last epoch: mean over seeds; ± standard error",
        "s         median process CPU time of learning in an epoch, contenders in turns; ± interquartile range",
        f"ratio     {BASE}'s time / contender's: above 1 is faster",
        f"{BASE}: the same weights, layers and loss in its own loop over time; it resets one step later",
        f"snntorch_counts: its tutorial's output neurons and loss, counts to be {RATES[0]:.0%} and {RATES[1]:.0%} of the steps",
    ]
    if keeps_memory:
        lines.append("malloc    keeps what is freed (mallopt), so that page faults do not decide")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each contender."""
    lines = [f"{'':18}{'accuracy':>10}{'±':>8}{'s':>10}{'±':>5}{'ratio':>8}"]
    for row in rows:
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.1%}"
        times = f"{row['seconds']:10.3f}{row['spread'] / row['seconds']:5.0%}{row['ratio']:8.2f}"
        lines.append(f"{row['contender']:18}{row['accuracy']:10.1%}{error:>8}{times}")
    return "\n".join(lines) + "\n"


def load(data: Path | None) -> Samples:
    """N-MNIST from the folder, or simulated where no folder is named and there is none. Raises UserError."""
    folder = samples.data_folder(data)
    try:
        return samples.load(DATASET, folder, BINS)
    except MissingData:
        if data is not None:
            raise UserError(
                f"--data: N-MNIST is not in {str(data)!r}; scripts/classify.py --dataset {DATASET} --download fetches it,"
                " and without --data recordings are simulated"
            ) from None
        return samples.load(DATASET, folder, BINS, synthetic=RECORDINGS)


def bench(argv: list[str]) -> int:
    """Train, print, write. Raises UserError before anything is trained."""
    args = parser().parse_args(argv)
    if importlib.util.find_spec("snntorch") is None:
        raise UserError("bench.py classify: snntorch is not installed; install it with: pip install snntorch")
    path = args.json or Path(f"logs/bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}_classify.json")
    files.require_file("--json", path, (".json",))
    common.setup_logging(False)
    held = load(args.data)
    apart = held.of_test if held.of_test.any() and not held.of_test.all() else None
    split = stratified(held.labels, HELD_OUT, 0, apart)
    torch.set_num_threads(1)
    print(header(held, split, args.epochs, keep_memory()), flush=True)
    runs: list[Run] = []
    for seed in args.seeds:
        runs += Race(held, split, seed).run(args.epochs)
        rows = summary(runs)
        result = {
            "agent": AGENT,
            "data": held.name,
            "synthetic": held.synthetic,
            "digest": held.digest,
            "split": split.digest,
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
