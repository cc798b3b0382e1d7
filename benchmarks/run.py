"""Times of a spiking policy, of a plain loop, of other libraries (peers) and of an equal-size ANN, in one run.

Rounds are interleaved and, on one thread, process time is measured, so that other load on the machine does not matter. Ratios are within
one run. Before a contender is timed, its outputs and gradients are compared with those of the plain loop.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import jax_contenders
from benchmarks import plot as bench_plot
from benchmarks.choice import CONTROL_STEPS, build_settings, choose_contenders, require_usual_neurons
from benchmarks.common import compute_median_and_spread, keep_memory
from benchmarks.contenders import RATE, Contender, Setting
from benchmarks.entries import CONTENDERS, NETWORKS, REFERENCES
from spiky_rl.cli import common
from spiky_rl.cli.flags import positive_int
from spiky_rl.config import files
from spiky_rl.config.errors import require_module
from spiky_rl.config.registry import UserError
from spiky_rl.kernels import stack_operator
from spiky_rl.run.devices import resolve_device

MIN_MEASUREMENT_S = 0.02
"""Minimum duration of one measurement in seconds."""
TOLERANCE = 1e-3
"""Tolerance of equal outputs, relative to the reference's largest output."""
MIN_EQUAL_SHARE = 0.8
"""Minimum share of a batch with outputs equal to the plain loop's: a sum in another order may flip a spike."""
MIN_GRADIENT_COSINE = {"recurrent": 0.999, "reservoir": 0.999}
"""Minimum cosine between our gradient and the plain loop's, by kind."""
MIN_BATCH_TO_COMPARE = 64
"""Smallest batch for which differing outputs are a failure: in a small one a single flipped spike changes the share too much."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = common.Parser(
        "bench",
        description="Time a spiking network, its peers, a plain loop and an MLP side by side.",
        epilog="Further benchmarks: spiky bench classify (classifiers of event recordings, ours and snnTorch's), spiky bench physics"
        " (native MuJoCo and MuJoCo-Warp), spiky bench latency (exported policies, one action at a time), spiky bench updates"
        " (gradient steps of PPO and TD3); each has a --help.",
    )
    counts: dict[str, Any] = {"type": positive_int, "nargs": "+", "metavar": "N"}
    names: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    command_line.add_argument(
        "--networks", choices=NETWORKS, nargs="+", help="networks to compare", default=["feedforward"]
    )
    usual = ", ".join(f"{name} {' '.join(map(str, kind.usual_steps))}" for name, kind in NETWORKS.items())
    command_line.add_argument(
        "--steps",
        help=f"inner steps per control step; if not given, {usual}",
        default=argparse.SUPPRESS,
        **counts,
    )
    command_line.add_argument(
        "--control-steps",
        type=positive_int,
        help="control steps of recurrent networks and reservoirs",
        default=CONTROL_STEPS,
    )
    command_line.add_argument("--batch", default=[1, 64, 1024, 4096], help="batch sizes", **counts)
    command_line.add_argument(
        "--rate",
        type=float,
        nargs="+",
        metavar="R",
        default=[RATE],
        help="firing rates of the layers, in spikes per neuron and inner step: 0.05 in sparse networks, 0.4 in classifiers"
        " (default: %(default)s)",
    )
    command_line.add_argument(
        "--contenders",
        help=f"all, or some of {', '.join(CONTENDERS)}; default: all but"
        f" {', '.join(name for name, entry in CONTENDERS.items() if not entry.quick)}",
        default=argparse.SUPPRESS,
        **names,
    )
    usual = ", ".join(f"{name} {kind.usual_neuron}" for name, kind in NETWORKS.items())
    command_line.add_argument(
        "--neurons", help=f"all, or names of neurons; default: {usual}", default=argparse.SUPPRESS, **names
    )
    command_line.add_argument("--modes", choices=MODES, nargs="+", help="modes to time", default=list(MODES))
    command_line.add_argument("--rounds", type=positive_int, default=7, help="interleaved rounds")
    command_line.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    command_line.add_argument(
        "--threads", type=positive_int, default=1, help="CPU threads; with several, wall time"
    )
    command_line.add_argument("--json", type=Path, metavar="FILE", help="also write all rows there")
    command_line.add_argument(
        "--plot", type=Path, metavar="FILE", help="png, pdf or svg; if not given, logs/bench/<time>.png"
    )
    return command_line


MODES = ("train", "infer")


@dataclass
class Row:
    """One contender in one mode at one size."""

    contender: str
    neuron: str
    mode: str
    steps: int
    batch: int
    control_steps: int
    rate: float
    device: str
    threads: int
    ms: float | None = None
    """Median over the rounds."""
    spread: float | None = None
    """Interquartile range over median."""
    ratio: float | None = None
    """The reference's time over the contender's: above 1 is faster."""
    saved_bytes: int | None = None
    """Bytes that autograd keeps for the backward pass, without weights."""
    same: float | None = None
    """Share of the batch with outputs equal to the reference's."""
    cosine: float | None = None
    """Cosine between the gradient and the reference's."""
    first_call_s: float | None = None
    """Wall time of the first call, which includes compilation."""
    rates: list[float] | None = None
    """Firing rates of the hidden layers, or of the lone neuron, in the reference with the timed batch."""
    failed: str | None = None
    """Reason of a failure; None if there are numbers."""

    def attempt(self, work: Callable[..., Any], *args: Any) -> Any:
        """Return the result of ``work``; if it fails, record the reason and return None, so that the other contenders go on."""
        if self.failed is not None:
            return None
        result, self.failed = attempt(work, *args)
        return result


def attempt(work: Callable[..., Any], *args: Any) -> tuple[Any, str | None]:
    """Return the result of ``work`` and None; if it fails, None and the reason."""
    try:
        return work(*args), None
    except Exception as error:  # pylint: disable=broad-exception-caught
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _require_agreement(row: Row) -> None:
    """Raise RuntimeError if output or gradient of our network differ from the reference's."""
    assert row.same is not None
    if row.same < MIN_EQUAL_SHARE:
        raise RuntimeError(f"only {row.same:.0%} of its outputs equal the reference's")
    cosine = 1.0 if row.cosine is None else row.cosine
    if cosine < MIN_GRADIENT_COSINE.get(CONTENDERS[row.contender].kind, -1.0):
        raise RuntimeError(f"its gradient's cosine with the reference's is {cosine:.4f}")


class Race:
    """The contenders of one neuron and one K."""

    def __init__(self, setting: Setting, names: Sequence[str], threads: int) -> None:
        self.setting, self.threads = setting, threads
        usual = setting.neuron == setting.usual_neuron
        self.names = [
            name
            for name in names
            if CONTENDERS[name].kind in setting.kinds and (usual or not CONTENDERS[name].package)
        ]
        self.modules: dict[str, Contender] = {}
        self.failures: dict[str, str | None] = {}
        for name in self.names:
            self.modules[name], self.failures[name] = attempt(CONTENDERS[name].build, setting)

    def _make_row(self, name: str, mode: str, batch: int) -> Row:
        setting = self.setting
        return Row(
            contender=name,
            neuron=setting.neuron,
            mode=mode,
            steps=setting.steps,
            batch=batch,
            control_steps=setting.control_steps,
            rate=setting.rate,
            device=setting.device,
            threads=self.threads,
            failed=self.failures[name],
        )

    def run(self, batch: int, mode: str, rounds: int) -> list[Row]:
        """Return the rows of one batch size and mode: of networks, then of neurons alone, which are timed in training only."""
        all_rows = []
        for kind in self.setting.kinds:
            if kind == "neuron" and mode != "train":
                continue
            rows = [self._make_row(name, mode, batch) for name in self.names if CONTENDERS[name].kind == kind]
            if any(row.failed is None for row in rows):
                self._time(rows, kind, self.setting.make_inputs(kind, batch), rounds)
            all_rows += rows
        return all_rows

    def _time(self, rows: list[Row], kind: str, x: Tensor, rounds: int) -> None:
        """Fill the rows of one kind, which share an input; the first row is the reference."""
        rates = self.setting.measure_rates(kind, x)
        expected: list[Tensor] = []
        calls = []
        for row in rows:
            results = row.attempt(self._make_first_calls, row, x) or []
            if row.contender in REFERENCES.values():
                expected = results
            if results and expected:
                row.attempt(_compare_with_reference, row, results, expected)
            calls.append(row.attempt(self._count_calls, row, x))
        times: list[list[float]] = [[] for _ in rows]
        for _ in range(rounds):
            gc.collect()
            for row, count, values in zip(rows, calls, times, strict=True):
                values.append(row.attempt(self._measure_seconds, row, x, count))
        for row, values in zip(rows, times, strict=True):
            row.rates = rates
            if row.failed is None:
                middle, spread = compute_median_and_spread(values)
                row.ms, row.spread = middle * 1e3, spread / middle
                row.ratio = rows[0].ms and rows[0].ms / row.ms

    def _make_first_calls(self, row: Row, x: Tensor) -> list[Tensor]:
        """Make the first calls; return the output and, in training, the gradient. Empty if they cannot be compared."""
        module = self.modules[row.contender]
        module.prepare()
        run = module.learn if row.mode == "train" else module
        with torch.inference_mode(row.mode == "infer"):
            start = time.perf_counter()
            run(x)
            synchronize(self.setting.device)
            row.first_call_s = time.perf_counter() - start
            output, row.saved_bytes = measure_saved_bytes(module, x)
        if not module.comparable:
            return []
        if row.mode == "infer":
            return [output.detach()]
        return [output.detach(), module.get_gradient()]  # the gradient of the first call

    def _count_calls(self, row: Row, x: Tensor) -> int:
        """Warm up; return the number of calls that last `MIN_MEASUREMENT_S` seconds."""
        calls = 1
        while calls * self._measure_seconds(row, x, calls) < MIN_MEASUREMENT_S:
            calls *= 2
        return calls

    def _measure_seconds(self, row: Row, x: Tensor, calls: int) -> float:
        """Return the seconds of one call, measured over ``calls``: process time, or wall time on a GPU or with several threads."""
        module, device = self.modules[row.contender], self.setting.device
        run = module.learn if row.mode == "train" else module
        clock = time.process_time if device == "cpu" and self.threads == 1 else time.perf_counter
        gc.disable()
        try:
            with torch.inference_mode(row.mode == "infer"):
                run(x)  # caches and allocator still hold another contender's shapes
                synchronize(device)
                start = clock()
                for _ in range(calls):
                    run(x)
                synchronize(device)
                return (clock() - start) / calls
        finally:
            gc.enable()


def _compare_with_reference(row: Row, results: list[Tensor], expected: list[Tensor]) -> None:
    """Set the agreement of ``row`` with the reference. Raises RuntimeError if our network's result differs."""
    row.same, row.cosine = compare(results, expected)
    if row.contender.startswith("spiky_rl") and row.batch >= MIN_BATCH_TO_COMPARE:
        _require_agreement(row)


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def measure_saved_bytes(module: Contender, x: Tensor) -> tuple[Tensor, int | None]:
    """Return the output, and the bytes that autograd keeps for the backward pass: every storage once, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    sizes = [tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in weights]
    if not sizes:
        return output, None
    return output, sum(sizes)


def compare(results: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float | None]:
    """Compare [output, gradient] or [output]; return the share of equal outputs, and the cosine between gradients or None."""
    equal = (results[0] - expected[0]).abs().amax(-1) <= TOLERANCE * expected[0].abs().amax()
    cosines = [
        torch.nn.functional.cosine_similarity(gradient.double(), reference.double(), dim=0).item()
        for gradient, reference in zip(results[1:], expected[1:], strict=True)
    ]
    return equal.float().mean().item(), next(iter(cosines), None)


OTHER_BENCHMARKS = {
    "classify": "classification",
    "latency": "latency",
    "physics": "physics",
    "updates": "updates",
}
"""Modules with benchmarks of their own, by first argument."""


def run_races(
    args: argparse.Namespace, settings: Sequence[Setting], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of all races; print each table, and write all rows so far, as soon as a race ends."""
    rows: list[dict[str, Any]] = []
    for setting in settings:
        race = Race(setting, names, args.threads)
        for batch in args.batch:
            block = [asdict(row) for mode in args.modes for row in race.run(batch, mode, args.rounds)]
            print(bench_plot.format_table(block), flush=True)
            rows += block
            if args.json:
                files.write_json(args.json, rows)
    return rows


def prepare_outputs(args: argparse.Namespace) -> None:
    """Set the default file of the plot, if matplotlib is installed. Raises UserError for files that cannot be written."""
    if args.json:
        files.require_file("--json", args.json, (".json",))
    if args.plot or importlib.util.find_spec("matplotlib"):
        require_module("matplotlib", "isaaclab")
        args.plot = args.plot or Path(f"logs/bench/{time.strftime('%Y-%m-%d_%H-%M-%S')}.png")
        files.require_file("--plot", args.plot, (".png", ".pdf", ".svg"))


def bench(argv: list[str]) -> int:
    """Run the benchmark; return exit code 1 if a contender failed. A first argument in `OTHER_BENCHMARKS` runs that benchmark."""
    if argv[:1] and argv[0] in OTHER_BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{OTHER_BENCHMARKS[argv[0]]}")
        return module.bench(argv[1:])
    args = build_parser().parse_args(argv)
    device = resolve_device(args.device)
    args.networks = list(dict.fromkeys(args.networks))
    compared = build_settings(args, device)
    jax_contenders.limit_threads(args.threads)  # the search for some peers imports JAX
    names = choose_contenders(vars(args).get("contenders"), args.networks, device)
    require_usual_neurons(vars(args).get("contenders"), compared)
    if "train" not in args.modes and all(CONTENDERS[name].kind == "neuron" for name in names):
        raise UserError(f"--modes infer: {', '.join(names)} are timed in training only")
    prepare_outputs(args)
    common.setup_logging(False)
    if device == "cpu":
        torch.set_num_threads(args.threads)
        stack_operator.use_operator()  # as after the first minutes of a training
    keeps_memory = keep_memory()
    print(bench_plot.format_header(names, compared, args.threads, args.rounds, keeps_memory), flush=True)
    rows = run_races(args, compared, names)
    print(bench_plot.format_summary(rows))
    failures = [f"{row['contender']} ({row['neuron']}): {row['failed']}" for row in rows if row["failed"]]
    for line in dict.fromkeys(failures):
        sys.stderr.write(f"failed: {line}\n")
    if args.plot:
        files.write_atomically(
            args.plot,
            lambda beside: bench_plot.draw_figure(rows).savefig(beside, format=args.plot.suffix[1:]),
        )
        print(f"plot: {args.plot}")
    return int(bool(failures))


def main() -> int:
    """Run ``spiky bench``."""
    return common.run(bench)
