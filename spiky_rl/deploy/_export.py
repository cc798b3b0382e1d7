"""An export: the files of several targets, proved equal to the policy; and the policy as a target makes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from spiky_rl.config import files
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.deploy._calibration import record_rollout
from spiky_rl.deploy._options import ExportOptions
from spiky_rl.deploy._targets import check_expressible
from spiky_rl.deploy._verification import VerificationResult, verify_targets
from spiky_rl.deploy.base import Target
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.run_plan import RunPlan
from spiky_rl.run.simulate import open_policy

log = logging.getLogger(__name__)


def run_export(
    plan: RunPlan, options: ExportOptions, built: dict[str, Target], progress: ProgressFactory = no_progress
) -> dict[Path, VerificationResult]:
    """Write what is asked for of a trained policy. What can be refused is refused before a simulator starts, by UserError.

    Args:
        plan: The policy's.
        options: What is written of it, and where.
        built: The targets by name.
        shown: Shows how far it is.

    Returns:
        The files, each with how its actions compare with the policy's.
    """
    check_expressible(built.values(), plan.spec.to_dict())
    checkpoint = find_checkpoint(plan)
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator, for an episode that proves the files equal")
    with open_policy(plan, checkpoint) as (env, runner, _):
        folder = options.out or checkpoint.parent / "exported"
        return write_and_verify(runner.alg.get_policy(), env, folder, built, progress)


def write_and_verify(
    policy: Any, env: Any, folder: Path, targets: dict[str, Target], shown: ProgressFactory = no_progress
) -> dict[Path, VerificationResult]:
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
    if watching := [target for target in targets.values() if target.observes]:
        with shown("recording", "an episode") as tell:
            rollout = record_rollout(policy, env, tell)
        for target in watching:
            target.calibrate(rollout)
    written: dict[Path, Target] = {}
    with files.stage_files(folder, [name for target in targets.values() for name in target.stale]) as aside:
        with shown("exporting", ", ".join(targets)) as tell:
            for i, target in enumerate(targets.values()):
                written[target.write(policy, aside)] = target
                tell((i + 1) / len(targets))
        with shown("comparing exports", "over an episode") as tell:
            found = verify_targets(policy, env, written, tell)
    places = {path: folder / path.relative_to(aside) for path in written}
    for path, agreement in found.items():
        log.info("exported %s: %s", places[path], agreement.text(written[path], policy))
    return {places[path]: agreement for path, agreement in found.items()}


def quantize_policy(policy: Any, env: Any, target: Target, shown: ProgressFactory = no_progress) -> Any:
    """A policy with its network in integers, calibrated on an episode that it acts in before it is measured.

    Args:
        policy: As playback uses it.
        env: As rsl_rl sees one.
        target: Makes integers of the network.
        shown: Shows how far it is.
    """
    with shown("recording", "an episode") as tell:
        target.calibrate(record_rollout(policy.model, env, tell))
    return type(policy)(target.get_reference_model(policy.model))
