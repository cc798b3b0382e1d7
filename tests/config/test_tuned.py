"""Tuned values stand over an agent's own file and under the command line, and a study that names some says so or is refused."""

import copy

import shutil
import pytest
import yaml

from spiky_rl.config import spec
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import SpecError
from spiky_rl.config.tuned import read_tuned
from spiky_rl.experiments.analysis.outcome import analyse
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.terms import terms
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
    layer = read_tuned(file).layer(CARTPOLE, "lif_ppo")
    line = ["agent.network.neuron.tau=5.0"]
    found = spec.resolve_agent(
        "lif_ppo", CARTPOLE, copy.deepcopy(HOST), line, spec.load_task("cartpole"), layer
    )
    rows = {path: (value, origin) for path, value, origin in found.rows()}
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
        ({"agents": []}, ["version", "no file of tune.py"]),
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
        ({"tuning": "."}, ["holds no finished tuning"]),
        ({"agents": ["mlp_ppo"]}, ["mlp_ppo on Isaac-Cartpole", "lif_ppo"]),
        ({"tasks": ["Isaac-Ant-v0"]}, ["Isaac-Ant", CARTPOLE]),
        ({"seeds": "89999-90001"}, ["90000", "other seeds"]),
    ],
)
def test_a_study_whose_tuning_is_not_there_or_not_its_own_is_refused(
    file, tmp_path, monkeypatch, more, words
):
    monkeypatch.chdir(tmp_path.parent)
    study.build("mine", {**GIVEN, "tuning": str(file)})
    with pytest.raises(UserError) as error:
        study.build("mine", {**GIVEN, "tuning": str(file), **more})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_study_with_a_tuning_does_not_go_on_without_it(file):
    with_it = study.build("mine", {**GIVEN, "tuning": str(file)})
    for old, new in ((with_it, study.build("mine", GIVEN)), (study.build("mine", GIVEN), with_it)):
        with pytest.raises(StudyError, match="tuning"):
            study.extended(old, new)


def test_the_report_says_which_tuning_the_agents_have(file, tmp_path):
    folder = results.write_study(
        tmp_path / "study", ["mlp_ppo"], [results.CARTPOLE], [0], conditions=["nominal"]
    )
    assert "Tuning" not in dict(terms(analyse(folder)))
    held = cells.read_json(folder / "study.json")
    results.dump(folder / "study.json", {**held, "tuning": str(file)})
    assert f"values of {file}; their copy, tuned.yaml, is not there" in dict(terms(analyse(folder)))["Tuning"]
    shutil.copy(file, folder / "tuned.yaml")
    assert f"values of {file}, of which tuned.yaml is a copy" in dict(terms(analyse(folder)))["Tuning"]
