"""Optuna's storage of a tuning: opens it, creates its studies, and checks its trials before they are used.

A rung is a training length after which a trial is evaluated, and may end early. Trial 0 is the agent as its file has it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.run.tuning import PRUNED_FROM, AgentTask, TuningDesign, list_secrets, redact_url

REMEDY = "bring back an earlier copy, or choose another --out"
CREATION_ATTEMPTS = 6
CREATION_PAUSE_S = 0.2
"""Wait before the next attempt, times the number of attempts so far."""


def connect(url: str) -> RDBStorage:
    """Open Optuna's storage at a ``url``; create its tables if needed.

    Commands of several machines may create the tables at the same time; all but one fail then, and find them in the next attempt.

    Raises:
        StudyError: The storage cannot be opened; the message hides the password.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wait = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(1, CREATION_ATTEMPTS + 1):
        try:
            return RDBStorage(url, engine_kwargs=dict(wait))
        except Exception as error:  # pylint: disable=broad-exception-caught
            # a database's driver may raise anything
            if attempt == CREATION_ATTEMPTS or not _is_creation_race(error):
                raise StudyError(f"--storage {redact_url(url)}: {_get_reason(error, url)}") from None
        time.sleep(CREATION_PAUSE_S * attempt)
    raise AssertionError


def open_studies(
    tuning: TuningDesign,
    pairs: Sequence[AgentTask],
    storage: BaseStorage,
    place: str,
    begun: Mapping[AgentTask, int],
) -> dict[AgentTask, optuna.Study]:
    """Open the Optuna study of every pair; create it if needed.

    ``place`` names the storage in messages; it must hold at least as many trials as the tuning's folder records as ``begun``. Raises
    StudyError if it has lost trials, or cannot be read.
    """
    directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if tuning.minimized_activity else [])]
    names = {pair: f"{tuning.id} {pair.task_label} {pair.agent_name}" for pair in pairs}
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNED_FROM)
    try:
        studies = {
            pair: optuna.create_study(
                study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
            )
            for pair, name in names.items()
        }
        damaged = [names[pair] for pair, study in studies.items() if study.directions != directions]
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a damaged database trips driver, SQLAlchemy or Optuna anywhere
        raise StudyError(f"{place}: cannot be read: {_get_reason(error)}; {REMEDY}") from None
    if damaged:
        raise StudyError(f"{place}: study {damaged[0]!r}: its directions are damaged; {REMEDY}")
    for pair, study in studies.items():
        _check_trials(pair, study, place, begun[pair])
    return studies


def _check_trials(pair: AgentTask, study: optuna.Study, place: str, begun: int) -> None:
    """Raise StudyError if trials of ``study`` are missing (fewer than ``begun``), or cannot be read."""
    label = f"{place}: trials of {pair.agent_name} on {pair.task_label}"
    try:
        trials = study.get_trials(deepcopy=False)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # Optuna decodes rows without looking at them
        raise StudyError(f"{label}: cannot be read: {_get_reason(error)}; {REMEDY}") from None
    if len(trials) < begun:
        raise StudyError(f"{label}: {len(trials)} found; expected: at least {begun}; {REMEDY}")
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise StudyError(f"{label}: some of them are missing; {REMEDY}")


def _is_creation_race(error: Exception) -> bool:
    """Return whether creating the tables failed because another command was creating them."""
    return isinstance(error, IntegrityError) or (
        isinstance(error, SQLAlchemyError) and "already exists" in str(error).lower()
    )


def _get_reason(error: Exception, url: str = "") -> str:
    """Return an ``error`` on one line, without the secrets of the ``url``."""
    reason = " ".join(str(error).partition("\n(Background")[0].split())[:300] or type(error).__name__
    for secret in list_secrets(url):
        reason = reason.replace(secret, "***")
    return reason
