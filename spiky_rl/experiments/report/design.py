"""The section of a report on the design: the study's terms, and the meaning of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spiky_rl.experiments.analysis.coverage import COVERAGE, FALL, SIZES, find_coverage
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.analysis.statistics import LEVEL
from spiky_rl.experiments.design.tunings import find_copy, find_tuning
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_count,
    format_fixed,
    join_names,
    make_table,
)


def build_design_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the terms of a study, and the anchors of normalised scores."""
    yield Block("terms", items=list(list_terms(analysis)))
    raw = "raw: a score is missing, or that of the baseline is not above that of random actions"
    ends = {
        ("random actions", "0"): analysis.random,
        (analysis.design.baseline, "1, mean"): analysis.reference,
    }
    columns = (
        Column(title, [format_fixed(scores[t]) if t in scores else "no result" for t in analysis.tasks], unit)
        for (title, unit), scores in ends.items()
    )
    title = f"Scores are {'normalised' if analysis.is_normalised else raw}"
    yield make_table(title, analysis.tasks, *columns, first="task")


def list_terms(analysis: StudyAnalysis) -> Iterable[tuple[str, str]]:
    """Yield (term, text) for every term of a study."""
    design = analysis.design
    yield "Agents", ", ".join(f"{a} (baseline)" if a == design.baseline else a for a in design.agents)
    if analysis.arms:
        yield "From other studies", ", ".join(f"{label}: {study}" for label, study in analysis.arms.items())
    if design.teachers:
        pairs = ", ".join(f"{student} from {teacher}" for student, teacher in design.teachers.items())
        yield "Teachers", f"{pairs}; of the same task and seed"
    for key, values in design.vary.items():
        yield "Varied", f"{key}: {', '.join(map(str, values))}"
    yield "Tasks", ", ".join(design.tasks)
    seeds = f"{format_count(len(design.seeds), 'seed')} per agent, variant and task"
    yield "Seeds", f"{', '.join(map(str, design.seeds))} ({seeds})"
    own = "each task's number of iterations"
    yield "Budget", own if design.budget is None else f"{design.budget.text} per training"
    yield "Environments", f"{design.num_envs:,} in parallel" if design.num_envs else "each task's number"
    if design.tuning:
        yield "Tuning", "; ".join(describe_tuned_values(analysis))
    if design.overrides:
        yield "Overrides", " ".join(design.overrides)
    yield "RL library", design.library
    yield "Robots", join_names(sorted({result.assets for result in analysis.results})) or "not known yet"
    yield "Physics", join_names(sorted({result.physics for result in analysis.results})) or "not known yet"
    yield "Score", (
        f"mean return of the final, deterministic policy over {format_count(design.episodes, 'undisturbed episode')} that training"
        " did not see; one score per seed"
    )
    yield "Intervals", (
        f"{100 * LEVEL:g} %, over seeds, as 4.89 [4.85, 4.92]: estimate, lower and upper bound; bootstrap within tasks,"
        " corrected for few seeds"
    )
    sizes = [len(row.by_seed) for row in analysis.rows.values()]
    if sizes and (text := describe_coverage(min(sizes))):
        yield "Coverage", text


def describe_coverage(seeds: int) -> str:
    """Return how often intervals over ``seeds`` seeds contain the true value; empty if unknown."""
    shares = {name: find_coverage(name, seeds) for name in COVERAGE}
    texts = {
        name: ", ".join(f"{share:.0f} % if {words}" for words, share in found.items())
        for name, found in shares.items()
        if found
    }
    if not texts:
        return ""
    listed = "; ".join(f"{name}: {text}" for name, text in texts.items())
    return (
        f"how often intervals over {min(seeds, SIZES[-1])} seeds contain the true value, by simulation; {listed}. A poor seed lies"
        f" {FALL:g} standard deviations below the others; a study that happens to draw none has an interval that is narrow and too high"
    )


def describe_tuned_values(analysis: StudyAnalysis) -> Iterable[str]:
    """Yield which agents have tuned values and from which tuning, and which have none."""
    design = analysis.design
    sources = {stem: find_tuning(design.tuning, stem) for stem in design.agent_names}
    for source in dict.fromkeys(filter(None, sources.values())):
        stems = [stem for stem in sources if sources[stem] == source]
        yield from describe_tuning(analysis, source, stems)
    if untuned := [stem for stem, source in sources.items() if not source]:
        yield f"not tuned: {join_names(untuned, len(untuned))}"


def describe_tuning(analysis: StudyAnalysis, source: str, stems: Sequence[str]) -> Iterable[str]:
    """Yield the results of a tuning for the agents with its values.

    Args:
        source: The tuning as the study names it.
        stems: File stems of the agents.
    """
    is_part = len(stems) < len(analysis.design.agents)
    own = f"{source} for {join_names(stems, len(stems))}" if is_part else source
    copy = find_copy(analysis.design.tuning, stems[0])
    if (tuned := analysis.tuned.get(stems[0])) is None:
        yield f"values of {own}; the copy {copy}, which has the details, is missing"
        return
    seeds = join_names(map(str, tuned.seeds))
    yield f"values of {own} (copy: {copy}), from {tuned.trials} trials of every agent with other seeds ({seeds})"
    yield f"budget of a trial: {tuned.budget}"
    for task in (task for task in tuned.tasks if task in analysis.tasks):
        values = {stem: tuned.tasks[task][stem] for stem in stems if stem in tuned.tasks[task]}
        changed = (agent.format_name(stem) for stem, agent in values.items() if agent.agent)
        yield f"on {task} tuned: {join_names(changed, len(values)) or 'none'}"
        if unchanged := join_names((s for s, agent in values.items() if not agent.agent), len(values)):
            yield f"unchanged there, because no sampled trial was better than the agent's file: {unchanged}"
