"""Batches and epochs by the number of recordings: training is a number of updates, and few recordings need many passes for it."""

from __future__ import annotations

import math

UPDATES = 1500
"""Steps of the optimiser that a training makes at least, unless that takes more than `MAX_EPOCHS`."""
MIN_EPOCHS, MAX_EPOCHS = 30, 500
MIN_BATCH, MAX_BATCH = 16, 50
BATCHES_PER_EPOCH = 10
"""Batches of an epoch between these two sizes."""


def compute_batch_size(recordings: int) -> int:
    """Return the batch size for a number of ``recordings`` to learn from: a tenth of them, within bounds."""
    return min(max(MIN_BATCH, math.ceil(recordings / BATCHES_PER_EPOCH)), MAX_BATCH)


def compute_epochs(recordings: int, batch_size: int) -> int:
    """Return the number of passes over ``recordings`` that makes `UPDATES` steps in batches of ``batch_size``, within bounds."""
    per_epoch = math.ceil(recordings / batch_size)
    return min(max(MIN_EPOCHS, math.ceil(UPDATES / per_epoch)), MAX_EPOCHS)
