"""Records of ``result.json``, the result of a cell: its measurements, checked key by key."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from spiky_rl.config.options import FileRecord, RegistryError
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS, Number, Texts
from spiky_rl.experiments.design.study import OptionalBudget
from spiky_rl.metrics.energy import InferenceCost, get_energy_model
from spiky_rl.run.provenance import Provenance

Numbers = Annotated[tuple[Number, ...], Field(strict=False)]
Measured = Annotated[tuple[Number | None, ...], Field(strict=False)]
"""A number per iteration; None if nothing was measured."""
Counts = Annotated[tuple[int, ...], Field(strict=False)]


class EvaluationsRecord(FileRecord):
    """Evaluations during a training, without action noise; equally long lists."""

    env_steps: Counts
    """Environment steps of the training."""
    mean_return: Numbers

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.env_steps) != len(self.mean_return):
            raise RegistryError(f"unequal lengths {len(self.env_steps)} and {len(self.mean_return)}")
        return self


class TrainingRecord(FileRecord):
    """Measurements of a training."""

    env_steps: int
    iterations: int
    mean_return_final: float | None
    mean_return_best: float | None
    seconds_total: float
    seconds_simulation: float
    seconds_inference: float
    seconds_learning: float
    seconds_cpu: float | None = None
    """Seconds of all processors together; None if not counted, as in a resumed training."""
    worlds_reset: int = 0
    """Number of environments in which the physics failed; 0 in results of earlier versions, where a failure ended the training."""
    last_ten_evaluations: float | None = None
    """Mean return of the last ten evaluations during the training; None without evaluations, likewise the next two."""
    max_evaluation: float | None = None
    evaluations: EvaluationsRecord | None = None


class CurveRecord(FileRecord):
    """One entry per iteration; a return is None until an episode has ended."""

    env_steps: Counts
    returns: Measured = Field(alias="return")
    seconds: Numbers
    operations: Measured
    firing_rate: Measured

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {name: len(values) for name, values in self.model_dump(by_alias=True).items()}
        if len(set(lengths.values())) != 1:
            raise RegistryError(f"unequal lengths {lengths}")
        if any(later <= earlier for earlier, later in itertools.pairwise(self.env_steps)):
            raise RegistryError("env_steps: they do not ascend")
        return self


class RecoveryRecord(FileRecord):
    """Recovery of the reward after damage in mid-episode (`spiky_rl.run.evaluate.RecoveryMeter`)."""

    episodes: int
    before: float
    after: float
    share: float | None


class ConditionRecord(FileRecord):
    """One evaluation of the final policy."""

    text: str
    mean_return: float
    std_return: float
    returns: Numbers
    mean_length: float
    """Control steps."""
    lengths: Numbers
    firing_rate: float | None
    operations: float | None
    """Effective synaptic operations per control step."""
    measures: dict[str, float]
    recovery: RecoveryRecord | None = None


class EvaluationRecord(FileRecord):
    """Measurements of `evaluate.py`."""

    episodes: int
    conditions: dict[str, ConditionRecord]
    adapting: dict[str, ConditionRecord] | None = None


LIST_KEYS = ("stored_values", "index_bytes", "index_reads")
"""Fields of `InferenceCost` for weights stored as lists, which results from before 28 November 2026 lack."""
OPTIONAL_KEYS = ("state_accesses", *LIST_KEYS)
"""All fields of `InferenceCost` that results of earlier versions may lack."""


def _make_count_fields() -> dict[str, Any]:
    """Return the fields of `InferenceCost` as pydantic takes them: (type, default) by name; ``...`` for required ones."""
    types = {"int": int, "float": float}
    fields = [each for each in dataclasses.fields(InferenceCost) if each.name != "equal_ann"]
    kinds = {each.name: types[str(each.type)] for each in fields}
    required = {name: (kind, ...) for name, kind in kinds.items() if name not in OPTIONAL_KEYS}
    optional = {name: (kinds[name] | None, None) for name in OPTIONAL_KEYS}
    return required | optional


_COUNT_FIELDS = _make_count_fields()
_InferenceCounts: Any = create_model("_InferenceCounts", __base__=FileRecord, **_COUNT_FIELDS)


class CountsRecord(_InferenceCounts):
    """Counts per control step: the fields of `InferenceCost`."""

    def compute_energy(self, name: str) -> float | None:
        """Return the energy in nJ under today's energy model ``name``; None if it needs counts that are missing.

        Raises RegistryError for an unknown energy model.
        """
        model = get_energy_model(name)
        needed: tuple[str, ...] = ()
        if model.has_lists:
            needed = OPTIONAL_KEYS
        elif model.bytes_per_value:
            needed = ("state_accesses",)
        if any(getattr(self, key) is None for key in needed):
            return None
        counts = self.model_dump(include=set(_COUNT_FIELDS))
        # an absent count is not used by this energy model
        known: dict[str, Any] = {key: 0 if value is None else value for key, value in counts.items()}
        return InferenceCost(**known).compute_energy(model) / 1000.0


class CostRecord(CountsRecord):
    """Cost per control step: the fields of `InferenceCost`, and the further keys of `InferenceCost.to_dict`."""

    effective_operations: float
    energy_nj: dict[str, float]
    """Energy by energy model, as the version that wrote the file computed it; reports use `compute_energy` instead."""
    ann_skipping_zeros: CountsRecord | None = None
    """Counts of the equal-size ANN; None for an ANN, and in results of earlier versions."""
    ann_skipping_zeros_energy_nj: dict[str, float] | None = None
    ann_dense_operations: Number | None
    actions_per_second: float | None
    effective_operations_per_second: float | None = None


class CellResult(FileRecord):
    """Content of result.json: the measurements of one cell."""

    version: Literal[1]
    cell: str
    agent: str
    label: str
    variant: dict[str, Any]
    task: str
    registered: str = ""
    """The task with its package; empty in results of earlier versions."""
    seed: int
    kind: Literal["trained", "random"]
    hash: str
    spec_hash: str | None
    commands: Texts
    outcome: Literal["finished"]
    resumed: int
    budget: OptionalBudget
    solved: float | None
    training: TrainingRecord | None
    curve: CurveRecord | None
    evaluation: EvaluationRecord
    cost: CostRecord | None
    device: str
    num_envs: int
    assets: str
    physics: str = EARLIER_PHYSICS
    library: str
    versions: dict[str, str]
    provenance: Provenance | None = None
    """None in results of earlier versions."""
    machine: str
    date: str
    is_ann: bool = Field(default=False, exclude=True)
    """Whether its study names the agent among its ANNs; not in the file."""

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        if self.kind == "trained" and (self.training is None or self.curve is None):
            raise RegistryError("training, curve: null in a cell that was trained")
        if "nominal" not in self.evaluation.conditions:
            raise RegistryError("evaluation.conditions: missing nominal")
        return self

    @property
    def episodes(self) -> int:
        """Episodes of every evaluation."""
        return self.evaluation.episodes

    @property
    def conditions(self) -> Mapping[str, ConditionRecord]:
        """Evaluations of the trained policy by condition."""
        return self.evaluation.conditions

    @property
    def plastic(self) -> Mapping[str, ConditionRecord]:
        """Evaluations of a plastic policy while its weights change, by condition; empty for other policies."""
        return self.evaluation.adapting or {}

    @property
    def nominal(self) -> ConditionRecord:
        """The undisturbed evaluation."""
        return self.conditions["nominal"]

    @property
    def score(self) -> float:
        """Mean return of the final policy, undisturbed."""
        return self.nominal.mean_return
