"""``spiky classify``: train and evaluate a classifier of event recordings, or predict classes."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.classification.settings import (
    ClassifyOptions,
    ClassifyRequest,
    format_required_arguments,
    make_settings,
)
from spiky_rl.cli import common
from spiky_rl.cli.display import DisplayRow, ProgressBar, TrainingDisplay, format_sparkline
from spiky_rl.cli.flags import get_given_values, parse_settings
from spiky_rl.cli.tables import print_facts
from spiky_rl.config.progress import format_count
from spiky_rl.run.command import handle_stop_signals

if TYPE_CHECKING:
    from spiky_rl.classification.training import Epoch


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    about = "Train an agent's network as a classifier of event recordings (Ctrl-C stops and saves), evaluate it, or predict classes."
    return common.Parser("classify", about, ClassifyRequest, ClassifyOptions, verbose=True)


def classify(argv: list[str]) -> int:
    """Train, evaluate or predict; all checks that need no data run before the data is loaded."""
    args = build_parser().parse(argv)
    request = parse_settings(ClassifyRequest, args, flags=get_given_values(ClassifyOptions, args))
    action = "evaluating" if request.evaluate else "predicting with" if request.predict else "training"
    common.announce(f"{action} {request.agent or 'a classifier'} on {request.dataset or request.checkpoint}")
    request.check_request()
    if request.evaluate or request.predict:
        return evaluate_or_predict(request)
    return train_classifier(request)


def train_classifier(request: ClassifyRequest) -> int:
    """Train a classifier, or resume its training, and print the outcome; return the exit code."""
    settings = None if request.checkpoint else make_settings(request)

    from spiky_rl.classification.run import create_run

    run = create_run(request, settings, ProgressBar)
    first_epoch, accuracies = len(run.trainer.history.loss), []
    with handle_stop_signals("stopping after this epoch") as stop:
        with TrainingDisplay(run.title) as display:
            outcome = run.learn(stop, lambda epoch: show_epoch(display, epoch, first_epoch, accuracies))
        if (result := run.write_result(outcome)) is not None:
            if outcome == "finished":
                run.compare(result, stop, ProgressBar)
            print_summary(
                result, request.log_root, run.folder, format_required_arguments(request, run.settings)
            )
        print(f"{run.title}: {outcome}" if result is None else run.folder / "result.json")
    return stop.get_exit_code(outcome)


def evaluate_or_predict(request: ClassifyRequest) -> int:
    """Evaluate the best network of a run or predict classes with it; return the exit code."""
    from spiky_rl.classification import inference, run

    trained = inference.load_classifier(
        request, run.find_checkpoint(request), request.device, request.evaluate, ProgressBar
    )
    n_trained_on = int(trained.seen.sum())
    if request.predict:
        out = inference.predict(trained, request.out)
        print(
            f"{format_count(len(trained.samples), 'recording')} predicted, {n_trained_on} of which the network was trained with"
        )
        print(out)
        return 0
    out, result = inference.evaluate(trained, request.out)
    share, (low, high) = result["accuracy"], result["interval_95"]
    print(
        f"{trained.agent} on {result['dataset']}: {share:.1%} of {format_count(result['samples'], 'recording')}  [{low:.1%}, {high:.1%}]"
    )
    parts = (result["other_parts"], "outside the test set")
    left_out = ((n_trained_on, "seen in training"), (result["without_class"], "without a class"), parts)
    if words := [f"{count} {why}" for count, why in left_out if count]:
        print(f"  left out: {', '.join(words)}")
    print(out)
    return 0


def show_epoch(display: TrainingDisplay, epoch: Epoch, first_epoch: int, accuracies: list[float]) -> None:
    """Show an epoch; append its validation accuracy, or its training accuracy if there is no validation set, to ``accuracies``.

    ``first_epoch`` is the first epoch since the start or resume.
    """
    validation, layers = epoch.accuracy_validation, "  ".join(f"{layer.rate:.1%}" for layer in epoch.layers)
    accuracies.append(epoch.accuracy_train if validation is None else validation)
    curve = format_sparkline(accuracies)
    rows = (
        DisplayRow("epoch", f"{epoch.index + 1:3d}/{epoch.last + 1}"),
        DisplayRow(
            "validation",
            f"{'-' if validation is None else f'{validation:.1%}':>6}",
            "" if validation is None else curve,
        ),
        DisplayRow("train", f"{epoch.accuracy_train:6.1%}", curve if validation is None else ""),
        DisplayRow("loss", f"{epoch.loss:6.3f}"),
        DisplayRow("firing rate", f"{epoch.rate:5.1%}", f"by layer: {layers}"),
        DisplayRow("effective ops", f"{epoch.operations_per_recording:9,.0f}", "per recording"),
        DisplayRow("time", f"{epoch.seconds:5.1f} s", "per epoch"),
    )
    display.show((epoch.index - first_epoch + 1) / (epoch.last - first_epoch + 1), rows)


def print_summary(
    result: Mapping[str, Any], log_root: Path, folder: Path, required_arguments: Sequence[str]
) -> None:
    """Print the outcome of a run; a later command must repeat the ``required_arguments``."""
    synthetic = f" ({result['synthetic']})" if result["synthetic"] else ""
    words = ["--checkpoint", str(folder), *required_arguments]
    root = ["--log_root", str(log_root)] if log_root != Path("logs") else []
    command, outcome = common.format_program("classify"), result["outcome"]
    lacks_ann = result["settings"]["flags"]["ann"] == "mlp" and result["ann"] is None
    print_facts(
        f"{result['agent']} on {result['dataset']}{synthetic}: {outcome}",
        *describe_accuracy(result),
        result["rising"] is not None and ("not converged", describe_rise(result)),
        ("firing rate", f"{result['firing_rate']:.1%} of all inner steps"),
        ("effective ops", f"{result['synops_per_sample']:,.0f} per recording"),
        ("time", f"{result['seconds_total']:.0f} s, {result['seconds_per_epoch']:.1f} s per epoch"),
        ("TensorBoard", f"tensorboard --logdir {log_root}"),
        (outcome == "stopped" or lacks_ann) and ("resume with", f"{command} {shlex.join([*words, *root])}"),
        outcome == "finished" and ("predict with", f"{command} --predict {shlex.join(words)} --data FOLDER"),
    )


def describe_accuracy(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows on the accuracy of a result, on its ANN, and on the best epoch."""
    n_tested, share = result["samples_test"], result["accuracy_validation"]
    validation = (
        [] if share is None else [f"{share:.1%} of {result['samples_validation']} validation recordings"]
    )
    if result["accuracy"] is None:
        text = f"none yet: the {n_tested} test recordings are used once, at the end"
        return [("accuracy", "; ".join([text, *validation])), *describe_ann(result)]
    best = ", with ".join([f"{result['epoch']} of {result['epochs']}", *validation])
    accuracy = f"{result['accuracy']:.1%} of {n_tested} test recordings"
    return [("accuracy", accuracy), *describe_ann(result), ("best epoch", best)]


def describe_rise(result: Mapping[str, Any]) -> str:
    """Return a text on an accuracy that was still rising at the end of a training, with the option to train longer."""
    kind, before, last = (result["rising"][key] for key in ("what", "before", "last"))
    return (
        f"{kind} accuracy was still rising, from {before:.1%} to {last:.1%};"
        f" train longer with --epochs {2 * result['epochs']}"
    )


def describe_ann(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows on the ANN of a result: its accuracy and cost, compared with the network's."""
    ann, count = result["ann"], result["samples_test"]
    if ann is None:
        return []
    if ann["accuracy"] is None:
        return [("ANN", f"left out: {ann['left_out']}")]
    share = ann["accuracy"]
    cost = f"{ann['seconds_total']:.0f} s, {ann['synops_per_sample']:,.0f} effective ops per recording"
    rows = [
        ("ANN", f"{share:.1%} of the same {count}: a perceptron on all frames ({cost}; --ann none: no ANN)")
    ]
    variances = (accuracy * (1.0 - accuracy) / count for accuracy in (share, result["accuracy"]))
    margin = 2.0 * math.sqrt(sum(variances))
    if result["accuracy"] < share - margin:
        text = f"better than the spiking network by more than two standard errors of the difference ({margin:.1%})"
        rows.append(("", text))
    return rows
