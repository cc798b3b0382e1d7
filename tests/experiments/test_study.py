"""A study names its comparison; an invalid one is refused before anything runs, by key and value."""

from pathlib import Path

import pytest

from spiky_rl.config.budget import Budget
from spiky_rl.config.registry import UserError
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.design.tunings import find_copy, find_tuning
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest

AGENT = str(Path(__file__).parents[2] / "agents" / "lif_ppo.yaml")
GIVEN = {"agents": ["lif_ppo", "mlp_ppo"], "tasks": ["cartpole"], "seeds": "0-2"}


def build(**more):
    return study.build_study("mine", {**GIVEN, **more})


def test_versions_of_a_gymnasium_task_are_tasks_of_their_own_and_isaac_labs_ids_have_none():
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    tasks = ["HalfCheetah-v4", "HalfCheetah-v5", "Isaac-Reach-Franka-v0", "cartpole"]
    labels = study.label_tasks(build(tasks=tasks))
    assert labels == ["HalfCheetah-v4", "HalfCheetah-v5", "Isaac-Reach-Franka", "Isaac-Cartpole"]


def test_a_task_without_its_version_or_with_the_module_that_registers_it_has_the_label_of_its_cells():
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    tasks = ["Hopper", "gymnasium:Pendulum-v1", "nowhere:Mine-v0"]
    assert study.label_tasks(build(tasks=tasks)) == ["Hopper-v5", "Pendulum-v1", "Mine-v0"]
    for task in tasks[:2]:
        request = RunRequest(task=task, agent="mlp_ppo", device="cpu")
        assert study.label_tasks(build(tasks=[task])) == [make_plan(request).task]


def test_seeds_are_ranges_lists_or_both():
    assert study.parse_seeds("0-3") == (0, 1, 2, 3)
    assert study.parse_seeds("7") == study.parse_seeds(7) == (7,)
    assert study.parse_seeds("0-1,5, 9-10") == (0, 1, 5, 9, 10)
    assert study.parse_seeds([3, "5-6"]) == (3, 5, 6)


@pytest.mark.parametrize("given", ["a-b", "3-1", "-1", "0-", "", "1.5", "0-99999", "0--3", []])
def test_a_seed_range_that_is_none_is_refused(given):
    with pytest.raises(StudyError):
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
    assert len(made.list_variants("lif_ppo")) == 4
    assert {"agent.network.steps": 2, "agent.algorithm.gamma": 0.99} in made.list_variants("lif_ppo")
    assert made.list_variants("mlp_ppo") == [{"agent.algorithm.gamma": 0.9}, {"agent.algorithm.gamma": 0.99}]
    assert build().list_variants("mlp_ppo") == [{}]


REFUSED = {
    "unknown agent": ({"agents": ["lif_ppo", "lif_poo"]}, ["'lif_poo'", "mean 'lif_ppo'"]),
    "no agents": ({"agents": []}, ["agents", "at least one"]),
    "no tasks": ({"tasks": []}, ["tasks", "at least one"]),
    "no seeds": ({"seeds": []}, ["seeds", "at least one"]),
    "an agent twice": ({"agents": ["lif_ppo", "lif_ppo"]}, ["agents", "'lif_ppo'", "twice"]),
    "a task under two names": (
        {"tasks": ["cartpole", "Isaac-Cartpole-v0"]},
        ["tasks", "'Isaac-Cartpole'", "twice"],
    ),
    "a seed twice": ({"seeds": "0-3,2"}, ["seeds", "2", "twice"]),
    "the random agent": ({"agents": ["random", "lif_ppo"]}, ["random", "anyway"]),
    "unknown key": ({"agent": ["lif_ppo"]}, ["agent", "mean 'agents'"]),
    "a budget that is none": ({"budget": {"stpes": 3}}, ["budget", "'stpes'"]),
    "episodes": ({"episodes": 0}, ["episodes", "0", "between 1 and"]),
    "a varied key that there is not": ({"vary": {"agent.algorithm.gama": [0.9]}}, ["gama", "mean 'gamma'"]),
    "a varied environment": ({"vary": {"env.decimation": [1, 2]}}, ["env.decimation", "agent.key"]),
    "more values than are ever planned": (
        {"vary": {"agent.algorithm.gamma": [i / 3000 for i in range(3000)]}},
        ["6,000 combinations", "at most 2000"],
    ),
    "a value twice in other words": (
        {"vary": {"agent.algorithm.gamma": [{"a": [1]}, {"a": [1.0]}]}},
        ["agent.algorithm.gamma", "once"],
    ),
    "a value twice": ({"vary": {"agent.algorithm.gamma": [0.9, 0.9]}}, ["agent.algorithm.gamma", "once"]),
    "an unknown library": ({"library": "rslrl"}, ["'rslrl'", "mean 'rsl_rl'"]),
    "agents that are a number": ({"agents": 3}, ["agents", "3"]),
    "a key that is no text": ({7: ["lif_ppo"]}, ["7", "no such key", "agents"]),
    "an agent without a name": ({"agents": ["lif_ppo", ""]}, ["agents", "list of names"]),
    "an agent that is nothing": ({"agents": ["lif_ppo", None]}, ["agents", "list of names"]),
    "agents that are a mapping": ({"agents": {"lif_ppo": 1}}, ["agents", "list of names"]),
    "an agent of two folders": ({"agents": ["lif_ppo", AGENT]}, ["agents", "'lif_ppo'", "twice"]),
    "an agent's file that is not there": ({"agents": ["nowhere/own.yaml"]}, ["nowhere/own.yaml"]),
    "an agent of a long text": ({"agents": [["x" * 100_000]]}, ["agents", "xxx..."]),
    "a task's file that is not there": ({"tasks": ["nowhere/own.yaml"]}, ["nowhere/own.yaml"]),
    "a negative seed": ({"seeds": [0, -1]}, ["seeds", "-1", "from 0"]),
    "a negative range": ({"seeds": "-3-2"}, ["seeds", "'-3-2'"]),
    "a seed above 2^31": ({"seeds": [2**31]}, ["seeds", "2^31"]),
    "a seed of 5,000 digits": ({"seeds": "9" * 5000}, ["seeds", "from 0 to below 2^31", "999..."]),
    "a seed that is a fraction": ({"seeds": [0.5]}, ["seeds", "0.5"]),
    "seeds that are true": ({"seeds": True}, ["seeds", "True"]),
    "seeds that are a mapping": ({"seeds": {"a": 1}}, ["seeds", "'a'"]),
    "10^30 seeds": ({"seeds": f"0-{10**30}"}, ["seeds", "below 2^31"]),
    "too many seeds of a range": ({"seeds": "0-10000"}, ["seeds", "10,001 seeds", "10,000"]),
    "too many cells of seeds": (
        {"seeds": ",".join(f"{i}0000-{i}9999" for i in range(1, 9))},
        ["1.6e+05 cells", "100,000"],
    ),
    "10^20 cells": (
        {"vary": {f"agent.algorithm.k{i}": list(range(10)) for i in range(20)}},
        ["6e+20 cells", "100,000"],
    ),
    "10^20 cells of a teacher and its student": (
        {
            "vary": {f"agent.algorithm.k{i}": list(range(10)) for i in range(20)},
            "teachers": {"lif_ppo": "mlp_ppo"},
        },
        ["6e+20 cells", "100,000"],
    ),
    "10^30 environments": ({"num_envs": 10**30}, ["num_envs", str(10**30), "between 1 and"]),
    "no environments": ({"num_envs": -1}, ["num_envs", "-1"]),
    "10^30 episodes": ({"episodes": 10**30}, ["episodes", "between 1 and"]),
    "half an episode": ({"episodes": 0.5}, ["episodes", "0.5", "whole number"]),
    "a budget of 10^30 steps": ({"budget": "env_steps=1e30"}, ["env_steps", "at most 1e+15"]),
    "a budget of ten billion years": ({"budget": {"wall": 1e30}}, ["wall", "at most 1e+09"]),
    "an infinite budget": ({"budget": "synops=inf"}, ["synops", "inf"]),
    "a budget that is no number": ({"budget": "wall=nan"}, ["wall", "nan"]),
    "two budgets": ({"budget": {"wall": 1, "env_steps": 1}}, ["budget", "one KIND=AMOUNT"]),
    "a question that is a list": ({"question": ["Why?"]}, ["question", "expected text"]),
    "a baseline that is a list": ({"baseline": ["mlp_ppo"]}, ["baseline", "expected text"]),
    "what varies is a list": ({"vary": ["agent.algorithm.gamma"]}, ["vary", "mapping"]),
    "a varied key without values": ({"vary": {"agent.algorithm.gamma": []}}, ["agent.algorithm.gamma"]),
    "a varied key that is no text": ({"vary": {3: [1]}}, ["vary", "3"]),
    "a varied value of the wrong kind": ({"vary": {"agent.algorithm.gamma": ["high"]}}, ["gamma", "'high'"]),
    "an override that what varies replaces": (
        {"vary": {"agent.network.steps": [2, 4]}, "overrides": ["agent.network.steps=8"]},
        ["overrides: 'agent.network.steps=8'", "vary", "(2, 4)"],
    ),
    "an agent with the name of random actions": (
        {"agents": ["nowhere/random.yaml"]},
        ["'nowhere/random.yaml'"],
    ),
    "overrides that are a mapping": ({"overrides": {"a": 1}}, ["overrides", "expected a list"]),
    "a student that is no agent": ({"teachers": {"lif_distil": "mlp_ppo"}}, ["teachers", "'lif_distil'"]),
    "a teacher that is no agent": (
        {"teachers": {"lif_ppo": "mlp_pp"}},
        ["teachers", "lif_ppo", "'mlp_pp'", "mean 'mlp_ppo'"],
    ),
    "a teacher of itself": ({"teachers": {"lif_ppo": "lif_ppo"}}, ["teachers", "'lif_ppo'", "mlp_ppo"]),
    "a teacher of several values": (
        {"teachers": {"lif_ppo": "mlp_ppo"}, "vary": {"agent.algorithm.gamma": [0.9, 0.99]}},
        ["vary", "the teacher mlp_ppo"],
    ),
    "conditions that are a number": ({"conditions": 3}, ["conditions", "list of names"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_study_that_is_no_comparison_is_refused(case):
    given, words = REFUSED[case]
    with pytest.raises(UserError) as error:
        study.build_study("mine", {**GIVEN, **given})
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("given", "chosen"),
    [({}, "mlp_ppo"), ({"baseline": "lif_ppo"}, "lif_ppo"), ({"agents": ["lif_ppo", "alif_ppo"]}, "lif_ppo"),
     ({"agents": ["mlp_ppo", AGENT], "baseline": AGENT}, AGENT)],
)  # fmt: skip
def test_the_baseline_is_one_of_the_agents(given, chosen):
    assert study.choose_baseline(build(**given)).baseline == chosen


def test_a_baseline_that_is_no_agent_is_refused_by_name():
    with pytest.raises(StudyError, match="baseline: 'gru_ppo' given; allowed: lif_ppo, mlp_ppo"):
        study.choose_baseline(build(baseline="gru_ppo"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: b: c",
        "- agents",
        "agents: [lif_ppo\n",
        "agents: lif_ppo\ntasks: cartpole\nseeds: -1\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="mine.yaml") as error:
        study.read_study(path)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(UserError, match=path.name):
            study.read_study(path)


def test_a_file_is_read_and_its_errors_name_it(tmp_path):
    path = tmp_path / "memory" / "study.yaml"
    path.parent.mkdir()
    path.write_text("question: Who remembers?\nagents: [lif_ppo]\ntasks: cartpole\nbudget: env_steps=1e5\n")
    read = study.read_study(path)
    assert (read.name, read.question, read.seeds) == ("memory", "Who remembers?", (0, 1, 2, 3, 4))
    assert read.budget == Budget("env_steps", 1e5)
    path.write_text("agents: [lif_ppo]\ntaks: cartpole\n")
    with pytest.raises(StudyError, match="study.yaml: taks: no such key; did you mean 'tasks'"):
        study.read_study(path)


@pytest.mark.parametrize(
    ("flags", "key"),
    [({"agents": ["lif_poo"]}, "agents"), ({"tasks": ["no.yaml"]}, "tasks"), ({"vary": {"agent.algorithm.gama": [0.9]}}, "vary")],
)  # fmt: skip
def test_an_error_in_a_flag_beside_a_file_names_the_flag_alone(tmp_path, flags, key):
    path = tmp_path / "study.yaml"
    path.write_text("agents: [lif_ppo]\ntasks: cartpole\n")
    with pytest.raises(UserError, match=f"^{key}: "):
        study.read_study(path, flags)


def test_a_tuning_without_values_for_a_task_is_named_by_its_key(tmp_path):
    path, tuned = tmp_path / "study.yaml", tmp_path / "tuned.yaml"
    path.write_text("agents: [lif_ppo]\ntasks: cartpole\n")
    tuned.write_text("{version: 1, tuning: mine, trials: 1, seeds: [7], budget: one, tasks: {Isaac-Ant: {}}}")
    with pytest.raises(StudyError, match=f"^tuning: {tuned}: has no values for the task Isaac-Cartpole"):
        study.read_study(path, {"tuning": str(tuned)})


def test_a_study_has_the_name_of_its_folder_from_inside_too(tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text("{agents: lif_ppo, tasks: cartpole}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert study.read_study(Path("study.yaml")).name == tmp_path.name


def test_a_folders_study_grows_by_agents_tasks_and_seeds():
    held = study.choose_baseline(build(question="Who wins?"))
    grown = study.merge_studies(held, build(agents=["mlp_ppo", "gru_ppo"], seeds="2-4"))
    assert grown.agents == ("lif_ppo", "mlp_ppo", "gru_ppo")
    assert grown.seeds == (0, 1, 2, 3, 4)
    assert grown.question == "Who wins?"
    assert study.choose_baseline(study.merge_studies(held, build(agents=["gru_ppo"]))).baseline == "mlp_ppo"


def test_a_study_whose_vary_changed_its_order_has_the_same_cells():
    held = build(vary={"agent.network.steps": [2, 4], "agent.network.neuron.tau": [2.0]})
    again = build(vary={"agent.network.neuron.tau": [2.0, 3.0], "agent.network.steps": [4]})
    grown = study.merge_studies(held, again)
    assert list(grown.vary.items()) == [
        ("agent.network.steps", (2, 4)),
        ("agent.network.neuron.tau", (2.0, 3.0)),
    ]


def test_a_key_that_no_agent_of_the_study_has_does_not_vary():
    with pytest.raises(StudyError, match="vary: 'agent.network.stesp' given; allowed: keys of a section"):
        build(agents=["mlp_ppo"], vary={"agent.network.stesp": [2, 4]})


def test_an_agents_name_may_have_dots(tmp_path):
    paths = [str(tmp_path / f"lif.v{i}.yaml") for i in (2, 3)]
    for path in paths:
        Path(path).write_text(Path(AGENT).read_text(encoding="utf-8"), encoding="utf-8")
    held = study.choose_baseline(build(agents=paths))
    assert held.agent_names == ["lif.v2", "lif.v3"] and held.baseline == "lif.v2"
    assert study.choose_baseline(study.merge_studies(held, build(agents=paths))) == held
    assert find_tuning({"lif.v2": "tun"}, "lif.v2") == find_tuning({"lif.v2": "tun"}, paths[0]) == "tun"
    assert find_copy({"lif.v2": "tun"}, paths[0]) == "tuned/lif.v2/tuned.yaml"


def test_the_arms_of_a_folders_study_grow_by_agents_and_studies():
    first, other = {"study": "studies/a", "agents": ["gru_ppo"]}, {
        "study": "studies/b",
        "agents": ["alif_ppo"],
    }
    more = {"study": "studies/a", "agents": ["gru_ppo", "lif_stateful_ppo"]}
    held = build(arms=[first])
    grown = study.merge_studies(held, build(arms=[other, more]))
    study.check_study(grown)
    assert [(arm.study, arm.agents) for arm in grown.arms] == [
        ("studies/a", ("gru_ppo", "lif_stateful_ppo")),
        ("studies/b", ("alif_ppo",)),
    ]
    assert study.merge_studies(held, held).arms == held.arms


def test_a_study_without_any_tuning_is_run_again_in_either_form():
    held = build()
    assert study.merge_studies(held, build(tuning={})).tuning == "" == build(tuning=" ").tuning


@pytest.mark.parametrize(
    "other", [{"budget": "wall=9"}, {"episodes": 3}, {"num_envs": 8}, {"question": "Another?"}, {"overrides": ["env.a=1"]}, {"baseline": "lif_ppo"},
              {"vary": {"agent.algorithm.gamma": [0.9]}}, {"conditions": "nominal"}],
)  # fmt: skip
def test_a_folder_of_another_study_is_refused(other):
    held = build(question="Who wins?")
    with pytest.raises(StudyError, match="the study in the folder") as error:
        study.merge_studies(held, build(**other))
    assert "--out" in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": "foo=1"}, "budget: 'foo' is not a kind of budget; choose from env_steps, wall, synops"),
        ({"seeds": "a"}, "seeds: 'a' given; allowed: 0-9"),
        ({"vary": {"x": [1]}}, "vary: x: (1,) given; allowed: agent.key: "),
    ],
)
def test_an_error_names_its_key_once(given, said):
    with pytest.raises(StudyError) as error:
        study.build_study("s", {"agents": ["lif_ppo"], "tasks": ["ant"], **given})
    assert str(error.value).startswith(said)
