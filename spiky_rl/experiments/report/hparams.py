"""A study's cells for TensorBoard's HParams view, from its result files: the same files give the same bytes.

Each cell is a session of its own; failed ones are there too, without numbers. Event files hold no time, so that nothing
but the results decides them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spiky_rl.config import files
from spiky_rl.config.plain_data import PlainMapping, PlainValue, format_value
from spiky_rl.experiments.analysis import statistics
from spiky_rl.experiments.analysis.measures import (
    ARITHMETIC_MODEL,
    compute_step_energy,
    find_steps_to_threshold,
)
from spiky_rl.experiments.analysis.outcome import StudyAnalysis, analyze_study
from spiky_rl.experiments.report import TENSORBOARD
from spiky_rl.experiments.run.results import CellResult

FILE = "events.out.tfevents.0.study"
METRICS = {
    "score": "mean return of the final policy, undisturbed",
    "normalised_score": "0: random actions, 1: the baseline's mean",
    "operations": "effective synaptic operations per control step",
    "energy_nj": "energy of a control step's arithmetic, in nJ, fp32 at 45 nm",
    "steps_to_threshold": "environment steps until the mean return reached the task's threshold; absent: never",
    "wall_seconds": "duration of the training",
}
"""What the view shows of a cell, beside its hyper-parameters; the tag of each scalar."""
CURVE = "curve/return"
"""Tag of the learning curve, over environment steps."""


def write_hparams(folder: Path) -> Path:
    """Write ``folder``/tensorboard anew and return it. Raises ResultsError where the folder holds no study."""
    analysis = analyze_study(folder)
    root = folder / TENSORBOARD
    files.require_own_folder(root)
    for old in [*root.glob(f"*/{FILE}"), root / FILE]:
        if old.parent.is_symlink():
            continue
        old.unlink(missing_ok=True)
        if old.parent != root and not any(old.parent.iterdir()):
            old.parent.rmdir()
    named = [cell for cell in analysis.skipped if cell.label is not None and cell.status != "missing"]
    cells: dict[str, PlainMapping] = {
        cell.cell: {
            "agent": str(cell.label).partition(" ")[0],
            "task": cell.task,
            "seed": cell.seed,
            **cell.variant,
        }
        for cell in (*analysis.results, *named)
    }
    kinds = _kinds(cells.values())
    _write(root / FILE, [(0, _experiment(cells.values(), kinds, analysis.design.question))])
    for result in analysis.results:
        measured = measures(result, analysis)
        scalars = [(0, _scalar(tag, value)) for tag in METRICS if (value := measured[tag]) is not None]
        if result.curve is not None:
            points = zip(result.curve.env_steps, result.curve.returns, strict=True)
            scalars += [(step, _scalar(CURVE, value)) for step, value in points if value is not None]
        start = (0, _start(result.cell, cells[result.cell], kinds))
        _write(root / result.cell / FILE, [start, *scalars, (0, _end(True))])
    for cell in named:
        _write(root / cell.cell / FILE, [(0, _start(cell.cell, cells[cell.cell], kinds)), (0, _end(False))])
    return root


def measures(result: CellResult, analysis: StudyAnalysis) -> dict[str, float | None]:
    """Measures of the ``result`` of a cell in its study's ``analysis``, by the names of `METRICS`; None where there are none."""
    cost, task = result.cost, result.task
    low, high = analysis.random.get(task, math.nan), analysis.reference.get(task, math.nan)
    normalised = None
    if high > low:
        scores = {task: {result.seed: result.score}}
        normalised = statistics.normalise(scores, {task: low}, {task: high})[task][result.seed]
    return {
        "score": result.score,
        "normalised_score": normalised,
        "operations": cost and cost.effective_operations,
        "energy_nj": compute_step_energy(result, ARITHMETIC_MODEL),
        "steps_to_threshold": find_steps_to_threshold(result),
        "wall_seconds": result.training and result.training.seconds_total,
    }


def _kinds(cells: Iterable[PlainMapping]) -> dict[str, str]:
    """Type of every hyper-parameter, ``bool``, ``number`` or ``string``, as protobuf names them; a mixed one is text."""
    kinds_by_key: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            kind = "bool" if isinstance(value, bool) else "number" if is_number else "string"
            kinds_by_key.setdefault(key, set()).add(kind)
    return {key: kinds.pop() if len(kinds) == 1 else "string" for key, kinds in kinds_by_key.items()}


def _plain(value: PlainValue, kind: str) -> PlainValue:
    """The value as its kind asks."""
    return format_value(value) if kind == "string" else value


def _experiment(cells: Iterable[PlainMapping], kinds: Mapping[str, str], question: str) -> Any:
    """What there is to see: hyper-parameters with the values they take, and metrics."""
    api, struct = _proto("api_pb2"), importlib.import_module("google.protobuf.struct_pb2")
    types = {"bool": api.DATA_TYPE_BOOL, "number": api.DATA_TYPE_FLOAT64, "string": api.DATA_TYPE_STRING}
    experiment = api.Experiment(description=question)
    for key, kind in kinds.items():
        values = dict.fromkeys(_plain(cell[key], kind) for cell in cells if key in cell)
        listed = struct.ListValue(values=[struct.Value(**{f"{kind}_value": value}) for value in values])
        experiment.hparam_infos.append(api.HParamInfo(name=key, type=types[kind], domain_discrete=listed))
    for tag, text in METRICS.items():
        name = api.MetricName(tag=tag)
        experiment.metric_infos.append(api.MetricInfo(name=name, display_name=tag, description=text))
    return _hidden("EXPERIMENT_TAG", experiment=experiment)


def _start(cell: str, chosen: PlainMapping, kinds: Mapping[str, str]) -> Any:
    info = _proto("plugin_data_pb2").SessionStartInfo(group_name=cell)
    for key, value in chosen.items():
        setattr(info.hparams[key], f"{kinds[key]}_value", _plain(value, kinds[key]))
    return _hidden("SESSION_START_INFO_TAG", session_start_info=info)


def _end(succeeded: bool) -> Any:
    api = _proto("api_pb2")
    info = _proto("plugin_data_pb2").SessionEndInfo(
        status=api.STATUS_SUCCESS if succeeded else api.STATUS_FAILURE
    )
    return _hidden("SESSION_END_INFO_TAG", session_end_info=info)


def _hidden(tag: str, **data: object) -> Any:
    """A summary for the plugin alone, its maps sorted: protobuf's own have no order."""
    metadata, summary = _proto("metadata"), importlib.import_module("tensorboard.compat.proto.summary_pb2")
    content = _proto("plugin_data_pb2").HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **data)
    plugin = summary.SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString(deterministic=True)
    )
    described = summary.SummaryMetadata(plugin_data=plugin)
    value = summary.Summary.Value(tag=getattr(metadata, tag), metadata=described, tensor=metadata.NULL_TENSOR)
    return summary.Summary(value=[value])


def _scalar(tag: str, value: float) -> Any:
    summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
    return summary(value=[summary.Value(tag=tag, simple_value=value)])


def _proto(name: str) -> Any:
    """A module of the plugin; protobuf makes its classes at run time."""
    return importlib.import_module(f"tensorboard.plugins.hparams.{name}")


def _write(path: Path, summaries: Iterable[tuple[int, object]]) -> None:
    """An event file of (step, summary) pairs, all at time 0."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
    events = [event(file_version="brain.Event:2"), *(event(step=step, summary=s) for step, s in summaries)]

    def fill(beside: Path) -> None:
        with open(beside, "wb") as file:
            writer = RecordWriter(file)
            for one in events:
                writer.write(one.SerializeToString(deterministic=True))

    files.write_atomically(path, fill)
