"""Adding the policy of a finished run to policies/: its weights alone, and a manifest of their origin and score."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from spiky_rl.config import files, registry
from spiky_rl.config.named_code import find_code
from spiky_rl.config.options import UserError, shorten
from spiky_rl.config.progress import format_count
from spiky_rl.config.safe_loading import parse_json, read_file
from spiky_rl.config.schema import get_algorithm
from spiky_rl.learners import DEFAULT_LEARNER, get_learner
from spiky_rl.learners.common.checkpoints import get_identity, read_checkpoint, write_checkpoint
from spiky_rl.run.policies import KIND, POLICY_FILE, Policy, read_manifest, read_policy
from spiky_rl.run.provenance import DIRTY, PROVENANCE, join_commits
from spiky_rl.run.resume import SETTINGS_FILE
from spiky_rl.run.run_plan import list_trusted_packages, split_overrides

LICENCE = "BSD-3-Clause"
LEVEL = 0.95
"""Level of the score's interval."""


def publish_policy(
    checkpoint: Path,
    evaluation: Path,
    study: str | None,
    library: str = DEFAULT_LEARNER,
    replace: bool = False,
) -> tuple[Policy, Path]:
    """Write a policy's weights and manifest into policies/; return the manifest and its file.

    ``evaluation`` is the result of ``spiky evaluate`` for the checkpoint; ``study`` is None for a single training. Raises UserError if a file is
    missing, or does not belong to the run, or the policy cannot be shipped, or exists and ``replace`` is False.
    """
    loaded = read_checkpoint(str(checkpoint), library=library)
    identity = dict(get_identity(loaded))
    if not identity.get("spec"):
        raise UserError(f"{checkpoint}: not written by spiky train")
    if code := find_code(identity["spec"], list_trusted_packages()):
        raise UserError(
            f"{checkpoint}: its agent names the code {code[0]!r}; allowed: agents without code of their own"
        )
    folder = checkpoint.parent
    result = _read_evaluation(evaluation, checkpoint, {**identity, "library": library})
    overrides = split_overrides(_read_record(folder / SETTINGS_FILE)["overrides"])[1]
    # results of earlier versions lack their overrides; a study's cell has always been evaluated with those of its training
    evaluated_overrides = split_overrides(result.get("overrides", overrides if study else ()))[1]
    if _get_values(evaluated_overrides) != _get_values(overrides):
        raise UserError(
            f"{evaluation}: overrides of the environment: {' '.join(evaluated_overrides) or 'none'} recorded; allowed:"
            f" {' '.join(overrides) or 'none'}, as in the training; evaluate again"
        )
    score = compute_score(result)
    earlier = read_manifest(folder / POLICY_FILE) if (folder / POLICY_FILE).is_file() else None
    commit = _read_record(folder / PROVENANCE).get("commit")
    if earlier is not None:
        commit = join_commits([earlier.commit, commit])
    if commit is None or DIRTY in commit:
        raise UserError(f"{folder / PROVENANCE}: commit: {commit} given; allowed: a commit without changes")
    name = re.sub(r"[^\w.+-]", "_", f"{identity['task']}.{identity['agent']}")
    progress = loaded["infos"]["spiky_rl"]["progress"]
    weights = registry.find_data_folder(KIND) / f"{name}.pt"
    path = weights.with_suffix(".yaml")
    if path.is_file() and not replace:
        old_score = read_policy(name).score.model_dump()
        raise UserError(
            f"{path}: exists with {_format_score(old_score)}; the new policy has {_format_score(score)}; pass --replace to overwrite it"
        )
    learner = get_learner(library)
    keys = learner.checkpoint_keys[get_algorithm(identity["spec"]["algorithm"])]
    content = {key: loaded[key] for key in (*keys, *learner.scaling_keys) if key in loaded and key != "iter"}
    state = {"identity": identity, "weights_only": True}
    write_checkpoint(weights, {**content, "iter": 0, "infos": {"spiky_rl": state}})
    origin = None if earlier is None else earlier.trainings
    training = f"{f'study {study}' if study else 'a single training'}, seed {identity['seed']}"
    manifest: dict[str, Any] = {
        "summary": (
            f"{identity['agent']} on {identity['task']}: {_format_score(score)}; {training}{f', after {origin}' if origin else ''}."
        ),
        "task": identity["task"],
        "agent": identity["agent"],
        "library": library,
        "seed": identity["seed"],
        "study": study,
        "origin": origin,
        "env_steps": progress["env_steps"] + (0 if earlier is None else earlier.env_steps),
        "commit": commit,
        "overrides": overrides,
        "score": score,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "licence": LICENCE,
        "spec": identity["spec"],
    }
    files.write_text(path, yaml.safe_dump(manifest, sort_keys=False, width=120))
    return Policy.check("", {"name": name, **manifest}), path


def compute_score(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean return of an ``evaluation`` with its t-interval over the episodes, undisturbed."""
    nominal, episodes = evaluation["conditions"]["nominal"], evaluation["episodes"]
    mean = nominal["mean_return"]
    if episodes < 2:
        raise UserError(f"--episodes: {episodes} given; allowed: at least 2, for an interval")
    half = float(stats.t.ppf(0.5 + LEVEL / 2.0, episodes - 1)) * nominal["std_return"] / math.sqrt(episodes)
    return {
        "mean_return": round(mean, 3),
        "low": round(mean - half, 3),
        "high": round(mean + half, 3),
        "episodes": episodes,
        "seed": evaluation["seed"],
    }


def _format_score(score: Mapping[str, Any]) -> str:
    return f"return {score['mean_return']:.1f} [{score['low']:.1f}, {score['high']:.1f}] over {format_count(score['episodes'], 'episode')}"


def _get_values(overrides: Sequence[str]) -> dict[str, str]:
    """Return the value of every key in ``overrides``; of a repeated key, the last value."""
    return dict(text.split("=", 1) for text in overrides)


def _read_evaluation(evaluation: Path, checkpoint: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result ``evaluation`` of a ``checkpoint``. Raises UserError if it is another one's, or no such result."""
    result = _read_record(evaluation)
    for key in ("conditions", "checkpoint", "episodes", "seed"):
        if key not in result:
            raise UserError(f"{evaluation}: {key}: missing; allowed: a result of spiky evaluate")
    for key in ("task", "agent", "library", "assets"):
        if result.get(key) != identity.get(key):
            raise UserError(f"{evaluation}: {key}: {result.get(key)} given; allowed: {identity.get(key)}")
    # many runs have a model_49.pt, so the run folder's name counts too; folders above it may have moved
    evaluated = Path(result["checkpoint"]).parts[-2:]
    if checkpoint.absolute().parts[-len(evaluated) :] != evaluated:
        raise UserError(f"{evaluation}: checkpoint: {result['checkpoint']} given; allowed: {checkpoint}")
    if quantize := result.get("quantize"):
        raise UserError(
            f"{evaluation}: quantize: {quantize} given; allowed: null, the network as it was trained"
        )
    return result


def _read_record(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a run. Raises UserError if it is missing or damaged."""
    if not path.is_file():
        raise UserError(
            f"{path}: not found; allowed: a run folder of spiky train with an evaluation of spiky evaluate"
        )
    record = read_file(path, parse_json)
    if not isinstance(record, dict):
        raise UserError(f"{path}: {shorten(record)} given; allowed: a mapping")
    return record
