"""Flags of Isaac Lab's and rsl_rl's own commands: those that work here too, and replacements of the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

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
    """
    if CHECKPOINT not in flags:
        return list(argv)
    words: list[str] = []
    name = ""
    remaining = iter(argv)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag == RUN:
            name = find_run(value if equals else next(remaining, ""), argv)
        elif word in NAMES:
            name = name or NAMES[word]
        elif word != NO_EFFECT:
            words.append(word)
    names_checkpoint = any(word.partition("=")[0] == CHECKPOINT for word in words)
    return [*words, CHECKPOINT, name] if name and not names_checkpoint else words


def find_run(name: str, argv: Sequence[str]) -> str:
    """Return the path of the run folder ``name`` below the command line's ``--log_root``; ``name`` itself if it is a path or unknown."""
    if Path(name).exists():
        return name
    words = [part for word in argv for part in word.split("=", 1)]
    root = Path(words[words.index("--log_root") + 1] if "--log_root" in words[:-1] else "logs")
    folders = [folder for folder in root.glob("*/*/*") if folder.name == name]
    return str(folders[0]) if len(folders) == 1 else name
