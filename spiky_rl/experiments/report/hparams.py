"""A study's cells for TensorBoard's HParams view, from its result files: the same files give the same bytes.

Each cell is a session of its own; failed cells have one without numbers. Events have no time, so that only the results decide them. The
plugin's own helpers write maps of protobuf in random order and no failed sessions; its `api` needs TensorFlow.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from spiky_rl.config import files
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_value
from spiky_rl.experiments.analysis.measures import (
    ARITHMETIC_MODEL,
    compute_step_energy,
    find_steps_to_threshold,
)
from spiky_rl.experiments.analysis.outcome import StudyAnalysis, analyze_study
from spiky_rl.experiments.report import TENSORBOARD
from spiky_rl.experiments.run.records import CellResult

# protobuf creates the classes of these modules at run time
api: Any = importlib.import_module("tensorboard.plugins.hparams.api_pb2")
plugin_data: Any = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
struct: Any = importlib.import_module("google.protobuf.struct_pb2")
Event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
Summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
SummaryMetadata: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").SummaryMetadata

FILE = "events.out.tfevents.0.study"
METRICS = {
    "score": "mean return of the final policy, undisturbed",
    "normalised_score": "0: random actions, 1: the baseline's mean",
    "operations": "effective synaptic operations per control step",
    "energy_nj": "energy of a control step's arithmetic, in nJ, fp32 at 45 nm",
    "steps_to_threshold": "environment steps until the mean return reached the task's threshold; absent: never",
    "wall_seconds": "duration of the training",
}
"""Metrics of a cell in the view: tag to description."""
CURVE = "curve/return"
"""Tag of the learning curve over environment steps."""


def _remove_old_files(root: Path) -> None:
    """Remove the files of an earlier call, and folders that are empty then; links are left alone."""
    for old in [*root.glob(f"*/{FILE}"), root / FILE]:
        if old.parent.is_symlink():
            continue
        old.unlink(missing_ok=True)
        if old.parent != root and not any(old.parent.iterdir()):
            old.parent.rmdir()


def _list_scalars(result: CellResult, analysis: StudyAnalysis) -> list[tuple[int, Any]]:
    """Return the metrics of a cell at step 0, and its learning curve, each with its step."""
    metrics = get_metrics(result, analysis).items()
    scalars = [(0, _make_scalar(tag, value)) for tag, value in metrics if value is not None]
    if result.curve is not None:
        points = zip(result.curve.env_steps, result.curve.returns, strict=True)
        scalars += [(step, _make_scalar(CURVE, value)) for step, value in points if value is not None]
    return scalars


def write_hparams(folder: Path, analysis: StudyAnalysis | None = None) -> Path:
    """Write ``folder``/tensorboard anew and return it; ``analysis`` is that of the folder, None if it is not made yet.

    Raises ResultsError if the folder has no study.
    """
    analysis = analysis or analyze_study(folder)
    root = folder / TENSORBOARD
    files.require_own_folder(root)
    _remove_old_files(root)
    failed = [cell for cell in analysis.skipped if cell.label is not None and cell.status != "missing"]
    cells: dict[str, PlainMapping] = {
        cell.cell: {
            "agent": analysis.agents.get(str(cell.label), str(cell.label).partition(" ")[0]),
            "task": cell.task,
            "seed": cell.seed,
            **cell.variant,
        }
        for cell in (*analysis.results, *failed)
    }
    types = _get_types(cells.values())
    _write(root / FILE, [(0, _make_experiment(cells.values(), types, analysis.design.question))])
    for result in analysis.results:
        start = (0, _make_start(result.cell, cells[result.cell], types))
        scalars = _list_scalars(result, analysis)
        _write(root / result.cell / FILE, [start, *scalars, (0, _make_end(True))])
    for cell in failed:
        start = (0, _make_start(cell.cell, cells[cell.cell], types))
        # the name of an arm's cell begins with the path of its study
        _write(root / cell.cell.replace("/", "-") / FILE, [start, (0, _make_end(False))])
    return root


def get_metrics(result: CellResult, analysis: StudyAnalysis) -> dict[str, float | None]:
    """Return the values of `METRICS` for the ``result`` of a cell; None for a value that it does not have."""
    cost, task = result.cost, result.task
    low, high = analysis.random.get(task, math.nan), analysis.reference.get(task, math.nan)
    return {
        "score": result.score,
        "normalised_score": (result.score - low) / (high - low) if high > low else None,
        "operations": cost and cost.effective_operations,
        "energy_nj": compute_step_energy(result, ARITHMETIC_MODEL),
        "steps_to_threshold": find_steps_to_threshold(result, analysis.solved.get(task)),
        "wall_seconds": result.training and result.training.seconds_total,
    }


def _get_types(cells: Iterable[PlainMapping]) -> dict[str, str]:
    """Return the type of every hyperparameter as protobuf names it: ``bool``, ``number`` or ``string``; mixed ones are text."""
    types_by_key: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.items():
            if isinstance(value, bool):
                name = "bool"
            else:
                name = "number" if isinstance(value, int | float) else "string"
            types_by_key.setdefault(key, set()).add(name)
    return {key: names.pop() if len(names) == 1 else "string" for key, names in types_by_key.items()}


def _convert(value: PlainValue, type_name: str) -> PlainValue:
    """Return ``value`` as its type needs it."""
    return format_value(value) if type_name == "string" else value


def _make_experiment(cells: Iterable[PlainMapping], types: Mapping[str, str], question: str) -> Any:
    """Return the summary of the view: hyperparameters with their values, and metrics."""
    enums = {"bool": api.DATA_TYPE_BOOL, "number": api.DATA_TYPE_FLOAT64, "string": api.DATA_TYPE_STRING}
    experiment = api.Experiment(description=question)
    for key, name in types.items():
        values = dict.fromkeys(_convert(cell[key], name) for cell in cells if key in cell)
        listed = struct.ListValue(values=[struct.Value(**{f"{name}_value": value}) for value in values])
        experiment.hparam_infos.append(api.HParamInfo(name=key, type=enums[name], domain_discrete=listed))
    for tag, text in METRICS.items():
        name = api.MetricName(tag=tag)
        experiment.metric_infos.append(api.MetricInfo(name=name, display_name=tag, description=text))
    return _make_plugin_summary("EXPERIMENT_TAG", experiment=experiment)


def _make_start(cell: str, values: PlainMapping, types: Mapping[str, str]) -> Any:
    """Return the summary with a session's hyperparameters."""
    info = plugin_data.SessionStartInfo(group_name=cell)
    for key, value in values.items():
        setattr(info.hparams[key], f"{types[key]}_value", _convert(value, types[key]))
    return _make_plugin_summary("SESSION_START_INFO_TAG", session_start_info=info)


def _make_end(succeeded: bool) -> Any:
    """Return the summary of a session's end."""
    status = api.STATUS_SUCCESS if succeeded else api.STATUS_FAILURE
    info = plugin_data.SessionEndInfo(status=status)
    return _make_plugin_summary("SESSION_END_INFO_TAG", session_end_info=info)


def _make_plugin_summary(tag: str, **data: object) -> Any:
    """Return a summary for the plugin with sorted maps; protobuf's own have no order."""
    content = plugin_data.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **data)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString(deterministic=True)
    )
    described = SummaryMetadata(plugin_data=plugin)
    value = Summary.Value(tag=getattr(metadata, tag), metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _make_scalar(tag: str, value: float) -> Any:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def _write(path: Path, summaries: Iterable[tuple[int, object]]) -> None:
    """Write an event file of (step, summary) pairs, all at time 0."""
    events = [Event(file_version="brain.Event:2"), *(Event(step=step, summary=s) for step, s in summaries)]

    def write_content(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString(deterministic=True))

    files.write_atomically(path, write_content)
