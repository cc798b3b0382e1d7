"""Training of a classifier, which keeps the epoch with the best validation accuracy.

The network's features are averaged over the T frames of a recording, one control step each. The means are the logits: the largest one
gives the predicted class, and the loss is their cross-entropy. The test set is used once, after the best epoch has been chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from spiky_rl.classification.samples import Samples
from spiky_rl.classification.split import Split
from spiky_rl.config.options import FileRecord, RegistryError
from spiky_rl.learners.common.checkpoints import get_random_state, restore_random_state
from spiky_rl.learners.common.progress import Amount
from spiky_rl.metrics.meter import make_meter
from spiky_rl.metrics.spikes import LayerActivity, compute_layer_activity, compute_mean_rate
from spiky_rl.metrics.synops import count_operations_by_environment
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork

EVALUATION_BATCH_SIZE, EVALUATION_RATIO = 200, 4
"""Maximum number of samples in a pass without gradients, and its maximum multiple of the training's batch size."""
MIN_RISE = 0.02
"""Smallest rise of the accuracy near the end of a training at which the training counts as not converged."""
SCALING_SAMPLES = 32
"""Initial weights are scaled on this many samples; `spread_out` may return up to twice as many."""
ACTIVITY_SAMPLES = 50
"""Firing rates and operations are measured on this many samples; `spread_out` may return up to twice as many."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a training."""

    epochs: int
    batch_size: int
    learning_rate: float
    """Learning rate of Adam; with the cosine schedule it falls to zero over all epochs."""
    schedule: str
    """``cosine`` or ``constant``."""
    label_smoothing: float
    shift: float
    """Augmentation: maximum shift of a sample in pixels, along rows and along columns."""
    rotation: float
    """Augmentation: maximum rotation of a sample in degrees."""
    patience: int = 0
    """Number of epochs without a better validation accuracy after which training ends; 0 to never end early."""
    frame_mode: str = "turn"
    """Input of the network: a recording's frames in turn, one per control step (``turn``), their ``sum``, or a ``stack`` of channels."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch."""

    index: int
    last: int
    """Index of the last epoch that the training may have."""
    loss: float
    accuracy_train: float
    """Accuracy on the training samples, each predicted by the weights before its own optimiser step, with augmentation."""
    accuracy_validation: float | None
    """Accuracy on the validation set; None without one."""
    seconds: float
    """Wall time of learning."""
    layers: list[LayerActivity]
    rate: float
    """Firing rate: mean spikes per neuron and inner step."""
    operations: float
    """Effective synaptic operations per control step."""
    steps: int
    """Control steps of a recording."""

    @property
    def operations_per_recording(self) -> float:
        """Effective synaptic operations of all control steps of a recording."""
        return self.operations * self.steps


@dataclass(frozen=True)
class Rise:
    """An accuracy that was still rising when training ended; the fields are keys of ``result.json``."""

    what: str
    """Which accuracy: ``validation`` or ``training``."""
    before: float
    """Mean over a fifth of the epochs, just before the last fifth of the learning (see `History.find_rise`)."""
    last: float
    """Mean over the last fifth of the epochs."""


class History(FileRecord):
    """Values of all epochs so far; every checkpoint holds them, so that a resumed run continues the lists.

    Every list has one value per epoch: the field of `Epoch` with the list's name. The names are keys of ``result.json``.
    """

    model_config = ConfigDict(frozen=False)
    loss: list[float] = Field(default_factory=list)
    accuracy_train: list[Fraction] = Field(default_factory=list)
    accuracy_validation: list[Fraction | None] = Field(default_factory=list)
    seconds: list[Amount] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len({len(values) for values in vars(self).values()}) > 1:
            raise RegistryError("its lists have different lengths")
        return self

    def add(self, epoch: Epoch) -> None:
        """Append an epoch's values."""
        for key, values in vars(self).items():
            values.append(getattr(epoch, key))

    @property
    def best_epoch(self) -> int:
        """The last epoch with the highest validation accuracy, because it has learned longest; without a validation set the last."""
        last_epoch, accuracies = len(self.loss) - 1, self._list_validation_accuracies()
        if not accuracies:
            return last_epoch
        return last_epoch - accuracies[::-1].index(max(accuracies))

    @property
    def epochs_without_improvement(self) -> int:
        """Number of epochs since the validation accuracy last exceeded its maximum; an equal accuracy is no improvement."""
        accuracies = self._list_validation_accuracies()
        if not accuracies:
            return 0
        return len(accuracies) - 1 - accuracies.index(max(accuracies))

    def _list_validation_accuracies(self) -> list[float]:
        """Return the validation accuracies of all epochs; empty without a validation set."""
        return [value for value in self.accuracy_validation if value is not None]

    def find_rise(self, n_validation: int, schedule: str) -> Rise | None:
        """Return the accuracy that still rose in the last fifth of the learning; None if none did, or there are fewer than 10 epochs.

        A fifth of the learning is a fifth of the sum of learning rates. With a cosine ``schedule`` the last fifth begins at half of the
        epochs; the last fifth of the epochs learns so slowly that it would always look converged. A rise of less than one and a half of
        the ``n_validation`` recordings does not count.
        """
        epochs, fifth = len(self.loss), len(self.loss) // 5
        if fifth < 2:
            return None
        begin = epochs // 2 if schedule == "cosine" else epochs - fifth
        candidates = [
            ("validation", self._list_validation_accuracies(), max(MIN_RISE, 1.5 / max(n_validation, 1))),
            ("training", self.accuracy_train, MIN_RISE),
        ]
        for name, values, min_rise in candidates:
            if len(values) == epochs:
                before, last = fmean(values[begin - fifth : begin]), fmean(values[-fifth:])
                if last - before > min_rise:
                    return Rise(name, before, last)
        return None


def compute_logits(network: SpikingNetwork, frames: Tensor, record: ForwardRecord | None = None) -> Tensor:
    """Run frames [T, B, O], O = C H W, from the zero state; return the logits [B, classes], the features averaged over T."""
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
    """Make one optimiser step with frames [T, B, O] and labels [B]; return the mean loss and the number of correct predictions.

    Both are computed by the network before the step. They stay on its device, because reading them would wait for the device.
    """
    output = compute_logits(network, frames)
    loss = functional.cross_entropy(output, labels, label_smoothing=label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    network.count_update()  # for slope schedules and the noise of random encoders
    return loss.detach(), (output.argmax(1) == labels).sum()


def augment(frames: Tensor, shift: float, rotation: float) -> Tensor:
    """Return samples [B, T, C, H, W] with a random shift and rotation per sample; event counts are interpolated bilinearly."""
    if not (shift or rotation):
        return frames
    count, (height, width) = len(frames), frames.shape[-2:]
    angle = (2.0 * torch.rand(count) - 1.0) * math.radians(rotation)
    # grid_sample takes coordinates from -1 to 1, so a pixel is 2 / side wide
    offset = (2.0 * torch.rand(count, 2) - 1.0) * shift * 2.0 / torch.tensor([width, height])
    rows = [
        torch.stack([angle.cos(), -angle.sin() * height / width, offset[:, 0]], 1),
        torch.stack([angle.sin() * width / height, angle.cos(), offset[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, height, width], align_corners=False)
    flat = frames.reshape(count, -1, height, width)
    return functional.grid_sample(flat, grid.to(frames), align_corners=False).reshape(frames.shape)


def to_sequence(frames: Tensor, frame_mode: str = "turn") -> Tensor:
    """Return samples [B, T, C, H, W] as input of a network, [T, B, O]; [1, B, O] if the frames are summed or stacked."""
    if frame_mode == "sum":
        frames = frames.sum(1, keepdim=True)
    elif frame_mode == "stack":
        frames = frames.flatten(1, 2).unsqueeze(1)
    return frames.transpose(0, 1).flatten(2)


def get_sequence_shape(size: tuple[int, int, int, int], frame_mode: str) -> tuple[int, tuple[int, int, int]]:
    """Return the number of control steps T and the shape [channels, rows, columns] of a frame, for samples of ``size`` [T, C, H, W]."""
    steps, channels, rows, columns = size
    if frame_mode == "turn":
        return steps, (channels, rows, columns)
    if frame_mode == "stack":
        return 1, (channels * steps, rows, columns)
    return 1, (channels, rows, columns)


class Trainer:
    """A network with its data, optimiser and history."""

    def __init__(
        self, network: SpikingNetwork, samples: Samples, split: Split, settings: TrainerSettings, device: str
    ) -> None:
        self.network, self.samples, self.split = network.to(device), samples, split
        self.settings, self.device = settings, device
        self.optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        self.history = History()
        self.best_weights: dict[str, Any] = {}
        """State dict of the network after the best epoch."""

    def run_epochs(self) -> Iterator[Epoch]:
        """Train and yield each epoch, to the last one or until ``patience`` ends the training.

        Raises FloatingPointError if the loss or a weight is not finite.
        """
        for index in range(len(self.history.loss), self.settings.epochs):
            if self.settings.patience and self.history.epochs_without_improvement >= self.settings.patience:
                return
            started = time.perf_counter()
            loss, accuracy = self._learn(index)
            seconds = time.perf_counter() - started
            layers, rate, operations = self.measure_activity()
            validation = self.split.validation
            steps, _ = get_sequence_shape(self.samples.size, self.settings.frame_mode)
            epoch = Epoch(
                index=index,
                last=self.settings.epochs - 1,
                loss=loss,
                accuracy_train=accuracy,
                accuracy_validation=compute_accuracy(self, validation) if len(validation) else None,
                seconds=seconds,
                layers=layers,
                rate=rate,
                operations=operations,
                steps=steps,
            )
            self.history.add(epoch)
            if self.history.best_epoch == index:
                self.best_weights = {
                    key: value.detach().clone() for key, value in self.network.state_dict().items()
                }
            yield epoch

    def _learn(self, index: int) -> tuple[float, float]:
        """Train for one epoch; return the mean loss and accuracy."""
        settings, train = self.settings, self.split.train
        # torch's generator, because a checkpoint restores it
        order = train[torch.randperm(len(train)).numpy()]
        batches = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
        # sums of the losses and of the correct predictions
        totals = torch.zeros(2, dtype=torch.double, device=self.device)
        for i, (frames, labels) in enumerate(iterate_batches(self.samples, batches, self.device)):
            for group in self.optimiser.param_groups:
                group["lr"] = self._get_learning_rate((index + i / len(batches)) / settings.epochs)
            frames = to_sequence(augment(frames, settings.shift, settings.rotation), settings.frame_mode)
            loss, count = training_step(
                self.network, self.optimiser, frames, labels, settings.label_smoothing
            )
            totals += torch.stack([loss * len(labels), count])
        loss, accuracy = (totals / len(order)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"epoch {index}: the loss is {loss}; the last good checkpoint is kept")
        if name := self._find_non_finite():
            raise FloatingPointError(
                f"epoch {index}: {name} has non-finite values; the last good checkpoint is kept"
            )
        return loss, accuracy

    def _find_non_finite(self) -> str | None:
        """Return the name of the first weight with non-finite values, or None; waits for the device once.

        The loss may be finite beside them: a neuron whose current is not a number does not spike.
        """
        names, weights = zip(*self.network.named_parameters(), strict=True)
        broken = torch.stack([~weight.detach().isfinite().all() for weight in weights]).tolist()
        return names[broken.index(True)] if any(broken) else None

    def _get_learning_rate(self, done: float) -> float:
        """Return the learning rate when a share ``done`` of all epochs is done."""
        rate = self.settings.learning_rate
        if self.settings.schedule == "cosine":
            return 0.5 * rate * (1.0 + math.cos(math.pi * done))
        return rate

    def sample_frames(self) -> Tensor:
        """Return frames [T, B, O] of some training samples, as input of the network."""
        frames = self.samples.frames(spread_out(self.split.train, SCALING_SAMPLES)).to(self.device)
        return to_sequence(frames, self.settings.frame_mode)

    def measure_activity(self) -> tuple[list[LayerActivity], float, float]:
        """Return firing rates by layer, their mean, and effective operations per control step.

        They are measured on some validation samples, or on training samples if there is no validation set.
        """
        record = ForwardRecord()
        indices = self.split.validation if len(self.split.validation) else self.split.train
        batch = spread_out(indices, min(ACTIVITY_SAMPLES, EVALUATION_RATIO * self.settings.batch_size))
        frames, _ = next(iterate_batches(self.samples, [batch], self.device))
        with torch.no_grad():
            compute_logits(self.network, to_sequence(frames, self.settings.frame_mode), record)
        layers, meter = compute_layer_activity(record), make_meter(self.network)
        operations = count_operations_by_environment(record, None if meter is None else meter.connections)
        return layers, compute_mean_rate(layers, record), operations.mean().item()

    def predict(self, indices: np.ndarray) -> np.ndarray:
        """Return the predicted class of the samples at ``indices``, [samples]."""
        network, settings = self.network, self.settings
        return compute_probabilities(
            network, self.samples, indices, self.device, settings.batch_size, settings.frame_mode
        ).argmax(1)

    def load_best(self) -> int:
        """Load the network of the best epoch; return the epoch's index."""
        self.network.load_state_dict(self.best_weights)
        return self.history.best_epoch

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint, as plain data and tensors.

        `restore` continues from it with the same bits. Inference reads ``learned``, the hashes of the recordings in the training and
        validation sets, to find the recordings that the network was not trained with.
        """
        learned = self.samples.digests[np.concatenate([self.split.train, self.split.validation])]
        return {
            "network": self.network.state_dict(),
            "best": self.best_weights,
            "optimizer": self.optimiser.state_dict(),
            "history": self.history.model_dump(),
            "random": get_random_state(self.device),
            "learned": torch.from_numpy(np.sort(learned.view(np.int64))),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.network.load_state_dict(state["network"])
        self.best_weights = state["best"]
        self.optimiser.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        restore_random_state(state["random"], self.device)


def spread_out(indices: np.ndarray, count: int) -> np.ndarray:
    """Return evenly spaced elements of ``indices``: at least ``count``, fewer than twice as many; all of them if there are fewer."""
    return indices[:: max(1, len(indices) // count)]


def iterate_batches(
    samples: Samples, batches: Sequence[np.ndarray], device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield frames [B, T, C, H, W] and labels [B] of each batch of samples, on the device.

    For a GPU, the events of the next batch are gathered into pinned memory while the GPU computes, and are made into frames on the GPU.
    """
    pinned = device.startswith("cuda") and torch.cuda.is_available()

    def gather(indices: np.ndarray) -> tuple[Any, Any]:
        event_indices, labels = samples.gather_event_indices(indices), samples.labels[indices]
        if not pinned:
            return event_indices, labels
        return torch.from_numpy(event_indices).pin_memory(), torch.from_numpy(labels).pin_memory()

    def move(batch: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        event_indices = torch.as_tensor(batch[0]).to(device, non_blocking=pinned)
        labels = torch.as_tensor(batch[1]).to(device, non_blocking=pinned)
        return samples.fill_frames(event_indices, len(labels)), labels

    if device == "cpu":
        yield from (move(gather(indices)) for indices in batches)
        return
    if len(batches) == 0:
        return
    with ThreadPoolExecutor(1) as pool:
        gathering = pool.submit(gather, batches[0])
        for i in range(len(batches)):
            batch = gathering.result()
            if i + 1 < len(batches):
                gathering = pool.submit(gather, batches[i + 1])
            yield move(batch)


def compute_probabilities(
    network: SpikingNetwork,
    samples: Samples,
    indices: np.ndarray,
    device: str,
    batch_size: int,
    frame_mode: str = "turn",
) -> np.ndarray:
    """Return the class probabilities [samples, classes] of the samples at ``indices``; ``batch_size`` is that of the training."""
    if len(indices) == 0:
        return np.zeros((0, len(samples.classes)), np.float32)
    size = min(EVALUATION_BATCH_SIZE, EVALUATION_RATIO * batch_size)
    batches = [indices[i : i + size] for i in range(0, len(indices), size)]
    probabilities = []
    with torch.no_grad():
        for frames, _ in iterate_batches(samples, batches, device):
            probabilities.append(compute_logits(network, to_sequence(frames, frame_mode)).softmax(1))
    return torch.cat(probabilities).cpu().numpy()


def compute_accuracy(trainer: Trainer, indices: np.ndarray) -> float:
    """Return the accuracy of the trainer's network on some of its samples."""
    return float((trainer.predict(indices) == trainer.samples.labels[indices]).mean())


def compute_confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix: numbers of samples by true class (rows) and predicted class (columns)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts
