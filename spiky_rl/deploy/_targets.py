"""Targets by name, and what is refused of a request for them: without torch, so that it is refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.deploy import _footprint
from spiky_rl.deploy.base import Target


def make_targets(names: Sequence[str]) -> dict[str, Target]:
    """The targets of these names, each able to write and to be proved here. Raises UserError."""
    known, built = registry.list_names("targets"), dict[str, Target]()
    for name in names:
        if name not in known:
            raise UserError(f"--to: {name} given; allowed: {', '.join(known)}{suggest_name(name, known)}")
        built[name] = registry.configure("targets", name, "--to").build()
        built[name].check_requirements()
    return built


def check_expressible(built: Iterable[Target], agent: PlainMapping) -> None:
    """Raise ExportError that names the key of an ``agent``, as plain data, that one of the targets cannot express."""
    for target in built:
        target.check_network(agent)


def make_integer_target(bits: str) -> Target:
    """The target that makes integers of a network, with weights of this width: ``int8``."""
    return registry.configure("targets", f"c_{bits}", "--quantize").build()


def require_chip(chip: str, built: Iterable[Target]) -> None:
    """Raise UserError for a chip that is not known, whose compiler is missing, or for which none of the targets writes."""
    if chip not in _footprint.CHIPS:
        raise UserError(
            f"--report: {chip} given; allowed: {', '.join(_footprint.CHIPS)}{suggest_name(chip, _footprint.CHIPS)}"
        )
    if not any(target.in_c for target in built):
        in_c = [name for name in registry.list_names("targets") if registry.resolve("targets", name).in_c]  # type: ignore[attr-defined]
        raise UserError(f"--report {chip}: is for targets in C; choose --to {' or '.join(in_c)}")
    _footprint.require_compiler(chip)
