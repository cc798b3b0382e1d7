"""An export: the files of several targets, proved equal to the policy; and the policy as a target makes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, nearest
from spiky_rl.config.registry import Configured
from spiky_rl.config.shown import Shown, unseen
from spiky_rl.config.plan import Request
from spiky_rl.deploy import _chip
from spiky_rl.deploy._asked import Export
from spiky_rl.deploy._calibration import record
from spiky_rl.deploy._proof import Agreement, prove
from spiky_rl.deploy.base import Target
from spiky_rl.hosts.run.checkpoint import find_checkpoint
from spiky_rl.hosts.run.prepare import prepare
from spiky_rl.hosts.run.simulate import opened

log = logging.getLogger(__name__)


def exported(asked: Request, options: Export, shown: Shown = unseen) -> dict[Path, Agreement]:
    """Write what is asked for of a trained policy. What can be refused is refused before a simulator starts, by UserError.

    Args:
        asked: The policy.
        options: What is written of it, and where.
        shown: Shows how far it is.

    Returns:
        The files, each with how its actions compare with the policy's.
    """
    built = targets(options.names)
    if options.report is not None:
        require_chip(options.report, list(built))
    plan = prepare(asked)
    refuse(built, plan.spec.network)
    checkpoint = find_checkpoint(plan)
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator, for an episode that proves the files equal")
    with opened(plan, checkpoint) as (env, runner, _):
        folder = options.out or checkpoint.parent / "exported"
        return export(runner.alg.get_policy(), env, folder, built, shown)


def targets(names: Sequence[str]) -> dict[str, Target]:
    """The targets of these names, each able to write and to be proved here. Raises UserError."""
    built: dict[str, Target] = {}
    for name in names:
        registry.check_name("targets", name, "--to")
        built[name] = registry.configure("targets", name, "--to").build()
        built[name].require()
    return built


def refuse(built: dict[str, Target], network: Configured | None) -> None:
    """Raise ExportError where a target cannot express an agent's network (None: an ANN)."""
    for target in built.values():
        target.refuse(network)


def export(
    policy: Any, env: Any, folder: Path, built: dict[str, Target], shown: Shown = unseen
) -> dict[Path, Agreement]:
    """Write the targets into a folder and prove them.

    Args:
        policy: One of rsl_rl's models or ours.
        env: As rsl_rl sees one; the policy acts in it for an episode.
        folder: Where the files go.
        built: The targets by name.
        shown: Shows how far it is.

    Returns:
        The files, each with how its actions compare with the policy's.
    """
    files: dict[Path, Target] = {}
    if watching := [target for target in built.values() if target.observes]:
        with shown("recording", "an episode") as tell:
            rollout = record(policy, env, tell)
        for target in watching:
            target.calibrate(rollout)
    with shown("exporting", ", ".join(built)) as tell:
        for i, target in enumerate(built.values()):
            files[target.write(policy, folder)] = target
            tell((i + 1) / len(built))
    with shown("comparing exports", "over an episode") as tell:
        return prove(policy, env, files, tell)


def in_integers(bits: str, network: Configured | None) -> Target:
    """The target that makes integers of a network. Raises UserError where it cannot express the network.

    Args:
        bits: Width of the weights: ``int8``.
        network: An agent's; None: an ANN.
    """
    target: Target = registry.configure("targets", f"c_{bits}", "--quantize").build()
    target.refuse(network)
    return target


def quantised(policy: Any, env: Any, target: Target, shown: Shown = unseen) -> Any:
    """A policy with its network in integers, calibrated on an episode that it acts in before it is measured.

    Args:
        policy: As playback uses it.
        env: As rsl_rl sees one.
        target: Makes integers of the network.
        shown: Shows how far it is.
    """
    with shown("recording", "an episode") as tell:
        target.calibrate(record(policy.model, env, tell))
    return type(policy)(target.reference(policy.model))


def require_chip(chip: str, names: Sequence[str]) -> None:
    """Raise UserError for a chip that is not known, whose compiler is missing, or for which none of the targets writes."""
    if chip not in _chip.CHIPS:
        hint = nearest(chip, _chip.CHIPS)
        raise UserError(f"--report {chip}: not known; choose from {', '.join(_chip.CHIPS)}{hint}")
    in_c = [name for name in registry.names("targets") if registry.resolve("targets", name).in_c]  # type: ignore[attr-defined]
    if not set(in_c) & set(names):
        raise UserError(f"--report {chip}: is for targets in C; choose --to {' or '.join(in_c)}")
    _chip.require(chip)
