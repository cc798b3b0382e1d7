"""Every encoder and decoder that exists keeps its contract: shapes, state, repeatability, range, gradients, export."""

import itertools

import pytest
import torch

from spiky_rl.config import registry

INPUTS, NEURONS, OUTPUTS, STEPS, BATCH, TIME = 3, 8, 2, 4, 5, 6
WIDE = {"dtype": torch.float64}
ENCODERS, DECODERS = registry.list_names("encoders"), registry.list_names("decoders")


def encoder(name, inputs=INPUTS):
    torch.manual_seed(0)
    return registry.configure("encoders", name, "encoder").build(inputs=inputs, steps=STEPS).double()


def decoder(name):
    torch.manual_seed(0)
    built = registry.configure("decoders", name, "decoder").build(inputs=NEURONS, outputs=OUTPUTS).double()
    built.binary = True
    with torch.no_grad():
        built.readout.bias.copy_(torch.tensor([0.7, -1.3]))
    return built


def observations(time=TIME):
    return torch.randn(time, BATCH, INPUTS, generator=torch.Generator().manual_seed(1), **WIDE)


def spikes(time=TIME):
    drawn = torch.rand(time, STEPS, BATCH, NEURONS, generator=torch.Generator().manual_seed(1), **WIDE)
    return (drawn < 0.3).double()


def rest(*sizes, batch=BATCH):
    return tuple(torch.zeros(batch, size, **WIDE) for size in sizes)


def cases():
    """Every codec as (function of input, state and keep; widths of its states; an input)."""
    for name in ENCODERS:
        built = encoder(name)
        yield pytest.param(built.encode_stateful, built.state_sizes, observations(), id=f"encoder-{name}")
    for name in DECODERS:
        built = decoder(name)
        sizes = (built.state_width,) if built.state_width else ()
        yield pytest.param(built, sizes, spikes(), id=f"decoder-{name}")


@pytest.mark.parametrize(("codec", "sizes", "x"), list(cases()))
class TestEveryCodec:
    """The part of the contract that encoders and decoders share."""

    def test_many_control_steps_in_one_call_equal_many_calls(self, codec, sizes, x):
        whole, last = codec(x, rest(*sizes), None)
        assert whole.dtype == torch.float64
        assert [tuple(s.shape) for s in last] == [(BATCH, size) for size in sizes]
        state, pieces = rest(*sizes), []
        for t in range(TIME):
            piece, state = codec(x[t : t + 1], state, None)
            pieces.append(piece)
        assert torch.allclose(torch.cat(pieces), whole, atol=1e-12)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(state, last, strict=True))

    def test_without_a_state_a_control_step_starts_from_rest(self, codec, sizes, x):
        for t in range(TIME):
            alone, state = codec(x[t : t + 1], None, None)
            assert state == ()
            assert torch.allclose(alone, codec(x[t : t + 1], rest(*sizes), None)[0], atol=1e-12)

    def test_keep_equals_a_fresh_start_and_leaves_the_others_alone(self, codec, sizes, x):
        keep = torch.ones(TIME, BATCH, **WIDE)
        keep[2, 1] = 0.0
        masked, last = codec(x, rest(*sizes), keep)
        plain, _ = codec(x, rest(*sizes), None)
        fresh, end = codec(x[2:], rest(*sizes), None)
        others = [0, 2, 3, 4]
        assert torch.allclose(masked[2:, ..., 1, :], fresh[..., 1, :], atol=1e-12)
        assert torch.allclose(masked[..., others, :], plain[..., others, :], atol=1e-12)
        assert all(torch.allclose(a[1], b[1], atol=1e-12) for a, b in zip(last, end, strict=True))
        if sizes:
            assert not torch.allclose(fresh[..., others, :], plain[2:, ..., others, :]), "the state matters"

    def test_what_goes_in_is_never_written_to(self, codec, sizes, x):
        state, keep = tuple(s + 0.3 for s in rest(*sizes)), torch.zeros(TIME, BATCH, **WIDE)
        before = x.clone()
        codec(x, state, None)
        codec(x, state, keep)
        assert all((s == 0.3).all() for s in state)
        assert torch.equal(x, before)

    def test_an_environment_does_not_depend_on_its_neighbours(self, codec, sizes, x):
        whole, _ = codec(x, rest(*sizes), None)
        alone, _ = codec(x[..., 2:3, :], rest(*sizes, batch=1), None)
        assert torch.allclose(alone, whole[..., 2:3, :], atol=1e-12)

    def test_operations_are_those_of_each_environment(self, codec, sizes, x):
        codec = getattr(codec, "__self__", codec)
        operations = getattr(codec, "count_operations", None) or codec.operations
        found = operations(x)
        assert found.shape == (TIME, BATCH)
        assert (found >= 0).all()
        assert torch.equal(operations(x[..., 2:3, :]), found[:, 2:3])


@pytest.mark.parametrize("name", ENCODERS)
def test_signals_have_the_declared_width_and_are_binary_where_declared(name):
    built = encoder(name)
    signal = built(observations())
    assert signal.shape[0] == TIME
    assert signal.shape[1] in (1, STEPS)
    assert signal.shape[2:] == (BATCH, built.width)
    assert built.binary == (set(signal.unique().tolist()) <= {0.0, 1.0})


@pytest.mark.parametrize("name", ENCODERS)
def test_forward_starts_every_control_step_from_rest(name):
    built, x = encoder(name), observations()
    alone = torch.cat(
        [built.encode_stateful(x[t : t + 1], rest(*built.state_sizes), None)[0] for t in range(TIME)]
    )
    assert torch.equal(built(x), alone)
    assert torch.equal(built.encode_stateful(x, None, None)[0], alone)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_topographic_signal_is_copies_of_the_observations_layout(name):
    built, order = encoder(name), [2, 0, 1]
    if built.topographic:
        assert built.width % INPUTS == 0
    if hasattr(built, "noise"):
        built.noise = torch.full_like(built.noise, 0.3)
    signal, moved = built(observations()), built(observations()[..., order])
    copies = signal.unflatten(-1, (-1, INPUTS))[..., order].flatten(-2)
    assert torch.equal(copies, moved) == built.topographic


@pytest.mark.parametrize("name", ENCODERS)
def test_signals_repeat_until_the_noise_is_drawn_anew_and_follow_the_number_of_updates(name):
    built, x = encoder(name), observations()
    buffers = [buffer.data_ptr() for buffer in built.buffers()]
    drawn = []
    for updates in (1, 2, 1):
        built.resample_noise(updates)
        drawn.append(built(x))
        assert torch.equal(built(x), drawn[-1])
    assert torch.equal(drawn[0], drawn[2])
    assert buffers == [buffer.data_ptr() for buffer in built.buffers()], "where a captured graph reads it"
    other = encoder(name)
    built.resample_noise(5)
    other.load_state_dict(built.state_dict())
    assert torch.equal(other(x), built(x)), "the noise is saved"


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0, -3.0, 1e4, -1e9])
def test_signals_are_finite_for_any_finite_observation(name, value):
    built = encoder(name)
    x = torch.full((2, BATCH, INPUTS), value, **WIDE)
    signal, state = built.encode_stateful(x, rest(*built.state_sizes), None)
    assert signal.isfinite().all()
    assert all(s.isfinite().all() for s in state)


@pytest.mark.parametrize("name", ENCODERS)
def test_different_observations_have_different_signals(name):
    built = encoder(name)
    x = torch.tensor([-1.9, -0.7, 0.0, 0.7, 1.9], **WIDE).view(1, -1, 1).expand(1, BATCH, INPUTS)
    signal, _ = built.encode_stateful(x, rest(*built.state_sizes), None)
    flat = signal.transpose(1, 2)[0].flatten(1)
    pairs = list(itertools.combinations(range(BATCH), 2))
    same = {(a, b) for a, b in pairs if torch.equal(flat[a], flat[b])}
    # send-on-delta at its default threshold follows at most 0.4 in its first control step
    assert len(same) <= (2 if name == "delta" else 0)


@pytest.mark.parametrize("name", DECODERS)
def test_features_are_the_bias_without_spikes_and_cost_nothing(name):
    built = decoder(name)
    nothing = torch.zeros_like(spikes())
    sizes = (built.state_width,) if built.state_width else ()
    for state in (rest(*sizes), None):
        y, _ = built(nothing, state, None)
        assert torch.equal(y, built.readout.bias.expand(TIME, BATCH, OUTPUTS))
    assert built.operations(nothing).sum() == 0


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_costs_no_more_than_every_spike_times_every_feature(name):
    dense = (spikes() != 0).sum((1, 3)) * OUTPUTS
    found = decoder(name).operations(spikes())
    assert (found <= dense).all()
    assert found.sum() > 0


@pytest.mark.parametrize("name", DECODERS)
def test_gradients_reach_the_spikes_and_the_readout_which_a_host_may_draw_again(name):
    built = decoder(name)
    assert built.readout.__class__ is torch.nn.Linear, "what is fused on the CPU"
    assert (built.readout.in_features, built.readout.out_features) == (NEURONS, OUTPUTS)
    torch.nn.init.orthogonal_(built.readout.weight)
    torch.nn.init.constant_(built.readout.bias, 0.5)
    x = spikes().requires_grad_()
    sizes = (built.state_width,) if built.state_width else ()
    y, _ = built(x, rest(*sizes), None)
    y.pow(2).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    assert built.readout.weight.grad.abs().sum() > 0
    assert (built.readout.bias.grad != 0).all()


class Step(torch.nn.Module):
    """One control step as a pure function of tensors, as the hosts export it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, *state):
        y, after = self.network(x, state)
        return y, *after


def is_fast(enc, dec):
    """Whether a pair is tried in the fast tests: those have every encoder and every decoder once at least."""
    return (ENCODERS.index(enc) - DECODERS.index(dec)) % len(DECODERS) == 0


@pytest.mark.parametrize(
    ("enc", "dec"),
    [
        pytest.param(*pair, marks=[] if is_fast(*pair) else pytest.mark.slow)
        for pair in itertools.product(ENCODERS, DECODERS)
    ],
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_every_pair_carries_its_state_through_a_traced_graph(enc, dec):
    torch.manual_seed(0)
    settings = {"name": "feedforward", "layers": [NEURONS], "stateful": True, "backend": "torch"}
    settings |= {"encoder": enc, "decoder": dec, "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"}}
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)
    x = observations().float()
    state = traced = network.zero_state(1, x)
    assert [s.shape[-1] for s in state] == list(network.state_sizes)
    with torch.no_grad():
        graph = torch.jit.trace(Step(network), (x[:1, :1], *state), check_trace=False)
        for t in range(TIME):
            y, state = network(x[t : t + 1, 2:3], state)
            found, *traced = graph(x[t : t + 1, 2:3], *traced)
            assert torch.equal(found, y)
            assert all(torch.equal(a, b) for a, b in zip(traced, state, strict=True))
