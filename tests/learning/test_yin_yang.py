"""EventProp learns Yin-Yang (Kriener et al. 2022): where a point lies, told by the times of five spikes, read from a membrane."""

import math

import pytest
import torch

from spiky_rl.config import registry

DT, DURATION, LATEST = 0.5, 40.0, 20.0
"""ms: a step, a sample, and the latest of a coordinate's spikes after the first."""
STEPS = round(DURATION / DT)
TRAINED, TESTED, BATCH, HIDDEN = 5000, 1000, 100, 120
BIG, SMALL = 0.5, 0.1
"""Radii of the figure and of its dots."""


def label(x: float, y: float) -> int | None:
    """0: yang, 1: yin, 2: a dot; None: outside."""
    if math.hypot(x - BIG, y - BIG) > BIG:
        return None
    right, left = math.hypot(x - 1.5 * BIG, y - BIG), math.hypot(x - 0.5 * BIG, y - BIG)
    if right < SMALL or left < SMALL:
        return 2
    return int(right <= SMALL or SMALL < left <= 0.5 * BIG or (y > BIG and right > 0.5 * BIG))


def yin_yang(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [count, 2] and labels, equally many of each class."""
    generator, points, labels = torch.Generator().manual_seed(seed), [], []
    while len(labels) < count:
        point = torch.rand(2, generator=generator).tolist()
        if label(*point) == len(labels) % 3:
            points.append(point)
            labels.append(len(labels) % 3)
    return torch.tensor(points), torch.tensor(labels)


def events(x: torch.Tensor) -> torch.Tensor:
    """Spikes at x, y, 1 - x, 1 - y times `LATEST` and one at the start, 1 ms in: [T, B, 5], divided between two steps."""
    times = (torch.cat([x, 1.0 - x, torch.zeros(len(x), 1)], 1) * LATEST + 1.0) / DT
    step, found = times.long(), torch.zeros(STEPS, len(x), 5)
    sample, channel = torch.arange(len(x))[:, None].expand_as(step), torch.arange(5).expand_as(step)
    found[step, sample, channel] = 1.0 - (times - step)
    found[step + 1, sample, channel] += times - step
    return found


def accuracy(seed: int, epochs: int) -> float:
    """On points that were not learned from, after these epochs of Adam."""
    torch.manual_seed(seed)
    rule = {"name": "eventprop", "tau_synapse": 5.0, "lowest": 0.3 / STEPS, "highest": 0.3 / STEPS}
    settings = {
        "name": "feedforward", "layers": [HIDDEN], "steps": 1, "stateful": True, "learning": rule,
        "neuron": {"name": "lif", "tau": 20.0, "input_gain": "ode", "reset": "zero", "dt": DT},
        "connection": {"name": "linear", "bias": False},
        "decoder": {"name": "membrane", "tau": 20.0, "dt": DT},
    }  # fmt: skip
    net = registry.configure("networks", settings, "net").build(inputs=5, outputs=3)
    with torch.no_grad():
        net.layers[0].connection.weight.normal_(2.5, 1.5)
    (x, y), (test_x, test_y) = yin_yang(TRAINED, seed), yin_yang(TESTED, seed + 1000)
    signal, held_out = events(x), events(test_x)
    # an early potential counts more, or the gradient of a mean deletes spikes
    weight = torch.exp(-torch.arange(STEPS) * DT / DURATION).view(-1, 1, 1)
    weight = 100.0 * weight / weight.sum()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)

    def logits(signal: torch.Tensor) -> torch.Tensor:
        return (net(signal, net.zero_state(signal.shape[1], signal))[0] * weight).sum(0)

    for _ in range(epochs):
        for batch in torch.randperm(TRAINED).split(BATCH):
            loss = torch.nn.functional.cross_entropy(logits(signal[:, batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        decay.step()
    with torch.no_grad():
        return (logits(held_out).argmax(-1) == test_y).float().mean().item()


def test_it_learns_yin_yang_in_seconds():
    assert accuracy(seed=0, epochs=4) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_reads_95_of_100_points(seed):
    assert accuracy(seed, epochs=20) >= 0.95
