"""Training a classifier: one step of it, which a benchmark can call, and epochs of them over held-out data.

The class is the largest mean feature over the control steps; the loss is the cross-entropy of those means.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spiky_rl.datasets.samples import Samples
from spiky_rl.datasets.split import Split
from spiky_rl.hosts.common.checkpoints import random_state, restore_random_state
from spiky_rl.metrics.spikes import Firing, firing, mean_rate
from spiky_rl.metrics.synops import effective_operations
from spiky_rl.networks.base import Record, SpikingNetwork

EVALUATED = 200
"""Samples that pass through the network at once without gradients."""
OBSERVED = 50
"""Held-out samples that firing rates and operations are measured on, at most."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    """Adam's; the cosine schedule lets it fall to zero over all epochs."""
    schedule: str
    """``cosine`` or ``constant``."""
    label_smoothing: float
    shift: float
    """Pixels that a sample is moved by at most, in rows and in columns, each time it is seen."""
    rotation: float
    """Degrees that it is turned by at most."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch."""

    index: int
    last: int
    loss: float
    accuracy_train: float
    """Share of training samples that were classified right: as they were learned from, augmented, by the weights of that step."""
    accuracy: float
    """Share of held-out samples that are classified right."""
    seconds: float
    """Wall time of learning."""
    layers: list[Firing]
    rate: float
    """Mean spikes per neuron and inner step."""
    operations: float
    """Effective synaptic operations per control step."""


@dataclass
class History:
    """All epochs so far; saved with every checkpoint, so that a resumed run counts on."""

    loss: list[float] = field(default_factory=list)
    accuracy_train: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, epoch: Epoch) -> None:
        """Append an epoch's values."""
        for key, values in vars(self).items():
            values.append(getattr(epoch, key))


def logits(network: SpikingNetwork, frames: Tensor, record: Record | None = None) -> Tensor:
    """Frames [T, B, O] -> mean features over T [B, classes], from rest."""
    state = network.zero_state(frames.shape[1], frames) if network.stateful else None
    features, _ = network(frames, state, record=record)
    return features.mean(0)


def training_step(
    network: SpikingNetwork,
    optimiser: torch.optim.Optimizer,
    frames: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Learn from frames [T, B, O] and labels [B]; returns the mean loss and how many of them were right before.

    Both stay where the network is: to read them is to wait for the device.
    """
    output = logits(network, frames)
    loss = functional.cross_entropy(output, labels, label_smoothing=label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    network.advance()
    return loss.detach(), (output.argmax(1) == labels).sum()


def augmented(frames: Tensor, shift: float, rotation: float) -> Tensor:
    """Samples [B, T, C, H, W], each moved and turned at random as a whole; counts between pixels are shared among them."""
    if not (shift or rotation):
        return frames
    count, (height, width) = len(frames), frames.shape[-2:]
    angle = (2.0 * torch.rand(count) - 1.0) * math.radians(rotation)
    # grid_sample takes places from -1 to 1: a pixel is 2 / side wide
    moved = (2.0 * torch.rand(count, 2) - 1.0) * shift * 2.0 / torch.tensor([width, height])
    rows = [
        torch.stack([angle.cos(), -angle.sin() * height / width, moved[:, 0]], 1),
        torch.stack([angle.sin() * width / height, angle.cos(), moved[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, height, width], align_corners=False)
    flat = frames.reshape(count, -1, height, width)
    return functional.grid_sample(flat, grid.to(frames), align_corners=False).reshape(frames.shape)


def over_time(frames: Tensor) -> Tensor:
    """Samples [B, T, C, H, W] as a network takes them, [T, B, O]."""
    return frames.transpose(0, 1).flatten(2)


class Trainer:
    """A network, what it learns from, and how far it is."""

    def __init__(
        self, network: SpikingNetwork, samples: Samples, split: Split, settings: Settings, device: str
    ) -> None:
        self.network, self.samples, self.split = network.to(device), samples, split
        self.settings, self.device = settings, device
        self.optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        self.history = History()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames [B, T, C, H, W] and labels [B] of samples."""
        frames = np.asarray(self.samples.frames[indices], np.float32)
        labels = torch.from_numpy(self.samples.labels[indices])
        return torch.from_numpy(frames).to(self.device), labels.to(self.device)

    def epochs(self) -> Iterator[Epoch]:
        """Train to the last epoch. Raises FloatingPointError where the loss is no number."""
        for index in range(len(self.history.loss), self.settings.epochs):
            started = time.perf_counter()
            loss, right = self._learn(index)
            seconds = time.perf_counter() - started
            layers, rate, operations = self.observe()
            epoch = Epoch(
                index,
                self.settings.epochs - 1,
                loss,
                right,
                self.accuracy(),
                seconds,
                layers,
                rate,
                operations,
            )
            self.history.add(epoch)
            yield epoch

    def _learn(self, index: int) -> tuple[float, float]:
        """One pass over the samples; returns the mean loss and accuracy."""
        settings, train = self.settings, self.split.train
        order = train[torch.randperm(len(train)).numpy()]
        batches = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
        told = torch.zeros(2, dtype=torch.double, device=self.device)
        for i, indices in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate((index + i / len(batches)) / settings.epochs)
            frames, labels = self.batch(indices)
            frames = over_time(augmented(frames, settings.shift, settings.rotation))
            loss, count = training_step(
                self.network, self.optimiser, frames, labels, settings.label_smoothing
            )
            told += torch.stack([loss * len(indices), count])
        loss, accuracy = (told / len(order)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"epoch {index}: the loss is {loss}; the last good checkpoint is kept")
        return loss, accuracy

    def _learning_rate(self, done: float) -> float:
        """When this part of all epochs is done."""
        rate = self.settings.learning_rate
        return 0.5 * rate * (1.0 + math.cos(math.pi * done)) if self.settings.schedule == "cosine" else rate

    def predictions(self) -> np.ndarray:
        """The class of every held-out sample."""
        found, test = [], self.split.test
        with torch.no_grad():
            for i in range(0, len(test), EVALUATED):
                frames, _ = self.batch(test[i : i + EVALUATED])
                found.append(logits(self.network, over_time(frames)).argmax(1).cpu().numpy())
        return np.concatenate(found)

    def accuracy(self) -> float:
        """Part of the held-out samples that is told right."""
        return float((self.predictions() == self.samples.labels[self.split.test]).mean())

    def confusion(self) -> np.ndarray:
        """Held-out samples by their class (rows) and what they were taken for (columns)."""
        found = np.zeros((self.samples.classes, self.samples.classes), np.int64)
        np.add.at(found, (self.samples.labels[self.split.test], self.predictions()), 1)
        return found

    def observe(self) -> tuple[list[Firing], float, float]:
        """Firing by layer, mean rate and operations per control step, over some held-out samples."""
        record = Record()
        frames, _ = self.batch(self.split.test[:: max(1, len(self.split.test) // OBSERVED)])
        with torch.no_grad():
            logits(self.network, over_time(frames), record)
        layers = firing(record)
        return layers, mean_rate(layers, record), effective_operations(record)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on as if nothing had happened, as plain data and tensors."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimiser.state_dict(),
            "history": asdict(self.history),
            "random": random_state(self.device),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        restore_random_state(state["random"], self.device)
