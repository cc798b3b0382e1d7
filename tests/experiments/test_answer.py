"""The claims of a report's first table agree with its tests."""

import re
from pathlib import Path

import pytest

from spiky_rl.experiments.analysis.outcome import ALL, analyze_study
from spiky_rl.experiments.report.sections import write_report
from tests.experiments.results import CARTPOLE, MASKED, TRUTHS, change, write_study
from tests.experiments.test_report import AGENTS, DATE, page_of, section, written


def verdicts(study: Path) -> dict[str, str]:
    """Better and worse agents, as the answer's sentences have them."""
    text = (study / "report.md").read_text(encoding="utf-8")
    found = re.findall(r"^\* \*\*(\w+):\*\* (better|worse|undecided) in [^;\n]*\.$", text, re.MULTILINE)
    assert found
    return {agent: verdict for agent, verdict in found if verdict != "undecided"}


@pytest.mark.usefixtures("without_figures")
def test_the_answer_calls_better_what_the_verdicts_do_and_nothing_else(tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS, seeds=range(8), conditions=("nominal",))
    write_report(study, DATE)
    analysis = analyze_study(study)
    assert verdicts(study) == {
        c.agent: c.verdict for c in analysis.comparisons[ALL] if c.verdict != "undecided"
    }
    assert {"lif_rstdp": "worse", "gru_ppo": "better"}.items() <= verdicts(study).items()
    assert "Robustness" not in page_of(study), "only nominal was measured"


@pytest.mark.usefixtures("without_figures")
def test_with_overlapping_evidence_nothing_is_called_better(tmp_path: Path):
    truths = {"mlp_ppo": TRUTHS["mlp_ppo"], "lif_ppo": TRUTHS["lif_ppo"]}
    study = write_study(tmp_path / "study", tuple(truths), (CARTPOLE,), range(8))
    for seed in range(8):
        for label, shift in (("mlp_ppo", 0), ("lif_ppo", 3)):
            score = 4.5 + 0.05 * ((seed + shift) % 8)
            path = "evaluation.conditions.nominal.mean_return"
            change(study, f"{CARTPOLE}.{label}.seed{seed}", path, score)
    write_report(study, DATE)
    assert verdicts(study) == {}
    assert 'class="verdict undecided"' in page_of(study)
    assert not re.search('class="verdict (better|worse)"', page_of(study))


@pytest.mark.slow
def test_few_seeds_and_many_agents_say_that_no_test_can_decide(tmp_path: Path):
    study = written(tmp_path, agents=AGENTS, seeds=range(4), conditions=("nominal",))
    assert verdicts(study)["lif_rstdp"] == "worse", "over all tasks there are eight pairs"
    told = f"Tests that cannot decide {CARTPOLE}: p ≥ 0.38; {MASKED}: p ≥ 0.38 An undecided"
    assert told in section(study, "threats")
