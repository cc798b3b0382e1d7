"""Command-line flags from the fields of `Settings`, and flags of Isaac Lab's and rsl_rl's own commands.

A field ``key`` becomes the flag ``--key``, or the names in its ``flags``: a name without dashes is a positional argument, and an
empty list means no flag. Foreign flags for checkpoints work here too; the others are refused with their replacement.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiky_rl.config.command_line import find_value, remove_flag
from spiky_rl.config.options import (
    OptionInfo,
    RegistryError,
    Settings,
    UserError,
    check_number,
    get_options,
    shorten,
)
from spiky_rl.config.schema import MAX_INT32
from spiky_rl.config.spec import get_task_id, read_agent, strip_version
from spiky_rl.learners.common.checkpoint_names import list_checkpoints

DEFAULT_SEPARATOR = re.compile(r"; (?:null|empty): ")
"""Text in a description before the meaning of an absent value."""
CHECKPOINT_FLAGS: dict[str, Any] = {
    "without": ("distributed", "max_iterations"),
    "checkpoint": "latest",
    "verbose": True,
}
"""Keyword arguments of `Parser` for commands that take a trained policy."""
SHOWN_DEFAULT_TYPES = int | float | str | tuple | Path
"""Types of defaults that the help shows, unless they are empty or False."""
VIEW = "--visualizer viser (spiky train, spiky play) for a live view in a browser"
SETTINGS = "agent.key=value and env.key=value"
REPLACEMENTS = {
    "--livestream": VIEW,
    "--viz": VIEW,
    "--visualizer": VIEW,
    "--enable_cameras": "leave it out; --video works without it",
    "--num_envs": "spiky evaluate --episodes N, with one environment per episode",
    "--video": "spiky play --video",
    "--video_length": "spiky play --video --video_length N",
    "--load_checkpoint": "--checkpoint FILE",
    "--model_path": "--checkpoint FILE",
    "--algorithm": "--agent NAME, and agent.algorithm.key=value",
    "--config_name": SETTINGS,
    "--config_path": SETTINGS,
    "--log_interval": "agent.save_interval=N for checkpoints",
    "--logger": "spiky train --logger",
    "--track": "spiky train --logger wandb",
    "--wandb-project-name": "spiky train --logger wandb --log_project_name NAME",
    "--run_name": "spiky train --run_name, or --checkpoint RUN_FOLDER for a trained run",
    "--max_iterations": "spiky train --max_iterations",
    "--export_method": "spiky export --to NAMES",
    "--export_save_path": "spiky export --out FOLDER",
    "--disable_fabric": "leave it out; there is no Fabric without Kit",
    "--list_tasks": "isaaclab list_envs --all",
}
"""Foreign flag that is refused -> what to use instead."""
CHECKPOINT = "--checkpoint"
SHIPPED = "--use_pretrained_checkpoint"
"""Foreign flag for the policy that comes with the task."""
CHECKPOINT_NAMES = {"--resume": "latest", "--use_last_checkpoint": "latest", SHIPPED: "pretrained"}
"""Foreign flag without a value -> value of `CHECKPOINT`."""
HEADLESS = "--headless"
"""Foreign flag that is accepted and ignored, because nothing is rendered without a flag for it."""
LOAD_RUN = "--load_run"
"""Foreign flag with the name or the path of a run folder, or a regular expression of names."""


def make_number_type[N: (int, float)](kind: type[N], **bounds: float | None) -> Callable[[str], N]:
    """Return a function for argparse's ``type`` that parses a ``kind`` within the bounds of `check_number`."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shorten(text)}") from None
        try:
            return check_number("", value, kind, **bounds)
        except RegistryError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None

    return parse


positive_int = make_number_type(int, low=1, high=MAX_INT32)
"""Parses a positive integer of at most 32 bits."""
seed_int = make_number_type(int, low=-1, high=MAX_INT32)
"""Parses a seed: a non-negative integer, or -1 for a random seed."""


def add_flags(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    optional: bool = False,
    **defaults: object,
) -> None:
    """Add a flag for every field of ``settings``. A flag without ``defaults`` is absent from the namespace unless given.

    Args:
        only: Names of the fields to add; all if empty.
        without: Names of fields to leave out.
        optional: Require no flag, even for fields without a default.
        defaults: Defaults of this command, by field name, instead of the fields' own.
    """
    for key, field in get_options(settings).items():
        names = field.extra.get("flags", [f"--{key}"])
        if names and key not in without and (not only or key in only):
            arguments = _build_argument(key, field, defaults)
            if names[0].startswith("-"):
                required = settings.model_fields[key].is_required() and not optional
                arguments |= {"dest": key, "required": required}
            else:
                arguments |= {"nargs": "*", "default": None}
            parser.add_argument(*names, **arguments)


def get_given_values(settings: type[Settings], args: argparse.Namespace) -> dict[str, Any]:
    """Return field name -> value for the flags of ``settings`` that ``args`` holds."""
    return {key: getattr(args, key) for key in settings.model_fields if hasattr(args, key)}


def parse_settings[S: Settings](settings: type[S], args: argparse.Namespace, **further_values: object) -> S:
    """Build ``settings`` from ``args`` and ``further_values``. Raises UserError that names the flag."""
    try:
        return settings.check("", {**get_given_values(settings, args), **further_values})
    except RegistryError as error:
        raise UserError(f"--{error}") from None


def _build_argument(key: str, field: OptionInfo, defaults: Mapping[str, object]) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` for a field, except its names."""
    has_own_default = key in defaults
    arguments: dict[str, Any] = {
        "help": _format_help(field, has_own_default).replace("%", "%%"),
        "default": defaults[key] if has_own_default else argparse.SUPPRESS,
    }
    if field.kind is bool:
        return arguments | {"action": argparse.BooleanOptionalAction if field.default else "store_true"}
    if field.choices:
        return arguments | {"choices": field.choices}
    if metavar := field.extra.get("metavar", "A,B" if field.many else None):
        arguments["metavar"] = metavar
    if field.many:  # a text with commas, parsed by the settings
        return arguments
    if field.kind in (int, float):
        return arguments | {"type": make_number_type(field.kind, **field.limits)}
    return arguments | ({"type": Path} if field.kind is Path else {})


def _format_help(field: OptionInfo, has_own_default: bool) -> str:
    """Return the description of a field, with its default unless the command has a default of its own, which argparse adds."""
    description, default = DEFAULT_SEPARATOR.split(field.description), field.default
    if has_own_default:
        return description[0]
    text = "; default: ".join(description)
    if isinstance(default, SHOWN_DEFAULT_TYPES) and default is not False and default not in ("", ()):
        text += f" (default: {','.join(map(str, default)) if isinstance(default, tuple) else default})"
    return text


def translate_flags(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """Return a command line with Isaac Lab's flags for checkpoints replaced by `CHECKPOINT`, and without `HEADLESS`.

    ``flags`` are those of the command; only a command with `CHECKPOINT` takes the foreign flags. A value of `CHECKPOINT` on the
    command line wins over `CHECKPOINT_NAMES`; beside `LOAD_RUN` it names a checkpoint in that run. Raises UserError if `LOAD_RUN`
    has no value or names no run, or if `SHIPPED` is given beside another flag for a checkpoint.
    """
    if CHECKPOINT not in flags:
        return list(argv)
    run = find_value(LOAD_RUN, argv)
    if run is not None and (not run or run.startswith("-")):
        raise UserError(f"{LOAD_RUN}: expected the name or the path of a run folder")
    argv = remove_flag(LOAD_RUN, argv)
    words = [word for word in argv if word not in (*CHECKPOINT_NAMES, HEADLESS)]
    checkpoint = find_value(CHECKPOINT, words)
    names = [CHECKPOINT_NAMES[word] for word in argv if word in CHECKPOINT_NAMES]
    others = [LOAD_RUN] * bool(run) + [CHECKPOINT] * (checkpoint is not None)
    others += [word for word in argv if CHECKPOINT_NAMES.get(word) == "latest"]
    if SHIPPED in argv and others:
        raise UserError(f"{SHIPPED} and {others[0]}: pass only one of them")
    if run:
        path = find_run(run, argv)
        if checkpoint is not None:
            path = find_run_checkpoint(path, checkpoint)
        return [*remove_flag(CHECKPOINT, words), CHECKPOINT, str(path)]
    return [*words, CHECKPOINT, names[0]] if names and checkpoint is None else words


def find_run(name: str, argv: Sequence[str]) -> Path:
    """Return the run folder ``name``: a path, or a name or a regular expression of names below the command line's ``--log_root``.

    As in Isaac Lab, the alphabetically last matching run is taken, of those with the task and the agent of the command line. Raises
    UserError if there is none.
    """
    if Path(name).exists():
        return Path(name)
    root = Path(find_value("--log_root", argv) or "logs")
    library, experiment = (find_value(flag, argv) for flag in ("--rl_library", "--experiment_name"))
    folders = [
        path
        for path in root.glob("*/*/*")
        if library in (None, path.parts[-3])
        and experiment in (None, path.parts[-2])
        and list_checkpoints(path)
    ]
    named = [folder for folder in folders if folder.name == name]
    if len(named) == 1:
        return named[0]
    pattern = _compile_pattern(LOAD_RUN, name)
    runs = [folder for folder in folders if pattern.match(folder.name) and _is_of_request(folder, argv)]
    if not runs:
        raise UserError(
            f"{LOAD_RUN} {name}: no run with checkpoints below {root} matches; allowed: a run folder, its name, or a regular"
            " expression of names"
        )
    return max(runs, key=lambda run: run.name)


def find_run_checkpoint(run: Path, name: str) -> Path:
    """Return the checkpoint ``name`` of a ``run``: a file name, ``best``, ``latest``, or a regular expression of file names.

    Raises UserError if there is none.
    """
    if name == "latest":
        return run
    files = sorted((*list_checkpoints(run), *run.glob("best.pt")), key=lambda path: f"{path.name:0>15}")
    pattern = _compile_pattern(CHECKPOINT, "best.pt" if name == "best" else name)
    matches = [path for path in files if path.name == name] or [
        path for path in files if pattern.match(path.name)
    ]
    if not matches:
        allowed = ", ".join(path.name for path in files[-3:]) or "none, for the run has no checkpoints"
        raise UserError(f"{LOAD_RUN} {run} {CHECKPOINT} {name}: not found; allowed: {allowed}")
    return matches[-1]


def _compile_pattern(flag: str, text: str) -> re.Pattern[str]:
    """Return the regular expression ``text``. Raises UserError that names the ``flag``."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{flag} {text}: neither a name nor a regular expression ({error})") from None


def _is_of_request(run: Path, argv: Sequence[str]) -> bool:
    """Return whether a ``run`` has the task and the agent of a command line, as far as both are known."""
    try:
        manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
        trained = manifest["task"], manifest["metadata"]["agent"]
    except (OSError, ValueError, TypeError, KeyError):
        return True  # the checkpoint itself is checked later
    task, agent = find_value("--task", argv), find_value("--agent", argv)
    tasks = {strip_version(name.rpartition(":")[2]) for name in (task, get_task_id(task))} if task else set()
    has_task = not task or trained[0] == task or strip_version(str(trained[0])) in tasks
    return has_task and (not agent or trained[1] == read_agent(agent)[0])
