"""Arms from other studies stand in a study where all that must agree does, and are refused by key where it does not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.grid import CellResources
from spiky_rl.experiments.design.grid import build_cells as plan_cells
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.threats import build_reuse_notes
from spiky_rl.experiments.run.arms import refuse_other_arms
from spiky_rl.experiments.run.comparison import StudyRun, warn_of_missing_controls
from spiky_rl.experiments.run.results import read_plan
from tests.experiments.plans import plan
from tests.experiments.results import CARTPOLE, ITERATIONS, STEPS, change, dump, redesign, write_study
from tests.experiments.test_provenance import told

ARM = {"study": "studies/theirs", "agents": ["gru_ppo"]}
GIVEN = {
    "agents": "mlp_ppo,lif_ppo",
    "tasks": "Isaac-Cartpole-v0",
    "seeds": "0-2",
    "budget": f"env_steps={ITERATIONS * STEPS}",
    "num_envs": 512,
    "conditions": "nominal",
    "arms": [ARM],
}


def resolve(task, agent, variant):
    made = plan(task, {"agent": agent, **variant})
    made.num_envs = 512
    made.host_task.assets = "look-alike robots derived from Newton's wheel"
    return made


def planned(**more):
    asked = study.build_study("ours", {**GIVEN, **more})
    return asked, plan_cells(asked, resolve, CellResources(threads=1))


def set_origin(folder: Path, **changed) -> None:
    """Give all results of a study the provenance and versions that a cell has here."""
    cell = planned()[1][-1]
    assert cell.provenance is not None
    for path in folder.glob("cells/*"):
        origin = {**cell.provenance.model_dump(), "threads": 1, "commit": folder.name}
        change(folder, path.name, "provenance", origin | changed)
        change(folder, path.name, "versions", {**cell.versions, "spiky_rl": "0.1.0"})


@pytest.fixture
def folder(tmp_path):
    """Our study, beside which theirs lies."""
    root, tasks = tmp_path / "studies", [CARTPOLE]
    both = ["nominal", "push"]
    theirs = write_study(root / "theirs", ["gru_ppo", "lif_ppo"], tasks, range(1, 6), conditions=both)
    ours = write_study(root / "ours", ["mlp_ppo", "lif_ppo"], tasks, range(3), conditions=both[:1])
    for each in (theirs, ours):
        set_origin(each)
    redesign(ours, tasks=["Isaac-Cartpole-v0"], arms=[ARM])
    return ours


def test_an_arm_stands_in_comparisons_and_the_report_says_where_it_is_from(folder):
    refuse_other_arms(folder, *planned())
    found = analyze_study(folder)
    assert found.labels == ("mlp_ppo", "lif_ppo", "gru_ppo") and found.arms == {"gru_ppo": "studies/theirs"}
    assert dict(found.rows["gru_ppo", "Isaac-Cartpole"].by_seed).keys() == {1, 2}, "seeds of the study alone"
    (compared,) = found.comparisons.values()
    assert {c.agent: c.pairs for c in compared} == {"lif_ppo": 3, "gru_ppo": 2}
    assert told(folder)["Arms from other studies"] == "gru_ppo: studies/theirs"
    assert any("gru_ppo of studies/theirs" in block.text for block in build_reuse_notes(found))


def test_a_plan_of_the_day_of_an_arm_may_have_been_made_after_its_results(folder):
    plan_of_day = {"comparisons": [["lif_ppo", "gru_ppo"]], "seeds": [0, 1, 2]}
    for cell in (folder.parent / "theirs/cells").iterdir():
        change(folder.parent / "theirs", cell.name, "date", "2026-11-20")
    for date, expected in (("2026-11-19", True), ("2026-11-20", False)):
        redesign(folder, plan={**plan_of_day, "date": date})
        assert analyze_study(folder).is_planned == expected, date


@pytest.mark.parametrize("widths", [[128, 128], [64, 64]])
def test_an_arm_may_be_the_ann_of_equal_widths_of_a_spiking_agent(folder, caplog, widths):
    """In the warning before anything runs as in the report."""
    rates = {"algorithm": {"learning_rate": 1e-3}}
    lif = {**rates, "network": {"layers": [128, 128]}, "actor": {"hidden_dims": [1]}}
    specs = {"lif_ppo": lif, "gru_ppo": {**rates, "actor": {"hidden_dims": widths}}}
    theirs, ours = folder.parent / "theirs", {}
    for each in (theirs, folder):
        for cell in read_plan(each):
            if cell.agent in specs:
                dump(each / f"specs/{cell.spec_hash}.yaml", specs[cell.agent])
                ours[str(cell.spec_hash)] = specs[cell.agent]
    missing = {} if widths == [128, 128] else {"lif_ppo": "128-128"}
    assert analyze_study(folder).uncontrolled == {"Isaac-Cartpole": missing}
    asked, cells = planned()[0], read_plan(folder)
    place: Any = None
    resolver: Any = SimpleNamespace(specs=ours)
    warn_of_missing_controls(StudyRun(asked, folder, place, resolver, cells, set()))
    assert ("lif_ppo on Isaac-Cartpole: the study has no ANN" in caplog.text) == bool(missing)
    assert not missing or "lif_ppo (128-128)" in told(folder)["No ANN of equal size"]


@pytest.mark.parametrize("anns", [[], ["gru_ppo"]])
def test_an_ann_with_a_network_is_a_control_if_its_study_names_it(folder, anns):
    theirs = folder.parent / "theirs"
    redesign(theirs, anns=anns)
    spec = {"algorithm": {"learning_rate": 1e-3}, "network": {"layers": [128, 128]}}
    for each in (theirs, folder):
        for cell in read_plan(each):
            if cell.agent in ("lif_ppo", "gru_ppo"):
                dump(each / f"specs/{cell.spec_hash}.yaml", spec)
    missing = analyze_study(folder).uncontrolled["Isaac-Cartpole"]
    assert missing == ({} if anns else {"lif_ppo": "128-128", "gru_ppo": "128-128"})


CELL = "Isaac-Cartpole.gru_ppo.seed1"
OTHERS = {
    "budget": ("budget", {"kind": "env_steps", "amount": 5}, "budget: env_steps=5; here env_steps="),
    "environments": ("num_envs", 64, "num_envs: 64; here 512"),
    "physics": ("physics", "mujoco", "physics: mujoco; here newton_mjwarp"),
    "robots": ("assets", "others", "assets: others; here look-alike"),
    "episodes": ("evaluation.episodes", 3, "episodes: 3; here 64"),
    "kernels": ("provenance.kernels", "0" * 16, "provenance.kernels: 0000000000000000; here"),
    "versions": ("versions.torch", "1.0", "versions.torch: 1.0; here"),
    "no provenance": ("provenance", None, "provenance: none; here known"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_arm_that_differs_is_refused_by_key_before_anything_runs_and_left_out_of_a_report(folder, case):
    key, value, said = OTHERS[case]
    change(folder.parent / "theirs", CELL, key, value)
    with pytest.raises(StudyError) as refused:
        refuse_other_arms(folder, *planned())
    if case != "physics":  # of one study, the second physics is left out already
        assert str(refused.value).startswith(f"arms: {CELL} of studies/theirs: {said}")
    found = analyze_study(folder)
    if case != "physics":
        (left,) = (s for s in found.skipped if s.label == "gru_ppo")
        assert said in left.reason and left.cell == f"studies/theirs: {CELL}"
        assert [r.seed for r in found.results if r.label == "gru_ppo"] == [2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"conditions": "nominal,mass"}, "conditions: nominal, push; here mass"),
        ({"overrides": ["env.x=1"]}, "overrides: none; here env.x=1"),
        (
            {"arms": [{**ARM, "agents": ["alif_ppo"]}]},
            "arms: alif_ppo of studies/theirs: no finished cell on Isaac-Cartpole",
        ),
        ({"arms": [{**ARM, "study": "studies/none"}]}, "arms: 'studies/none' given"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_by_key(folder, more, said):
    with pytest.raises(StudyError) as refused:
        refuse_other_arms(folder, *planned(**more))
    assert said in str(refused.value)


def test_an_arm_agrees_with_one_of_our_agents_on_its_task_in_any_order(folder):
    """Agents of other algorithms have other numbers of environments."""
    asked, cells = planned()
    others = [c.model_copy(update={"num_envs": 1}) if c.agent == "lif_ppo" else c for c in cells]
    for found in (others, others[::-1]):
        refuse_other_arms(folder, asked, found)
    with pytest.raises(StudyError, match="num_envs: 512; here 1$"):
        refuse_other_arms(folder, asked, [c.model_copy(update={"num_envs": 1}) for c in cells])


def test_other_threads_conditions_besides_and_physics_named_differently_do_not_matter(folder):
    set_origin(folder.parent / "theirs", threads=8)
    refuse_other_arms(folder, *planned(overrides=["physics=newton_mjwarp", "agent.algorithm.gamma=0.9"]))
    assert "gru_ppo" in analyze_study(folder).labels and told(folder)["Threads"] == "cells: 1 / 8"


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([{**ARM, "study": "/studies/theirs"}], "study: '/studies/theirs' given"),
        ([{**ARM, "study": "../theirs"}], "study: '../theirs' given"),
        ([{**ARM, "agents": ["lif_ppo"]}], "'lif_ppo' given twice"),
        ([ARM, {**ARM, "study": "studies/more"}], "'gru_ppo' given twice"),
        ([{"study": "studies/theirs"}], "agents"),
    ],
)
def test_arms_that_are_none_are_refused_by_key(arms, said):
    with pytest.raises(StudyError) as refused:
        planned(arms=arms)
    assert str(refused.value).startswith("arms") and said in str(refused.value)


def test_the_baseline_may_be_an_arm_and_a_study_without_arms_is_written_as_before():
    asked = study.choose_baseline(planned(baseline="gru_ppo")[0])
    assert asked.baseline == "gru_ppo" and asked.to_dict()["arms"] == [
        {"study": "studies/theirs", "agents": ["gru_ppo"]}
    ]
    assert study.StudyFile.check("", asked.to_dict()).arms == asked.arms
    plain = study.build_study("ours", {key: value for key, value in GIVEN.items() if key != "arms"}).to_dict()
    assert not {"arms", "reused_seeds"} & set(plain)


def test_a_session_of_an_arm_that_was_left_out_goes_when_the_arm_is_taken(folder):
    for module in ("tensorboard", "werkzeug"):
        pytest.importorskip(module, reason=f"{module} comes with the extra 'isaaclab'")
    from spiky_rl.experiments.report.hparams import FILE, write_hparams

    change(folder.parent / "theirs", CELL, "num_envs", 64)
    left = write_hparams(folder)
    assert len([*left.rglob(FILE)]) == 1 + len(analyze_study(folder).results) + 1
    change(folder.parent / "theirs", CELL, "num_envs", 512)
    taken = write_hparams(folder)
    assert {path.parent.name for path in taken.rglob(FILE)} == {
        taken.name,
        *(result.cell for result in analyze_study(folder).results),
    }
