"""What a classification shows: a live panel or plain lines, TensorBoard's scalars, the picture of what was taken for what."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.classification.training import Epoch
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Display, sparkline
from spiky_rl.config import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EpochDisplay(Display):
    """Context manager; call it with every epoch."""

    def __init__(self, title: str, first: int, last: int) -> None:
        super().__init__(title, first, last, shown=importlib.util.find_spec("rich") is not None)
        self.course: list[float] = []

    def __call__(self, epoch: Epoch) -> None:  # type: ignore[override]
        """Show an epoch."""
        self.course.append(shown(epoch)[0])
        if self.live is not None:
            self.live.update(self._panel(epoch))
        else:
            print(line(epoch, self._remaining(epoch)), flush=True)  # type: ignore[arg-type]

    def _panel(self, iteration: Any) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        if iteration is None:
            table.add_row("", "waiting for the first epoch")
            return Panel(table, title=self.title, width=76)
        total, done = self.last - self.first + 1, iteration.index - self.first + 1
        table.add_row("epoch", f"{iteration.index + 1} of {iteration.last + 1}")
        table.add_row("", ProgressBar(total=total, completed=done, width=48))
        value, of = shown(iteration)
        table.add_row("accuracy", f"{value:.1%} of {of}   {sparkline(self.course)}")
        table.add_row(
            "", f"{iteration.accuracy_train:.1%} of what is learned from, loss {iteration.loss:.3f}"
        )
        layers = "  ".join(f"{layer.rate:.1%}" for layer in iteration.layers)
        table.add_row("firing rate", f"{iteration.rate:.1%}   by layer: {layers}")
        table.add_row("operations", f"{iteration.operations:,.0f} per control step")
        table.add_row("speed", f"{iteration.seconds:.1f} s per epoch")
        table.add_row("remaining", self._remaining(iteration))
        return Panel(table, title=self.title, width=76)


def shown(epoch: Epoch) -> tuple[float, str]:
    """The accuracy that says most of an epoch, and of what it is."""
    if epoch.accuracy_validation is None:
        return epoch.accuracy_train, "what is learned from"
    return epoch.accuracy_validation, "the validation set"


def line(epoch: Epoch, remaining: str) -> str:
    """One epoch in one line."""
    chosen = epoch.accuracy_validation
    return (
        f"epoch {epoch.index + 1:3d}/{epoch.last + 1}  validation {'     -' if chosen is None else f'{chosen:6.1%}'}  train {epoch.accuracy_train:6.1%}"
        f"  loss {epoch.loss:6.3f}  firing {epoch.rate:5.1%}  {epoch.seconds:5.1f} s  {remaining} left"
    )


def writer(folder: Path) -> Any:
    """TensorBoard's writer into a run folder; None, said once, where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        log.warning("tensorboard is not installed: no scalars are written")
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder))


def write_epoch(board: Any, epoch: Epoch) -> None:
    """The scalars of an epoch."""
    scalars = {
        "Classification/loss": epoch.loss,
        "Classification/accuracy_train": epoch.accuracy_train,
        "Perf/seconds_learning": epoch.seconds,
        "Cost/operations_per_step": epoch.operations,
        "Spikes/rate": epoch.rate,
    }
    if epoch.accuracy_validation is not None:
        scalars["Classification/accuracy_validation"] = epoch.accuracy_validation
    for i, layer in enumerate(epoch.layers, start=1):
        scalars |= {f"Spikes/layer_{i}_{name}": value for name, value in vars(layer).items()}
    for name, value in scalars.items():
        board.add_scalar(name, value, epoch.index)


def confusion_picture(counts: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """The matrix [classes, classes] as an image with its numbers."""
    from matplotlib.figure import Figure

    matrix, side = np.asarray(counts), max(5.2, 0.3 * len(classes))
    figure = Figure(figsize=(side + 0.3, side), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Greys", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    turned = "vertical" if max(map(len, classes)) > 2 else "horizontal"
    axes.set_xticks(range(len(classes)), classes, rotation=turned)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="taken for", ylabel="class", title=title)
    return figure


def write_confusion(
    folder: Path, board: Any, counts: Sequence[Sequence[int]], classes: Sequence[str], title: str, epoch: int
) -> None:
    """The picture into ``confusion.png`` and TensorBoard; a word instead where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("matplotlib is not installed: confusion.png is not drawn")
        return
    figure = confusion_picture(counts, classes, title)
    files.write(folder / "confusion.png", lambda beside: figure.savefig(beside, format="png", dpi=120))
    if board is not None:
        board.add_figure("Classification/confusion", figure, epoch)


def summarise(result: dict[str, Any], log_root: Path, folder: Path, named: Sequence[str]) -> None:
    """The end of a run on the terminal; ``named``: words of the command line that a later one must repeat."""
    synthetic = f" ({result['synthetic']})" if result["synthetic"] else ""
    print(f"\n{result['agent']} on {result['dataset']}{synthetic}: {result['outcome']}")
    chosen, of = result["accuracy_validation"], result["samples_validation"]
    by = f", chosen by {chosen:.1%} of {of}" if chosen is not None else ""
    if result["accuracy"] is None:
        print(
            f"  accuracy         not yet: the {result['samples_test']} to test on are seen once, at the end{by.replace(', chosen by', ';')}"
        )
    else:
        print(f"  accuracy         {result['accuracy']:.1%} of the {result['samples_test']} to test on")
        print(f"  epoch            {result['epoch']} of {result['epochs']}{by}")
    print(f"  firing rate      {result['firing_rate']:.1%} of all inner steps")
    print(f"  operations       {result['synops_per_sample']:,.0f} per sample")
    print(
        f"  time             {result['seconds_total']:.0f} s, {result['seconds_per_epoch']:.1f} s per epoch"
    )
    print(f"  watch it         tensorboard --logdir {log_root}")
    words = shlex.join(["--checkpoint", str(folder), *named])
    if result["outcome"] == "stopped":
        root = f" --log_root {shlex.quote(str(log_root))}" if log_root != Path("logs") else ""
        print(f"  go on            python scripts/classify.py {words}{root}")
    elif result["outcome"] == "finished":
        print(f"  use it           python scripts/classify.py --predict {words} --data FOLDER")
