"""The figures: the same bytes for the same results, nothing of the machine in them, labels that one can read."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from spiky_rl.experiments.analysis.outcome import StudyAnalysis, analyze_study
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.drawing import FONTS, STYLE, fit_label, format_tick, render_svg
from tests.experiments.results import CARTPOLE, TRUTHS, Truth, write_study

AGENTS = ("mlp_ppo", "gru_ppo", "lif_ppo", "lif_rstdp")
SVG = "{http://www.w3.org/2000/svg}"
DRAWN = {
    "curves": lambda analysis: figures.draw_learning_curves(analysis, CARTPOLE),
    "scores": figures.draw_scores,
    "profiles": figures.draw_profiles,
    "improvement": figures.draw_improvement,
    "thresholds": figures.draw_thresholds,
    "robustness": figures.draw_robustness,
    "pareto": lambda analysis: figures.draw_pareto(analysis, CARTPOLE, "fp32"),
}


@pytest.fixture(name="analysis", scope="module")
def an_analysis(tmp_path_factory: pytest.TempPathFactory) -> StudyAnalysis:
    return analyze_study(write_study(tmp_path_factory.mktemp("figures") / "study", AGENTS, seeds=range(3)))


@pytest.fixture(name="many", scope="module")
def many_agents(tmp_path_factory: pytest.TempPathFactory) -> StudyAnalysis:
    """All sixteen, on one task."""
    return analyze_study(
        write_study(tmp_path_factory.mktemp("many") / "study", tasks=(CARTPOLE,), seeds=range(2))
    )


def drawn(analysis: StudyAnalysis, name: str) -> str:
    text = render_svg(name, f"Title of {name}", lambda: DRAWN[name](analysis))
    assert text is not None
    return text


@pytest.fixture(name="pictures", scope="module")
def all_pictures(analysis: StudyAnalysis) -> dict[str, str]:
    """Every figure, drawn once."""
    return {name: drawn(analysis, name) for name in DRAWN}


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_the_same_bytes_again_and_names_every_agent(
    analysis: StudyAnalysis, pictures: dict[str, str], name: str
):
    picture = pictures[name]
    assert picture == drawn(analysis, name)
    named = set(AGENTS) - ({"mlp_ppo"} if name == "improvement" else set())
    assert named <= set(texts(picture))


def test_a_figure_does_not_depend_on_the_user_s_matplotlibrc(
    analysis: StudyAnalysis, pictures: dict[str, str]
):
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linestyle": "--"}):
        assert drawn(analysis, "scores") == pictures["scores"]


def test_energies_that_lie_close_together_are_plain_numbers_on_their_axis(tmp_path: Path):
    analysis = analyze_study(
        write_study(tmp_path / "study", ("mlp_ppo", "gru_ppo"), tasks=(CARTPOLE,), seeds=range(2))
    )
    near = {
        key: replace(row, energy={"fp32": Interval(energy, energy, energy)})
        for (key, row), energy in zip(analysis.rows.items(), (1200.0, 1500.0), strict=True)
    }
    vars(analysis)["rows"] = near  # in place of the computed rows
    sheet = figures.draw_pareto(analysis, CARTPOLE, "fp32")
    shown = texts(render_svg("near", "Near", lambda: sheet) or "")
    assert "1,000" in shown and "2,000" in shown and not any("$" in text for text in shown)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_holds_nothing_of_the_machine_and_asks_for_nothing(pictures: dict[str, str], name: str):
    picture = pictures[name]
    assert "<metadata" not in picture and "<image" not in picture and "DejaVu" not in picture
    assert FONTS.partition(",")[0] in picture
    links = re.findall(r'(?:href|src)="([^"]*)"', picture)
    assert all(link.startswith("#") for link in links)
    assert set(re.findall(r'="(https?://[^"]*)"', picture)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_figures_on_one_page_share_no_identifier(pictures: dict[str, str]):
    found = [set(re.findall(r'\bid="([^"]*)"', picture)) for picture in pictures.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(found, 2))
    for picture, ids in zip(pictures.values(), found, strict=True):
        used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', picture)
        assert {a or b for a, b in used} <= ids


def test_a_title_is_text_for_who_does_not_see_the_figure(analysis: StudyAnalysis):
    picture = render_svg("scores", 'A "title" & more', lambda: figures.draw_scores(analysis))
    assert picture is not None
    root = ElementTree.fromstring(picture)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'A "title" & more')


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.slow
def test_sixteen_agents_fit(many: StudyAnalysis, name: str):
    named = set(TRUTHS) - ({"mlp_ppo"} if name == "improvement" else set())
    assert named <= set(texts(drawn(many, name)))


@pytest.mark.slow
def test_long_names_of_variants_are_shortened_and_wrapped(tmp_path: Path):
    vary = {"agent.network.neuron.tau": [2.0, 4.0], "agent.algorithm.critic_learning_rate": [0.001, 0.002]}
    study = write_study(tmp_path / "study", AGENTS[:2], (CARTPOLE,), range(2), vary=vary)
    analysis = analyze_study(study)
    assert len(analysis.labels) == 8 and all(len(label) > 50 for label in analysis.labels)
    for name in DRAWN:
        shown = [text for text in texts(drawn(analysis, name)) if "_ppo" in text]
        assert shown and all(len(text) <= 38 for text in shown)
        assert len(set(shown)) >= 7 or name in {"curves", "profiles"}, "shortened names still differ"
    assert fit_label("lif_ppo network.steps=2 network.neuron.tau=2.5") == "lif_ppo steps=2 tau=2.5"
    assert fit_label("abcdefgh", 5) == "ab…gh" and fit_label("abcde", 5) == "abcde"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_agents_have_colours_of_their_own_that_are_readable_on_white(many: StudyAnalysis):
    found = figures.get_colors(many)
    assert list(found) == list(TRUTHS) and len(set(found.values())) == len(TRUTHS)
    assert found["mlp_ppo"] == "#000000"
    assert len({found["gru_ppo"][i : i + 2] for i in (1, 3, 5)}) == 1, "an ANN is grey"
    for colour in {*found.values(), *figures.PALETTE, *figures.GREYS}:
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, f"{colour}: WCAG 2.2, 1.4.3"
    dark = luminance("#1c2126") + 0.05
    darkest = luminance(to_hex(figures.SHADES(0.0))) + 0.05
    assert darkest / dark >= 4.5, "and so is text on the darkest cell of a map"


def named(picture: str) -> list[str]:
    return [text for text in texts(picture) if text in TRUTHS]


def test_legends_name_agents_in_the_order_in_which_they_are_drawn(many: StudyAnalysis):
    energies = many.get_energy_and_score(CARTPOLE, "fp32")
    picture = drawn(many, "pareto")
    assert named(picture) == sorted(TRUTHS, key=lambda label: energies[label][0]), "from left to right"
    bold = re.findall(r'<text style="font-weight: 700[^"]*"[^>]*>(\w+)<', picture)
    assert set(bold) == set(many.get_pareto_front(CARTPOLE, "fp32"))


def test_a_legend_names_lines_from_the_highest_end(analysis: StudyAnalysis, pictures: dict[str, str]):
    ends = {label: band.estimate[-1] for (label, task), band in analysis.curves.items() if task == CARTPOLE}
    assert named(pictures["curves"]) == sorted(ends, key=lambda label: -ends[label])


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.slow
def test_all_that_is_drawn_lies_inside_of_its_figure(many: StudyAnalysis, name: str):
    with matplotlib.rc_context(STYLE):
        figure = DRAWN[name](many)
        assert figure is not None
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0.0 and box.y0 >= 0.0 and box.x1 <= width and box.y1 <= height


def test_one_seed_draws_estimates_without_bands(tmp_path: Path):
    analysis = analyze_study(write_study(tmp_path / "study", AGENTS[:1], (CARTPOLE,), [0]))
    for name in ("curves", "scores", "robustness"):
        assert "nan" not in drawn(analysis, name) and "inf" not in drawn(analysis, name)
    assert "fill-opacity" not in drawn(analysis, "curves")
    assert (
        figures.draw_improvement(analysis) is None and figures.draw_pareto(analysis, CARTPOLE, "fp32") is None
    )


def test_names_of_conditions_stand_upright_where_their_columns_are_narrower_than_their_words(
    analysis: StudyAnalysis, pictures: dict[str, str]
):
    (key, rest), *_ = analysis.remaining.items()
    names = [f"observation_delay_{i}" for i in range(18)]
    first = analysis.results[0]
    conditions = dict.fromkeys(["nominal", *names], first.nominal)
    evaluation = first.evaluation.model_copy(update={"conditions": conditions})
    more = replace(analysis, results=(first.model_copy(update={"evaluation": evaluation}),))
    vars(more)["remaining"] = {(*key[:2], name): rest for name in names}
    wide = drawn(more, "robustness")
    assert {name.replace("_", " ") for name in names} <= set(texts(wide))
    assert wide.count("rotate(-90") >= 18 > pictures["robustness"].count("rotate(-90")


def test_where_there_is_nothing_to_draw_there_is_no_figure(tmp_path: Path):
    truths = {"mlp_ppo": Truth(4.9, 3.4, 1_200, 0, 66, None)}
    study = write_study(
        tmp_path / "study", ("mlp_ppo",), (CARTPOLE,), [0], truths=truths, conditions=("nominal",)
    )
    analysis = analyze_study(study)
    assert render_svg("robustness", "", lambda: figures.draw_robustness(analysis)) is None
    assert render_svg("curves", "", lambda: figures.draw_learning_curves(analysis, "another")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (8192, "8.19 k"), (1_638_400, "1.64 M"), (2e9, "2 G"), (0.25, "0.25")],
)
def test_counts_on_axes_are_short(value: float, text: str):
    assert format_tick(value) == text and math.isfinite(value)
