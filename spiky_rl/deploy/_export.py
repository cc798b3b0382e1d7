"""Export of a trained policy to several targets, with verification, and its quantised form for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spiky_rl.config import files
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.deploy._c_text import add_note
from spiky_rl.deploy._calibration import read_rollout, record_rollout
from spiky_rl.deploy._commands import find_command_map
from spiky_rl.deploy._contract import describe_contract
from spiky_rl.deploy._targets import ExportOptions, check_expressible, require_action_mapping
from spiky_rl.deploy._verification import MAX_MEAN_ERROR, VerificationResult, verify_targets
from spiky_rl.deploy.base import Target, count_observations
from spiky_rl.learners.common.action_bounds import ActionBounds
from spiky_rl.learners.rsl_rl.action_bounds import convert_actions
from spiky_rl.learners.rsl_rl.categorical import CategoricalDistribution
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.run_plan import RunPlan
from spiky_rl.run.simulate import open_policy

log = logging.getLogger(__name__)


def run_export(
    plan: RunPlan, options: ExportOptions, targets: dict[str, Target], progress: ProgressFactory = no_progress
) -> dict[Path, VerificationResult | None]:
    """Export the policy of ``plan``; return the verification result of every file, as `write_and_verify`.

    Raises UserError, before a simulator starts, if the agent or the checkpoint cannot be exported.
    """
    check_expressible(targets.values(), plan.spec.to_dict())
    checkpoint = find_checkpoint(plan)
    log.info("%s on %s, checkpoint %s", plan.agent, plan.task, checkpoint)
    log.info("starting the simulator to verify the files over an episode")
    with open_policy(plan, checkpoint) as (env, runner, _):
        folder = options.out or checkpoint.parent / "exported"
        policy = runner.get_exportable_policy()
        contract = describe_contract(env, policy.obs_groups, plan.agent, plan.task, checkpoint)
        for target in targets.values():
            target.contract = contract
        return write_and_verify(
            policy, env, folder, targets, progress, options.raw_actions, options.calibrate
        )


def write_and_verify(
    policy: Any,
    env: Any,
    folder: Path,
    targets: dict[str, Target],
    progress: ProgressFactory = no_progress,
    raw_actions: bool = False,
    calibration: Path | None = None,
) -> dict[Path, VerificationResult | None]:
    """Write all targets to a staging folder, verify them, and move the files to ``folder``. If one fails, ``folder`` is unchanged.

    Args:
        policy: A model of rsl_rl or a `SpikingModel`.
        env: An rsl_rl environment; the policy acts in it for an episode.
        progress: Opens the progress display.
        raw_actions: Whether files give the policy's raw actions even if the task's bounds or action terms are known.
        calibration: File of observations that set the ranges of integers, see `read_rollout`; None to record an episode.

    Returns:
        The verification result of every file; None if the runtime of its target is not installed.
    """
    command_model = None  # a copy of the policy whose actions are commands
    if raw_actions:
        _describe_raw_actions(policy, env)
    else:
        policy = _map_to_bounds(policy, env, targets)
        is_discrete = isinstance(policy.distribution, CategoricalDistribution)
        if not is_discrete and (commands := find_command_map(env)) is not None:
            command_model = convert_actions(policy, commands, len(commands.scale))
    _calibrate(targets.values(), policy, env, progress, calibration)
    written: dict[Path, Target] = {}
    stale_files = [name for target in targets.values() for name in target.stale_files]
    with files.stage_files(folder, stale_files) as staging:
        with progress("exporting", ", ".join(targets)) as report_progress:
            for i, target in enumerate(targets.values(), 1):
                source = command_model if command_model is not None and target.gives_commands else policy
                written[target.write(source, staging)] = target
                report_progress(i / len(targets))
        with progress("comparing exports", "over an episode") as report_progress:
            results = verify_targets(policy, env, written, report_progress, command_model)
        for path, result in results.items():
            if written[path].is_c:
                add_note(path, f"Verified at its export: {result.format(written[path], policy)}.")
    exported = {path: folder / path.relative_to(staging) for path in written}
    for path, result in results.items():
        _log_result(exported[path], result, written[path], policy)
    return {exported[path]: results.get(path) for path in written}


def _log_result(path: Path, result: VerificationResult, target: Target, policy: Any) -> None:
    log.info("exported %s: %s", path, result.format(target, policy))
    if result.is_imprecise:
        log.warning(
            "%s: its actions differ from the live policy's by %.2g on average, more than %.0f %% of their spread, %.2g;"
            " train with agent.network.quantize=int8",
            path,
            result.reference_difference,
            100 * MAX_MEAN_ERROR,
            result.action_spread,
        )


def _map_to_bounds(policy: Any, env: Any, targets: dict[str, Target]) -> Any:
    """Return ``policy`` with its actions mapped to the bounds of the task, if the task has bounds; ``env`` takes such actions from now on."""
    if (to_task_units := _find_bounds(env)) is None:
        return policy
    require_action_mapping(targets)
    device = next(policy.parameters()).device  # where the policy acts to calibrate targets
    env.unwrapped.takes_task_units = True  # a wrapper forwards reads only
    return convert_actions(policy, to_task_units.to(device), len(to_task_units.scale))


def _describe_raw_actions(policy: Any, env: Any) -> None:
    """Let files of ``policy`` give the mapping that ``env`` applies to its actions, if the task has bounds."""
    bounds = _find_bounds(env)
    if bounds is not None and (bounds.clips or bounds.rounds or bounds.limit.isfinite().any()):
        rows = (f"{name} [{', '.join(map(str, row.numpy()))}]" for name, row in bounds.named_buffers())
        rounding = ", rounded to whole numbers" if bounds.rounds else ""
        policy.distribution.actions_text = (
            "Actions are the mean of the policy, not in the task's units: the task takes clip(middle + scale * clip(action, -limit,"
            f" limit), low, high){rounding}, with {', '.join(rows)}."
        )


def _find_bounds(env: Any) -> ActionBounds | None:
    bounds = getattr(env, "action_bounds", None)
    if bounds is None:
        return None
    low, high = bounds
    return ActionBounds(
        low, high, getattr(env, "clip_actions", None), getattr(env, "takes_whole_numbers", False)
    )


def _calibrate(
    targets: Iterable[Target], policy: Any, env: Any, progress: ProgressFactory, file: Path | None = None
) -> None:
    """Give the targets that need a rollout the one in ``file``; if ``file`` is None, record an episode in ``env``."""
    calibrated = [target for target in targets if target.needs_rollout]
    if not calibrated:
        return
    if file is None:
        with progress("recording", "an episode") as report_progress:
            rollout = record_rollout(policy, env, report_progress)
    else:
        rollout = read_rollout(file, count_observations(policy))
    for target in calibrated:
        target.calibrate(rollout)


def quantize_policy(policy: Any, env: Any, target: Target, progress: ProgressFactory = no_progress) -> Any:
    """Return ``policy`` with a quantised network, calibrated on an episode.

    Args:
        policy: An inference policy.
        env: An rsl_rl environment; the policy acts in it for an episode.
    """
    _calibrate([target], policy.model, env, progress)
    return type(policy)(target.get_reference_model(policy.model))
