"""Tuned values stand over an agent's own file and under the command line, and a study that names some says so or is refused."""

import copy
import shutil

import pytest
import yaml

from spiky_rl.config import spec
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import SpecError
from spiky_rl.config.tuned_values import find_shortfall, read_tuned
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.design.tunings import find_copy, find_tuning
from spiky_rl.experiments.report.design import list_terms
from spiky_rl.experiments.report.threats import find_small_tunings, find_unequal_tunings
from spiky_rl.experiments.run import cells
from tests.experiments import results
from tests.test_spec import HOST

CARTPOLE = "Isaac-Cartpole"
LAYER = {"algorithm": {"learning_rate": 0.007}, "network": {"layers": [16], "neuron": {"tau": 3.0}}}
HELD = {
    "version": 1,
    "tuning": "pilot",
    "trials": 4,
    "seeds": [90000],
    "budget": "few",
    "tasks": {CARTPOLE: {"lif_ppo": {"trial": 3, "return": 4.5, "agent": LAYER}}},
}
GIVEN = {"agents": ["lif_ppo"], "tasks": ["cartpole"], "seeds": "0-2"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump(HELD))
    return path


def test_tuned_values_stand_over_the_agents_own_for_the_task_and_under_the_command_line(file):
    layer = read_tuned(file).get_layer(CARTPOLE, "lif_ppo")
    line = ["agent.network.neuron.tau=5.0"]
    found = spec.resolve_agent(
        "lif_ppo", CARTPOLE, copy.deepcopy(HOST), line, spec.load_task("cartpole"), layer
    )
    rows = {path: (value, origin) for path, value, origin in found.list_values()}
    assert rows["algorithm.learning_rate"] == (0.007, f"tuned.yaml for {CARTPOLE}")
    assert rows["network.layers"] == (
        [16],
        f"tuned.yaml for {CARTPOLE}",
    ), "the agent's own for Cartpole is [128, 128]"
    assert rows["network.neuron.tau"] == (5.0, "command line")


def test_a_wrong_value_is_named_with_its_file():
    wrong = ("tuned.yaml for X", {"algorithm": {"learnin_rate": 0.1}})
    with pytest.raises(
        SpecError, match="tuned.yaml for X: agent.algorithm.learnin_rate.*mean 'learning_rate'"
    ):
        spec.resolve_agent("lif_ppo", CARTPOLE, copy.deepcopy(HOST), [], None, wrong)


def changed(**more):
    return {**HELD, **more}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed(version=2), ["version: 2"]),
        (changed(seeds=["a"]), ["seeds", "whole numbers"]),
        (changed(tasks={CARTPOLE: {"lif_ppo": 3}}), [f"tasks.{CARTPOLE}.lif_ppo"]),
        (changed(tasks={CARTPOLE: 3}), [f"tasks.{CARTPOLE}"]),
        ({"agents": []}, ["version", "not a file of spiky tune"]),
    ],
)
def test_what_is_no_file_of_tuned_values_is_refused_by_name(tmp_path, data, words):
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        read_tuned(tmp_path)
    assert all(word in str(error.value) for word in ["tuned.yaml", *words])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tuning": "nowhere.yaml"}, ["nowhere.yaml", "No such file"]),
        ({"tuning": "."}, ["not the folder of a finished tuning"]),
        ({"agents": ["mlp_ppo"]}, ["mlp_ppo on Isaac-Cartpole", "lif_ppo"]),
        ({"tasks": ["Isaac-Ant-v0"]}, ["Isaac-Ant", CARTPOLE]),
        ({"seeds": "89999-90001"}, ["90000", "other seeds"]),
    ],
)
def test_a_study_whose_tuning_is_not_there_or_not_its_own_is_refused(
    file, tmp_path, monkeypatch, more, words
):
    monkeypatch.chdir(tmp_path.parent)
    study.build_study("mine", {**GIVEN, "tuning": str(file)})
    with pytest.raises(UserError) as error:
        study.build_study("mine", {**GIVEN, "tuning": str(file), **more})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_study_with_a_tuning_does_not_go_on_without_it(file):
    with_it = study.build_study("mine", {**GIVEN, "tuning": str(file)})
    for old, new in (
        (with_it, study.build_study("mine", GIVEN)),
        (study.build_study("mine", GIVEN), with_it),
    ):
        with pytest.raises(StudyError, match="tuning"):
            study.merge_studies(old, new)


OWN = {**GIVEN, "agents": ["lif_ppo", "gru_ppo", "mlp_ppo"]}


@pytest.fixture
def tunings(tmp_path):
    """Tunings of two agents, each in a folder of its own."""
    for agent, seeds in (("lif_ppo", [90001, 90002]), ("gru_ppo", [90003])):
        (tmp_path / agent).mkdir()
        tasks = {CARTPOLE: {agent: {"trial": 3, "agent": {"algorithm": {"gamma": 0.97}}}}}
        (tmp_path / agent / "tuned.yaml").write_text(yaml.safe_dump(changed(seeds=seeds, tasks=tasks)))
    return {agent: str(tmp_path / agent) for agent in ("lif_ppo", "gru_ppo")}


def test_agents_of_a_study_may_have_tunings_of_their_own_or_none(tunings):
    built = study.build_study("mine", {**OWN, "tuning": tunings})
    assert built.to_dict()["tuning"] == tunings
    assert [find_tuning(built.tuning, a) for a in built.agents] == [*tunings.values(), ""]
    assert [find_copy(built.tuning, a) for a in built.agents] == [
        "tuned/lif_ppo/tuned.yaml",
        "tuned/gru_ppo/tuned.yaml",
        "",
    ]
    for text in ("", tunings["lif_ppo"]):
        one = study.build_study("mine", {**GIVEN, "tuning": text})
        assert find_copy(one.tuning, "lif_ppo") == ("tuned.yaml" if text else "")
        assert one.to_dict().get("tuning", "") == text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tuning": {"lif_pop": "x"}}, ["tuning.lif_pop", "lif_ppo"]),
        ({"tuning": {"lif_ppo": None}}, ["tuning", "allowed: a folder"]),
        ({"tuning": ["lif_ppo"]}, ["tuning", "allowed: a folder"]),
        ({"tuning": {"lif_ppo": "nowhere.yaml"}}, ["tuning", "nowhere.yaml", "No such file"]),
        ({"agents": ["lif_ppo", "gru_ppo"], "tasks": ["Isaac-Ant-v0"]}, ["Isaac-Ant", CARTPOLE]),
        ({"seeds": "90003"}, ["90003", "gru_ppo", "other seeds"]),
    ],
)
def test_a_study_whose_agents_tunings_are_none_is_refused(tunings, more, words):
    with pytest.raises(UserError) as error:
        study.build_study("mine", {**OWN, "tuning": tunings, **more})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_study_grows_by_agents_with_tunings_of_their_own_and_no_agent_changes_its_own(tunings):
    lif, gru = ({agent: tunings[agent]} for agent in tunings)
    old = study.build_study("mine", {**OWN, "agents": ["lif_ppo", "mlp_ppo"], "tuning": lif})
    more = study.build_study("mine", {**OWN, "agents": ["gru_ppo"], "baseline": "", "tuning": gru})
    grown = study.merge_studies(old, more)
    assert grown.tuning == tunings and grown.agent_names == ["lif_ppo", "mlp_ppo", "gru_ppo"]
    for other in ({"agents": ["lif_ppo"]}, {"agents": ["lif_ppo"], "tuning": tunings["lif_ppo"]}):
        with pytest.raises(StudyError, match="tuning"):
            study.merge_studies(old, study.build_study("mine", {**OWN, **other}))


def test_the_report_says_of_agents_with_tunings_of_their_own_who_was_tuned_and_who_was_not(tunings, tmp_path):
    folder = results.write_study(
        tmp_path / "study", list(OWN["agents"]), [results.CARTPOLE], [0], conditions=["nominal"]
    )
    held = cells.read_json(folder / "study.json")
    results.dump(folder / "study.json", {**held, "tuning": tunings})
    for agent, source in tunings.items():
        shutil.copytree(source, folder / "tuned" / agent)
    analysis = analyze_study(folder)
    said = dict(list_terms(analysis))["Tuning"]
    for told in (
        f"values of {tunings['lif_ppo']} for lif_ppo (copy: tuned/lif_ppo/tuned.yaml), from 4 trials",
        f"on {CARTPOLE} tuned: gru_ppo (trial 3)",
        "not tuned: mlp_ppo",
    ):
        assert told in said, said
    unequal = "; ".join(f"{source}: {agent}" for agent, source in tunings.items())
    assert find_unequal_tunings(analysis) == f"{unequal}; none: mlp_ppo"
    lif, gru = find_small_tunings(analysis).split("; ")
    assert lif.endswith("4 trials of 2 seeds, fewer than 30 of 2") and gru.endswith(
        "of 1 seed, fewer than 30 of 2"
    )


@pytest.mark.parametrize(
    ("trials", "seeds", "is_short"), [(30, 2, False), (29, 2, True), (30, 1, True), (99, 9, False)]
)
def test_a_tuning_of_few_trials_or_seeds_falls_short(trials, seeds, is_short):
    assert bool(find_shortfall(trials, seeds)) == is_short


def test_the_report_says_which_tuning_the_agents_have(file, tmp_path):
    folder = results.write_study(
        tmp_path / "study", ["mlp_ppo"], [results.CARTPOLE], [0], conditions=["nominal"]
    )
    assert not dict(list_terms(analyze_study(folder)))["Tuning"]
    held = cells.read_json(folder / "study.json")
    results.dump(folder / "study.json", {**held, "tuning": str(file)})
    assert (
        f"values of {file}; the copy tuned.yaml, which has the details, is missing"
        in dict(list_terms(analyze_study(folder)))["Tuning"]
    )
    shutil.copy(file, folder / "tuned.yaml")
    assert f"values of {file} (copy: tuned.yaml)" in dict(list_terms(analyze_study(folder)))["Tuning"]
