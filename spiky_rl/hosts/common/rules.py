"""What of a network's learning concerns its host."""

from __future__ import annotations

from spiky_rl.config.registry import Configured


def local_rule(network: Configured | None) -> str | None:
    """The name of a network's learning rule, if it wants to be called after every rollout."""
    rule = None if network is None else network.parts.get("learning")
    return rule.name if rule is not None and rule.cls.local else None  # type: ignore[attr-defined]
