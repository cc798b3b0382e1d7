"""A study's plan: its allowed content, its time, and the verdicts of its report."""

import datetime
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.config.options import RegistryError
from spiky_rl.experiments.analysis.comparisons import sign_flip_test
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.analysis.verdicts import Verdict, compute_equivalence_p_value, count_seeds_to_equate
from spiky_rl.experiments.design import study as study_design
from spiky_rl.experiments.design.planned import (
    StudyPlan,
    check_agents,
    count_deciding_seeds,
    find_uncontrolled,
)
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.blocks import format_p_value
from spiky_rl.experiments.report.sections import write_report
from spiky_rl.experiments.report.threats import describe_late_plan
from spiky_rl.experiments.report.verdicts import describe_plan, format_difference
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.comparison import merge_study
from spiky_rl.experiments.run.planning import warn_of_undecidable_tests
from tests.experiments.results import CARTPOLE, MASKED, change, dump, redesign, write_study
from tests.experiments.test_report import DATE, section

PAIRS = [["lif_ppo", "mlp_ppo"], ["lif_rstdp", "mlp_ppo"]]
PLAN = {
    "comparisons": PAIRS,
    "endpoints": ["return", {"name": "pushed", "kept": ["push", "mass"]}, {"energy_per_metre": "fp32_sram"}],
    "date": "2026-01-01",
    "seeds": list(range(10)),
}


@pytest.mark.parametrize(
    ("changed", "key", "value"),
    [
        ({"comparisons": []}, "comparisons", "at least 1"),
        ({"comparisons": [["lif_ppo"]]}, "comparisons", "lif_ppo"),
        ({"comparisons": [["lif_ppo", "lif_ppo"]]}, "comparisons", "itself"),
        ({"comparisons": [*PAIRS, PAIRS[0]]}, "comparisons", "twice"),
        ({"endpoints": ["retrun"]}, "endpoints", "did you mean 'return'"),
        ({"endpoints": ["return", "return"]}, "endpoints", "twice"),
        ({"endpoints": [{"kept": ["push"], "measure": "return"}]}, "endpoints", "kept and measure"),
        ({"endpoints": [{"energy_per_metre": "fp32_sam"}]}, "endpoints", "did you mean 'fp32_sram'"),
        ({"margin": 0.0}, "margin", "0"),
        ({"margin": 1.0}, "margin", "1"),
        ({"family": "none"}, "family", "none"),
        ({"famly": "all"}, "famly", "family"),
        ({"date": "1 Dec 2026"}, "date", "'1 Dec 2026' given; allowed: a day such as 2026-11-28"),
        ({"date": "20261201"}, "date", "20261201"),
        ({"date": "2026-02-30"}, "date", "2026-02-30"),
    ],
)
def test_a_plan_that_says_nothing_is_refused_by_its_key(changed, key, value):
    with pytest.raises(RegistryError) as raised:
        StudyPlan.check("plan", PLAN | changed)
    assert str(raised.value).startswith(f"plan.{key}: ") and value in str(raised.value)


def test_an_agent_that_is_not_in_the_study_is_named_with_the_nearest():
    with pytest.raises(RegistryError, match="'lif_rstdp' given.*did you mean 'lif_stdp'"):
        check_agents(StudyPlan.check("plan", PLAN), ["mlp_ppo", "lif_ppo", "lif_stdp"])


def test_energy_on_a_chip_for_spikes_is_not_compared_with_an_ann():
    plan = StudyPlan.check("plan", PLAN | {"endpoints": ["return", {"energy_per_metre": "loihi"}]})
    labels = ["mlp_ppo", "lif_ppo", "lif_rstdp"]
    check_agents(plan, labels)
    with pytest.raises(
        RegistryError, match="endpoints: .*'loihi' given; allowed for the ANN 'mlp_ppo': fp32"
    ):
        check_agents(plan, labels, ["mlp_ppo"])
    check_agents(StudyPlan.check("plan", PLAN), labels, ["mlp_ppo"])


def planned(tmp_path: Path, plan: dict = PLAN, **design) -> Path:
    """A study of ten seeds with known truths, whose robots go a metre for each point of return."""
    study = write_study(
        tmp_path / "study", ("mlp_ppo", "lif_ppo", "lif_rstdp"), (CARTPOLE,), range(10), **design
    )
    redesign(study, plan=plan)
    for path in study.glob("cells/*/result.json"):
        result = json.loads(path.read_text())
        nominal = result["evaluation"]["conditions"]["nominal"]
        nominal["measures"] |= {"distance": nominal["mean_return"], "velocity_error": nominal["mean_return"]}
        dump(path, result)
    return study


def spell_out(interval: Interval | None) -> float:
    assert interval is not None
    return interval.estimate


def verdicts_of(study: Path) -> dict[tuple[str, str], Verdict]:
    """By agent and endpoint."""
    return {(v.comparison.agent, v.endpoint.label): v for v in analyze_study(study).verdicts}


def test_every_planned_comparison_has_a_verdict_and_less_energy_is_better(tmp_path: Path):
    study = planned(tmp_path, PLAN | {"margin": 0.1})
    verdicts = verdicts_of(study)
    assert len(verdicts) == 6
    assert verdicts["lif_rstdp", "return"].text == "worse"
    assert verdicts["lif_ppo", "return"].text == "equivalent"
    energy = verdicts["lif_rstdp", "energy per metre, fp32_sram"]
    assert energy.comparison.difference.estimate > 0 and energy.text == "worse"
    assert all(v.is_planned and v.comparison.comparisons == 6 for v in verdicts.values())
    kept = verdicts["lif_ppo", "pushed"]
    shares = analyze_study(study).remaining
    expected = np.mean([spell_out(shares["lif_ppo", CARTPOLE, c].share) for c in ("push", "mass")])
    assert kept.reference + kept.comparison.difference.estimate == pytest.approx(expected)


def test_a_smaller_error_of_the_commanded_velocity_is_better(tmp_path: Path):
    study = planned(tmp_path, PLAN | {"endpoints": ["return", "velocity_error"]})
    verdicts = verdicts_of(study)
    worse, better = verdicts["lif_rstdp", "return"], verdicts["lif_rstdp", "velocity error"]
    assert (worse.text, better.text) == ("worse", "better")
    assert better.comparison.difference == worse.comparison.difference
    write_report(study, DATE)
    assert " m/s" in section(study, "answer")


@pytest.mark.parametrize(
    ("endpoint", "measures"),
    [
        ("return", {"", "distance", "upright", "velocity_error"}),
        ("metres", {"", "distance", "velocity_error"}),
        ({"energy_per_metre": "fp32"}, {"", "distance", "velocity_error"}),
        ("velocity_error", {"", "velocity_error"}),
    ],
)
def test_an_endpoint_fits_tasks_that_measure_it(endpoint, measures):
    (checked,) = StudyPlan.check("plan", PLAN | {"endpoints": [endpoint]}).endpoints
    assert {m for m in ("", "distance", "upright", "velocity_error") if checked.fits(m)} == measures


def test_the_first_screen_has_the_plan_a_picture_and_a_sentence_for_each_comparison(tmp_path: Path):
    study = planned(tmp_path)
    write_report(study, DATE)
    text, page = section(study, "answer"), (study / "report.html").read_text()
    assert "2 comparisons in 3 endpoints planned before the first cell (2026-01-01), for 10 seeds" in text
    assert "not planned" not in text
    share = r"\(−?\d+ %\)"
    assert "Advantage over mlp_ppo in %" in text
    for agent in ("lif_ppo", "lif_rstdp"):
        (sentence,) = re.findall(rf"{agent}: ([^.]*)\.", text)
        assert re.match(r"(better|worse|equivalent within 5 %|undecided) in ", sentence)
        for endpoint in ("return", "pushed", "energy per metre, fp32_sram"):
            assert len(re.findall(rf"{endpoint} {share}", sentence)) == 1
    numbers = analyze_study(study).verdicts
    assert text.count("lif_ppo − mlp_ppo") == text.count("lif_rstdp − mlp_ppo") == 3
    assert all(format_difference(verdict) in text for verdict in numbers)
    assert page.index('id="figure-verdicts"') < page.index("<table>") and 'class="narrow"' in page
    assert "hardest" not in text and 'id="figure-ladder_isaac_cartpole"' in page
    ladder = (study / "figures" / "ladder_isaac_cartpole.svg").read_text()
    assert ">10<" in ladder and "$" not in ladder, "numbers of a logarithmic axis are plain"
    threats = section(study, "threats")
    assert "Unplanned comparisons" not in threats
    assert "Only scores and the plan's endpoints are tested" in threats


@pytest.mark.usefixtures("without_figures")
def test_a_study_without_a_plan_says_that_its_verdicts_were_looked_at_later(tmp_path: Path):
    study = write_study(tmp_path / "study", ("mlp_ppo", "lif_ppo"), (CARTPOLE,), range(6))
    write_report(study, DATE)
    assert "No comparison was planned" in section(study, "answer")
    threats = section(study, "threats")
    assert (
        "Unplanned comparisons no comparison was planned" in threats and "Only scores are tested" in threats
    )


@pytest.mark.usefixtures("without_figures")
def test_a_plan_later_than_a_result_and_seeds_and_tasks_added_since_are_told(tmp_path: Path):
    study = planned(tmp_path, PLAN | {"date": "2999-01-01", "seeds": [0, 1], "tasks": ["Isaac-Ant-v0"]})
    write_report(study, DATE)
    answer, told = section(study, "answer"), section(study, "threats")
    additions = "seeds added since: 2, 3, 4, 5, 6 and 3 others; tasks added since: Isaac-Cartpole"
    assert "planned after results were known (2999-01-01)" in answer
    assert f"The verdicts count what was not planned: {additions}." in answer
    assert f"the plan of 2999-01-01 came after a first result; {additions}" in told
    assert "Verdicts are those of unplanned tests against mlp_ppo." in section(study, "scores")


def test_holm_corrects_all_tests_or_those_of_an_endpoint(tmp_path: Path):
    alone = planned(tmp_path, PLAN | {"family": "endpoint"})
    assert {v.comparison.comparisons for v in analyze_study(alone).verdicts} == {2}
    assert [v.endpoint.label for v in analyze_study(alone).verdicts[:3]] == [
        "return", "pushed", "energy per metre, fp32_sram",
    ]  # fmt: skip


@pytest.mark.usefixtures("without_figures")
def test_a_study_that_goes_on_corrects_for_the_tasks_to_come(tmp_path: Path):
    study = write_study(tmp_path / "study", ("mlp_ppo", "lif_rstdp"), (CARTPOLE, MASKED), range(6))
    plan = PLAN | {"comparisons": PAIRS[1:], "endpoints": ["return"], "seeds": list(range(6))}
    redesign(study, plan=plan)
    done = analyze_study(study).verdicts
    for folder in (study / "cells").glob(f"{MASKED}*"):
        shutil.rmtree(folder)
    begun = analyze_study(study).verdicts
    assert [(v.task, v.text, v.comparison.comparisons) for v in begun] == [
        (CARTPOLE, "undecided", 2),
        (MASKED, "undecided", 2),
    ]
    assert begun[0].comparison.corrected == done[0].comparison.corrected
    write_report(study, DATE)
    answer = section(study, "answer")
    assert f"undecided in return on {CARTPOLE} (" in answer and f" and return on {MASKED}." in answer
    assert re.search(rf"lif_rstdp − mlp_ppo return on {MASKED} undecided 0 – – 1.00 –", answer)


def test_a_seed_that_learned_nothing_has_no_share_to_keep(tmp_path: Path):
    study = planned(tmp_path)
    change(study, f"{CARTPOLE}.lif_ppo.seed3", "evaluation.conditions.nominal.mean_return", 0.01)
    pushed = verdicts_of(study)["lif_ppo", "pushed"]
    assert (pushed.comparison.pairs, pushed.comparison.left_out) == (9, 1)


def test_a_verdict_tells_the_seeds_that_its_number_leaves_out(tmp_path: Path):
    study = planned(tmp_path)
    backwards = "evaluation.conditions.nominal.measures.distance"
    for seed in (3, 4):
        for agent in ("lif_ppo", "mlp_ppo"):  # neither has a partner, so no score is left out
            change(study, f"{CARTPOLE}.{agent}.seed{seed}", backwards, -2.0)
    verdicts = verdicts_of(study)
    energy = verdicts["lif_ppo", "energy per metre, fp32_sram"]
    assert (energy.comparison.pairs, energy.comparison.left_out, energy.unmeasured) == (8, 0, 2)
    assert verdicts["lif_ppo", "return"].unmeasured == 0
    write_report(study, DATE)
    assert re.search(r"lif_ppo − mlp_ppo energy per metre, fp32_sram \w+ 8 2 ", section(study, "answer"))
    for seed in range(10):
        change(study, f"{CARTPOLE}.lif_ppo.seed{seed}", backwards, 0.0)
    standing = verdicts_of(study)["lif_ppo", "energy per metre, fp32_sram"]
    assert (standing.text, standing.comparison.pairs, standing.unmeasured) == ("undecided", 0, 10)


def test_seeds_that_are_added_to_a_plan_without_seeds_are_told(tmp_path: Path):
    plan = {key: value for key, value in PLAN.items() if key != "seeds"} | {"comparisons": PAIRS[:1]}
    study = planned(tmp_path, plan)
    data = {**json.loads((study / "study.json").read_text()), "seeds": "0-11"}
    data = {key: value for key, value in data.items() if key not in ("version", "name", "plan")}
    merged = merge_study(study_design.build_study("study", data), study)
    assert merged.seeds == tuple(range(12))
    assert merged.plan is not None and merged.plan.seeds == tuple(range(10))


def test_a_plan_that_names_its_seeds_alone_has_the_day_on_which_it_is_written(tmp_path: Path):
    data = {"agents": ["lif_ppo", "mlp_ppo"], "tasks": ["Isaac-Cartpole-v0"], "seeds": "0-9"}
    plan = {"comparisons": PAIRS[:1], "seeds": [0, 1, 2]}
    merged = merge_study(study_design.build_study("study", {**data, "plan": plan}), tmp_path).plan
    assert merged is not None and merged.date == datetime.date.today().isoformat()
    assert (merged.seeds, merged.tasks) == ((0, 1, 2), ("Isaac-Cartpole-v0",))
    dated = study_design.build_study("study", {**data, "plan": {**plan, "date": "2026-01-01"}})
    merged = merge_study(dated, tmp_path).plan
    assert merged is not None and (merged.date, merged.tasks) == ("2026-01-01", ("Isaac-Cartpole-v0",))
    dump(tmp_path / "study.json", dated.to_dict())  # of a version whose plans have no tasks
    assert merge_study(dated, tmp_path).plan == dated.plan


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "< 0.001"),
        (0.0482, "0.048"),
        (0.0499, "0.0499"),
        (0.05, "0.050"),
        (0.0995, "0.100"),
        (0.126, "0.13"),
    ],
)
def test_a_p_value_shows_on_which_side_of_the_level_it_lies(p, text):
    assert format_p_value(p) == text


def test_equivalence_is_found_within_the_margin_and_seldom_at_it():
    rng = np.random.default_rng(0)
    theirs = rng.normal(70.0, 5.0, 10)
    assert compute_equivalence_p_value(theirs + rng.normal(0, 0.5, 10), theirs, 0.05) == pytest.approx(2**-10)
    assert compute_equivalence_p_value(theirs - 7.0, theirs, 0.05) > 0.9
    assert compute_equivalence_p_value(-theirs, -theirs * 1.001, 0.05) == pytest.approx(
        2**-10
    ), "a return may be negative"
    found = 0
    for _ in range(200):  # the truth lies on the margin, where one study in twenty may find it within
        second = rng.normal(70.0, 5.0, 8)
        found += compute_equivalence_p_value(second * 1.05 + rng.normal(0, 2.0, 8), second, 0.05) < 0.05
    assert found <= 20


@pytest.mark.slow
def test_the_seeds_that_show_equivalence_are_those_of_a_simulated_power():
    differences = np.tile([-2.0, 2.0], 100)
    seeds = count_seeds_to_equate(differences, 2.1)
    assert seeds is not None
    rng, found = np.random.default_rng(2), 0
    for _ in range(200):
        second = np.full(seeds, 70.0)
        found += compute_equivalence_p_value(second + rng.normal(0, 2.0, seeds), second, 0.03) < 0.05
    assert 0.7 < found / 200 < 0.9
    several = count_seeds_to_equate(differences, 2.1, tests=8)
    assert several is not None and several > seeds
    assert count_seeds_to_equate(differences[:2], 3.5) is None


def test_a_plan_is_stamped_once_and_stands_once_a_cell_has_begun(tmp_path: Path):
    data = {"agents": ["lif_ppo", "mlp_ppo"], "tasks": ["Isaac-Cartpole-v0"], "seeds": "0-9"}
    bare = {key: PLAN[key] for key in ("comparisons", "endpoints")} | {"comparisons": PAIRS[:1]}
    asked = study_design.build_study("study", {**data, "plan": bare})
    merged = merge_study(asked, tmp_path)
    assert merged.plan is not None and merged.plan.date and merged.plan.seeds == tuple(range(10))
    assert merged.plan.tasks == merged.tasks
    dump(tmp_path / "study.json", merged.to_dict())
    assert study_design.StudyFile.check("", merged.to_dict()).plan == merged.plan
    assert merge_study(asked, tmp_path).plan == merged.plan, "a second command keeps when it was made"
    other = study_design.build_study("study", {**data, "plan": bare | {"margin": 0.2}})
    changed = merge_study(other, tmp_path).plan
    assert changed is not None and changed.margin == 0.2, "no cell has begun"
    (tmp_path / "cells/Isaac-Cartpole.lif_ppo.seed0/run").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"plan: .*Isaac-Cartpole\.lif_ppo\.seed0 has begun"):
        folders.load_or_extend_study(tmp_path, other)
    more = study_design.build_study(
        "study", {**data, "seeds": "0-11", "tasks": ["Isaac-Cartpole-v0", "Isaac-Ant-v0"]}
    )
    assert merge_study(more, tmp_path).plan == merged.plan, "its seeds and tasks tell what was added"


def test_seeds_too_few_for_a_difference_may_be_enough_for_equivalence(tmp_path: Path):
    study = write_study(tmp_path / "study", ("mlp_ppo", "lif_ppo"), (CARTPOLE,), range(5))
    plan = PLAN | {"comparisons": PAIRS[:1], "endpoints": ["return"], "margin": 0.1}
    redesign(study, plan=plan)
    analysis = analyze_study(study)
    assert [verdict.text for verdict in analysis.verdicts] == ["equivalent"]
    assert "With 5 seeds no test can find a difference; 6 can. Equivalence needs 5." in describe_plan(
        analysis
    )


def test_a_plan_is_not_late_before_there_is_a_result(tmp_path: Path):
    study = planned(tmp_path, PLAN | {"date": "2999-01-01"})
    assert "came after a first result" in describe_late_plan(analyze_study(study))
    shutil.rmtree(study / "cells")
    assert describe_late_plan(analyze_study(study)) == ""


def test_too_few_seeds_for_the_planned_tests_are_warned_of(caplog: pytest.LogCaptureFixture):
    data = {"agents": ["lif_ppo", "mlp_ppo"], "tasks": ["Isaac-Cartpole-v0"]}
    plan = {"comparisons": PAIRS[:1], "endpoints": ["return", "metres"]}
    with caplog.at_level(logging.WARNING):
        warn_of_undecidable_tests(study_design.build_study("study", {**data, "seeds": "0-4", "plan": plan}))
        assert "5 seeds and 2 tests that Holm corrects together can show neither" in caplog.text
        assert "a difference needs 7 seeds, equivalence 6" in caplog.text
        warn_of_undecidable_tests(study_design.build_study("study", {**data, "seeds": "0-5", "plan": plan}))
    assert "6 seeds and 2 tests that Holm corrects together can show equivalence alone" in caplog.text
    caplog.clear()
    warn_of_undecidable_tests(study_design.build_study("study", {**data, "seeds": "0-6", "plan": plan}))
    assert not caplog.text


def test_a_number_of_seeds_decides_from_the_one_on_at_which_its_test_can():
    """Equivalence is two one-sided tests, whose lowest p-value is half of a difference's."""
    rng = np.random.default_rng(1)
    for tests in (1, 3, 8):
        for sides in (1, 2):
            seeds = count_deciding_seeds(tests, sides)
            theirs = rng.normal(70.0, 5.0, seeds)
            differing = theirs + rng.uniform(20.0, 21.0, seeds)
            p = [
                (
                    compute_equivalence_p_value(theirs[:n] + 0.1, theirs[:n], 0.05)
                    if sides == 1
                    else sign_flip_test({"task": differing[:n] - theirs[:n]})
                )
                for n in (seeds - 1, seeds)
            ]
            assert p[1] * tests < 0.05 <= p[0] * tests


def spec(layers=None, hidden=None, rate=1e-3, **network) -> dict:
    own = {"network": {"layers": layers, **network}} if layers or network else {}
    actor = {"hidden_dims": hidden or [400, 200, 100]}
    return {**own, "actor": actor, "algorithm": {"learning_rate": rate, "schedule": "fixed"}}


def test_an_ann_of_equal_widths_and_rates_is_a_control():
    lif = spec(layers=[128, 128])
    assert find_uncontrolled({"lif": lif, "mlp": spec(hidden=[128, 128])}) == {}
    assert find_uncontrolled({"lif": lif, "mlp": spec(hidden=[128, 64])}) == {"lif": "128-128"}
    faster = spec(hidden=[128, 128], rate=1e-2)
    assert find_uncontrolled({"lif": lif, "mlp": faster}) == {"lif": "128-128"}
    assert find_uncontrolled({"lif": lif, "mlp": faster}, ["lif", "mlp"]) == {}, "both were tuned"
    relu = {"lif": lif, "relu": spec(layers=[128, 128])}
    assert find_uncontrolled(relu, anns=["relu"]) == {}
    assert find_uncontrolled({"lif": spec(layers=[64]), "relu": relu["relu"]}, anns=["relu"]) == {"lif": "64"}
    assert find_uncontrolled(relu) == {"lif": "128-128", "relu": "128-128"}
    assert find_uncontrolled({"reservoir": spec(name="reservoir"), "mlp": spec()}) == {}
    assert find_uncontrolled({"mlp": spec()}) == {}
