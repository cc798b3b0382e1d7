"""Tables and descriptions fit 100 columns, whatever is listed, and lose no word."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spiky_rl.cli import show, tables, train
from spiky_rl.cli.evaluate import print_conditions, print_recovery
from spiky_rl.cli.play import print_energies, print_episodes
from spiky_rl.config import registry
from spiky_rl.metrics.energy import EnergyRow
from spiky_rl.run.run_plan import RunRequest, TrainOptions

ENTRIES = [(kind, name) for kind in show.KINDS for name in (None, *registry.list_names(kind))]
CONDITION = {
    "mean_return": 12345.678,
    "std_return": 1234.56,
    "mean_length": 1000.0,
    "measures": {"velocity_error": 123.45},
    "firing_rate": 0.22,
    "operations": 123456.0,
    "recovery": {"episodes": 100, "before": 1.23456, "after": 0.9, "share": 0.7},
}


def get_widest(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


@pytest.mark.parametrize("kind", show.KINDS)
def test_every_list_and_description_fits(kind, capsys):
    for of, name in ENTRIES:
        if of == kind:
            show.show([kind, *filter(None, [name])])
            assert 0 < get_widest(capsys.readouterr().out) <= tables.WIDTH, name


def test_a_merged_agent_fits(capsys):
    show.show(["agents", "lif_ppo", "--task", "CartPole-v1"])
    text = capsys.readouterr().out
    assert get_widest(text) <= tables.WIDTH


def test_episodes_and_conditions_fit(capsys):
    print_conditions(
        {"nominal": CONDITION, "sensor_dropout_and_a_long_name": CONDITION}, "velocity_error", True
    )
    print_recovery({"nominal": CONDITION, "sensor_dropout_and_a_long_name": CONDITION})
    row = {
        "episode": 50,
        "return": 1e5,
        "length": 1000,
        "velocity_error": 1.5,
        "firing_rate": 0.2,
        "operations": 1e6,
    }
    print_episodes([row], row, "velocity_error", True)
    text = capsys.readouterr().out
    assert get_widest(text) <= tables.WIDTH
    assert "sensor_dropout_and_a_long_name" in text and "12345.68 ± 1234.56" in text and "1,000,000" in text


def test_energies_fit_and_columns_without_a_value_are_left_out(capsys):
    longest = "fp32 at 45 nm, weights and states each in an SRAM of their size"
    energies = [
        EnergyRow("fp32 arithmetic", 1234.5, 123456.7, None),
        EnergyRow(longest, 12345.6, None, 1234.5),
    ]
    print_energies(energies)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= tables.WIDTH
    text = "\n".join(lines)
    assert longest in text and "123,456.7" in text and "12,345.6" in text and "skips zeros" in text
    print_energies(energies[:1])
    assert "products" in (alone := capsys.readouterr().out) and "skips zeros" not in alone


@pytest.mark.parametrize(("is_spiking", "rate"), [(True, "0.0%"), (False, "-")])
def test_a_silent_network_has_a_firing_rate_of_zero_and_an_ann_has_none(is_spiking, rate, capsys):
    silent = {**CONDITION, "firing_rate": 0.0, "operations": 0.0}
    print_conditions({"nominal": silent}, "", is_spiking)
    assert capsys.readouterr().out.split()[-2:] == [rate, "0"]
    row = {"episode": 0, "return": 1.0, "length": 5, "firing_rate": 0.0, "operations": 0.0}
    print_episodes([row], row, "", is_spiking)
    assert capsys.readouterr().out.count(rate) >= 2
    plan: Any = SimpleNamespace(
        request=RunRequest(task="CartPole-v1"), spec=SimpleNamespace(network=True if is_spiking else None)
    )
    result = defaultdict(float, {"best": None, "distillation": None})
    train.print_summary(result, plan, TrainOptions(), Path("run"))
    assert ("0.0% of all inner steps" in capsys.readouterr().out) == is_spiking


def test_wide_columns_are_wrapped_and_keep_every_word(capsys):
    words = [f"word{i}" for i in range(60)]
    tables.print_columns([("a", " ".join(words[:30]), " ".join(words[30:])), ("b", "", "")])
    text = capsys.readouterr().out
    assert get_widest(text) <= tables.WIDTH
    assert set(words) <= set(text.split())
    assert text.splitlines()[-1] == "b"


def test_a_description_is_wrapped_by_paragraph_and_equations_are_split_between_them(capsys):
    equations = [f"v_{i} <- {'a' * 30} v_{i}" for i in range(3)]
    tables.print_text(f"{'word ' * 30}\n{'more ' * 30}\n\n    {';   '.join(equations)}\n\nlast.")
    text = capsys.readouterr().out
    assert get_widest(text) <= tables.WIDTH
    assert text.count("word") == 30 and text.count("more") == 30
    assert [line.strip().rstrip(";") for line in text.splitlines() if "<-" in line] == equations


def test_an_option_without_a_default_is_called_required(capsys):
    show.show(["networks", "nir"])
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["file"] == "required"
    assert rows["dt"] == "None", "and nothing has no unit"


def test_show_alone_misses_the_kind_and_nothing_else(capsys):
    with pytest.raises(SystemExit):
        show.show([])
    assert capsys.readouterr().err.strip().endswith("the following arguments are required: kind")
