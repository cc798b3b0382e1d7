"""Draws docs/rules.png: ``python -m tests.learning.curves OUT LABEL=RUN_FOLDER...``, mean returns from TensorBoard's files."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAG = "Train/mean_reward"
COLOURS = ("black", "tab:blue", "tab:orange", "tab:green", "tab:red", "0.55", "tab:purple", "tab:brown")


def returns(folder: Path) -> tuple[list[int], list[float]]:
    """Iterations and mean returns of a run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = events.Scalars(TAG)
    return [s.step for s in scalars], [s.value for s in scalars]


def main(out: str, *runs: str) -> None:
    """One curve per run, in the order given."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for run, colour in zip(runs, COLOURS[: len(runs)], strict=True):
        label, _, folder = run.partition("=")
        axes.plot(*returns(Path(folder)), label=label, color=colour, linewidth=1.4)
    axes.set(xlabel="iteration (512 environments x 16 steps)", ylabel="mean return", ylim=(-8, 5.2))
    axes.axhline(5.0, color="0.8", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
