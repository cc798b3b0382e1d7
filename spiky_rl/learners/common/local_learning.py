"""What a host has to know about a network's learning rule."""

from __future__ import annotations

from collections.abc import Mapping

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.spec import SpecError


def get_local_rule(network: ComponentSpec | None) -> str | None:
    """The name of a ``network``'s learning rule, if it wants to be called after every rollout."""
    rule = None if network is None else network.parts.get("learning")
    return rule.name if rule is not None and rule.cls.local else None  # type: ignore[attr-defined]


def caches_features(network: ComponentSpec | None) -> bool:
    """Whether a host keeps a ``network``'s features with the rollout, because only what reads them is trained."""
    return network is not None and network.cls.caches_features(network.options)  # type: ignore[attr-defined]


def check_learning_rates(algorithm: Mapping[str, object]) -> None:
    """Raise SpecError if an ``algorithm``'s group has a learning rate that its schedule would override."""
    schedule = algorithm.get("schedule", "adaptive")
    for key in ("critic_learning_rate", "std_learning_rate"):
        if algorithm.get(key) is not None and schedule != "fixed":
            raise SpecError(f"agent.algorithm.{key}: needs agent.algorithm.schedule=fixed, not {schedule}")
