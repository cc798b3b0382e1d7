"""The cells of a study: complete, balanced, with telling names, and hashed by everything that decides their results."""

import dataclasses
import json
import shlex

import pytest

from spiky_rl.experiments.design import grid, study
from spiky_rl.experiments.design.grid import CellSpecification
from spiky_rl.experiments.design.study import RANDOM
from spiky_rl.run.run_plan import RunRequest
from tests.experiments.plans import plan

GIVEN = {
    "agents": ["lif_ppo", "mlp_ppo"],
    "tasks": ["cartpole", "cartpole_masked"],
    "seeds": "0-2",
    "budget": "env_steps=1000",
}


def resolve(task, agent, variant):
    """As Isaac Lab's configurations would tell it, in short."""
    return plan(task, {"agent": agent, **variant})


def cells(assets="local", device=None, **more):
    return grid.build_cells(
        study.build_study("mine", {**GIVEN, **more}), resolve, grid.CellResources(device, assets)
    )


def test_every_combination_is_a_cell_once_and_random_actions_are_measured_once_per_task():
    found = cells()
    assert (
        len({cell.name for cell in found})
        == len({cell.hash for cell in found})
        == len(found)
        == 2 * 2 * 3 + 2
    )
    assert [cell.name for cell in found if cell.kind == RANDOM] == [
        "Isaac-Cartpole.random",
        "cartpole_masked.random",
    ]
    assert "cartpole_masked.mlp_ppo.seed2" in {cell.name for cell in found}


def test_a_study_cut_short_is_balanced():
    trained = [cell for cell in cells() if cell.trains_agent]
    assert [cell.seed for cell in trained] == sorted(cell.seed for cell in trained)


STUDENT = {
    "agents": ["lif_distilled", "mlp_ppo"],
    "tasks": ["cartpole"],
    "teachers": {"lif_distilled": "mlp_ppo"},
}


def resolve_student(task, agent, variant):
    teaching = {"distillation_cfg": {"iterations": 3}} if agent == "lif_distilled" else {}
    return plan(task, {"agent": agent, "algorithm": teaching})


def students(resolve=resolve_student, **more):
    return grid.build_cells(
        study.build_study("mine", {**GIVEN, **STUDENT, **more}), resolve, grid.CellResources()
    )


def test_a_student_follows_the_teacher_of_its_task_and_seed_and_is_another_cell_with_another_teacher():
    found = {(cell.agent, cell.seed): cell for cell in students() if cell.trains_agent}
    assert list(found)[:2] == [("mlp_ppo", 0), ("lif_distilled", 0)]
    for (agent, seed), cell in found.items():
        assert cell.teacher == (f"Isaac-Cartpole.mlp_ppo.seed{seed}" if agent == "lif_distilled" else "")
    line = found["lif_distilled", 1].commands[0]
    assert line.endswith('--teacher "$OUT/cells/Isaac-Cartpole.mlp_ppo.seed1"/run/*/*/*')

    def other_teacher(task, agent, variant):
        made = resolve_student(task, agent, variant)
        return made if agent == "lif_distilled" else plan(task, {"agent": agent, "algorithm": {"gamma": 0.5}})

    others = {cell.name: cell.hash for cell in students(other_teacher)}
    assert all(others[cell.name] != cell.hash for cell in found.values())


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"history": 8}, "'mlp_ppo' given, with agent.history 8; allowed: 1"),
        ({"algorithm": {"class_name": "TD3"}}, "'mlp_ppo' given, with --rl_library skrl; allowed: rsl_rl"),
    ],
)
def test_a_teacher_that_a_student_cannot_learn_from_is_refused_before_it_trains(teacher, said):
    def with_teacher(task, agent, variant):
        return resolve_student(task, agent, variant) if agent == "lif_distilled" else plan(task, teacher)

    with pytest.raises(study.StudyError, match=f"^teachers: lif_distilled: {said}"):
        students(with_teacher)


@pytest.mark.parametrize("given", [{"teachers": {}}, {"teachers": {"mlp_ppo": "lif_distilled"}}])
def test_an_agent_has_a_teacher_if_and_only_if_it_learns_from_one(given):
    with pytest.raises(study.StudyError, match="^teachers: "):
        students(**given)


def test_variations_are_told_apart_by_label_and_folder():
    found = cells(vary={"agent.network.steps": [2, 4], "agent.network.neuron": [{"name": "alif"}]})
    labels = {cell.label for cell in found}
    assert labels == {
        RANDOM,
        "mlp_ppo",
        'lif_ppo network.steps=2 network.neuron={"name": "alif"}',
        'lif_ppo network.steps=4 network.neuron={"name": "alif"}',
    }
    assert len({cell.name for cell in found}) == len(found)
    assert all(
        set(cell.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=-")
        for cell in found
    )


def test_commands_are_what_a_shell_takes_and_hold_everything():
    cell = next(
        cell for cell in cells(overrides=["env.x=[1, 2]"]) if cell.name == "cartpole_masked.lif_ppo.seed1"
    )
    train, evaluate = (shlex.split(command) for command in cell.commands)
    assert train[:2] == ["python", "scripts/train.py"] and evaluate[:2] == ["python", "scripts/evaluate.py"]
    assert "env.x=[1, 2]" in train and "env.x=[1, 2]" in evaluate
    for flag, value in (
        ("--seed", "1"),
        ("--num_envs", "64"),
        ("--budget", "env_steps=1000"),
        ("--assets", "local"),
    ):
        assert train[train.index(flag) + 1] == value
    assert evaluate[evaluate.index("--checkpoint") + 1] == "latest"
    assert evaluate[evaluate.index("--log_root") + 1] == train[train.index("--log_root") + 1]


def test_agents_with_the_same_seed_are_evaluated_from_the_same_states_and_not_from_those_of_training():
    seeds = {cell.seed: cell.specification.evaluation_seed for cell in cells() if cell.trains_agent}
    assert len(set(seeds.values())) == 3
    assert not set(seeds) & set(seeds.values())


def test_a_cell_has_the_robots_of_its_own_task():
    def resolve_robots(task, agent, variant):
        made = resolve(task, agent, variant)
        made.host_task.assets = f"robots of {task}"
        return made

    found = grid.build_cells(study.build_study("mine", GIVEN), resolve_robots, grid.CellResources())
    assert {cell.assets for cell in found} == {"robots of cartpole", "robots of cartpole_masked"}
    assert all(cell.task == "cartpole_masked" for cell in found if cell.assets.endswith("masked"))


def test_the_highest_seed_is_evaluated_with_a_seed_that_an_evaluation_takes():
    (cell,) = {cell.seed: cell for cell in cells(seeds=[2**31 - 1]) if cell.trains_agent}.values()
    given = {"task": cell.specification.task, "seed": cell.specification.evaluation_seed}
    assert RunRequest.check("evaluation", given).seed == 99_999


def test_a_budget_of_steps_counts_whole_iterations():
    assert {cell.env_steps for cell in cells() if cell.trains_agent} == {1024}
    assert {cell.env_steps for cell in cells(budget=None) if cell.trains_agent} == {5 * 64 * 8}
    assert {cell.env_steps for cell in cells(budget="wall=3") if cell.trains_agent} == {None}


@pytest.mark.parametrize(
    "change",
    [{"budget": "env_steps=2000"}, {"episodes": 3}, {"conditions": "nominal"}, {"overrides": ["env.x=1"]}, {"assets": "nucleus"},
     {"library": "skrl"}, {"vary": {"agent.network.steps": [3]}}],
)  # fmt: skip
def test_whatever_decides_a_result_is_in_its_hash(change):
    before = {cell.hash for cell in cells() if cell.agent == "lif_ppo"}
    assert not before & {cell.hash for cell in cells(**change) if cell.agent == "lif_ppo"}


def test_other_agents_and_more_seeds_leave_a_hash_alone():
    before = {cell.name: cell.hash for cell in cells()}
    after = {
        cell.name: cell.hash
        for cell in cells(agents=["lif_ppo", "mlp_ppo", "gru_ppo"], seeds="0-5", question="Why?")
    }
    assert before.items() <= after.items()


def test_a_cells_commands_name_the_physics_that_was_chosen_for_it():
    def native(*arguments):
        return dataclasses.replace(resolve(*arguments), physics="mujoco")

    for cell in grid.build_cells(study.build_study("mine", GIVEN), native, grid.CellResources()):
        assert cell.specification.overrides == ("physics=mujoco",)
        assert all(command.endswith(" physics=mujoco") for command in cell.commands)
    given = {**GIVEN, "overrides": ["physics=mujoco"]}
    for cell in grid.build_cells(study.build_study("mine", given), native, grid.CellResources()):
        assert cell.specification.overrides == ("physics=mujoco",)
    assert not [cell for cell in cells() if cell.specification.overrides]


def test_a_specification_is_plain_data_that_gives_itself_again():
    for cell in cells(overrides=["env.x=[1, 2]"], vary={"agent.network.steps": [2]}):
        held = json.loads(json.dumps(cell.specification.model_dump()))
        again = CellSpecification.check("", held)
        assert again == cell.specification
        assert again.evaluation_seed == 100_000 + cell.seed
        assert held["overrides"][0] == "env.x=[1, 2]"
