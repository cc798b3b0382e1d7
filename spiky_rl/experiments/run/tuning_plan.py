"""The plan of a tuning: its options, its checks, and the pairs of agent and task that have trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.config.budget import Budget
from spiky_rl.config.options import Settings, UserError, error_path, option
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.tuned_values import MIN_TRIALS
from spiky_rl.experiments.design import grid, study, tuning_space
from spiky_rl.experiments.design.tunings import get_agent_name
from spiky_rl.experiments.run import tuning
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from spiky_rl.experiments.run.tuning import KERNELS, SHARE, Activity, AgentTask, TuningDesign
from spiky_rl.run.provenance import get_deciding_versions, hash_named_files
from spiky_rl.run.run_plan import RunPlan

MAX_TRIALS = 10_000


class TuneOptions(Settings):
    """Options of a tuning."""

    trials: int = option(
        MIN_TRIALS,
        "trials of every agent on every task; the first is the agent without changes",
        low=1,
        high=MAX_TRIALS,
    )
    space: str = option("pilot", "search space: file stem of spaces/, or a YAML file")
    activity: Activity | None = option(
        None, "activity of the actor to minimise, as a second objective beside the return"
    )
    storage: str | None = option(
        None,
        "URL of Optuna's storage, a database for commands on several machines; null: a file in --out",
        metavar="URL",
    )
    out: Path | None = option(None, "folder of the tuning, which all machines share; null: one in logs/tune")


def make_tuning_design(data: PlainMapping, options: TuneOptions) -> TuningDesign:
    """Return the design of a tuning from keys of a study and the ``options`` of the tuning. Raises UserError."""
    space = tuning_space.read_space(options.space)
    base = study.build_study("tuning", {**data, "conditions": ["nominal"]})
    space.require_equal(base.agents)
    given_keys = {text.partition("=")[0] for text in base.overrides}
    for dimension in (d for agent in base.agents for d in space.get_dimensions(agent)):
        if fixed_keys := given_keys & {dimension.key, *dimension.also}:
            raise UserError(
                f"{fixed_keys.pop()}: given, but it is a dimension of --space {space.name}, which trials set"
            )
    storage = "" if options.storage is None else redact_storage_url(options.storage)
    return TuningDesign(
        study=base,
        space=space,
        trials=options.trials,
        minimized_activity=options.activity or "",
        storage=storage,
    )


def redact_storage_url(url: str) -> str:
    """Return the ``url`` of a storage without its password. Raises UserError if it names no database."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    redacted = tuning.redact_url(url)
    try:
        make_url(url).get_dialect()
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        like = "sqlite:////shared/tuning.db or postgresql+psycopg://user:password@host/name"
        raise UserError(f"--storage: {redacted!r} given; allowed: a database's URL, such as {like}") from None
    if redacted.endswith("://***"):
        raise UserError(f"--storage {redacted}: has an @ in its password or name; write it as %40")
    return redacted


def get_default_folder(design: TuningDesign) -> Path:
    """Return the default folder of a tuning; more trials keep it."""
    data = {key: value for key, value in design.to_dict().items() if key != "trials"}
    return Path("logs/tune") / f"{'-'.join(design.study.agent_names)[:40]}-{grid.hash_data(data)[:6]}"


@dataclass(frozen=True)
class CheckedTuning:
    """A tuning that can run."""

    pairs: list[AgentTask]
    """Pairs of agent and task that have trials."""
    facts: dict[str, str]
    """Hashes, robots, physics and versions of its trials, by name."""


def check_tuning(design: TuningDesign, place: ExecutionOptions, robots: str) -> CheckedTuning:
    """Check a tuning and return its pairs of agent and task, each with the budget of a trial; ``robots`` names their source.

    Raises UserError if an agent learns from a teacher, or rejects an extreme or a choice of a dimension, or the first rung has less than an
    iteration.
    """
    checked = CheckedTuning([], {})
    resolve = AgentResolver(design.study, place)
    for task in design.study.tasks:
        plans = {agent: resolve(task, agent, {}) for agent in design.study.agents}
        training_budget = design.study.budget or Budget(
            "env_steps", max(map(count_env_steps, plans.values())) * place.distributed
        )
        budget = Budget(training_budget.kind, training_budget.amount * SHARE)
        for agent, plan in plans.items():
            if design.minimized_activity and plan.spec.network is None:
                raise UserError(f"--activity {design.minimized_activity}: {agent} does not spike")
            grid.check_teacher(agent, plan, teacher=None)
            dimensions = design.space.get_dimensions(agent)
            pair = AgentTask(
                task=task,
                agent=agent,
                task_label=plan.task,
                agent_name=get_agent_name(agent),
                dimensions=dimensions,
                budget=budget,
            )
            require_iterations(design, pair, plan, place)
            check_extremes(design, pair, place)
            checked.pairs.append(pair)
            checked.facts.update(collect_facts(pair, plan, place))
    checked.facts["robots"] = robots
    return checked


def count_env_steps(plan: RunPlan) -> int:
    """Return the environment steps of a training in one process with the number of iterations of ``plan``."""
    return plan.get_setting("max_iterations") * plan.num_envs * plan.get_setting("num_steps_per_env")


def require_iterations(design: TuningDesign, pair: AgentTask, plan: RunPlan, place: ExecutionOptions) -> None:
    """Raise UserError if the first of several rungs has less than an iteration: two rungs would end after the same iteration."""
    if pair.budget.kind != "env_steps" or len(design.rungs) == 1:
        return
    steps = plan.num_envs * plan.get_setting("num_steps_per_env") * place.distributed
    first = pair.budget.amount * design.rungs[0]
    if first >= steps:
        return
    least = math.ceil(steps / (SHARE * design.rungs[0]))
    budget = design.study.budget or f"none given, so env_steps={pair.budget.amount / SHARE:.12g}"
    raise UserError(
        f"--budget: {budget}: the first rung of {pair.agent_name} on {pair.task_label} has {first:.12g} environment steps, less than an"
        f" iteration of {steps}; allowed: env_steps={least} or more"
    )


def check_extremes(design: TuningDesign, pair: AgentTask, place: ExecutionOptions) -> None:
    """Raise UserError if the agent of a ``pair`` rejects an extreme or a choice of one of its dimensions, or `require_iterations` does."""
    for i in range(max(len(d.extremes) for d in pair.dimensions)):
        extremes = ((d, d.extremes[min(i, len(d.extremes) - 1)]) for d in pair.dimensions)
        values = [text for dimension, value in extremes for text in dimension.make_overrides(value)]
        trial_study = design.make_trial_study(pair, [*design.space.fixed_overrides, *values])
        with error_path(f"--space {design.space.name}: {pair.agent_name} on {pair.task_label}"):
            plan = AgentResolver(trial_study, place)(pair.task, pair.agent, {})
        require_iterations(design, pair, plan, place)


def collect_facts(pair: AgentTask, plan: RunPlan, place: ExecutionOptions) -> dict[str, str]:
    """Return hashes, physics and versions of the trials of a ``pair`` by name; ``plan`` is that of its whole training."""
    provenance = grid.plan_provenance(plan, place.threads)
    facts = {
        pair.facts["specification"]: plan.spec.digest,
        f"budget on {pair.task_label}": str(pair.budget),
        pair.facts["physics"]: plan.physics,
        f"task file of {pair.task_label}": grid.hash_data(grid.get_task_data(plan.task_spec)),
        f"environments of {pair.agent_name} on {pair.task_label}": str(plan.num_envs),
        "processes": str(place.distributed),
        f"{KERNELS} on {pair.task_label}": provenance.kernels,
    }
    if provenance.threads is not None:
        facts["threads"] = str(provenance.threads)
    versions = get_deciding_versions(plan.request.task, plan.library)
    facts |= {f"file {name}": digest for name, digest in hash_named_files(plan.spec.to_dict()).items()}
    return facts | {f"version of {name}": version for name, version in versions.items()}
