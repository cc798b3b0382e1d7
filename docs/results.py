"""Write the scores and tables of README and guides from result files: ``python docs/results.py``; ``--check`` compares only.

A score stands between two comments that readers do not see; the first comment says what the score is and where it comes from:

    <!-- score studies/ant Isaac-Ant lif_ppo -->76.3 [72.4, 84.2]<!-- end -->

The first word of the comment names a function of `FIGURES`, and the other words are its arguments. Scores come from noise-free evaluations of
final policies, which ``compare.py`` and ``evaluate.py`` write, never from the returns of a training. `LISTS` are tables of components, which
come from the registry and the package.
"""

from __future__ import annotations

import argparse
import ast
import functools
import math
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
    MAIN_ENERGY_MODELS,
    AgentTaskRow,
    choose_energy_models,
)
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, analyze_study
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.analysis.verdicts import Verdict
from spiky_rl.experiments.design import json_schema
from spiky_rl.experiments.report.verdicts import (
    format_difference,
    format_relative_difference,
    format_verdict,
    format_verdict_p,
    group_verdicts,
)
from spiky_rl.run.policies import list_policies

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = re.compile(
    r"<!-- (?P<what>\w+) (?P<of>[^>]+?) -->(?P<text>(?:(?!<!-- (?!end -->)).)*?)<!-- end -->", re.DOTALL
)
"""A figure. No other comment begins in its text, so a figure without an end does not match up to the end of the next figure."""
BEGIN = re.compile(r"<!-- (?P<what>\w+)\b[^>]*-->")
"""The first comment of a figure, even of one without arguments or end."""


def find_entry[Value](found: Mapping[str, Value], name: str, what: str) -> Value:
    """Return the value of ``name`` in ``found``. Raises UserError with the nearest name; ``what`` says what is missing."""
    if name not in found:
        raise UserError(
            f"no {what} {name!r}; there are: {', '.join(sorted(found))}{suggest_name(name, found)}"
        )
    return found[name]


@functools.cache
def load_study(folder: str) -> StudyAnalysis:
    """Analyse the result files of a study."""
    return analyze_study(ROOT / folder)


def find_row(folder: str, task: str, agent: str) -> AgentTaskRow:
    """Return the results of an agent on a task of a study; the agent's varied settings may be left out if it has one variant."""
    rows = load_study(folder).rows.items()
    found = {" on ".join(names): one for names, one in rows}
    variants = [one for (label, on), one in rows if (label.partition(" ")[0], on) == (agent, task)]
    return (
        variants[0] if len(variants) == 1 else find_entry(found, f"{agent} on {task}", f"agent in {folder}")
    )


def format_number(value: float, size: float | None = None) -> str:
    """Return ``value`` with two decimals if ``size`` is below 10, else with one; a ``size`` of None is the value's own."""
    places = 1 if abs(value if size is None else size) >= 10 else 2
    return f"{round(value, places) + 0.0:.{places}f}"  # no -0.00


def format_energy(energy: Interval) -> str:
    """Return the energy of a control step in nJ, with three significant digits."""
    return f"{float(f'{energy.estimate:.3g}'):,g}"


def format_interval(found: Interval) -> str:
    """Return estimate and bounds, all with the estimate's decimals; the estimate alone if there is one seed, which gives no bounds."""
    estimate, low, high = (format_number(v, found.estimate) for v in (found.estimate, found.low, found.high))
    return estimate if math.isinf(found.low) else f"{estimate} [{low}, {high}]"


def score(folder: str, task: str, *agent: str) -> str:
    """Return the mean return of the final policies over seeds, with its interval; varied settings follow the agent's name."""
    return format_interval(find_row(folder, task, " ".join(agent)).mean)


def format_table(heading: str, lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Bars separate the columns of ``heading``; a bar at its start means that the first column has no name."""
    head, *rows = (f"| {text} |" for text in (heading, *map(" | ".join, lines)))
    return "\n".join(["", head, "| --- " * (head.count("|") - 1) + "|", *rows, ""])


def scores(folders: str, task: str, *agents: str) -> str:
    """Return a table of ``agents``, by default all in the study's order, with the energy of weights and states in memory on chip.

    ``folders`` may name several studies, and one agent of a study: ``studies/a:mlp_ppo,studies/b``.
    """
    names = [name.partition(":")[::2] for name in folders.split(",")]
    link = " ([{0}](../studies/{0}/report.md))" if len(names) > 1 else ""
    shown = [
        (f"`{agent}`{link.format(folder.removeprefix('studies/'))}", find_row(folder, task, agent))
        for folder, only in names
        for agent in [only] * bool(only) or agents or load_study(folder).labels
    ]
    prices = choose_energy_models([one for _, one in shown])
    words = "".join(f" | energy{' of arithmetic' * (name == kind)}, {kind}" for name, kind in prices.items())
    lines = []
    for agent, one in shown:
        by_seed = ", ".join(format_number(one.by_seed[seed]) for seed in sorted(one.by_seed))
        firing = f"{one.firing_rate.estimate:.1%}" if one.firing_rate and one.firing_rate.estimate else "-"
        costs = (f"{format_energy(one.energy[p])} nJ" if p in one.energy else "-" for p in prices)
        count = f"{one.counts['effective_operations'].estimate:,.0f}"
        lines.append([agent, format_interval(one.mean), by_seed, firing, count, *costs])
    return format_table(f"{task} | return | by seed | firing | operations of a control step{words}", lines)


def across(folder: str, tasks: str, *agents: str) -> str:
    """Return a table of scores on several ``tasks``, separated by commas, of ``agents``, by default all in the study's order."""
    names = tasks.split(",")
    shown = agents or load_study(folder).labels
    lines = [
        [f"`{agent}`", *(_format_score(find_row(folder, task, agent)) for task in names)] for agent in shown
    ]
    return format_table(" | ".join(["return", *names]), lines)


def _format_score(row: AgentTaskRow) -> str:
    """Return the mean return of an agent on a task with its interval, which says little for two seeds: these are given one by one."""
    if len(row.by_seed) == 2:
        return ", ".join(map(format_number, row.by_seed.values()))
    return format_interval(row.mean)


def difference(folder: str, task: str, agent: str, *varied: str) -> str:
    """Return the estimated difference of an agent's score from the baseline's, with its interval.

    With ``all`` as the task, it is the difference of normalised scores over all tasks. With ``varied`` settings, it is the difference of
    the agent's variant with these settings from its first variant.
    """
    if varied:
        first = [name for name in load_study(folder).labels if name.split()[0] == agent][:1]
        names = [*first, " ".join([agent, *varied])]
        scores = {name: {task: find_row(folder, task, name).by_seed} for name in names}
        return format_interval(compare_agents(scores, names[0])[0].difference)
    families = find_entry(load_study(folder).comparisons, ALL if task == "all" else task, f"task in {folder}")
    found = {comparison.agent: comparison for comparison in families}
    return format_interval(find_entry(found, agent, f"agent compared in {folder}").difference)


def lost(folder: str, agent: str) -> str:
    """Return how much return an agent loses if the observation lacks velocities, with its interval."""
    found = {one.label: one for one in load_study(folder).memory}
    return format_interval(find_entry(found, agent, f"agent of {folder} with and without velocities").drop)


def verdicts(folder: str) -> str:
    """Return a table of a study's verdicts, a row for each pair of agents; until the last cell has ended, the command that continues it."""
    command = f"`OMP_NUM_THREADS=1 python scripts/compare.py {folder}/study.yaml --parallel 2 --device cpu`"
    if not (ROOT / folder / "study.json").is_file():
        return f"\nThis study has no results yet. {command} runs it.\n"
    found = load_study(folder)
    if found.skipped:
        done, every = len(found.results), len(found.results) + len(found.skipped)
        commits = dict.fromkeys(
            one.provenance.commit[:8] for one in found.results if one.provenance and one.provenance.commit
        )
        at = f" at commit {', '.join(commits)}" if commits else ""
        return f"\n{done} of {every} cells have ended; the verdicts follow the last one. {command}{at} goes on.\n"
    pairs = group_verdicts(found)
    names = dict.fromkeys(name for verdicts_of_pair in pairs.values() for name in verdicts_of_pair)
    lines = [
        [f"`{agent}`<br>`{baseline}`", *(_format_cell(own.get(name)) for name in names)]
        for (agent, baseline), own in pairs.items()
    ]
    return format_table(" | ".join(["first and second agent", *names]), lines)


def _format_cell(verdict: Verdict | None) -> str:
    """Return a ``verdict`` as lines of a table's cell, bold if it is decided."""
    if verdict is None or not verdict.comparison.pairs:
        return "-"
    mark = "" if verdict.text == "undecided" else "**"
    words = ", ".join(filter(None, (format_verdict(verdict), format_relative_difference(verdict))))
    cell = f"{mark}{words}{mark}<br>{format_difference(verdict)}<br>p {format_verdict_p(verdict)}"
    # a narrow cell keeps number and unit on one line
    return cell.replace(" %", "\u00a0%").replace(" µJ", "\u00a0µJ")


def headline(*studies: str) -> str:
    """Return a table of agents of those ``studies`` that have ended. A study has one task and is given as ``studies/a:lif_ppo,mlp_ppo``."""
    price, lines = next(iter(MAIN_ENERGY_MODELS)), []
    for folder, _, agents in (text.partition(":") for text in studies):
        if not (ROOT / folder / "study.json").is_file() or load_study(folder).skipped:
            continue
        for agent in agents.split(","):
            task = load_study(folder).tasks[0]
            one = find_row(folder, task, agent)
            walked = one.energy_per_metre.get(price)
            lines.append(
                [
                    f"[{task}]({folder}/report.md)",
                    f"`{agent}`",
                    format_interval(one.mean),
                    format_interval(one.distance) if walked and one.distance else "-",
                    f"{format_energy(one.energy[price])} nJ",
                    f"{format_interval(walked)} µJ" if walked else "-",
                ]
            )
    heading = "task | agent | return | metres | energy of an action | energy of a metre"
    return format_table(heading, lines) if lines else "\nNone of these studies has ended.\n"


def remains(folder: str, task: str, *conditions: str) -> str:
    """Return a table of the share of the return that each agent of a study keeps under ``conditions``, with its interval."""
    lines = []
    every, what = load_study(folder).remaining.items(), f"agent and condition in {folder}"
    found = {f"{agent} {name}": rest for (agent, on, name), rest in every if on == task}
    for agent in load_study(folder).labels:
        shares = [find_entry(found, f"{agent} {name}", what).share for name in conditions]
        lines.append([f"`{agent}`", *("-" if share is None else format_interval(share) for share in shares)])
    return format_table(" | ".join(["share of the return", *(f"`{name}`" for name in conditions)]), lines)


def metre(folder: str, task: str, agent: str, price: str = ARITHMETIC_MODEL) -> str:
    """Return the energy of a metre in µJ under an energy model, by default of the arithmetic alone, with its interval."""
    return format_interval(
        find_entry(find_row(folder, task, agent).energy_per_metre, price, "price of a metre")
    )


def energy(folder: str, task: str, agent: str, price: str = ARITHMETIC_MODEL) -> str:
    """Return the energy of a control step in nJ under an energy model, by default of the arithmetic alone."""
    return format_energy(find_entry(find_row(folder, task, agent).energy, price, "price"))


def operations(folder: str, task: str, agent: str) -> str:
    """Return the effective operations of a control step."""
    return f"{find_row(folder, task, agent).counts['effective_operations'].estimate:,.0f}"


def processor(folder: str, task: str, agent: str) -> str:
    """Return the CPU seconds of a training, mean over seeds."""
    seconds = find_row(folder, task, agent).processor
    if seconds is None:
        raise UserError(f"{folder}: processor seconds of {agent} on {task} are not known")
    return f"{seconds.estimate:,.0f}"


def value(path: str, keys: str, form: str) -> str:
    """Return one number of a result file; ``keys`` are separated by dots, ``form`` is a format of Python."""
    return format(read_value(ROOT / path, *keys.split(".")), form)


def read_value(path: Path, *keys: str) -> Any:
    """Return the value of a result file under ``keys``. Raises UserError with the file and the missing key."""
    found = read_file(path, parse_json)
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path}: has no {'.'.join(keys)}")
        found = found[key]
    return found


def quantised(folder: str) -> str:
    """Return a table of returns in single precision and in int8 under every condition, over all seeds of a folder."""
    files = sorted((ROOT / folder).glob("seed*/evaluation.json"))
    pairs = [
        [_read_conditions(f.with_name(name)) for name in (f.name, "evaluation_int8.json")] for f in files
    ]
    if not pairs:
        raise UserError(f"{folder}: has no seed*/evaluation.json")
    lines = []
    for name in pairs[0][0]:
        single, whole = zip(*((a[name], b[name]) for a, b in pairs), strict=True)
        lost = [b - a for a, b in zip(single, whole, strict=True)]
        means = [format_number(sum(values) / len(values)) for values in (single, whole, lost)]
        lines.append([f"`{name}`", *means, format_number(min(lost))])
    heading = f"return, mean of seeds ({len(pairs)}) | single precision | integers | difference | of the seed that loses most"
    return format_table(heading, lines)


def _read_conditions(path: Path) -> dict[str, float]:
    return {
        name: read_value(path, "conditions", name, "mean_return") for name in read_value(path, "conditions")
    }


def distilled(folder: str) -> str:
    """Return a table of students beside their teachers, from the results of their trainings."""
    lines = []
    for file in sorted((ROOT / folder).glob("seed*/result.json")):
        seed, steps = read_value(file, "seed"), read_value(file, "env_steps")
        teacher, student = (read_value(file, "distillation", f"{n}_return") for n in ("teacher", "student"))
        share = f"{100 * student / teacher:.1f}"
        lines.append([str(seed), format_number(teacher), format_number(student), share, f"{steps:,}"])
    return format_table(
        "seed | teacher's return | student's | student's, in % | student's environment steps", lines
    )


def raced(*paths: str) -> str:
    """Return a table of contenders of ``bench.py classify``: accuracies of all seeds, and times of an epoch beside the fastest peer's."""
    races = [read_value(ROOT / path) for path in paths]
    lines = []
    for name in dict.fromkeys(run["contender"] for race in races for run in race["runs"]):
        last = [100 * r["accuracy"][-1] for race in races for r in race["runs"] if r["contender"] == name]
        rows = [row for race in races for row in race["rows"] if row["contender"] == name]
        seconds, ratio = (statistics.median(row[key] for row in rows) for key in ("seconds", "ratio"))
        lines.append([f"`{name}`", _format_mean_share(last), f"{seconds:.3f}", f"{ratio:.2f}"])
    times = "seconds per epoch | times as fast as the fastest of snnTorch"
    return format_table(f"| accuracy after the last epoch, mean and standard error | {times}", lines)


def _read_runs(folder: str) -> list[dict[str, Any]]:
    """Return the results of all classifiers that were trained in a folder, by seed or hold-out."""
    found = [read_value(file) for file in sorted((ROOT / folder).glob("*/result.json"))]
    if not found:
        raise UserError(f"{folder}: has no */result.json")
    return found


def _format_accuracies(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return two cells: the accuracy of every run, and their mean with its standard error."""
    shares = [100 * run["accuracy"] for run in runs]
    return ", ".join(f"{share:.1f}" for share in shares), _format_mean_share(shares)


def _format_mean_share(shares: Sequence[float]) -> str:
    """Return the mean of ``shares``, which are in per cent; with its standard error if there are several."""
    error = f" ± {statistics.stdev(shares) / len(shares) ** 0.5:.1f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.1f}{error} %"


def classified(*folders: str) -> str:
    """Return a table of classifiers, a row for each folder of runs: accuracy of every seed and split on the test set, which is used once."""
    lines: list[list[str]] = []
    for folder, runs in zip(folders, map(_read_runs, folders), strict=True):
        counts = f"{runs[0]['samples_train']:,}, {runs[0]['samples_test']:,}"
        name = f"`{runs[0]['agent']}` ({folder.removeprefix('studies/classification/')})"
        rows = {name: runs, "the ANN beside it": [run["ann"] for run in runs if run.get("ann")]}
        lines += [[who, counts, *_format_accuracies(found)] for who, found in rows.items() if found]
    return format_table("| recordings to learn from, to test on | accuracy | mean and standard error", lines)


def inferred(*folders: str) -> str:
    """Return a table of classifiers, a row for each folder of runs: accuracy on every hold-out, and the cost of an inference."""
    lines = []
    for folder in folders:
        runs = _read_runs(folder)
        active, operations = (
            statistics.fmean(run[key] for run in runs) for key in ("firing_rate", "synops_per_sample")
        )
        costs = f"{100 * active:.1f} %", f"{operations / 1e6:.2f}"
        lines.append([Path(folder).name, str(runs[0]["epochs"]), *_format_accuracies(runs), *costs])
    costs = "active units | synaptic operations of a recording, in millions"
    return format_table(f"| epochs | accuracy on each hold-out | mean and standard error | {costs}", lines)


def narma(*files: str) -> str:
    """Return a table of errors on NARMA-10: reservoirs, from ``show.py reservoir --json``, and the echo-state networks in the first file."""
    held = [read_value(ROOT / file) for file in files]
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
    return format_table("| neurons | features | NRMSE, mean and standard deviation of seeds", lines)


def _read_times(file: str, *keys: str) -> list[dict[str, Any]]:
    """Return the rows of a ``file`` in benchmarks/results/, without the ending, which ``bench.py --json`` wrote; they may lie under ``keys``."""
    return read_value(ROOT / "benchmarks" / "results" / f"{file}.json", *keys)


def _find_time(file: str, contender: str, column: str) -> float:
    """Return the milliseconds of a ``contender`` in a ``column``: mode:batch or mode:batch:rate."""
    mode, batch, *rate = column.split(":")
    wanted = (contender, mode, int(batch), *map(float, rate))
    keys = ("contender", "mode", "batch", "rate")[: len(wanted)]
    times = [row["ms"] for row in _read_times(file) if tuple(row[key] for key in keys) == wanted]
    if len(times) != 1 or times[0] is None:
        raise UserError(
            f"{contender} {column}: {len(times)} rows in {file}.json; there must be one, with a time"
        )
    return times[0]


def _format_figure(value: float) -> str:
    """Return a time or a ratio with about two digits."""
    return f"{value:.{0 if value >= 20 else 1 if value >= 1 else 2}f}"


def speed(file: str, contender: str, column: str, other: str = "") -> str:
    """Return how many times as fast as the plain loop, or as the contender ``other``, a ``contender`` is."""
    other = other or _read_times(file)[0]["contender"]
    return _format_figure(_find_time(file, other, column) / _find_time(file, contender, column))


def milliseconds(file: str, contender: str, column: str) -> str:
    """Return the median time of a ``contender``."""
    return _format_figure(_find_time(file, contender, column))


def speeds(file: str, *columns: str) -> str:
    """Return a table of speeds relative to the first contender, the plain loop: a row for each other contender of a benchmark."""
    loop, *others = dict.fromkeys(row["contender"] for row in _read_times(file))
    head = ["times as fast as the plain loop"]
    earlier: list[str] = []
    for column in columns:
        mode, batch, *rate = parts = column.split(":")
        texts = [mode, f"batch {int(batch):,}", *(f"{100.0 * float(one):.0f} % fire" for one in rate)]
        changed = [i for i, part in enumerate(parts) if part not in earlier[i : i + 1]]
        # after the first column of its kind, the part that differs is enough
        if changed == [1]:
            head.append(texts[1].split()[-1])
        else:
            head.append(texts[2] if changed == [2] else ", ".join(texts))
        earlier = parts
    lines = []
    for name in others:
        ratios = (_find_time(file, loop, column) / _find_time(file, name, column) for column in columns)
        cells = (f"{ratio:.{0 if ratio >= 100.0 else 2}f}" for ratio in ratios)
        lines.append([f"**`{name}`**" if name.startswith("spiky_rl") else f"`{name}`", *cells])
    return format_table(" | ".join(head), lines)


def updates(file: str) -> str:
    """Return a table of the time of a learner's gradient step with a spiking actor, divided by that with the MLP beside it."""
    ratios: dict[str, dict[int, float]] = {}
    for row in _read_times(file):
        # the spiking agent's row follows the MLP's, whose ratio is 1
        ratios.setdefault(f"{row['algorithm']}, {row['library']}", {})[row["minibatch"]] = row["ratio"]
    sizes = next(iter(ratios.values()))
    head = ["times as long as with the MLP", *(f"{size:,}" for size in sizes)]
    head[1] = f"minibatch of {head[1]}"
    return format_table(
        " | ".join(head),
        [[name, *(f"{ratio:.2f}" for ratio in found.values())] for name, found in ratios.items()],
    )


def physics(file: str) -> str:
    """Return a table of both physics in a ``file`` of ``bench.py physics --json``: steps per second, their ratio, and the native share."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _read_times(file):
        rows.setdefault(f"{row['task']} | {row['num_envs']:,}", {})[row["physics"]] = row
    lines = []
    for task, found in rows.items():
        warp, native = found["newton_mjwarp"], found["mujoco"]
        speeds = [f"{row['env_steps_per_second']:,.0f}" for row in (warp, native)]
        lines.append(
            [task, *speeds, _format_figure(native["ratio"]), f"{100.0 * native['physics_share']:.0f} %"]
        )
    return format_table(
        "task | environments | MuJoCo-Warp, steps per second | native | ratio | native physics alone, of its time",
        lines,
    )


def latencies(file: str) -> str:
    """Return a table of the shortest and the median time of an action, in µs, by form and agent.

    ``file`` is one of ``bench.py latency --json``.
    """
    rows = _read_times(file, "rows")
    agents = dict.fromkeys(row["agent"] for row in rows)
    times: dict[str, dict[str, str]] = {}
    for row in rows:
        text = f"{_format_figure(row['best_us'])}, {_format_figure(row['median_us'])}"
        times.setdefault(row["form"], {})[row["agent"]] = text
    lines = [
        ["`{}`{}{}".format(*form.partition(",")), *(found.get(agent, "-") for agent in agents)]
        for form, found in times.items()
    ]
    heading = " | ".join(["µs per action: shortest, median", *(f"`{agent}`" for agent in agents)])
    return format_table(heading, lines)


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
"""Kind of component -> its meaning in the table of `kinds`."""


def kinds(_: str) -> str:
    """Return a table of all components, from the registry."""
    lines = [
        [kind, meaning, ", ".join(f"`{name}`" for name in registry.list_names(kind))]
        for kind, meaning in KINDS.items()
    ]
    return format_table("kind | what it is | entries", lines)


def trained(_: str) -> str:
    """Return a table of the trained policies, from their manifests."""
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
                policy.trainings,
            ]
        )
    return format_table("task | agent | return | episodes | environment steps | from", lines)


def rooms(_: str) -> str:
    """Return a table of the packages in spiky_rl, from the first lines of their docstrings."""
    lines = []
    for file in sorted(registry.PACKAGE.glob("*/__init__.py")):
        first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append([f"`{file.parent.name}/`", first])
    return format_table("room | what lives there", lines)


LISTS = (kinds, trained, rooms)
FIGURES = {
    function.__name__: function
    for function in (
        score, scores, across, verdicts, headline, difference, lost, remains, energy, metre, operations, processor, value,
        quantised, distilled, raced, classified, inferred, narma, speed, speeds, milliseconds, updates, physics, latencies, *LISTS,
    )
}  # fmt: skip


def fill_figures(text: str, lists: bool = True) -> str:
    """Return the ``text`` of a page with every figure from its result files.

    Without ``lists``, the figures of `LISTS` stay as they are, so that a new component does not make the page that lists it out of date.

    Raises UserError for a figure that the files do not have, or that has no arguments or no end.
    """

    def figure(match: re.Match[str]) -> str:
        what, of = match["what"], match["of"]
        if not lists and FIGURES.get(what) in LISTS:
            return match[0]
        try:
            new = find_entry(FIGURES, what, "figure")(*of.split())
        except (UserError, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(f"<!-- {what} {of} -->: {error}") from error
        return f"<!-- {what} {of} -->{new}<!-- end -->"

    filled = {match.start() for match in FIGURE.finditer(text)}
    for mark in BEGIN.finditer(text):
        if mark["what"] in FIGURES and mark.start() not in filled:
            raise UserError(f"{mark[0]}: needs arguments, and <!-- end --> before the next comment")
    return FIGURE.sub(figure, text)


def main(arguments: list[str]) -> int:
    """Write the pages and JSON Schemas that differ from their sources, or only print them; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Scores and tables of README and guides, from files; the JSON Schemas of YAML files."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where a page differs"
    )
    check = parser.parse_args(arguments).check
    try:
        files = {page: fill_figures(page.read_text(encoding="utf-8")) for page in PAGES}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    files |= {
        ROOT / "schemas" / f"{kind}.json": f"{json_schema.format_schema(kind)}\n"
        for kind in json_schema.SCHEMAS
    }
    stale = [
        page for page, new in files.items() if not page.is_file() or page.read_text(encoding="utf-8") != new
    ]
    for page in stale:
        if not check:
            page.write_text(files[page], encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'differs from its files: make results' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
