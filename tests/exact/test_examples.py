"""examples/exact: what they print is what the engines' golden values say."""

import runpy
from pathlib import Path

import pytest

from tests.exact.nets import NETS

EXAMPLES = Path(__file__).parents[2] / "examples" / "exact"
LEAKY = NETS["lif"]


def lines(name, capsys):
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_the_solver_finds_the_golden_spikes(capsys):
    name, *neurons = lines("solver.py", capsys)[:4]
    assert name.startswith("lif: 10 spikes")
    spikes = [float(word) for word in neurons[2].split() if "." in word]
    loss = 0.5 * sum((time - wanted) ** 2 for time, wanted in zip(spikes, LEAKY.targets, strict=False))
    assert loss == pytest.approx(LEAKY.loss, rel=1e-6)


@pytest.mark.slow
def test_the_adjoint_of_a_neuron_of_ones_own_is_that_of_central_differences(capsys):
    _, _, *rows = lines("adjoint.py", capsys)
    pairs = [tuple(map(float, row.split()[3:])) for row in rows]
    assert len(pairs) == 6 and all(abs(adjoint) > 0.01 for adjoint, _ in pairs)
    assert [pair[0] for pair in pairs] == pytest.approx([pair[1] for pair in pairs], rel=1e-4)


def test_xor_is_learned_in_spike_times(capsys):
    epochs, *patterns = lines("spike_times.py", capsys)
    assert epochs.startswith("after ") and len(patterns) == 4
    found = [(float(words[5]), float(words[8])) for words in (pattern.split() for pattern in patterns)]
    assert [wanted for _, wanted in found] == [16.0, 10.0, 10.0, 16.0]
    assert all(abs(time - wanted) < 0.5 for time, wanted in found)


@pytest.mark.slow
def test_xor_is_learned_from_each_of_ten_seeds():
    learn = runpy.run_path(str(EXAMPLES / "spike_times.py"))["learn"]
    assert max(learn(seed)[0] for seed in range(10)) < 300
