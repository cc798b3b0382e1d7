"""The exact event-based gradient: golden nets, finite differences of every neuron, and what is refused."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import solve_network
from spiky_rl.exact.terms import NeuronTerms
from spiky_rl.neurons.base import Ode, parameter
from spiky_rl.neurons.lif import Lif
from tests.exact.nets import GOLDEN, NETS, OUTPUT, RECURRENT, SLOW, Ringing, six

SPIKES = {
    "golden": (
        GOLDEN,
        "1 9.296859304 0 9.387922977 2 13.465027307 1 15.231247465 0 15.991568180 2 17.446294093 2 22.626112158",
        1e-8,
    ),
    "recurrent": (
        RECURRENT,
        "1 9.296859304 0 9.417790708 2 13.482084337 1 14.177008635 2 19.394179132",
        1e-8,
    ),
    "quadratic": (NETS["quadratic"], "0 8.411383 1 8.469684 2 12.720938", 1e-6),
    "izhikevich": (
        NETS["izhikevich"],
        "0 4.158340 1 4.955691 2 6.398628 2 11.747564 0 15.106254 1 15.335789",
        1e-6,
    ),
    "hodgkin_huxley": (NETS["hodgkin_huxley"], "0 3.594377 1 4.271078 2 6.528233", 1e-3),
}
"""The source's Hodgkin-Huxley rates step around their singularities by 0.003 mV; ours have a series there."""
GROUPS = ("weights", "input_times", "parameters", "tau_synapse", "start")
STEP = 3e-5
"""Relative. At 1e-4 two spikes of a net change places, where the loss has a bend."""
TAU_SYNAPSE = 5.0
FAST = ("lif", "lif, own reset", "alif", "resonate", "quadratic")
"""Nets whose whole gradient the fast tests compare with differences: of each kind of reset and of every neuron that is quick to solve."""


def directions(net, groups, seed=0):
    """For each group of a net's inputs: its value, and a random direction of the size of the value, or of 1 where it is 0."""
    generator = np.random.default_rng(seed)
    neuron = registry.configure("neurons", dict(net.neuron), "neuron").build()
    values = {
        "weights": net.matrix(),
        "input_times": np.array(net.inputs),
        "parameters": np.array([[neuron.chosen[name]] * 3 for name in neuron.params]),
        "tau_synapse": np.full(3, TAU_SYNAPSE),
        "start": np.zeros((len(neuron.states), 3)),
    }
    for group in groups:
        value = values[group]
        size = np.abs(value) if group == "parameters" else np.abs(value).max() or 1.0
        yield group, value, size * generator.normal(size=value.shape)


def moved(net, groups, step):
    """Arguments of `solve` for a step along the random directions."""
    found = {group: value + step * direction for group, value, direction in directions(net, groups)}
    if "parameters" in found:
        neuron = registry.resolve("neurons", net.neuron["name"])
        found["parameters"] = dict(zip(neuron.params, found["parameters"], strict=True))
    return found


def differences(loss):
    """d loss / d step at 0, by central differences of the fourth order."""
    near, far = loss(STEP) - loss(-STEP), loss(2 * STEP) - loss(-2 * STEP)
    return (8 * near - far) / (12 * STEP)


def along(net, groups, gradients):
    """The gradient along the same directions."""
    found = {
        **vars(gradients),
        "input_times": np.array(gradients.input_times),
        "parameters": np.array(list(gradients.parameters.values())),
    }
    return sum((found[group] * direction).sum() for group, _, direction in directions(net, groups))


@pytest.mark.parametrize("name", SPIKES)
def test_spikes_are_where_the_source_has_them(name):
    net, text, tolerance = SPIKES[name]
    words = text.split()
    found = net.solve().spikes
    assert [spike.neuron for spike in found][: len(words) // 2] == [int(n) for n in words[::2]]
    times = [spike.time for spike in found][: len(words) // 2]
    assert times == pytest.approx([float(t) for t in words[1::2]], abs=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "hodgkin_huxley"))
        for name in NETS
        if NETS[name].gradient
    ],
)
def test_loss_and_gradient_are_those_of_the_source(name):
    net, (solution, gradients) = NETS[name], solved(name)
    rough = name == "hodgkin_huxley"
    assert net.loss_of(solution) == pytest.approx(net.loss, rel=2e-3 if rough else 1e-8)
    assert six(gradients) == pytest.approx(net.gradient, rel=2e-3 if rough else 1e-6)


def test_loss_and_gradient_of_the_golden_net_are_those_of_the_source():
    solution = GOLDEN.solve()
    assert GOLDEN.loss_of(solution) == pytest.approx(GOLDEN.loss, rel=1e-8)
    assert six(GOLDEN.gradient_of(solution)) == pytest.approx(GOLDEN.gradient, rel=1e-8)


def test_loss_and_gradient_of_the_recurrent_net_are_those_of_the_source():
    solution = RECURRENT.solve()
    weights = RECURRENT.gradient_of(solution).weights
    assert RECURRENT.loss_of(solution) == pytest.approx(RECURRENT.loss, rel=1e-8)
    found = [*weights[:2, :2].ravel(), weights[2, 2], weights[2, 3], weights[1, 2], weights[0, 3]]
    assert found == pytest.approx([*RECURRENT.gradient, 2.20830240, -0.01299657], rel=1e-6)
    assert weights[0, 4] == 0.0, "the only spikes of the output that matter are its last"


@cache
def solved(name):
    """A net's solution and gradient."""
    solution = NETS[name].solve()
    return solution, NETS[name].gradient_of(solution)


def agrees_with_differences(name, *groups):
    net = NETS[name]
    exact = along(net, groups, solved(name)[1])
    assert exact != 0.0
    near = differences(lambda step: net.loss_of(net.solve(**moved(net, groups, step))))
    assert exact == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETS],
)
def test_the_gradient_of_everything_at_once_is_that_of_finite_differences(name):
    agrees_with_differences(name, *GROUPS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "lif")) for name in NETS]
)
@pytest.mark.parametrize("group", GROUPS)
def test_every_part_of_every_gradient_is_that_of_finite_differences(name, group):
    agrees_with_differences(name, group)


def test_the_gradient_goes_through_recurrence_and_connections_to_oneself():
    exact = along(RECURRENT, ("weights",), RECURRENT.gradient_of(RECURRENT.solve()))
    near = differences(
        lambda step: RECURRENT.loss_of(RECURRENT.solve(**moved(RECURRENT, ("weights",), step)))
    )
    assert exact == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "scale"), [pytest.param("lif", 2.0, marks=pytest.mark.slow), ("quadratic", 1.5)]
)
def test_the_gradient_goes_through_many_neurons_connected_at_random(name, scale):
    generator = np.random.default_rng(0)
    weights = scale * generator.normal(0.3, 1.0, (8, 12))
    weights[:, 4:] *= 0.5
    inputs = generator.uniform(0.0, 40.0, (4, 5))
    solution = NETS[name].solve(weights=weights, input_times=inputs, duration=50.0)
    assert len(solution.spikes) > 30
    rates, direction = generator.normal(size=len(solution.spikes)), generator.normal(size=weights.shape)

    def loss(step):
        moved_on = NETS[name].solve(weights=weights + step * direction, input_times=inputs, duration=50.0)
        return rates @ [spike.time for spike in moved_on.spikes]

    exact = (solution.gradient(rates).weights * direction).sum()
    assert exact == pytest.approx(differences(loss), rel=1e-6)


@pytest.mark.parametrize("margin", [1e-4, 1e-6, 1e-8])
def test_a_spike_is_found_whose_potential_only_just_reaches_the_threshold(margin):
    neuron = registry.configure("neurons", {"name": "lif", "reset": "zero", **SLOW}, "neuron").build()
    tau, synapse = 20.0, 5.0
    top = math.log(tau / synapse) * tau * synapse / (tau - synapse)
    peak = synapse / (tau - synapse) * (math.exp(-top / tau) - math.exp(-top / synapse))
    for above in (margin, -margin):
        solution = solve_network(neuron, [[(1.0 + above) / peak, 0.0]], [[1.0]], 30.0)
        assert len(solution.spikes) == (above > 0.0)
        # above - (t - top)^2/2 v", with v" = v/(tau synapse) at the top
        width = math.sqrt(2.0 * margin * tau * synapse)
        assert solution.times(0) == pytest.approx(
            [1.0 + top - width][: len(solution.spikes)], abs=0.02 * width
        )


def readout(time, v, *_):
    return math.sin(0.2 * time) * (v[OUTPUT] - 0.3) ** 2


def everyone(time, v, *_):
    return math.cos(0.1 * time) * v.square().sum()


@pytest.mark.parametrize("name", ["lif", "alif", "resonate"])
@pytest.mark.parametrize("integrand", [readout, everyone])
@pytest.mark.slow
def test_the_gradient_of_an_integral_is_that_of_finite_differences(name, integrand):
    net, readouts = NETS[name], [OUTPUT] if integrand is readout else []
    solution = net.solve(readouts=readouts)
    assert len(solution.times(OUTPUT)) == 0 or not readouts
    exact = along(net, GROUPS, solution.gradient(integrand=integrand))
    near = differences(
        lambda step: net.solve(readouts=readouts, **moved(net, GROUPS, step)).integral(integrand)
    )
    assert exact == pytest.approx(near, rel=1e-6)


def late(time, v, *_):
    return everyone(time, v) if time > 12.0 else torch.zeros((), dtype=v.dtype)


def test_an_integrand_may_be_a_number():
    solution = NETS["lif"].solve()
    duration = solution.problem.duration
    assert solution.integral(lambda *_: 0.1) == pytest.approx(0.1 * duration)
    assert not solution.gradient(integrand=lambda *_: 0.1).weights.any()


@pytest.mark.slow
def test_a_loss_of_a_time_window_may_be_a_constant_outside_of_it():
    net = NETS["lif"]
    exact = along(net, GROUPS, net.solve().gradient(integrand=late))
    smooth = net.solve().gradient(integrand=lambda time, v: everyone(time, v) * float(time > 12.0))
    assert exact != 0.0 and exact == pytest.approx(along(net, GROUPS, smooth), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize(("begin", "end"), [(2.0, 3.0), (60.0, 60.5), (10.0, 90.0)])
def test_the_loss_of_a_time_window_is_found_by_its_integral_and_its_gradient(begin, end, scale):
    neuron = registry.configure("neurons", {"name": "lif", "tau": 10.0}, "neuron").build()
    solution = solve_network(neuron, [[0.0, 0.0]], [[]], 100.0, start=[[0.5]])
    share = 10.0 * (math.exp(-begin / 10.0) - math.exp(-end / 10.0))

    def window(time, v):
        return scale * float(begin <= time <= end) * v.sum()

    assert solution.integral(window) == pytest.approx(0.5 * scale * share, rel=1e-7, abs=0.0)
    assert solution.gradient(integrand=window).start == pytest.approx(scale * share, rel=1e-7, abs=0.0)


def test_the_integral_follows_a_target_that_moves_while_the_network_rests():
    neuron = registry.configure("neurons", "lif", "neuron").build()
    solution = solve_network(neuron, [[0.0, 0.0]], [[]], 100.0)
    found = solution.integral(lambda time, v: (v[0] - math.sin(time)) ** 2)
    assert found == pytest.approx(50.0 - math.sin(200.0) / 4.0, rel=1e-12)


@pytest.mark.parametrize("end", [100.0, 50.0])
def test_an_integrand_whose_derivative_is_not_finite_is_refused(end):
    neuron = registry.configure("neurons", "lif", "neuron").build()
    solution = solve_network(neuron, [[0.0, 0.0]], [[]], 100.0)
    with pytest.raises(registry.UserError, match="adjoint cannot be solved .* derivative of the integrand"):
        solution.gradient(integrand=lambda time, v: v.sum().sqrt() if time < end else v.sum())


def test_losses_of_spikes_and_of_an_integral_add_up():
    solution = GOLDEN.solve()
    rates = np.arange(7.0)
    both = solution.gradient(rates, everyone).weights
    assert both == pytest.approx(
        solution.gradient(rates).weights + solution.gradient(integrand=everyone).weights, rel=1e-8
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "hodgkin_huxley")) for name in NETS]
)
def test_inputs_that_all_come_later_shift_every_spike(name):
    solution, _ = solved(name)
    total = sum(times.sum() for times in solution.gradient(np.ones(len(solution.spikes))).input_times)
    assert total == pytest.approx(len(solution.spikes), rel=1e-6)


def test_both_resets_of_a_leaky_neuron_are_one_in_continuous_time():
    zero, subtract = (solved(name)[1] for name in ("lif", "lif, subtract"))
    assert zero.weights == pytest.approx(subtract.weights, rel=1e-8)
    for name, gradient in zero.parameters.items():
        assert gradient == pytest.approx(subtract.parameters[name], rel=1e-8)


class Free(Ringing):
    """Without reset: it spikes once in every turn."""

    def reset(self, ops, spike, s, p):
        return s


def default(cls, **instead):
    """A neuron of a class of this file."""
    return cls.from_options(**instead)


def test_a_neuron_without_reset_spikes_once_per_crossing_from_below():
    omega = 0.3
    neuron = default(Free, damping=0.0, omega=omega)
    solution = solve_network(neuron, [[0.0]], [], 100.0, start=[[2.0], [0.0]])
    turns = np.arange(5) * 2 * math.pi / omega
    assert solution.times(0) == pytest.approx(math.asin(0.5) / omega + turns, abs=1e-8)
    gradients = solution.gradient([0.0, 0.0, 0.0, 0.0, 1.0])
    # the amplitude A moves the crossing asin(1/A)/omega, and omega all turns
    assert gradients.start[0, 0] == pytest.approx(-0.25 / math.sqrt(0.75) / omega, rel=1e-7)
    assert gradients.parameters["omega"][0] == pytest.approx(-solution.times(0)[-1] / omega, rel=1e-7)


@pytest.mark.parametrize("spike", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_neuron_that_starts_above_its_threshold_spikes_at_0_wherever_it_starts(spike):
    neuron = registry.configure("neurons", "quadratic", "neuron").build()

    def solve(start):
        return solve_network(neuron, [[4.0, 0.0]], [[1.0]], 40.0, start=[[start]])

    solution = solve(30.0)
    assert solution.times(0)[0] == 0.0
    gradients = solution.gradient(np.eye(len(solution.spikes))[spike])
    assert solve(30.1).times(0)[spike] == solve(29.9).times(0)[spike], "it is reset at time 0"
    assert gradients.start[0, 0] == 0.0
    assert spike or not gradients.parameters["tau"].any()


def test_neurons_that_spike_at_the_same_time_all_spike():
    neuron = registry.configure("neurons", {"name": "lif", "reset": "zero", **SLOW}, "neuron").build()
    weights = [[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]
    solution = solve_network(neuron, weights, [[1.0, 2.0]], 30.0)
    assert [spike.neuron for spike in solution.spikes][:2] == [0, 1]
    first, second = (solution.times(n) for n in (0, 1))
    assert first == pytest.approx(second, abs=1e-9)


def test_the_adjoint_is_kept_over_time():
    gradients = GOLDEN.gradient_of(GOLDEN.solve())
    values = [segment(segment.pieces[0][0]) for segment in gradients.segments if segment.pieces]
    assert {value.shape for value in values} == {(2, 3)}
    assert values[0][0] == pytest.approx(gradients.start[0])
    assert not values[-1].any(), "nothing after the last event matters"


class Touching(Ode):
    """v = (clock - 5)^3 + 125: stands still for a moment where v is 125."""

    states = ("v", "clock")

    def flow(self, ops, current, s, p):
        return s.rates(v=3.0 * (s.clock - 5.0) ** 2 + current, clock=1.0)

    def threshold(self, ops, s, p):
        return s.v - 125.0

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike))

    def integrate(self, ops, current, s, p):
        rate = 3.0 * (s.clock - 5.0) ** 2 + current
        return s.replace(v=s.v + self.dt * rate, clock=s.clock + self.dt)


class Endless(Lif):
    """A spike leaves it above its threshold."""

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v + spike)


class Leaping(Lif):
    """Falls without a spike."""

    def reset(self, ops, spike, s, p):
        return s.replace(v=ops.where(s.v > 0.5, s.v - 0.3, s.v))


def test_a_spike_that_only_touches_the_threshold_has_no_gradient():
    solution = solve_network(default(Touching), [[0.0]], [], 6.0)
    assert solution.times(0)[0] == pytest.approx(5.0, abs=1e-3)
    with pytest.raises(registry.UserError, match="neuron 0 only touches its threshold"):
        solution.gradient(1.0)


def test_a_reset_that_leaves_a_neuron_above_its_threshold_is_refused():
    with pytest.raises(registry.UserError, match="neuron 0 is above its threshold after its reset"):
        solve_network(default(Endless), [[9.0, 0.0]], [[1.0]], 30.0)


def test_spikes_without_end_are_refused():
    neuron = registry.configure("neurons", {"name": "lif", **SLOW}, "neuron").build()
    with pytest.raises(registry.UserError, match="max_spikes: more than 50 spikes .* of neuron 0"):
        solve_network(neuron, [[9.0, 90.0]], [[1.0]], 300.0, max_spikes=50)


def test_states_that_run_to_infinity_are_refused():
    neuron = registry.configure("neurons", "quadratic", "neuron").build()
    with pytest.raises(registry.UserError, match="cannot be solved beyond"):
        solve_network(neuron, [[9.0, 0.0]], [[1.0]], 30.0, readouts=[0])


def test_a_reset_without_a_spike_whose_moment_matters_has_no_gradient():
    solution = solve_network(default(Leaping), [[9.0, 0.0]], [[1.0]], 3.0)
    with pytest.raises(registry.UserError, match="reset without a spike at"):
        solution.gradient(integrand=lambda _, v: v.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.zeros((3, 4))}, r"weights: expected the shape \[3, 5\], got \[3, 4\]"),
        ({"input_times": [[1.0], [-1.0]]}, r"input_times\[1\]: .*-1.0.* allowed: 0 to the duration"),
        ({"input_times": [[1.0], [math.nan]]}, r"input_times\[1\]: expected finite numbers"),
        (
            {"duration": math.nan, "input_times": [[], []]},
            "duration: nan is out of range; allowed: 0 ms or more",
        ),
        ({"duration": -1.0, "input_times": [[], []]}, "duration: -1.0"),
        ({"tolerance": 0.0}, "tolerance: 0.0 is out of range"),
        ({"weights": [[1.0], [1.0, 2.0], [3.0]]}, r"weights: expected numbers in the shape \[3, 5\], got"),
        ({"tau_synapse": "slow"}, "tau_synapse: expected numbers"),
        ({"tau_synapse": 0.0}, "tau_synapse: .* above 0 ms"),
        ({"readouts": [3]}, "readouts: no neuron 3"),
        ({"readouts": [False, False, True]}, "readouts: no neuron False"),
        ({"readouts": 2}, "readouts: expected a sequence, got 2"),
        ({"input_times": [1.0, 9.0]}, r"input_times\[0\]: expected a sequence, got 1.0"),
        ({"weights": 1.0}, "weights: expected a sequence, got 1.0"),
        ({"weights": []}, "weights: no neuron given"),
        ({"parameters": {"taus": 5.0}}, "'taus' given; allowed .* did you mean 'tau'"),
        ({"parameters": {"tau": [1.0, -2.0, 3.0]}}, r"parameters.tau: -2.0 is out of range"),
        ({"start": np.zeros((2, 3))}, r"start: expected the shape \[1, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(registry.UserError, match=message):
        GOLDEN.solve(**change)


class Flowless(Lif):
    """A leaky neuron of which only the step is known."""

    flow = Ode.flow


def test_a_neuron_without_its_equation_is_refused():
    with pytest.raises(
        registry.UserError, match="neuron 'Flowless': .* Flowless defines no flow; an exact engine needs"
    ):
        solve_network(default(Flowless), [[0.0]], [], 6.0)


class Driven(Lif):
    """dv/dt = x + current, with a constant input that is called as the input is."""

    class Options(Lif.Options):
        current: float = parameter(0.5, "constant input", unit="1")

    def flow(self, ops, current, s, p):
        return s.rates(v=current + p.current)


def test_a_parameter_may_be_called_as_the_current_of_the_flow_is():
    neuron = default(Driven)
    terms = NeuronTerms(neuron, np.array([[neuron.chosen[name]] for name in neuron.params]))
    current, states = np.array([2.0]), np.zeros((1, 1))
    assert terms.flow(current, states) == pytest.approx(2.5)
    by_current, _, by_parameters = terms.flow_transposed(current, states, np.ones((1, 1)))
    assert by_current == [1.0]
    assert dict(zip(neuron.params, by_parameters.flat, strict=True)) == {
        name: float(name == "current") for name in neuron.params
    }


class Twice(Lif):
    """LIF whose own step doubles the current."""

    def step(self, ops, current, s, p):
        return super().step(ops, 2.0 * current, s, p)


def test_a_neuron_with_another_step_is_refused():
    with pytest.raises(registry.UserError, match="neuron 'Twice': its step differs from its integrate"):
        solve_network(default(Twice), [[0.0]], [], 6.0)


def test_a_neuron_that_is_no_ode_is_refused():
    neuron = registry.configure("neurons", "sigma_delta", "neuron").build()
    with pytest.raises(registry.UserError, match="'SigmaDelta' is not an ODE"):
        solve_network(neuron, [[1.0, 0.0]], [[1.0]], 30.0)


def test_a_gradient_of_spikes_that_are_not_there_is_refused():
    with pytest.raises(registry.UserError, match=r"of_spikes: expected the shape \[7\], got \[2\]"):
        GOLDEN.solve().gradient([1.0, 1.0])


def test_losses_may_be_of_any_size():
    solution = GOLDEN.solve()
    rates = np.ones(7)
    tiny, large = (solution.gradient(scale * rates).weights / scale for scale in (1e-12, 1e12))
    assert tiny == pytest.approx(large, rel=1e-8)
    assert torch.get_default_dtype() == torch.float32, "double precision is this solver's own"
