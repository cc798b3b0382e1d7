"""The plan of a tuning: what is asked for, checked, and what has trials of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.config.budget import Budget
from spiky_rl.config.options import UserError
from spiky_rl.experiments.design import grid, study, tuning_space
from spiky_rl.experiments.run import tuning
from spiky_rl.experiments.run.planning import Place, Resolver
from spiky_rl.experiments.run.tuning import SHARE, Pair, Tuning


def read(data: Mapping[str, Any], space: str, trials: int, activity: str, storage: str) -> Tuning:
    """What is tuned, and how. Raises UserError.

    Args:
        data: Keys of a study: agents, tasks, seeds, budget and how trials are evaluated.
        space: File stem of spaces/, or a YAML file.
        trials: Of every agent on every task.
        activity: A second objective; empty: there is the return alone.
        storage: URL of Optuna's storage; empty: a file of the tuning's folder.
    """
    dimensions = tuning_space.read(space)
    asked = study.build("tuning", {**data, "conditions": ["nominal"]})
    dimensions.require_equal(asked.agents)
    given = {text.partition("=")[0] for text in asked.overrides}
    for dimension in (d for agent in asked.agents for d in dimensions.of(agent)):
        if both := given & {dimension.key, *dimension.also}:
            raise UserError(f"{both.pop()}: is a dimension of --space {dimensions.name}; a trial sets it")
    return Tuning(asked, dimensions, trials, activity, tuning.without_password(storage))


def default_folder(asked: Tuning) -> Path:
    """Where a tuning lies that was not told where."""
    return Path("logs/tune") / f"{'-'.join(asked.study.stems)[:40]}-{grid.digest(asked.data())[:6]}"


@dataclass(frozen=True)
class Checked:
    """A tuning that can be run."""

    pairs: list[Pair]
    """What has trials of its own."""
    facts: dict[str, str]
    """What its trials are made from, by name."""


def checked(asked: Tuning, place: Place, robots: str) -> Checked:
    """What has trials of its own, with its budget.

    Args:
        asked: The tuning.
        place: Where trials run.
        robots: Which robots they have, in words.

    Raises:
        UserError: An agent does not take the ends or choices of a dimension.
    """
    found = Checked([], {})
    resolve = Resolver(asked.study, place)
    for task in asked.study.tasks:
        plans = {agent: resolve(task, agent, {}) for agent in asked.study.agents}
        steps = [
            p.setting("max_iterations") * p.num_envs * p.setting("num_steps_per_env") for p in plans.values()
        ]
        whole = asked.study.budget or Budget("env_steps", max(steps) * place.distributed)
        for agent, plan in plans.items():
            if asked.activity and plan.spec.network is None:
                raise UserError(f"--activity {asked.activity}: {agent} does not spike")
            dimensions = asked.space.of(agent)
            budget = Budget(whole.kind, whole.amount * SHARE)
            pair = Pair(task, agent, plan.task, Path(agent).stem, dimensions, budget)
            for i in range(max(len(d.ends) for d in dimensions)):
                values = [text for d in dimensions for text in d.assignments(d.ends[min(i, len(d.ends) - 1)])]
                Resolver(asked.of(pair, [*asked.space.fixed, *values]), place)(task, agent, {})
            found.pairs.append(pair)
            found.facts[f"specification of {pair.stem} on {pair.label}"] = plan.spec.digest
            found.facts[f"budget on {pair.label}"] = str(pair.budget)
            found.facts[f"physics of {pair.label}"] = plan.physics
    found.facts["robots"] = robots
    return found
