"""Flags of Isaac Lab's and rsl_rl's own commands: those that work here too, and replacements of the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from spiky_rl.config.options import UserError

VIEW = "--visualizer viser (train.py, play.py) for a live view in a browser"
SETTINGS = "agent.key=value and env.key=value"
INSTEAD = {
    "--livestream": VIEW,
    "--viz": VIEW,
    "--visualizer": VIEW,
    "--enable_cameras": "leave it out; --video works without it",
    "--video": "play.py --video",
    "--load_checkpoint": "--checkpoint FILE",
    "--model_path": "--checkpoint FILE",
    "--algorithm": "--agent NAME, and agent.algorithm.key=value",
    "--config_name": SETTINGS,
    "--config_path": SETTINGS,
    "--log_interval": "agent.save_interval=N for checkpoints",
    "--logger": "train.py --logger",
    "--track": "train.py --logger wandb",
    "--wandb-project-name": "train.py --logger wandb --log_project_name NAME",
    "--run_name": "train.py --run_name, or --checkpoint RUN_FOLDER for a trained run",
    "--max_iterations": "train.py --max_iterations",
    "--export_method": "export.py --to NAMES",
    "--export_save_path": "export.py --out FOLDER",
    "--disable_fabric": "leave it out; there is no Fabric without Kit",
    "--list_tasks": "isaaclab list_envs --all",
}
"""Foreign flag -> replacement."""
CHECKPOINT = "--checkpoint"
NAMES = {
    "--resume": "latest",
    "--use_last_checkpoint": "latest",
    "--use_pretrained_checkpoint": "pretrained",
}
"""Foreign flag without a value -> value of `CHECKPOINT`."""
NO_EFFECT = "--headless"
"""Foreign flag that asks for the default: nothing is rendered without a flag for it."""
RUN = "--load_run"
"""Foreign flag with the name or the path of a run folder."""


def translate_flags(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """Return a command line with Isaac Lab's flags for checkpoints and `NO_EFFECT` in the words of this package.

    Args:
        argv: The command line.
        flags: Flags of the command; only a command with `CHECKPOINT` takes the foreign flags.

    Raises:
        UserError: `RUN` has no value, or is given beside `CHECKPOINT`.
    """
    if CHECKPOINT not in flags:
        return list(argv)
    words: list[str] = []
    run = name = ""
    remaining = iter(argv)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag == RUN:
            run = value if equals else next(remaining, "")
            if not run or run.startswith("-"):
                raise UserError(f"{RUN}: expected the name or the path of a run folder")
        elif word in NAMES:
            name = name or NAMES[word]
        elif word != NO_EFFECT:
            words.append(word)
    checkpoint = find_value(CHECKPOINT, words)
    if checkpoint is not None and run:
        raise UserError(
            f"{RUN} {run} and {CHECKPOINT} {checkpoint}: pass only one; a run's checkpoint is"
            f" {CHECKPOINT} {Path(find_run(run, argv)) / checkpoint}"
        )
    name = find_run(run, argv) if run else name
    return [*words, CHECKPOINT, name] if name and checkpoint is None else words


def find_value(flag: str, argv: Sequence[str]) -> str | None:
    """Return the value of ``flag`` in a command line; None if it is not given, empty if it has no value."""
    words = [part for word in argv for part in word.split("=", 1)]
    return [*words, ""][words.index(flag) + 1] if flag in words else None


def find_run(name: str, argv: Sequence[str]) -> str:
    """Return the path of the run folder ``name`` below the command line's ``--log_root``; ``name`` itself if it is a path or unknown."""
    if Path(name).exists():
        return name
    root = Path(find_value("--log_root", argv) or "logs")
    folders = [folder for folder in root.glob("*/*/*") if folder.name == name]
    return str(folders[0]) if len(folders) == 1 else name
