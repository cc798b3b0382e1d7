"""Targets by name, and checks of a request. Without torch, so that commands fail at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.deploy import _footprint
from spiky_rl.deploy.base import Target


def make_targets(
    names: Sequence[str], options: Mapping[str, PlainMapping] | None = None
) -> dict[str, Target]:
    """Build the targets ``names``, with ``options`` by name. Raises UserError for an unknown name, or if this machine cannot write or verify a target."""
    known, targets = registry.list_names("targets"), dict[str, Target]()
    for name in names:
        if name not in known:
            raise UserError(f"--to: {name} given; allowed: {', '.join(known)}{suggest_name(name, known)}")
        settings = {"name": name, **(options or {}).get(name, {})}
        targets[name] = registry.configure("targets", settings, "--to").build()
        targets[name].check_requirements()
    return targets


def check_expressible(targets: Iterable[Target], agent: PlainMapping) -> None:
    """Raise ExportError, with the agent's key, if a target cannot express ``agent``."""
    for target in targets:
        target.check_network(agent)


def make_integer_target(bits: str) -> Target:
    """Build the target that quantises a network to weights of ``bits``: ``int8``."""
    return registry.configure("targets", f"c_{bits}", "--quantize").build()


def require_chip(chip: str, targets: Iterable[Target]) -> None:
    """Raise UserError if ``chip`` is unknown, its compiler is missing, or no target writes C."""
    if chip not in _footprint.CHIPS:
        raise UserError(
            f"--report: {chip} given; allowed: {', '.join(_footprint.CHIPS)}{suggest_name(chip, _footprint.CHIPS)}"
        )
    if not any(target.is_c for target in targets):
        c_targets = [name for name in registry.list_names("targets") if registry.resolve("targets", name).is_c]  # type: ignore[attr-defined]
        raise UserError(
            f"--report: {chip} given without a target in C; allowed: --to {' or '.join(c_targets)}"
        )
    _footprint.require_compiler(chip)
