"""How long cells will take, from what is known of agents and tasks."""

import json

import pytest

from spiky_rl.config.spec import load_task
from spiky_rl.config.budget import parse
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.estimate import OVERHEAD, Speeds, estimated
from tests.experiments.test_grid import cells as planned

STEPS = 1000


def cell(agent, task, env_steps: int | None = STEPS):
    told = {"name": f"{task}.{agent}", "agent": agent, "task": task, "env_steps": env_steps, "device": "cpu"}
    return planned()[-1].model_copy(update=told)


def record(folder, agent, task, seconds):
    place = folder / "cells" / f"{task}.{agent}"
    place.mkdir(parents=True)
    training = {"seconds_total": seconds, "env_steps": STEPS}
    held = {"agent": agent, "task": task, "device": "cpu", "training": training}
    (place / "result.json").write_text(json.dumps(held))


def told(cells, folder, budget="env_steps=1000", specs=None):
    study = Study(name="s", agents=("lif_ppo",), tasks=("A",), budget=parse(budget, "budget"))
    found, sources = estimated(cells, study, Speeds().read([folder]), specs or {})
    return [cell.seconds and cell.seconds - OVERHEAD for cell in found], sources


def test_an_agent_takes_what_it_took_on_the_task(tmp_path):
    record(tmp_path, "lif_ppo", "A", 30.0)
    assert told([cell("lif_ppo", "A")], tmp_path) == (
        [pytest.approx(30.0)],
        {"results of the same agent and task"},
    )


def test_an_agent_that_is_new_to_a_task_takes_its_multiple_of_the_reference(tmp_path):
    for agent, task, seconds in (("mlp_ppo", "A", 10.0), ("lif_ppo", "A", 30.0), ("mlp_ppo", "B", 5.0)):
        record(tmp_path, agent, task, seconds)
    seconds, sources = told([cell("lif_ppo", "B"), cell("gru_ppo", "B")], tmp_path)
    assert seconds == pytest.approx([15.0, 5.0])
    assert sources == {
        "results of mlp_ppo, times what the agent takes elsewhere",
        "results of mlp_ppo, as if the agent were mlp_ppo",
    }


def test_a_task_without_results_takes_what_its_file_says(tmp_path):
    task = load_task("ant")
    assert task is not None
    seconds, sources = told([cell("mlp_ppo", task.label)], tmp_path, specs={task.label: task})
    assert seconds == pytest.approx([STEPS / task.steps_per_second["cpu"]])
    assert sources == {"the task's file"}


def test_nothing_is_guessed_of_a_task_that_nobody_knows(tmp_path):
    assert told([cell("lif_ppo", "A")], tmp_path) == ([None], set())


def test_a_budget_of_seconds_is_its_own_estimate(tmp_path):
    assert told([cell("lif_ppo", "A", None)], tmp_path, "wall=90")[0] == [90.0]


def test_a_damaged_result_tells_nothing(tmp_path):
    record(tmp_path, "lif_ppo", "A", 30.0)
    (tmp_path / "cells" / "A.lif_ppo" / "result.json").write_text("{")
    assert told([cell("lif_ppo", "A")], tmp_path)[0] == [None]
