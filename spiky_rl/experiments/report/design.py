"""The section of a report on its design: what was compared, under which terms, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spiky_rl.experiments.analysis.coverage import FALL, SIZES, STATISTICS, find_coverage
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.analysis.statistics import LEVEL
from spiky_rl.experiments.design.tunings import find_copy, find_tuning
from spiky_rl.experiments.report.blocks import Block, Column, format_count, format_fixed, join_names, table


def design(analysis: StudyAnalysis) -> Iterable[Block]:
    """The terms of an ``analysis``, and what normalised scores count from."""
    yield Block("terms", items=list(terms(analysis)))
    raw = "raw: a score is missing, or that of the baseline is not above that of random actions"
    ends = {
        ("random actions", "0"): analysis.random,
        (analysis.design.baseline, "1, mean"): analysis.reference,
    }
    columns = (
        (
            Column(*title),
            [format_fixed(scores[task]) if task in scores else "no result" for task in analysis.tasks],
        )
        for title, scores in ends.items()
    )
    yield table(
        f"Scores are {'normalised' if analysis.normalised else raw}", analysis.tasks, *columns, first="task"
    )


def terms(analysis: StudyAnalysis) -> Iterable[tuple[str, str]]:
    """(Term, what it was) for every term of an ``analysis``."""
    asked = analysis.design
    yield "Agents", ", ".join(f"{a} (baseline)" if a == asked.baseline else a for a in asked.agents)
    if analysis.arms:
        yield "From other studies", ", ".join(f"{label}: {study}" for label, study in analysis.arms.items())
    for key, values in asked.vary.items():
        yield "Varied", f"{key}: {', '.join(map(str, values))}"
    yield "Tasks", ", ".join(asked.tasks)
    yield "Seeds", f"{', '.join(map(str, asked.seeds))} ({format_count(len(asked.seeds), 'seed')} per agent, variant and task)"
    own = "each task's own number of iterations"
    yield "Budget", own if asked.budget is None else f"{asked.budget.text} per training"
    yield "Environments", f"{asked.num_envs:,} at once" if asked.num_envs else "each task's own number"
    if asked.tuning:
        yield "Tuning", "; ".join(tuned_values(analysis))
    if asked.overrides:
        yield "Overrides", " ".join(asked.overrides)
    yield "Learning", f"PPO of {asked.library}"
    yield "Robots", join_names(sorted({result.assets for result in analysis.results})) or "not known yet"
    yield "Physics", join_names(sorted({result.physics for result in analysis.results})) or "not known yet"
    yield "Score", (
        f"mean return of the final, deterministic policy over {format_count(asked.episodes, 'undisturbed episode')} that training"
        " did not see; one score per seed"
    )
    yield "Intervals", (
        f"{100 * LEVEL:g} %, over seeds, as 4.89 [4.85, 4.92]: estimate, lower and upper bound; bootstrap within tasks,"
        " corrected for few seeds"
    )
    sizes = [len(row.by_seed) for row in analysis.rows.values()]
    if sizes and (holding := describe_coverage(min(sizes))):
        yield "What intervals hold", holding


def describe_coverage(seeds: int) -> str:
    """Return in words how often intervals over so many ``seeds`` hold the true value; nothing if that is not known."""
    shares = {name: find_coverage(name, seeds) for name in STATISTICS}
    told = {
        name: ", ".join(f"{share:.0f} % where {words}" for words, share in found.items())
        for name, found in shares.items()
        if found
    }
    if not told:
        return ""
    texts = "; ".join(f"of the {name} in {text}" for name, text in told.items())
    return (
        f"the true value of an agent with {min(seeds, SIZES[-1])} seeds, by simulation: {texts}. A poor seed lies {FALL:g} standard"
        " deviations below the others; a study that happens to draw none has an interval that is narrow and too high"
    )


def tuned_values(analysis: StudyAnalysis) -> Iterable[str]:
    """Which agents of an ``analysis`` have tuned values and which have none, and what the tuning cost."""
    asked = analysis.design
    sources = {stem: find_tuning(asked.tuning, stem) for stem in asked.agent_names}
    for source in dict.fromkeys(filter(None, sources.values())):
        stems = [stem for stem in sources if sources[stem] == source]
        yield from describe_tuning(analysis, source, stems)
    if untuned := [stem for stem, source in sources.items() if not source]:
        yield f"not tuned, as their files have them: {join_names(untuned, len(untuned))}"


def describe_tuning(analysis: StudyAnalysis, source: str, stems: Sequence[str]) -> Iterable[str]:
    """Yield what a tuning found for the agents that have its values.

    Args:
        analysis: The study's.
        source: The tuning as the study names it.
        stems: The agents.
    """
    own = (
        f"{source} for {join_names(stems, len(stems))}"
        if len(stems) < len(analysis.design.agents)
        else source
    )
    copy = find_copy(analysis.design.tuning, stems[0])
    if (tuned := analysis.tuned.get(stems[0])) is None:
        yield f"values of {own}; their copy, {copy}, is not there, which says whose they are"
        return
    seeds = join_names(map(str, tuned.seeds))
    yield f"values of {own}, of which {copy} is a copy, from {tuned.trials} trials of every agent with other seeds ({seeds})"
    yield f"budget of a trial: {tuned.budget}"
    for task in (task for task in tuned.tasks if task in analysis.tasks):
        held = {stem: tuned.tasks[task][stem] for stem in stems if stem in tuned.tasks[task]}
        changed = join_names(
            (agent.format_name(stem) for stem, agent in held.items() if agent.agent), len(held)
        )
        unchanged = join_names((stem for stem, agent in held.items() if not agent.agent), len(held))
        yield f"on {task} tuned: {changed or 'none'}"
        if unchanged:
            yield f"unchanged there, as no sampled trial was better than the agent's own file: {unchanged}"
