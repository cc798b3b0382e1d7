"""``verify_gpu.py``: everything that waits for a GPU, one step after the other, and one page of what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.verify_page import BENCHES, TRAININGS, Outcome, page
from benchmarks.verify_results import RESULTS
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int
from spiky_rl.config import files
from spiky_rl.config.registry import UserError

PAGE = Path("docs/gpu.md")
OUTCOMES = "outcomes.json"
"""In the folder: how each step ended."""


PEERS = {"SJ_LIF_CUDA_IMPLEMENTATION": "triton"}
"""SpikingJelly's switch: Triton's kernels or an error, where by itself it would fall back to torch without a word."""


@dataclass(frozen=True)
class Size:
    """How much is done: for a GPU, or to see on a CPU that the steps run."""

    device: str
    environments: int
    iterations: int
    bench: tuple[str, ...] = ()
    """Further arguments of every ``bench.py``."""
    feedforward: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()


FULL = Size("cuda", 4096, 100, sequences=("--batch", "1", "512", "4096"))
DRY = Size(
    *("cpu", 8, 3),
    bench=("--rounds", "1", "--batch", "2"),
    feedforward=("--steps", "2"),
    sequences=("--steps", "2", "--control-steps", "2"),
)


@dataclass(frozen=True)
class Step:
    """One process of its own."""

    name: str
    arguments: tuple[str, ...]
    """What Python is started with."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(
        prog="verify_gpu.py",
        description="Run what waits for a GPU, from a checkout: its tests, the benchmarks beside the peers, Isaac-Ant.",
    )
    found.add_argument(
        "--dry-run", action="store_true", help="the same steps on the CPU, small, to see that they run"
    )
    found.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page; if not given, {PAGE}, of a dry run FOLDER/gpu.md"
    )
    found.add_argument(
        "--folder",
        type=Path,
        help="logs and results; one of an earlier call is gone on with: what ended well is not run again;"
        " if not given, logs/verify_gpu/<time>",
    )
    found.add_argument(
        "--limit",
        type=positive_int,
        metavar="SECONDS",
        help="of a step, which is then ended",
        default=7200,
    )
    return found


def steps(folder: Path, size: Size) -> list[Step]:
    """What is run, in this order; results and logs lie in ``folder``."""
    tests = ("-m", "pytest", "-m", "gpu", "-q", f"--junitxml={folder / RESULTS['tests']}", "tests")
    found = [Step("tests", tests)]
    for name, networks in BENCHES.items():
        own = size.feedforward if networks == ("feedforward",) else size.sequences
        line = ("--device", size.device, "--networks", *networks, *size.bench, *own)
        written = ("--json", str(folder / RESULTS[name]), "--plot", str(folder / f"{name}.png"))
        found.append(Step(name, (str(ROOT / "scripts/bench.py"), *line, *written)))
    for name, training in TRAININGS.items():
        line = ("--task", "Isaac-Ant-v0", "--agent", training.agent, "--device", size.device)
        line += ("--num_envs", str(size.environments), "--max_iterations", str(size.iterations))
        line += ("--log_root", str(folder / RESULTS[name]), *training.overrides)
        found.append(Step(name, ("-m", "spiky_rl.cli", "train", *line)))
    return found


def run(step: Step, folder: Path, device: str, limit: float) -> Outcome:
    """Run one step to its end, whatever that is; what it prints goes into its log. For ``cpu`` it sees no GPU."""
    log, start, code = folder / f"{step.name}.log", time.monotonic(), None
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    with log.open("w", encoding="utf-8") as stream:
        try:
            code = subprocess.run(
                [sys.executable, *step.arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**PEERS, **os.environ, **hidden},
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            stream.write(f"\nended after {limit:.0f} s: --limit\n")
    return Outcome(code, time.monotonic() - start)


def earlier(folder: Path, device: str) -> dict[str, Outcome]:
    """The steps of an earlier call in this folder that ended well.

    Raises UserError where what it says is damaged, or of another device.
    """
    path = folder / OUTCOMES
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Outcome(**outcome) for name, outcome in told["steps"].items()}
        its = told["device"]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"--folder: {str(path)!r} is damaged; name another folder") from None
    if its != device:
        raise UserError(
            f"--folder {str(folder)!r}: holds steps on {its}, not on {device}; name another folder"
        )
    return {name: outcome for name, outcome in found.items() if outcome.code == 0}


def run_all(planned: Sequence[Step], folder: Path, device: str, limit: float) -> Mapping[str, Outcome]:
    """Run the steps one after the other; one that fails stops no other."""
    outcomes = earlier(folder, device)
    for number, step in enumerate(planned, start=1):
        told = f"[{number}/{len(planned)}] {step.name}"
        if step.name in outcomes:
            print(f"{told}: ran before", flush=True)
            continue
        print(f"{told}: {folder / step.name}.log", flush=True)
        outcome = outcomes[step.name] = run(step, folder, device, limit)
        told_of = {name: asdict(each) for name, each in outcomes.items()}
        files.write_json(folder / OUTCOMES, {"device": device, "steps": told_of})
        print(f"[{number}/{len(planned)}] {step.name}: {outcome.told()}, {outcome.seconds:.0f} s", flush=True)
    return outcomes


def require_checkout() -> None:
    """Raise UserError where there are no tests to be run."""
    if not Path("tests/devices.py").is_file():
        raise UserError("there are no tests here; run it from the root of a checkout of spiky_rl")


def require_device() -> None:
    """Raise UserError where the CUDA kernels cannot run."""
    from spiky_rl.kernels import dispatch

    if reason := dispatch.get_backend("cupy").get_unavailable_reason():
        raise UserError(f"{reason}; --dry-run walks the steps on the CPU")


def verify(argv: list[str]) -> int:
    """Run all, write the page. Exit code 1 where a step failed."""
    args = parser().parse_args(argv)
    folder = args.folder or Path(f"logs/verify_gpu/{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    out = args.out or (folder / PAGE.name if args.dry_run else PAGE)
    if args.dry_run and out.resolve() == PAGE.resolve():
        raise UserError(f"--out {str(out)!r}: is the page of a GPU; a dry run writes another")
    require_checkout()
    if not args.dry_run:
        require_device()
    files.require_file("--out", out, (".md",))
    files.require_writable("--folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = DRY if args.dry_run else FULL
    outcomes = run_all(steps(folder, size), folder, size.device, args.limit)
    text = page(folder, outcomes, args.dry_run, size.environments, size.iterations)
    files.write_atomically(out, lambda beside: beside.write_text(text, encoding="utf-8"))
    failed = [name for name, outcome in outcomes.items() if outcome.code != 0]
    for name in failed:
        sys.stderr.write(f"failed: {name}: {outcomes[name].told()}; see {folder / name}.log\n")
    print(out)
    return int(bool(failed))


def main() -> int:
    """Run ``verify_gpu.py`` on the command line, once its packages are known to be there."""
    return common.run(verify)
