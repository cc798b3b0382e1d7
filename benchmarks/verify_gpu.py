"""``spiky verify_gpu``: runs everything that needs a GPU, step by step, and writes one page of results."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TextIO

from benchmarks.common import ROOT
from benchmarks.verify_packages import find_missing
from benchmarks.verify_page import BENCHES, TRAININGS, Outcome, page
from benchmarks.verify_results import RESULTS
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int
from spiky_rl.config import files
from spiky_rl.config.registry import UserError

PAGE = Path("docs/gpu.md")
OUTCOMES = "outcomes.json"
"""File in the folder with the outcome of each step."""


ENVIRONMENT = {"SJ_LIF_CUDA_IMPLEMENTATION": "triton", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
"""Variables of every step: SpikingJelly uses Triton's kernels or raises an error (by default it falls back to torch silently), and products
are in TF32, as in rsl_rl's trainings, but not in the tests, which compare results (`tests/conftest.py`)."""
SANITIZED_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""Variables of compute-sanitizer's step: every tensor is an allocation of its own. By default torch divides large allocations among
tensors, so that an access beyond a tensor stays within the allocation, which the sanitizer does not report."""
SHORT_SECONDS = 540
"""Duration of ``--short``."""
SANITIZED = "counted or no_samples or networks_features or loop_is_a_launch or kept_as_the_cpus_bits"
"""Expression of pytest for tests of `SANITIZED_FILES` that are small enough for compute-sanitizer, which is slow."""
SANITIZED_FILES = ("tests/kernels/test_gpu.py", "tests/kernels/test_gpu_recurrent.py")


@dataclass(frozen=True)
class Size:
    """Size of the steps: for a GPU, or small for a dry run on a CPU."""

    device: str
    environments: int
    iterations: int
    bench: tuple[str, ...] = ()
    """Further arguments of every call of ``bench.py``."""
    feedforward: tuple[str, ...] = ()
    """Further arguments of the benchmark of feed-forward networks."""
    sequences: tuple[str, ...] = ()
    """Further arguments of the benchmark of recurrent networks and reservoirs."""
    tests: tuple[str, ...] = ("tests",)
    """Files and folders of tests."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The steps to run, in order, with their time limits in seconds; empty for all."""


COMPILED = ("compiled_plain_loop", "compiled_spikingjelly", "compiled_snntorch")
FULL = Size(
    device="cuda",
    environments=4096,
    iterations=100,
    feedforward=("--batch", "1", "64", "1024", "4096", "65536"),
    sequences=("--batch", "1", "512", "4096"),
)
SHORT = Size(
    device="cuda",
    environments=4096,
    iterations=12,
    bench=("--rounds", "3"),
    feedforward=(
        *("--batch", "4096", "65536", "--steps", "4", "--contenders"),
        *("plain_loop", "spiky_rl", "spikingjelly", COMPILED[0], "dense_floor", "mlp"),
    ),
    tests=("tests/kernels/test_gpu.py", "tests/kernels/test_gpu_recurrent.py"),
    limits={"tests": 150, "train_lif": 90, "train_mlp": 90, "bench_feedforward": 150, "sanitizer": 60},
)
"""The most telling steps first, in `SHORT_SECONDS`: kernels equal, an iteration beside the MLP's, throughput and peak memory beside
peers and the bound of the products alone, and memory errors."""
DRY = Size(
    device="cpu",
    environments=8,
    iterations=3,
    bench=("--rounds", "1", "--batch", "2"),
    feedforward=("--steps", "2"),
    sequences=("--steps", "2", "--control-steps", "2"),
)


@dataclass(frozen=True)
class Step:
    """A step, run as a process."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of Python."""
    needs: tuple[str, ...] = ()
    """Modules without which it does not start."""
    prefix: tuple[str, ...] = ()
    """Program that runs Python, with its arguments."""
    limit: float | None = None
    """Time limit in seconds, if it is shorter than that of all steps."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides `ENVIRONMENT`."""


def build_parser() -> common.Parser:
    """The command line."""
    command_line = common.Parser(
        "verify_gpu",
        description="Run everything that needs a GPU, from a checkout: tests, benchmarks with the peers, Isaac-Ant.",
    )
    command_line.add_argument(
        "--dry-run", action="store_true", help="run small versions of the steps on the CPU, to test them"
    )
    command_line.add_argument(
        "--short",
        action="store_true",
        help=f"run the most telling steps only, in {SHORT_SECONDS // 60} minutes: {', '.join(SHORT.limits)}",
    )
    command_line.add_argument(
        "--only",
        nargs="+",
        metavar="STEP",
        choices=tuple(RESULTS),
        help=f"run these steps only: {', '.join(RESULTS)}",
    )
    command_line.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page; default: {PAGE}, for a dry run FOLDER/gpu.md"
    )
    command_line.add_argument(
        "--folder",
        type=Path,
        help="folder of logs and results; the folder of an earlier call resumes it without the steps that succeeded;"
        " default: logs/verify_gpu/<time>",
    )
    command_line.add_argument(
        "--limit",
        type=positive_int,
        metavar="SECONDS",
        help="time limit of a step",
        default=7200,
    )
    return command_line


def steps(folder: Path, size: Size) -> list[Step]:
    """Return the steps in their order; they write results and logs into ``folder``."""
    tests = ("-m", "pytest", "-m", "gpu", "-q", f"--junitxml={folder / RESULTS['tests']}", *size.tests)
    all_steps = [Step("tests", tests, ("cupy",))]
    for name, networks in BENCHES.items():
        own = size.feedforward if networks == ("feedforward",) else size.sequences
        line = ("--device", size.device, "--networks", *networks, *size.bench, *own)
        written = ("--json", str(folder / RESULTS[name]), "--plot", str(folder / f"{name}.png"))
        all_steps.append(Step(name, (str(ROOT / "scripts/bench.py"), *line, *written), ("matplotlib",)))
    for name, training in TRAININGS.items():
        line = ("--task", "Isaac-Ant-v0", "--agent", training.agent, "--device", size.device)
        line += ("--num_envs", str(size.environments), "--max_iterations", str(size.iterations))
        line += ("--log_root", str(folder / RESULTS[name]), *training.overrides)
        needs = ("isaaclab", "rsl_rl", "tensorboard")
        all_steps.append(Step(name, ("-m", "spiky_rl.cli", "train", *line), needs))
    if size.device != "cpu":
        # calls that fail are no errors of kernels: libraries try what a driver has, and a launch that fails raises in its test
        prefix = ("compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no")
        prefix += ("--error-exitcode", "9", "--log-file")
        small = ("-m", "pytest", "-m", "gpu", "-q", *SANITIZED_FILES, "-k", SANITIZED)
        prefix = (*prefix, str(folder / RESULTS["sanitizer"]))
        all_steps.append(Step("sanitizer", small, ("cupy",), prefix, environment=SANITIZED_ENVIRONMENT))
    if not size.limits:
        return all_steps
    by_name = {step.name: step for step in all_steps}
    return [replace(by_name[name], limit=limit) for name, limit in size.limits.items()]


def find_obstacle(step: Step) -> str | None:
    """Return a text with what a ``step`` needs and this machine lacks; None if it can start."""
    missing = find_missing(step.needs)
    if step.prefix and shutil.which(step.prefix[0]) is None:
        missing.append(step.prefix[0])
    return f"not installed: {', '.join(missing)}" if missing else None


def run_group(line: Sequence[str], environment: Mapping[str, str], log: TextIO, limit: float) -> int | None:
    """Run a program; return its exit code, or None if it was stopped after ``limit`` seconds.

    All processes that it started and left end with it: on the GPU they would slow the next step.
    """
    with subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(step: Step, folder: Path, device: str, limit: float) -> Outcome:
    """Run one step and write its output to a log; return the outcome. On ``cpu`` GPUs are hidden from it."""
    log, start = folder / f"{step.name}.log", time.monotonic()
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    line = [*step.prefix, sys.executable, *step.arguments]
    with log.open("w", encoding="utf-8") as stream:
        code = run_group(line, {**ENVIRONMENT, **step.environment, **os.environ, **hidden}, stream, limit)
        if code is None:
            stream.write(f"\nended after {limit:.0f} s, the time that it had\n")
    return Outcome(code, time.monotonic() - start)


def read_successful_outcomes(folder: Path, device: str, is_short: bool) -> dict[str, Outcome]:
    """Return the outcomes of the steps of an earlier call that succeeded.

    Raises UserError if the file is damaged, of another device, or of the other length, whose steps are smaller or larger.
    """
    path = folder / OUTCOMES
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        outcomes = {name: Outcome(**outcome) for name, outcome in content["steps"].items()}
        recorded, was_short = content["device"], content.get("short", False)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"--folder: {str(path)!r} is damaged; name another folder") from None
    if recorded != device:
        raise UserError(
            f"--folder {str(folder)!r}: holds steps on {recorded}, not on {device}; name another folder"
        )
    if was_short != is_short:
        held = "--short" if was_short else "a call without --short"
        raise UserError(f"--folder {str(folder)!r}: holds steps of {held}; name another folder")
    return {name: outcome for name, outcome in outcomes.items() if outcome.code == 0}


def run_all(
    planned: Sequence[Step],
    folder: Path,
    device: str,
    limit: float,
    seconds: float = math.inf,
    write_page: Callable[[Mapping[str, Outcome]], None] = lambda outcomes: None,
    is_short: bool = False,
) -> Mapping[str, Outcome]:
    """Run the steps one after the other; a failed step does not stop the others.

    Args:
        planned: The steps.
        folder: Folder of logs and results.
        device: ``cpu`` or ``cuda``.
        limit: Time limit of a step in seconds.
        seconds: Time limit of all steps; a step for which no time is left does not start.
        write_page: Called with all outcomes so far, before the first and after every step.
        is_short: Whether these are the steps of ``--short``.
    """
    outcomes, start = read_successful_outcomes(folder, device, is_short), time.monotonic()
    obstacles = {step.name: find_obstacle(step) for step in planned}
    for name, obstacle in obstacles.items():
        if obstacle and name not in outcomes:
            print(f"{name}: does not run, {obstacle}", flush=True)
    write_page(outcomes)
    for number, step in enumerate(planned, start=1):
        label = f"[{number}/{len(planned)}] {step.name}"
        if step.name in outcomes:
            print(f"{label}: ran before", flush=True)
            continue
        left = seconds - (time.monotonic() - start)
        obstacle = obstacles[step.name] or ("no time left" if left < 1 else None)
        if obstacle:
            outcome = Outcome(None, 0.0, obstacle)
        else:
            print(f"{label}: {folder / step.name}.log", flush=True)
            outcome = run(step, folder, device, min(limit, left, step.limit or limit))
        outcomes[step.name] = outcome
        content = {name: asdict(each) for name, each in outcomes.items()}
        files.write_json(folder / OUTCOMES, {"device": device, "short": is_short, "steps": content})
        write_page(outcomes)
        print(f"{label}: {outcome.format_result()}, {outcome.seconds:.0f} s", flush=True)
    return outcomes


def require_checkout() -> None:
    """Raise UserError if the working directory is not a checkout with tests."""
    if not Path("tests/devices.py").is_file():
        raise UserError("there are no tests here; run it from the root of a checkout of spiky_rl")


def require_device() -> None:
    """Raise UserError if CUDA kernels cannot run."""
    from spiky_rl.kernels import dispatch

    if reason := dispatch.get_backend("cupy").get_unavailable_reason():
        raise UserError(f"{reason}; --dry-run runs small steps on the CPU")


def choose_steps(all_steps: Iterable[Step], names: Iterable[str], allowed: Iterable[str]) -> list[Step]:
    """Return the steps called ``names``. Raises UserError with the ``allowed`` names if there are none."""
    chosen = set(names)
    planned = [step for step in all_steps if step.name in chosen]
    if not planned:
        raise UserError(f"--only {' '.join(names)}: no step of this run; allowed: {', '.join(allowed)}")
    return planned


def check_arguments(args: argparse.Namespace, folder: Path, out: Path) -> None:
    """Raise UserError if the command cannot run, or cannot write into ``folder`` and to the page ``out``."""
    if args.dry_run and args.short:
        raise UserError("--short: is for a GPU; leave out --dry-run")
    if args.dry_run and out.resolve() == PAGE.resolve():
        raise UserError(f"--out {str(out)!r}: is the page of a GPU; name another file for a dry run")
    require_checkout()
    if not args.dry_run:
        require_device()
    files.require_file("--out", out, (".md",))
    files.require_writable("--folder", folder)


def verify(argv: list[str]) -> int:
    """Run all steps and write the page; return exit code 1 if a step failed."""
    args = build_parser().parse_args(argv)
    folder = args.folder or Path(f"logs/verify_gpu/{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    out = args.out or (folder / PAGE.name if args.dry_run else PAGE)
    check_arguments(args, folder, out)
    folder.mkdir(parents=True, exist_ok=True)
    size = DRY if args.dry_run else SHORT if args.short else FULL
    seconds = SHORT_SECONDS if args.short else math.inf

    def write_page(outcomes: Mapping[str, Outcome]) -> None:
        text = page(folder, outcomes, args.dry_run, size.environments, size.iterations)
        files.write_atomically(out, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    planned = choose_steps(steps(folder, size), args.only or RESULTS, size.limits or RESULTS)
    outcomes = run_all(planned, folder, size.device, args.limit, seconds, write_page, args.short)
    failed = [name for name, outcome in outcomes.items() if outcome.code != 0]
    for name in failed:
        sys.stderr.write(f"failed: {name}: {outcomes[name].format_result()}; see {folder / name}.log\n")
    print(out)
    return int(bool(failed))


def main() -> int:
    """Run ``spiky verify_gpu``; its packages must be installed."""
    return common.run(verify)
