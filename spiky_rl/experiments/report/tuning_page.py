"""A tuning's page: three figures of every agent on every task, the tuned values, and the importance of every parameter.

Default: the return of the agent as its file has it. Tuned: that of the best trial. Sensitivity: how the returns of all sampled trials
are spread at the first rung, which all of them reach, beside the default's there; an agent that is hard to tune has few good ones. All
are of a trial's budget and of tuning seeds: what a tuned agent scores is for a study with other seeds to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from optuna.trial import FrozenTrial

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
    format_count,
    format_fixed,
    format_interval,
    join_names,
    make_figure,
    make_paragraph,
    slug,
    table,
)
from spiky_rl.experiments.report.drawing import WIDTH, add_legend, draw_interval, make_rows
from spiky_rl.experiments.report.pages import write_pages
from spiky_rl.experiments.run.tuning import ACTIVITIES, PRUNED_FROM, SHARE, STARTUP
from spiky_rl.experiments.run.tuning_search import TuningSearch

FIXED = "The best of many trials looks better than it is: a study with other seeds tells what it is worth."

DEFAULT_MARKER: Mapping[str, Any] = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 1.4}
"""How figures mark the agent as it is."""


def write_tuning_page(search: TuningSearch, facts: Mapping[str, str]) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ from the trials of a ``search`` that there are; returns the two pages.

    ``facts`` are what the trials are made from, by name.
    """
    pairs = collect_outcomes(search)
    dimensions = {o.pair.stem: o.pair.dimensions for o in pairs}
    anns = [stem for stem, own in dimensions.items() if not any("network." in d.key for d in own)]
    colours = figures.assign_colors(dimensions, anns)
    by_task = {o.pair.label: [p for p in pairs if p.pair.label == o.pair.label] for o in pairs}
    failed = {
        f"{o.pair.stem} trial{t.number} on {o.pair.label}": t.user_attrs["diverged"]
        for o in pairs
        for t in o.diverged
    }
    failed |= search.broken
    activity = search.tuning.activity
    answers = [block for task, own in by_task.items() for block in answer(task, own, activity)]
    sections = [
        Section("answer", "In short", [*answers, *describe_effort(search, pairs), make_paragraph(FIXED)]),
        Section("design", "Design", [Block("terms", items=[*design(search, pairs), *format_facts(facts)])]),
        *(Section(slug(task), task, list(build_task_blocks(search, colours, task, own))) for task, own in by_task.items()),
        Section("failed", "Failed trials", [Block("list", items=[(f"{k}.", v) for k, v in failed.items()])] if failed else []),
    ]  # fmt: skip
    ended, wanted = sum(len(o.ended) for o in pairs), search.tuning.trials * len(pairs)
    subtitle = (
        f"Tuning in the space {search.tuning.space.name}: {ended} of {format_count(wanted, 'trial')} ended"
    )
    title = f"What does tuning change of {join_names(dimensions)}?"
    return write_pages(search.out, title, subtitle, sections, colours, None)


def answer(task: str, pairs: Sequence[TuningOutcome], activity: str) -> Iterable[Block]:
    """How many agents tuning changed, and from what to what.

    Args:
        task: The task's label.
        pairs: The agents on it.
        activity: The second objective; empty: there is none.
    """
    complete = [best for o in pairs if (best := o.best_trial) is not None]
    changed = sum(best.number > 0 for best in complete)
    yield make_paragraph(
        f"{task}: tuning changed {changed} of {format_count(len(pairs), 'agent')}; {len(pairs) - len(complete)} without a complete trial."
    )
    yield table(
        f"What tuning changed on {task}", [o.pair.stem for o in pairs],
        (Column("default", "return"), [objective(o.default_trial, 0) for o in pairs]),
        (Column("tuned", "return"), [objective(o.best_trial, 0) for o in pairs]),
        (Column("default", activity), [objective(o.default_trial, 1) for o in pairs]),
        (Column("tuned", activity), [objective(o.best_trial, 1) for o in pairs]),
        (Column("tuned", "trial"), [NONE if o.best_trial is None else str(o.best_trial.number) for o in pairs]),
        note="Return of tuning seeds after a trial's budget. Trial 0 is the agent as it is.",
    )  # fmt: skip


def describe_effort(search: TuningSearch, pairs: Sequence[TuningOutcome]) -> Iterable[Block]:
    """Yield how many trials of a ``search`` were drawn at random, and whether it has too few.

    Args:
        search: The tuning's.
        pairs: All agents on all tasks.
    """
    tuning, drawn = search.tuning, sorted({o.random_count for o in pairs})
    span = " to ".join(dict.fromkeys(map(str, (drawn[0], drawn[-1]))))
    yield make_paragraph(
        f"Of {format_count(tuning.trials, 'trial')} of an agent on a task the first is the agent as it is, and {span} were drawn at random:"
        f" Optuna's estimator chooses values once {STARTUP} trials are over."
    )
    if shortfall := find_shortfall(tuning.trials, len(tuning.study.seeds)):
        yield make_paragraph(
            f"The tuning has {shortfall}: what so few choose is chance as much as merit, and may be worse than the agent as it is."
        )


def design(search: TuningSearch, pairs: Sequence[TuningOutcome]) -> Iterable[tuple[str, str]]:
    """The design of a ``search``: its values and terms; ``pairs`` are all agents on all tasks."""
    tuning = search.tuning
    yield "Agents", ", ".join(tuning.study.agents)
    yield "Trials", f"{tuning.trials} of every agent on every task; the first is the agent as it is"
    yield "Seeds", f"{', '.join(map(str, tuning.study.seeds))}, in every trial; studies that use the values have others"
    for pair in {o.pair.label: o.pair for o in pairs}.values():
        yield f"Trial on {pair.label}", f"{pair.budget.text}, {SHARE:.0%} of a whole training"
    if tuning.activity:
        least = f"tuned is the least activity whose return lacks at most {NEAR_BEST_SHARE:.0%} of the highest"
        yield "Objectives", f"a high return and a low {ACTIVITIES[tuning.activity]}; {least}; no trial is ended early"
    else:
        rungs = join_names(f"{share:.0%}" for share in tuning.rungs[:-1])
        yield "Pruning", (
            f"after {rungs} of its budget a trial ends that is below the median of complete ones, from {PRUNED_FROM} of them on"
        )
    shared = format_count(len(tuning.space.shared), "dimension")
    yield "Space", f"{tuning.space.name}: {shared} that all share, the others of each agent's own, equally many"
    yield "Search", f"Optuna's tree-structured Parzen estimator, once {STARTUP} trials are over; until then values are random"
    yield "Evaluation", f"without exploration noise, {format_count(tuning.study.episodes, 'episode')} that training did not see"


def format_facts(facts: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """The ``facts`` that trials are made from, as a page says them; budgets stand there already."""
    return ((f"{k[0].upper()}{k[1:]}", v) for k, v in facts.items() if not k.startswith("budget"))


def build_task_blocks(
    search: TuningSearch, colours: Mapping[str, str], task: str, pairs: Sequence[TuningOutcome]
) -> Iterable[Block]:
    """The three figures of a task, in numbers and drawn; the importance of every parameter; the tuned values.

    Args:
        search: The tuning's.
        colours: Colours of all agents, by file stem.
        task: The task's label.
        pairs: The agents on it.
    """
    stems, activity = [o.pair.stem for o in pairs], search.tuning.activity
    share = search.tuning.rungs[0]
    first = f"after {share:.0%} of its budget" if share < 1.0 else "after its whole budget"
    said = f"Sensitivity: return of every sampled trial {first}; the agent as it is, trial 0, is not one of them."
    yield table(
        f"Return on {task}", stems,
        (Column("default"), [objective(o.default_trial, 0) for o in pairs]),
        (Column("tuned"), [objective(o.best_trial, 0) for o in pairs]),
        (Column("sensitivity", "median and quartiles"), [format_interval(o.sensitivity) for o in pairs]),
        (Column("default", "at that point"), [NONE if o.default_return is None else format_fixed(o.default_return) for o in pairs]),
        (Column("default", activity), [objective(o.default_trial, 1) for o in pairs]),
        (Column("tuned", activity), [objective(o.best_trial, 1) for o in pairs]),
        (Column("trials"), [str(len(o.ended)) for o in pairs]),
        (Column("drawn at random"), [str(o.random_count) for o in pairs]),
        (Column("complete"), [str(len(o.complete)) for o in pairs]),
        (Column("diverged"), [str(len(o.diverged)) for o in pairs]),
        note=f"{said} Trials that are not complete were ended early or diverged.",
    )  # fmt: skip
    yield from make_figure(
        f"tuning_{slug(task)}", f"Default, tuned and sensitivity on {task}",
        f"Default: return of the agent as it is; tuned: of the best trial; both after the whole budget of a trial. {said}"
        " Dots, with median and quartiles; the ring is the agent as it is at the same point.",
        lambda: draw_returns(colours, pairs),
    )  # fmt: skip
    if activity:
        yield from make_figure(
            f"activity_{slug(task)}", f"Return and activity on {task}",
            f"Trials by return and {ACTIVITIES[activity]}. Rings: the agents as they are; large dots: tuned.",
            lambda: draw_activity(activity, colours, pairs),
        )  # fmt: skip
    shares = {o.pair.stem: o.importances() for o in pairs}
    keys = list(dict.fromkeys(d.key for o in pairs for d in o.pair.dimensions))
    if any(shares.values()):
        cells = (
            [format_fixed(100 * own[k], 0) if k in own else NONE for k in keys] for own in shares.values()
        )
        yield table(
            f"Importance of parameters on {task}, in %", [key.removeprefix("agent.") for key in keys],
            *zip(map(Column, shares), cells, strict=True), first="parameter",
            note=f"Share in what makes a trial one of the best {QUANTILE:.0%} {first} (PED-ANOVA); rough where trials are few.",
        )  # fmt: skip
    else:
        yield make_paragraph(
            f"The importance of parameters is estimated from {MIN_TRIALS} trials on, the agent as it is not counted."
        )
    best = {
        o.pair.stem: [] if o.best_trial is None else get_overrides(search, o.pair, o.best_trial)
        for o in pairs
    }
    tuned = {stem: dict(text.split("=", 1) for text in own) for stem, own in best.items()}
    if keys := list(dict.fromkeys(key for own in tuned.values() for key in own)):
        columns = (
            (Column(stem), [format_override_value(own.get(key, NONE)) for key in keys])
            for stem, own in tuned.items()
        )
        yield table(
            f"Tuned values on {task}", [k.removeprefix("agent.") for k in keys], *columns, first="parameter"
        )


def objective(trial: FrozenTrial | None, index: int) -> str:
    """The return of a ``trial`` or, at ``index`` 1, its activity, if it has one."""
    if trial is None or len(trial.values) <= index:
        return NONE
    return format_fixed(trial.values[index]) if index == 0 else f"{trial.values[index]:.3g}"


def format_override_value(text: str) -> str:
    """The ``text`` of an override's value, a number with three digits that count."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def draw_returns(colours: Mapping[str, str], pairs: Sequence[TuningOutcome]) -> Figure | None:
    """Draw default, tuned and sensitivity of ``pairs`` side by side, a row for each agent in its colour."""
    shown = [o for o in pairs if o.complete]
    if not shown:
        return None
    titles = [(what, "return") for what in ("default", "tuned", "sensitivity")]
    figure, (default, tuned, sensitivity) = make_rows([o.pair.stem for o in shown], titles, colours)
    for axes in (tuned, sensitivity):
        axes.sharex(default)
    for y, outcome in enumerate(shown):
        colour, firsts = colours[outcome.pair.stem], list(outcome.first_rung_returns.values())
        for axes, trial in ((default, outcome.default_trial), (tuned, outcome.best_trial)):
            if trial is not None:
                draw_interval(axes, y, Interval(trial.values[0], nan, nan), colour)
        style: dict[str, Any] = {"markersize": 4, "alpha": 0.4, "markeredgewidth": 0}
        sensitivity.plot(firsts, [y] * len(firsts), "o", color=colour, **style)
        if (spread := outcome.sensitivity) is not None:
            sensitivity.plot([spread.low, spread.high], [y, y], color=colour, linewidth=2.2)
            sensitivity.plot([spread.estimate], [y], "|", color=colour, markersize=11, markeredgewidth=2)
        if outcome.default_return is not None:
            sensitivity.plot([outcome.default_return], [y], "o", **DEFAULT_MARKER, color=colour)
    return figure


def draw_activity(activity: str, colours: Mapping[str, str], pairs: Sequence[TuningOutcome]) -> Figure | None:
    """Draw return over ``activity`` of ``pairs``, a dot for each trial in its agent's colour."""
    shown = [o for o in pairs if o.complete]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    axes.set(xlabel=ACTIVITIES[activity], ylabel="return")
    for outcome in shown:
        for trials, style in (
            (outcome.complete, {"markersize": 4, "alpha": 0.45, "markeredgewidth": 0}),
            ([outcome.default_trial], DEFAULT_MARKER),
            ([outcome.best_trial], {"markersize": 9, "markeredgecolor": "white", "label": outcome.pair.stem}),
        ):
            points = [trial.values for trial in trials if trial is not None]
            colour = colours[outcome.pair.stem]
            axes.plot([p[1] for p in points], [p[0] for p in points], "o", color=colour, **style)
    add_legend(figure)
    return figure
