"""Requirements of conditions on a task and an agent, checked before a simulator starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

CONVOLUTIONAL = ("CNNModel",)
"""Models of rsl_rl's whose hidden units are maps."""


@dataclass(frozen=True)
class ConditionSubject:
    """A task and an agent that are to be put under conditions."""

    task: str
    env_cfg: EnvCfg
    leg: str = ""
    """What the task's file says of a leg's joints; empty: nothing."""
    network: ComponentSpec | None = None
    """The agent's spiking network; None: an ANN, or an agent that does not matter."""
    model: str = "MLPModel"
    """Class of an ANN's model."""
    agent: str = "its agent"
    """The agent's name, for messages."""


def check_robot(subject: ConditionSubject) -> str | None:
    """Reason why the robot cannot be told from the scene of the ``subject``; None if it can."""
    from isaaclab.assets import ArticulationCfg

    there = [key for key, value in vars(subject.env_cfg.scene).items() if isinstance(value, ArticulationCfg)]
    if "robot" in there or len(there) == 1:
        return None
    return f"its scene declares {', '.join(there) or 'no robot'}, where one articulation is needed, or one called 'robot'"


def check_worlds(subject: ConditionSubject) -> str | None:
    """Reason why single worlds cannot be changed in the physics of the ``subject``; None if they can.

    Solvers of Newton's other than MuJoCo-Warp ignore what changes in their model, or share it among all worlds.
    """
    solver = newton_solver(subject.env_cfg)
    if solver in (None, "MJWarpSolverCfg"):
        return None
    return f"{solver} cannot change single worlds; use physics=newton_mjwarp"


def check_leg(subject: ConditionSubject) -> str | None:
    """Reason why the joints of a leg are not known in the task of the ``subject``; None if they are."""
    if not subject.leg:
        return "its task file names no leg; write the names of a leg's joints under leg"
    try:
        re.compile(subject.leg)
    except re.error as error:
        return f"its task file's leg {subject.leg!r} is no regular expression: {error}"
    return None


def check_motors(subject: ConditionSubject) -> str | None:
    """Reason why motors cannot be weakened: not all actions of the ``subject`` drive joints; None if they can."""
    from isaaclab.envs import mdp

    actions = getattr(subject.env_cfg, "actions", None)
    if actions is None:
        return "it has no action manager, which says what actions do to motors"
    fit = (mdp.JointActionCfg, mdp.JointPositionToLimitsActionCfg)
    others = [name for name, term in vars(actions).items() if term is not None and not isinstance(term, fit)]
    return f"its actions {', '.join(others)} are no joint's" if others else None


def check_spikes(subject: ConditionSubject) -> str | None:
    """Reason why spikes cannot be disturbed: the agent of the ``subject`` has none; None if they can."""
    return None if subject.network is not None else f"{subject.agent} does not spike"


def check_binary_spikes(subject: ConditionSubject) -> str | None:
    """Reason why spikes cannot be added: those of the ``subject`` are not 0 or 1; None if they can."""
    if subject.network is None:
        return check_spikes(subject)
    parts = subject.network.parts.get("neuron")
    graded = [part.name for part in (parts if isinstance(parts, tuple) else (parts,)) if part and part.cls.graded]  # type: ignore[attr-defined]
    return f"the neuron {graded[0]} of {subject.agent} sends graded events, not spikes" if graded else None


def check_neurons(subject: ConditionSubject) -> str | None:
    """Reason why hidden units cannot die one by one in the agent of the ``subject``; None if they can."""
    if subject.network is None and subject.model in CONVOLUTIONAL:
        return f"the hidden units of the {subject.model} of {subject.agent} are maps, not neurons"
    return None


REQUIREMENTS: Mapping[str, Callable[[ConditionSubject], str | None]] = MappingProxyType(
    {
        "robot": check_robot,
        "worlds": check_worlds,
        "leg": check_leg,
        "motors": check_motors,
        "spikes": check_spikes,
        "plain_spikes": check_binary_spikes,
        "neurons": check_neurons,
    }
)
"""Requirements by name: each gives the reason why a task or an agent does not meet it; None if it does."""


def newton_solver(env_cfg: EnvCfg) -> str | None:
    """The solver of ``env_cfg`` by the name of its configuration; None where the physics is not Newton's."""
    from isaaclab_newton.physics import NewtonCfg

    physics = env_cfg.sim.physics
    return type(physics.solver_cfg).__name__ if isinstance(physics, NewtonCfg) else None
