"""What the steps of ``verify_gpu.py`` leave behind, read from their files: tests, benchmarks, trainings, and the machine."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = {
    "tests": "tests.xml",
    "bench_feedforward": "feedforward.json",
    "bench_sequences": "sequences.json",
    "train_lif": "lif_ppo",
    "train_lif_equal": "lif_ppo_equal",
    "train_mlp": "mlp_ppo",
}
"""Where each step's result lies in the folder; of a training, its runs."""
PHASES = ("simulation", "inference", "learning")
PACKAGES = (
    *("torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "isaaclab", "newton", "mujoco-warp", "warp-lang"),
    *("rsl-rl-lib", "skrl", "spikingjelly", "snntorch", "norse"),
)
"""Whose versions shape what is measured."""


@dataclass(frozen=True)
class Tests:
    """What pytest tells of the tests that need a GPU."""

    passed: int
    failed: Sequence[str]
    """Names, those that broke before or after their own work too."""
    skipped: Mapping[str, int]
    """Reasons, and how many tests each holds back."""
    measured: Mapping[str, str]
    """What tests told besides, in their own words."""


@dataclass(frozen=True)
class Training:
    """A run, as its own files tell it."""

    outcome: str
    device: str
    iterations: int
    median: Mapping[str, float]
    """Seconds per iteration, by phase: the median leaves out the first ones, which compile."""
    total: Mapping[str, float]
    """Seconds of the whole training, by phase."""
    env_steps: int
    mean_return: float | None
    firing_rate: float

    @property
    def steps_per_second(self) -> float:
        """Environment steps in a second of the whole training."""
        return self.env_steps / sum(self.total.values())


def read_tests(path: Path) -> Tests:
    """pytest's JUnit file. Raises OSError or ValueError where there is none."""
    failed, skipped, measured, passed = [], Counter[str](), {}, 0
    try:
        root = xml.parse(path).getroot()
    except xml.ParseError as error:
        raise ValueError(f"no JUnit file: {error}") from None
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif reason is not None:
            skipped[_why(reason)] += 1
        else:
            passed += 1
        measured |= {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
    return Tests(passed, list(dict.fromkeys(failed)), skipped, measured)


def _why(skipped: xml.Element) -> str:
    """Why a test did not run; of a whole file, pytest tells that with the file's place, which is left out."""
    message = skipped.get("message") or "no reason given"
    if message != "collection skipped":
        return message
    return (skipped.text or message).partition("Skipped: ")[2].rstrip("')\" ") or message


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What ``bench.py --json`` wrote, also where it was interrupted."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_training(root: Path) -> Training:
    """The newest run below ``root``: its result, and the seconds of every iteration from its event files.

    Raises FileNotFoundError where no run came to its end.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = sorted(root.glob("**/result.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(f"no result below {root.name}")
    result = json.loads(runs[-1].read_text(encoding="utf-8"))
    events = EventAccumulator(str(runs[-1].parent), size_guidance={"scalars": 0})
    events.Reload()
    seconds = {phase: [e.value for e in events.Scalars(f"Perf/seconds_{phase}")] for phase in PHASES}
    return Training(
        result["outcome"],
        result["device"],
        result["iterations"],
        {phase: statistics.median(values) for phase, values in seconds.items()},
        {phase: result[f"seconds_{phase}"] for phase in PHASES},
        result["env_steps"],
        result["mean_return_final"],
        result["firing_rate"],
    )


def machine() -> dict[str, str]:
    """The GPU, its driver, and the versions of what runs on it."""
    import torch

    from benchmarks.plot import processor

    found = {"GPU": "none", "driver": driver() or "nvidia-smi is not there"}
    if torch.cuda.is_available():
        all_of_them = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        found["GPU"] = ", ".join(
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
            for gpu in all_of_them
        )
    found |= {"CPU": processor(), "CUDA of torch": torch.version.cuda or "none"}
    found |= {"Python": platform.python_version(), "commit": commit() or "not known"}
    return found | {name: version for name in PACKAGES if (version := version_of(name))}


def version_of(package: str) -> str | None:
    """None: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """NVIDIA's driver, by nvidia-smi."""
    said = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said.splitlines()[0] if said else None


def commit() -> str | None:
    """The commit of this checkout; a plus sign: with changes."""
    return _said("git", "describe", "--always", "--dirty=+")


def _said(*line: str) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    if shutil.which(line[0]) is None:
        return None
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
