"""``bench.py classify``: a classifier beside snnTorch's of the same layers, in accuracy and time to train.

All start from the same weights and see the same frames in the same batches, with one optimiser and learning rate. They take
turns epoch by epoch in one process, on one thread, and process time is taken, so that a busy machine does not decide. snnTorch runs
as its tutorial writes it, and in the ways that may be faster: each layer over all steps at once before its neurons, channels last,
bfloat16. The fastest of them is the one to beat.
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import plot as bench_plot
from benchmarks.common import keep_memory
from spiky_rl.classification import samples
from spiky_rl.classification.run import require_classes
from spiky_rl.classification.samples import Samples
from spiky_rl.classification.settings import HOST, dataset_of, dataset_options
from spiky_rl.classification.split import Split, split, subset
from spiky_rl.classification.training import EVALUATED, logits, over_time
from spiky_rl.cli import common
from spiky_rl.config import files, registry
from spiky_rl.config.arguments import positive, seed_number
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.datasets._events import MissingData
from spiky_rl.networks.base import SpikingNetwork

DATASET, SYNTHETIC = "nmnist", "nmnist_synthetic"
BATCH = 50
PEER, COUNTED = "snntorch", "snntorch_counts"
"""What the names of snnTorch's contenders begin with; the one that learns by another loss, and so is not one to beat."""
RATES = (0.8, 0.2)
"""Share of steps at which an output neuron should spike: the right class's, and the others'."""


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
        help=f"what is classified: {', '.join(registry.names('datasets'))}, or path/file.py:Class",
    )
    add(
        "--data",
        type=Path,
        help="folder of the datasets; where none is named and N-MNIST is not there, it is simulated",
    )
    add(
        "--recordings",
        type=positive,
        metavar="N",
        help="use N of them, of every class its share, the same for everyone",
    )
    add("--epochs", type=positive, default=10, help="passes over the recordings")
    add("--seeds", type=seeds, default=[0, 1, 2], metavar="N,N", help="of weights and order; default: 0,1,2")
    add(
        "--split",
        type=seed_number,
        default=1,
        help="seed that draws the recordings to test on, where a dataset has no test set of its own; settings were chosen on"
        " those that 0 draws, so a race on them flatters; default: 1",
    )
    add("--json", type=Path, metavar="FILE", help="result; if not given, logs/bench/<time>_classify.json")
    add("overrides", nargs="*", metavar="key=value", help="dataset.x=v")
    return found


def seeds(text: str) -> list[int]:
    """Whole numbers between commas, each once."""
    found = [seed_number(part) for part in text.split(",")]
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
    """snnTorch's network with a copy of our weights; the readout is linear, as ours is.

    As its tutorial writes it, step by step, or ``folded``: each layer's currents of all steps at once, and then its neurons over time.
    The maps of convolutions may lie with their channels ``last``, and products be of ``bfloat16`` by autocast.
    """

    def __init__(
        self, network: SpikingNetwork, folded: bool = False, last: bool = False, bfloat16: bool = False
    ) -> None:
        super().__init__(network)
        del self.network
        self.folded, self.autocast = folded, bfloat16
        leaky = importlib.import_module("snntorch").Leaky
        surrogate: Any = network.surrogate
        gradient = importlib.import_module("snntorch.surrogate").atan(alpha=surrogate.slope)
        layers: Any = network.layers
        neuron = next(iter(layers)).neuron

        def cell() -> torch.nn.Module:
            return leaky(beta=neuron.number("tau"), threshold=neuron.number("threshold"), spike_grad=gradient)

        first = layers[0].connection
        self.maps = first.inputs if isinstance(first, Convolutional) else (-1,)
        self.stages = torch.nn.ModuleList(_stage(layer.connection, cell()) for layer in layers)
        self.readout = torch.nn.Linear(network.readout.in_features, network.readout.out_features)
        self.readout.load_state_dict(network.readout.state_dict())
        self.last = cell()
        if last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            if self.folded:
                return self.readout(self.all_spikes(frames)).mean(0).float()
            return torch.stack([self.readout(spikes) for spikes in self.spikes(frames)]).mean(0).float()

    def spikes(self, frames: Tensor) -> Iterator[Tensor]:
        """Spikes of the last hidden layer, [B, N] for each step."""
        potentials: list[Tensor | None] = [None] * len(self.stages)
        for frame in frames:
            signal = frame.view(-1, *self.maps) if len(self.maps) > 1 else frame
            for i, stage in enumerate(self.stages):
                current = stage.get_submodule("current")(signal)
                start = torch.zeros_like(current) if potentials[i] is None else potentials[i]
                signal, potentials[i] = stage.get_submodule("neuron")(current, start)
            yield signal.flatten(1)

    def all_spikes(self, frames: Tensor) -> Tensor:
        """Spikes of the last hidden layer, [T, B, N]."""
        steps, batch, _ = frames.shape
        signal = frames.reshape(-1, *self.maps) if len(self.maps) > 1 else frames.flatten(0, 1)
        for stage in self.stages:
            current = stage.get_submodule("current")(signal)
            currents, found = current.unflatten(0, (steps, batch)), []
            potential = torch.zeros_like(currents[0])
            for own in currents:
                spikes, potential = stage.get_submodule("neuron")(own, potential)
                found.append(spikes)
            signal = torch.cat(found)
        return signal.flatten(1).unflatten(0, (steps, batch))


class Counted(SnnTorch):
    """The tutorial's own readout and loss: output neurons whose spikes are counted, and the counts' squared error."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network)
        self.criterion = importlib.import_module("snntorch.functional").mse_count_loss(*RATES)

    def forward(self, frames: Tensor) -> Tensor:
        potential, found = torch.zeros(frames.shape[1], self.readout.out_features), []
        for spikes in self.spikes(frames):
            output, potential = self.last(self.readout(spikes), potential)
            found.append(output)
        return torch.stack(found)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The criterion's loss of output spikes [T, B, classes]."""
        return self.criterion(output, labels)


def _stage(link: Any, neuron: torch.nn.Module) -> torch.nn.ModuleDict:
    """A connection with these weights, its pooling, and the neuron."""
    if not isinstance(link, Convolutional):
        inputs, outputs = link.weight.shape
        linear = torch.nn.Linear(inputs, outputs)
        linear.load_state_dict({"weight": link.weight.t(), "bias": link.bias})
        return torch.nn.ModuleDict({"current": linear, "neuron": neuron})
    outputs, channels, size, _ = link.weight.shape
    convolution = torch.nn.Conv2d(channels, outputs, size, link.stride, link.padding)
    convolution.load_state_dict({"weight": link.weight, "bias": link.bias})
    current = torch.nn.Sequential(convolution, torch.nn.MaxPool2d(link.pool))
    return torch.nn.ModuleDict({"current": current, "neuron": neuron})


CONTENDERS: Mapping[str, Callable[[SpikingNetwork], Ours]] = {
    "spiky_rl": Ours,
    PEER: SnnTorch,
    f"{PEER}_folded": partial(SnnTorch, folded=True),
    f"{PEER}_folded_last": partial(SnnTorch, folded=True, last=True),
    f"{PEER}_folded_last_bfloat16": partial(SnnTorch, folded=True, last=True, bfloat16=True),
    COUNTED: Counted,
}
"""snnTorch's: step by step; folded over time; so with channels last; that in bfloat16; and with its tutorial's output and loss."""


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

    def __init__(self, agent: str, held: Samples, parted: Split, seed: int) -> None:
        self.held, self.parted, self.seed = held, parted, seed
        self.modules: dict[str, Ours] = {}
        for name, build in CONTENDERS.items():
            network, self.learning_rate = spiky_rl(agent, seed, held.shape, len(held.classes))
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
        return over_time(self.held.frames(indices)).contiguous(), torch.from_numpy(self.held.labels[indices])

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
    base = min(
        row["seconds"] for row in found if row["contender"].startswith(PEER) and row["contender"] != COUNTED
    )
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
    folder, given = samples.data_folder(args.data), dataset_options(args.overrides)
    try:
        name, dataset = args.dataset, dataset_of(args.dataset, given).build(data=folder)
    except MissingData as error:
        if args.data is not None or args.dataset != DATASET:
            raise UserError(f"--data: {error}") from None
        name, dataset = SYNTHETIC, dataset_of(SYNTHETIC, given).build(data=folder)
    chosen = subset(dataset.recordings, args.recordings, None)
    require_classes(dataset, chosen, folder)
    return dataset.agent, samples.load(name, dataset, chosen)


def bench(argv: list[str]) -> int:
    """Train, print, write. Raises UserError before anything is trained."""
    args = parser().parse_intermixed_args(argv)
    if importlib.util.find_spec("snntorch") is None:
        raise UserError("bench.py classify: snntorch is not installed; install it with: pip install snntorch")
    path = args.json or Path(f"logs/bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}_classify.json")
    files.require_file("--json", path, (".json",))
    common.setup_logging(False)
    agent, held = load(args)
    parted = split(held.labels, held.parts, None, 0, args.split)
    torch.set_num_threads(1)
    print(header(agent, held, parted, args.epochs, keep_memory()), flush=True)
    runs: list[Run] = []
    for seed in args.seeds:
        runs += Race(agent, held, parted, seed).run(args.epochs)
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
