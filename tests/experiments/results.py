"""Plausible study folders with a known truth, as the study's own commands would leave them."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spiky_rl.metrics.energy import InferenceCost

CARTPOLE, MASKED = "Isaac-Cartpole", "cartpole_masked"
HIGHEST, RANDOM, SOLVED = 5.0, 0.6, 4.5
ITERATIONS, STEPS = 60, 8192
CONDITIONS = {
    "nominal": "nothing is changed",
    "observation_noise": "Gaussian noise on every observation, standard deviation 0.1 of its own",
    "sensor_dropout": "every observation is 0 with probability 0.1, in every control step anew",
    "sensor_loss": "one observation is 0 for the whole episode",
    "push": "the base is pushed every second, up to 1 m/s",
    "mass": "all masses times 0.5 to 2, drawn per episode",
    "friction": "joint friction times 0 to 5, drawn per episode",
}
KEPT = {"nominal": 1.0, "observation_noise": 0.93, "sensor_dropout": 0.8, "sensor_loss": 0.45}
KEPT |= {"push": 0.72, "mass": 0.97, "friction": 0.99}


@dataclass(frozen=True)
class Truth:
    """True values of an agent."""

    score: float
    """Expected, on the whole task."""
    masked: float
    """Expected, without velocities."""
    macs: float
    acs: float
    updates: float
    rate: float | None
    """Share of inner steps with a spike; None for an ANN."""
    spread: float = 0.05
    """Standard deviation over seeds."""
    speed: float = 10.0
    """Half of the iterations to half of the score."""
    fragility: float = 1.0
    """Loss under a disturbance, in that of `KEPT`."""


TRUTHS: Mapping[str, Truth] = {
    "mlp_ppo": Truth(4.90, 3.40, 1_200, 0, 66, None, 0.03, 14),
    "gru_ppo": Truth(4.88, 4.60, 53_000, 0, 450, None, 0.05, 18, 0.6),
    "lif_ppo": Truth(4.89, 3.30, 2_048, 6_800, 1_100, 0.11, 0.03, 8),
    "lif_stateful_ppo": Truth(4.86, 3.45, 2_048, 7_900, 1_100, 0.13, 0.05, 9),
    "lif_population_ppo": Truth(4.91, 3.50, 8_192, 9_500, 1_100, 0.10, 0.04, 8, 0.85),
    "lif_latency_ppo": Truth(4.70, 3.20, 0, 5_200, 1_100, 0.08, 0.10, 12),
    "alif_ppo": Truth(4.88, 3.40, 2_048, 5_900, 2_200, 0.09, 0.04, 9, 0.95),
    "alif_recurrent_ppo": Truth(4.80, 2.00, 2_048, 21_000, 2_200, 0.12, 0.10, 16),
    "resonate_ppo": Truth(4.82, 3.60, 2_048, 7_100, 3_300, 0.10, 0.08, 13),
    "quadratic_ppo": Truth(4.84, 3.30, 2_048, 7_600, 4_400, 0.12, 0.06, 12),
    "izhikevich_ppo": Truth(4.75, 3.25, 2_048, 8_100, 17_600, 0.06, 0.10, 15),
    "hodgkin_huxley_ppo": Truth(4.30, 3.00, 2_048, 9_400, 90_000, 0.05, 0.30, 24, 1.3),
    "sigma_delta_ppo": Truth(4.87, 3.45, 4_100, 0, 1_100, 0.21, 0.04, 10, 0.9),
    "lif_reservoir_ppo": Truth(4.60, 4.25, 10_400, 52_000, 4_000, 0.07, 0.12, 10, 0.7),
    "lif_eprop": Truth(3.90, 2.90, 2_048, 8_800, 2_200, 0.14, 0.50, 20, 1.15),
    "lif_rstdp": Truth(2.20, 1.80, 2_048, 9_900, 2_200, 0.16, 0.60, 26, 1.4),
}
"""Sixteen agents, in the order in which a study would name them."""


def write_study(
    folder: Path,
    agents: Sequence[str] = tuple(TRUTHS),
    tasks: Sequence[str] = (CARTPOLE, MASKED),
    seeds: Sequence[int] = range(5),
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    conditions: Sequence[str] = tuple(CONDITIONS),
    baseline: str = "mlp_ppo",
    random: bool = True,
    truths: Mapping[str, Truth] | None = None,
    question: str = "Are more bio-plausible neurons better at embodied learning?",
) -> Path:
    """Write a complete study and return its folder; `fail`, `corrupt` and `change` then damage cells of it."""
    vary, truths = vary or {}, truths or TRUTHS
    design = {
        "version": 1,
        "name": folder.name,
        "question": question,
        "agents": list(agents),
        "tasks": list(tasks),
        "seeds": list(seeds),
        "vary": {k: list(v) for k, v in vary.items()},
        "budget": {"kind": "env_steps", "amount": ITERATIONS * STEPS},
        "num_envs": 512,
        "overrides": [],
        "episodes": 64,
        "conditions": list(conditions),
        "baseline": baseline,
        "library": "rsl_rl",
    }
    dump(folder / "study.json", design)
    variants = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    cells = [
        cell_of(agent, task, seed, variant, conditions, truths[agent])
        for task, agent, variant, seed in itertools.product(tasks, agents, variants, seeds)
    ]
    if random:
        cells += [random_cell(task, conditions) for task in tasks]
    keys = "cell agent label task variant seed kind hash spec_hash num_envs device commands".split()
    other = {"env_steps": ITERATIONS * STEPS, "processes": 1, "seconds_estimated": 60.0}
    plan = [{**{key: cell[key] for key in keys}, **other} for cell in cells]
    dump(folder / "plan.json", {"version": 1, "cells": plan})
    for cell in cells:
        dump(folder / "cells" / cell["cell"] / "result.json", cell)
    return folder


def finish(folder: Path, name: str, cell_hash: str, **changed: Any) -> Path:
    """Write a complete result of the cell ``name`` with the given hash into its ``folder``; return the file's path."""
    complete = cell_of("lif_ppo", CARTPOLE, 0, {}, ["nominal"], TRUTHS["lif_ppo"])
    dump(folder / "result.json", complete | {"cell": name, "hash": cell_hash} | changed)
    return folder / "result.json"


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def fail(folder: Path, cell: str, error: str = "ValueError: the pole is gone") -> None:
    """As a cell that raised."""
    (folder / "cells" / cell / "result.json").unlink()
    traceback = f'Traceback (most recent call last):\n  File "train.py", line 7, in <module>\n{error}\n'
    (folder / "cells" / cell / "error.txt").write_text(traceback, encoding="utf-8")


def remove(folder: Path, cell: str) -> None:
    """As a cell that has not begun."""
    shutil.rmtree(folder / "cells" / cell)


def corrupt(folder: Path, cell: str) -> None:
    """As a file of which the end is missing."""
    path = folder / "cells" / cell / "result.json"
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")


def change(folder: Path, cell: str, path: str, value: Any) -> None:
    """Set the value at a dotted path of a result file."""
    file = folder / "cells" / cell / "result.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    dump(file, data)


def redesign(study: Path, **changed: Any) -> None:
    """Change keys of a study's design."""
    path = study / "study.json"
    dump(path, {**json.loads(path.read_text(encoding="utf-8")), **changed})


def generator(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def cell_of(
    agent: str, task: str, seed: int, variant: Mapping[str, Any], conditions: Sequence[str], truth: Truth
) -> dict[str, Any]:
    suffix = " ".join(f"{key.removeprefix('agent.')}={value}" for key, value in variant.items())
    cell = ".".join([task, agent, *([suffix.replace(" ", ".")] if suffix else []), f"seed{seed}"])
    rng = generator(cell)
    expected = truth.masked if "masked" in task else truth.score
    score = float(np.clip(rng.normal(expected, truth.spread), 0.0, HIGHEST - 0.01))
    steps = STEPS * np.arange(1, ITERATIONS + 1)
    rise = 1.0 / (1.0 + np.exp(-(np.arange(ITERATIONS) - 2 * truth.speed) / (truth.speed / 3)))
    returns = [round(v, 4) for v in RANDOM + (score - RANDOM) * rise + rng.normal(0, 0.05, ITERATIONS)]
    seconds = 0.5 + 0.02 * math.sqrt(truth.updates)
    operations, rate = truth.macs + truth.acs, truth.rate or 0.0
    return {
        **identity(cell, agent, task, seed, "trained"),
        "label": f"{agent} {suffix}".strip(),
        "variant": dict(variant),
        "spec_hash": f"{zlib.crc32(agent.encode()):016x}",
        "commands": [
            f"python scripts/train.py --task {task} --agent {agent} --seed {seed} --num_envs 512",
            f"python scripts/evaluate.py --task {task} --agent {agent} --checkpoint latest",
        ],
        "training": {
            "env_steps": int(steps[-1]),
            "iterations": ITERATIONS,
            "mean_return_final": float(np.mean(returns[-10:])),
            "mean_return_best": max(returns),
            "seconds_total": seconds * ITERATIONS,
            "seconds_simulation": 0.6 * seconds * ITERATIONS,
            "seconds_inference": 0.15 * seconds * ITERATIONS,
            "seconds_learning": 0.25 * seconds * ITERATIONS,
            "seconds_cpu": 0.8 * seconds * ITERATIONS,
        },
        "curve": {
            "env_steps": steps.tolist(),
            "return": [None, None, *returns[2:]],
            "seconds": [round(seconds * (i + 1), 3) for i in range(ITERATIONS)],
            "operations": [operations] * ITERATIONS,
            "firing_rate": [rate] * ITERATIONS,
        },
        "evaluation": {
            "episodes": 64,
            "conditions": {
                name: condition(name, score, operations, rate, rng, truth.fragility) for name in conditions
            },
        },
        "cost": cost(truth),
    }


def random_cell(task: str, conditions: Sequence[str]) -> dict[str, Any]:
    rng = generator("random", task)
    cell = f"{task}.random"
    nominal = {name: condition(name, RANDOM, 0.0, 0.0, rng) for name in conditions if name == "nominal"}
    return {
        **identity(cell, "random", task, 0, "random"),
        "label": "random",
        "variant": {},
        "spec_hash": None,
        "training": None,
        "curve": None,
        "cost": None,
        "commands": [f"python scripts/evaluate.py --task {task} --agent random"],
        "evaluation": {"episodes": 64, "conditions": nominal},
    }


def identity(cell: str, agent: str, task: str, seed: int, kind: str) -> dict[str, Any]:
    return {
        "version": 1,
        "cell": cell,
        "agent": agent,
        "task": task,
        "seed": seed,
        "kind": kind,
        "hash": f"{zlib.crc32(cell.encode()):016x}",
        "outcome": "finished",
        "resumed": 0,
        "budget": {"kind": "env_steps", "amount": ITERATIONS * STEPS},
        "solved": SOLVED,
        "device": "cpu",
        "num_envs": 512,
        "assets": "look-alike robots derived from Newton's wheel",
        "library": "rsl_rl",
        "versions": {"spiky_rl": "0.1.0", "isaaclab": "3.0.0", "torch": "2.9.0"},
        "machine": "AMD EPYC, 2 cores, 2 cells at once",
        "date": "2026-11-25",
    }


def condition(
    name: str, score: float, operations: float, rate: float, rng: np.random.Generator, fragility: float = 1.0
) -> dict[str, Any]:
    expected = score * (1.0 - fragility * (1.0 - KEPT[name]))
    returns = [round(float(v), 4) for v in np.clip(rng.normal(expected, 0.05, 64), 0.0, HIGHEST)]
    lengths = [int(60 * v) for v in returns]
    return {
        "text": CONDITIONS[name],
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "returns": returns,
        "mean_length": float(np.mean(lengths)),
        "lengths": lengths,
        "firing_rate": rate,
        "operations": operations,
        "measures": {"upright": float(np.mean(returns))},
    }


def cost(truth: Truth) -> dict[str, Any]:
    spiking = truth.rate is not None
    found = InferenceCost(
        effective_macs=truth.macs,
        effective_acs=truth.acs,
        dense_operations=70_000.0,
        encoder_operations=16.0 if spiking else 0.0,
        neuron_updates=truth.updates,
        additions=2 * truth.updates if spiking else 0.0,
        multiplications=truth.updates,
        transcendental=0.0 if spiking else truth.updates,
        activation_sparsity=1.0 - (truth.rate or 1.0),
        connection_sparsity=0.0,
        parameters=17_500 if spiking else 1_300,
        footprint_bytes=70_000,
        state_bytes=0,
        stored_values=17_500,
        index_bytes=0,
    )
    return {**found.to_dict(), "ann_dense_operations": 1_200.0, "actions_per_second": 60.0}


NOW, THEN = "a" * 16, "b" * 16
TUNED = {
    "mlp_ppo": {"trial": 0, "return": 4.0, "agent": {}, "specification": NOW, "physics": "newton_mjwarp"},
    "gru_ppo": {"agent": {"algorithm": {"gamma": 0.98}}},
    "lif_ppo": {
        "trial": 7,
        "agent": {"algorithm": {"gamma": 0.98}},
        "specification": THEN,
        "physics": "mujoco",
    },
}


def tuned(study: Path) -> None:
    """As a study that names a tuning has its design, its plan and its copy of the tuned values."""
    redesign(study, tuning="logs/tune/mine")
    plan = json.loads((study / "plan.json").read_text())
    cells = [{**cell, "base_hash": NOW} for cell in plan["cells"]]
    dump(study / "plan.json", {**plan, "cells": cells})
    held = {
        "version": 1,
        "tuning": "mine",
        "trials": 12,
        "seeds": [90000],
        "budget": "9 steps",
        "tasks": {CARTPOLE: TUNED},
    }
    dump(study / "tuned.yaml", held)
