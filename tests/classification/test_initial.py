"""Initial weights are scaled to recordings: whatever their counts, every layer spikes as much."""

import pytest
import torch

from spiky_rl.classification.initial import RATE, scale_to_recordings
from spiky_rl.classification.settings import load_agent
from spiky_rl.classification.training import compute_logits, to_sequence
from spiky_rl.config.options import UserError
from spiky_rl.metrics.spikes import compute_layer_activity
from spiky_rl.networks.base import ForwardRecord

SIZE = (12, 2, 1, 39)


def build(agent, size=SIZE, overrides=()):
    torch.manual_seed(0)
    spec = load_agent(agent, "custom", list(overrides))
    assert spec.network is not None
    network = spec.network.build(inputs=size[1:], outputs=5)
    network.set_backend("torch")
    return network


def draw_frames(count, size=SIZE):
    torch.manual_seed(1)
    return to_sequence((torch.rand(16, *size) < 0.1).float() * count)


def measure_rates(network, frames):
    record = ForwardRecord()
    with torch.no_grad():
        compute_logits(network, frames, record)
    return [layer.rate for layer in compute_layer_activity(record)]


@pytest.mark.parametrize("count", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(
    ("agent", "size"), [("lif_linear_classifier", SIZE), ("lif_conv_small_classifier", (6, 1, 10, 10))]
)
def test_every_layer_spikes_at_the_rate_whatever_the_counts_are(agent, size, count):
    network, frames = build(agent, size), draw_frames(count, size)
    scale_to_recordings(network, frames)
    assert measure_rates(network, frames) == pytest.approx([RATE] * 2, rel=0.1)


def test_a_layer_of_graded_neurons_gets_currents_of_one_size():
    network, frames = build("cnn_time_classifier", (1, 2, 34, 34)), draw_frames(30.0, (1, 2, 34, 34))
    scale_to_recordings(network, frames)
    with torch.no_grad():
        current = network.layers[0].connection(frames.unsqueeze(1))
    assert float(current.std()) == pytest.approx(1.0, rel=1e-3)


def test_a_spike_that_is_sent_in_two_parts_counts_once():
    overrides = ("agent.network.learning=eventprop", "agent.network.decoder=membrane")
    network, frames = build("lif_linear_classifier", overrides=overrides), draw_frames(1.0)
    scale_to_recordings(network, frames)
    assert measure_rates(network, frames) == pytest.approx([RATE] * 2, rel=0.2)


def test_recordings_that_reach_no_neuron_are_refused():
    network = build("lif_linear_classifier")
    with pytest.raises(UserError, match="--initial data: .*layer 1 .*; allowed: agent"):
        scale_to_recordings(network, torch.zeros(3, 2, 78))


@pytest.mark.parametrize("bias", ["true", "false"])
def test_graded_neurons_that_send_nothing_leave_no_layer_to_scale(bias):
    overrides = (
        "agent.network.neuron={name: sigma_delta, threshold: 50}",
        f"agent.network.connection={{name: linear, bias: {bias}}}",
        "agent.network.decoder=rate",
    )
    network, frames = build("lif_linear_classifier", overrides=overrides), draw_frames(1.0)
    with pytest.raises(UserError, match="--initial data: .*layer 2 .*; allowed: agent"):
        scale_to_recordings(network, frames)
