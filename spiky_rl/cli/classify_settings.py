"""What a classification is run with: what is given, else what the checkpoint had that it goes on from, else the dataset's defaults."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.config import registry
from spiky_rl.config.reading import ReadingError, parse_yaml
from spiky_rl.config.registry import Configured, short
from spiky_rl.config.spec import AgentSpec, complete, flatten, parse_overrides, read_agent, resolve_agent
from spiky_rl.hosts.common.rules import local_rule

CODE = re.compile(r".+:[A-Za-z_]\w*")
"""What names a class outside the package."""
LIBRARY = "classify"
"""What stands in the place of a host library: runs lie in logs/classify/<dataset>."""
HOST = {"actor": {"hidden_dims": [128, 128]}, "algorithm": {"learning_rate": 1e-3}}
"""What stands in the place of Isaac Lab's agent: layers and learning rate of an agent that names none."""
READ = ("network", "frames", "actor.hidden_dims", "algorithm.learning_rate")
"""What of an agent is read here."""
DEFAULTS: dict[str, Any] = {
    "epochs": 30,
    "patience": 0,
    "seed": 0,
    "split": 0,
    "hold_out": None,
    "validation": None,
    "recordings": None,
    "ids": None,
    "skip_bad": False,
    "batch_size": 50,
    "schedule": "cosine",
    "label_smoothing": 0.1,
    "shift": None,
    "rotation": None,
    "data": None,
}
"""Flags that make a run what it is. None: the dataset or its size says."""
FREE = ("epochs", "patience", "data")
"""Those of them that may change when a run goes on."""


@dataclass
class Settings:
    """All that a run is made from."""

    flags: dict[str, Any]
    """A value for each of `DEFAULTS`."""
    dataset: dict[str, Any]
    """The dataset's name and options."""
    spec: AgentSpec
    window: tuple[int, int] = (0, 0)
    """First and last time that the dataset classifies, once its recordings are there."""
    changed: dict[str, Any] = field(default_factory=dict)
    """What is another than in the checkpoint: flag -> [before, now]."""

    def tree(self) -> dict[str, Any]:
        """Flags and dataset as plain data, as a checkpoint keeps them."""
        flags = {key: str(value) if isinstance(value, Path) else value for key, value in self.flags.items()}
        return {
            "flags": flags,
            "dataset": {k: list(v) if isinstance(v, tuple) else v for k, v in self.dataset.items()},
        }


def fresh(args: argparse.Namespace) -> Settings:
    """Settings of a new run. Raises UserError."""
    if args.dataset is None:
        raise common.UsageError(
            f"--dataset: name one of {', '.join(registry.names('datasets'))}, or --checkpoint to go on with a run"
        )
    if args.dataset == "own" and args.data is None:
        raise common.UsageError("--dataset own: name the folder of your recordings with --data")
    dataset = dataset_of(args.dataset, given_of(args))
    cls: Any = dataset.cls
    given = {key: value for key in DEFAULTS if (value := getattr(args, key)) is not None}
    given = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in given.items()}
    flags = {**DEFAULTS, "shift": cls.shift, "rotation": cls.rotation, **given}
    if flags["seed"] == -1:
        flags["seed"] = random.randrange(10_000)
    return Settings(
        flags, dataset.settings(), agent_of(args.agent or cls.agent, args.dataset, agent_overrides(args))
    )


def resumed(args: argparse.Namespace, identity: Mapping[str, Any], path: Path) -> Settings:
    """Settings of a run that goes on: as it was; what is given and may not be another is refused by name.

    Args:
        args: The command line.
        identity: What the checkpoint says of its run.
        path: The checkpoint, for messages.

    Raises:
        UserError: It names the flag, what is given, and what the run has.
    """

    def refuse(flag: str, now: Any, before: Any) -> None:
        raise common.UsageError(
            f"{flag} {now}: the run of {path} has {before}; leave it out, or train anew without --checkpoint"
        )

    require_named(args, identity, path)
    theirs, overrides = identity["settings"], agent_overrides(args)
    flags, changed = {**DEFAULTS, **theirs["flags"]}, {}
    for key in DEFAULTS:
        now = getattr(args, key)
        now = str(now.absolute()) if isinstance(now, Path) else now
        if now in (None, flags[key]) or (key == "seed" and now == -1):
            continue
        if key not in FREE:
            refuse(f"--{key}", now, flags[key])
        changed[key] = [flags[key], now]
        flags[key] = now
    if args.dataset not in (None, theirs["dataset"]["name"]):
        refuse("--dataset", args.dataset, theirs["dataset"]["name"])
    for key, now in given_of(args).items():
        before = theirs["dataset"].get(key)
        if now != before:
            refuse(f"dataset.{key}", now, before)
    if args.agent is not None and read_agent(args.agent)[0] != identity["agent"]:
        refuse("--agent", args.agent, identity["agent"])
    known = flatten(identity["spec"])
    for key, now in flatten(parse_overrides(overrides)).items():
        if now != known.get(key):
            refuse(f"agent.{key}", now, known.get(key))
    origins = dict.fromkeys(known, "checkpoint")
    return Settings(
        flags,
        dict(theirs["dataset"]),
        complete(identity["agent"], identity["spec"], origins),
        changed=changed,
    )


def label(dataset: str) -> str:
    """What runs on a dataset are called: its name, or that of a class from elsewhere."""
    return dataset.rpartition(":")[2].lower()


def foreign(spec: Mapping[str, Any], dataset: str) -> list[str]:
    """Code outside the package that a run is made of: ``module:Class`` or ``path/file.py:Class``."""
    return [value for value in (*_strings(spec), dataset) if CODE.fullmatch(value)]


def require_named(args: argparse.Namespace, identity: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that names code which the command line does not name too: a file that is read executes nothing."""
    given = {args.dataset, *(text.partition("=")[2] for text in args.overrides)}
    given |= set(_strings(read_agent(args.agent)[1])) if args.agent is not None else set()
    for name in foreign(identity["spec"], identity["settings"]["dataset"]["name"]):
        if name not in given:
            flag = "--dataset" if name == identity["settings"]["dataset"]["name"] else "--agent"
            raise common.UsageError(
                f"{path}: its run used {name}; pass {flag} as for the run, so that it is you who names that code"
            )


def named_again(args: argparse.Namespace, settings: Settings) -> list[str]:
    """The words that the command line must repeat to go on with a run, because they name code."""
    if not foreign(settings.spec.tree(), settings.dataset["name"]):
        return []
    words = [
        word for key in ("dataset", "agent") if (value := getattr(args, key)) for word in (f"--{key}", value)
    ]
    return [*words, *(text for text in args.overrides if CODE.fullmatch(text.partition("=")[2]))]


def _strings(tree: Any) -> list[str]:
    """All texts within nested mappings and lists."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [text for value in tree for text in _strings(value)]
    return [tree] if isinstance(tree, str) else []


def dataset_of(name: str, options: Mapping[str, Any]) -> Configured:
    """A dataset with options. Raises RegistryError that names the nearest."""
    try:
        return registry.configure("datasets", {"name": name, **options}, "dataset")
    except registry.RegistryError as error:
        raise registry.RegistryError(str(error).replace("dataset.name: ", "--dataset: ")) from None


def given_of(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset's options that the command line gives."""
    found: dict[str, Any] = {}
    for text in args.overrides:
        path, equals, value = text.partition("=")
        if equals and path.startswith("dataset."):
            try:
                found[path.removeprefix("dataset.")] = parse_yaml(value)
            except ReadingError as error:
                raise common.UsageError(f"{path}: {short(value)} is no value: {error}") from None
    for key in ("bins", "binary"):
        if (value := getattr(args, key)) is not None:
            found[key] = value
    return found


def agent_overrides(args: argparse.Namespace) -> list[str]:
    """The agent's overrides that the command line gives. Raises UsageError for others, and for what is not read."""
    found = [text for text in args.overrides if not text.startswith("dataset.")]
    for text in found:
        key = text.partition("=")[0].removeprefix("agent.")
        if text.startswith("agent.") and not any(key == k or key.startswith(f"{k}.") for k in READ):
            raise common.UsageError(f"{text!r}: a classification reads of an agent {', '.join(READ)} only")
    return found


def agent_of(agent: str, dataset: str, overrides: list[str]) -> AgentSpec:
    """The agent that is named, if there is a network in it that can learn classes. Raises UserError."""
    read_agent(agent)
    spec = resolve_agent(agent, dataset, HOST, overrides)
    if spec.network is None:
        raise common.UsageError(f"--agent {agent}: has no `network`, so nothing in it spikes")
    if rule := local_rule(spec.network):
        raise common.UsageError(
            f"agent.network.learning: {rule!r} learns from what actions were worth, and a class is no action; name a rule"
            " that is a gradient, such as bptt"
        )
    return spec


def require_state(spec: AgentSpec, steps: int) -> None:
    """Raise UsageError where frames come one after another and the network forgets each at once."""
    assert spec.network is not None
    if steps > 1 and not getattr(spec.network.options, "stateful", True):
        raise common.UsageError(
            f"agent.network.stateful: a recording is {steps} frames, and this network forgets each at once;"
            " pass agent.network.stateful=true"
        )
