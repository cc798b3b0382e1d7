"""Reading a study's folder and analysing its results, against studies with known truths."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from spiky_rl.experiments.analysis.measures import ARITHMETIC_MODEL, WINDOW, find_steps_to_threshold
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, analyze_study
from spiky_rl.experiments.design.planned import ALPHA
from spiky_rl.experiments.run.records import CellResult, CurveRecord
from spiky_rl.experiments.run.results import ResultsError, read_plan, read_results
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, ENERGY_MODELS, MAIN_ENERGY_MODELS
from tests.experiments.results import (
    CARTPOLE,
    ITERATIONS,
    KEPT,
    MASKED,
    RANDOM,
    TRUTHS,
    Truth,
    change,
    corrupt,
    dump,
    fail,
    redesign,
    remove,
    write_study,
)

AGENTS = ("mlp_ppo", "gru_ppo", "lif_ppo", "lif_rstdp")
SEEDS = range(5)
EQUAL = {name: Truth(4.0, 3.0, 1_200, 0, 66, None, 0.1) for name in ("mlp_ppo", "lif_ppo", "alif_ppo")}
"""Three agents of which none is better."""
LIF0 = f"{CARTPOLE}.lif_ppo.seed0"


@pytest.fixture(name="study", scope="module")
def one_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("analysis") / "study", AGENTS, seeds=SEEDS)


@pytest.fixture(name="analysis", scope="module")
def its_analysis(study: Path) -> StudyAnalysis:
    return analyze_study(study)


@pytest.fixture(name="small")
def small_study(tmp_path: Path) -> Path:
    """Two agents, one task, two seeds: to be damaged."""
    return write_study(tmp_path / "small", AGENTS[1:3], (CARTPOLE,), range(2), baseline="gru_ppo")


def scores_of(analysis: StudyAnalysis, label: str, task: str) -> np.ndarray:
    return np.array([r.score for r in analysis.results if (r.label, r.task) == (label, task)])


def test_all_cells_are_read_in_the_order_of_the_plan(study: Path, analysis: StudyAnalysis):
    assert [result.cell for result in analysis.results] == [cell.name for cell in read_plan(study)]
    assert analysis.skipped == ()
    assert analysis.labels == AGENTS and analysis.tasks == (CARTPOLE, MASKED)


def test_means_and_interquartile_means_are_those_of_the_scores(analysis: StudyAnalysis):
    for (label, task), row in analysis.rows.items():
        scores = scores_of(analysis, label, task)
        assert row.mean.estimate == pytest.approx(scores.mean(), rel=1e-12)
        assert row.iqm.estimate == pytest.approx(np.sort(scores)[1:-1].mean(), rel=1e-12)
        assert row.mean.low < row.mean.estimate < row.mean.high


def test_normalised_scores_are_zero_for_random_actions_and_one_for_the_baseline(analysis: StudyAnalysis):
    assert analysis.is_normalised and analysis.baseline == "mlp_ppo"
    for task in analysis.tasks:
        low, high = analysis.random[task], scores_of(analysis, "mlp_ppo", task).mean()
        assert low == pytest.approx(RANDOM, abs=0.05), "the noise of 64 episodes"
        row = analysis.rows["gru_ppo", task]
        assert row.normalised is not None
        assert row.normalised.estimate == pytest.approx((row.iqm.estimate - low) / (high - low), rel=1e-12)


def test_the_agent_that_is_far_worse_is_called_worse_and_no_verdict_goes_beyond_its_evidence(
    tmp_path: Path,
):
    analysis = analyze_study(write_study(tmp_path / "study", AGENTS, seeds=range(10)))
    verdicts = {c.agent: c.verdict for c in analysis.comparisons[ALL]}
    assert verdicts["lif_rstdp"] == "worse" and verdicts["gru_ppo"] == "better"
    assert set(analysis.comparisons) == {ALL, CARTPOLE, MASKED}
    for found in analysis.comparisons.values():
        for c in found:
            apart = c.corrected < ALPHA and c.difference.excludes(0.0)
            assert (c.verdict != "undecided") == apart


def test_agents_with_the_same_scores_in_another_order_are_not_told_apart(tmp_path: Path):
    study = write_study(tmp_path / "study", tuple(EQUAL), (CARTPOLE,), range(9), truths=EQUAL)
    scores = np.linspace(3.8, 4.2, 9)
    for shift, label in enumerate(EQUAL):
        for seed, score in enumerate(np.roll(scores, 3 * shift)):
            cell = f"{CARTPOLE}.{label}.seed{seed}"
            change(study, cell, "evaluation.conditions.nominal.mean_return", float(score))
    analysis = analyze_study(study)
    assert {c.verdict for found in analysis.comparisons.values() for c in found} == {"undecided"}
    assert {c.verdict for found in analysis.pairs.values() for c in found} == {"undecided"}
    assert [c.pairs for c in analysis.pairs[CARTPOLE]] == [9, 9, 9]


def find_steps(result: CellResult, returns: Sequence[float | None], solved: float | None = 3.0) -> int | None:
    """Environment steps to the threshold for a curve of ``returns``, 100 steps each."""
    n = len(returns)
    steps, zeros = tuple(range(100, 100 * n + 1, 100)), (0.0,) * n
    values = {"env_steps": steps, "return": tuple(returns), "seconds": (1.0,) * n}
    curve = CurveRecord.check("curve", {**values, "operations": zeros, "firing_rate": zeros})
    return find_steps_to_threshold(result.model_copy(update={"curve": curve}), solved)


def test_the_threshold_is_reached_where_the_mean_over_the_window_reaches_it(analysis: StudyAnalysis):
    result = analysis.results[1]
    rise = [0.0] * WINDOW + [3.0] * WINDOW
    assert find_steps(result, rise) == 100 * 2 * WINDOW
    assert find_steps(result, [0.0, 0.0, 14.0, 0.0, 0.0, 0.0, 0.0]) is None, "one lucky iteration"
    assert find_steps(result, [None] * 3 + [3.0] * WINDOW) == 100 * (3 + WINDOW)
    assert find_steps(result, [3.0, 3.0]) == 200, "fewer iterations than the window has"
    assert find_steps(result, [None, None]) is None
    assert find_steps(result, rise, solved=None) is None


def test_all_runs_of_a_task_have_one_threshold_though_its_file_changed(small: Path):
    for agent, seed in itertools.product(AGENTS[1:3], range(2)):
        change(small, f"{CARTPOLE}.{agent}.seed{seed}", "solved", 0.5 if seed else 5000.0)
    analysis = analyze_study(small)
    assert analysis.solved == {CARTPOLE: 0.5}
    assert [row.threshold and row.threshold.reached for row in analysis.rows.values()] == [2, 2]


def test_no_mean_over_all_tasks_leaves_out_a_planned_task(tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS[:2], (CARTPOLE, MASKED, "Isaac-Ant"), range(2))
    assert ALL in analyze_study(study).comparisons
    for cell in read_plan(study):
        if cell.task == "Isaac-Ant" and cell.agent != "random":
            remove(study, cell.name)
    analysis = analyze_study(study)
    assert set(analysis.comparisons) == {CARTPOLE, MASKED} == {verdict.task for verdict in analysis.verdicts}
    assert not analysis.overall and not analysis.profiles


def test_an_agent_that_its_study_names_as_an_ann_is_one_though_it_has_activity(small: Path):
    assert "loihi" in analyze_study(small).rows["lif_ppo", CARTPOLE].energy
    redesign(small, anns=["lif_ppo"])
    analysis = analyze_study(small)
    row = analysis.rows["lif_ppo", CARTPOLE]
    assert "lif_ppo" in analysis.anns and not row.ann_energy
    assert set(row.energy) == set(ANN_ENERGY_MODELS)


def test_a_report_needs_neither_task_files_nor_undamaged_specifications(small: Path, caplog):
    redesign(small, tasks=["mine/tilt.yaml"])
    (small.parent / "seeds.yaml").write_text("tasks: {}\n", encoding="utf-8")
    (small / "specs").mkdir()
    (small / "specs" / "abc.yaml").write_text("", encoding="utf-8")
    assert analyze_study(small).tasks == (CARTPOLE,)
    assert "abc.yaml: expected a mapping" in caplog.text


def test_runs_that_never_reach_the_threshold_count_as_longer_than_the_budget(analysis: StudyAnalysis):
    never = analysis.rows["lif_rstdp", CARTPOLE].threshold
    assert never is not None and (never.reached, never.runs, never.median) == (0, len(SEEDS), None)
    some = analysis.rows["gru_ppo", MASKED].threshold
    assert some is not None and 0 < some.reached < 3, "the truth is near the threshold"
    assert some.runs == len(SEEDS) and some.median is None, "most runs take longer than the budget"
    soon = analysis.rows["lif_ppo", CARTPOLE].threshold
    assert soon is not None and soon.reached == len(SEEDS)
    assert soon.median == sorted(soon.steps)[2] < soon.budget


def test_an_episode_takes_as_much_as_its_control_steps(analysis: StudyAnalysis):
    found = [r for r in analysis.results if (r.label, r.task) == ("lif_ppo", CARTPOLE)]
    costs = [(r.cost, r.nominal.mean_length) for r in found if r.cost is not None]
    row = analysis.rows["lif_ppo", CARTPOLE]
    assert set(row.energy) == set(ENERGY_MODELS)
    for name, energy in row.energy.items():
        assert energy.estimate == pytest.approx(
            np.mean([c.compute_energy(name) for c, _ in costs]), rel=1e-12
        )
        episode = np.mean([c.compute_energy(name) * n for c, n in costs])
        assert row.episode_energy[name].estimate == pytest.approx(episode, rel=1e-12)
    assert row.counts["arithmetic"].estimate == 3 * TRUTHS["lif_ppo"].updates
    assert row.counts["encoder_operations"].estimate == 16.0


def test_an_ann_has_no_energy_on_a_chip_for_spikes(analysis: StudyAnalysis):
    assert analysis.anns
    for (label, task), row in analysis.rows.items():
        models = ANN_ENERGY_MODELS if label in analysis.anns else ENERGY_MODELS
        assert set(row.energy) == set(row.episode_energy) == set(models), (label, task)


def test_the_front_holds_whom_nobody_beats_in_score_and_energy(analysis: StudyAnalysis):
    for task, price in itertools.product((CARTPOLE, MASKED), (ARITHMETIC_MODEL, *MAIN_ENERGY_MODELS)):
        front = analysis.get_pareto_front(task, price)
        points = {
            label: (
                analysis.rows[label, task].mean.estimate,
                analysis.rows[label, task].energy[price].estimate,
            )
            for label in AGENTS
        }
        for label, (score, energy) in points.items():
            beaten = any(s > score and e < energy for s, e in points.values())
            assert (label in front) != beaten
    assert analysis.get_pareto_front(MASKED, "fp32") == ("mlp_ppo", "gru_ppo")


def test_shares_that_are_kept_are_those_of_the_truth(analysis: StudyAnalysis):
    for condition in ("push", "sensor_loss", "mass"):
        share = analysis.remaining["mlp_ppo", CARTPOLE, condition].share
        assert share is not None
        assert share.estimate == pytest.approx(KEPT[condition], abs=0.01), "noise of 5 x 64 episodes"
        assert share.low < KEPT[condition] < share.high
    assert not any(condition == "nominal" for _, _, condition in analysis.remaining)


def test_an_agent_that_learned_nothing_has_nothing_to_keep(tmp_path: Path):
    truths = {"mlp_ppo": TRUTHS["mlp_ppo"], "lif_ppo": replace(TRUTHS["lif_ppo"], score=0.2)}
    study = write_study(tmp_path / "study", tuple(truths), (CARTPOLE,), truths=truths)
    kept = analyze_study(study).remaining["lif_ppo", CARTPOLE, "push"]
    assert kept.share is None and math.isfinite(kept.score.estimate)


def test_a_masked_task_beside_its_whole_one_tells_what_memory_is_needed_for(analysis: StudyAnalysis):
    assert [m.label for m in analysis.memory] == list(AGENTS)
    drop = {m.label: m.drop for m in analysis.memory}
    assert {(m.task, m.masked) for m in analysis.memory} == {(CARTPOLE, MASKED)}
    truth = TRUTHS["mlp_ppo"]
    assert drop["mlp_ppo"].low < truth.score - truth.masked < drop["mlp_ppo"].high
    assert drop["gru_ppo"].high < drop["mlp_ppo"].low


def test_agents_without_a_spike_are_the_anns(analysis: StudyAnalysis):
    assert analysis.anns == ("mlp_ppo", "gru_ppo")


@pytest.mark.parametrize("missing", ["the baseline", "random actions"])
def test_without_baseline_or_random_actions_scores_stay_raw(tmp_path: Path, missing: str):
    study = write_study(
        tmp_path / "study",
        AGENTS[1:],
        seeds=range(2),
        baseline="mlp_ppo" if missing == "the baseline" else "gru_ppo",
        random=missing != "random actions",
    )
    analysis = analyze_study(study)
    assert not analysis.is_normalised and not analysis.overall and not analysis.profiles
    assert all(row.normalised is None for row in analysis.rows.values())
    assert set(analysis.comparisons) == (set() if missing == "the baseline" else {CARTPOLE, MASKED})
    assert set(analysis.pairs) == {CARTPOLE, MASKED}


def test_a_baseline_no_better_than_random_actions_normalises_nothing(tmp_path: Path):
    truths = {"mlp_ppo": replace(TRUTHS["mlp_ppo"], score=0.2), "lif_ppo": TRUTHS["lif_ppo"]}
    analysis = analyze_study(write_study(tmp_path / "study", tuple(truths), (CARTPOLE,), truths=truths))
    assert not analysis.is_normalised
    assert analysis.overall["lif_ppo"].estimate == analysis.rows["lif_ppo", CARTPOLE].iqm.estimate


def test_variants_are_agents_of_their_own_and_the_baselines_first_one_is_the_reference(tmp_path: Path):
    study = write_study(
        tmp_path / "study", AGENTS[:2], (CARTPOLE,), range(3), vary={"agent.network.steps": [2, 4]}
    )
    analysis = analyze_study(study)
    assert analysis.labels == tuple(f"{a} network.steps={n}" for a in AGENTS[:2] for n in (2, 4))
    assert analysis.baseline == "mlp_ppo network.steps=2"
    assert [c.agent for c in analysis.comparisons[CARTPOLE]] == list(analysis.labels[1:])


def test_a_baseline_s_file_may_have_a_space_in_its_name(tmp_path: Path):
    agents, truths = ("my mlp", "lif_ppo"), {**TRUTHS, "my mlp": TRUTHS["mlp_ppo"]}
    folder = write_study(tmp_path / "study", agents, (CARTPOLE,), range(3), baseline="my mlp", truths=truths)
    analysis = analyze_study(folder)
    assert analysis.baseline == "my mlp"
    assert [found.agent for found in analysis.comparisons[CARTPOLE]] == ["lif_ppo"]


def test_one_seed_gives_scores_without_bounds(tmp_path: Path):
    analysis = analyze_study(write_study(tmp_path / "study", AGENTS, seeds=[3]))
    assert all(math.isinf(row.mean.low) and math.isinf(row.mean.high) for row in analysis.rows.values())
    assert {c.verdict for found in analysis.comparisons.values() for c in found} == {"undecided"}


def test_an_agent_without_one_of_the_tasks_is_compared_on_the_other_alone(small: Path, tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS, seeds=range(2))
    for seed in range(2):
        fail(study, f"{MASKED}.lif_ppo.seed{seed}")
    analysis = analyze_study(study)
    assert [c.agent for c in analysis.comparisons[ALL]] == ["gru_ppo", "lif_rstdp"]
    assert "lif_ppo" in {c.agent for c in analysis.comparisons[CARTPOLE]}
    assert "lif_ppo" not in analysis.overall
    assert analyze_study(small).comparisons.keys() == {CARTPOLE}, "of one task there is no other family"


BROKEN = {
    "version": (2, "version: 2 is not allowed; choose from 1"),
    "evaluation.conditions.nominal.mean_return": (math.nan, "expected a finite number, got nan"),
    "evaluation.conditions": ({}, "evaluation.conditions: missing nominal"),
    "curve.operations": ([1.0], "curve: unequal lengths"),
    "curve.env_steps": ([None], "curve.env_steps: expected whole numbers, got nothing"),
    "curve.seconds": (["soon"], "curve.seconds: expected numbers, got 'soon'"),
    "training.env_steps": ("many", "training.env_steps: expected a whole number, got 'many'"),
    "cell": ("another", "cell: 'another' is not the folder's name"),
    "outcome": ("stopped", "outcome: 'stopped' is not allowed; choose from finished"),
    "kind": ("guessed", "kind: 'guessed' is not allowed; choose from trained, random"),
    "curve": (None, "null in a cell that was trained"),
    "seed": (True, "seed: expected a whole number, got True"),
    "cost.energy_nj": ([], "cost.energy_nj: expected a mapping"),
    "commands": ("train", "commands: expected a list, got 'train'"),
}


@pytest.mark.parametrize("path", BROKEN)
def test_a_broken_result_is_named_with_what_is_wrong_and_left_out(small: Path, path: str):
    value, said = BROKEN[path]
    change(small, LIF0, path, value)
    results, (skipped,) = read_results(small)
    assert (skipped.cell, skipped.status) == (LIF0, "corrupt") and said in skipped.reason
    assert (skipped.label, skipped.task, skipped.seed) == ("lif_ppo", CARTPOLE, 0), "the plan knows"
    assert LIF0 not in {result.cell for result in results} and len(results) == 4


def test_a_curve_whose_env_steps_do_not_ascend_leaves_out_its_cell_alone(small: Path):
    change(small, LIF0, "curve.env_steps", [8192] * ITERATIONS)
    analysis = analyze_study(small)
    assert [cell.cell for cell in analysis.skipped] == [LIF0] and "ascend" in analysis.skipped[0].reason
    assert ("lif_ppo", CARTPOLE) in analysis.curves


def test_trainings_without_an_iteration_in_their_curves_reached_no_threshold(small: Path):
    for name in CurveRecord.model_fields:
        for seed in range(2):
            change(small, f"{CARTPOLE}.lif_ppo.seed{seed}", "curve." + name.replace("returns", "return"), [])
    threshold = analyze_study(small).rows["lif_ppo", CARTPOLE].threshold
    assert threshold is not None and (threshold.reached, threshold.budget) == (0, 8192 * ITERATIONS)


def test_a_missing_key_is_named_with_the_nearest_one(small: Path):
    path = small / "cells" / LIF0 / "result.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["trainings"] = data.pop("training")
    dump(path, data)
    assert read_results(small)[1][0].reason == "result.json: missing training; did you mean 'trainings'?"


def test_half_a_file_and_bytes_that_are_no_text_are_named(small: Path):
    corrupt(small, LIF0)
    other = f"{CARTPOLE}.gru_ppo.seed1"
    (small / "cells" / other / "result.json").write_bytes(b"\xff\xfe\x00")
    reasons = {cell.cell: cell.reason for cell in read_results(small)[1]}
    assert set(reasons) == {LIF0, other} and all("not valid JSON" in reason for reason in reasons.values())


def test_failed_and_missing_cells_say_why(small: Path):
    fail(small, LIF0, "FloatingPointError: the loss is nan")
    remove(small, f"{CARTPOLE}.lif_ppo.seed1")
    (small / "cells" / f"{CARTPOLE}.gru_ppo.seed0" / "result.json").unlink()
    found = {cell.cell: cell for cell in read_results(small)[1]}
    assert found[LIF0].status == "failed"
    assert found[LIF0].reason.splitlines()[-1] == "FloatingPointError: the loss is nan"
    missing = [found[f"{CARTPOLE}.{name}"] for name in ("lif_ppo.seed1", "gru_ppo.seed0")]
    assert [(cell.status, cell.reason) for cell in missing] == [
        ("missing", "not begun"),
        ("missing", "begun, not finished"),
    ]


def test_results_of_another_plan_are_stale(small: Path):
    change(small, LIF0, "hash", "0" * 16)
    stray = json.loads(
        (small / "cells" / f"{CARTPOLE}.gru_ppo.seed0" / "result.json").read_text(encoding="utf-8")
    )
    dump(small / "cells" / "stray" / "result.json", {**stray, "cell": "stray"})
    found = {cell.cell: cell for cell in read_results(small)[1]}
    assert {cell: skipped.status for cell, skipped in found.items()} == {LIF0: "stale", "stray": "stale"}
    assert "0000000000000000" in found[LIF0].reason and "not in plan.json" in found["stray"].reason


def test_processor_seconds_are_those_of_the_trainings_that_were_not_resumed(small: Path):
    def read(seed: int) -> float:
        path = small / "cells" / LIF0.replace("seed0", f"seed{seed}") / "result.json"
        return json.loads(path.read_text())["training"]["seconds_cpu"]

    row = analyze_study(small).rows["lif_ppo", CARTPOLE]
    of_runs = {seed: read(seed) for seed in row.by_seed}
    assert row.processor.estimate == pytest.approx(fmean(of_runs.values()))
    change(small, LIF0, "training.seconds_cpu", None)
    del of_runs[0]
    assert analyze_study(small).rows["lif_ppo", CARTPOLE].processor.estimate == pytest.approx(
        fmean(of_runs.values())
    )
    for seed in of_runs:
        change(small, LIF0.replace("seed0", f"seed{seed}"), "training.seconds_cpu", None)
    assert analyze_study(small).rows["lif_ppo", CARTPOLE].processor is None


def test_a_task_on_which_only_random_actions_were_measured_is_no_task_yet(tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS[:2], seeds=range(2))
    for cell in read_plan(study):
        if cell.task == MASKED and cell.agent != "random":
            remove(study, cell.name)
    analysis = analyze_study(study)
    assert analysis.tasks == (CARTPOLE,) and analysis.is_normalised
    assert set(analysis.comparisons) == {CARTPOLE}


def test_agents_that_share_one_seed_are_not_compared(small: Path):
    remove(small, f"{CARTPOLE}.lif_ppo.seed1")
    analysis = analyze_study(small)
    assert analysis.comparisons == {CARTPOLE: ()} and analysis.pairs == {CARTPOLE: ()}


def test_without_a_readable_plan_what_is_there_is_analysed(small: Path):
    (small / "plan.json").write_text("{", encoding="utf-8")
    stray = json.loads((small / "cells" / LIF0 / "result.json").read_text(encoding="utf-8"))
    dump(small / "cells" / "twin" / "result.json", {**stray, "cell": "twin"})
    analysis = analyze_study(small)
    assert "plan.json: not valid JSON" in analysis.plan_problem and len(analysis.results) == 5
    assert [cell.reason for cell in analysis.skipped] == [f"the same label, task and seed as {LIF0}"]


def test_scores_of_another_physics_are_left_out(small: Path):
    change(small, LIF0, "physics", "mujoco")
    analysis = analyze_study(small)
    assert LIF0 not in {result.cell for result in analysis.results}
    assert {cell.cell: cell.reason for cell in analysis.skipped}[
        LIF0
    ] == "its physics is mujoco, that of others newton_mjwarp"


def test_a_folder_without_a_study_is_refused_by_name(tmp_path: Path, small: Path):
    with pytest.raises(ResultsError, match=r"cannot read '.*/study\.json': No such file"):
        analyze_study(tmp_path / "nowhere")
    change_study = json.loads((small / "study.json").read_text(encoding="utf-8"))
    del change_study["question"]
    dump(small / "study.json", change_study)
    with pytest.raises(ResultsError, match="study.json: missing question"):
        analyze_study(small)


def test_a_study_without_any_result_has_nothing_but_its_gaps(small: Path):
    for cell in read_plan(small):
        remove(small, cell.name)
    analysis = analyze_study(small)
    assert analysis.rows == {} and len(analysis.skipped) == 5
    assert not analysis.comparisons and not analysis.is_normalised
