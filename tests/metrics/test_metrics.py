"""What is measured of a network, against counts made by hand; what is drawn of it, pixel by pixel."""

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.schema import MAX_LAYERS
from spiky_rl.metrics.spikes import (
    compute_layer_activity,
    compute_rate_by_environment,
    draw_raster,
    get_timelines,
    compute_mean_rate,
)
from spiky_rl.metrics.synops import dense_operations, count_operations_by_environment
from spiky_rl.metrics.video import (
    BACKGROUND,
    INK,
    MARGIN,
    PIXEL,
    RasterPanel,
    concat_frames,
    write_video,
)
from spiky_rl.networks.base import ForwardRecord

STEPS = 4


def record_of(*layers: torch.Tensor) -> ForwardRecord:
    """A record of spikes [T, K, B, N] per layer, behind an observation of one channel."""
    time, _, batch, _ = layers[0].shape
    return ForwardRecord(
        signals=[torch.ones(time, 1, batch, 1), *layers], potentials=[0.1 * s for s in layers]
    )


def test_firing_counts_rate_and_silent_and_saturated_neurons():
    spikes = torch.zeros(2, STEPS, 3, 4)  # T, K, B, N
    spikes[..., 1] = 1.0  # in every step
    spikes[0, 2, 1, 2] = 1.0  # once
    spikes[:, :, :2, 3] = 1.0  # in two of three environments
    (layer,) = compute_layer_activity(record_of(spikes))
    assert layer.rate == pytest.approx((24 + 1 + 16) / (4 * 24))
    assert layer.silent == 0.25
    assert layer.saturated == 0.25


def test_mean_rate_weighs_layers_by_their_neurons():
    wide, narrow = torch.zeros(1, STEPS, 2, 6), torch.ones(1, STEPS, 2, 2)
    record = record_of(wide, narrow)
    layers = compute_layer_activity(record)
    assert [layer.rate for layer in layers] == [0.0, 1.0]
    assert compute_mean_rate(layers, record) == pytest.approx(2 / 8)


@pytest.mark.parametrize("rule", ["eventprop", "spikeprop"])
def test_a_spike_that_is_sent_in_two_parts_counts_once(rule):
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [24, 16],
        "steps": 8,
        "learning": rule,
        "connection": {"name": "linear", "offset": 0.5},
    }
    network = registry.configure("networks", settings, "network").build(inputs=5, outputs=2)
    record = ForwardRecord()
    with torch.no_grad():
        network(torch.randn(1, 30, 5), None, record=record)
    layers, charge = compute_layer_activity(record), [float(s.mean()) for s in record.layer_spikes]
    assert [layer.rate for layer in layers] == pytest.approx(charge) and min(charge) > 0.02
    mean = compute_mean_rate(layers, record)
    assert float(compute_rate_by_environment(record).mean()) == pytest.approx(mean)
    if rule == "spikeprop":
        assert max(charge) <= 1 / 8, "a neuron sends one spike in the control step"


def tiny():
    """Two observations, three neurons that copy known sums of them, two more that spike with the third, one feature."""
    settings = {
        "name": "feedforward",
        "layers": [3, 2],
        "steps": STEPS,
        "neuron": {
            "name": "lif",
            "input_gain": "unit",
            "tau": 1e-3,
        },  # no memory: a spike where the current is >= 1
        "decoder": "rate",
    }
    network = registry.configure("networks", settings, "network").build(inputs=2, outputs=1)
    first, second = (layer.connection for layer in network.layers)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        second.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.5]]))
        first.bias.zero_()
        second.bias.zero_()
    return network


def test_effective_operations_equal_the_count_by_hand():
    network, record = tiny(), ForwardRecord()
    # environment 0: neurons 1 and 3 spike in every step, then one of two; environment 1: nothing comes in
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    network(x, network.zero_state(2, x), record=record)
    assert record.signals[1][0, :, 0].tolist() == [[1.0, 0.0, 1.0]] * STEPS
    assert record.signals[2][0, :, 0].tolist() == [[1.0, 0.0]] * STEPS
    encoder, first, second, readout = (o.tolist()[0] for o in record.operations)
    assert encoder == [0, 0]
    assert first == [1 * 3, 0], "one non-zero input, once per control step, to three neurons"
    assert second == [STEPS * 2 * 2, 0], "two spikes per inner step to two neurons"
    assert readout == [STEPS * 1 * 1, 0]
    assert count_operations_by_environment(record).mean().item() == (3 + 16 + 4) / 2


def test_effective_operations_never_exceed_a_dense_pass_in_every_step():
    torch.manual_seed(0)
    network, record = tiny(), ForwardRecord()
    x = torch.randn(1, 50, 2)
    network(x, network.zero_state(50, x), record=record)
    assert dense_operations(network) == 2 * 3 + 3 * 2 + 2 * 1
    assert 0 < count_operations_by_environment(record).mean().item() < STEPS * dense_operations(network)


def test_dense_operations_are_the_weights_of_linear_and_recurrent_modules():
    mlp = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ELU(), torch.nn.Linear(5, 2))
    assert dense_operations(mlp) == 3 * 5 + 5 * 2
    gru = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "mlp": torch.nn.Linear(4, 2)})
    assert dense_operations(gru) == 3 * (4 * 3 + 4 * 4) + 4 * 2
    assert dense_operations(torch.nn.LSTM(3, 4, num_layers=2)) == 4 * (4 * 3 + 4 * 4) + 4 * (4 * 4 + 4 * 4)


def test_timelines_run_control_step_by_control_step():
    time, neurons = 3, 2
    order = torch.arange(time * STEPS * neurons, dtype=torch.float32).view(time, STEPS, 1, neurons)
    expected = order.flatten(0, 2)
    (stateful,), (potentials,) = get_timelines(record_of(order), stateful=True)
    assert torch.equal(stateful, expected)
    assert torch.equal(potentials, 0.1 * expected)
    # a stateless pass holds the control steps in its batch
    (stateless,), _ = get_timelines(record_of(order.transpose(0, 2)), stateful=False)
    assert torch.equal(stateless, expected)


def test_the_picture_has_a_raster_and_membranes_per_layer_with_every_spike():
    spikes = [torch.zeros(12, 5), torch.zeros(12, 60)]
    spikes[0][3, 2] = spikes[0][7, 4] = 1.0
    figure = draw_raster(spikes, [0.1 * s for s in spikes], STEPS)
    assert len(figure.axes) == 4
    raster, trace = figure.axes[:2]
    assert raster.collections[0].get_offsets().tolist() == [[3, 2], [7, 4]]
    assert len(trace.lines) == 3
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "layer 1\n5 of 5",
        "potential",
        "layer 2\n48 of 60",
        "potential",
    ]
    assert figure.axes[-1].get_xlabel() == "inner step (4 per control step)"


NEURONS = (6, 3)


def panel_with(*steps: list[tuple[int, int, int]]) -> RasterPanel:
    """A panel after control steps whose spikes are (layer, inner step, neuron)."""
    panel = RasterPanel(width=320, height=240, steps=STEPS)
    for spikes in steps:
        layers = [torch.zeros(STEPS, n) for n in NEURONS]
        for layer, step, neuron in spikes:
            layers[layer][step, neuron] = 1.0
        panel.add(layers)
    return panel


def darkened(frame: np.ndarray, than: np.ndarray) -> np.ndarray:
    """[rows, columns] where a frame is inked and another is not; the labels stand where neither is compared."""
    return ((frame == INK) & (than == BACKGROUND)).all(-1)


def test_the_panel_is_a_frame_of_its_size():
    frame = panel_with([]).frame()
    assert frame.shape == (240, 320, 3)
    assert frame.dtype == np.uint8


def test_a_panel_is_empty_at_first_and_shows_the_last_inner_steps_of_a_long_control_step():
    panel = RasterPanel(width=320, height=240, steps=1000)
    assert (panel.frame() == BACKGROUND).all()
    for last in (True, False):
        spikes = torch.zeros(1000, 1)
        spikes[-1 if last else 0] = 1.0
        panel.add([spikes])
        assert (panel.frame()[40:, MARGIN:-MARGIN] == INK).any() == last


@pytest.mark.parametrize("layers", [14, 15, 19, 20, MAX_LAYERS])
def test_every_layer_of_a_deep_network_has_room_in_the_panel(layers):
    panel = RasterPanel(width=320, height=480, steps=STEPS)
    silent = RasterPanel(width=320, height=480, steps=STEPS)
    panel.add([torch.ones(STEPS, 8) for _ in range(layers)])
    silent.add([torch.zeros(STEPS, 8) for _ in range(layers)])
    rows = (panel.frame()[:, -MARGIN - STEPS * PIXEL : -MARGIN] == INK).all(-1).any(1)
    bands = np.flatnonzero(np.diff(rows.astype(int)) == 1)
    assert len(bands) >= layers
    assert not (silent.frame()[:, -MARGIN - STEPS * PIXEL : -MARGIN] == INK).all(-1).any()


def test_a_spike_darkens_its_place_and_moves_left_with_time():
    panel = panel_with([], [])
    empty, edge = panel.frame(), MARGIN + PIXEL * panel.columns
    now = darkened(panel_with([], [(0, 1, 2)]).frame(), empty)
    before = darkened(panel_with([(0, 1, 2)], []).frame(), empty)
    # the label says another rate in the first of them: compare rasters, which lie below the labels
    now[:32], before[:32] = False, False
    assert now.any()
    rows, columns = np.nonzero(now)
    earlier_rows, earlier_columns = np.nonzero(before)
    assert set(rows) == set(earlier_rows)
    assert set(columns) == {
        edge - PIXEL * 3,
        edge - PIXEL * 3 + 1,
    }, "the second of four steps before the right edge"
    assert set(earlier_columns) == {column - PIXEL * STEPS for column in columns}
    second = darkened(panel_with([], [(1, 1, 2)]).frame(), empty)
    assert np.nonzero(second)[0].min() > rows.max(), "the second layer stands below the first"


def test_the_panel_forgets_what_has_left_it():
    panel = panel_with([(0, 0, 0)])
    full = panel.columns // STEPS
    for _ in range(full):
        panel.add([torch.zeros(STEPS, n) for n in NEURONS])
    assert len(panel.past) == full
    assert not any(step[0].any() for step in panel.past)


FRAMES, FPS, HEIGHT, WIDTH = 30, 60.0, 48, 64


def test_a_film_is_a_readable_mp4_and_a_gif_of_half_the_size(tmp_path):
    av = pytest.importorskip("av", reason="writes and reads films: the extra 'video'")
    image = pytest.importorskip("PIL.Image", reason="writes and reads GIFs: the extra 'video'")
    frames = [
        concat_frames(
            np.full((HEIGHT, WIDTH, 3), 8 * i, np.uint8), np.full((HEIGHT, WIDTH, 3), 255 - 8 * i, np.uint8)
        )
        for i in range(FRAMES)
    ]
    assert frames[0].shape == (HEIGHT, 2 * WIDTH, 3)
    mp4, gif = write_video(tmp_path / "film.mp4", frames, FPS)
    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == FPS
    assert len(decoded) == FRAMES
    assert decoded[0].shape == frames[0].shape
    assert np.abs(decoded[-1].astype(int) - frames[-1]).mean() < 8
    with image.open(gif) as film:
        assert film.size == (WIDTH, HEIGHT // 2)
        assert film.n_frames == FRAMES // 3, "at 20 frames per second"
        assert film.info["duration"] == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4"]
