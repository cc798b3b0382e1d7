"""Results of a tuning's trials, and the file of tuned values."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from spiky_rl.config import files
from spiky_rl.config.spec import parse_overrides
from spiky_rl.config.tuned_values import FILE_NAME
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.run.tuning import STARTUP, AgentTask, read_tuning
from spiky_rl.experiments.run.tuning_search import TuningSearch

NEAR_BEST_SHARE = 0.05
"""Share of the best return that the tuned trial may lack if an activity is minimised."""
MIN_TRIALS, QUANTILE = 10, 0.25
"""Sampled trials from which on importances are estimated; share of them that counts as the best."""


@dataclass(frozen=True)
class TuningOutcome:
    """The trials of an agent on a task."""

    pair: AgentTask
    trials: Sequence[FrozenTrial]

    @property
    def ended(self) -> list[FrozenTrial]:
        """Ended trials."""
        return [trial for trial in self.trials if trial.state.is_finished()]

    @property
    def complete(self) -> list[FrozenTrial]:
        """Trials with their whole budget."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def diverged(self) -> list[FrozenTrial]:
        """Trials that ended with non-finite values, or whose values the agent refused."""
        return [trial for trial in self.ended if "diverged" in trial.user_attrs]

    @property
    def random_count(self) -> int:
        """Number of trials with random values, because too few trials had ended when they began."""
        ends = [
            t.datetime_complete for t in self.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]
        starts = [t.datetime_start for t in self.trials if t.number > 0 and t.datetime_start]
        return sum(sum(1 for end in ends if end and end <= start) < STARTUP for start in starts)

    @property
    def default_trial(self) -> FrozenTrial | None:
        """The complete trial of the default configuration."""
        return next((trial for trial in self.complete if trial.number == 0), None)

    @property
    def best_trial(self) -> FrozenTrial | None:
        """The trial with the highest return; with an activity, the lowest activity among nearly best returns."""
        if not self.complete:
            return None
        top = max(trial.values[0] for trial in self.complete)
        near = [trial for trial in self.complete if trial.values[0] >= top - NEAR_BEST_SHARE * abs(top)]
        return min(near, key=lambda t: (t.values[1] if len(t.values) > 1 else -t.values[0], t.number))

    @property
    def first_rung_returns(self) -> dict[int, float]:
        """First-rung return by trial number, excluding the default configuration."""
        sampled = [trial for trial in self.trials if trial.number > 0]
        return {trial.number: value for trial in sampled if (value := get_first_return(trial)) is not None}

    @property
    def default_return(self) -> float | None:
        """First-rung return of the default configuration."""
        return None if self.default_trial is None else get_first_return(self.default_trial)

    @property
    def sensitivity(self) -> Interval | None:
        """Median and quartiles of first-rung returns; None for fewer than two."""
        returns = list(self.first_rung_returns.values())
        if len(returns) < 2:
            return None
        low, median, high = statistics.quantiles(returns, n=4, method="inclusive")
        return Interval(median, low, high)

    def compute_importances(self) -> Mapping[str, float]:
        """Return each parameter's share in making a trial one of the best at the first rung (PED-ANOVA); empty for few trials."""
        firsts = self.first_rung_returns
        if len(firsts) < MIN_TRIALS:
            return {}
        study = optuna.create_study(direction="maximize")
        for trial in (trial for trial in self.trials if trial.number in firsts):
            content = {"params": trial.params, "distributions": trial.distributions}
            study.add_trial(optuna.trial.create_trial(**content, value=firsts[trial.number]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PED-ANOVA is experimental; equal returns give equal importances
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
            return optuna.importance.get_param_importances(study, evaluator=evaluator)


def get_first_return(trial: FrozenTrial) -> float | None:
    """Return the first-rung return of a ``trial``; None if it ended before."""
    return trial.intermediate_values.get(0, trial.values[0] if trial.values else None)


def collect_outcomes(search: TuningSearch) -> list[TuningOutcome]:
    """Return the outcomes of all pairs of a ``search``."""
    return [TuningOutcome(pair, study.get_trials(deepcopy=False)) for pair, study in search.studies.items()]


def get_overrides(search: TuningSearch, pair: AgentTask, trial: FrozenTrial) -> list[str]:
    """Return the overrides of the agent in a ``trial`` of a ``pair``."""
    sampled = [d for d in pair.dimensions if d.key in trial.params]
    chosen = [text for d in sampled for text in d.make_overrides(trial.params[d.key])]
    return [*search.tuning.space.fixed_overrides, *chosen] if trial.number else []


def write_tuned(search: TuningSearch) -> bool:
    """Write the tuned values of a ``search`` if every agent has had all trials on every task; return whether all have ended.

    Raises StudyError that names an agent without a complete trial, after the values of the others are written.
    """
    tuning, pairs = search.tuning, collect_outcomes(search)
    facts = tuning_file.facts if (tuning_file := read_tuning(search.out)) else {}
    tasks: dict[str, dict[str, object]] = {}
    if any(len(outcome.ended) < tuning.trials for outcome in pairs):
        return False
    incomplete = list[str]()
    for outcome in pairs:
        if (best := outcome.best_trial) is None:
            incomplete.append(f"{outcome.pair.agent_name} on {outcome.pair.task_label}")
            continue
        layer = parse_overrides(get_overrides(search, outcome.pair, best))
        values = dict(zip(["return", tuning.minimized_activity], best.values, strict=False))
        tasks.setdefault(outcome.pair.task_label, {})[outcome.pair.agent_name] = {
            "trial": best.number,
            **values,
            "agent": layer,
            **{key: facts[name] for key, name in outcome.pair.facts.items() if name in facts},
        }
    head = {
        "version": 1,
        "tuning": tuning.space.name,
        "trials": tuning.trials,
        "seeds": list(tuning.study.seeds),
    }
    budget = "; ".join(dict.fromkeys(f"{o.pair.task_label}: {o.pair.budget.text}" for o in pairs))
    text = yaml.safe_dump({**head, "budget": budget, "tasks": tasks}, sort_keys=False)
    if tasks:
        files.write_text(search.out / FILE_NAME, text)
    if incomplete:
        raise StudyError(f"--trials {tuning.trials}: no complete one of {', '.join(incomplete)}; give more")
    return True
