"""A study says what is compared; what is no comparison is refused before anything runs, by key and value."""

import pytest

from spiky_rl.experiments import study
from spiky_rl.experiments.budget import Budget
from spiky_rl.experiments.study import StudyError
from spiky_rl.registry import UserError

GIVEN = {"agents": ["lif_ppo", "mlp_ppo"], "tasks": ["cartpole"], "seeds": "0-2"}


def build(**more):
    return study.build("mine", {**GIVEN, **more})


def test_seeds_are_ranges_lists_or_both():
    assert study.parse_seeds("0-3") == (0, 1, 2, 3)
    assert study.parse_seeds("7") == study.parse_seeds(7) == (7,)
    assert study.parse_seeds("0-1,5, 9-10") == (0, 1, 5, 9, 10)
    assert study.parse_seeds([3, "5-6"]) == (3, 5, 6)


@pytest.mark.parametrize("given", ["a-b", "3-1", "-1", "0-", "", "1.5", "0-99999", "0--3", []])
def test_a_seed_range_that_is_none_is_refused(given):
    with pytest.raises(StudyError, match="seeds:"):
        study.parse_seeds(given)


def test_what_varies_is_read_with_its_types():
    texts = ["agent.network.steps=2,4", "agent.network.neuron={name: lif, tau: 3.0},alif"]
    assert study.parse_vary(texts) == {
        "agent.network.steps": [2, 4],
        "agent.network.neuron": [{"name": "lif", "tau": 3.0}, "alif"],
    }


@pytest.mark.parametrize("text", ["agent.network.steps", "agent.network.steps=", "agent.x={a: ,"])
def test_what_varies_without_values_is_refused(text):
    with pytest.raises(StudyError, match="vary:"):
        study.parse_vary([text])


def test_combinations_of_what_varies_are_complete_and_leave_an_agent_without_a_network_alone():
    made = build(vary={"agent.network.steps": [2, 4], "agent.algorithm.gamma": [0.9, 0.99]})
    assert len(made.variants("lif_ppo")) == 4
    assert {"agent.network.steps": 2, "agent.algorithm.gamma": 0.99} in made.variants("lif_ppo")
    assert made.variants("mlp_ppo") == [{"agent.algorithm.gamma": 0.9}, {"agent.algorithm.gamma": 0.99}]
    assert build().variants("mlp_ppo") == [{}]


REFUSED = {
    "unknown agent": ({"agents": ["lif_ppo", "lif_poo"]}, ["'lif_poo'", "mean 'lif_ppo'"]),
    "no agents": ({"agents": []}, ["agents", "no cell"]),
    "no tasks": ({"tasks": []}, ["tasks", "no cell"]),
    "no seeds": ({"seeds": []}, ["seeds", "no cell"]),
    "an agent twice": ({"agents": ["lif_ppo", "lif_ppo"]}, ["agents", "'lif_ppo'", "twice"]),
    "a task under two names": (
        {"tasks": ["cartpole", "Isaac-Cartpole-v0"]},
        ["tasks", "'Isaac-Cartpole'", "twice"],
    ),
    "a seed twice": ({"seeds": "0-3,2"}, ["seeds", "2", "twice"]),
    "the random agent": ({"agents": ["random", "lif_ppo"]}, ["random", "need not be named"]),
    "unknown key": ({"agent": ["lif_ppo"]}, ["agent", "mean 'agents'"]),
    "a budget that is none": ({"budget": {"stpes": 3}}, ["budget", "'stpes'"]),
    "episodes": ({"episodes": 0}, ["episodes", "0", "at least 1"]),
    "a varied key that there is not": ({"vary": {"agent.algorithm.gama": [0.9]}}, ["gama", "mean 'gamma'"]),
    "a varied environment": ({"vary": {"env.decimation": [1, 2]}}, ["env.decimation", "agent.key"]),
    "a value twice": ({"vary": {"agent.algorithm.gamma": [0.9, 0.9]}}, ["agent.algorithm.gamma", "twice"]),
    "an unknown library": ({"library": "rslrl"}, ["'rslrl'", "mean 'rsl_rl'"]),
    "agents that are a number": ({"agents": 3}, ["agents", "3"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_study_that_is_no_comparison_is_refused(case):
    given, words = REFUSED[case]
    with pytest.raises(UserError) as error:
        build(**given)
    for word in words:
        assert word in str(error.value)


def test_a_file_is_read_and_its_errors_name_it(tmp_path):
    path = tmp_path / "memory" / "study.yaml"
    path.parent.mkdir()
    path.write_text("question: Who remembers?\nagents: [lif_ppo]\ntasks: cartpole\nbudget: env_steps=1e5\n")
    read = study.read(path)
    assert (read.name, read.question, read.seeds) == ("memory", "Who remembers?", (0, 1, 2, 3, 4))
    assert read.budget == Budget("env_steps", 1e5)
    path.write_text("agents: [lif_ppo]\ntaks: cartpole\n")
    with pytest.raises(StudyError, match="study.yaml: taks: no such key of a study; did you mean 'tasks'"):
        study.read(path)


def test_a_folders_study_grows_by_agents_tasks_and_seeds():
    held = build(question="Who wins?").data()
    grown = study.extended(held, build(agents=["mlp_ppo", "gru_ppo"], seeds="2-4"))
    assert grown.agents == ("lif_ppo", "mlp_ppo", "gru_ppo")
    assert grown.seeds == (0, 1, 2, 3, 4)
    assert grown.question == "Who wins?"


@pytest.mark.parametrize(
    "other", [{"budget": "wall=9"}, {"episodes": 3}, {"num_envs": 8}, {"question": "Another?"}, {"overrides": ["env.a=1"]},
              {"vary": {"agent.algorithm.gamma": [0.9]}}, {"conditions": "nominal"}],
)  # fmt: skip
def test_a_folder_of_another_study_is_refused(other):
    held = build(question="Who wins?").data()
    with pytest.raises(StudyError, match="the folder holds a study") as error:
        study.extended(held, build(**other))
    assert "--out" in str(error.value)
