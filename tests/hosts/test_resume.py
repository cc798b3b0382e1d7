"""A resumed training goes on from the settings that its run recorded; what the command line gives wins, and is said."""

import logging
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spiky_rl.cli import common, train
from spiky_rl.cli.train import list_checkpoint_arguments
from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.run import checkpoint, resume
from spiky_rl.run import train as training
from spiky_rl.run.command import StopRequest
from spiky_rl.run.provenance import PROVENANCE, Provenance
from spiky_rl.run.run_plan import RunRequest, TrainOptions

DONE = 40
"""Iterations before the checkpoint."""
WITH = ("agent.algorithm.gamma=0.98", "env.decimation=4", "agent.max_iterations=100")


@pytest.fixture(autouse=True)
def _checkpoint(monkeypatch):
    """Checkpoints are found by their path, and hold nothing but the number of their last iteration."""
    monkeypatch.setattr(checkpoint.run_folders, "find_checkpoint", lambda name, *_, **__: Path(name))
    monkeypatch.setattr(checkpoint.checkpoints, "read_checkpoint", lambda path, library: {"iter": DONE - 1})


def planned(folder: Path, **given: object) -> SimpleNamespace:
    """The plan of a training on cartpole that goes on from the checkpoint in ``folder``."""
    asked = RunRequest.check("", {"task": "cartpole", "checkpoint": str(folder / "model_39.pt"), **given})
    known = {
        "experiment": "cartpole",
        "task": "Isaac-Cartpole",
        "agent": "lif_ppo",
        "library": asked.library,
        "identity": {},
    }
    return SimpleNamespace(request=asked, num_envs=16, seed=7, device="cpu", **known)


@pytest.fixture(name="folder")
def run_folder(tmp_path):
    """The folder of a run of 100 iterations that recorded its settings."""
    resume.write_settings(tmp_path, planned(tmp_path, overrides=WITH), TrainOptions(), 100)
    return tmp_path


def test_what_is_not_given_is_as_the_run_had_it(folder, caplog):
    asked, options = resume.restore_settings(planned(folder), TrainOptions())
    assert (asked.num_envs, asked.seed, asked.device, asked.max_iterations) == (16, 7, "cpu", 60)
    assert asked.overrides == WITH[:2] and options.budget is None and options.processes is None
    assert "the command line overrides" not in caplog.text


GIVEN = {
    "environments": ({"num_envs": 8}, {"num_envs": 8}, "--num_envs 8, not 16"),
    "seed": ({"seed": 3}, {"seed": 3}, "--seed 3, not 7"),
    "the same": ({"num_envs": 16, "seed": 7}, {"num_envs": 16}, ""),
    "iterations": ({"max_iterations": 5}, {"max_iterations": 5}, ""),
    "iterations as an override": (
        {"overrides": ("agent.max_iterations=5",)},
        {"max_iterations": None, "overrides": (*WITH[:2], "agent.max_iterations=5")},
        "",
    ),
    "an override": (
        {"overrides": ("env.decimation=2",)},
        {"overrides": (WITH[0], "env.decimation=2")},
        "env.decimation=2, not 4",
    ),
    "an override that keeps its place": (
        {"overrides": ("agent.algorithm.gamma=0.97",)},
        {"overrides": ("agent.algorithm.gamma=0.97", WITH[1])},
        "agent.algorithm.gamma=0.97, not 0.98",
    ),
    "another override": ({"overrides": ("env.x=1",)}, {"overrides": (*WITH[:2], "env.x=1")}, ""),
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_is_given_wins_and_is_said_in_one_line_where_it_contradicts(case, folder, caplog):
    given, expected, line = GIVEN[case]
    with caplog.at_level(logging.INFO):
        asked, _ = resume.restore_settings(planned(folder, **given), TrainOptions())
    assert {key: getattr(asked, key) for key in expected} == expected
    said = [record.message for record in caplog.records]
    assert said == ([f"the command line overrides the run's settings: {line}"] if line else [])


def test_a_budget_goes_on_as_one_and_processes_are_as_many(tmp_path):
    options = TrainOptions.check("", {"budget": "wall=60"})
    resume.write_settings(tmp_path, planned(tmp_path), options, None)
    asked, how = resume.restore_settings(planned(tmp_path), TrainOptions())
    assert asked.max_iterations is None and how.budget == options.budget
    asked, how = resume.restore_settings(planned(tmp_path, max_iterations=2), TrainOptions())
    assert asked.max_iterations == 2 and how.budget is None


def test_processes_are_started_again_but_not_by_one_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    resume.write_settings(tmp_path, planned(tmp_path, distributed=True), TrainOptions(), 100)
    assert resume.restore_settings(planned(tmp_path), TrainOptions())[1].processes == 4
    assert resume.restore_settings(planned(tmp_path, distributed=True), TrainOptions())[1].processes is None


def test_a_run_that_has_had_its_iterations_is_refused_unless_more_are_asked_for(tmp_path):
    checkpoint = tmp_path / "model_39.pt"
    resume.write_settings(tmp_path, planned(tmp_path, overrides=WITH), TrainOptions(), DONE)
    asked, options = resume.restore_settings(planned(tmp_path), TrainOptions())
    with pytest.raises(UserError, match="completed its 40 iterations; .*--max_iterations"):
        resume.require_iterations(SimpleNamespace(request=asked), options, checkpoint)
    asked, options = resume.restore_settings(planned(tmp_path, max_iterations=3), TrainOptions())
    resume.require_iterations(SimpleNamespace(request=asked), options, checkpoint)


SPENT = {"env_steps=1000": True, "env_steps=1001": False, "wall=6": True, "wall=7": False, "synops=5e3": True}


@pytest.mark.parametrize("budget", SPENT)
def test_a_run_that_has_spent_its_budget_is_refused_unless_more_is_asked_for(budget, tmp_path, monkeypatch):
    progress = {"env_steps": 1000, "steps": [1000], "seconds": [6.0], "firing": [0.1], "operations": [5.0]}
    progress |= {"seconds_learning": 6.0, "returns": [1.0], "lengths": [1.0]}
    loaded = {"iter": DONE - 1, "infos": {"spiky_rl": {"progress": progress}}}
    monkeypatch.setattr(resume, "read_checkpoint", lambda path, library: loaded)
    resume.write_settings(tmp_path, planned(tmp_path), TrainOptions.check("", {"budget": budget}), None)
    checkpoint, plan = tmp_path / "model_39.pt", SimpleNamespace(library="rsl_rl")
    plan.request, options = resume.restore_settings(planned(tmp_path), TrainOptions())
    if SPENT[budget]:
        with pytest.raises(
            UserError, match=f"spent the budget {options.budget}; .*--budget.*--max_iterations"
        ):
            resume.require_iterations(plan, options, checkpoint)
    else:
        resume.require_iterations(plan, options, checkpoint)
    for more in ({"request": {"max_iterations": 2}}, {"options": {"budget": "env_steps=2000"}}):
        given = TrainOptions.check("", more.get("options", {}))
        plan.request, options = resume.restore_settings(planned(tmp_path, **more.get("request", {})), given)
        resume.require_iterations(plan, options, checkpoint)


def test_a_run_without_a_record_goes_on_as_it_is_asked_for(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        asked, _ = resume.restore_settings(planned(tmp_path, num_envs=8), TrainOptions())
    assert (asked.num_envs, asked.seed) == (8, None) and "has no settings.json" in caplog.text
    (tmp_path / resume.SETTINGS_FILE).write_text('{"num_envs": 8, "device": "cpu"}')
    with pytest.raises(UserError, match=r"settings\.json: missing seed"):
        resume.restore_settings(planned(tmp_path), TrainOptions())


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("scripts/train.py", "python scripts/play.py"),
        ("/usr/bin/spiky", "spiky play"),
        ("/x/spiky_rl/cli/__main__.py", "python -m spiky_rl.cli play"),
    ],
)
def test_the_lines_at_the_end_of_a_run_name_its_folder_and_the_program_that_was_called(
    called, command, monkeypatch
):
    monkeypatch.setattr("sys.argv", [called, "--task", "cartpole"])
    assert common.format_program("play") == command
    asked = RunRequest(task="cartpole", log_root=Path("my logs"), overrides=WITH)
    assert list_checkpoint_arguments(asked, Path("my logs/run")) == [
        *("--task", "cartpole", "--agent", "lif_ppo"),
        *("--checkpoint", "my logs/run", "--log_root", "my logs"),
    ]


def test_a_run_that_ends_before_its_first_iteration_names_the_checkpoint_that_it_began_with(tmp_path, capsys):
    plan: Any = SimpleNamespace(
        request=RunRequest(task="cartpole", checkpoint="logs/model_39.pt"), spec=SimpleNamespace(network=None)
    )
    result = defaultdict(float, {"iterations": 40, "outcome": "stopped", "best": None, "distillation": None})
    for written, named in ((None, "logs/model_39.pt"), ("model_40.pt", tmp_path)):
        if written:
            (tmp_path / written).touch()
        train.print_summary(result, plan, TrainOptions(), tmp_path)
        said = capsys.readouterr().out
        assert said.count(f"--checkpoint {named}") == 2 and "resume with" in said and "play with" in said


def test_an_optimiser_that_there_is_no_state_for_is_not_left_out():
    options = TrainOptions(resume_optimizer_state=False)
    with pytest.raises(UserError, match="--no-resume_optimizer_state: has no effect without --checkpoint"):
        options.check_request(RunRequest(task="cartpole"))
    options.check_request(RunRequest(task="cartpole", checkpoint="latest"))


def test_all_processes_get_the_random_seed_that_was_drawn_and_the_checkpoint_that_was_found(monkeypatch):
    started = []
    found = RunRequest(task="cartpole", checkpoint="logs/model_39.pt")
    plan: Any = SimpleNamespace(device="cpu", seed=4711, request=found)
    monkeypatch.setattr(TrainOptions, "check_request", lambda *_: None)
    monkeypatch.setattr(train, "plan_training", lambda request, options: (plan, options))
    monkeypatch.setattr("spiky_rl.run.train.create_training_run", lambda *_: None)

    def launch(*given):
        started.append(given)
        raise SystemExit

    monkeypatch.setattr(train.processes, "launch_processes", launch)
    for seed, line in ((-1, ["--seed", "-1"]), (3, ["--seed", "3"])):
        with pytest.raises(SystemExit):
            train.run_training(RunRequest(task="cartpole", seed=seed), TrainOptions(processes=2), line)
    assert started == [("cpu", 2, ["--seed", "-1", "--seed", "4711"]), ("cpu", 2, ["--seed", "3"])]
    for line in (["--checkpoint", "latest"], ["--load_run", "2026.*", "--checkpoint", "best"], ["--resume"]):
        with pytest.raises(SystemExit):
            train.run_training(RunRequest(task="cartpole", checkpoint="x"), TrainOptions(processes=2), line)
        args = train.build_parser().parse(["--task", "cartpole", *started[-1][-1]])
        assert args.checkpoint == "logs/model_39.pt"


def test_a_million_iterations_are_recorded_as_a_number():
    run: Any = SimpleNamespace(
        options=TrainOptions(), plan=SimpleNamespace(get_setting=lambda key: 1_000_000)
    )
    runner: Any = SimpleNamespace(current_learning_iteration=0, env=SimpleNamespace(max_episode_length=10))
    callback = training._IterationCallback(run, runner, StopRequest("stop"))
    assert callback.total_iterations == 1_000_000


@pytest.mark.parametrize(("num_envs", "iterations"), [(10, 6), (5, 12), (20, 3)])
@pytest.mark.parametrize("recorded", [400, 0])
def test_a_resumed_budget_counts_the_steps_that_were_made_whatever_the_environments(
    recorded, num_envs, iterations
):
    """Four iterations of ten environments and ten control steps, of 1000 environment steps; a library's own checkpoint records none."""
    request = SimpleNamespace(distributed=False)
    settings = {"max_iterations": 1, "num_steps_per_env": 10}
    plan = SimpleNamespace(get_setting=settings.__getitem__, num_envs=num_envs, request=request)
    run: Any = SimpleNamespace(options=TrainOptions.check("", {"budget": "env_steps=1000"}), plan=plan)
    progress = TrainingProgress(iterations=4, env_steps=recorded)
    env = SimpleNamespace(max_episode_length=10)
    runner: Any = SimpleNamespace(current_learning_iteration=4, env=env, progress=progress)
    callback = training._IterationCallback(run, runner, StopRequest("stop"))
    if recorded:
        assert callback.iterations == iterations and callback.total_iterations == 4 + iterations
    else:
        assert callback.iterations == 1000 / (num_envs * 10) - 4


def test_an_override_may_need_another_that_the_run_recorded(tmp_path):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    recorded = tuple(f"agent.algorithm.{key}=20" for key in ("learning_starts", "batch_size"))
    resume.write_settings(tmp_path, planned(tmp_path, overrides=recorded), TrainOptions(), 100)
    (tmp_path / "model_39.pt").touch()
    given = {"task": "Pendulum-v1", "agent": "mlp_td3", "checkpoint": str(tmp_path / "model_39.pt")}
    request = RunRequest.check("", {**given, "overrides": ("agent.algorithm.replay_size=60",)})
    plan, _ = train.plan_training(request, TrainOptions())
    assert plan.request.overrides == (*recorded, *request.overrides)
    assert plan.get_setting("algorithm")["replay_size"] == 60
    for override in ("agent.algorithm.replay_size=10", "agent.algorithm.replay_sizes=60"):
        with pytest.raises(UserError, match="replay_size"):
            train.plan_training(request.with_changes(overrides=(override,)), TrainOptions())


CODE = "agent.network.neuron=run/evil.py:Neuron"
RECORDED = {
    "an override": {"overrides": (CODE,)},
    "a literal of Python's": {"overrides": (r"env.scene.robot.class_type='run/evil.py\x3aNeuron'",)},
    "a mapping": {"overrides": ("agent.network={name: feedforward, neuron: run/evil.py:Neuron}",)},
    "a text that YAML reads otherwise": {"overrides": ("env.scene.robot.class_type=run/evil.py: Neuron",)},
    "tuned values": {"tuning": "tuned.yaml"},
}
KNOWN = (
    "agent.actor.class_name=rsl_rl.models:RNNModel",
    "env.scene.robot.spawn.usd_path=https://example.org/a.usd",
    "agent.network={name: nir, file: policy.nir}",
    "agent.layers=[{name: linear}]",
)


@pytest.mark.parametrize("recorded", RECORDED)
def test_code_that_a_record_names_is_refused_unless_the_user_names_it_too(recorded, tmp_path):
    tuned = {"version": 1, "tuning": "t", "trials": 1, "seeds": [1], "budget": "one"}
    agent = {"network": {"neuron": CODE.partition("=")[2]}}
    files.write_json(
        tmp_path / "tuned.yaml", {**tuned, "tasks": {"Isaac-Cartpole": {"lif_ppo": {"agent": agent}}}}
    )
    given = dict(RECORDED[recorded])
    if "tuning" in given:
        given["tuning"] = tmp_path / "tuned.yaml"
    resume.write_settings(tmp_path, planned(tmp_path, **given), TrainOptions(), 100)
    with pytest.raises(UserError, match=r"run/evil\.py: ?Neuron"):
        resume.restore_settings(planned(tmp_path), TrainOptions())
    asked, _ = resume.restore_settings(planned(tmp_path, **given), TrainOptions())
    assert asked.overrides == given.get("overrides", ()) and asked.tuning == given.get("tuning")


def test_classes_of_the_hosts_and_addresses_are_no_code_of_strangers(tmp_path):
    resume.write_settings(tmp_path, planned(tmp_path, overrides=KNOWN), TrainOptions(), 100)
    assert resume.restore_settings(planned(tmp_path), TrainOptions())[0].overrides == KNOWN
    assert resume.find_named_code([*KNOWN, CODE]) == [CODE]


@pytest.mark.parametrize(
    ("earlier", "expected"), [("a", "a, b"), ("a, b", "a, b"), ("a-dirty, c", "a-dirty, c, b"), (None, None)]
)
def test_a_resumed_run_names_the_commits_of_all_its_parts(earlier, expected, tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    files.write_json(tmp_path / PROVENANCE, {"kernels": "k", "commit": earlier})
    monkeypatch.setattr(training, "collect_provenance", lambda *_: Provenance(kernels="k", commit="b"))
    plan: Any = SimpleNamespace(device="cpu", request=SimpleNamespace(task="cartpole"), physics="")
    run = training.TrainingRun(plan, TrainOptions(), tmp_path / "model_39.pt")
    assert run._collect_provenance()["commit"] == expected
