"""Trained policies: shipped files are whole, commands take them by name, and a run becomes one."""

import json
import re
import shutil
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spiky_rl.cli.evaluate import evaluate
from spiky_rl.cli.play import play
from spiky_rl.cli.publish import find_evaluation, find_last_checkpoint, publish
from spiky_rl.cli.show import show
from spiky_rl.cli.train import train
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.safe_loading import ReadingError
from spiky_rl.config.spec import load_task
from spiky_rl.learners.common.checkpoints import (
    get_identity,
    get_random_state,
    read_checkpoint,
    write_checkpoint,
)
from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.run import policies
from spiky_rl.run.publish import publish_policy
from spiky_rl.run.run_plan import RunRequest

NAMES = registry.list_names(policies.KIND)


def ask(**given) -> RunRequest:
    return RunRequest.check("", {"task": "CartPole-v1", "checkpoint": policies.PRETRAINED, **given})


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of policies with copies of the shipped ones."""
    folder = tmp_path / "policies"
    shutil.copytree(registry.find_data_folder(policies.KIND), folder)
    shipped = registry.find_data_folder
    monkeypatch.setattr(
        registry, "find_data_folder", lambda kind: folder if kind == policies.KIND else shipped(kind)
    )
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_is_whole_and_of_its_manifest(name, tmp_path):
    policy = policies.read_policy(name)
    loaded = read_checkpoint(str(policies.copy_weights(policy, tmp_path)), library=policy.library)
    identity = get_identity(loaded)
    assert (identity["task"], identity["agent"], identity["seed"]) == (policy.task, policy.agent, policy.seed)
    assert policies.merge_spec(policy, []).to_dict() == policy.spec == identity["spec"]
    assert not any("optimizer" in key for key in loaded), "weights alone"
    assert policy.score.low <= policy.score.mean_return <= policy.score.high
    known = load_task(policy.task)
    assert known is None or known.label == policy.task
    assert len(policy.commit) == 40 and policy.licence == "BSD-3-Clause"


def test_all_policies_together_are_below_twenty_megabytes():
    assert (
        sum(path.stat().st_size for path in registry.find_data_folder(policies.KIND).iterdir()) < 20_000_000
    )
    assert {path.stem for path in registry.find_data_folder(policies.KIND).iterdir()} == set(NAMES)


def test_a_request_takes_agent_and_environment_of_the_policy_and_the_users_changes(own, tmp_path):
    path = own / "CartPole-v1.lif_ppo.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "overrides": ["env.x=1", "env.y=2"]}))
    overrides = ("env.y=3", "agent.algorithm.learning_rate=1e-4")
    request = policies.resolve_pretrained(ask(log_root=tmp_path, overrides=overrides, max_iterations=7))
    assert request.overrides == ("env.x=1", *overrides)
    assert request.spec.runner["algorithm"]["learning_rate"] == 1e-4
    assert request.spec.runner["max_iterations"] == 7
    assert request.checkpoint == str(tmp_path / "pretrained" / path.stem / f"{path.stem}.pt")
    other = ask(checkpoint="latest")
    assert policies.resolve_pretrained(other) is other


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"agent": "hodgkin_huxley_ppo"}, ["--agent hodgkin_huxley_ppo", "lif_ppo"]),
        ({"task": "Acrobot-v1"}, ["--task Acrobot-v1", "CartPole-v1"]),
        ({"library": "skrl"}, ["--rl_library skrl", "rsl_rl"]),
        ({"tuning": Path("x.json")}, ["--tuning x.json"]),
    ],
)
def test_a_missing_policy_is_answered_with_what_there_is(given, words, tmp_path):
    with pytest.raises(UserError) as error:
        policies.resolve_pretrained(ask(log_root=tmp_path, **given))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["CartPole", "gymnasium.envs:CartPole", "gymnasium.envs:CartPole-v1"])
def test_a_task_without_its_version_or_with_its_module_has_the_same_policy(task):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    assert policies.find_policy(task, "lif_ppo", "--checkpoint pretrained").name == "CartPole-v1.lif_ppo"
    with pytest.raises(UserError, match="no trained policy"):
        policies.find_policy("CartPole-v0", "lif_ppo", "--checkpoint pretrained")


def test_the_evaluation_of_a_cell_is_found_from_its_run_folder_and_checkpoint(tmp_path):
    cell = tmp_path / "toy" / "cells" / "a_cell"
    (run := cell / "run" / "rsl_rl" / "cartpole" / "first").mkdir(parents=True)
    for file in (cell / "cell.json", cell / "evaluation.json", checkpoint := run / "model_3.pt"):
        file.touch()
    for given in (cell, run, checkpoint):
        assert find_evaluation(Namespace(run=given), checkpoint) == cell / "evaluation.json"


def test_a_changed_file_and_foreign_code_are_refused(own, tmp_path):
    weights, path = own / "CartPole-v1.lif_ppo.pt", own / "CartPole-v1.lif_ppo.yaml"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(UserError, match="sha256"):
        policies.resolve_pretrained(ask(log_root=tmp_path / "logs"))
    manifest = yaml.safe_load(path.read_text())
    manifest["spec"]["network"]["neuron"] = {"name": "evil.py:Neuron"}
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ReadingError, match=r"evil\.py:Neuron"):
        policies.read_policy(path.stem)


def test_show_lists_the_policies_and_describes_one(capsys):
    assert show(["policies"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in NAMES)
    assert show(["policies", "CartPole-v1.lif_ppo"]) == 0
    assert "sha256" in capsys.readouterr().out


def assert_other_results_leave_the_policy_as_it_is(run, own):
    """A result that cannot be published is refused before anything of an earlier policy is written."""
    good = json.loads((run / "evaluation.json").read_text())
    (earlier := own / "CartPole-v1.mlp_ppo.pt").write_bytes(b"earlier weights")
    others = {
        "quantize: int8": {**good, "quantize": "int8"},
        "checkpoint: logs/another_run": {
            **good,
            "checkpoint": f"logs/another_run/{Path(good['checkpoint']).name}",
        },
        "conditions: missing": {
            key: good[key] for key in ("task", "agent", "library", "assets")
        },  # a training's
        "seed: missing": {key: value for key, value in good.items() if key != "seed"},
        "5 given; allowed: a mapping": 5,
        "--episodes: 1": {**good, "episodes": 1},
        "assets: another source": {**good, "assets": "another source"},
    }
    for words, result in others.items():
        (other := run / "other.json").write_text(json.dumps(result))
        with pytest.raises(UserError, match=words):
            publish([str(run), "--evaluation", str(other)])
        assert earlier.read_bytes() == b"earlier weights"


@pytest.fixture
def run(own, tmp_path):
    """The folder of a run with the weights of a shipped policy, and its evaluation; of a task whose name has a slash."""
    loaded = torch.load(own / "CartPole-v1.lif_ppo.pt", weights_only=True)
    state = loaded["infos"]["spiky_rl"]
    state["identity"] |= {"task": "Scripted/Choices-v0", "assets": "none"}
    state["progress"] = vars(TrainingProgress(iterations=1, env_steps=100))
    state["random"] = get_random_state("cpu")
    del state["weights_only"]
    (folder := tmp_path / "run").mkdir()
    write_checkpoint(folder / "model_0.pt", {**loaded, "optimizer_state_dict": {}})
    write_record(folder, "params/provenance.json", {"kernels": "k", "commit": "0" * 40})
    write_record(folder, "settings.json", {"overrides": []})
    results = {"conditions": {"nominal": {"mean_return": 5.0, "std_return": 1.0}}, "episodes": 4, "seed": 42}
    described = {"task": "Scripted/Choices-v0", "agent": "lif_ppo", "library": "rsl_rl", "assets": "none"}
    checkpoint = str(folder / "model_0.pt")
    write_record(folder, "evaluation.json", {**described, **results, "checkpoint": checkpoint})
    return folder


def write_record(folder, name, values):
    """Write ``values`` into a JSON file of a run, over those that it has."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


def test_a_task_whose_name_has_a_slash_has_a_policy_that_is_found(run, own):
    policy, path = publish_policy(run / "model_0.pt", run / "evaluation.json", None)
    assert path == own / "Scripted_Choices-v0.lif_ppo.yaml" and policy.weights.is_file()
    assert policies.find_policy("Scripted/Choices-v0", "lif_ppo", "--checkpoint pretrained") == policy


def test_a_policy_is_overwritten_only_on_request(run):
    files = run / "model_0.pt", run / "evaluation.json", None
    first, path = publish_policy(*files)
    write_record(run, "evaluation.json", {"conditions": {"nominal": {"mean_return": 3.0, "std_return": 1.0}}})
    with pytest.raises(UserError, match=r"return 5\.0 \[.*; the new policy has return 3\.0 \[.*--replace"):
        publish_policy(*files)
    assert policies.read_manifest(path) == first
    assert publish_policy(*files, replace=True)[0].score.mean_return == 3.0


def test_a_fine_tuned_policy_names_its_trainings_and_counts_their_steps(run, own):
    shipped = own / "CartPole-v1.lif_ppo.yaml"
    write_record(run, "params/provenance.json", {"commit": "1" * 40})
    shutil.copyfile(shipped, run / policies.POLICY_FILE)
    began = policies.read_manifest(shipped)
    policy, _ = publish_policy(run / "model_0.pt", run / "evaluation.json", None)
    assert policy.env_steps == began.env_steps + 100 and policy.commit == f"{began.commit}, {'1' * 40}"
    assert policy.trainings.endswith(f", after a single training, seed {began.seed}")
    assert policy.summary.endswith(f"{policy.trainings}.")


SUTTON, WIND = "env.sutton_barto_reward=true", "env.wind=1"


@pytest.mark.parametrize(
    ("trained", "evaluated", "study"),
    [
        ([SUTTON, "agent.algorithm.gamma=0.9"], [SUTTON], None),
        ([SUTTON, WIND], [WIND, SUTTON], None),
        (["env.wind=0", WIND], [WIND], None),
        ([], None, None),
        ([], ["agent.algorithm.gamma=0.9"], None),
        ([SUTTON], None, "a study, whose cells are evaluated with their overrides"),
        ([SUTTON], [SUTTON], "a study"),
    ],
)
def test_a_score_from_the_environment_of_the_training_is_published(trained, evaluated, study, run):
    write_record(run, "settings.json", {"overrides": trained})
    if evaluated is not None:
        write_record(run, "evaluation.json", {"overrides": evaluated})
    policy, _ = publish_policy(run / "model_0.pt", run / "evaluation.json", study)
    assert policy.overrides == tuple(text for text in trained if text.startswith("env."))


@pytest.mark.parametrize(
    ("trained", "evaluated", "words"),
    [
        ([SUTTON], [], f"none recorded; allowed: {SUTTON}, as in the training"),
        ([SUTTON], None, f"none recorded; allowed: {SUTTON}, as in the training"),
        ([], [WIND], f"{WIND} recorded; allowed: none, as in the training"),
        ([WIND], ["env.wind=2"], f"env.wind=2 recorded; allowed: {WIND}, as in the training"),
        (["physics=mujoco"], [], "none recorded; allowed: physics=mujoco, as in the training"),
    ],
)
def test_a_score_from_another_environment_is_refused(trained, evaluated, words, run, own):
    write_record(run, "settings.json", {"overrides": trained})
    if evaluated is not None:
        write_record(run, "evaluation.json", {"overrides": evaluated})
    with pytest.raises(UserError, match=f"overrides of the environment: {re.escape(words)}"):
        publish_policy(run / "model_0.pt", run / "evaluation.json", None)
    assert not list(own.glob("Scripted*"))


def assert_entries_are_in_the_guide(files):
    guide = (registry.PACKAGE.parent / "docs" / "runs.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(\w+)`", guide))
    for file in files:
        result = json.loads(file.read_text())
        records = [result, *(result.get(key) or {} for key in ("provenance", "curve", "cost"))]
        records += [*result.get("rows", ()), *result.get("conditions", {}).values()]
        found = {key for record in records for key in record}
        assert found and found <= names, (file.name, found - names)


def test_files_without_the_number_of_an_iteration_are_no_runs_to_publish(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model_final.pt").touch()
    with pytest.raises(UserError, match="has no checkpoint"):
        find_last_checkpoint(tmp_path)
    (tmp_path / "model_3.pt").touch()
    assert find_last_checkpoint(tmp_path) == tmp_path / "model_3.pt"


def test_a_run_becomes_a_policy_that_is_played_and_trained_further(own, tmp_path, capsys, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr("spiky_rl.run.provenance.find_commit", lambda: "0" * 40)
    monkeypatch.setattr("spiky_rl.run.publish.DIRTY", "-changed")  # the checkout of a developer
    where = ["--task", "CartPole-v1", "--device", "cpu", "--log_root", str(tmp_path / "logs")]
    small = ["--num_envs", "4", "--max_iterations", "1", "--no-choose_best"]
    assert train([*where, "--agent", "mlp_ppo", "--seed", "5", *small]) == 0
    (run,) = (tmp_path / "logs").glob("rsl_rl/*/*")
    with pytest.raises(UserError, match="--evaluation"):
        publish([str(run)])
    assert evaluate([*where, "--agent", "mlp_ppo", "--conditions", "nominal", "--episodes", "4"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["overrides"] == []
    assert_other_results_leave_the_policy_as_it_is(run, own)
    (cell := tmp_path / "toy" / "cells" / "a_cell").mkdir(parents=True)
    (cell / "cell.json").touch()
    shutil.copytree(run, cell_run := cell / "run" / Path(*run.parts[-2:]))
    assert publish([str(run)]) == 0
    assert policies.read_policy("CartPole-v1.mlp_ppo").study is None
    assert publish([str(cell_run), "--replace"]) == 0
    policy = policies.read_policy("CartPole-v1.mlp_ppo")
    assert (policy.seed, policy.study, policy.env_steps) == (5, "toy", 256)
    measured = json.loads((run / "evaluation.json").read_text())["conditions"]["nominal"]
    assert policy.score.mean_return == pytest.approx(measured["mean_return"], abs=1e-3)

    pretrained = [*where, "--agent", "mlp_ppo", "--checkpoint", "pretrained"]
    assert play([*pretrained, "--episodes", "1"]) == 0
    playback = tmp_path / "logs" / "pretrained" / policy.name / "playback.json"
    assert_entries_are_in_the_guide([run / "result.json", run / "evaluation.json", playback])
    assert train([*pretrained, *small, "--run_name", "further", "agent.algorithm.learning_rate=1e-12"]) == 0
    (further,) = (tmp_path / "logs").glob("rsl_rl/*/*_further")
    before, after = (torch.load(path, weights_only=True) for path in (policy.weights, further / "model_0.pt"))
    weights = {key: value for key, value in before["actor_state_dict"].items() if "weight" in key}
    assert weights and all(
        torch.allclose(value, after["actor_state_dict"][key], atol=1e-6) for key, value in weights.items()
    ), "training goes on from the policy's weights"
    assert json.loads((further / "result.json").read_text())["env_steps"] == 256
    assert (further / policies.POLICY_FILE).read_bytes() == (own / f"{policy.name}.yaml").read_bytes()
    with pytest.raises(UserError, match="run: .* 2 runs; allowed: one of them"):
        publish([str(tmp_path / "logs")])


def test_a_training_from_a_tuned_policy_resumes_with_the_policys_agent(own, tmp_path, capsys):
    pytest.importorskip("gymnasium")
    path = own / "CartPole-v1.lif_ppo.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["spec"]["algorithm"]["learning_rate"] = 0.00031
    manifest["spec"]["algorithm"]["entropy_coef"] = 0.0021
    path.write_text(yaml.safe_dump(manifest))
    where = ["--task", "CartPole-v1", "--device", "cpu", "--log_root", str(tmp_path)]
    changed = ["agent.algorithm.gamma=0.97", "agent.algorithm.num_learning_epochs=1"]
    small = ["--num_envs", "16", "--no-choose_best", *changed]
    assert train([*where, "--checkpoint", "pretrained", "--max_iterations", "1", *small]) == 0
    tuned = ["agent.algorithm.entropy_coef=0.0021", "agent.algorithm.learning_rate=0.00031"]
    (run,) = tmp_path.glob("rsl_rl/*/*")
    recorded = json.loads((run / "settings.json").read_text())["overrides"]
    assert sorted(recorded) == sorted([*tuned, *changed])
    out = capsys.readouterr().out
    assert "over the last iteration," in out
    line = out.partition("play with")[2].partition("\n")[0]
    assert all(text in line for text in tuned)
    assert train([*where, "--checkpoint", str(run), "--max_iterations", "1"]) == 0
    resumed = max(tmp_path.glob("rsl_rl/*/*"))
    values = get_identity(read_checkpoint(str(resumed / "model_1.pt")))["spec"]["algorithm"]
    assert (values["entropy_coef"], values["learning_rate"], values["gamma"]) == (0.0021, 0.00031, 0.97)
    assert (resumed / policies.POLICY_FILE).read_bytes() == path.read_bytes()


SKRL = {
    "ppo": ["agent.actor.obs_normalization=true", "agent.critic.obs_normalization=false"],
    "td3": ["agent.actor.obs_normalization=true"],
}
SKRL["ppo"] += [f"agent.algorithm.{key}_normalization=true" for key in ("value", "reward")]


@pytest.mark.parametrize("algorithm", SKRL)
def test_a_policy_of_skrl_keeps_what_normalises_its_inputs(algorithm, own, tmp_path):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    from tests.hosts import skrl_case, test_replay

    identity = {"task": "Point", "agent": f"mlp_{algorithm}", "seed": 5}
    make: Any = skrl_case.runner if algorithm == "ppo" else partial(test_replay.runner, "mlp_td3")
    widths = ["agent.actor.hidden_dims=[8]", "agent.critic.hidden_dims=[8]"]
    run = make(*widths, *SKRL[algorithm], folder=tmp_path, identity=identity)
    run.identity["spec"] = {"algorithm": {"class_name": algorithm.upper()}}
    run.learn(2)
    score = {"nominal": {"mean_return": 1.0, "std_return": 0.5}}
    measured = {**identity, "library": "skrl", "checkpoint": "model_1.pt", "conditions": score, "episodes": 4}
    records = {
        "evaluation": measured,
        "settings": {"overrides": []},
        "params/provenance": {"commit": "0" * 40},
    }
    (tmp_path / "params").mkdir()
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    files = tmp_path / "model_1.pt", tmp_path / "evaluation.json"
    policy, _ = publish_policy(*files, None, "skrl")
    (tmp_path / "params" / "provenance.json").write_text(
        json.dumps({"commit": f"{'1' * 40}-dirty, {'0' * 40}"})
    )
    with pytest.raises(UserError, match="commit: 1+-dirty, 0+ given"):
        publish_policy(*files, None, "skrl")
    fresh = make(*widths, *SKRL[algorithm], seed=9)
    fresh.load(str(own / f"{policy.name}.pt"), {"actor": True, "critic": True})
    held, trained = fresh.alg.checkpoint_modules, run.alg.checkpoint_modules
    names = [name for name in trained if not name.endswith("optimizer")]
    assert "observation_preprocessor" in names
    for name in names:
        before, after = trained[name].state_dict(), held[name].state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items()), name
