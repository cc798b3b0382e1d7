"""Commands that begin at the same time in one folder, or on one storage, lose nothing of each other."""

import json
import multiprocessing
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed: the extra 'experiments'")

from spiky_rl.experiments.design import grid, study
from spiky_rl.experiments.run import cells, comparison
from spiky_rl.experiments.run.comparison import StudyRun, merge_study, write_plan
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from spiky_rl.experiments.run.tuning_storage import connect
from tests.experiments import tunings
from tests.experiments.test_grid import GIVEN, resolve

PATIENCE = 120.0
AGENTS = ("lif_ppo", "mlp_ppo", "alif_ppo", "gru_ppo")


def run_at_once(work: Callable, each: Sequence[object]) -> list[int]:
    """Exit codes of a process for ``each``, which all call ``work`` at the same moment."""
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(len(each))

    def begin(argument):
        barrier.wait(PATIENCE)
        work(argument)

    started = [fork.Process(target=begin, args=(argument,)) for argument in each]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    return [process.exitcode for process in started]


def planned(asked: study.Study, out: Path, place: ExecutionOptions) -> StudyRun:
    """As compare.py plans, of cells that only their settings tell apart."""
    found = grid.build_cells(asked, resolve, grid.CellResources("cpu", "local"))
    return StudyRun(asked, out, place, AgentResolver(asked, place), found, set())


def test_two_comparisons_on_one_folder_are_one_study(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "plan_study", planned)  # without Isaac Lab
    place, fork = ExecutionOptions(device="cpu"), multiprocessing.get_context("fork")
    read = fork.Barrier(len(AGENTS))

    def compare(agent):
        asked = study.build_study("mine", {**GIVEN, "agents": [agent]})
        plan = planned(merge_study(asked, tmp_path), tmp_path, place)
        read.wait(PATIENCE)  # nobody writes before all have read
        written = write_plan(asked, plan)
        assert agent in written.study.agents

    assert run_at_once(compare, AGENTS) == [0] * len(AGENTS)
    held = json.loads((tmp_path / "study.json").read_text())
    assert set(held["agents"]) == set(AGENTS)
    names = {cell["cell"] for cell in json.loads((tmp_path / "plan.json").read_text())["cells"]}
    assert len(names) == len(AGENTS) * 2 * 3 + 2
    assert {path.parent.name for path in tmp_path.glob("cells/*/cell.json")} == names


def test_a_command_that_plans_alone_waits_for_nobody_and_keeps_its_plan(tmp_path):
    asked = study.build_study("mine", GIVEN)
    plan = planned(merge_study(asked, tmp_path), tmp_path, ExecutionOptions(device="cpu"))
    assert write_plan(asked, plan) is plan, "Isaac Lab is not asked again"
    with cells.lock_cell(tmp_path, wait=False):
        pass


SPACE = {
    "set": {},
    "shared": {"agent.algorithm.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
    "own": {agent: {"agent.algorithm.entropy_coef": {"low": 0.0, "high": 0.1}} for agent in AGENTS},
}


def test_tunings_that_begin_at_once_in_a_fresh_folder_are_one(tmp_path):
    out = tmp_path / "out"

    def tune(agent):
        tunings.run(out, tunings.asked(agent, trials=2, space=SPACE))

    assert run_at_once(tune, AGENTS) == [0] * len(AGENTS)
    held = json.loads((out / "tuning.json").read_text())
    assert set(held["study"]["agents"]) == set(AGENTS)
    with sqlite3.connect(out / "tuning.db") as database:
        names = [name for (name,) in database.execute("select study_name from studies")]
        rows = list(database.execute("select study_id, number from trials"))
    assert sorted(names) == sorted(f"{held['id']} Isaac-Cartpole {agent}" for agent in AGENTS)
    assert len(rows) == len(set(rows)) == 2 * len(AGENTS)


def test_a_storage_is_made_once_by_commands_of_several_folders(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def tune(number):
        connect(url)
        tunings.run(tmp_path / str(number), tunings.asked("lif_ppo", trials=1), storage=url)

    assert run_at_once(tune, range(4)) == [0] * 4
    with sqlite3.connect(tmp_path / "shared.db") as database:
        assert database.execute("select count(*) from studies").fetchone() == (4,)
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
