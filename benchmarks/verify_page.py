"""The page of ``verify_gpu.py``: Markdown, from the results in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.verify_results import (
    PHASES,
    RESULTS,
    Tests,
    Training,
    describe_machine,
    read_rows,
    read_sanitizer,
    read_tests,
    read_training,
)

BENCHES = {"bench_feedforward": ("feedforward",), "bench_sequences": ("recurrent", "reservoir")}
"""Steps of ``bench.py``, and their networks."""
SIZE = ("neuron", "steps", "batch", "rate")
"""Keys that the rows of one table of ``bench.py`` share."""
LAYERS = "[400,200,100]"
"""Isaac Lab's MLP for the Ant."""
UNREADABLE = (OSError, KeyError, TypeError, ValueError)
"""Exceptions of reading a missing or damaged result."""
WRITTEN = "Written by `make verify-gpu` from the results of its steps."
DRY_RUN = (
    "**A dry run on the CPU.** It shows that the steps run, and the layout of the page; no number here is of a GPU, and the sizes are"
    " too small for conclusions."
)


@dataclass(frozen=True)
class PlannedTraining:
    """A training of the verification."""

    agent: str
    title: str
    """Head of its column in the table of trainings."""
    overrides: tuple[str, ...] = ()


TRAININGS = {
    "train_lif": PlannedTraining("lif_ppo", "lif_ppo"),
    "train_lif_equal": PlannedTraining(
        "lif_ppo", "lif_ppo, layers of mlp_ppo", (f"agent.network.layers={LAYERS}",)
    ),
    "train_mlp": PlannedTraining("mlp_ppo", "mlp_ppo"),
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step."""

    code: int | None
    """Exit code; None if it was stopped at the time limit."""
    seconds: float
    obstacle: str = ""
    """Why it did not start; empty if it did."""

    def format_result(self) -> str:
        """Return the outcome in words."""
        if self.obstacle:
            return f"left out: {self.obstacle}"
        if self.code is None:
            return "failed: time limit"
        return "done" if self.code == 0 else f"failed: exit code {self.code}"


def page(
    folder: Path, outcomes: Mapping[str, Outcome], is_dry: bool, environments: int, iterations: int
) -> str:
    """Return the page. If a result is missing or damaged, its section says so."""
    parts = ["# A dry run of the GPU verification", DRY_RUN] if is_dry else ["# On a GPU", WRITTEN]
    if failed := [name for name, outcome in outcomes.items() if outcome.code != 0]:
        parts.append(
            f"**{len(failed)} of {len(outcomes)} steps failed or were left out: {', '.join(failed)}.**"
        )
    facts = {"date": time.strftime("%Y-%m-%d"), **describe_machine()}
    parts.append(format_table(("", ""), facts.items()))
    rows = (
        (name, one.format_result(), f"{one.seconds:.0f}", f"{name}.log") for name, one in outcomes.items()
    )
    parts += ["## Steps", format_table(("step", "outcome", "seconds", "log"), rows)]
    parts += [
        "## Tests that need a GPU",
        write_section(lambda: describe_tests(read_tests(folder / RESULTS["tests"]))),
    ]
    for name, networks in BENCHES.items():
        parts.append(f"## {' and '.join(networks).capitalize()} networks beside their peers")
        parts.append(write_section(lambda name=name: describe_benchmark(read_rows(folder / RESULTS[name]))))
    parts.append(f"## Isaac-Ant, {environments:,} environments, {iterations} iterations")
    trainings, missing = {}, []
    for name in TRAININGS:
        try:
            trainings[name] = read_training(folder / RESULTS[name])
        except UNREADABLE as error:
            missing.append(f"`{name}`: no result ({format_reason(error)}).")
    if trainings:
        parts.append(describe_trainings(trainings))
    parts += missing
    if not is_dry:  # compute-sanitizer needs a GPU
        parts.append("## Memory errors")
        parts.append(
            write_section(lambda: f"compute-sanitizer: {read_sanitizer(folder / RESULTS['sanitizer'])}.")
        )
    return "\n\n".join(parts) + "\n"


def write_section(write: Callable[[], str]) -> str:
    """Return ``write()``, or the reason why there is no result."""
    try:
        return write()
    except UNREADABLE as error:
        return f"No result ({format_reason(error)})."


def format_reason(error: Exception) -> str:
    """Return the text of an error without the machine's paths."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def format_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def describe_tests(result: Tests) -> str:
    """Return the section of tests: number of passes, failures, reasons of skips, and measurements."""
    skipped = sum(result.skipped.values())
    parts = [f"{result.passed} passed, {len(result.failed)} failed, {skipped} skipped."]
    if result.failed:
        parts.append("Failed:\n\n" + "\n".join(f"* `{name}`" for name in result.failed))
    if result.skipped:
        rows = ((count, why) for why, count in sorted(result.skipped.items()))
        parts.append(format_table(("skipped", "why"), rows))
    if result.measured:
        parts += ["Measurements:", format_table(("", ""), sorted(result.measured.items()))]
    else:
        parts.append("Launches of kernels: none counted, because no test that counts them ran.")
    return "\n\n".join(parts)


def describe_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of a benchmark, with the tables of ``bench.py``. Raises ValueError if there are no rows."""
    from benchmarks import plot as bench_plot

    if not rows:
        raise ValueError("no rows")
    blocks = [
        bench_plot.format_table([row for row in rows if [row[key] for key in SIZE] == list(size)])
        for size in dict.fromkeys(tuple(row[key] for key in SIZE) for row in rows)
    ]
    device = rows[0]["device"]
    intro = f"On `{device}`; ratio: times as fast as the first line of each table."
    if device != "cpu":
        intro += " SpikingJelly runs on Triton's kernels, unless `SJ_LIF_CUDA_IMPLEMENTATION` was set; products are in TF32."
    texts = (bench_plot.format_summary(rows), "\n".join(blocks))
    parts = [intro, *(f"```text\n{text.rstrip()}\n```" for text in texts)]
    failed = dict.fromkeys(f"* {row['contender']}: {row['failed']}" for row in rows if row["failed"])
    if failed:
        parts.append("Failed:\n\n" + "\n".join(failed))
    return "\n\n".join(parts)


def _list_measures(run: Training) -> dict[str, object]:
    """Return the measures of a training by their titles."""
    return {
        "outcome": run.outcome,
        "device": run.device,
        **{f"{phase}, s per iteration, median": f"{run.median[phase]:.4f}" for phase in PHASES},
        **{f"{phase}, s in all": f"{run.total[phase]:.2f}" for phase in PHASES},
        "iterations": run.iterations,
        "environment steps per second": f"{run.steps_per_second:,.0f}",
        "mean return, last": "-" if run.mean_return is None else f"{run.mean_return:.2f}",
        "firing rate": f"{run.firing_rate:.1%}" if run.firing_rate else "-",
    }


def describe_trainings(trainings: Mapping[str, Training]) -> str:
    """Return the section of at least one training: its measures, and the learning time of spiking actors relative to the MLP's."""
    runs = list(trainings.values())
    columns = [_list_measures(run) for run in runs]
    rows = [(title, *(column[title] for column in columns)) for title in columns[0]]
    parts = [format_table(("", *(TRAININGS[name].title for name in trainings)), rows)]
    ann = trainings.get("train_mlp")
    for name in ("train_lif", "train_lif_equal"):
        if ann is not None and name in trainings:
            ratio = trainings[name].median["learning"] / ann.median["learning"]
            parts.append(f"Learning time of {TRAININGS[name].title} / mlp_ppo, by medians: **{ratio:.2f}**.")
    return "\n\n".join(parts)
