"""Properties of a network's learning rule that a learner needs."""

from __future__ import annotations

from collections.abc import Mapping

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.spec import SpecError


def get_local_rule(network: ComponentSpec | None) -> str | None:
    """Return the name of a ``network``'s learning rule if it is local, that is applied after every rollout; else None."""
    rule = None if network is None else network.parts.get("learning")
    return rule.name if rule is not None and rule.cls.is_local else None  # type: ignore[attr-defined]


def caches_fixed_part(network: ComponentSpec | None) -> bool:
    """Return whether a learner stores the output of a ``network``'s fixed part with the rollout, because only the readout is trained."""
    return network is not None and network.cls.caches_fixed_part(network.options)  # type: ignore[attr-defined]


def check_learning_rates(algorithm: Mapping[str, object]) -> None:
    """Raise SpecError if an ``algorithm`` has a separate learning rate that its schedule would override."""
    schedule = algorithm.get("schedule", "adaptive")
    for key in ("critic_learning_rate", "std_learning_rate"):
        if algorithm.get(key) is not None and schedule != "fixed":
            raise SpecError(f"agent.algorithm.{key}: needs agent.algorithm.schedule=fixed, not {schedule}")
