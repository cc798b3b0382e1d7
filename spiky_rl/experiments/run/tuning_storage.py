"""Optuna's storage of a tuning: opens it, creates its studies, and checks its trials before they are used.

A rung is a training length after which a trial is evaluated, and may end early. Trial 0 is the agent as its file has it.
"""

# pylint: disable=protected-access  # Optuna has no other way to ask whether a distribution contains a value

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.design.tuning_space import SearchDimension
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
    StudyError if it has lost trials, or one of them is damaged.
    """
    directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if tuning.minimized_activity else [])]
    names = {pair: f"{tuning.id} {pair.task_label} {pair.agent_name}" for pair in pairs}
    studies: dict[AgentTask, optuna.Study] = {}
    try:
        for pair, name in names.items():
            studies[pair] = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=directions,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNED_FROM),
                load_if_exists=True,
            )
            if studies[pair].directions != directions:
                raise StudyError(f"{place}: study {name!r}: its directions are damaged; {REMEDY}")
    except StudyError:
        raise
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a damaged database trips driver, SQLAlchemy or Optuna anywhere
        raise StudyError(f"{place}: cannot be read: {_get_reason(error)}; {REMEDY}") from None
    for pair, study in studies.items():
        _check_trials(tuning, pair, study, place, begun[pair])
    return studies


def _check_trials(tuning: TuningDesign, pair: AgentTask, study: optuna.Study, place: str, begun: int) -> None:
    """Raise StudyError if trials of ``study`` are missing (fewer than ``begun``), out of order, or hold values that this tuning never writes."""
    label = f"{place}: trials of {pair.agent_name} on {pair.task_label}"
    try:
        trials = study.get_trials(deepcopy=False)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # Optuna decodes rows without looking at them
        raise StudyError(f"{label}: cannot be read: {_get_reason(error)}; {REMEDY}") from None
    distributions = {dimension.key: _get_distribution(dimension) for dimension in pair.dimensions}
    if len(trials) < begun:
        raise StudyError(f"{label}: {len(trials)} found; expected: at least {begun}; {REMEDY}")
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise StudyError(f"{label}: some of them are missing; {REMEDY}")
    for trial in trials:
        if fault := _find_fault(trial, distributions, len(study.directions), len(tuning.rungs)):
            raise StudyError(f"{label}: trial {trial.number}: {fault}; {REMEDY}")


def _find_fault(
    trial: FrozenTrial, distributions: Mapping[str, BaseDistribution], n_objectives: int, n_rungs: int
) -> str:
    """Return the damaged part of a ``trial`` as text, empty if it is valid; ``distributions`` are those of its parameters, by key."""
    rung = trial.user_attrs.get("rung", 0)
    if isinstance(rung, bool) or not isinstance(rung, int) or not 0 <= rung < n_rungs:
        return f"rung: {rung!r} given; allowed: 0 to {n_rungs - 1}"
    if not isinstance(trial.user_attrs.get("diverged", ""), str):
        return f"diverged: {trial.user_attrs['diverged']!r} given; allowed: a text"
    if trial.state == TrialState.WAITING:
        return "state: waiting; a tuning never queues trials"
    return _find_parameter_fault(trial, distributions) or _find_value_fault(trial, n_objectives, n_rungs)


def _find_parameter_fault(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> str:
    for key, distribution in trial.distributions.items():
        # trial 0 is the agent as its file has it: it draws no parameters
        expected = distributions.get(key) if trial.number else None
        if distribution != expected:
            return f"{key}: was drawn from {distribution}; expected: {expected or 'no such parameter'}"
        if not _contains(distribution, trial.params[key]):
            return f"{key}: {trial.params[key]!r} lies outside of {distribution}"
    if trial.state == TrialState.COMPLETE and trial.number and trial.params.keys() != distributions.keys():
        return f"parameters: {sorted(trial.params)} given; expected: {sorted(distributions)}"
    return ""


def _find_value_fault(trial: FrozenTrial, n_objectives: int, n_rungs: int) -> str:
    values = trial.values or []
    if trial.state == TrialState.COMPLETE and len(values) != n_objectives:
        return f"values: {trial.values} given; expected: {n_objectives}"
    if not all(map(_is_finite_float, values)):
        return f"values: {values} given; expected: finite numbers"
    return _find_rung_fault(trial, n_objectives, n_rungs)


def _find_rung_fault(trial: FrozenTrial, n_objectives: int, n_rungs: int) -> str:
    for step, value in trial.intermediate_values.items():
        if step not in range(n_rungs) or not _is_finite_float(value):
            return f"value after rung {step}: {value!r} given; expected: a finite number after rung 0 to {n_rungs - 1}"
    # with two objectives Optuna can neither prune a trial nor store values of its rungs
    count = len(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE and n_objectives == 1 and count != n_rungs:
        return f"values after rungs: {count} given; expected: {n_rungs}"
    return ""


def _is_finite_float(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a ``distribution`` contains a ``value`` of any type."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _get_distribution(dimension: SearchDimension) -> BaseDistribution:
    """Return the distribution that `SearchDimension.suggest` draws from."""
    trial = FixedTrial({dimension.key: dimension.extremes[0]})
    dimension.suggest(trial)
    return trial.distributions[dimension.key]


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
