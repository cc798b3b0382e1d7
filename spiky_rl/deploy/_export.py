"""An export: the files of several targets, proved equal to the policy; and the policy as a target makes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from spiky_rl.config.shown import Shown, unseen
from spiky_rl.config import files
from spiky_rl.config.plan import Plan
from spiky_rl.deploy._asked import Export
from spiky_rl.deploy._calibration import record
from spiky_rl.deploy._proof import Agreement, prove
from spiky_rl.deploy._targets import refuse
from spiky_rl.deploy.base import Target
from spiky_rl.hosts.run.checkpoint import find_checkpoint
from spiky_rl.hosts.run.simulate import opened

log = logging.getLogger(__name__)


def exported(
    plan: Plan, options: Export, built: dict[str, Target], shown: Shown = unseen
) -> dict[Path, Agreement]:
    """Write what is asked for of a trained policy. What can be refused is refused before a simulator starts, by UserError.

    Args:
        plan: The policy's.
        options: What is written of it, and where.
        built: The targets by name.
        shown: Shows how far it is.

    Returns:
        The files, each with how its actions compare with the policy's.
    """
    refuse(built.values(), plan.spec.tree())
    checkpoint = find_checkpoint(plan)
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator, for an episode that proves the files equal")
    with opened(plan, checkpoint) as (env, runner, _):
        folder = options.out or checkpoint.parent / "exported"
        return export(runner.alg.get_policy(), env, folder, built, shown)


def export(
    policy: Any, env: Any, folder: Path, built: dict[str, Target], shown: Shown = unseen
) -> dict[Path, Agreement]:
    """Write the targets beside a folder, prove them, and move all of them there; where one fails, the folder stays as it was.

    Args:
        policy: One of rsl_rl's models or ours.
        env: As rsl_rl sees one; the policy acts in it for an episode.
        folder: Where the files go.
        built: The targets by name.
        shown: Shows how far it is.

    Returns:
        The files, each with how its actions compare with the policy's.
    """
    if watching := [target for target in built.values() if target.observes]:
        with shown("recording", "an episode") as tell:
            rollout = record(policy, env, tell)
        for target in watching:
            target.calibrate(rollout)
    written: dict[Path, Target] = {}
    with files.stage_files(folder, [name for target in built.values() for name in target.stale]) as aside:
        with shown("exporting", ", ".join(built)) as tell:
            for i, target in enumerate(built.values()):
                written[target.write(policy, aside)] = target
                tell((i + 1) / len(built))
        with shown("comparing exports", "over an episode") as tell:
            found = prove(policy, env, written, tell)
    places = {path: folder / path.relative_to(aside) for path in written}
    for path, agreement in found.items():
        log.info("exported %s: %s", places[path], agreement.text(written[path], policy))
    return {places[path]: agreement for path, agreement in found.items()}


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
