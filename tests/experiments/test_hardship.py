"""A report on stress, plasticity at work and energy with memory, from results whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from spiky_rl.experiments.analysis.outcome import analyse, analysis_of
from spiky_rl.experiments.analysis.results import LATER, read_design, read_results
from spiky_rl.experiments.report.hardship import memory
from spiky_rl.experiments.report.sections import write_report
from tests.experiments.results import CARTPOLE, change, write_study

AGENTS, SEEDS, DISTANCE = ("mlp_ppo", "lif_ppo"), 3, 20.0
RIVAL = {"int8": 2.0, "int8_sram": 30.0, "int8_dram": 400.0}


def cells(agent: str) -> list[str]:
    return [f"{CARTPOLE}.{agent}.seed{seed}" for seed in range(SEEDS)]


@pytest.fixture(name="study", scope="module")
def a_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(tmp_path_factory.mktemp("study"), AGENTS, (CARTPOLE,), range(SEEDS))
    results = {result.cell: result for result in read_results(study)[0]}
    for agent in AGENTS:
        for seed, cell in enumerate(cells(agent)):
            share = 0.5 + 0.1 * seed if agent == "lif_ppo" else None
            found = {"episodes": 60, "before": 2.0, "after": 1.0, "share": share}
            change(study, cell, "evaluation.conditions.sensor_loss.recovery", found)
            change(study, cell, "evaluation.conditions.nominal.recovery", {**found, "share": 1.0})
            change(study, cell, "evaluation.conditions.nominal.measures.distance", DISTANCE)
    for seed, cell in enumerate(cells("lif_ppo")):
        nominal = results[cell].nominal
        adapted = {
            **vars(nominal),
            "mean_return": nominal.mean_return + 0.25 * (seed + 1),
            "returns": [],
            "lengths": [],
        }
        adapted.pop("recovery")
        change(study, cell, "evaluation.adapting", {"nominal": adapted})
        change(study, cell, "cost.ann_skipping_zeros_energy_nj", RIVAL)
    return study


def test_recovery_is_the_mean_of_the_seeds_shares_and_absent_where_a_seed_has_none(study: Path):
    analysis = analyse(study)
    assert analysis.recovery["lif_ppo", CARTPOLE, "sensor_loss"].estimate == pytest.approx(0.6)
    assert analysis.recovery["mlp_ppo", CARTPOLE, "nominal"].estimate == pytest.approx(1.0)
    assert ("mlp_ppo", CARTPOLE, "sensor_loss") not in analysis.recovery
    assert ("lif_ppo", CARTPOLE, "push") not in analysis.recovery


def test_what_plasticity_gains_is_paired_by_seed(study: Path):
    analysis = analyse(study)
    assert list(analysis.adapting) == [("lif_ppo", CARTPOLE, "nominal")]
    frozen, moving, gain = analysis.adapting["lif_ppo", CARTPOLE, "nominal"]
    assert gain.estimate == pytest.approx(0.5) == pytest.approx(moving.estimate - frozen.estimate)


def test_a_metre_costs_an_episode_by_its_distance_and_the_ann_beside_is_that_of_the_result(study: Path):
    row = analyse(study).rows["lif_ppo", CARTPOLE]
    assert {name: interval.estimate for name, interval in row.rival.items()} == RIVAL
    for name, energy in row.energy.items():
        assert row.metre[name].estimate == pytest.approx(energy.episode.estimate / DISTANCE / 1000.0)
    assert analyse(study).rows["mlp_ppo", CARTPOLE].rival == {}


def test_the_page_shows_all_of_it(study: Path):
    text = write_report(study, "2026-11-26")[1].read_text(encoding="utf-8")
    for title in (
        f"Recovery on {CARTPOLE}",
        f"lif_ppo on {CARTPOLE} with plasticity at work",
        f"A metre on {CARTPOLE}",
        "ANN int8_sram",
        "fp32_dram",
        "weights in DRAM, states in SRAM",
    ):
        assert title in text, title


def test_results_of_earlier_versions_have_none_of_it_and_are_read(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    for result in read_results(study)[0]:
        if result.cost is not None:
            earlier = result.cost.model_dump(exclude=set(LATER))
            change(study, result.cell, "cost", {**earlier, "energy_nj": {"fp32": 5.0}})
    found = analyse(study)
    assert not found.skipped and not found.recovery and not found.adapting
    assert all(not row.rival and not row.metre for row in found.rows.values())
    text = write_report(study, "2026-11-26")[1].read_text(encoding="utf-8")
    assert "A metre on" not in text and "Recovery on" not in text and "ANN int8" not in text


def test_prices_that_some_results_do_not_have_are_a_dash_in_their_rows(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    for result in read_results(study)[0]:
        if result.agent == AGENTS[0] and result.cost is not None:
            change(study, result.cell, "cost.energy_nj", {"fp32": 5.0})
    report = write_report(study, "2026-11-28")[1].read_text(encoding="utf-8")
    table = report.split(f"A control step on {CARTPOLE}")[1].split("An episode on")[0]
    header, rows = next(line for line in table.splitlines() if line.startswith("|")), {}
    for line in table.splitlines():
        if line.startswith("| "):
            cells = [cell.strip(" *`") for cell in line.strip("|").split("|")]
            rows[cells[0]] = cells
    at = [i for i, title in enumerate(header.strip("|").split("|")) if "fp32_lists" in title]
    assert at and all(rows[AGENTS[0]][i] == "–" != rows[AGENTS[1]][i] for i in at)


def test_a_task_with_delayed_observations_is_its_own_s_twin(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    results, skipped = read_results(study)
    late = [r.model_copy(update={"task": "cartpole_delayed", "cell": f"late.{r.cell}"}) for r in results]
    found = analysis_of(read_design(study), [*results, *late], skipped)
    assert {(m.task, m.masked) for m in found.memory} == {(CARTPOLE, "cartpole_delayed")}
    assert "comes late" in str(next(iter(memory(found))))
