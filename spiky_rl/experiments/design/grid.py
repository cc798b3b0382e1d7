"""The cells of a study: what each one runs, under which name, and a hash of all that defines it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.config.spec import load_task
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.experiments.design.study import RANDOM, Study

OUT = "$OUT"
"""What stands for the study's folder in recorded commands."""
EVALUATION = "evaluation.json"
"""In a cell's folder."""
EVALUATION_SEED = 100_000
"""Added to a cell's seed for its evaluation, so that it starts from states that training did not."""

EARLIER_PHYSICS = "newton_mjwarp"
"""Of cells that do not say what stepped their worlds."""


@dataclass(frozen=True)
class Resolved:
    """What an agent with a variation is on a task, seeds apart; only Isaac Lab's configurations tell."""

    task: str
    """The task's label."""
    spec: Mapping[str, Any]
    """The merged specification; empty for random actions."""
    spec_hash: str
    num_envs: int
    steps_per_env: int
    """Control steps of a rollout."""
    iterations: int
    """The specification's own number of them."""
    device: str
    physics: str = EARLIER_PHYSICS
    """What steps the worlds."""


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    name: str
    """Of its folder."""
    agent: str
    """File stem."""
    label: str
    """Of agent and variation, for tables and plots."""
    task: str
    """The task's label."""
    seed: int
    variant: Mapping[str, Any]
    hash: str
    spec_hash: str | None
    env_steps: int | None
    """That it trains for; None where another budget ends it, 0 for random actions."""
    device: str
    num_envs: int
    train: tuple[str, ...]
    """Arguments of ``train.py``; empty for random actions."""
    evaluate: tuple[str, ...]
    """Arguments of ``evaluate.py``."""
    processes: int = 1
    """Of a data-parallel training, by torchrun."""
    seconds: float | None = None
    """Estimated."""
    goes_on: str = ""
    """The cell of this study whose last checkpoint its training begins with."""
    physics: str = EARLIER_PHYSICS
    """What steps the worlds."""

    @property
    def kind(self) -> str:
        """``trained``, or ``random``."""
        return "trained" if self.train else RANDOM

    @property
    def commands(self) -> list[str]:
        """What reproduces it by hand."""
        run = "python scripts/train.py"
        if self.processes > 1:
            run = f"torchrun --standalone --nproc_per_node {self.processes} scripts/train.py --distributed"
        trained = [f"{run} {quoted(self.train)}"] if self.train else []
        return [*trained, f"python scripts/evaluate.py {quoted(self.evaluate)}"]

    def data(self) -> dict[str, Any]:
        """Its line of the plan."""
        return {
            "cell": self.name,
            "agent": self.agent,
            "label": self.label,
            "task": self.task,
            "variant": dict(self.variant),
            "seed": self.seed,
            "kind": self.kind,
            "hash": self.hash,
            "spec_hash": self.spec_hash,
            "env_steps": self.env_steps,
            "num_envs": self.num_envs,
            "device": self.device,
            "physics": self.physics,
            "processes": self.processes,
            "commands": self.commands,
            "seconds_estimated": None if self.seconds is None else round(self.seconds),
        }


def cells(
    study: Study,
    resolve: Callable[[str, str, Mapping[str, Any]], Resolved],
    device: str | None = None,
    assets: str = "auto",
    processes: int = 1,
    title: str = "",
) -> list[Cell]:
    """All cells, a seed of every agent before the next seed, so that a study cut short is still balanced.

    ``resolve(task, agent, variant)`` tells what a combination is; it raises UserError for one that cannot be. ``device`` and
    ``assets`` are handed to the commands; a device None lets them choose. ``title`` goes in the place of labels.
    """
    given = _Given(study, assets, processes, _flags(study, device, assets), title)
    combinations = [
        (task, agent, variant, resolve(task, agent, variant))
        for task in study.tasks
        for agent in study.agents
        for variant in study.variants(agent)
    ]
    found = [_random(given, task, resolve(task, RANDOM, {})) for task in study.tasks]
    for seed in study.seeds:
        found += [_trained(given, *combination, seed) for combination in combinations]
    return found


def label_of(agent: str, variant: Mapping[str, Any]) -> str:
    """``lif_ppo network.steps=2``: an agent's file stem and what varies of it."""
    parts = [assignment(key.removeprefix("agent."), value) for key, value in variant.items()]
    return " ".join((Path(agent).stem, *parts))


def assignment(key: str, value: Any) -> str:
    """``key=value`` as a command line takes it."""
    return f"{key}={_text(value)}"


def quoted(arguments: tuple[str, ...]) -> str:
    """Arguments as a shell takes them; `OUT` stays a variable."""
    return " ".join(f'"{a}"' if a.startswith(OUT) else shlex.quote(a) for a in arguments)


@dataclass(frozen=True)
class _Given:
    """What all cells share."""

    study: Study
    assets: str
    processes: int
    flags: tuple[str, ...]
    title: str = ""


def _trained(
    given: _Given, task: str, agent: str, variant: Mapping[str, Any], resolved: Resolved, seed: int
) -> Cell:
    study, processes = given.study, given.processes
    label = given.title or label_of(agent, variant)
    name = _folder_name(f"{resolved.task}.{label.replace(' ', '.')}.seed{seed}")
    varied = [assignment(key, value) for key, value in variant.items()]
    root = ["--log_root", f"{OUT}/cells/{name}/run"]
    tuned = ["--tuning", f"{OUT}/{TUNED}"] if study.tuning else []
    common = ["--task", task, "--agent", agent, *given.flags, *tuned]
    overrides = [*study.overrides, *_named(study, resolved), *varied]
    budget = [] if study.budget is None else ["--budget", str(study.budget)]
    train = [*common, "--seed", str(seed), "--num_envs", str(resolved.num_envs), *budget, *root, *overrides]
    evaluate = [*common, *_measured(study, seed, name), "--checkpoint", "latest", *root, *overrides]
    per_iteration = resolved.num_envs * resolved.steps_per_env * processes
    counted = resolved.iterations if study.budget is None else study.budget.iterations(per_iteration)
    defining = {
        "spec": dict(resolved.spec),
        "environment": [text for text in study.overrides if not text.startswith("agent.")],
        "seed": seed,
        "num_envs": resolved.num_envs,
        "processes": processes,
        "budget": None if study.budget is None else str(study.budget),
        **_measurement(given, task, resolved),
    }
    return Cell(
        name, Path(agent).stem, label, resolved.task, seed, dict(variant), digest(defining), resolved.spec_hash,
        None if counted is None else counted * per_iteration, resolved.device, resolved.num_envs,
        tuple(train), tuple(evaluate), processes, physics=resolved.physics,
    )  # fmt: skip


def _random(given: _Given, task: str, resolved: Resolved) -> Cell:
    study = given.study
    name = _folder_name(f"{resolved.task}.{RANDOM}")
    overrides = [text for text in study.overrides if not text.startswith("agent.")]
    # any agent of the task's will do: what it would have done is not looked at
    common = ["--task", task, "--agent", study.agents[0], *given.flags, *_named(study, resolved)]
    evaluate = [*common, *_measured(study, 0, name), "--checkpoint", RANDOM, *overrides]
    defining = {"environment": overrides, **_measurement(given, task, resolved)}
    return Cell(
        name, RANDOM, RANDOM, resolved.task, 0, {}, digest(defining), None, 0, resolved.device, resolved.num_envs,
        (), tuple(evaluate), physics=resolved.physics,
    )  # fmt: skip


def _flags(study: Study, device: str | None, assets: str) -> tuple[str, ...]:
    return (
        *(("--device", device) if device else ()),
        *(("--assets", assets) if assets != "auto" else ()),
        *(("--rl_library", study.library) if study.library != "rsl_rl" else ()),
    )


def _named(study: Study, resolved: Resolved) -> list[str]:
    """The physics that was chosen for a cell, so that no other is chosen where or when it is worked on."""
    physics = f"physics={resolved.physics}"
    chosen = resolved.physics != EARLIER_PHYSICS and not any(
        t.startswith("physics=") for t in study.overrides
    )
    return [physics] if chosen else []


def _measured(study: Study, seed: int, name: str) -> list[str]:
    conditions = ["--conditions", ",".join(study.conditions), "--out", f"{OUT}/cells/{name}/{EVALUATION}"]
    return ["--seed", str(EVALUATION_SEED + seed), "--episodes", str(study.episodes), *conditions]


def _measurement(given: _Given, task: str, resolved: Resolved) -> dict[str, Any]:
    return {
        "task": resolved.task,
        "task_file": _task_data(task),
        "assets": given.assets,
        "library": given.study.library,
        "episodes": given.study.episodes,
        "conditions": list(given.study.conditions),
    }


def _task_data(task: str) -> dict[str, Any]:
    """What of a task's file decides a result."""
    found = load_task(task)
    return {} if found is None else {"id": found.id, "env": dict(found.env), "agent": dict(found.agent)}


def digest(data: Any) -> str:
    """16 hexadecimal digits of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _folder_name(text: str) -> str:
    """Letters, digits and ``._=-``; what was something else or too long is told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", text)
    if plain == text and len(text) <= 150:
        return text
    return f"{plain[:120]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
