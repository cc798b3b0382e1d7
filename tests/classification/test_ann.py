"""The ANNs beside a classifier are what they say: torch's own CNN on the sum of the frames, or on all of them as channels."""

import numpy as np
import pytest
import torch
from torch import nn

from spiky_rl.classification.settings import load_agent
from spiky_rl.classification.training import compute_logits, get_sequence_shape, to_sequence
from tests.recorded import of_frames

SIZE, CLASSES, BATCH = (6, 2, 34, 34), 10, 8
CLOSE = 1e-3
"""Share of logits by which a threshold of a thousandth may move them; measured: up to 6e-5."""


def torchs(network):
    """The same layers by torch alone, with the same weights."""
    layers = []
    for layer in network.layers:
        weight, bias = layer.connection.weight, layer.connection.bias
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
        convolution.load_state_dict({"weight": weight, "bias": bias})
        layers += [convolution, nn.MaxPool2d(2), nn.ReLU()]
    readout = nn.Linear(network.readout.in_features, CLASSES)
    readout.load_state_dict(network.readout.state_dict())
    return nn.Sequential(*layers, nn.Flatten(), readout)


@pytest.mark.parametrize(("agent", "how"), [("cnn_classifier", "sum"), ("cnn_time_classifier", "stack")])
def test_an_ann_agent_is_torchs_own_cnn_forward_and_backward(agent, how):
    spec = load_agent(agent, "nmnist", [])
    assert spec.runner["frames"] == how and not spec.network.options.stateful
    steps, inputs = get_sequence_shape(SIZE, how)
    torch.manual_seed(0)
    network = spec.network.build(inputs=inputs, outputs=CLASSES)
    network.set_backend("torch")
    peer = torchs(network)
    counts = np.random.default_rng(0).poisson(0.2, (BATCH, *SIZE))
    frames = of_frames(counts, np.arange(BATCH)).frames(np.arange(BATCH))
    images = frames.sum(1) if how == "sum" else frames.flatten(1, 2)
    assert steps == 1 and images.shape[1:] == inputs
    found, expected = compute_logits(network, to_sequence(frames, how)), peer(images)
    assert (found - expected).norm() < CLOSE * expected.norm()
    labels = torch.arange(BATCH) % CLASSES
    for output in (found, expected):
        nn.functional.cross_entropy(output, labels).backward()
    mine = torch.cat([p.grad.flatten() for p in network.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in peer.parameters()])
    assert mine.norm() > 0 and (mine - theirs).norm() < CLOSE * theirs.norm()


def test_frames_are_seen_in_turn_unless_an_agent_sums_or_stacks_them():
    frames = torch.arange(2 * 3 * 4.0).reshape(2, 3, 1, 2, 2)
    assert torch.equal(to_sequence(frames, "sum")[0, 1], frames[1].sum(0).flatten())
    assert torch.equal(to_sequence(frames, "stack")[0, 1], frames[1].flatten())
    size = (3, 1, 2, 2)
    assert [get_sequence_shape(size, how) for how in ("turn", "sum", "stack")] == [
        (3, size[1:]),
        (1, size[1:]),
        (1, (3, 2, 2)),
    ]
