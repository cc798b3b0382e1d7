"""Scores that README and guides state are those of the result files that stand beside them."""

import importlib.util
import json
import re
import statistics
from pathlib import Path

import pytest

from spiky_rl.config.options import UserError
from spiky_rl.experiments.analysis.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("results", ROOT / "docs" / "results.py")
results = importlib.util.module_from_spec(specification)
specification.loader.exec_module(results)

INTERVAL = re.compile(r"\d\.\d+ \[[-−]?\d+\.\d+, [-−]?\d+\.\d+\]")
ENERGY_OR_DIFFERENCE = re.compile(r"\d ?nJ|(?<![\w.])[-−+]\d+\.\d+")
ANT = "studies/ant Isaac-Ant"


@pytest.mark.slow  # `make check` asks the same of all pages at once
@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_every_score_of_a_page_is_that_of_its_result_files(page):
    text = page.read_text(encoding="utf-8")
    assert results.fill_figures(text, lists=False) == text, "make results"


@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_no_page_lists_what_is_not_there(page):
    text = page.read_text(encoding="utf-8")
    listed = {match["what"]: (match["text"], match[0]) for match in results.FIGURE.finditer(text)}
    for what in {function.__name__ for function in results.LISTS} & listed.keys():
        shown, whole = listed[what]
        gone = set(re.findall(r"`(.+?)`", shown)) - set(re.findall(r"`(.+?)`", results.fill_figures(whole)))
        assert not gone, "make results"


def test_a_table_of_what_there_is_comes_from_the_registry():
    table = results.fill_figures("<!-- kinds registry -->| neurons | `gone` |<!-- end -->")
    assert "`hodgkin_huxley`" in table and "`gone`" not in table
    assert "| `neurons/` | Spiking neurons" in results.fill_figures("<!-- rooms package --><!-- end -->")


@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_no_page_states_an_interval_that_no_result_file_backs(page):
    assert INTERVAL.findall(results.FIGURE.sub("", page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/pilots.md"])
def test_results_state_no_energy_and_no_difference_that_no_result_file_backs(name):
    assert (
        ENERGY_OR_DIFFERENCE.findall(results.FIGURE.sub("", (ROOT / name).read_text(encoding="utf-8"))) == []
    )


def test_every_training_of_a_study_has_the_steps_of_its_plan():
    """An agent with more experience than planned is not compared fairly; a budget in other units gives no number."""
    checked = 0
    for plan in sorted((ROOT / "studies").glob("*/plan.json")):
        planned = {cell["cell"]: cell.get("env_steps") for cell in json.loads(plan.read_text())["cells"]}
        for path in plan.parent.glob("cells/*/result.json"):
            training = json.loads(path.read_text())["training"]
            if training is not None and planned[path.parent.name] is not None:
                assert training["env_steps"] == planned[path.parent.name], path
                checked += 1
    assert checked > 500


def test_a_figure_that_differs_from_its_files_is_seen():
    text = f"<!-- score {ANT} lif_ppo -->76.4 [72.4, 84.2]<!-- end -->"
    assert results.fill_figures(text) == f"<!-- score {ANT} lif_ppo -->76.3 [72.4, 84.2]<!-- end -->"


def test_what_is_kept_under_a_condition_is_the_mean_of_each_seeds_share():
    files = (ROOT / "studies" / "ant_pilot" / "cells").glob("Isaac-Ant.mlp_ppo.seed*/result.json")
    seeds = [json.loads(file.read_text(encoding="utf-8"))["evaluation"]["conditions"] for file in files]
    shares = [seed["locked_leg"]["mean_return"] / seed["nominal"]["mean_return"] for seed in seeds]
    table = results.remains("studies/ant_pilot", "Isaac-Ant", "locked_leg")
    assert f"| `mlp_ppo` | {statistics.fmean(shares):.2f} [" in table and len(shares) > 1
    with pytest.raises(UserError, match="'mlp_ppo locked_legs'.*did you mean 'mlp_ppo locked_leg'"):
        results.remains("studies/ant_pilot", "Isaac-Ant", "locked_legs")
    with pytest.raises(UserError, match="no price of a metre 'fp33'.*did you mean 'fp32'"):
        results.metre("studies/ant_pilot", "Isaac-Ant", "mlp_ppo", "fp33")


def test_a_variant_is_compared_with_the_first_of_its_agent():
    def found(agent):
        return results.difference(folder, "Isaac-Ant", agent, "network.sparsity.weight=1.0")

    folder = "studies/ant_paid"
    comparisons = {one.agent: one for one in results.load_study(folder).comparisons["Isaac-Ant"]}
    baseline = "lif_stateful_ppo"
    assert found(baseline) == results.format_interval(
        comparisons[f"{baseline} network.sparsity.weight=1.0"].difference
    )
    without, with_it = (
        results.find_row(folder, "Isaac-Ant", f"lif_eprop network.sparsity.weight={weight}").by_seed
        for weight in (0.0, 1.0)
    )
    mean = statistics.fmean(with_it[seed] - without[seed] for seed in without)
    assert found("lif_eprop").startswith(f"{mean:.2f} [") and len(without) == 5
    with pytest.raises(UserError, match="did you mean 'lif_eprop network"):
        found("lif_epro")


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert results.format_interval(Interval(-0.001, -0.02, -0.004)) == "0.00 [-0.02, 0.00]"
    assert results.format_interval(Interval(12.34, 9.87, 15.0)) == "12.3 [9.9, 15.0]"


def test_speeds_are_ratios_of_times_in_one_file():
    rows = json.loads((ROOT / "benchmarks" / "results" / "feedforward.json").read_text(encoding="utf-8"))
    times = {row["contender"]: row["ms"] for row in rows if (row["mode"], row["batch"]) == ("train", 1024)}
    beside_loop, beside_jax = (times[name] / times["spiky_rl"] for name in ("plain_loop", "jax"))
    table = results.speeds("feedforward", "train:1024:0.15")
    assert f"| **`spiky_rl`** | {beside_loop:.2f} |" in table and "| `plain_loop`" not in table
    assert results.speed("feedforward", "spiky_rl", "train:1024", "jax") == f"{beside_jax:.1f}"
    with pytest.raises(UserError, match="train:1025: 0 rows in feedforward.json"):
        results.speed("feedforward", "spiky_rl", "train:1025")


def test_figures_are_those_of_a_studys_report():
    report = (ROOT / "studies" / "ant" / "report.md").read_text(encoding="utf-8")
    for what in (f"score {ANT} lif_ppo", f"score {ANT} mlp_ppo"):
        figure = (
            results.fill_figures(f"<!-- {what} --><!-- end -->").split("-->")[1].removesuffix("<!-- end ")
        )
        assert f"| {figure} |" in report


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("scor studies/ant Isaac-Ant lif_ppo", "did you mean 'score'"),
        ("score studies/ant Isaac-Ant lif_pp", "did you mean 'lif_ppo on Isaac-Ant'"),
        ("score studies/none Isaac-Ant lif_ppo", "studies/none"),
        ("value studies/humanoid_pilot/interrupted/random.json conditions.nominal.men .1f", "men"),
        ("score studies/ant", "missing"),
        ("classified studies/ant", "studies/ant: has no */result.json"),
        ("raced studies/classification/none.json", "none.json"),
    ],
)
def test_a_figure_that_no_file_has_is_named(mark, said):
    with pytest.raises(UserError, match=re.escape(mark)) as error:
        results.fill_figures(f"<!-- {mark} --><!-- end -->")
    assert said in str(error.value)


@pytest.mark.parametrize("mark", ["<!-- kinds registry -->", "<!-- kinds -->", "<!-- rooms package --> 3"])
def test_a_figure_without_its_end_takes_no_words_of_the_page(mark):
    with pytest.raises(UserError, match=f"{mark[:14]}.* needs arguments, and <!-- end -->"):
        results.fill_figures(f"{mark} A paragraph.\n\n<!-- rooms package -->old<!-- end -->")
    after = "<!-- file x.py -->\n\n<!-- rooms package -->old<!-- end -->"
    assert results.fill_figures(after).startswith("<!-- file x.py -->\n\n<!-- rooms package -->\n| room")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not valid JSON"), ("[]", "has no seed"), ('{"seed": 1, "env_steps": 1}', "has no distillation")],
)
def test_a_damaged_result_file_ends_the_command_with_one_line_that_names_it(
    text, said, tmp_path, monkeypatch, capsys
):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "result.json").write_text(text, encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"<!-- distilled {tmp_path} --><!-- end -->", encoding="utf-8")
    monkeypatch.setattr(results, "PAGES", [page])
    assert results.main(["--check"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'seed1' / 'result.json'}: {said}" in line
