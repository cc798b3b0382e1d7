"""A study's pages: the same bytes again, every claim backed, every gap named, and a page that a browser shows."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from spiky_rl.cli.report import report
from spiky_rl.experiments.analysis import outcome
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report.blocks import NONE, format_intervals
from spiky_rl.experiments.report.design import list_terms
from spiky_rl.experiments.report.sections import write_report
from spiky_rl.experiments.report.threats import THREATS
from spiky_rl.experiments.run.results import read_plan
from spiky_rl.metrics.energy import MAIN_ENERGY_MODELS
from tests.experiments.results import (
    CARTPOLE,
    ITERATIONS,
    MASKED,
    NOW,
    STEPS,
    THEN,
    change,
    corrupt,
    fail,
    remove,
    tuned,
    write_study,
)

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("mlp_ppo", "gru_ppo", "lif_ppo", "lif_rstdp")
QUESTION = "Do <spikes> help & why?"
DATE, LATER = "2026-11-25", "2027-01-31"
FAILED, CORRUPT, MISSING = (
    f"{CARTPOLE}.{cell}" for cell in ("lif_ppo.seed0", "gru_ppo.seed2", "lif_rstdp.seed1")
)
SECTIONS = (
    *("answer", "design", "scores", "figures", "tests", "efficiency", "robustness", "memory", "energy"),
    *("threats", "missing", "versions", "commands", "pairs"),
)


def damage(study: Path) -> Path:
    """One cell of each kind that gives no numbers, and one that was interrupted elsewhere."""
    fail(study, FAILED, "FloatingPointError: the loss is <nan>")
    corrupt(study, CORRUPT)
    remove(study, MISSING)
    change(study, f"{MASKED}.lif_ppo.seed1", "resumed", 2)
    change(study, f"{MASKED}.lif_ppo.seed1", "machine", "another machine, 64 cores, 8 cells at once")
    change(study, f"{MASKED}.lif_ppo.seed1", "versions.torch", "2.8.0")
    change(study, f"{MASKED}.lif_ppo.seed1", "evaluation.conditions.push.text", "a harder push")
    return study


@pytest.fixture(name="study", scope="module")
def a_damaged_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(
        tmp_path_factory.mktemp("report") / "study", AGENTS, seeds=range(4), question=QUESTION
    )
    write_report(damage(study), DATE)
    return study


def page_of(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def section(study: Path, name: str) -> str:
    """The text of a section, without tags and without its figures."""
    found = re.search(rf'<section id="{name}".*?</section>', page_of(study), re.DOTALL)
    assert found is not None, name
    return " ".join(unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", found[0], flags=re.DOTALL)).split())


def tree(study: Path) -> dict[str, bytes]:
    """All that a report writes."""
    paths = [study / "report.html", study / "report.md", *sorted((study / "figures").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.slow
def test_another_process_in_another_folder_writes_the_same_bytes_up_to_the_line_with_the_date(
    study: Path, tmp_path: Path
):
    shutil.copytree(study / "cells", tmp_path / "elsewhere" / "cells")
    for name in ("study.json", "plan.json"):
        shutil.copy(study / name, tmp_path / "elsewhere")
    figures = tmp_path / "elsewhere" / "figures"
    figures.mkdir()
    (figures / "stale.svg").write_text("of an earlier report", encoding="utf-8")
    (figures.parent / "report.md").write_text("\n![Title (old)](figures/stale.svg)\n", encoding="utf-8")
    code = "import sys; from pathlib import Path; from spiky_rl.experiments.report.sections import write_report; write_report(Path(sys.argv[1]), sys.argv[2])"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "MPLCONFIGDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code, "elsewhere", LATER]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=800)
    before, later = tree(study), tree(tmp_path / "elsewhere")
    assert later.keys() == before.keys()
    for name, old in before.items():
        pairs = list(zip(old.splitlines(), later[name].splitlines(), strict=True))
        changed = [(a, b) for a, b in pairs if a != b]
        assert len(changed) == (1 if name.startswith("report.") else 0)
        assert all(a.replace(DATE.encode(), LATER.encode()) == b for a, b in changed)


@pytest.mark.slow
def test_the_answer_has_energies_in_fp32_and_in_int8(study: Path):
    analysis = analyze_study(study)
    for price, kind in MAIN_ENERGY_MODELS.items():
        spiking = [label for label in analysis.labels if label not in analysis.anns]
        least = min(analysis.rows[label, CARTPOLE].energy[price].estimate for label in spiking)
        text = f"least energy of an agent with sparse activity, {kind} {least:.3g} nJ"
        assert text in section(study, SECTIONS[0])


def test_the_sections_stand_in_their_order_and_in_the_contents(study: Path):
    page = page_of(study)
    assert tuple(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert tuple(re.findall(r'<li><a href="#(\w+)">', page)) == SECTIONS
    markdown = (study / "report.md").read_text(encoding="utf-8")
    titles = [unescape(title) for title in re.findall(r"<section.*?<h2>(.*?)</h2>", page, re.DOTALL)]
    assert re.findall(r"^## (.*)$", markdown, re.MULTILINE) == titles


def test_the_question_is_the_title_and_text_stays_text(study: Path):
    page = page_of(study)
    assert "<h1>Do &lt;spikes&gt; help &amp; why?</h1>" in page and "<spikes>" not in page
    assert "the loss is &lt;nan&gt;" in page
    assert (study / "report.md").read_text(encoding="utf-8").startswith("# Do &lt;spikes> help &amp; why?\n")


def test_nothing_of_the_page_is_fetched_or_run(study: Path):
    page = page_of(study)
    assert "<script" not in page and "@import" not in page
    links = re.findall(r'\b(?:src|href|srcset|action|data)="([^"]*)"', page)
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)), "two figures would share a clip path"


def test_markdown_names_the_figures_that_lie_beside_it_and_its_tables_are_tables(study: Path):
    markdown = (study / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"^!\[[^\]]+\]\((figures/[a-z0-9_]+\.svg)\)$", markdown, re.MULTILINE)
    assert sorted(named) == sorted(f"figures/{path.name}" for path in (study / "figures").iterdir())
    assert (
        len(named) == 12
    ), "the verdicts, two learning curves, two Pareto plots of every price shown, and one of each other"
    tables = re.findall(r"(?:^\|.*\|$\n)+", markdown, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert re.fullmatch(r"\| --- (\| ---:? )+\|", table.splitlines()[1])


def test_failed_corrupt_and_missing_cells_are_named_with_their_last_lines(study: Path):
    text = section(study, "missing")
    assert f"{FAILED}: failed Traceback" in text and "FloatingPointError: the loss is <nan>" in text
    assert f"{CORRUPT}: corrupt result.json: not valid JSON" in text
    assert f"1 cell missing {MISSING}: not begun" in text
    assert "3 cells of 34 gave no numbers" in section(study, "answer")
    threats = section(study, "threats")
    for told in (
        FAILED,
        CORRUPT,
        MISSING,
        "resumed from a checkpoint",
        "another machine",
        "torch: 2.8.0 / 2.9.0",
    ):
        assert told in threats


def test_every_cell_stands_with_hash_and_commands(study: Path):
    hashes, commands = section(study, "versions"), section(study, "commands")
    for result in analyze_study(study).results:
        assert result.hash in hashes and all(command in commands for command in result.commands)
    assert "A isaaclab 3.0.0, spiky_rl 0.1.0, torch 2.9.0; AMD EPYC" in hashes and "B isaaclab" in hashes


def test_energies_stand_beside_their_prices_and_what_they_leave_out(study: Path):
    text = section(study, "energy")
    assert "fp32 arithmetic at 45 nm, no memory" in text and "moving data takes most of the energy" in text
    for heading in (
        "A control step on",
        "An episode on",
        "neuron updates",
        "encoder",
        "fp32 nJ",
        "int8 nJ",
        "loihi µJ",
    ):
        assert heading in text


def test_networks_without_spikes_have_no_firing_rate(study: Path):
    lines = (study / "report.md").read_text(encoding="utf-8").splitlines()
    table = [
        [cell.strip() for cell in line.split("|")]
        for line in lines[lines.index(f"**Training on {MASKED}**") :]
    ]
    column = next(i for i, name in enumerate(table[2]) if name.startswith("firing rate"))
    rates = {row[1]: row[column] for row in table[4 : 4 + len(AGENTS)]}
    assert rates.keys() == set(AGENTS)
    assert {agent for agent, rate in rates.items() if rate == "–"} == {"mlp_ppo", "gru_ppo"}


def written(tmp_path: Path, change_it: Callable[[Path], object] | None = None, **design: Any) -> Path:
    study = write_study(tmp_path / "study", **design)
    if change_it is not None:
        change_it(study)
    write_report(study, DATE)
    return study


def test_one_seed_says_that_it_cannot_tell(tmp_path: Path):
    study = written(tmp_path, agents=AGENTS[:3], tasks=(CARTPOLE,), seeds=[0])
    text = section(study, "answer")
    assert "Nothing is compared." in text
    assert "1 seed of each agent per task Fewer than 10" in section(study, "threats")
    assert "nan" not in text and "≠" not in page_of(study) and "∞" not in page_of(study)


@pytest.mark.usefixtures("without_figures")
def test_one_task_needs_no_total(tmp_path: Path):
    study = written(tmp_path, agents=AGENTS[:3], tasks=(CARTPOLE,), seeds=range(2))
    assert (
        "all tasks" not in section(study, "scores")
        and "| all tasks |" not in (study / "report.md").read_text()
    )
    assert 'id="memory"' not in page_of(study)


@pytest.mark.parametrize(
    ("design", "known"),
    [
        ({"agents": AGENTS[1:3]}, f"mlp_ppo 1, mean {CARTPOLE} 0.61 no result"),
        ({"agents": AGENTS[:2], "random": False}, f"mlp_ppo 1, mean {CARTPOLE} no result"),
    ],
)
@pytest.mark.slow
def test_without_what_scores_are_normalised_by_the_page_says_that_they_are_raw(
    tmp_path: Path, design: dict[str, Any], known: str
):
    study = written(tmp_path, seeds=range(2), **design)
    assert "Scores are raw" in section(study, "design") and known in section(study, "design")
    assert "normalised, IQM" not in page_of(study)


@pytest.mark.usefixtures("without_figures")
def test_variants_stand_under_their_labels(tmp_path: Path):
    study = written(
        tmp_path, agents=AGENTS[1:3], tasks=(CARTPOLE,), seeds=range(2), vary={"agent.network.steps": [2, 4]}
    )
    scores = section(study, "scores")
    assert all(f"{agent} network.steps={n}" in scores for agent in AGENTS[1:3] for n in (2, 4))
    assert "agent.network.steps: 2, 4" in section(study, "design")
    assert "tunes it on the test" in section(study, "threats")


@pytest.mark.slow
def test_evaluations_during_a_training_stand_beside_the_scores_of_agents_that_have_them(tmp_path: Path):
    def evaluate(study: Path) -> None:
        for seed, returns in enumerate(([1.0, 4.0, 2.5], [2.0, 5.0, 3.5])):
            cell = f"{CARTPOLE}.gru_ppo.seed{seed}"
            change(study, cell, "training.last_ten_evaluations", sum(returns) / 3)
            change(study, cell, "training.max_evaluation", max(returns))
            evaluations = {"env_steps": [5000, 10000, 15000], "mean_return": returns}
            change(study, cell, "training.evaluations", evaluations)

    plain = {"agents": AGENTS[:2], "tasks": (CARTPOLE,), "seeds": range(2)}
    study = written(tmp_path / "with", evaluate, **plain)
    (row,) = [r for r in analyze_study(study).rows.values() if r.label == "gru_ppo"]
    assert row.last_ten_evaluations is not None and row.max_evaluation is not None
    assert row.last_ten_evaluations.estimate == 3.0 and row.max_evaluation.estimate == 4.5
    scores = section(study, "scores")
    assert "last ten" in scores and "maximum" in scores and "4.5" in scores
    change(study, f"{CARTPOLE}.gru_ppo.seed0", "training.evaluations.env_steps", [5000])
    write_report(study, DATE)
    assert "unequal lengths 1 and 3" in section(study, "missing")
    assert "last ten" not in section(written(tmp_path / "without", **plain), "scores")


@pytest.mark.slow
def test_a_study_says_which_agents_have_tuned_values_and_what_was_tuned_as_something_else(tmp_path: Path):
    study = written(tmp_path, tuned, agents=AGENTS[:3], tasks=(CARTPOLE,), seeds=range(2))
    design, threats = section(study, "design"), section(study, "threats")
    for told in (
        "values of logs/tune/mine (copy: tuned.yaml), from 12 trials of every agent with other seeds (90000)",
        "budget of a trial: 9 steps",
        f"on {CARTPOLE} tuned: gru_ppo and lif_ppo (trial 7); unchanged there",
        "no sampled trial was better than the agent's file: mlp_ppo",
    ):
        assert told in design, told
    differs = f"specification {NOW}, tuned with {THEN}, physics newton_mjwarp, tuned with mujoco"
    assert f"Tuned as something else lif_ppo on {CARTPOLE}: {differs} The agent or the physics" in threats
    (study / "tuned.yaml").unlink()
    write_report(study, DATE)
    assert "the copy tuned.yaml, which has the details, is missing" in section(study, "design")
    assert "Tuned as something else" not in section(study, "threats")


def test_a_number_that_is_missing_takes_no_decimals_from_its_column():
    """As of an agent that shares no seed with the baseline."""
    missing = Interval(math.nan, math.nan, math.nan)
    assert format_intervals([missing, Interval(0.7, 0.3, 0.9), None]) == [NONE, "0.70 [0.30, 0.90]", NONE]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.slow
def test_whichever_cells_are_there_a_report_is_written(tmp_path: Path, seed: int):
    """A study is reported on while it runs: any part of its cells."""
    import numpy as np

    def some(study: Path) -> None:
        rng = np.random.default_rng(seed)
        for cell in read_plan(study):
            if rng.random() < 0.6:
                remove(study, cell.name)

    study = written(tmp_path, some, agents=AGENTS, seeds=range(3))
    assert "gave no numbers" in section(study, "answer")


def test_a_study_that_has_not_begun_has_a_page(tmp_path: Path):
    study = written(tmp_path, lambda s: shutil.rmtree(s / "cells"), agents=AGENTS[:1], seeds=[0])
    assert "No cell has a result yet" in section(study, "answer") and "3 cells missing" not in section(
        study, "answer"
    )
    assert "4 cells missing" in section(study, "missing")


@pytest.mark.usefixtures("without_figures")
def test_without_a_plan_the_page_says_what_it_cannot_know(tmp_path: Path):
    study = written(
        tmp_path, lambda s: (s / "plan.json").unlink(), agents=AGENTS[:2], tasks=(CARTPOLE,), seeds=[0, 1]
    )
    told = "cannot read 'plan.json': No such file or directory Cells that never began are unknown."
    assert told in section(study, "threats")


def test_the_length_of_an_agent_s_training_is_the_mean_of_its_seeds(tmp_path: Path):
    """Whichever of the seeds trained longer."""
    found = set()
    for seed in range(2):
        study = write_study(tmp_path / str(seed), AGENTS[:2], (CARTPOLE,), range(2))
        change(study, f"{CARTPOLE}.{AGENTS[1]}.seed{seed}", "training.env_steps", 3 * ITERATIONS * STEPS)
        found.add(THREATS["Unequal experience"][1](analyze_study(study)))
    assert found == {
        f"{CARTPOLE}: {ITERATIONS * STEPS:,} environment steps ({AGENTS[0]}) to {2 * ITERATIONS * STEPS:,} environment steps ({AGENTS[1]})"
    }


def test_a_baseline_that_is_named_otherwise_than_its_agent_is_marked(tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS[:2], (CARTPOLE,), [0], baseline=f"agents/{AGENTS[0]}.yaml")
    assert dict(list_terms(analyze_study(study)))["Agents"].startswith(f"{AGENTS[0]} (baseline)")


@pytest.mark.usefixtures("without_figures")
def test_the_command_analyses_the_study_once_for_its_page_and_tensorboard(tmp_path: Path, monkeypatch):
    study, read = write_study(tmp_path / "study", AGENTS[:2], (CARTPOLE,), [0]), []
    read_results = outcome.files.read_results
    monkeypatch.setattr(
        outcome.files, "read_results", lambda folder, anns: read.append(folder) or read_results(folder, anns)
    )
    assert report([str(study)]) == 0
    assert read == [study] and (study / "report.md").is_file() and list((study / "tensorboard").iterdir())


OWN = ("google.com", "googleapis.com", "gvt1.com")
"""Hosts that the browser itself asks, whatever the page."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(name="browser", scope="module")
def a_browser() -> str:
    """SPIKY_RL_BROWSER, or a browser on the path."""
    named = os.environ.get("SPIKY_RL_BROWSER")
    found = [path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}, or name one in SPIKY_RL_BROWSER")
    return found[0]


def browse(browser: str, page: Path, folder: Path, *options: str) -> tuple[str, list[str], set[str]]:
    """The output of a headless browser that reaches no other host, its console's messages, and the page's requests to hosts."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()
    flags += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += ["--enable-logging=stderr", f"--log-net-log={folder / 'net.json'}"]
    command = [browser, *flags, *options, page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=800)
    events = json.loads((folder / "net.json").read_text(encoding="utf-8"))["events"]
    urls = {event.get("params", {}).get("url", "") for event in events}
    fetched = {url for url in urls if (host := urlsplit(url).hostname) and not host.endswith(OWN)}
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], fetched


def test_a_browser_shows_question_tables_and_figures_and_fetches_nothing(
    study: Path, browser: str, tmp_path: Path
):
    dom, console, fetched = browse(browser, study / "report.html", tmp_path, "--dump-dom")
    assert console == [] and fetched == set()
    assert "<h1>Do &lt;spikes&gt; help &amp; why?</h1>" in dom
    assert len(re.findall(r"<figure[^>]*>\s*<div[^>]*><svg", dom)) == 12
    page = page_of(study)
    for tag in ("tr", "td", "th", "section", "details", "path"):
        assert (
            len(re.findall(f"<{tag}[ >]", dom)) == len(re.findall(f"<{tag}[ >]", page)) > 0
        ), "none fell out of its table"
    for agent in AGENTS:
        assert re.search(rf'<tr><th scope="row" class="dot"[^>]*>{agent}</th><td>', dom)
        assert re.search(rf"<text[^>]*>{agent}</text>", dom)


@pytest.mark.slow
def test_what_a_page_fetches_and_its_errors_would_be_seen(browser: str, tmp_path: Path):
    page, pixel = tmp_path / "page.html", "https://example.org/pixel.png"
    page.write_text(f"<img src='{pixel}'><script>nowhere()</script>", encoding="utf-8")
    _, console, fetched = browse(browser, page, tmp_path, "--dump-dom")
    assert any("nowhere is not defined" in line for line in console) and fetched == {pixel}


@pytest.mark.parametrize("width", [500, pytest.param(1300, marks=pytest.mark.slow)])
def test_the_page_fits_its_window_and_can_be_pictured(study: Path, browser: str, tmp_path: Path, width: int):
    """500 is the narrowest window of a headless Chromium; wide tables and figures scroll in boxes of their own."""
    probe = (
        "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script></body>"
    )
    page = tmp_path / "probe.html"
    page.write_text(page_of(study).replace("</body>", probe), encoding="utf-8")
    size, picture = f"--window-size={width},2000", tmp_path / "page.png"
    dom, *_ = browse(browser, page, tmp_path, size, "--dump-dom")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found is not None and int(found[1]) <= int(found[2]) <= width
    browse(browser, study / "report.html", tmp_path, size, f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 50_000
