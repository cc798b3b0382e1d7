"""What Isaac Lab's own command line needs to be told where it names one of our agents, and then alone.

Each of it is said in one line, and each is what a user could say as well: the asset root, the device of a machine without a
GPU, and that torch reads checkpoints without executing code from them, which neither rsl_rl nor skrl asks of it.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Collection
from pathlib import Path

from spiky_rl.hosts.isaaclab.assets import configure_assets

log = logging.getLogger(__name__)

COMMANDS = ("train", "play")
BACKENDS = "isaaclab_rl.entrypoints.backends."
"""Where Isaac Lab's commands are, one module per command and RL library."""
SAFE_LOAD = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""The environment variable by which torch.load executes no code, whatever its caller asks for."""


def prepare(arguments: list[str], agents: Collection[str]) -> None:
    """Make ready for ``isaaclab train`` or ``isaaclab play`` with one of ``agents``; ``arguments`` may grow by a device.

    Isaac Lab reads the asset root when it is first imported, and its command line once our agents are there: call it between.
    """
    program, agent = Path(arguments[0]), said("--agent", arguments)
    of_isaaclab = "isaaclab" in (program.stem, program.parent.name)
    if not of_isaaclab or len(arguments) < 2 or arguments[1] not in COMMANDS or agent not in agents:
        return
    log.warning("spiky_rl: assets for %s: %s", agent, configure_assets("auto"))
    import torch

    if said("--device", arguments) is None and not torch.cuda.is_available():
        arguments += ["--device", "cpu"]
        log.warning("spiky_rl: no CUDA device for %s: --device cpu", agent)


def said(option: str, arguments: list[str]) -> str | None:
    """What a command line says of an option, last; None: nothing."""
    value = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, rest = argument.partition("=")
        if name == option:
            value = rest if equals else following
    return value


def asking_library() -> str:
    """The RL library whose command of Isaac Lab's asks for a configuration: it does not say so, but it is calling."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_globals.get("__name__", "")
        if caller.startswith(BACKENDS):
            return caller.removeprefix(BACKENDS).partition("_")[2]
        frame = frame.f_back
    return "rsl_rl"


def read_without_code() -> None:
    """Let torch read files without executing code from them, for the rest of the process, unless its user decided that."""
    if SAFE_LOAD not in os.environ:
        os.environ[SAFE_LOAD] = "1"
        log.warning("spiky_rl: checkpoints are read without executing code (%s=1)", SAFE_LOAD)
