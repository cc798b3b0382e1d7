"""The section of a report on the design: the study's terms, and the meaning of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spiky_rl.config.progress import format_count
from spiky_rl.config.tuned_values import TunedAgent
from spiky_rl.experiments.analysis.coverage import COVERAGE, FALL, SIZES, find_coverage
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.analysis.statistics import LEVEL
from spiky_rl.experiments.design.tunings import find_copy, find_tuning, get_agent_name
from spiky_rl.experiments.report.blocks import Block, Column, format_fixed, join_names, make_table


def build_design_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the terms of a study, and the anchors of normalised scores."""
    yield Block("terms", items=[(term, text) for term, text in list_terms(analysis) if text])
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


def list_terms(analysis: StudyAnalysis) -> list[tuple[str, str]]:
    """Return (term, text) for every term of a study; a text is empty if the study does not have the term."""
    design = analysis.design
    baseline = get_agent_name(design.baseline)
    seeds = min((len(row.by_seed) for row in analysis.rows.values()), default=0)
    agents = (
        f"{agent} (baseline)" if get_agent_name(agent) == baseline else agent for agent in design.agents
    )
    return [
        ("Agents", ", ".join(agents)),
        ("From other studies", ", ".join(f"{label}: {study}" for label, study in analysis.arms.items())),
        ("Teachers", describe_teachers(design.teachers)),
        *(("Varied", f"{key}: {', '.join(map(str, values))}") for key, values in design.vary.items()),
        ("Tasks", ", ".join(design.tasks)),
        ("Seeds", f"{', '.join(map(str, design.seeds))} ({format_count(len(design.seeds), 'seed')} per agent, variant and task)"),
        ("Budget", f"{design.budget.text} per training" if design.budget else "each task's number of iterations"),
        ("Environments", f"{design.num_envs:,} in parallel" if design.num_envs else "each task's number"),
        ("Tuning", "; ".join(describe_tuned_values(analysis)) if design.tuning else ""),
        ("Overrides", " ".join(design.overrides)),
        ("RL library", design.library),
        ("Robots", describe_results(analysis, "assets")),
        ("Physics", describe_results(analysis, "physics")),
        ("Score", f"mean return of the final, deterministic policy over {format_count(design.episodes, 'undisturbed episode')} that"
         " training did not see; one score per seed"),
        ("Intervals", f"{100 * LEVEL:g} %, over seeds, as 4.89 [4.85, 4.92]: estimate, lower and upper bound; bootstrap within tasks,"
         " corrected for few seeds"),
        ("Coverage", describe_coverage(seeds)),
    ]  # fmt: skip


def describe_results(analysis: StudyAnalysis, attribute: str) -> str:
    """Return the values of an ``attribute`` of all results."""
    return join_names(sorted({getattr(result, attribute) for result in analysis.results})) or "not known yet"


def describe_teachers(teachers: Mapping[str, str]) -> str:
    """Return the students with their ``teachers``; empty if there are none."""
    pairs = ", ".join(f"{student} from {teacher}" for student, teacher in teachers.items())
    return f"{pairs}; of the same task and seed" if pairs else ""


def describe_coverage(seeds: int) -> str:
    """Return how often intervals over ``seeds`` seeds contain the true value; empty if unknown."""
    if seeds < SIZES[0]:
        return ""
    shares_text = "; ".join(
        f"{name}: {', '.join(f'{share:.0f} % if {words}' for words, share in find_coverage(name, seeds).items())}"
        for name in COVERAGE
    )
    return (
        f"how often intervals over {min(seeds, SIZES[-1])} seeds contain the true value, by simulation; {shares_text}. A poor seed lies"
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
    """Yield the results of the tuning ``source`` for the agents with its values, given as file ``stems``."""
    is_part = len(stems) < len(analysis.design.agents)
    source_text = f"{source} for {join_names(stems, len(stems))}" if is_part else source
    copy = find_copy(analysis.design.tuning, stems[0])
    if (tuned := analysis.tuned.get(stems[0])) is None:
        yield f"values of {source_text}; the copy {copy}, which has the details, is missing"
        return
    seeds = join_names(map(str, tuned.seeds))
    yield f"values of {source_text} (copy: {copy}), from {tuned.trials} trials of every agent with other seeds ({seeds})"
    yield f"budget of a trial: {tuned.budget}"
    for task, agents in tuned.tasks.items():
        if task in analysis.tasks:
            yield from describe_choices(task, {stem: agents[stem] for stem in stems if stem in agents})


def describe_choices(task: str, agents: Mapping[str, TunedAgent]) -> Iterable[str]:
    """Yield which of the ``agents``, by file stem, a tuning changed on a ``task``, and which it did not."""
    changed = [agent.format_name(stem) for stem, agent in agents.items() if agent.agent]
    unchanged = [stem for stem, agent in agents.items() if not agent.agent]
    yield f"on {task} tuned: {join_names(changed, len(agents)) or 'none'}"
    if unchanged:
        yield (
            "unchanged there, because no sampled trial was better than the agent's file:"
            f" {join_names(unchanged, len(agents))}"
        )
