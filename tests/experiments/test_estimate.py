"""How long cells will take: as finished ones did, before that as the task's file says."""

import pytest

from spiky_rl.config.budget import parse_budget
from spiky_rl.config.spec import load_task
from spiky_rl.experiments.run import progress
from spiky_rl.experiments.run.comparison import estimate_cells
from spiky_rl.experiments.run.engines.base import DONE, RUNNING
from tests.experiments.results import TRUTHS, cell_of
from tests.experiments.results import finish as write_result
from tests.experiments.test_grid import cells as planned

STEPS = 1_000_000
ANT = load_task("ant")


def cell(seed, task="A", env_steps: int | None = STEPS, **more):
    told = {"name": f"{task}.{seed}", "task": task, "env_steps": env_steps, "device": "cpu", **more}
    return planned()[-1].model_copy(update=told)


def td3(seed, task="A"):
    one = cell(seed, task, label="lif_td3", agent="lif_td3")
    spec = {**one.specification.spec, "algorithm": {"class_name": "TD3"}}
    return one.model_copy(update={"specification": one.specification.model_copy(update={"spec": spec})})


TRAINING = cell_of("lif_ppo", "A", 0, {}, ["nominal"], TRUTHS["lif_ppo"])["training"]


def finish(folder, one, seconds, cell_hash=None, **more):
    training = {**TRAINING, "seconds_total": seconds}
    place = folder / "cells" / one.name
    return write_result(place, one.name, cell_hash or one.hash, **{"training": training, **more})


def seconds_of(folder, cells, tasks=None):
    return [cell.seconds for cell in estimate_cells(folder, cells, tasks or {})]


def test_a_cell_takes_the_mean_of_its_agents_finished_ones_on_the_task_or_of_its_algorithms(tmp_path):
    cells = [cell(0), cell(1), cell(2), cell(0, "B")]
    cells += [cell(3, label="other", agent="mlp_ppo"), td3(4)]
    finish(tmp_path, cells[0], 30.0)
    finish(tmp_path, cells[1], 50.0)
    assert seconds_of(tmp_path, cells) == [40.0, 40.0, 40.0, None, 40.0, None]
    finish(tmp_path, cells[4], 10.0)
    assert seconds_of(tmp_path, cells) == [40.0, 40.0, 40.0, None, 10.0, None]


def test_before_a_cell_is_finished_it_takes_what_the_tasks_file_says(tmp_path):
    assert ANT is not None
    cells = [cell(0, ANT.label), cell(1, ANT.label, processes=2), cell(2, ANT.label, None)]
    expected = STEPS / ANT.steps_per_second["cpu"]
    assert seconds_of(tmp_path, cells, {ANT.label: ANT}) == [expected, expected / 2, None]
    assert seconds_of(tmp_path, [td3(0, ANT.label)], {ANT.label: ANT}) == [None], "the speed is PPO's"
    budget = parse_budget("wall=90", "budget")
    assert seconds_of(tmp_path, [cell(0, budget=budget)]) == [90.0]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"training": {}}', '{"training": []}'])
def test_foreign_results_results_of_other_plans_and_random_actions_tell_nothing(tmp_path, text):
    cells = [cell(0), cell(1), cell(2, kind="random")]
    finish(tmp_path, cells[0], 30.0).write_text(text)
    finish(tmp_path, cells[1], 30.0, "f" * 16)
    finish(tmp_path, cells[2], 30.0, kind="random", training=None)
    assert seconds_of(tmp_path, cells) == [None, None, None]


class Plan:
    """The parts of a `StudyRun` that its progress needs."""

    def __init__(self, *cells, parallel=1):
        self.cells, self.finished, self.place = cells, {cells[0].name}, self
        self.parallel = parallel


def test_the_remaining_time_is_the_plans_until_a_cell_ends_and_then_the_mean_of_those_that_ended(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    plan = Plan(*(cell(i, seconds=100.0) for i in range(5)), parallel=2)
    course = progress.StudyProgress(plan)
    assert course.remaining_time == "0:03:20"
    assert list(course.update({"A.1": RUNNING, "A.2": RUNNING})) == ["A.1", "A.2"]
    now[0] = 20.0
    assert course.remaining_time == "0:03:00"
    assert list(course.update({"A.1": DONE})) == ["A.1"]
    assert course.remaining_time == "0:00:20", "two more of 20 s each, the other one should have ended"
    assert course.ended == 2


@pytest.mark.parametrize(("seconds", "text"), [(None, "unknown"), (60.0, "0:01:00")])
def test_without_an_estimate_the_remaining_time_is_unknown(seconds, text):
    random = cell(2, kind="random", seconds=None)
    assert progress.StudyProgress(Plan(cell(0), cell(1, seconds=seconds), random)).remaining_time == text
