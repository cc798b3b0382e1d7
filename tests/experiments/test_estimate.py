"""How long cells will take, from what is known of agents and tasks."""

import json

import pytest

from spiky_rl.config.budget import parse_budget
from spiky_rl.config.spec import load_task
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.estimate import EARLIER_PHYSICS, OVERHEAD, SpeedTable, estimate_cells
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, ROBUSTNESS
from tests.experiments.test_grid import cells as planned

STEPS = 1000


def cell(agent, task, env_steps: int | None = STEPS):
    told = {"name": f"{task}.{agent}", "agent": agent, "task": task, "env_steps": env_steps, "device": "cpu"}
    return planned()[-1].model_copy(update=told)


def record(folder, agent, task, seconds, **more):
    place = folder / "cells" / ".".join([task, agent, *map(str, more.values())])[:99]
    place.mkdir(parents=True)
    training = {"seconds_total": seconds, "env_steps": STEPS, **more.pop("training", {})}
    held = {"agent": agent, "task": task, "device": "cpu", "training": training, **more}
    (place / "result.json").write_text(json.dumps(held))


def told(cells, folder, budget="env_steps=1000", specs=None, **more):
    study = Study(name="s", agents=("lif_ppo",), tasks=("A",), budget=parse_budget(budget, "budget"), **more)
    found, sources = estimate_cells(cells, study, SpeedTable().read([folder]), specs or {})
    return [cell.seconds and cell.seconds - OVERHEAD for cell in found], sources


def test_an_agent_takes_what_it_took_on_the_task(tmp_path):
    record(tmp_path, "lif_ppo", "A", 30.0)
    assert told([cell("lif_ppo", "A")], tmp_path) == (
        [pytest.approx(30.0)],
        {"results of the same agent and task"},
    )


def test_a_speed_is_that_of_the_same_specification_and_physics_where_both_are_known(tmp_path):
    own = cell("lif_ppo", "A")
    assert own.physics == EARLIER_PHYSICS and own.spec_hash
    record(tmp_path, "lif_ppo", "A", 90.0, physics="mujoco", spec_hash=own.spec_hash)
    in_another = {"results of the same agent and task in another physics"}
    assert told([own], tmp_path) == ([pytest.approx(90.0)], in_another)
    record(tmp_path, "lif_ppo", "A", 60.0, spec_hash="f" * 16)
    assert told([own], tmp_path) == ([pytest.approx(60.0)], {"results of the same agent and task"})
    record(tmp_path, "lif_ppo", "A", 30.0, spec_hash=own.spec_hash)
    assert told([own], tmp_path) == ([pytest.approx(30.0)], {"results of the same specification"})


def test_an_evaluation_takes_its_conditions_times_its_episodes(tmp_path):
    """Ten seconds of a training's thirty simulate and act in 1000 steps; the longest episode has 50."""
    lengths = {"conditions": {"nominal": {"lengths": [50, 20]}, "push": {"lengths": [30]}}}
    spent = {"seconds_simulation": 8.0, "seconds_inference": 2.0}
    record(tmp_path, "mlp_ppo", "A", 30.0, training=spent, evaluation=lengths)
    random = cell("random", "A", 0).model_copy(update={"kind": "random"})
    one, many = (
        told([cell("mlp_ppo", "A"), random], tmp_path, episodes=4, conditions=conditions)[0]
        for conditions in (("nominal",), ("stress",))
    )
    assert one == pytest.approx([30.0 + 4 * 0.5, 4 * 0.5])
    conditions = len(CONDITIONS) - len(ROBUSTNESS) + 1
    assert many == pytest.approx([30.0 + conditions * 4 * 0.5, conditions * 4 * 0.5])
    record(
        tmp_path,
        "lif_ppo",
        "A",
        30.0,
        training=spent,
        evaluation={**lengths, "adapting": lengths["conditions"]},
    )
    plastic = told([cell("lif_ppo", "A")], tmp_path, episodes=4, conditions=("nominal",))[0]
    assert plastic == pytest.approx([30.0 + 4 * 1.0]), "a plastic policy is measured twice"


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
