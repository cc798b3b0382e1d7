"""Izhikevich's model: counts of the source's scheme, rates of the continuous neuron, and firing patterns."""

import math

import pytest
import torch

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import programs
from spiky_rl.neurons.izhikevich import PATTERNS
from tests.neurons.drive import build, constant, intervals, named, numbers, run, spike_steps, vocabulary

NAMES = [name for name in PATTERNS if name != "custom"]
SECOND, DRIVE = 1000, 10.0


def values(key):
    return torch.tensor([PATTERNS[name][key] for name in NAMES], dtype=torch.float64)


def rest(b):
    return -(5.0 - b + ((5.0 - b) ** 2 - 22.4) ** 0.5) / 0.08


def fire(steps, dt, substeps=1, start=-65.0, drive=DRIVE):
    """Spikes [K, patterns]: every pattern under the same current, from V = start, U = b V."""
    b = values("b")
    away = torch.full_like(b, start) - rest(b)
    instead = {key: values(key) for key in "abcd"}
    options = {"gain": 1.0, "dt": dt, "substeps": substeps}
    return run("izhikevich", constant([drive] * len(NAMES), steps), (away, b * away), instead, **options)[0]


def test_rest_is_the_stable_fixed_point():
    assert [rest(b) for b in (0.2, 0.25, 0.26)] == pytest.approx([-70.0, -64.4139, -62.5], abs=1e-4)
    current, instead = torch.zeros(400, len(NAMES), dtype=torch.float64), {key: values(key) for key in "abcd"}
    _, v = run("izhikevich", current, start=(-3.0, 0.0), instead=instead)
    assert (v[-1].abs() < 0.1).all()


@pytest.mark.parametrize(
    ("dt", "counts", "tolerances"),
    [
        # the other four are chaotic at coarse steps: a start moved by 1e-12 mV moves their counts by up to 13, 3 and 2
        (1.0, [20, 28, 43, 63, 44, 67, 80], [0, 0, 0, 5, 5, 14, 7]),
        (0.5, [22, 31, 74, 93, 63, 145, 120], [0, 0, 0, 3, 3, 4, 4]),
        (0.25, [23, 33, 78, 114, 71, 226, 159], [0, 0, 0, 1, 1, 0, 2]),
    ],
)
def test_spike_counts_of_all_patterns_are_the_reference(dt, counts, tolerances):
    measured = fire(int(SECOND / dt), dt).sum(0).tolist()
    for name, count, expected, tolerance in zip(NAMES, measured, counts, tolerances, strict=True):
        assert abs(count - expected) <= tolerance, name


def test_substeps_of_one_step_are_steps_of_their_own():
    steps = SECOND // 4
    fine = fire(steps * 4, 0.25).view(steps, 4, -1)
    coarse = fire(steps, 1.0, substeps=4)
    assert (coarse.sum(0) > 3).all()
    assert torch.equal(coarse, fine.amax(1)), "a step spikes if one of its sub-steps does"
    assert (fine.sum(1) <= 1).all()


@pytest.mark.slow
def test_rate_of_regular_spiking_is_that_of_the_continuous_neuron():
    drives = [3.5, 3.775, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 40.0]
    current = constant(drives, 10 * SECOND)
    spikes, _ = run("izhikevich", current, start=(5.0, 1.0), gain=1.0, dt=0.1, substeps=1)
    reference = torch.tensor([1, 5, 8, 11, 14, 19, 23, 34, 46, 91])
    assert (spikes.sum(0) - reference).abs().max() <= 1
    first = spike_steps(spikes[:, drives.index(10.0)]) * 0.1
    assert first[0].item() == pytest.approx(3.127, abs=0.15)
    assert first.diff()[:2].tolist() == pytest.approx([23.099, 44.831], rel=0.03)


@pytest.mark.slow
def test_patterns_look_as_in_the_source():
    dt = 0.05
    spikes = fire(int(SECOND / dt), dt, start=-70.0)
    found = {name: dt * torch.tensor(intervals(spikes[:, i])) for i, name in enumerate(NAMES)}
    variation = {name: (x.std() / x.mean()).item() for name, x in found.items()}
    short = {name: (x < 6.0).sum().item() for name, x in found.items()}
    assert short["regular_spiking"] == 0
    assert variation["regular_spiking"] == pytest.approx(0.13, abs=0.03)
    assert short["intrinsically_bursting"] == 2
    assert found["intrinsically_bursting"][5:].std() < 0.5, "then tonic"
    assert short["chattering"] > 60
    assert variation["chattering"] == pytest.approx(1.58, abs=0.1)
    assert found["fast_spiking"][-1] < 8.0
    assert found["fast_spiking"][5:].std() < 0.05 * found["fast_spiking"].mean()
    assert found["thalamo_cortical"][-1] == pytest.approx(3.674, abs=0.3)
    assert found["resonator"][-1] == pytest.approx(5.124, abs=0.5)


def test_pattern_is_a_name_for_four_numbers_and_excludes_them():
    neuron = build("izhikevich", pattern="chattering", learn=["c"])
    assert [neuron.chosen[key] for key in "abcd"] == [0.02, 0.2, -50.0, 2.0]
    assert build("izhikevich", c=-50.0).chosen["c"] == -50.0
    with pytest.raises(RegistryError, match="neuron.c: -50.0 is not allowed with pattern: fast_spiking"):
        build("izhikevich", pattern="fast_spiking", c=-50.0)
    with pytest.raises(RegistryError, match="did you mean 'chattering'"):
        build("izhikevich", pattern="chatter")


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_graph_builds_a_neuron_with_a_pattern_again(name):
    neuron, ops = build("izhikevich", pattern=name), vocabulary()
    assert type(neuron).from_options(**neuron.chosen).chosen == neuron.chosen
    text = programs.serialize_key(neuron, ops, (False,) * len(neuron.params))
    call = programs.prepare_call(neuron, ops, numbers(neuron), 1)
    assert programs.resolve_key(text, call.numbers) == (call.key, call.uniforms)


def test_gradient_survives_the_upstroke():
    neuron = build("izhikevich", gain=10.0)
    current = torch.full((8, 1), 1.5, dtype=torch.float64).requires_grad_()
    state = tuple(torch.zeros(1, dtype=torch.float64) for _ in neuron.states)
    spikes = 0.0
    for x in current:
        spike, state = neuron.step(vocabulary(), x, neuron.named_states(*state), named(neuron))
        spikes = spikes + spike
    (gradient,) = torch.autograd.grad(spikes.sum(), current)
    assert spikes.item() == 2
    assert 1e-3 < gradient.abs().max() < 1e2
    assert math.isfinite(gradient.sum())
