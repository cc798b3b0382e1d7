"""Requirements of conditions on a task and an agent, checked before a simulator starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

CNN_MODELS = ("CNNModel",)
"""Models of rsl_rl with feature maps as hidden units."""
EFFORT_CLASSES = ("JointEffortAction", "WeakeningEffort")
"""Classes of joint efforts that can be weakened: Isaac Lab's own, and its replacement in `motors`."""


@dataclass(frozen=True)
class ConditionSubject:
    """Task and agent of an evaluation under conditions."""

    task: str
    env_cfg: EnvCfg
    leg: str = ""
    """Names of a leg's joints in the task file; empty if it names none."""
    network: ComponentSpec | None = None
    """The agent's spiking network; None for an ANN, or if the agent does not matter."""
    model: str = "MLPModel"
    """Class of an ANN's model."""
    agent: str = "its agent"
    """The agent's name, for messages."""


def check_robot(subject: ConditionSubject) -> str | None:
    """Return the reason why the robot in the scene of ``subject`` is ambiguous or missing, or None."""
    from isaaclab.assets import ArticulationCfg

    there = [key for key, value in vars(subject.env_cfg.scene).items() if isinstance(value, ArticulationCfg)]
    if "robot" in there or len(there) == 1:
        return None
    return f"its scene declares {', '.join(there) or 'no robot'}; allowed: one articulation, or one called 'robot'"


def check_worlds(subject: ConditionSubject) -> str | None:
    """Return the reason why the physics of ``subject`` cannot change single worlds, or None if it can.

    Newton's solvers other than MuJoCo-Warp ignore changes of their model, or apply them to all worlds.
    """
    solver = get_newton_solver(subject.env_cfg)
    if solver in (None, "MJWarpSolverCfg"):
        return None
    return f"{solver} cannot change single worlds; use physics=newton_mjwarp"


def check_leg(subject: ConditionSubject) -> str | None:
    """Return the reason why the joints of a leg are unknown in the task of ``subject``, or None if they are known."""
    if not subject.leg:
        return "its task file names no leg; set leg to the names of a leg's joints"
    try:
        re.compile(subject.leg)
    except re.error as error:
        return f"its task file's leg {subject.leg!r} is not a regular expression: {error}"
    return None


def check_motors(subject: ConditionSubject) -> str | None:
    """Return the reason why motors cannot be weakened, or None if all actions of ``subject`` drive joints."""
    from isaaclab.envs import mdp

    actions = getattr(subject.env_cfg, "actions", None)
    if actions is None:
        return "it has no action manager, which defines the effect of actions on motors"
    fit = (mdp.JointActionCfg, mdp.JointPositionToLimitsActionCfg)
    terms = {name: term for name, term in vars(actions).items() if term is not None}
    if others := [name for name, term in terms.items() if not isinstance(term, fit)]:
        return f"its actions {', '.join(others)} do not drive joints"
    if own := [name for name, term in terms.items() if _has_own_effort_class(term)]:
        return f"its actions {', '.join(own)} apply efforts by a class of their own, which cannot weaken them"
    return None


def _has_own_effort_class(term: object) -> bool:
    """Return whether an action ``term`` sends efforts by another class than `EFFORT_CLASSES`."""
    from isaaclab.envs import mdp

    if not isinstance(term, mdp.JointEffortActionCfg):
        return False
    kind = term.class_type  # a class, or a text ``module:class``
    return getattr(kind, "__name__", str(kind).rpartition(":")[2]) not in EFFORT_CLASSES


def check_spikes(subject: ConditionSubject) -> str | None:
    """Return the reason why spikes cannot be perturbed, or None if the agent of ``subject`` spikes."""
    return None if subject.network is not None else f"{subject.agent} does not spike"


def check_binary_spikes(subject: ConditionSubject) -> str | None:
    """Return the reason why spikes cannot be added, or None if the agent of ``subject`` has binary spikes."""
    if subject.network is None:
        return check_spikes(subject)
    parts = subject.network.parts.get("neuron")
    graded = [part.name for part in (parts if isinstance(parts, tuple) else (parts,)) if part and part.cls.graded]  # type: ignore[attr-defined]
    return f"the neuron {graded[0]} of {subject.agent} sends graded events, not spikes" if graded else None


def check_neurons(subject: ConditionSubject) -> str | None:
    """Return the reason why single hidden units of the agent of ``subject`` cannot die, or None if they can."""
    if subject.network is None and subject.model in CNN_MODELS:
        return f"the hidden units of the {subject.model} of {subject.agent} are maps, not neurons"
    return None


REQUIREMENTS: Mapping[str, Callable[[ConditionSubject], str | None]] = {
    "robot": check_robot,
    "worlds": check_worlds,
    "leg": check_leg,
    "motors": check_motors,
    "spikes": check_spikes,
    "plain_spikes": check_binary_spikes,
    "neurons": check_neurons,
}
"""Requirements by name: each returns the reason why a task or an agent does not meet it, or None if it does."""


def get_newton_solver(env_cfg: EnvCfg) -> str | None:
    """Return the class name of the solver's configuration in ``env_cfg``, or None if the physics is not Newton's."""
    from isaaclab_newton.physics import NewtonCfg

    physics = env_cfg.sim.physics
    return type(physics.solver_cfg).__name__ if isinstance(physics, NewtonCfg) else None
