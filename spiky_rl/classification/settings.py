"""Settings of a classification: from the request, else from the resumed checkpoint, else the dataset's defaults."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import field_validator

from spiky_rl.config import files, registry
from spiky_rl.config.named_code import check_code_is_named, find_code, list_texts
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.registry import ComponentSpec, shorten
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.config.schema import MAX_INT32
from spiky_rl.config.spec import AgentSpec, flatten, parse_overrides, read_agent, resolve_agent
from spiky_rl.learners.common.local_learning import get_local_rule

if TYPE_CHECKING:
    from spiky_rl.classification.checkpoint import LoadedCheckpoint
    from spiky_rl.datasets.base import Dataset

LIBRARY = "classify"
"""Folder name in place of an RL library's: runs are in logs/classify/<dataset>."""
DEFAULT_CFG = {"actor": {"hidden_dims": [128, 128]}, "algorithm": {"learning_rate": 1e-3}}
"""Layers and learning rate of an agent that does not set them; a task's registered configuration has this role in a host."""
USED_AGENT_KEYS = ("network", "frames", "actor.hidden_dims", "algorithm.learning_rate")
"""Keys of an agent that a classification uses."""
DATASET_DEFAULTS = ("epochs", "batch_size", "shift", "rotation", "ann")
"""Flags whose defaults are class attributes of the dataset."""
CHANGEABLE_ON_RESUME = ("epochs", "patience", "data", "ann")
"""Flags that may change when a run is resumed."""
OWN_DATA = "custom"
"""The dataset that reads a user's own recordings."""


class ClassifyOptions(Settings):
    """Options of a training, besides its dataset and agent."""

    epochs: int | None = option(
        None, "total number of passes over the samples; null: the dataset's", low=1, high=MAX_INT32
    )
    patience: int = option(
        0, "end after this many epochs without a better validation accuracy; 0: never", low=0, high=MAX_INT32
    )
    seed: int = option(
        0, "seed of weights, order and augmentation; -1 for a random seed", low=-1, high=MAX_INT32
    )
    hold_out: int | None = option(
        None,
        "number of recordings of the training set to use as the test set, proportionally from each class; null: the official test set,"
        " else a fifth",
        low=1,
        high=MAX_INT32,
        flags=["--hold_out", "--hold-out"],
        metavar="K",
    )
    validation: int | None = option(
        None,
        "number of recordings of the training set for validation, which chooses the best epoch, 0 for none; null: the official"
        " ones, else a tenth",
        low=0,
        high=MAX_INT32,
        metavar="K",
    )
    split: int = option(0, "seed of the random --hold_out and --validation parts", low=0, high=MAX_INT32)
    recordings: int | None = option(
        None,
        "use only N recordings, with the same share of each class and part; the choice does not depend on --seed",
        low=1,
        high=MAX_INT32,
        metavar="N",
    )
    ids: str | None = option(
        None, "use only the recordings listed in FILE, such as a run's params/recordings.csv", metavar="FILE"
    )
    skip_bad: bool = option(False, "leave out damaged and empty recordings and list them")
    data: str | None = option(
        None,
        "folder of the datasets, or of your own recordings; null: SPIKY_RL_DATA, else the cache folder",
    )
    batch_size: int | None = option(None, "samples per minibatch; null: the dataset's", low=1, high=MAX_INT32)
    schedule: Literal["cosine", "constant"] = option(
        "cosine", "schedule of the agent's learning rate over the epochs"
    )
    label_smoothing: float = option(
        0.1, "share of the target that is spread over all classes", low=0.0, below=1.0
    )
    shift: float | None = option(
        None, "augmentation: largest random shift of a sample in pixels; null: the dataset's", low=0.0
    )
    rotation: float | None = option(
        None, "augmentation: largest random rotation of a sample in degrees; null: the dataset's", low=0.0
    )
    initial: Literal["agent", "data"] | None = option(
        None, "initial weights: the agent's, or the agent's scaled to the recordings; null: the dataset's"
    )
    ann: Literal["none", "mlp"] | None = option(
        None,
        "ANN to train on the same frames for comparison; null: mlp for your own recordings, else none",
    )


RECORDING_FLAGS = ("data", "recordings", "ids", "skip_bad")
"""Flags that select the recordings, for training and for inference."""
FRAME_KEYS = ("bins", "binary")
"""Options of every dataset that make its frames; a network is used with the frames that it was trained on."""
PATH_FLAGS = ("data", "ids")
"""Flags that are paths."""


class ClassifyRequest(Settings):
    """Request of a classification: training, evaluation or prediction."""

    dataset: str | None = option(
        None,
        f"dataset: {', '.join(registry.list_names('datasets'))}, or path/file.py:Class; custom takes your own recordings in --data",
        metavar="NAME",
    )
    agent: str | None = option(
        None, "name of a file in agents/, or path to a YAML file; null: one that fits the dataset"
    )
    flags: dict[str, bool | int | float | str] = option(
        {}, "given options of `ClassifyOptions`, by name", flags=[]
    )
    download: bool = option(False, "download the dataset if it is missing (nmnist)")
    bins: int | None = option(
        None, "number of frames per recording; the same as dataset.bins=N", low=1, high=MAX_INT32
    )
    binary: bool | None = option(
        None, "frames of 0 and 1 instead of counts of events; the same as dataset.binary=true"
    )
    device: str | None = option(None, "cpu, cuda or cuda:N; null: the GPU if there is one")
    checkpoint: str | None = option(
        None,
        "folder or checkpoint of a run to resume with its settings, or latest or best of the dataset's newest run",
        metavar="RUN",
    )
    evaluate: bool = option(
        False, "with --checkpoint: measure the accuracy on recordings that were not seen in training"
    )
    predict: bool = option(
        False, "with --checkpoint: write a CSV with the predicted class of each recording in --data"
    )
    out: Path | None = option(
        None, "with --evaluate or --predict: output file; null: in the run's folder", metavar="FILE"
    )
    log_root: Path = option(Path("logs"), "folder of all runs")
    run_name: str = option("", "suffix of the run folder")
    overrides: tuple[str, ...] = option(
        (),
        f"overrides of the dataset (dataset.x=v) or the agent (agent.x.y=v; only {', '.join(USED_AGENT_KEYS)})",
        flags=["overrides"],
        metavar="key=value",
    )

    @field_validator("dataset")
    @classmethod
    def _update_name(cls, name: str | None) -> str | None:
        return None if name is None else registry.get_current_name("datasets", name)

    def check_request(self) -> None:
        """Raise UserError if options contradict each other, or a file cannot be written."""
        files.require_writable("--log_root", self.log_root)
        if self.run_name:
            files.require_plain_name("--run_name", self.run_name)
        if self.evaluate or self.predict:
            self._check_inference("--predict" if self.predict else "--evaluate")
        elif self.out is not None:
            raise UserError("--out: available only with --evaluate or --predict")

    def _check_inference(self, flag: str) -> None:
        """Raise UserError if options are missing for inference, which ``flag`` requests, or do not go with it."""
        if self.checkpoint is None:
            raise UserError("--checkpoint: name the run to evaluate or to predict with")
        if self.predict and self.evaluate:
            raise UserError("--evaluate and --predict: pass one of them")
        if self.predict and "data" not in self.flags:
            raise UserError("--predict: name the folder of the recordings with --data")
        if self.out is not None:
            files.require_file("--out", self.out)
        self._check_training_options(flag)

    def _check_training_options(self, flag: str) -> None:
        """Raise UserError if the request has an option that is for training only; ``flag`` requests inference."""
        for key in ("download", "run_name"):
            if getattr(self, key):
                raise UserError(f"--{key}: available only for training")
        options = {"bins": self.bins, "binary": self.binary, **self.flags}
        for key, value in options.items():
            if value is not None and key not in RECORDING_FLAGS:
                raise UserError(f"--{key}: available only for training; {flag} takes it from the checkpoint")
        for key in self.get_dataset_options():
            if key in FRAME_KEYS:
                raise UserError(
                    f"dataset.{key}: available only for training; {flag} takes it from the checkpoint"
                )

    @property
    def absolute_flags(self) -> dict[str, Any]:
        """The flags with absolute paths, as a checkpoint holds them, so that they do not depend on the working directory."""
        paths = {key: str(Path(str(self.flags[key])).absolute()) for key in PATH_FLAGS if key in self.flags}
        return {**self.flags, **paths}

    def get_dataset_options(self) -> dict[str, Any]:
        """Return the dataset's options that are set. Raises UserError for an invalid value."""
        return parse_dataset_options(self.overrides, self.bins, self.binary)

    def get_agent_overrides(self) -> list[str]:
        """Return the agent's overrides. Raises UserError for a key of an agent that a classification does not use."""
        overrides = [text for text in self.overrides if not text.startswith("dataset.")]
        for text in overrides:
            key = text.partition("=")[0].removeprefix("agent.")
            if text.startswith("agent.") and not any(
                key == k or key.startswith(f"{k}.") for k in USED_AGENT_KEYS
            ):
                raise UserError(
                    f"{text!r}: not used by a classification; allowed: {', '.join(USED_AGENT_KEYS)}"
                )
        return overrides


@dataclass
class ClassificationSettings:
    """All settings of a run."""

    flags: ClassifyOptions
    dataset: dict[str, Any]
    """The dataset's name and options."""
    spec: AgentSpec
    window: tuple[int, int] = (0, 0)
    """Start and end of the classified time; set when the recordings are found."""
    changed: dict[str, Any] = field(default_factory=dict)
    """Flags that differ from the resumed checkpoint's: flag -> [before, now]."""
    overridden: tuple[str, ...] = ()
    """Dotted paths of the agent's overrides on the command line that started the run."""
    pending_overrides: list[str] | None = None
    """Overrides of the agent that the recordings will determine; None if `spec` is the final agent."""

    def to_dict(self) -> dict[str, Any]:
        """Return flags and dataset as plain data, as a checkpoint holds them."""
        dataset = {k: list(v) if isinstance(v, tuple) else v for k, v in self.dataset.items()}
        return {"flags": self.flags.model_dump(), "dataset": dataset}


def make_settings(request: ClassifyRequest) -> ClassificationSettings:
    """Return the settings of a new run. Raises UserError."""
    name = request.dataset
    if name is None:
        raise UserError(
            f"--dataset: name one of {', '.join(registry.list_names('datasets'))}, or --checkpoint to resume a run"
        )
    if name == OWN_DATA and "data" not in request.flags:
        raise UserError(f"--dataset {OWN_DATA}: name the folder of your recordings with --data")
    dataset = configure_dataset(name, request.get_dataset_options())
    cls = get_dataset_class(dataset)
    defaults = {key: getattr(cls, key) for key in DATASET_DEFAULTS}
    flags = ClassifyOptions(**defaults | request.absolute_flags)
    if flags.seed == -1:
        flags = flags.with_changes(seed=random.randrange(10_000))
    agent, overrides = request.agent or cls.agent, request.get_agent_overrides()
    # if the recordings will determine the agent, check the overrides with one that accepts the union of all overrides
    spec = load_agent(agent or "lif_linear_classifier", name, overrides)
    # a component's new name (``x.name``) replaces all of ``x``
    keys = (text.partition("=")[0].removeprefix("agent.").removesuffix(".name") for text in overrides)
    return ClassificationSettings(
        flags,
        dataset.settings(),
        spec,
        overridden=tuple(keys),
        pending_overrides=None if agent else overrides,
    )


def resume_settings(request: ClassifyRequest, loaded: LoadedCheckpoint) -> ClassificationSettings:
    """Return the settings of a resumed run from its checkpoint.

    Raises UserError if the request sets a flag that must not change to another value.
    """
    require_code_named(request, loaded)
    recorded = loaded.identity["settings"]
    flags, changed = {**ClassifyOptions().model_dump(), **recorded["flags"]}, {}
    for key, now in request.absolute_flags.items():
        if now == flags[key] or (key == "seed" and now == -1):
            continue
        if key not in CHANGEABLE_ON_RESUME:
            _refuse_change(loaded, f"--{key}", now, flags[key])
        changed[key] = [flags[key], now]
        flags[key] = now
    if request.dataset is not None:
        _refuse_change(loaded, "--dataset", request.dataset, recorded["dataset"]["name"])
    for key, now in request.get_dataset_options().items():
        _refuse_change(loaded, f"dataset.{key}", now, recorded["dataset"].get(key))
    spec, overridden = load_run_agent(request, loaded)
    return ClassificationSettings(
        ClassifyOptions(**flags), dict(recorded["dataset"]), spec, changed=changed, overridden=overridden
    )


def load_run_agent(request: ClassifyRequest, loaded: LoadedCheckpoint) -> tuple[AgentSpec, tuple[str, ...]]:
    """Return the checkpoint's agent and its overridden paths. Raises UserError if the request has another agent."""
    identity, overrides = loaded.identity, request.get_agent_overrides()
    if request.agent is not None and read_agent(request.agent)[0] != identity["agent"]:
        _refuse_change(loaded, "--agent", request.agent, identity["agent"])
    known = flatten(identity["spec"])
    for key, now in flatten(parse_overrides(overrides)).items():
        # a component without options may be written as its name alone
        _refuse_change(loaded, f"agent.{key}", now, known.get(key, known.get(f"{key}.name")))
    spec, overridden = loaded.build_spec(), tuple(identity.get("overridden", ()))
    if request.agent is not None:
        requested = flatten(
            load_agent(request.agent, identity["settings"]["dataset"]["name"], overrides).to_dict()
        )
        known = flatten(spec.to_dict())
        if key := _find_difference(requested, known, overridden):
            _refuse_change(
                loaded, f"--agent {request.agent}: agent.{key}", requested.get(key), known.get(key)
            )
    return spec, overridden


def _refuse_change(loaded: LoadedCheckpoint, flag: str, now: object, before: object) -> None:
    """Raise UserError if the value of a ``flag`` differs from the value ``before`` in the resumed run."""
    if now != before:
        raise UserError(
            f"{flag} {now}: the run of {loaded.path} has {before}; leave it out, or train anew without --checkpoint"
        )


def _find_difference(now: Mapping[str, Any], before: Mapping[str, Any], overridden: Sequence[str]) -> str:
    """Return the first key whose values differ; empty if there is none. Keys at or below an ``overridden`` path do not count."""
    for key in {**before, **now}:
        is_overridden = any(f"{key}.".startswith(f"{path}.") for path in overridden)
        if now.get(key) != before.get(key) and not is_overridden:
            return key
    return ""


def format_dataset_label(dataset: str) -> str:
    """Return the folder name of runs on a ``dataset``: the dataset's name, or the class name of a user's dataset."""
    return dataset.rpartition(":")[2].lower()


def require_code_named(request: ClassifyRequest, loaded: LoadedCheckpoint) -> None:
    """Raise an error if a checkpoint names code that the request does not name: reading a file must not execute other code.

    The checkpoint's dataset need not be named if the request names another one, because it is not executed then.
    """
    named = [request.dataset or "", *list_texts(parse_overrides(request.get_agent_overrides()))]
    named += list_texts(read_agent(request.agent)[1]) if request.agent is not None else []
    dataset = loaded.identity["settings"]["dataset"]["name"]
    remedy = "pass {} as for the run, to confirm that code"
    check_code_is_named(
        loaded.path, loaded.identity["spec"], named, remedy.format("--agent, or the override,")
    )
    if request.dataset in (None, dataset):
        check_code_is_named(loaded.path, dataset, named, remedy.format("--dataset"))


def format_required_arguments(request: ClassifyRequest, settings: ClassificationSettings) -> list[str]:
    """Return the command-line arguments that must be repeated to resume a run, because they name code."""
    if not find_code([settings.spec.to_dict(), settings.dataset["name"]]):
        return []
    words = ["--dataset", request.dataset] if request.dataset else []
    words += ["--agent", request.agent] if request.agent else []
    return [*words, *(text for text in request.get_agent_overrides() if find_code(parse_overrides([text])))]


def configure_dataset(name: str, options: Mapping[str, Any]) -> ComponentSpec:
    """Return a dataset with options, among which may be its name. Raises RegistryError for an unknown name or option."""
    try:
        return registry.configure("datasets", {"name": name, **options}, "dataset")
    except registry.RegistryError as error:
        raise registry.RegistryError(str(error).replace("dataset.name: ", "--dataset: ")) from None


def get_dataset_class(dataset: ComponentSpec) -> type[Dataset]:
    """Return the dataset's class, for its declarations."""
    return cast("type[Dataset]", dataset.cls)


def parse_dataset_options(
    overrides: Sequence[str], bins: int | None = None, binary: bool | None = None
) -> dict[str, Any]:
    """Return the dataset options among ``overrides`` (``dataset.x=value``), with ``bins`` and ``binary`` if they are set.

    Raises UserError if a value is missing or not valid YAML.
    """
    options: dict[str, Any] = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        if not path.startswith("dataset."):
            continue
        if not equals:
            raise UserError(f"{text!r} has no value; allowed: {text}=value")
        try:
            options[path.removeprefix("dataset.")] = parse_yaml(value)
        except ReadingError as error:
            raise UserError(f"{path}: {shorten(value)} is not a valid value: {error}") from None
    return options | {k: v for k, v in (("bins", bins), ("binary", binary)) if v is not None}


def load_agent(agent: str, dataset: str, overrides: list[str]) -> AgentSpec:
    """Return an agent with overrides. Raises UserError if it has no network, or its network cannot learn classes."""
    read_agent(agent)
    spec = resolve_agent(agent, dataset, DEFAULT_CFG, overrides, host="classify.py")
    if spec.network is None:
        raise UserError(f"--agent {agent}: not a spiking agent, it has no `network`")
    if rule := get_local_rule(spec.network):
        raise UserError(
            f"agent.network.learning: {rule!r} learns from the advantages of actions; a classifier needs a rule with a gradient,"
            " such as bptt"
        )
    if (plasticity := spec.network.parts.get("plasticity")) is not None:
        raise UserError(
            f"agent.network.plasticity: {plasticity.name}: not available for a classification, which runs every recording from rest"
            " with the same synapses; allowed: none"
        )
    return spec
