"""A tuning gives every agent as many trials, survives being killed anywhere, and refuses invalid input before it begins."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("optuna", reason="Optuna is not installed: the extra 'experiments'")

from spiky_rl.config import files
from spiky_rl.config.registry import UserError
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.experiments.analysis.tuning_outcome import collect_outcomes, write_tuned
from spiky_rl.experiments.design import tuning_space
from spiky_rl.experiments.design.grid import CellResources
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.tuning_page import draw_returns, write_tuning_page
from spiky_rl.experiments.run import tuning, tuning_plan, tuning_search
from spiky_rl.experiments.run.planning import ExecutionOptions
from spiky_rl.experiments.run.tuning_storage import connect
from spiky_rl.hosts.base import NonFiniteError
from tests.experiments import tunings
from tests.experiments.plans import plan

PATIENCE = 60.0
"""Seconds."""


def ends(out: Path, word: str = "end") -> list[str]:
    """Cells that ended, or began, in that order."""
    log = out / "cells.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith(word)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tuning that nobody disturbed: (its search, its folder)."""
    out = tmp_path_factory.mktemp("tuning") / "out"
    return tunings.run(out, tunings.asked(trials=14)), out


def test_every_agent_has_the_same_number_of_trials_and_the_first_is_the_agent_as_it_is(whole):
    found = tunings.trials(whole[0])
    assert [len(own) for own in found.values()] == [14, 14]
    for own in found.values():
        assert own[0][1:3] == ("COMPLETE", {}), "the first is the agent as it is, and always whole"
        assert all(len(params) == 2 for _, _, params, *_ in own[1:])


def test_a_trial_spends_a_third_of_the_budget_rung_by_rung_and_bad_ones_less(whole):
    search, out = whole
    budget = tunings.WHOLE.amount
    (pair, *_), (cell, *_) = search.studies, search.tuning.write_cells(
        search.site, next(iter(search.studies)), [], 2, "x"
    )
    assert cell.env_steps == pytest.approx(budget / 3, abs=512) and pair.budget.amount == budget / 3
    states = [state for own in tunings.trials(search).values() for _, state, *_ in own]
    assert states.count("PRUNED") > 3 and states.count("COMPLETE") > 6
    assert len(ends(out)) < 3 * len(states), "those that were ended early have fewer rungs"


def test_tuned_values_are_those_of_the_best_trial_and_agents_are_better_with_them(whole):
    search, out = whole
    assert write_tuned(search)
    tuned = read_tuned(out)
    for outcome in collect_outcomes(search):
        best, default = outcome.best_trial, outcome.default_trial
        assert best.values[0] == max(trial.values[0] for trial in outcome.complete) > default.values[0]
        _, layer = tuned.get_layer("Isaac-Cartpole", outcome.pair.agent_name)
        assert layer["algorithm"]["schedule"] == "fixed"
        assert layer["algorithm"]["learning_rate"] == best.params["agent.algorithm.learning_rate"]


def test_tuned_values_say_what_they_were_tuned_as_where_that_is_known(tmp_path):
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=1))
    assert write_tuned(made)
    written = read_tuned(tmp_path).tasks["Isaac-Cartpole"]["lif_ppo"]
    assert (written.trial, written.specification, written.physics) == (0, None, None)
    (pair,) = made.studies
    known = {"specification": "c" * 16, "physics": "mujoco"}
    tuning.write_tuning(tmp_path, made.tuning, {pair.facts[key]: value for key, value in known.items()})
    assert write_tuned(made)
    written = read_tuned(tmp_path).tasks["Isaac-Cartpole"]["lif_ppo"]
    assert (written.specification, written.physics) == ("c" * 16, "mujoco")


def test_the_agent_as_it_is_stands_beside_sampled_trials_at_the_same_point(whole):
    search, _ = whole
    _, text = write_tuning_page(search, {})
    said = text.read_text()
    words = "every sampled trial after 25% of its budget, without the default configuration, trial 0"
    assert said.count(words) == 2, "in the table's note and in the figure's caption"
    assert "the ring is the default configuration at the same point" in said
    for outcome in collect_outcomes(search):
        assert (
            outcome.default_return
            == outcome.default_trial.intermediate_values[0]
            < outcome.default_trial.values[0]
        )
        assert 0 not in outcome.first_rung_returns
        row = next(
            line
            for line in said.splitlines()
            if line.startswith(f"| {outcome.pair.agent_name} |") and "[" in line
        )
        assert f" {outcome.default_return:.2f} |" in row
        figure = draw_returns({outcome.pair.agent_name: "#000000"}, [outcome])
        rings = [line for axes in figure.axes for line in axes.lines if line.get_markerfacecolor() == "none"]
        assert [list(line.get_xdata()) for line in rings] == [[outcome.default_return]]


def test_the_page_names_what_matters(whole):
    search, out = whole
    html, text = write_tuning_page(search, {"robots": "of sticks"})
    said = text.read_text()
    for words in (
        "Default, tuned and sensitivity",
        "Importance of parameters",
        "tuning changed 2 of 2 agents; 0 without a complete trial",
        "| lif_ppo | 2.22 |",
        "of sticks",
    ):
        assert words in said, words
    rows = [
        line.split("|")
        for line in said.splitlines()
        if line.startswith(("| algorithm.learning_rate", "| network.steps"))
    ]
    assert float(rows[0][2]) > float(
        rows[1][2]
    ), "what the objective depends on is more important than what it ignores"
    assert "<svg" in html.read_text() and (out / "figures" / "tuning_isaac_cartpole.svg").exists()


def test_trials_on_a_task_of_a_package_go_on_from_their_cells_and_are_counted(tmp_path):
    """Tasks such as ALE/Pong-v5, whose cells have other names."""

    def resolver(study):
        return lambda *each: dataclasses.replace(tunings.resolver(study)(*each), task="ALE/Pong-v5")

    wanted = tunings.asked("lif_ppo", seeds="90000,90001")
    pair = dataclasses.replace(tunings.checked(wanted).pairs[0], task_label="ALE/Pong-v5")
    site = tuning.TuningEnvironment(tmp_path, resolver, CellResources("cpu"))
    first, second = (wanted.write_cells(site, pair, [], rung, "lif_ppo trial3") for rung in (0, 1))
    assert [cell.goes_on for cell in second] == [cell.name for cell in first]
    with tuning_search.lock_cell(tmp_path / "trials" / "ALE" / "Pong-v5.lif_ppo.3"):
        assert tuning_search.TuningSearch.count_begun(SimpleNamespace(out=tmp_path), pair) == 3


def at_work(out: Path, wanted, parallel: int) -> None:
    tunings.run(out, wanted, parallel, tunings.Computed(seconds=0.004))


def killed_again_and_again(out: Path, wanted, parallel: int, moments) -> int:
    """Kill -9 a tuning whenever so many more cells have ended, then let it go on to its end; how often it was killed."""
    fork = multiprocessing.get_context("fork")
    times = 0
    for more in (*moments, None):
        process = fork.Process(target=at_work, args=(out, wanted, parallel))
        before, deadline = len(ends(out)), time.monotonic() + PATIENCE
        process.start()
        while process.is_alive() and (more is None or len(ends(out)) < before + more):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        if more is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            times += 1
        process.join()
    assert process.exitcode == 0
    return times


@pytest.mark.parametrize(
    ("parallel", "trials", "moments"),
    [pytest.param(1, 14, (0, 1, 2, 5, 0, 9), marks=pytest.mark.slow), (3, 6, (1, 0, 4, 3))],
)
def test_a_tuning_that_is_killed_at_any_moment_loses_nothing_and_runs_nothing_twice(
    tmp_path, whole, parallel, trials, moments
):
    wanted = tunings.asked(trials=trials)
    assert killed_again_and_again(tmp_path, wanted, parallel, moments) == len(moments)
    found = tunings.trials(tunings.search(tmp_path, wanted))
    assert [len(own) for own in found.values()] == [trials, trials]
    assert {state for own in found.values() for _, state, *_ in own} <= {"COMPLETE", "PRUNED"}
    assert len(set(ends(tmp_path))) == len(ends(tmp_path))
    cells = {path.parent.name for path in tmp_path.glob("cells/*/result.json")}
    assert {path.name for path in (tmp_path / "cells").iterdir()} == cells, "no cell was begun and forgotten"
    if parallel == 1:
        assert found == tunings.trials(whole[0]), "the same trials as if nobody had killed it"


@pytest.mark.slow
def test_two_commands_at_once_share_the_trials(tmp_path):
    wanted = tunings.asked(trials=8)
    tunings.search(tmp_path, wanted)  # makes the tables
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=at_work, args=(tmp_path, wanted, 1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE)
    assert [process.exitcode for process in both] == [0, 0]
    found = tunings.trials(tunings.search(tmp_path, wanted))
    assert [len(own) for own in found.values()] == [8, 8]
    assert len(set(ends(tmp_path, "begin"))) == len(ends(tmp_path, "begin"))


def test_a_tuning_grows_by_trials_and_agents(tmp_path):
    tunings.run(tmp_path, tunings.asked("lif_ppo", trials=2))
    before = ends(tmp_path)
    made = tunings.run(tmp_path, tunings.asked("mlp_ppo", trials=3))
    assert {stem: len(own) for stem, own in tunings.trials(made).items()} == {"lif_ppo": 3, "mlp_ppo": 3}
    assert ends(tmp_path)[: len(before)] == before and len(set(ends(tmp_path))) == len(ends(tmp_path))


def test_an_agent_that_learns_from_a_teacher_is_refused_before_a_trial(monkeypatch):
    student = plan("cartpole", {"algorithm": {"distillation_cfg": {"iterations": 3}}})
    monkeypatch.setattr(tuning_plan, "AgentResolver", lambda *_: lambda *_: student)
    with pytest.raises(StudyError, match="^teachers: none given for lif_ppo"):
        tuning_plan.check_tuning(tunings.asked("lif_ppo"), ExecutionOptions(device="cpu"), "robots")


def test_without_out_more_trials_of_a_tuning_have_its_folder():
    folders = [tuning_plan.get_default_folder(tunings.asked(trials=trials)) for trials in (30, 40)]
    other = tuning_plan.get_default_folder(tunings.asked(seeds="7"))
    assert folders[0] == folders[1] != other


def test_a_trial_that_diverges_counts_and_one_that_fails_is_tried_again(tmp_path):
    def breaks(cell):
        if "trial1." in cell.name:
            return "failed: iteration 3: the value loss is nan, at a learning rate of 0.01"
        return "[Errno 28] No space left on device" if "trial2.rung1" in cell.name else None

    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=4), engine=tunings.Computed(breaks=breaks))
    (own,) = tunings.trials(made).values()
    assert [state for _, state, *_ in own] == ["COMPLETE", "PRUNED", "RUNNING", "COMPLETE"]
    assert list(made.broken) == ["lif_ppo trial2 on Isaac-Cartpole"] and not write_tuned(made)
    assert "No space left" in write_tuning_page(made, {})[1].read_text()
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=4))
    (own,) = tunings.trials(made).values()
    assert [state for _, state, *_ in own] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert ends(tmp_path).count("Isaac-Cartpole.lif_ppo.trial2.rung0.seed90000") == 1
    assert write_tuned(made)
    assert "the value loss is nan" in write_tuning_page(made, {})[1].read_text()


def test_the_reason_of_a_trial_that_diverges_is_that_of_the_seed_that_did(tmp_path):
    reasons = {
        "trial1.rung0.seed90000": "[Errno 28] No space left on device",
        "trial1.rung0.seed90001": "failed: iteration 3: the value loss is nan",
    }
    engine = tunings.Computed(breaks=lambda cell: reasons.get(cell.name.partition("lif_ppo.")[2]))
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=2, seeds="90000-90001"), engine=engine)
    (held,) = made.studies.values()
    assert held.get_trials()[1].user_attrs["diverged"] == "failed: iteration 3: the value loss is nan"


def test_an_agent_of_which_every_trial_diverged_is_named_and_the_others_have_values(tmp_path):
    def breaks(cell):
        return "failed: iteration 3: the value loss is nan" if "lif_ppo" in cell.name else None

    made = tunings.run(tmp_path, tunings.asked(trials=2), engine=tunings.Computed(breaks=breaks))
    with pytest.raises(
        StudyError, match="--trials 2: no complete one of lif_ppo on Isaac-Cartpole; give more"
    ):
        write_tuned(made)
    assert list(read_tuned(tmp_path).tasks["Isaac-Cartpole"]) == ["mlp_ppo"]


def test_values_that_the_agent_refuses_together_end_their_trial_and_not_the_tuning(tmp_path, monkeypatch):
    lasting = ""

    def refusing(given):
        def resolve(task, agent, variant):
            steps = [int(text.partition("=")[2]) for text in given.overrides if "network.steps" in text]
            if lasting or max(steps, default=0) > 4:
                raise UserError(f"agent.network.steps: {steps} given{lasting}")
            return plan(task, {"agent": agent, "overrides": list(given.overrides)})

        return resolve

    monkeypatch.setattr(tunings, "resolver", refusing)
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=6))
    (own,) = tunings.trials(made).values()
    refused = {number for number, _, params, *_ in own if params.get("agent.network.steps", 0) > 4}
    assert refused and {number for number, state, *_ in own if state == "PRUNED"} >= refused
    assert write_tuned(made) and "agent.network.steps: [" in write_tuning_page(made, {})[1].read_text()
    lasting = ", whatever the values are"
    with pytest.raises(UserError, match=lasting):
        tunings.run(tmp_path, tunings.asked("lif_ppo", trials=7))


def say_non_finite(name: str) -> str:
    """Return the message of Gymnasium's host of non-finite actions, rewards or observations."""
    pytest.importorskip("gymnasium")
    from spiky_rl.hosts.gymnasium.environment import GymnasiumVecEnv

    env: Any = SimpleNamespace(_frames=torch.zeros(1, 1), task_id="ALE/Pong-v5")
    env._require_finite = partial(GymnasiumVecEnv._require_finite, env)
    with pytest.raises(NonFiniteError) as raised:
        if name == "an action":
            GymnasiumVecEnv.step(env, torch.full((1, 1), math.nan))
        env._require_finite(name, np.array([math.nan]))
    return str(raised.value)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("training", "an action"),
        ("evaluation", "a reward"),
        ("training", "an observation"),
        pytest.param("training", "a reward", marks=pytest.mark.slow),
        pytest.param("evaluation", "an action", marks=pytest.mark.slow),
        pytest.param("evaluation", "an observation", marks=pytest.mark.slow),
    ],
)
def test_a_trial_that_diverges_on_a_task_of_gymnasium_is_not_tried_again(tmp_path, monkeypatch, name, step):
    message = say_non_finite(name)

    def fail(_, folder, error):
        failed = f"failed: {error}; the last good checkpoint is model_3.pt"
        outcome, line = (failed, failed) if step == "training" else ("finished", f"error: {error}")
        files.write_json(folder / "run" / "rsl_rl" / "pong" / "first" / "result.json", {"outcome": outcome})
        files.write_text(folder / "error.txt", f"the {step} ended with exit code 1\n\n{line}\n")

    monkeypatch.setattr(tunings.Computed, "fail", fail)
    engine = tunings.Computed(breaks=lambda cell: message if "trial1." in cell.name else None)
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=2), engine=engine)
    (own,) = tunings.trials(made).values()
    assert [state for _, state, *_ in own] == ["COMPLETE", "PRUNED"]
    assert not made.broken and write_tuned(made)
    assert message in write_tuning_page(made, {})[1].read_text()


def test_seeds_of_a_trial_are_cells_and_its_return_is_their_mean(tmp_path):
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=1, seeds="90000-90002"))
    assert len(ends(tmp_path)) == 3 * 3
    (own,) = tunings.trials(made).values()
    assert own[0][3] == pytest.approx(
        tunings.trials(tunings.run(tmp_path / "one", tunings.asked("lif_ppo", trials=1)))["lif_ppo"][0][3]
    )


def test_with_an_activity_the_tuned_trial_is_the_quietest_that_keeps_the_return(tmp_path):
    made = tunings.run(tmp_path, tunings.asked("lif_ppo", trials=16, activity="operations"))
    assert len(ends(tmp_path)) == 16, "no trial is ended early, and none has rungs"
    (outcome,) = collect_outcomes(made)
    top = max(trial.values[0] for trial in outcome.complete)
    near = [trial for trial in outcome.complete if trial.values[0] >= 0.95 * top]
    assert outcome.best_trial.values[1] == min(trial.values[1] for trial in near)
    assert write_tuned(made) and read_tuned(tmp_path).tasks["Isaac-Cartpole"]["lif_ppo"].operations > 0
    assert "Return and activity" in write_tuning_page(made, {})[1].read_text()


def other_space(**low):
    shared = {"agent.algorithm.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, **low}}
    return {**tunings.SPACE, "shared": shared}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"space": other_space(low=1e-5)},
            ["space.shared.agent.algorithm.learning_rate.low", "0.0001", "1e-05"],
        ),
        ({"activity": "operations"}, ["activity", "'operations'"]),
        ({"seeds": "7"}, ["seeds", "90000", "7"]),
        ({"budget": "env_steps=1000"}, ["budget", "1000"]),
        ({"num_envs": 3}, ["num_envs", "3"]),
    ],
)
def test_another_tuning_in_the_same_folder_is_refused(tmp_path, change, words):
    tunings.search(tmp_path, tunings.asked())
    before = (tmp_path / "tuning.json").read_text()
    with pytest.raises(StudyError) as error:
        tuning.load_or_extend_tuning(tmp_path, tunings.asked(**change))
    assert all(word in str(error.value) for word in [*words, "--out"]), str(error.value)
    assert (tmp_path / "tuning.json").read_text() == before


def test_a_tuning_with_seeds_in_any_order_goes_on_with_the_order_that_it_began_with(tmp_path):
    for seeds in ("90001,90000", "90001,90000", "90000,90001"):
        merged = tuning.load_or_extend_tuning(tmp_path, tunings.asked(seeds=seeds))
        again = tunings.search(tmp_path, merged).tuning  # as the command, which checks the same again
        assert merged.study.seeds == again.study.seeds == (90001, 90000)


def test_another_space_of_an_agent_that_the_folder_alone_has_is_refused(tmp_path):
    also = {"agent.network.steps": {"low": 1, "high": 8, "also": ["agent.network.neuron.delay"]}}
    tunings.search(tmp_path, tunings.asked())
    space = {**tunings.SPACE, "own": {**tunings.SPACE["own"], "lif_ppo": also}}
    with pytest.raises(StudyError, match="^space.own.lif_ppo.agent.network.steps.also: "):
        tuning.load_or_extend_tuning(tmp_path, tunings.asked("mlp_ppo", space=space))


def test_an_agent_that_has_changed_since_is_refused(tmp_path):
    held = tunings.search(tmp_path, tunings.asked()).tuning
    with pytest.raises(StudyError, match="lif_ppo on Isaac-Cartpole.*'a+'.*'b'"):
        tuning.write_tuning(tmp_path, held, {"lif_ppo on Isaac-Cartpole": "b"})


@pytest.mark.parametrize(
    ("changed", "processes", "key"),
    [
        ({"task_spec": {"env": {"decimation": 4}}}, 1, "task file of Isaac-Cartpole"),
        ({"num_envs": 128}, 1, "environments of lif_ppo on Isaac-Cartpole"),
        ({}, 2, "processes"),
    ],
)
def test_trials_of_another_environment_are_refused(tmp_path, changed, processes, key):
    pair = tunings.checked(tunings.asked("lif_ppo")).pairs[0]
    made: Any = plan("cartpole", {"agent": "lif_ppo"})
    facts = tuning_plan.collect_facts(pair, made, ExecutionOptions(device="cpu"))
    tuning.write_tuning(tmp_path, tunings.asked("lif_ppo"), facts)
    if "task_spec" in changed:
        changed = {"task_spec": made.task_spec.with_changes(**changed["task_spec"])}
    other = dataclasses.replace(made, **changed)
    facts = tuning_plan.collect_facts(pair, other, ExecutionOptions(device="cpu", distributed=processes))
    with pytest.raises(StudyError, match=f"{key}: .* when the tuning began, now .*; choose another --out"):
        tuning.write_tuning(tmp_path, tunings.asked("lif_ppo"), facts)


def test_a_folder_of_a_study_and_a_damaged_tuning_are_refused(tmp_path):
    (tmp_path / "cells").mkdir()
    with pytest.raises(StudyError, match="without tuning.json"):
        tuning.load_or_extend_tuning(tmp_path, tunings.asked())
    (tmp_path / "tuning.json").write_text("{")
    with pytest.raises(StudyError, match="tuning.json: not valid JSON: .*not a tuning of this version"):
        tuning.load_or_extend_tuning(tmp_path, tunings.asked())


DAMAGED = {
    "another program's": (lambda held: {"version": 1}, "missing id, study, space, trials, activity, storage, facts"),
    "another version's": (lambda held: {**held, "version": 2}, "version: 2 is not allowed; choose from 1"),
    "a list": (lambda held: [held], "expected a mapping, got ["),
    "an empty study": (lambda held: {**held, "study": {"version": 1}}, "study: missing name, question, agents"),
    "no seed": (lambda held: {**held, "study": {**held["study"], "seeds": ["x"]}}, "study.seeds: 'x' given"),
    "half a space": (lambda held: {**held, "space": {"set": {}, "shared": {}}}, "space: missing own"),
    "text for a number": (lambda held: {**held, "trials": "6"}, "trials: expected a whole number, got '6'"),
    "no activity": (lambda held: {**held, "activity": "speed"}, "activity: 'speed' is not allowed; choose from ''"),
    "a number for a fact": (lambda held: {**held, "facts": {"robots": 1}}, "facts.robots: expected text, got 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_tuning_is_refused_by_file_and_key_and_left_as_it_is(tmp_path, case):
    held = tunings.search(tmp_path, tunings.asked()).tuning
    path, (damage, said) = tmp_path / "tuning.json", DAMAGED[case]
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    before = path.read_text()
    for read in (
        lambda: tuning.load_or_extend_tuning(tmp_path, held),
        lambda: tuning.write_tuning(tmp_path, held, {}),
    ):
        with pytest.raises(StudyError) as refused:
            read()
        assert str(refused.value).startswith(f"{path}: {said}") and "--out" in str(refused.value)
    assert path.read_text() == before


def test_a_tuning_on_the_disk_is_read_and_written_to_the_same_bytes(tmp_path):
    tunings.search(tmp_path, tunings.asked())
    before = (tmp_path / "tuning.json").read_text()
    held = tuning.load_or_extend_tuning(tmp_path, tunings.asked())
    tuning.write_tuning(tmp_path, held, {})
    assert (tmp_path / "tuning.json").read_text() == before
    keys = ["version", "id", "study", "space", "trials", "activity", "storage", "facts"]
    assert list(json.loads(before)) == keys


def test_tuned_values_without_the_trials_that_they_are_from_are_not_searched_again(tmp_path):
    out = tmp_path / "out"
    assert write_tuned(tunings.run(out, tunings.asked("lif_ppo", trials=2)))
    (out / "tuning.db").rename(tmp_path / "away.db")
    before = (out / "tuned.yaml").read_text()
    said = "out/tuning.db: missing.*bring it back, or choose another --out"
    with pytest.raises(StudyError, match=said):
        tuning.load_or_extend_tuning(out, tunings.asked("lif_ppo", trials=2))
    assert (out / "tuned.yaml").read_text() == before and not (out / "tuning.db").exists()
    (tmp_path / "away.db").rename(out / "tuning.db")
    assert tuning.load_or_extend_tuning(out, tunings.asked("lif_ppo", trials=2)).trials == 2


@pytest.mark.parametrize(
    "url", ["foo", "", "nowhere://me:secret@host/db", "me:secret@host/db", "postgresql://me:secret@host:x/db"]
)
def test_a_storage_of_no_known_kind_is_refused_with_the_plan_and_without_its_password(url):
    given = {"agents": "lif_ppo", "tasks": ["cartpole"], "seeds": "90000"}
    with pytest.raises(
        UserError, match="^--storage: .* given; allowed: a database's URL, such as sqlite:"
    ) as error:
        tuning_plan.make_tuning_design(given, tuning_plan.TuneOptions(storage=url))
    assert "secret" not in str(error.value)
    plain = tuning_plan.make_tuning_design(
        given, tuning_plan.TuneOptions(storage="postgresql+psycopg://me:secret@host/db")
    )
    assert plain.storage == "postgresql+psycopg://me@host/db"


@pytest.mark.parametrize("url", ["nowhere://me:secret@host/db", "sqlite:////no/such/folder/x.db", "nothing"])
def test_a_storage_that_is_none_is_named_without_its_password(url):
    with pytest.raises(StudyError, match="--storage") as error:
        connect(url)
    assert "secret" not in str(error.value)


RATE = "agent.algorithm.learning_rate"
REFUSED = {
    "unknown key": ({"sharde": {}}, ["sharde", "mean 'shared'"]),
    "a dimension outside shared": ({RATE: {"low": 0.1, "high": 1}}, [RATE, "in shared, or in own"]),
    "unknown option": (
        {"shared": {"agent.algorithm.learnin_rate": {"low": 0.1, "high": 1}}},
        ["learnin_rate", "learning_rate"],
    ),
    "out of range": (
        {"shared": {"agent.algorithm.gamma": {"low": 0.5, "high": 1.5}}},
        ["gamma", "1.5", "between"],
    ),
    "no range": ({"shared": {RATE: {"low": 0.1}}}, [RATE, "or choices"]),
    "both": (
        {"shared": {RATE: {"low": 0.1, "high": 1, "choices": [1, 2]}}},
        [RATE, "or choices"],
    ),
    "a choice that is no list": ({"shared": {RATE: {"choices": 3}}}, [RATE, "a list"]),
    "empty range": ({"shared": {RATE: {"low": 1, "high": 0.1}}}, [RATE, "low < high"]),
    "log of nothing": ({"shared": {RATE: {"low": 0.0, "high": 0.1, "log": True}}}, [RATE, "above 0"]),
    "no choice": ({"shared": {RATE: {"choices": []}}}, [RATE, "at least two"]),
    "log of choices": ({"shared": {RATE: {"choices": [1, 2], "log": True}}}, [RATE, "or choices"]),
    "text": ({"shared": {RATE: {"low": "a", "high": 0.1}}}, [f"{RATE}.low", "a number"]),
    "one choice": ({"shared": {RATE: {"choices": [0.1]}}}, [RATE, "at least two"]),
    "unknown part": ({"shared": {RATE: {"low": 0.1, "hihg": 1}}}, [RATE, "hihg", "mean 'high'"]),
    "twice": (
        {"shared": {RATE: {"low": 0.1, "high": 1}}, "own": {"mlp_ppo": {RATE: {"choices": [1, 2]}}}},
        [RATE, "twice"],
    ),
    "twice, without own": (
        {"set": {RATE: 0.01}, "shared": {RATE: {"low": 0.1, "high": 1}}},
        ["shared", RATE, "twice"],
    ),
    "nothing to tune": ({"own": {"mlp_ppo": {}}}, ["own.mlp_ppo", "at least one dimension"]),
    "no override": ({"own": {"mlp_ppo": {"gamma": {"choices": [0.9, 0.99]}}}}, ["gamma", "not an override"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_space_that_is_none_is_refused_by_name(case, tmp_path):
    data, words = REFUSED[case]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        tuning_space.read_space(str(tmp_path / "mine.yaml"))
    assert all(word in str(error.value) for word in ["mine.yaml", *words]), str(error.value)


def test_a_space_of_shared_dimensions_alone_fits_every_agent():
    space = tuning_space.build_space("mine", {"shared": tunings.SPACE["shared"]})
    space.require_equal(["lif_ppo", "agents/of_mine.yaml"])
    assert [d.key for d in space.get_dimensions("agents/of_mine.yaml")] == ["agent.algorithm.learning_rate"]
    assert space.select(["agents/of_mine.yaml"])["own"] == {"of_mine": {}}
    with pytest.raises(StudyError, match=r"own.of_mine: nothing given; allowed: at least one dimension"):
        tuning_space.build_space("empty", {}).get_dimensions("agents/of_mine.yaml")


def test_agents_with_unequal_numbers_of_dimensions_and_those_without_any_are_refused():
    more = {
        **tunings.SPACE["own"],
        "lif_ppo": {**tunings.SPACE["own"]["lif_ppo"], "agent.network.neuron.tau": {"low": 1, "high": 9}},
    }
    space = tuning_space.build_space("mine", {**tunings.SPACE, "own": more})
    with pytest.raises(StudyError, match="unequal.*lif_ppo 2.*mlp_ppo 1"):
        space.require_equal(["lif_ppo", "mlp_ppo"])
    with pytest.raises(StudyError, match="no dimensions for mlp_poo.*mean 'mlp_ppo'"):
        space.require_equal(["lif_ppo", "mlp_poo"])
    with pytest.raises(StudyError, match="'pilto'.*mean 'pilot'"):
        tuning_space.read_space("pilto")
