"""What a report says in words: the answer in short, the design and the threats to validity, all from the data.

No sentence claims more than intervals and tests do: better and worse are verdicts of `spiky_rl.experiments.analysis.comparisons`, and where
two things are only measured beside each other the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from spiky_rl.experiments.analysis.comparisons import Comparison
from spiky_rl.experiments.analysis.measures import PRICE
from spiky_rl.experiments.analysis.outcome import ALL, Analysis
from spiky_rl.experiments.analysis.statistics import LEVEL, Interval
from spiky_rl.experiments.report.blocks import count, listed, plain, probability, spell, spelled
from spiky_rl.experiments.report.drawing import short

OF_TASKS = ("num_envs", "episodes", "physics")
"""What tasks have of their own."""
FLAT = 0.02
"""Of the way from random actions to the score: a curve that rises more than this in its last tenth has not flattened."""


def answer(analysis: Analysis) -> list[tuple[str, str]]:
    """The answer in short: (what it is about, sentences)."""
    if not analysis.rows:
        return [("", "No cell has a result yet, so there is no answer.")]
    families = analysis.comparisons
    overall = [verdicts(analysis, name, found) for name, found in families.items() if name == ALL]
    single = grouped(
        {name: verdicts(analysis, name, found) for name, found in families.items() if name != ALL}
    )
    decided = {name for name, found in families.items() if any(c.verdict != "undecided" for c in found)}
    if ALL in decided:
        overall.append("In brackets: the difference in normalised score and its interval.")
    if decided - {ALL}:
        single.append("In brackets: the difference in return and its interval.")
    if not families:
        overall = ["Nothing is compared."]
    if not analysis.normalised:
        overall.append(unnormalised(analysis))
    if len(analysis.tasks) == 1:
        overall, single = [*single, *overall], []
    said = {
        "Score": [*overall, *extremes(analysis)],
        "Each task alone": single,
        "Learning speed": reached(analysis),
        "Robustness": kept(analysis),
        "Memory": forgotten(analysis),
        "Energy": spent(analysis),
    }
    if analysis.skipped:
        number = len(analysis.skipped), len(analysis.results) + len(analysis.skipped)
        said["Gaps"] = [f"{count(number[0], 'cell')} of {number[1]} gave no numbers; they are named below."]
    texts = {what: " ".join(text for text in texts if text) for what, texts in said.items()}
    return [(f"{what}.", text) for what, text in texts.items() if text]


def grouped(said: Mapping[str, str]) -> list[str]:
    """Sentences on tasks, those that say the same of several tasks once."""
    tasks: dict[str, list[str]] = {}
    for task, text in said.items():
        tasks.setdefault(text, []).append(task)
    return [f"{'Over' if names == [ALL] else 'On'} {listed(names)} {text}" for text, names in tasks.items()]


def extremes(analysis: Analysis) -> Iterable[str]:
    """The highest and the lowest estimate, which is no comparison."""
    found = analysis.overall
    if len(found) > 1:
        high, low = (f(found, key=lambda label: found[label].estimate) for f in (max, min))
        top, bottom = (f"{label}, {spell(found[label])}" for label in (high, low))
        unit = "normalised score" if analysis.normalised else "score"
        yield f"Interquartile mean of the {unit}, highest: {top}; lowest: {bottom}."


def verdicts(analysis: Analysis, name: str, found: Sequence[Comparison]) -> str:
    """A sentence on the comparisons with the baseline; it says where if that is over all tasks."""
    where = "Over all tasks " if name == ALL else ""
    if all(not math.isfinite(c.difference.low) for c in found):
        return f"{where}the study cannot tell: what one seed shows may be chance."
    pairs, lowest = max(c.pairs for c in found), min(c.attainable for c in found)
    if lowest >= found[0].alpha:
        return (
            f"{where}the study cannot tell any agent from {analysis.baseline}: of {count(pairs, 'pair')} and"
            f" {count(len(found), 'comparison')} no corrected p comes out below {lowest:.2g}."
        )
    parts = []
    for verdict in ("better", "worse"):
        told = sorted((c for c in found if c.verdict == verdict), key=lambda c: -abs(c.difference.estimate))
        if told:
            differences = listed((f"{c.agent} ({spell(c.difference)})" for c in told), 8)
            parts.append(
                f"{verdict} than {analysis.baseline} {'is' if len(told) == 1 else 'are'} {differences}"
            )
    open_ = [c.agent for c in found if c.verdict == "undecided"]
    if not parts:
        return f"{where}the study cannot tell any of {count(len(found), 'agent')} from {analysis.baseline}."
    if open_:
        parts.append(f"undecided {'is' if len(open_) == 1 else 'are'} {listed(open_, 8)}")
    return f"{where}{'; '.join(parts)}."


def unnormalised(analysis: Analysis) -> str:
    """Why there are no normalised scores, or nothing."""
    if analysis.normalised:
        return ""
    wanted, tasks = analysis.design.baseline, analysis.tasks
    if analysis.baseline is None:
        reason = f"the baseline {wanted} has no result"
    elif lacking := [task for task in tasks if task not in analysis.random]:
        reason = f"random actions have no result on {listed(lacking)}"
    elif lacking := [task for task in tasks if task not in analysis.reference]:
        reason = f"the baseline {wanted} has no result on {listed(lacking)}"
    else:
        reason = f"the baseline {wanted} is no better than random actions on every task"
    return f"Scores are raw, because {reason}: they have no common scale over tasks."


def reached(analysis: Analysis) -> Iterable[str]:
    """How many runs solved each task, and which agent soonest."""
    for task, solved in analysis.solved.items():
        found = {
            l: r.threshold for (l, t), r in analysis.rows.items() if t == task and r.threshold is not None
        }
        if not found:
            continue
        solvers, runs = sum(t.reached for t in found.values()), sum(t.runs for t in found.values())
        text = f"On {task}, {solvers} of {count(runs, 'run')} reached a return of {solved:g} while training"
        medians = {label: t.median for label, t in found.items() if t.median is not None}
        if medians:
            first = min(medians, key=medians.__getitem__)
            text += f"; the lowest median is that of {first}, {short(medians[first])} environment steps"
            if first != (baseline := analysis.baseline) and baseline in found:
                other = medians.get(baseline)
                text += f" ({baseline}: {short(other) if other is not None else 'not reached by half of its runs'})"
            text += ", which no test backs"
        yield f"{text}."


def apart(found: dict[str, Interval], baseline: str) -> tuple[list[str], list[str]]:
    """Labels whose interval lies above the baseline's, and those whose interval lies below."""
    own = found[baseline]
    above = [label for label, interval in found.items() if interval.low > own.high]
    return above, [label for label, interval in found.items() if interval.high < own.low]


def beside(found: dict[str, Interval], baseline: str | None, more: str, less: str) -> str:
    """How the others' intervals lie to the baseline's: a clause, or nothing where it has none."""
    if baseline not in found or not math.isfinite(found[str(baseline)].low):
        return ""
    above, below = apart(found, str(baseline))
    parts = [f"{more}: {listed(above)}" if above else "", f"{less}: {listed(below)}" if below else ""]
    told = "; ".join(part for part in parts if part)
    return (
        f" Intervals apart from that, {told}." if told else " No other agent's interval lies apart from that."
    )


def kept(analysis: Analysis) -> Iterable[str]:
    """Which disturbance costs most, and whom."""
    for task in analysis.tasks:
        shares: dict[str, dict[str, Interval]] = {}
        for (label, other, condition), found in analysis.kept.items():
            if other == task and found.share is not None:
                shares.setdefault(condition, {})[label] = found.share
        baseline = analysis.baseline
        means = {
            name: sum(share.estimate for share in found.values()) / len(found)
            for name, found in shares.items()
        }
        if not means:
            continue
        worst = min(means, key=means.__getitem__)
        if baseline not in shares[worst]:
            yield f"On {task}, {worst} costs most: agents keep {100 * means[worst]:.0f} % of their score on average."
            continue
        own = spell(shares[worst][str(baseline)], 0, 100)
        text = f"On {task}, {worst} costs most: {baseline} keeps {own} % of its score."
        yield text + beside(shares[worst], baseline, "more is kept by", "less by")


def forgotten(analysis: Analysis) -> Iterable[str]:
    """What hiding velocities costs."""
    for task, masked in dict.fromkeys((m.task, m.masked) for m in analysis.memory):
        drops = {m.label: m.drop for m in analysis.memory if (m.task, m.masked) == (task, masked)}
        if analysis.baseline in drops:
            own = spell(drops[str(analysis.baseline)])
            text = f"From {task} to {masked}, {analysis.baseline} loses {own} of its return."
            yield text + beside(drops, analysis.baseline, "more is lost by", "less by")


def spent(analysis: Analysis) -> Iterable[str]:
    """What an action costs, and who is on the front of score and energy."""
    said, fronts, baseline = {}, [], str(analysis.baseline)
    for task in analysis.tasks:
        rows = [(l, analysis.rows[l, task]) for l in analysis.labels if (l, task) in analysis.rows]
        steps = {label: row.energy[PRICE].step for label, row in rows if PRICE in row.energy}
        costs = {label: step.estimate for label, step in steps.items() if label not in analysis.anns}
        if not costs or baseline not in steps:
            continue
        cheapest = min(costs, key=costs.__getitem__)
        own, other = spelled([steps[baseline], steps[cheapest]], each=True)
        said[task] = (
            f"a control step's arithmetic takes {own} nJ in {baseline} and {other} nJ in {cheapest}, the thriftiest agent"
            f" that spikes ({PRICE}, without any memory traffic)."
        )
        fronts.append(f"{listed(analysis.fronts[task])} on {task}")
    yield from grouped(said)
    if fronts:
        yield f"No agent is estimated above these in both score and energy: {'; '.join(fronts)}."


def design(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """What was compared, under which terms."""
    asked = analysis.design
    yield "Agents", ", ".join(f"{a} (baseline)" if a == asked.baseline else a for a in asked.agents)
    for key, values in asked.vary.items():
        yield "Varied", f"{key}: {', '.join(map(str, values))}"
    yield "Tasks", ", ".join(asked.tasks)
    yield "Seeds", f"{', '.join(map(str, asked.seeds))} ({count(len(asked.seeds), 'seed')} per agent, variant and task)"
    own = "each task's own number of iterations"
    yield "Budget", own if asked.budget is None else f"{asked.budget.text} per training"
    yield "Environments", f"{asked.num_envs:,} at once" if asked.num_envs else "each task's own number"
    if asked.tuning:
        yield "Tuning", f"agents have the values of {asked.tuning}, found with other seeds; tuned.yaml is a copy"
    if asked.overrides:
        yield "Overrides", " ".join(asked.overrides)
    yield "Learning", f"PPO of {asked.library}"
    yield "Robots", listed(sorted({result.assets for result in analysis.results})) or "not known yet"
    yield "Physics", listed(sorted({result.physics for result in analysis.results})) or "not known yet"
    yield "Score", (
        f"mean return of the final, deterministic policy over {count(asked.episodes, 'undisturbed episode')} that training"
        " did not see; one score per seed"
    )
    if analysis.normalised:
        anchors = (
            f"{plain(analysis.random[t])} and {plain(analysis.reference[t])} on {t}" for t in analysis.tasks
        )
        yield "Normalised", f"0 is the score of random actions, 1 the mean score of {analysis.baseline}: {listed(anchors)}"
    else:
        yield "Normalised", unnormalised(analysis)
    yield "Intervals", (
        f"{100 * LEVEL:g} %, over seeds, as 4.89 [4.85, 4.92]: estimate, lower and upper bound; bootstrap within tasks,"
        " corrected for few seeds"
    )
    yield "Verdicts", (
        "better or worse only where the sign-flip test of paired seeds, corrected by Holm, and the interval of the difference"
        " agree; else undecided"
    )


def threats(analysis: Analysis) -> list[tuple[str, str]]:
    """(What, why) for all that may make the answer wrong, from the strongest on."""
    found = [*doubts(analysis), *unequal(analysis)]
    return [(f"{what}.", why) for what, why in found if why]


def doubts(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """What the study's design and its results leave open."""
    trained = [result for result in analysis.results if result.kind == "trained"]
    sizes = sorted({len(row.by_seed) for row in analysis.rows.values()})
    if sizes:
        seeds = f"{sizes[0]} to {sizes[-1]} seeds" if len(sizes) > 1 else count(sizes[0], "seed")
        more = (
            "nothing can be said of other seeds"
            if sizes[0] == 1
            else "with so few, intervals are wide and tests weak"
        )
        yield "Seeds", f"Each agent has {seeds} per task" + (f": {more}." if sizes[0] < 10 else ".")
    weak = {}
    for name, family in analysis.comparisons.items():
        lowest = min((c.attainable for c in family), default=0.0)
        if family and lowest >= family[0].alpha:
            weak[name] = (
                f"of {count(max(c.pairs for c in family), 'pair')} and {count(len(family), 'comparison')} the lowest corrected p"
                f" there can be is {probability(lowest)}, not below {family[0].alpha:g}: undecided says nothing there."
            )
    yield "Tests that cannot decide", " ".join(grouped(weak))
    if analysis.skipped:
        statuses = dict.fromkeys(cell.status for cell in analysis.skipped)
        cells = {status: [c.cell for c in analysis.skipped if c.status == status] for status in statuses}
        told = "; ".join(f"{status}: {listed(names)}" for status, names in cells.items())
        yield "Cells without numbers", f"{told}. Where cells fail because of their agent, those that are left flatter it."
    alone = {}
    for name, family in analysis.comparisons.items():
        there = [
            l
            for l in analysis.labels
            if l != analysis.baseline and (name == ALL or (l, name) in analysis.rows)
        ]
        if left := [label for label in there if label not in {c.agent for c in family}]:
            alone[name] = f"{listed(left)} had too few results in common with {analysis.baseline}."
    yield "Agents that are not compared", " ".join(grouped(alone))
    if analysis.plan_problem:
        yield "No plan", f"{analysis.plan_problem}; cells that never began are not known."
    resumed = [result.cell for result in analysis.results if result.resumed]
    if resumed:
        yield "Interrupted trainings", (
            f"{listed(resumed)} went on from a checkpoint: a resumed run is not the run that was not interrupted,"
            " and its seconds are those of its last part."
        )
    rising = [
        f"{row.label} on {row.task}"
        for row in analysis.rows.values()
        if row.rise is not None
        and row.rise.estimate > FLAT * abs(row.mean.estimate - analysis.random.get(row.task, 0.0))
    ]
    if rising:
        yield "Training that was not over", (
            f"The return still rose by more than {100 * FLAT:g} % of what was learned in the last tenth of the iterations of"
            f" {listed(rising, 8)}: with a larger budget the order may be another."
        )
    if trained:
        yield "Hyper-parameters", (
            "They come with each agent and were tuned by hand, some agents' for some of the tasks, with no equal effort for each:"
            " what is compared are agents as they stand in agents/, not neurons or learning rules as such."
        )
    if analysis.design.overrides:
        yield "Overrides", f"{listed(analysis.design.overrides, 20)} hold for all agents, whomever they suit."
    if analysis.design.vary:
        yield "Variants", "Who picks the best variant of an agent by these scores has tuned it on the test."
    if analysis.normalised:
        yield "Normalisation", (
            f"Random actions' score and the mean score of {analysis.baseline} count as known: intervals of normalised scores"
            " leave out how uncertain these two are."
        )
    yield "What is tested", (
        "Scores alone; p-values are corrected for the comparisons of one table, not for the number of tables. Steps, times,"
        " operations, energy and robustness are measured beside each other, with intervals but without a test. Intervals speak"
        " of these tasks, not of others."
    )


def unequal(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """Where cells that are compared differ in more than their agent."""
    results = analysis.results
    trained = [result for result in results if result.kind == "trained"]
    sizes, steps = {}, {}
    for task in analysis.tasks:
        rows = {label: row for (label, other), row in analysis.rows.items() if other == task}
        parameters = {l: r.counts["parameters"].estimate for l, r in rows.items() if "parameters" in r.counts}
        sizes[task] = span(parameters, 1.5, "{} parameters")
        trainings = {r.label: r.training.env_steps for r in trained if r.task == task and r.training}
        steps[task] = span(trainings, 1.01, "{} environment steps")
    yield "Unequal networks", " ".join(grouped({task: text for task, text in sizes.items() if text}))
    yield "Unequal experience", " ".join(grouped({task: text for task, text in steps.items() if text}))
    kinds = {
        "Machines": (
            "machine",
            "Cells ran on these, so that seconds are not comparable and last digits may differ",
        ),
        "Devices": ("device", "Numbers may differ by device"),
        "Robots": ("assets", "Cells ran with different robots, so that their scores are not comparable"),
        "Physics": ("physics", "Cells ran with different physics, so that their scores are not comparable"),
        "Environments": ("num_envs", "Cells ran with different numbers of environments"),
        "Episodes": ("episodes", "Cells were evaluated over different numbers of episodes"),
    }
    for what, (name, why) in kinds.items():
        # tasks may differ in their numbers, but not in where they ran and with which robots
        groups = [[r for r in results if r.task == task] for task in analysis.tasks]
        sets = [
            {str(getattr(r, name)) for r in group} for group in (groups if name in OF_TASKS else [results])
        ]
        values = sorted({value for found in sets if len(found) > 1 for value in found})
        yield what, f"{why}: {'; '.join(values)}." if values else ""
    texts = {
        name: {r.conditions[name].text for r in results if name in r.conditions}
        for name in analysis.conditions
    }
    changed = [name for name, found in texts.items() if len(found) > 1]
    yield "Conditions", f"Not all cells were evaluated under the same {listed(changed)}." if changed else ""
    packages = sorted({name for result in results for name in result.versions})
    versions = {name: sorted({r.versions.get(name, "absent") for r in results}) for name in packages}
    changed = [f"{name} {', '.join(found)}" for name, found in versions.items() if len(found) > 1]
    yield "Versions", f"Cells ran with different ones: {'; '.join(changed)}." if changed else ""
    hashes: dict[tuple[str, str], set[str | None]] = {}
    for result in trained:
        hashes.setdefault((result.label, result.task), set()).add(result.spec_hash)
    mixed = [f"{label} on {task}" for (label, task), found in hashes.items() if len(found) > 1]
    yield "Specifications", (
        f"The seeds of {listed(mixed)} were not trained with the same one." if mixed else ""
    )
    if any(word in result.assets for word in ("look-alike", "derived") for result in results):
        yield "Look-alike robots", (
            "Scores are of robots derived from Newton's models: comparable with each other, not with published Isaac Lab curves."
        )
    if any(result.machine for result in trained):
        yield "Seconds", "Wall time is that of cells as they ran, several at once where their machine says so."


def span(values: Mapping[str, float], tolerated: float, unit: str) -> str:
    """From the least to the most, where they are further apart than tolerated."""
    if not values or max(values.values()) <= tolerated * min(values.values()):
        return ""
    least, most = (f(values, key=values.__getitem__) for f in (min, max))
    told = (f"{unit.format(plain(values[label], 0))} ({label})" for label in (least, most))
    return f"agents have from {' to '.join(told)}."
