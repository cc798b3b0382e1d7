"""Changes to Isaac Lab's own command line, made only if it names one of our agents.

A user could set all of them too, and each is logged in one line: the asset root, the device on a machine without a GPU, and
loading checkpoints without executing code, which neither rsl_rl nor skrl requests from torch.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.config.command_line import find_value
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.spec import SpecError, load_task, merge_agent
from spiky_rl.hosts.isaaclab.assets import configure_assets
from spiky_rl.hosts.isaaclab.host import HOST
from spiky_rl.hosts.isaaclab.physics_selection import NATIVE, WARP, translate_errors
from spiky_rl.hosts.isaaclab.workflows import EnvCfg
from spiky_rl.learners import DEFAULT_LEARNER, get_learner, list_learners
from spiky_rl.learners.base import EXPORTS
from spiky_rl.learners.common.local_learning import caches_fixed_part

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

log = logging.getLogger(__name__)

COMMANDS = (["train"], ["play"], ["leapp", "export"])
WORKER = ("entrypoints", "multigpu.py")
"""Folder and name of the script that every process of ``isaaclab train_multigpu`` runs."""
BACKENDS = "isaaclab_rl.entrypoints.backends."
"""Package of Isaac Lab's commands, with one module per command and RL library."""
SAFE_LOAD = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that makes torch.load execute no code in any case."""


def prepare_isaaclab_command(arguments: list[str], agents: Collection[str]) -> None:
    """Prepare ``isaaclab train``, ``play`` or ``leapp export`` with one of ``agents``; may add a device to ``arguments``.

    A process of ``isaaclab train_multigpu`` keeps its arguments: Isaac Lab gives it the device of its rank.

    Call it before Isaac Lab is imported, which reads the asset root, and before Isaac Lab parses its command line.
    """
    if not names_our_agent(arguments, agents):
        return
    agent = find_value("--agent", arguments)
    log.warning("spiky_rl: assets for %s: %s", agent, configure_assets("auto"))
    if "--distributed" in arguments:
        return
    import torch

    if find_value("--device", arguments) is None and not torch.cuda.is_available():
        arguments += ["--device", "cpu"]
        log.warning("spiky_rl: no CUDA device for %s: --device cpu", agent)


def names_our_agent(arguments: list[str], agents: Collection[str]) -> bool:
    """Return whether ``arguments`` is a command line of Isaac Lab that trains, plays or exports one of ``agents``."""
    program = Path(arguments[0])
    of_isaaclab = "isaaclab" in (program.stem, program.parent.name)
    known = of_isaaclab and any(arguments[1 : 1 + len(words)] == words for words in COMMANDS)
    is_worker = (program.parent.name, program.name) == WORKER
    return (known or is_worker) and find_value("--agent", arguments) in agents


def add_physics_option(arguments: list[str], agents: Collection[str], tasks: Mapping[str, EnvSpec]) -> None:
    """Make ``auto`` the default physics of ``isaaclab train`` and ``isaaclab play`` with one of ``agents`` on the CPU.

    ``arguments`` is the command line, and ``tasks`` gymnasium's registry.
    """
    task = tasks.get(find_value("--task", arguments) or "")
    if not names_our_agent(arguments, agents) or task is None or find_value("--device", arguments) != "cpu":
        return
    with translate_errors():
        from isaaclab_mujoco.presets import add_preset
        from isaaclab_mujoco.worlds import get_unavailable_reason

        reason = get_unavailable_reason()
    if reason:
        log.warning("spiky_rl: no %s: %s", NATIVE, reason)
        return
    name = save_original_entry(task, NATIVE)
    task.kwargs["env_cfg_entry_point"] = lambda: add_preset(load_env_cfg(task.id, name), auto_default=True)
    if not any(text.partition("=")[0] in ("physics", "presets", "env.sim.physics") for text in arguments):
        log.warning("spiky_rl: physics: %s where the task has %s", NATIVE, WARP)


def set_observation_history(
    arguments: list[str], agents: Collection[str], tasks: Mapping[str, EnvSpec]
) -> None:
    """Set the agent's observation history for the task of ``isaaclab train`` and ``isaaclab play``.

    The arguments are those of `add_physics_option`.
    """
    task = tasks.get(find_value("--task", arguments) or "")
    if not names_our_agent(arguments, agents) or task is None:
        return
    agent = str(find_value("--agent", arguments))
    _, settings, _ = merge_agent(agent, task.id, {}, task_spec=load_task(task.id), host=HOST.title)
    steps = settings.get("history", 1)
    if steps == 1:
        return
    from spiky_rl.hosts.isaaclab.history import set_history_length

    name = save_original_entry(task, f"a history of {steps}")

    def make_env_cfg() -> EnvCfg:
        env_cfg = load_env_cfg(task.id, name)
        set_history_length(env_cfg, steps, settings.get("obs_groups") or {})
        return env_cfg

    task.kwargs["env_cfg_entry_point"] = make_env_cfg
    log.warning("spiky_rl: observations of %d control steps at once", steps)


def load_env_cfg(task: str, entry: str) -> EnvCfg:
    """Return the configuration under the key ``entry`` of a ``task``'s registration."""
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    return load_cfg_from_registry(task, entry)  # type: ignore[return-value]


def save_original_entry(task: EnvSpec, change: str) -> str:
    """Save a ``task``'s configuration entry under another key before ``change`` replaces it, and return the key."""
    name = f"{task.id} without {change}"
    task.kwargs[name] = task.kwargs["env_cfg_entry_point"]
    return name


def get_calling_command() -> tuple[str, str]:
    """Return the calling Isaac Lab command and its RL library, found in the call stack.

    Isaac Lab 3.0.0 tells an entry point neither of them. It calls the entry point under the key ``--agent`` without arguments.
    Every library reads the same key, so an entry per library would change the users' commands. A library checks its configuration
    as soon as it has it (rsl_rl's object, skrl's mapping), so one lazy configuration cannot serve both. `sys.argv` has only
    Hydra's overrides by then; earlier it has ``--rl_library`` only if the user gives it (a task may register a default library),
    and never in Isaac Lab's Python API. Modules in `sys.modules` may belong to an earlier call of the same process.

    Returns:
        ``train``, ``play`` or ``export``, or an empty text if no command calls; and the name of the RL library.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_globals.get("__name__", "")
        if caller.startswith(BACKENDS) and not caller.endswith("_common"):  # common code of the libraries
            action, _, library = caller.removeprefix(BACKENDS).partition("_")
            return action, library
        frame = frame.f_back
    return "", DEFAULT_LEARNER


def require_exportable(agent: str, library: str, network: ComponentSpec | None) -> None:
    """Raise SpecError if Isaac Lab's LEAPP export would lose the agent's state; it only finds states of recurrent models.

    ``network`` is the actor's; None for an ANN.
    """
    if network is None or not getattr(network.options, "stateful", True):
        return
    if EXPORTS not in get_learner(library).abilities:
        raise SpecError(
            f"--rl_library {library}: isaaclab leapp export would lose the hidden state of --agent {agent};"
            f" allowed: {', '.join(name for name in list_learners() if EXPORTS in get_learner(name).abilities)}"
        )
    if caches_fixed_part(network):
        raise SpecError(
            f"--agent {agent}: isaaclab leapp export would lose the hidden state of a {network.name}; use spiky export --to onnx"
        )


def enable_safe_load() -> None:
    """Make torch load files without executing code for the rest of the process, unless the user has set the variable."""
    if SAFE_LOAD not in os.environ:
        os.environ[SAFE_LOAD] = "1"
        log.warning("spiky_rl: checkpoints are read without executing code (%s=1)", SAFE_LOAD)
