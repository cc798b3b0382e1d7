"""Settings of a classification: what is given, else those of the checkpoint that it goes on from, else the dataset's defaults."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from spiky_rl.classification.loaded import LoadedCheckpoint
from spiky_rl.config import files, options, registry
from spiky_rl.config.named_code import check_code_is_named, find_code, list_texts
from spiky_rl.config.options import UserError, option
from spiky_rl.config.registry import ComponentSpec, shorten
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.config.schema import MOST_STEPS
from spiky_rl.config.spec import AgentSpec, flatten, parse_overrides, read_agent, resolve_agent
from spiky_rl.learners.common.local_learning import get_local_rule

if TYPE_CHECKING:
    from spiky_rl.datasets.base import Dataset

LIBRARY = "classify"
"""What stands in the place of a host library: runs lie in logs/classify/<dataset>."""
HOST = {"actor": {"hidden_dims": [128, 128]}, "algorithm": {"learning_rate": 1e-3}}
"""What stands in the place of Isaac Lab's agent: layers and learning rate of an agent that names none."""
USED_AGENT_KEYS = ("network", "frames", "actor.hidden_dims", "algorithm.learning_rate")
"""What of an agent is read here."""
DECLARED = ("epochs", "batch_size", "shift", "rotation", "ann")
"""Flags whose defaults a dataset declares."""
CHANGEABLE_ON_RESUME = ("epochs", "patience", "data", "ann")
"""Flags that may change when a run goes on."""


class ClassifyOptions(options.Settings):
    """Settings that make a run what it is, besides its dataset and agent."""

    epochs: int | None = option(
        None, "total number of passes over the samples; null: the dataset's", low=1, high=MOST_STEPS
    )
    patience: int = option(
        0, "end after this many epochs without a better validation accuracy; 0: never", low=0, high=MOST_STEPS
    )
    seed: int = option(
        0, "seed of weights, order and augmentation; -1 for a random seed", low=-1, high=MOST_STEPS
    )
    hold_out: int | None = option(
        None,
        "number of recordings of the training set to use as the test set, proportionally from each class; null: the official test set,"
        " else a fifth",
        low=1,
        high=MOST_STEPS,
        flags=["--hold_out", "--hold-out"],
        metavar="K",
    )
    validation: int | None = option(
        None,
        "number of recordings of the training set for validation, which chooses the best epoch, 0 for none; null: the official"
        " ones, else a tenth",
        low=0,
        high=MOST_STEPS,
        metavar="K",
    )
    split: int = option(0, "seed of the random --hold_out and --validation parts", low=-1, high=MOST_STEPS)
    recordings: int | None = option(
        None,
        "use only N recordings, with the same share of each class and part; the choice does not depend on --seed",
        low=1,
        high=MOST_STEPS,
        metavar="N",
    )
    ids: str | None = option(
        None, "use only the recordings listed in FILE, such as a run's params/recordings.csv", metavar="FILE"
    )
    skip_bad: bool = option(False, "leave out damaged and empty recordings and list them")
    data: str | None = option(
        None, "folder of the datasets, or of your own recordings; null: SPIKY_RL_DATA, else the cache folder"
    )
    batch_size: int | None = option(
        None, "samples per minibatch; null: the dataset's", low=1, high=MOST_STEPS
    )
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


NAMES = tuple(ClassifyOptions.model_fields)
READING = ("data", "recordings", "ids", "skip_bad")
"""Flags that say which recordings are read, by a training or by what uses its network."""
PATHS = ("data", "ids")
"""Flags that are paths."""


def is_custom(dataset: str | None) -> bool:
    """Return whether a dataset is `spiky_rl.datasets.custom`, by its present or its old name."""
    return dataset in ("custom", "own")


class ClassifyRequest(options.Settings):
    """What a user asks a classification for."""

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
        None, "number of frames per recording; the same as dataset.bins=N", low=1, high=MOST_STEPS
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

    def check_request(self) -> None:
        """Raise UserError for what does not go together, or cannot be written."""
        files.require_writable("--log_root", self.log_root)
        if self.run_name:
            files.require_plain_name("--run_name", self.run_name)
        if self.evaluate or self.predict:
            self._require_use("--predict" if self.predict else "--evaluate")
        elif self.out is not None:
            raise UserError("--out: goes with --evaluate or --predict")

    def _require_use(self, flag: str) -> None:
        """Raise UserError for what a training alone can take, where its network is used, which the ``flag`` asks for."""
        if self.checkpoint is None:
            raise UserError("--checkpoint: name the run that is evaluated or predicts")
        if self.predict and self.evaluate:
            raise UserError("--evaluate and --predict: pass one of them")
        if self.predict and "data" not in self.flags:
            raise UserError("--predict: name the folder of the recordings with --data")
        given = {"bins": self.bins, "binary": self.binary, **self.flags}
        for key, value in given.items():
            if value is not None and key not in READING:
                raise UserError(f"--{key}: goes with training; {flag} takes it from the checkpoint")
        if theirs := self.agent_overrides():
            raise UserError(f"{theirs[0]!r}: goes with training; {flag} takes the agent from the checkpoint")

    @property
    def absolute(self) -> dict[str, Any]:
        """The flags as a checkpoint keeps them: wherever a later command is called, its paths mean the same."""
        paths = {key: str(Path(str(self.flags[key])).absolute()) for key in PATHS if key in self.flags}
        return {**self.flags, **paths}

    def dataset_options(self) -> dict[str, Any]:
        """The dataset's options that are given. Raises UserError for a text that is no value."""
        return dataset_options(self.overrides, self.bins, self.binary)

    def agent_overrides(self) -> list[str]:
        """The agent's overrides. Raises UserError for what a classification does not read of an agent."""
        found = [text for text in self.overrides if not text.startswith("dataset.")]
        for text in found:
            key = text.partition("=")[0].removeprefix("agent.")
            if text.startswith("agent.") and not any(
                key == k or key.startswith(f"{k}.") for k in USED_AGENT_KEYS
            ):
                raise UserError(
                    f"{text!r}: a classification reads of an agent {', '.join(USED_AGENT_KEYS)} only"
                )
        return found


@dataclass
class ClassificationSettings:
    """All that a run is made from."""

    flags: ClassifyOptions
    dataset: dict[str, Any]
    """The dataset's name and options."""
    spec: AgentSpec
    window: tuple[int, int] = (0, 0)
    """First and last time that the dataset classifies, once its recordings are there."""
    changed: dict[str, Any] = field(default_factory=dict)
    """What is another than in the checkpoint: flag -> [before, now]."""
    overridden: tuple[str, ...] = ()
    """Dotted paths of what the command line of the run's beginning set in its agent."""
    unnamed: list[str] | None = None
    """Overrides of the agent that the recordings choose; None: `spec` is it already."""

    def tree(self) -> dict[str, Any]:
        """Flags and dataset as plain data, as a checkpoint keeps them."""
        pairs = self.dataset.items()
        return {
            "flags": self.flags.model_dump(),
            "dataset": {k: list(v) if isinstance(v, tuple) else v for k, v in pairs},
        }


def make_settings(asked: ClassifyRequest) -> ClassificationSettings:
    """Settings of a new run. Raises UserError."""
    if asked.dataset is None:
        raise UserError(
            f"--dataset: name one of {', '.join(registry.list_names('datasets'))}, or --checkpoint to go on with a run"
        )
    if is_custom(asked.dataset) and "data" not in asked.flags:
        raise UserError(f"--dataset {asked.dataset}: name the folder of your recordings with --data")
    dataset = dataset_of(asked.dataset, asked.dataset_options())
    cls = class_of(dataset)
    flags = ClassifyOptions(**{key: getattr(cls, key) for key in DECLARED} | asked.absolute)
    if flags.seed == -1:
        flags = flags.with_changes(seed=random.randrange(10_000))
    agent, overrides = asked.agent or cls.agent, asked.agent_overrides()
    # until recordings have chosen an agent, the one that takes every override that one of them takes stands in its place
    spec = agent_of(agent or "lif_linear_classifier", asked.dataset, overrides)
    paths = (text.partition("=")[0].removeprefix("agent.") for text in overrides)
    # a component that is named anew has no option of the file's any more
    overridden = tuple(path.removesuffix(".name") for path in paths)
    unnamed = None if agent else overrides
    return ClassificationSettings(flags, dataset.settings(), spec, overridden=overridden, unnamed=unnamed)


def resume_settings(request: ClassifyRequest, loaded: LoadedCheckpoint) -> ClassificationSettings:
    """Settings of a run that goes on: as it was.

    Args:
        asked: What is given; what may not be another than before is refused by name.
        loaded: The checkpoint.

    Raises:
        UserError: It names the flag, what is given, and what the run has.
    """

    def refuse(flag: str, now: object, before: object) -> None:
        raise UserError(
            f"{flag} {now}: the run of {loaded.path} has {before}; leave it out, or train anew without --checkpoint"
        )

    require_code_named(request, loaded)
    identity = loaded.identity
    theirs, overrides = identity["settings"], request.agent_overrides()
    flags, changed = {**ClassifyOptions().model_dump(), **theirs["flags"]}, {}
    for key, now in request.absolute.items():
        if now == flags[key] or (key == "seed" and now == -1):
            continue
        if key not in CHANGEABLE_ON_RESUME:
            refuse(f"--{key}", now, flags[key])
        changed[key] = [flags[key], now]
        flags[key] = now
    if request.dataset not in (None, theirs["dataset"]["name"]):
        refuse("--dataset", request.dataset, theirs["dataset"]["name"])
    for key, now in request.dataset_options().items():
        if now != (before := theirs["dataset"].get(key)):
            refuse(f"dataset.{key}", now, before)
    if request.agent is not None and read_agent(request.agent)[0] != identity["agent"]:
        refuse("--agent", request.agent, identity["agent"])
    known = flatten(identity["spec"])
    for key, now in flatten(parse_overrides(overrides)).items():
        if now != known.get(key):
            refuse(f"agent.{key}", now, known.get(key))
    spec = loaded.spec()
    overridden = tuple(identity.get("overridden", ()))
    if request.agent is not None:
        given = agent_of(request.agent, theirs["dataset"]["name"], overrides)
        if key := _difference(now := flatten(given.to_dict()), known := flatten(spec.to_dict()), overridden):
            refuse(f"--agent {request.agent}: agent.{key}", now.get(key), known.get(key))
    return ClassificationSettings(
        ClassifyOptions(**flags), dict(theirs["dataset"]), spec, changed=changed, overridden=overridden
    )


def _difference(now: Mapping[str, Any], before: Mapping[str, Any], overridden: Sequence[str]) -> str:
    """The first key whose values differ and that does not lie at or below an ``overridden`` path; empty: none."""
    differ = (key for key in {**before, **now} if now.get(key) != before.get(key))
    return next((k for k in differ if not any(f"{k}.".startswith(f"{path}.") for path in overridden)), "")


def format_dataset_label(dataset: str) -> str:
    """Name under which runs on a ``dataset`` are kept: its own, or that of a class from elsewhere."""
    return dataset.rpartition(":")[2].lower()


def require_code_named(asked: ClassifyRequest, loaded: LoadedCheckpoint) -> None:
    """Refuse a checkpoint that names code which the user does not name too: a file that is read executes nothing.

    Its dataset need not be named where another one is: nothing of it is executed then.
    """
    named = [asked.dataset or "", *list_texts(parse_overrides(asked.agent_overrides()))]
    named += list_texts(read_agent(asked.agent)[1]) if asked.agent is not None else []
    dataset = loaded.identity["settings"]["dataset"]["name"]
    remedy = "pass {} as for the run, so that it is you who names that code"
    check_code_is_named(loaded.path, loaded.identity["spec"], named, remedy.format("--agent"))
    if asked.dataset in (None, dataset):
        check_code_is_named(loaded.path, dataset, named, remedy.format("--dataset"))


def format_required_arguments(asked: ClassifyRequest, settings: ClassificationSettings) -> list[str]:
    """The words that a command line must repeat to go on with a run, because they name code."""
    if not find_code([settings.spec.to_dict(), settings.dataset["name"]]):
        return []
    words = ["--dataset", asked.dataset] if asked.dataset else []
    words += ["--agent", asked.agent] if asked.agent else []
    return [*words, *(text for text in asked.agent_overrides() if find_code(parse_overrides([text])))]


def dataset_of(name: str, given: Mapping[str, Any]) -> ComponentSpec:
    """A dataset with options. Raises RegistryError that names the nearest."""
    try:
        return registry.configure("datasets", {"name": name, **given}, "dataset")
    except registry.RegistryError as error:
        raise registry.RegistryError(str(error).replace("dataset.name: ", "--dataset: ")) from None


def class_of(dataset: ComponentSpec) -> type[Dataset]:
    """The dataset's class, with what it declares before its recordings are looked for."""
    return cast("type[Dataset]", dataset.cls)


def dataset_options(
    overrides: Sequence[str], bins: int | None = None, binary: bool | None = None
) -> dict[str, Any]:
    """The options of a dataset that are given.

    Args:
        overrides: Assignments; those that begin with ``dataset.`` are read.
        bins: Frames of a recording; None: not given.
        binary: Whether frames say only that there were events; None: not given.

    Raises:
        UserError: A text is no value of YAML.
    """
    found: dict[str, Any] = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        if equals and path.startswith("dataset."):
            try:
                found[path.removeprefix("dataset.")] = parse_yaml(value)
            except ReadingError as error:
                raise UserError(f"{path}: {shorten(value)} is no value: {error}") from None
    return found | {k: v for k, v in (("bins", bins), ("binary", binary)) if v is not None}


def agent_of(agent: str, dataset: str, overrides: list[str]) -> AgentSpec:
    """The agent that is named, if there is a network in it that can learn classes. Raises UserError."""
    read_agent(agent)
    spec = resolve_agent(agent, dataset, HOST, overrides)
    if spec.network is None:
        raise UserError(f"--agent {agent}: has no `network`, so nothing in it spikes")
    if rule := get_local_rule(spec.network):
        raise UserError(
            f"agent.network.learning: {rule!r} learns from what actions were worth, and a class is no action; name a rule"
            " that is a gradient, such as bptt"
        )
    return spec
