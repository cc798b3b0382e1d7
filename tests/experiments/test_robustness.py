"""A report on stress, plasticity at work and energy with memory, from results with known numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from spiky_rl.config.registry import RegistryError
from spiky_rl.experiments.analysis.measures import (
    compute_ann_energy,
    compute_metre_energy,
    compute_step_energy,
)
from spiky_rl.experiments.analysis.outcome import StudyAnalysis, analyze_study
from spiky_rl.experiments.report.robustness import build_memory_section
from spiky_rl.experiments.report.sections import write_report
from spiky_rl.experiments.run.records import LIST_KEYS, OPTIONAL_KEYS
from spiky_rl.experiments.run.results import read_design, read_result, read_results
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, ENERGY_MODELS, InferenceCost
from tests.experiments.results import CARTPOLE, change, write_study

STUDIES = Path(__file__).resolve().parents[2] / "studies"
AGENTS, SEEDS, DISTANCE = ("mlp_ppo", "lif_ppo"), 3, 20.0
RIVAL = InferenceCost(
    **{field.name: 0 for field in dataclasses.fields(InferenceCost) if field.default is dataclasses.MISSING}
    | {"effective_macs": 3_000.0, "additions": 40.0, "footprint_bytes": 40_000, "state_accesses": 80.0}
)


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
        change(study, cell, "cost.ann_skipping_zeros", RIVAL.counts())
        change(study, cell, "cost.ann_skipping_zeros_energy_nj", {"int8": 1e9})
        change(study, cell, "cost.energy_nj", {"fp32": 1e9})
    return study


def test_recovery_is_the_mean_of_the_seeds_shares_and_absent_where_a_seed_has_none(study: Path):
    analysis = analyze_study(study)
    assert analysis.recovery["lif_ppo", CARTPOLE, "sensor_loss"].estimate == pytest.approx(0.6)
    assert analysis.recovery["mlp_ppo", CARTPOLE, "nominal"].estimate == pytest.approx(1.0)
    assert ("mlp_ppo", CARTPOLE, "sensor_loss") not in analysis.recovery
    assert ("lif_ppo", CARTPOLE, "push") not in analysis.recovery


def test_what_plasticity_gains_is_paired_by_seed(study: Path):
    analysis = analyze_study(study)
    assert list(analysis.adapting) == [("lif_ppo", CARTPOLE, "nominal")]
    frozen, moving, gain = analysis.adapting["lif_ppo", CARTPOLE, "nominal"]
    assert gain.estimate == pytest.approx(0.5) == pytest.approx(moving.estimate - frozen.estimate)


def test_a_metre_costs_an_episode_by_its_distance_and_the_ann_beside_is_that_of_the_result(study: Path):
    row = analyze_study(study).rows["lif_ppo", CARTPOLE]
    assert {name: interval.estimate for name, interval in row.ann_energy.items()} == {
        name: pytest.approx(RIVAL.compute_energy(ENERGY_MODELS[name]) / 1000.0) for name in ANN_ENERGY_MODELS
    }
    assert row.episode_energy.keys() == row.energy.keys()
    for name, energy in row.episode_energy.items():
        assert row.energy_per_metre[name].estimate == pytest.approx(energy.estimate / DISTANCE / 1000.0)
    for name, energy in row.ann_energy.items():
        metre = energy.estimate * row.length.estimate / DISTANCE / 1000.0
        assert row.ann_energy_per_metre[name].estimate == pytest.approx(metre)
    assert row.distance is not None and row.distance.estimate == DISTANCE
    assert analyze_study(study).rows["mlp_ppo", CARTPOLE].ann_energy == {}


def test_energies_are_priced_from_counts_and_not_what_an_earlier_version_wrote(study: Path):
    """The files of this study hold absurd energies beside their counts."""
    result = next(result for result in read_results(study)[0] if result.agent == "lif_ppo")
    assert result.cost is not None and result.cost.energy_nj == {"fp32": 1e9}
    counts = InferenceCost(**{name: getattr(result.cost, name) for name in RIVAL.counts()})
    for name, price in ENERGY_MODELS.items():
        energy = counts.compute_energy(price) / 1000.0
        assert compute_step_energy(result, name) == pytest.approx(energy)
        metre = energy * result.nominal.mean_length / DISTANCE / 1000.0
        assert compute_metre_energy(result, name) == pytest.approx(metre)
    with pytest.raises(RegistryError, match="fp32_sram"):
        compute_step_energy(result, "fp32_sramm")


@pytest.mark.parametrize(
    ("cell", "known"),
    [
        ("ant/cells/Isaac-Ant.lif_ppo.seed0", ["fp32", "int8", "loihi"]),
        (
            "ant_pilot/cells/Isaac-Ant.lif_128_ppo.seed0",
            [name for name in ENERGY_MODELS if "lists" not in name],
        ),
        ("ant_thin/cells/Isaac-Ant.lif_sparse_ppo.seed0", list(ENERGY_MODELS)),
        ("ant_pilot/cells/Isaac-Ant.random", []),
    ],
)
def test_results_of_every_earlier_version_are_priced_as_far_as_their_counts_go(cell: str, known: list[str]):
    result = read_result(STUDIES / cell)
    assert [name for name in ENERGY_MODELS if compute_step_energy(result, name) is not None] == known
    assert [name for name in ENERGY_MODELS if compute_metre_energy(result, name) is not None] == known
    assert not any(compute_ann_energy(result, name) for name in ANN_ENERGY_MODELS), "not kept then"


def test_the_page_shows_all_of_it(study: Path):
    text = write_report(study, "2026-11-26")[1].read_text(encoding="utf-8")
    for title in (
        f"Recovery on {CARTPOLE}",
        f"lif_ppo on {CARTPOLE} with plasticity at work",
        f"A metre on {CARTPOLE}",
        "| fp32 (nJ) | ANN fp32 (nJ) | int8 (nJ) | ANN int8 (nJ) |",
        "| way (metres) | fp32 (µJ) | ANN fp32 (µJ) | int8 (µJ) | ANN int8 (µJ) |",
        "µJ per metre (lif_ppo)",
        "ANN int8_sram",
        "fp32_dram",
        "weights in DRAM, states in SRAM",
    ):
        assert title in text, title


@pytest.mark.usefixtures("without_figures")
def test_plasticity_at_work_is_told_though_nominal_is_the_only_condition(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2), conditions=("nominal",))
    for cell in cells("lif_ppo")[:2]:
        adapted = read_result(study / "cells" / cell).evaluation.model_dump()["conditions"]
        change(study, cell, "evaluation.adapting", adapted)
    text = write_report(study, "2026-11-26")[1].read_text(encoding="utf-8")
    assert f"lif_ppo on {CARTPOLE} with plasticity at work" in text
    assert "Scores and shares on" not in text, "of no condition"


@pytest.mark.usefixtures("without_figures")
def test_results_of_earlier_versions_have_none_of_it_and_are_read(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    for result in read_results(study)[0]:
        if result.cost is not None:
            earlier = result.cost.model_dump(exclude={*OPTIONAL_KEYS, "ann_skipping_zeros"})
            change(study, result.cell, "cost", {**earlier, "energy_nj": {"fp32": 5.0}})
    found = analyze_study(study)
    assert not found.skipped and not found.recovery and not found.adapting
    assert all(not row.ann_energy and not row.energy_per_metre for row in found.rows.values())
    text = write_report(study, "2026-11-26")[1].read_text(encoding="utf-8")
    assert (
        "| fp32 (nJ) | int8 (nJ) |" in text and "fp32 arithmetic at 45 nm, no memory" in text
    ), "all there is"
    assert "A metre on" not in text and "Recovery on" not in text and "ANN int8" not in text


@pytest.mark.usefixtures("without_figures")
def test_prices_that_some_results_do_not_have_are_a_dash_in_their_rows(tmp_path: Path):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    for result in read_results(study)[0]:
        if result.agent == AGENTS[0] and result.cost is not None:
            for field in LIST_KEYS:
                change(study, result.cell, f"cost.{field}", None)
    report = write_report(study, "2026-11-28")[1].read_text(encoding="utf-8")
    table = report.split(f"Energy of a control step on {CARTPOLE}")[1].split("An episode on")[0]
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
    found = StudyAnalysis(read_design(study), (*results, *late), tuple(skipped))
    assert {(m.task, m.masked) for m in found.memory} == {(CARTPOLE, "cartpole_delayed")}
    assert "late observations" in str(next(iter(build_memory_section(found))))


@pytest.mark.parametrize("twin", ["Isaac-Cartpole-Masked", "Isaac-Cartpole-Masked-v3"])
def test_a_registered_twin_is_told_as_one_of_a_task_file(tmp_path: Path, twin):
    study = write_study(tmp_path, AGENTS, (CARTPOLE,), range(2))
    results, skipped = read_results(study)
    masked = [r.model_copy(update={"task": twin, "cell": f"masked.{r.cell}"}) for r in results]
    found = StudyAnalysis(read_design(study), (*results, *masked), tuple(skipped))
    assert f"{twin} is {CARTPOLE} without velocities" in str(next(iter(build_memory_section(found))))
