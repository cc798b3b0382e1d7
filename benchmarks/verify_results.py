"""Readers of the results of ``verify_gpu.py``: tests, benchmarks, trainings, and a description of the machine."""

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
    "sanitizer": "sanitizer.txt",
}
"""Name of each step's result in the folder; for a training, the folder of its runs."""
PHASES = ("simulation", "inference", "learning")
PACKAGES = (
    *("torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "isaaclab", "newton", "mujoco-warp", "warp-lang"),
    *("rsl-rl-lib", "skrl", "spikingjelly", "snntorch", "norse"),
)
"""Packages with versions that affect the measurements."""


@dataclass(frozen=True)
class Tests:
    """Results of the tests that need a GPU."""

    passed: int
    failed: Sequence[str]
    """Names of failed tests, including errors in setup and teardown."""
    skipped: Mapping[str, int]
    """Number of skipped tests by reason."""
    measured: Mapping[str, str]
    """Properties that tests recorded."""


@dataclass(frozen=True)
class Training:
    """Results of a training run."""

    outcome: str
    device: str
    iterations: int
    median: Mapping[str, float]
    """Median seconds per iteration, by phase; so compilation in the first iterations does not matter."""
    total: Mapping[str, float]
    """Total seconds, by phase."""
    env_steps: int
    mean_return: float | None
    firing_rate: float

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of the whole training."""
        return self.env_steps / sum(self.total.values())


def read_tests(path: Path) -> Tests:
    """Read pytest's JUnit file. Raises OSError or ValueError if it is missing or invalid."""
    failed, skipped, measured, passed = [], Counter[str](), {}, 0
    try:
        root = xml.parse(path).getroot()
    except xml.ParseError as error:
        raise ValueError(f"not a JUnit file: {error}") from None
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif reason is not None:
            skipped[_get_skip_reason(reason)] += 1
        else:
            passed += 1
        measured |= {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
    return Tests(passed, list(dict.fromkeys(failed)), skipped, measured)


def _get_skip_reason(skipped: xml.Element) -> str:
    """Return the reason of a skip; if a whole file is skipped, without the file's path that pytest adds."""
    message = skipped.get("message") or "no reason given"
    if message != "collection skipped":
        return message
    return (skipped.text or message).partition("Skipped: ")[2].rstrip("')\" ") or message


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows that ``bench.py --json`` wrote, complete or interrupted."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_training(root: Path) -> Training:
    """Read the newest run below ``root``: its result, and the seconds of every iteration from its event files.

    Raises FileNotFoundError if there is no finished run.
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


def read_sanitizer(path: Path) -> str:
    """Return compute-sanitizer's summary of errors. Raises OSError or ValueError if its log is missing or incomplete."""
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        if "ERROR SUMMARY" in line:
            return line.strip("= ")
    raise ValueError("no summary")


def describe_machine() -> dict[str, str]:
    """Return the GPU, its driver, the CPU, and the versions of packages."""
    import torch

    from benchmarks.plot import get_processor

    facts = {"GPU": "none", "driver": get_driver() or "nvidia-smi is not installed"}
    if torch.cuda.is_available():
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        facts["GPU"] = ", ".join(
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
            for gpu in gpus
        )
    facts |= {"CPU": get_processor(), "CUDA of torch": torch.version.cuda or "none"}
    facts |= {"Python": platform.python_version(), "commit": get_commit() or "not known"}
    return facts | {name: version for name in PACKAGES if (version := get_version(name))}


def get_version(package: str) -> str | None:
    """Return the version of ``package``; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def get_driver() -> str | None:
    """Return the version of NVIDIA's driver, from nvidia-smi."""
    output = _run_program("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return output.splitlines()[0] if output else None


def get_commit() -> str | None:
    """Return the commit of this checkout, with a plus sign if there are changes."""
    return _run_program("git", "describe", "--always", "--dirty=+")


def _run_program(*line: str) -> str | None:
    """Return the output of a program; None if it is missing or fails."""
    if shutil.which(line[0]) is None:
        return None
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
