"""What codecs say that they cost, against scalar programs of the same equations that count their own arithmetic."""

import itertools
import math

import pytest
import torch

from spiky_rl.config import registry

INPUTS, STEPS, NEURONS, OUTPUTS = 3, 4, 7, 3
VALUES = (0.37, -1.4, 0.06)


class Counted:
    """A number that counts the additions and multiplications it takes part in."""

    count = 0

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def _of(self, value: float) -> "Counted":
        Counted.count += 1
        return Counted(value)

    def __add__(self, other) -> "Counted":
        return self._of(self.value + float(other))

    def __sub__(self, other) -> "Counted":
        return self._of(self.value - float(other))

    def __mul__(self, other) -> "Counted":
        return self._of(self.value * float(other))

    def __float__(self) -> float:
        return self.value


def direct(_, x):
    return [[x.value] for _ in range(STEPS)]


def population(built, x):
    def activity(centre, inverse):
        scaled = (x - centre) * inverse
        return math.exp(-0.5 * float(scaled * scaled))

    deviations = built.log_deviation[0].exp().tolist()
    found = [activity(c, 1 / d) for c, d in zip(built.centre[0].tolist(), deviations, strict=True)]
    potentials, spikes = [Counted(0.0) for _ in found], []
    for _ in range(STEPS):
        charged = [v + a for v, a in zip(potentials, found, strict=True)]
        spikes.append([float(v.value >= 1.0) for v in charged])
        potentials = [v - z for v, z in zip(charged, spikes[-1], strict=True)]
    return spikes


def latency(built, x):
    def time(centre):
        scaled = (x - centre) * built.scale
        activity = Counted(math.exp(-0.5 * float(scaled * scaled)))
        late = (activity - 1.0) * (1 - STEPS)
        return round(float(late)) if activity.value >= built.cutoff else None

    times = [time(centre) for centre in built.centre.tolist()]
    return [[float(t == k) for t in times] for k in range(STEPS)]


def rate(built, x):
    probability = float(x * (built.max_rate / built.span))
    index = VALUES.index(x.value)
    on, off = built.noise[:, index].tolist(), built.noise[:, INPUTS + index].tolist()
    return [[float(n < probability), float(m < -probability)] for n, m in zip(on, off, strict=True)]


def delta(built, x):
    reference, events = Counted(0.0), []
    for _ in range(STEPS):
        change = float(x - reference)
        on, off = change >= built.threshold, change <= -built.threshold
        reference = reference + built.threshold * (on - off)
        events.append([float(on), float(off)])
    return events


def sigma_delta(built, x):
    reference = Counted(0.0)
    change = float(x - reference)
    event = change if abs(change) >= built.threshold else 0.0
    reference = reference + event
    return [[event]] + [[0.0]] * (STEPS - 1)


PROGRAMS = {f.__name__: f for f in (direct, population, latency, rate, delta, sigma_delta)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_encoder_costs_what_a_scalar_program_of_its_signal_counts(name):
    built = registry.configure("encoders", name, "encoder").build(inputs=INPUTS, steps=STEPS).double()
    x = torch.tensor(VALUES, dtype=torch.float64).expand(1, 2, INPUTS)
    Counted.count = 0
    found = torch.tensor([PROGRAMS[name](built, Counted(value)) for value in VALUES], dtype=torch.float64)
    signal = built(x)[0, :, 0].expand(STEPS, -1)
    copies = built.width // INPUTS
    # [O, K, copies] -> [K, C]
    order = (1, 2, 0) if built.topographic else (1, 0, 2)
    assert torch.allclose(found.permute(order).reshape(STEPS, copies * INPUTS), signal)
    assert built.count_operations(x).tolist() == [[Counted.count] * 2]


def touched(name, weights, spikes):
    """Additions of weights that a scalar program of the decoder makes for spikes [K][N]."""
    count, seen = 0, set()
    for k, n in itertools.product(range(STEPS), range(NEURONS)):
        if not spikes[k][n] or (name == "linear" and k < STEPS - 1):
            continue
        if name == "first_spike" and n in seen:
            continue
        seen.add(n)
        count += sum(weights[f][n] != 0 for f in range(OUTPUTS))
    return count


DECODERS = registry.list_names("decoders")


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_costs_the_weights_that_its_spikes_touch(name):
    built = registry.configure("decoders", name, "decoder").build(inputs=NEURONS, outputs=OUTPUTS)
    weight = torch.ones(OUTPUTS, NEURONS) * getattr(built, "mask", 1.0)
    drawn = torch.rand(2, STEPS, 5, NEURONS, generator=torch.Generator().manual_seed(0))
    spikes = (drawn < 0.4).float()
    expected = [
        [touched(name, weight.tolist(), spikes[t, :, b].tolist()) for b in range(5)] for t in range(2)
    ]
    assert built.operations(spikes).tolist() == expected
    assert max(map(max, expected)) > 0
