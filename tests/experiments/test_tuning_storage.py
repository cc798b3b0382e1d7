"""A tuning with lost or damaged files says so in one line that names the file; it runs nothing again, and shows no password."""

import shutil
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed: the extra 'experiments'")

from spiky_rl.config.options import UserError
from spiky_rl.experiments.analysis.tuning_outcome import write_tuned
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.run import tuning, tuning_plan
from spiky_rl.experiments.run.tuning_storage import connect
from tests.experiments import tunings


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a tuning of which all trials have ended."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert write_tuned(tunings.run(out, tunings.asked(trials=5)))
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def refusal(out: Path) -> str:
    """The error of the tuning in ``out``; it leaves the folder as it is."""
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(StudyError) as refused:
        tunings.run(out, tunings.asked(trials=5))
    assert {path for path in out.iterdir() if path.is_file()} == before.keys() | {out / "lock"}
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix != ".db")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def empty(path: Path) -> None:
    path.write_bytes(b"")


LOST = {
    "no tuning.json": (lambda out: (out / "tuning.json").unlink(), "tuning.json"),
    "no tuning.json and no cells": (
        lambda out: ((out / "tuning.json").unlink(), shutil.rmtree(out / "cells")),
        "tuning.json",
    ),
    "no tuning.json, nothing but tuned values": (
        lambda out: [(out / "tuning.json").unlink(), *(shutil.rmtree(out / n) for n in ("cells", "trials"))],
        "tuning.json",
    ),
    "no tuning.db": (lambda out: (out / "tuning.db").unlink(), "tuning.db"),
    "no tuning.db, no tuned values": (
        lambda out: [(out / name).unlink() for name in ("tuning.db", "tuned.yaml")],
        "tuning.db",
    ),
    "an empty tuning.db": (lambda out: empty(out / "tuning.db"), "tuning.db"),
    "no database": (lambda out: (out / "tuning.db").write_text("x" * 5000), "tuning.db"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_finished_tuning_that_has_lost_a_file_is_not_run_again(case, out):
    lose, file = LOST[case]
    lose(out)
    assert str(out / file) in refusal(out)


LAST_PARAMETER = "(select max(param_id) from trial_params)"
DAMAGE = {
    "all trials": ("delete from trials", "0 found; expected: at least 4"),
    "a study": ("delete from studies where study_id = 1", "0 found; expected: at least 4"),
    "another name": (
        "update studies set study_name = 'x' where study_id = 2",
        "0 found; expected: at least 4",
    ),
    "a trial": ("delete from trials where trial_id = 3", "missing"),
    "a number": ("update trials set number = 99 where trial_id = 3", "missing"),
    "a state": ("update trials set state = 'x' where trial_id = 3", "cannot be read"),
    "a direction": ("update study_directions set direction = 'x'", "cannot be read"),
    "another direction": ("update study_directions set direction = 'MINIMIZE'", "directions"),
    "no distribution": (
        f"update trial_params set distribution_json = '' where param_id = {LAST_PARAMETER}",
        "cannot be read",
    ),
    "half a text": ("update trial_user_attributes set value_json = '{' where key = 'rung'", "cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_trials_are_named_with_their_file_and_not_gone_on_with(case, out):
    statement, words = DAMAGE[case]
    with sqlite3.connect(out / "tuning.db") as database:
        assert database.execute(statement).rowcount
    said = refusal(out)
    assert str(out / "tuning.db") in said and words in said


def test_a_tuning_that_was_killed_before_its_first_trial_goes_on(tmp_path):
    wanted = tunings.asked("lif_ppo", trials=1)
    tunings.search(tmp_path, wanted)
    with sqlite3.connect(tmp_path / "tuning.db") as database:
        database.executescript("delete from study_directions; delete from studies")
    assert len(tunings.trials(tunings.run(tmp_path, wanted))["lif_ppo"]) == 1
    (tmp_path / "trials" / "Isaac-Cartpole.lif_ppo.1").mkdir()  # killed between a trial's lock and the trial
    assert len(tunings.trials(tunings.run(tmp_path, tunings.asked("lif_ppo", trials=2)))["lif_ppo"]) == 2


URLS = {
    "postgresql+psycopg://me:secret@host:5432/db": "postgresql+psycopg://me@host:5432/db",
    "postgresql://host/db": "postgresql://host/db",
    "postgresql://:secret@host/db": "postgresql://host/db",
    "postgresql://me:s%40ecret@host/db": "postgresql://me@host/db",
    "postgresql://me@host/db?password=secret&sslmode=require": "postgresql://me@host/db?password=***&sslmode=***",
    "postgresql:///db?host=/run&passfile=secret&password=a@secret": "postgresql:///db?host=***&passfile=***&password=***",
    "sqlite:////shared/a@b.db": "sqlite:////shared/a@b.db",
    "postgresql://me:p@secret@host/db": "postgresql://***",
    "postgresql://me:p@s/secret@host/db": "postgresql://***",
    "postgresql://me:secret@host:x/db": "postgresql://***",
    "me:secret@host/db": "***",
    "foo": "foo",
}


@pytest.mark.parametrize("url", URLS)
def test_a_storage_is_shown_and_kept_without_passwords_and_without_values_of_its_query(url, tmp_path):
    assert tuning.redact_url(url) == URLS[url]
    assert "secret" not in URLS[url]
    with pytest.raises(StudyError) as error:
        connect(url.replace("sqlite:////shared", "sqlite:////no/such/folder"))
    assert "secret" not in str(error.value)


def test_an_at_sign_in_a_password_is_refused_with_its_remedy():
    given = {"agents": "lif_ppo", "tasks": ["cartpole"], "seeds": "90000"}
    with pytest.raises(UserError, match="write it as %40") as error:
        tuning_plan.make_tuning_design(
            given, tuning_plan.TuneOptions(storage="postgresql://me:p@secret@host/db")
        )
    assert "secret" not in str(error.value)


def test_a_password_that_an_earlier_version_kept_is_not_shown(tmp_path):
    wanted = tunings.asked("lif_ppo", trials=1)
    tunings.search(tmp_path, wanted)
    path = tmp_path / "tuning.json"
    path.write_text(
        path.read_text().replace('"storage": ""', '"storage": "postgresql://me@host/db?password=secret"')
    )
    with pytest.raises(StudyError) as error:
        tuning.load_or_extend_tuning(tmp_path, wanted)
    assert "storage" in str(error.value) and "secret" not in str(error.value)
