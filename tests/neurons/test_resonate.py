"""Balanced resonate-and-fire against the source's recursion and its divergence boundary."""

import cmath
import math

import pytest
import torch

from spiky_rl.config.registry import RegistryError
from spiky_rl.neurons.resonate import Resonate
from tests.neurons.drive import build, constant, run, spike_steps

DT = 10.0
SOURCE = {
    "omega": 10.0,
    "damping": 1.0,
    "gain": 1.0,
    "dt": DT,
    # 0.9 per step, applied after the threshold was compared: a rise of 1 there is one of 1/0.9 here
    "tau_refractory": -DT / math.log(0.9),
    "refractory": 1 / 0.9,
}


def impulse(steps, size=60.0):
    current = torch.zeros(steps, 1, dtype=torch.float64)
    current[0] = size
    return current


def test_impulse_response_is_the_reference():
    spikes, u = run("resonate", impulse(200), **SOURCE)
    assert u[:4, 0].tolist() == pytest.approx([0.6, 0.59099246, 0.57612015, 0.55565126], abs=1e-8)
    assert u.argmin() == 30
    assert u.min().item() == pytest.approx(-0.44199414, abs=1e-8)
    assert spikes.sum() == 0


def test_constant_current_gives_one_spike():
    spikes, u = run("resonate", constant([12.0], 200), **SOURCE)
    assert spike_steps(spikes[:, 0]).tolist() == [10]
    assert u[10].item() == pytest.approx(1.04945554, abs=1e-8)


@pytest.mark.parametrize("omega", [5.0, 10.0, 20.0, 50.0, 85.0])
def test_undamped_oscillation_neither_grows_nor_fades(omega):
    steps = 2000
    _, u = run("resonate", impulse(steps), **{**SOURCE, "omega": omega, "damping": 0.0, "threshold": 1e3})
    dt = DT / 1000
    factor = 1 + dt * ((math.sqrt(1 - (dt * omega) ** 2) - 1) / dt + 1j * omega)
    assert abs(factor) == pytest.approx(1, abs=1e-12)
    expected = [0.6 * math.cos(k * cmath.phase(factor)) for k in range(steps)]
    assert u[:, 0].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("omega", "effective"), [(10.0, 10.118), (50.0, 52.86), (85.0, 102.5)])
def test_oscillation_is_faster_than_omega_by_the_angle_of_euler_s_step(omega, effective):
    _, u = run("resonate", impulse(1000), **{**SOURCE, "omega": omega})
    dt = DT / 1000
    b = (math.sqrt(1 - (dt * omega) ** 2) - 1) / dt - 1.0
    assert cmath.phase(1 + dt * (b + 1j * omega)) / dt == pytest.approx(effective, abs=0.05)
    crossings = (u[1:, 0] < 0) != (u[:-1, 0] < 0)
    assert math.pi * crossings.sum().item() / 10.0 == pytest.approx(effective, rel=0.01)


def test_answers_input_of_its_own_frequency_only():
    frequency = torch.tensor([0.5, 1.0, 1.5, 1.5915, 1.7, 2.0, 3.0], dtype=torch.float64)
    time = torch.arange(2000, dtype=torch.float64)[:, None] * DT / 1000
    wave = torch.sin(2 * math.pi * frequency * time)
    spikes, _ = run("resonate", 3.0 * wave, **SOURCE)
    assert spikes.sum(0).tolist() == [0, 0, 28, 30, 32, 0, 0]
    spikes, u = run("resonate", 0.2 * wave, **SOURCE)
    assert spikes.sum() == 0
    amplitude = [0.00747, 0.0199, 0.0805, 0.1001, 0.0906, 0.0423, 0.0149]
    assert u[1000:].abs().amax(0).tolist() == pytest.approx(amplitude, abs=1e-4)


def test_a_spike_raises_threshold_and_damping_and_leaves_the_oscillation_alone():
    spikes, u = run("resonate", impulse(60, 150.0), **SOURCE)
    _, unbothered = run("resonate", impulse(60, 150.0), **{**SOURCE, "threshold": 1e3})
    assert spike_steps(spikes[:, 0]).tolist() == [0], "1.48 in the next step is below 1 + 1"
    assert u[0] == unbothered[0] == 1.5
    assert u[1:].abs().max() < unbothered[1:].abs().max()


def test_frequency_that_the_step_cannot_resolve_is_refused_and_not_learned():
    with pytest.raises(RegistryError, match="neuron.omega: 100.0 is out of range; .* 10.0 ms .* below 100"):
        build("resonate", omega=100.0)
    assert build("resonate", omega=99.5).chosen["omega"] == 99.5
    with pytest.raises(RegistryError, match="neuron.omega: 99.5 is out of range; .* below 99"):
        build("resonate", omega=99.5, learn=["omega"])
    neuron = build("resonate", dt=5.0, omega=150.0, learn=["omega"])
    assert isinstance(neuron, Resonate)
    assert neuron.get_parameter_range("omega")[1] == pytest.approx(198.0)
    assert neuron.get_parameter_range("damping") == (0.0, 1e6)


@pytest.mark.parametrize("omega", [1.0, 40.0, 99.0])
def test_damping_that_makes_an_oscillation_grow_is_refused_with_its_bound(omega):
    h = DT / 1000
    bound = 2.0 * math.sqrt(1.0 - (h * omega) ** 2) / h
    options = {"omega": omega, "refractory": 0.0}
    for damping, grows in ((0.99 * bound, False), (1.01 * bound, True)):
        strength = torch.tensor([damping], dtype=torch.float64)
        _, u = run("resonate", impulse(1000), instead={"damping": strength}, **options)
        assert (u[-20:].abs().max() > u[0].abs().max()) == grows
    # a neuron that spikes in every step has this q for each of its refractory
    times = 1.0 / math.expm1(DT / 95.0)
    for name, value in (("damping", bound - times), ("refractory", (bound - 1.0) / times)):
        assert build("resonate", omega=omega, **{name: 0.999 * value})
        refused = (
            rf"neuron.{name}: .* is out of range; with omega: {omega:g}, .* it must be at most {value:g}, or"
        )
        with pytest.raises(RegistryError, match=refused):
            build("resonate", omega=omega, **{name: 1.001 * value})
