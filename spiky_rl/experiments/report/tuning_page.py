"""A tuning's page: returns of every agent on every task, tuned values, and the importance of every parameter.

Default: the return of the default configuration. Tuned: that of the best trial. Sensitivity: the spread of the returns of all sampled
trials at the first rung, which all of them reach, with the default's there; an agent that is hard to tune has few good ones. All returns
come from tuning seeds after a trial's budget; a study with other seeds measures the tuned agents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from optuna.trial import FrozenTrial

from spiky_rl.config.progress import format_count
from spiky_rl.config.tuned_values import find_shortfall
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.analysis.tuning_outcome import (
    MIN_TRIALS,
    NEAR_BEST_SHARE,
    QUANTILE,
    TuningOutcome,
    collect_outcomes,
    get_overrides,
)
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (  # fmt: skip
    NONE,
    Block,
    Column,
    Section,
    format_fixed,
    format_interval,
    join_names,
    make_figure,
    make_paragraph,
    make_slug,
    make_table,
)
from spiky_rl.experiments.report.drawing import WIDTH, add_legend, draw_interval, make_rows
from spiky_rl.experiments.report.pages import write_pages
from spiky_rl.experiments.run.tuning import ACTIVITIES, PRUNED_FROM, SHARE, STARTUP
from spiky_rl.experiments.run.tuning_search import TuningSearch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAUTION = "The best of many trials looks better than it is: a study with other seeds measures it."

DEFAULT_MARKER: Mapping[str, Any] = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 1.4}
"""Style of the default configuration in figures."""


def write_tuning_page(search: TuningSearch, facts: Mapping[str, str]) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ from the trials of a ``search`` and return the two pages.

    ``facts`` are hashes, robots, physics and versions of the trials, by name.
    """
    outcomes = collect_outcomes(search)
    dimensions = {o.pair.agent_name: o.pair.dimensions for o in outcomes}
    anns = [stem for stem, own in dimensions.items() if not any("network." in d.key for d in own)]
    colours = figures.assign_colors(dimensions, anns)
    by_task = defaultdict[str, list[TuningOutcome]](list)
    for outcome in outcomes:
        by_task[outcome.pair.task_label].append(outcome)
    answers, task_sections = list[Block](), list[Section]()
    for task, own in by_task.items():
        answers += build_answer(task, own, search.tuning.minimized_activity)
        task_sections.append(Section(make_slug(task), task, [*build_task_blocks(search, colours, task, own)]))
    sections = [
        Section("answer", "In short", [*answers, *describe_effort(search, outcomes), make_paragraph(CAUTION)]),
        Section("design", "Design", [Block("terms", items=[*list_terms(search, outcomes), *format_facts(facts)])]),
        *task_sections,
        Section("failed", "Failed trials", list_failed_trials(search, outcomes)),
    ]  # fmt: skip
    ended, planned = sum(len(o.ended) for o in outcomes), search.tuning.trials * len(outcomes)
    subtitle = (
        f"Tuning in the space {search.tuning.space.name}: {ended} of {format_count(planned, 'trial')} ended"
    )
    title = f"What does tuning change in {join_names(dimensions)}?"
    return write_pages(search.out, title, subtitle, sections, colours, None)


def list_failed_trials(search: TuningSearch, outcomes: Sequence[TuningOutcome]) -> list[Block]:
    """Return a list of the trials that diverged, were refused or failed, each with the reason; no block if there is none."""
    reasons: dict[str, str] = {}
    for outcome in outcomes:
        for trial in outcome.diverged:
            name = f"{outcome.pair.agent_name} trial{trial.number} on {outcome.pair.task_label}"
            reasons[name] = trial.user_attrs["diverged"]
    items = [(f"{name}.", reason) for name, reason in {**reasons, **search.broken}.items()]
    return [Block("list", items=items)] if items else []


def build_answer(task: str, outcomes: Sequence[TuningOutcome], activity: str) -> Iterable[Block]:
    """Yield the number of agents that tuning changed on a ``task``, and their values before and after.

    ``activity`` is the second objective; empty if there is none.
    """
    complete = [best for o in outcomes if (best := o.best_trial) is not None]
    changed = sum(best.number > 0 for best in complete)
    yield make_paragraph(
        f"{task}: tuning changed {changed} of {format_count(len(outcomes), 'agent')};"
        f" {len(outcomes) - len(complete)} without a complete trial."
    )
    numbers = [NONE if o.best_trial is None else str(o.best_trial.number) for o in outcomes]
    yield make_table(
        f"Changes by tuning on {task}",
        [o.pair.agent_name for o in outcomes],
        *_make_objective_columns(outcomes, 0, "return"),
        *_make_objective_columns(outcomes, 1, activity),
        Column("tuned", numbers, "trial"),
        note="Return of tuning seeds after a trial's budget. Trial 0 is the default configuration.",
    )


def _make_objective_columns(outcomes: Sequence[TuningOutcome], index: int, unit: str) -> Iterable[Column]:
    """Yield the columns of the default and the best trial's objective ``index``."""
    yield Column("default", [format_objective(o.default_trial, index) for o in outcomes], unit)
    yield Column("tuned", [format_objective(o.best_trial, index) for o in outcomes], unit)


def describe_effort(search: TuningSearch, outcomes: Sequence[TuningOutcome]) -> Iterable[Block]:
    """Yield the number of trials with random values, and whether there are too few trials."""
    tuning, random_counts = search.tuning, sorted({o.random_count for o in outcomes})
    span = " to ".join(dict.fromkeys(map(str, (random_counts[0], random_counts[-1]))))
    yield make_paragraph(
        f"Of {format_count(tuning.trials, 'trial')} of an agent on a task the first is the default configuration, and {span} were"
        f" drawn at random: Optuna's estimator chooses values once {STARTUP} trials have ended."
    )
    if shortfall := find_shortfall(tuning.trials, len(tuning.study.seeds)):
        yield make_paragraph(
            f"The tuning has {shortfall}: such a choice is chance as much as merit, and may be worse than the default configuration."
        )


def list_terms(search: TuningSearch, outcomes: Sequence[TuningOutcome]) -> Iterable[tuple[str, str]]:
    """Yield (term, text) for every term of a tuning."""
    tuning = search.tuning
    yield "Agents", ", ".join(tuning.study.agents)
    yield "Trials", f"{tuning.trials} of every agent on every task; the first is the default configuration"
    yield "Seeds", f"{', '.join(map(str, tuning.study.seeds))}, in every trial; studies with the tuned values have others"
    for pair in {o.pair.task_label: o.pair for o in outcomes}.values():
        yield f"Trial on {pair.task_label}", f"{pair.budget.text}, {SHARE:.0%} of a whole training"
    if tuning.minimized_activity:
        least = f"tuned is the least activity among returns that lack at most {NEAR_BEST_SHARE:.0%} of the highest"
        yield "Objectives", f"a high return and a low {ACTIVITIES[tuning.minimized_activity]}; {least}; no trial ends early"
    else:
        rungs = join_names(f"{share:.0%}" for share in tuning.rungs[:-1])
        yield "Pruning", (
            f"after {rungs} of its budget a trial whose best return so far is below the median of complete ones ends, from {PRUNED_FROM} complete ones on"
        )
    shared = format_count(len(tuning.space.shared), "dimension")
    yield "Space", f"{tuning.space.name}: {shared} shared by all, the others of each agent's own, equally many"
    yield "Search", f"Optuna's tree-structured Parzen estimator, once {STARTUP} trials have ended; random values before"
    yield "Evaluation", f"without exploration noise, {format_count(tuning.study.episodes, 'episode')} that training did not see"


def format_facts(facts: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return the ``facts`` of trials as terms, without budgets, which have terms already."""
    return ((f"{k[0].upper()}{k[1:]}", v) for k, v in facts.items() if not k.startswith("budget"))


def make_importance_block(task: str, outcomes: Sequence[TuningOutcome], first: str) -> Block:
    """Return the table of the importance of every parameter on a ``task``, or a paragraph if there are too few trials.

    ``first`` says when the returns were measured.
    """
    shares = {o.pair.agent_name: o.compute_importances() for o in outcomes}
    if not any(shares.values()):
        return make_paragraph(
            f"The importance of parameters is estimated from {MIN_TRIALS} sampled trials on, without the default configuration."
        )
    return make_parameter_table(
        f"Importance of parameters on {task}, in %",
        list(dict.fromkeys(d.key for o in outcomes for d in o.pair.dimensions)),
        {stem: {key: format_fixed(100 * v, 0) for key, v in own.items()} for stem, own in shares.items()},
        note=f"Share in making a trial one of the best {QUANTILE:.0%} {first} (PED-ANOVA); rough for few trials.",
    )


def build_task_blocks(
    search: TuningSearch, colours: Mapping[str, str], task: str, outcomes: Sequence[TuningOutcome]
) -> Iterable[Block]:
    """Yield the returns of all agents on a ``task`` as table and figure, the importance of every parameter, and the tuned values."""
    activity, share = search.tuning.minimized_activity, search.tuning.rungs[0]
    first = f"after {share:.0%} of its budget" if share < 1.0 else "after its whole budget"
    note = f"Sensitivity: return of every sampled trial {first}, without the default configuration, trial 0."
    yield make_returns_table(task, outcomes, activity, note)
    yield from make_figure(
        f"tuning_{make_slug(task)}", f"Default, tuned and sensitivity on {task}",
        f"Default: return of the default configuration; tuned: of the best trial; both after the whole budget of a trial. {note}"
        " Dots, with median and quartiles; the ring is the default configuration at the same point.",
        lambda: draw_returns(colours, outcomes),
    )  # fmt: skip
    if activity:
        yield from make_figure(
            f"activity_{make_slug(task)}", f"Return and activity on {task}",
            f"Trials by return and {ACTIVITIES[activity]}. Rings: default configurations; large dots: tuned.",
            lambda: draw_activity(activity, colours, outcomes),
        )  # fmt: skip
    yield make_importance_block(task, outcomes, first)
    tuned = {outcome.pair.agent_name: list_tuned_values(search, outcome) for outcome in outcomes}
    if keys := list(dict.fromkeys(key for values in tuned.values() for key in values)):
        yield make_parameter_table(f"Tuned values on {task}", keys, tuned)


def make_returns_table(task: str, outcomes: Sequence[TuningOutcome], activity: str, note: str) -> Block:
    """Return the table of objectives and numbers of trials on a ``task``; ``activity`` is the second objective, or empty."""
    return make_table(
        f"Return on {task}",
        [o.pair.agent_name for o in outcomes],
        *_make_objective_columns(outcomes, 0, ""),
        Column("sensitivity", [format_interval(o.sensitivity) for o in outcomes], "median and quartiles"),
        Column("default", [format_fixed(o.default_return) for o in outcomes], "at that point"),
        *_make_objective_columns(outcomes, 1, activity),
        Column("trials", [str(len(o.ended)) for o in outcomes]),
        Column("drawn at random", [str(o.random_count) for o in outcomes]),
        Column("complete", [str(len(o.complete)) for o in outcomes]),
        Column("diverged or refused", [str(len(o.diverged)) for o in outcomes]),
        note=f"{note} Trials that are not complete ended early, diverged or had values that the agent refuses.",
    )


def make_parameter_table(
    title: str, keys: Sequence[str], cells: Mapping[str, Mapping[str, str]], note: str = ""
) -> Block:
    """Return a table with a row for each of the ``keys`` and a column for each agent in ``cells``, which are by agent and key."""
    columns = (Column(stem, [values.get(key, NONE) for key in keys]) for stem, values in cells.items())
    names = [key.removeprefix("agent.") for key in keys]
    return make_table(title, names, *columns, first="parameter", note=note)


def list_tuned_values(search: TuningSearch, outcome: TuningOutcome) -> dict[str, str]:
    """Return the values of the best trial of an ``outcome`` as text by key; empty without such a trial."""
    if outcome.best_trial is None:
        return {}
    overrides = (text.split("=", 1) for text in get_overrides(search, outcome.pair, outcome.best_trial))
    return {key: format_override_value(value) for key, value in overrides}


def format_objective(trial: FrozenTrial | None, index: int) -> str:
    """Return the objective ``index`` of a ``trial``, 0 for the return and 1 for the activity; a dash if it has none."""
    if trial is None or len(trial.values) <= index:
        return NONE
    return format_fixed(trial.values[index]) if index == 0 else f"{trial.values[index]:.3g}"


def format_override_value(text: str) -> str:
    """Return the ``text`` of an override's value, numbers with three significant digits."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def draw_returns(colours: Mapping[str, str], outcomes: Sequence[TuningOutcome]) -> Figure | None:
    """Draw default, tuned and sensitivity of ``outcomes`` side by side, a row for each agent in its colour."""
    shown = [o for o in outcomes if o.complete]
    if not shown:
        return None
    titles = [(title, "return") for title in ("default", "tuned", "sensitivity")]
    figure, (default, tuned, sensitivity) = make_rows([o.pair.agent_name for o in shown], titles, colours)
    for axes in (tuned, sensitivity):
        axes.sharex(default)
    for y, outcome in enumerate(shown):
        colour = colours[outcome.pair.agent_name]
        for axes, trial in ((default, outcome.default_trial), (tuned, outcome.best_trial)):
            if trial is not None:
                draw_interval(axes, y, Interval(trial.values[0], nan, nan), colour)
        _draw_sensitivity(sensitivity, y, outcome, colour)
    return figure


def _draw_sensitivity(axes: Axes, y: float, outcome: TuningOutcome, colour: str) -> None:
    """Draw the first-rung returns of an ``outcome`` at height ``y``: sampled trials, their median and quartiles, the default."""
    returns = list(outcome.first_rung_returns.values())
    axes.plot(returns, [y] * len(returns), "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0)
    if (spread := outcome.sensitivity) is not None:
        axes.plot([spread.low, spread.high], [y, y], color=colour, linewidth=2.2)
        axes.plot([spread.estimate], [y], "|", color=colour, markersize=11, markeredgewidth=2)
    if outcome.default_return is not None:
        axes.plot([outcome.default_return], [y], "o", **DEFAULT_MARKER, color=colour)


def draw_activity(
    activity: str, colours: Mapping[str, str], outcomes: Sequence[TuningOutcome]
) -> Figure | None:
    """Draw return over ``activity`` of ``outcomes``, a dot for each trial in its agent's colour."""
    shown = [o for o in outcomes if o.complete]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.add_subplot()
    axes.set(xlabel=ACTIVITIES[activity], ylabel="return")
    for outcome in shown:
        for trials, style in (
            (outcome.complete, {"markersize": 4, "alpha": 0.45, "markeredgewidth": 0}),
            ([outcome.default_trial], DEFAULT_MARKER),
            (
                [outcome.best_trial],
                {"markersize": 9, "markeredgecolor": "white", "label": outcome.pair.agent_name},
            ),
        ):
            points = [trial.values for trial in trials if trial is not None]
            colour = colours[outcome.pair.agent_name]
            axes.plot([p[1] for p in points], [p[0] for p in points], "o", color=colour, **style)
    add_legend(figure)
    return figure
