"""The ANN for comparison with a classifier: a perceptron that sees all frames of a recording at once.

It shows which accuracy is possible without spikes. Its layers are `WIDTHS` with ReLU. It is trained on the same recordings with the same
batch size and augmentation, and the same validation set chooses its epoch. It has a third of the epochs, because it converges sooner.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from spiky_rl.classification.settings import load_agent
from spiky_rl.classification.training import Trainer, compute_accuracy, get_sequence_shape
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.run.command import StopRequest

NAME = "mlp"
"""Name in `ClassifyOptions` and in result files."""
WIDTHS = (256, 256)
EPOCH_RATIO = 3
"""Epochs of the network per epoch of the ANN."""
MAX_WEIGHTS = 50_000_000
AGENT = "cnn_time_classifier"
OVERRIDES = [
    # weights as large as those of torch.nn.Linear; larger ones overfit few recordings
    "agent.network.connection={name: linear, gain: 0.577, offset: 0.0, spread: 0.02}",
    f"agent.network.layers={list(WIDTHS)}",
    "agent.algorithm.learning_rate=1.0e-3",
]


def build(trainer: Trainer, seed: int) -> Trainer:
    """Return a trainer of the ANN with the samples and the split of a network's ``trainer``; ``seed`` draws its weights and batches.

    Raises UserError if the ANN would have more than `MAX_WEIGHTS` weights.
    """
    spec = load_agent(AGENT, trainer.samples.name, OVERRIDES)
    assert spec.network is not None
    frame_mode = spec.runner["frames"]
    _, inputs = get_sequence_shape(trainer.samples.size, frame_mode)
    weights = math.prod(inputs) * WIDTHS[0]
    if weights > MAX_WEIGHTS:
        raise UserError(
            f"{math.prod(inputs):,} values of a recording make {weights:,} weights; allowed: {MAX_WEIGHTS:,}. Use fewer --bins"
        )
    torch.manual_seed(seed)
    network = spec.network.build(inputs=inputs, outputs=len(trainer.samples.classes))
    settings = replace(
        trainer.settings,
        epochs=math.ceil(trainer.settings.epochs / EPOCH_RATIO),
        learning_rate=spec.runner["algorithm"]["learning_rate"],
        frame_mode=frame_mode,
    )
    return Trainer(network, trainer.samples, trainer.split, settings, trainer.device)


def train(
    trainer: Trainer, seed: int, stop: StopRequest, open_progress: ProgressFactory = no_progress
) -> dict[str, Any] | None:
    """Train and test the ANN with the data of a network's ``trainer``; return its entry in a result file, None if a stop is requested.

    If the ANN is too large, or its loss is not finite, the entry has the reason instead of an accuracy.
    """
    try:
        ann = build(trainer, seed)
        with open_progress("training the ANN on the same frames") as report_progress:
            for epoch in ann.run_epochs():
                count = f"epoch {epoch.index + 1} of {epoch.last + 1}"
                report_progress((epoch.index + 1) / (epoch.last + 1), count)
                if stop() and epoch.index < epoch.last:
                    return None
    except (UserError, FloatingPointError) as error:
        return {"name": NAME, "accuracy": None, "left_out": str(error)}
    best = ann.load_best()
    _, _, operations = ann.measure_activity()
    history = ann.history
    return {
        "name": NAME,
        "layers": list(WIDTHS),
        "learning_rate": ann.settings.learning_rate,
        "accuracy": compute_accuracy(ann, ann.split.test),
        "accuracy_validation": history.accuracy_validation[best],
        "accuracy_train": history.accuracy_train[best],
        "epoch": best + 1,
        "epochs": len(history.loss),
        "seconds_total": sum(history.seconds),
        "synops_per_sample": operations,
    }
