"""Writes what README and guides state from files: ``python docs/results.py``, or ``--check`` to compare only.

A score stands between two comments that readers do not see; the first one says what it is and where it comes from:

    <!-- score studies/ant Isaac-Ant lif_ppo -->76.3 [72.4, 84.2]<!-- end -->

What it can be are the functions of `FIGURES`. Scores are read from the noise-free evaluations of final policies that ``compare.py`` and
``evaluate.py`` leave, and none from what training saw. Tables of what there is (`LISTS`) are read from the registry and the package.
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.config.safe_loading import parse_json, read_file
from spiky_rl.experiments.analysis.comparisons import compare_agents
from spiky_rl.experiments.analysis.measures import (
    ARITHMETIC_MODEL,
    MAIN,
    AgentTaskRow,
    Energy,
    choose_energy_models,
)
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, analyze_study
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.analysis.verdicts import Verdict
from spiky_rl.experiments.design import json_schema
from spiky_rl.experiments.report.verdicts import (
    format_difference,
    format_verdict,
    format_verdict_p,
    group_verdicts,
)
from spiky_rl.run.policies import list_policies

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = re.compile(r"<!-- (?P<what>\w+) (?P<of>[^>]+?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)


def pick[Value](found: Mapping[str, Value], name: str, what: str) -> Value:
    """The value of a name. Raises UserError that names the nearest."""
    if name not in found:
        raise UserError(
            f"no {what} {name!r}; there are: {', '.join(sorted(found))}{suggest_name(name, found)}"
        )
    return found[name]


@functools.cache
def study(folder: str) -> StudyAnalysis:
    """What a study's result files come to."""
    return analyze_study(ROOT / folder)


def row(folder: str, task: str, agent: str) -> AgentTaskRow:
    """An agent's results on a task of a study; what was varied need not be named where there is one variant."""
    rows = study(folder).rows.items()
    found = {" on ".join(names): one for names, one in rows}
    variants = [one for (label, on), one in rows if (label.partition(" ")[0], on) == (agent, task)]
    return variants[0] if len(variants) == 1 else pick(found, f"{agent} on {task}", f"agent in {folder}")


def number(value: float) -> str:
    """Two decimals of what is below ten, one of what is above."""
    places = 1 if abs(value) >= 10 else 2
    return f"{round(value, places) + 0.0:.{places}f}"  # no -0.00


def joules(energy: Energy) -> str:
    """Energy of a control step in nJ, with three digits that count."""
    return f"{float(f'{energy.step.estimate:.3g}'):,g}"


def interval(found: Interval) -> str:
    """Estimate and bounds, all with the estimate's decimals."""
    places = 1 if abs(found.estimate) >= 10 else 2
    return f"{found.estimate:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def score(folder: str, task: str, *agent: str) -> str:
    """The mean return of the final policies over seeds, with its interval; behind an agent stands what was varied of it."""
    return mean(row(folder, task, " ".join(agent)))


def mean(one: AgentTaskRow) -> str:
    """The mean return with its interval, which a single seed has not."""
    return interval(one.mean) if len(one.by_seed) > 1 else number(one.mean.estimate)


def table(heading: str, lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown has it. Bars part the heading's columns; where it begins with one, the first has no name."""
    head, *rows = (f"| {text} |" for text in (heading, *map(" | ".join, lines)))
    return "\n".join(["", head, "| --- " * (head.count("|") - 1) + "|", *rows, ""])


def scores(folders: str, task: str, *agents: str) -> str:
    """A table of these agents; of all, in the study's order, where none is named. Energy: with weights and states that are read on chip.

    Of several studies, ``studies/a:mlp_ppo,studies/b``, an agent behind a colon is the one that is shown.
    """
    names = [name.partition(":")[::2] for name in folders.split(",")]
    link = " ([{0}](../studies/{0}/report.md))" if len(names) > 1 else ""
    shown = [
        (f"`{agent}`{link.format(folder.removeprefix('studies/'))}", row(folder, task, agent))
        for folder, only in names
        for agent in [only] * bool(only) or agents or study(folder).labels
    ]
    prices = choose_energy_models([one for _, one in shown])
    words = "".join(f" | energy{' of arithmetic' * (name == kind)}, {kind}" for name, kind in prices.items())
    lines = []
    for agent, one in shown:
        by_seed = ", ".join(number(one.by_seed[seed]) for seed in sorted(one.by_seed))
        firing = f"{one.firing_rate.estimate:.1%}" if one.firing_rate and one.firing_rate.estimate else "-"
        costs = (f"{joules(one.energy[p])} nJ" if p in one.energy else "-" for p in prices)
        count = f"{one.counts['effective_operations'].estimate:,.0f}"
        lines.append([agent, mean(one), by_seed, firing, count, *costs])
    return table(f"{task} | return | by seed | firing | operations of a control step{words}", lines)


def across(folder: str, tasks: str, *agents: str) -> str:
    """A table of scores on several tasks, whose names are joined by commas; of all agents, in the study's order, where none is named."""
    names = tasks.split(",")
    shown = agents or study(folder).labels
    lines = [[f"`{agent}`", *(score(folder, task, agent) for task in names)] for agent in shown]
    return table(" | ".join(["return", *names]), lines)


def difference(folder: str, task: str, agent: str, *varied: str) -> str:
    """How far an agent's score is estimated above the baseline's, that of a ``varied`` one above that of its own first variant.

    With its interval; over ``all`` tasks, of normalised scores.
    """
    if varied:
        first = [name for name in study(folder).labels if name.split()[0] == agent][:1]
        names = [*first, " ".join([agent, *varied])]
        scores = {name: {task: row(folder, task, name).by_seed} for name in names}
        return interval(compare_agents(scores, names[0])[0].difference)
    families = pick(study(folder).comparisons, ALL if task == "all" else task, f"task in {folder}")
    found = {comparison.agent: comparison for comparison in families}
    return interval(pick(found, agent, f"agent compared in {folder}").difference)


def lost(folder: str, agent: str) -> str:
    """How much of its return an agent loses where the observation lacks velocities, with its interval."""
    found = {one.label: one for one in study(folder).memory}
    return interval(pick(found, agent, f"agent of {folder} with and without velocities").drop)


def verdicts(folder: str) -> str:
    """Return a table of a study's verdicts, a row for each pair of agents; before the last cell has ended, the command that goes on."""
    command = f"`OMP_NUM_THREADS=1 python scripts/compare.py {folder}/study.yaml --parallel 2 --device cpu`"
    if not (ROOT / folder / "study.json").is_file():
        return f"\nThis study has no results yet. {command} runs it.\n"
    found = study(folder)
    if found.skipped:
        done, every = len(found.results), len(found.results) + len(found.skipped)
        plan = found.design.plan
        at = f" at commit {plan.commit[:8]}" if plan is not None and plan.commit else ""
        return f"\n{done} of {every} cells have ended; the verdicts follow the last one. {command}{at} goes on.\n"
    pairs = group_verdicts(found)
    names = dict.fromkeys(name for verdicts_of_pair in pairs.values() for name in verdicts_of_pair)
    lines = [
        [f"`{agent}`<br>`{baseline}`", *(_format_cell(own.get(name)) for name in names)]
        for (agent, baseline), own in pairs.items()
    ]
    return table(" | ".join(["first and second agent", *names]), lines)


def _format_cell(verdict: Verdict | None) -> str:
    """Return a ``verdict`` as lines of a table's cell; decided ones are bold."""
    if verdict is None or not verdict.comparison.pairs:
        return "-"
    mark = "" if verdict.text == "undecided" else "**"
    words = f"{mark}{format_verdict(verdict)}{mark}"
    return f"{words}<br>{format_difference(verdict)}<br>p {format_verdict_p(verdict)}"


def headline(*studies: str) -> str:
    """A table of the agents ``studies/a:lif_ppo,mlp_ppo`` of planned studies that have ended, each with one task."""
    price, lines = next(iter(MAIN)), []
    for folder, _, agents in (text.partition(":") for text in studies):
        if not (ROOT / folder / "study.json").is_file() or study(folder).skipped:
            continue
        for agent in agents.split(","):
            task = study(folder).tasks[0]
            one = row(folder, task, agent)
            walked = one.energy_per_metre.get(price)
            lines.append(
                [
                    f"[{task}]({folder}/report.md)",
                    f"`{agent}`",
                    mean(one),
                    interval(one.distance) if walked and one.distance else "-",
                    f"{joules(one.energy[price])} nJ",
                    f"{interval(walked)} µJ" if walked else "-",
                ]
            )
    heading = "task | agent | return | metres | energy of an action | energy of a metre"
    return table(heading, lines) if lines else "\nNone of these studies has ended.\n"


def remains(folder: str, task: str, *conditions: str) -> str:
    """A table of the share of its return that each agent of a study keeps under these conditions, with its interval."""
    lines = []
    every, what = study(folder).remaining.items(), f"agent and condition in {folder}"
    found = {f"{agent} {name}": rest for (agent, on, name), rest in every if on == task}
    for agent in study(folder).labels:
        shares = [pick(found, f"{agent} {name}", what).share for name in conditions]
        lines.append([f"`{agent}`", *("-" if share is None else interval(share) for share in shares)])
    return table(" | ".join(["share of the return", *(f"`{name}`" for name in conditions)]), lines)


def metre(folder: str, task: str, agent: str, price: str = ARITHMETIC_MODEL) -> str:
    """Energy of a metre gone in µJ, of an action's arithmetic or under another price, with its interval."""
    return interval(pick(row(folder, task, agent).energy_per_metre, price, "price of a metre"))


def energy(folder: str, task: str, agent: str, price: str = ARITHMETIC_MODEL) -> str:
    """Energy of a control step in nJ, of its arithmetic or under another price."""
    return joules(pick(row(folder, task, agent).energy, price, "price"))


def operations(folder: str, task: str, agent: str) -> str:
    """Effective operations of a control step."""
    return f"{row(folder, task, agent).counts['effective_operations'].estimate:,.0f}"


def processor(folder: str, task: str, agent: str) -> str:
    """Seconds that processors spent on a training, in the mean over seeds."""
    seconds = row(folder, task, agent).processor
    if seconds is None:
        raise UserError(f"{folder}: processor seconds of {agent} on {task} are not known")
    return f"{seconds.estimate:,.0f}"


def value(path: str, keys: str, form: str) -> str:
    """One number of a result file, as Python formats it."""
    return format(content(ROOT / path, *keys.split(".")), form)


def content(path: Path, *keys: str) -> Any:
    """What a result file holds below the keys. Raises UserError that names the file, and the key that it has not."""
    found = read_file(path, parse_json)
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path}: has no {'.'.join(keys)}")
        found = found[key]
    return found


def quantised(folder: str) -> str:
    """A table of the returns in integers beside those in single precision, under every condition, over all seeds of a folder."""
    files = sorted((ROOT / folder).glob("seed*/evaluation.json"))
    pairs = [[_conditions(f.with_name(name)) for name in (f.name, "evaluation_int8.json")] for f in files]
    if not pairs:
        raise UserError(f"{folder}: has no seed*/evaluation.json")
    lines = []
    for name in pairs[0][0]:
        single, whole = zip(*((a[name], b[name]) for a, b in pairs), strict=True)
        lost = [b - a for a, b in zip(single, whole, strict=True)]
        means = [number(sum(values) / len(values)) for values in (single, whole, lost)]
        lines.append([f"`{name}`", *means, number(min(lost))])
    heading = f"return, mean of seeds ({len(pairs)}) | single precision | integers | difference | of the seed that loses most"
    return table(heading, lines)


def _conditions(path: Path) -> dict[str, float]:
    return {name: content(path, "conditions", name, "mean_return") for name in content(path, "conditions")}


def distilled(folder: str) -> str:
    """A table of students beside their teachers, from the results of their trainings."""
    lines = []
    for file in sorted((ROOT / folder).glob("seed*/result.json")):
        seed, steps = content(file, "seed"), content(file, "env_steps")
        teacher, student = (content(file, "distillation", f"{n}_return") for n in ("teacher", "student"))
        share = f"{100 * student / teacher:.1f}"
        lines.append([str(seed), number(teacher), number(student), share, f"{steps:,}"])
    return table("seed | teacher's return | student's | student's, in % | student's environment steps", lines)


def raced(*paths: str) -> str:
    """A table of contenders of ``bench.py classify``, from its files: accuracies of all seeds, and times of an epoch beside the fastest peer's."""
    races = [content(ROOT / path) for path in paths]
    lines = []
    for name in dict.fromkeys(run["contender"] for race in races for run in race["runs"]):
        last = [100 * r["accuracy"][-1] for race in races for r in race["runs"] if r["contender"] == name]
        rows = [row for race in races for row in race["rows"] if row["contender"] == name]
        seconds, ratio = (statistics.median(row[key] for row in rows) for key in ("seconds", "ratio"))
        lines.append([f"`{name}`", _mean(last), f"{seconds:.3f}", f"{ratio:.2f}"])
    times = "seconds per epoch | times as fast as the fastest of snnTorch"
    return table(f"| accuracy after the last epoch, mean and standard error | {times}", lines)


def _runs(folder: str) -> list[dict[str, Any]]:
    """Results of the classifiers that were trained in a folder, by seed or hold-out."""
    found = [content(file) for file in sorted((ROOT / folder).glob("*/result.json"))]
    if not found:
        raise UserError(f"{folder}: has no */result.json")
    return found


def _accuracies(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Cells of every run's accuracy, and of their mean with its standard error."""
    shares = [100 * run["accuracy"] for run in runs]
    return ", ".join(f"{share:.1f}" for share in shares), _mean(shares)


def _mean(shares: Sequence[float]) -> str:
    """A mean in per cent, of several with its standard error."""
    error = f" ± {statistics.stdev(shares) / len(shares) ** 0.5:.1f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.1f}{error} %"


def classified(*folders: str) -> str:
    """A table of classifiers, a line for each folder of runs: accuracy on the test set, seen once, of every seed and split."""
    lines: list[list[str]] = []
    for folder, runs in zip(folders, map(_runs, folders), strict=True):
        counts = f"{runs[0]['samples_train']:,}, {runs[0]['samples_test']:,}"
        name = f"`{runs[0]['agent']}` ({folder.removeprefix('studies/classification/')})"
        rows = {name: runs, "the ANN beside it": [run["ann"] for run in runs if run.get("ann")]}
        lines += [[who, counts, *_accuracies(found)] for who, found in rows.items() if found]
    return table("| recordings to learn from, to test on | accuracy | mean and standard error", lines)


def inferred(*folders: str) -> str:
    """A table of classifiers, a line for each folder of runs: accuracy on every hold-out, and what an inference costs."""
    lines = []
    for folder in folders:
        runs = _runs(folder)
        active, operations = (
            statistics.fmean(run[key] for run in runs) for key in ("firing_rate", "synops_per_sample")
        )
        costs = f"{100 * active:.1f} %", f"{operations / 1e6:.2f}"
        lines.append([Path(folder).name, str(runs[0]["epochs"]), *_accuracies(runs), *costs])
    costs = "active units | synaptic operations of a recording, in millions"
    return table(f"| epochs | accuracy on each hold-out | mean and standard error | {costs}", lines)


def narma(*files: str) -> str:
    """A table of reservoirs' errors of NARMA-10, from ``show.py reservoir --json``, and of the echo-state networks beside the first."""
    held = [content(ROOT / file) for file in files]
    sizes = [
        (f"`{Path(file).stem}`", one["neurons"], one["features"])
        for file, one in zip(files, held, strict=True)
    ]
    errors = [next(iter(one["nrmse"].values())) for one in held]
    for name, found in list(held[0]["nrmse"].items())[1:]:
        size = int(name.rpartition(" ")[2])
        sizes.append(("echo state network", size, size))
        errors.append(found)
    lines = [
        [*map(str, size), f"{statistics.fmean(found):.3f} ± {statistics.pstdev(found):.3f}"]
        for size, found in zip(sizes, errors, strict=True)
    ]
    return table("| neurons | features | NRMSE, mean and standard deviation of seeds", lines)


KINDS = {
    "neurons": "neuron models: membrane equation, threshold and reset",
    "surrogates": "derivative of a spike in the backward pass",
    "encoders": "turn observations into spikes or currents",
    "decoders": "turn spikes into features of the policy",
    "connections": "weights between layers",
    "rules": "how gradients are computed, or local rules without gradients",
    "penalties": "loss terms on activity",
    "networks": "a stack of layers, or a reservoir",
    "graphs": "how the neurons of a reservoir are connected",
    "plasticities": "how weights of a reservoir change during an episode",
    "targets": "file formats of an exported policy",
    "backends": "implementations of the kernels",
    "datasets": "event recordings for classification",
    "agents": "a network, a learning rule and the settings of PPO, TD3 or SAC",
    "tasks": "a task of a simulator with its defaults",
    "spaces": "ranges of settings for tuning",
    "policies": "trained policies, for `--checkpoint pretrained`",
}
"""Kind -> its meaning in the table of all entries."""


def kinds(_: str) -> str:
    """A table of what there is, from the registry."""
    lines = [
        [kind, meaning, ", ".join(f"`{name}`" for name in registry.list_names(kind))]
        for kind, meaning in KINDS.items()
    ]
    return table("kind | what it is | entries", lines)


def trained(_: str) -> str:
    """A table of the trained policies, from their manifests."""
    lines = []
    for policy in list_policies():
        found = policy.score
        lines.append(
            [
                policy.task,
                f"`{policy.agent}`",
                f"{found.mean_return:.1f} [{found.low:.1f}, {found.high:.1f}]",
                f"{found.episodes}",
                f"{policy.env_steps:,}",
                policy.study or f"a single training, seed {policy.seed}",
            ]
        )
    return table("task | agent | return | episodes | environment steps | from", lines)


def rooms(_: str) -> str:
    """A table of the package's rooms, from the first lines of their docstrings."""
    lines = []
    for file in sorted(registry.PACKAGE.glob("*/__init__.py")):
        first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append([f"`{file.parent.name}/`", first])
    return table("room | what lives there", lines)


LISTS = (kinds, trained, rooms)
FIGURES = {
    function.__name__: function
    for function in (
        score, scores, across, verdicts, headline, difference, lost, remains, energy, metre, operations, processor, value,
        quantised, distilled, raced, classified, inferred, narma, *LISTS,
    )
}  # fmt: skip


def written(text: str, lists: bool = True) -> str:
    """A page with every figure as its result files have it. Raises UserError that names a figure which they do not have.

    Without ``lists``, tables of what there is stay as they are: a new file need not touch the page that lists it.
    """

    def figure(match: re.Match[str]) -> str:
        what, of = match["what"], match["of"]
        if not lists and what in {function.__name__ for function in LISTS}:
            return match[0]
        try:
            new = pick(FIGURES, what, "figure")(*of.split())
        except (UserError, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(f"<!-- {what} {of} -->: {error}") from error
        return f"<!-- {what} {of} -->{new}<!-- end -->"

    return FIGURE.sub(figure, text)


def main(arguments: list[str]) -> int:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(
        description="Scores and tables of README and guides, from files; the JSON Schemas of YAML files."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where a page differs"
    )
    check = parser.parse_args(arguments).check
    stale = []
    try:
        files = {page: written(page.read_text(encoding="utf-8")) for page in PAGES}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    files |= {
        ROOT / "schemas" / f"{kind}.json": f"{json_schema.format_schema(kind)}\n"
        for kind in json_schema.SCHEMAS
    }
    for page, new in files.items():
        if not page.is_file() or page.read_text(encoding="utf-8") != new:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'differs from its files: make results' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
