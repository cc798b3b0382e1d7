"""``bench.py``: what a spiking policy costs beside a hand-written loop and beside the ANN in its place, in one run.

Rounds are interleaved and process time is taken, so that a busy machine does not decide; ratios are within one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from spiky_rl import registry
from spiky_rl.cli import common

WIDTHS = (60, 400, 200, 100, 8)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(
        prog="bench.py", description="Time a spiking network, a plain loop and an MLP side by side."
    )
    found.add_argument("--batch", type=common.positive, nargs="+", default=[1, 64, 1024], help="batch sizes")
    found.add_argument(
        "--steps", type=common.positive, nargs="+", default=[4, 16], help="inner steps per control step"
    )
    found.add_argument("--rounds", type=common.positive, default=7, help="interleaved rounds")
    found.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return found


class PlainLoop(torch.nn.Module):
    """The same dynamics as everybody writes them: all layers inside one loop over the inner steps."""

    def __init__(self, network: torch.nn.Module, steps: int) -> None:
        super().__init__()
        self.links = [layer.connection for layer in network.layers]  # type: ignore[attr-defined]
        self.parameters_of = [layer.parameters_of_neuron() for layer in network.layers]  # type: ignore[attr-defined]
        self.decoder, self.steps = network.decoder, steps
        self.surrogate = network.surrogate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, F]."""
        from spiky_rl.kernels.ops import TorchOps

        ops = TorchOps(self.surrogate)  # type: ignore[arg-type]
        potentials = [x.new_zeros(x.shape[0], link.out_features) for link in self.links]
        v = x.new_zeros(x.shape[0], WIDTHS[-1])
        a = self.decoder.decay  # type: ignore[union-attr]
        for _ in range(self.steps):
            s = x
            for i, (link, (decay, threshold)) in enumerate(zip(self.links, self.parameters_of, strict=True)):
                potential = decay * potentials[i] + link(s)
                s = ops.spike(potential - threshold)
                potentials[i] = potential - s.detach() * threshold
            v = a * v + (1 - a) * torch.nn.functional.linear(s, self.decoder.readout.weight)  # type: ignore[union-attr]
        return v + self.decoder.readout.bias  # type: ignore[union-attr]


def contenders(steps: int, device: str) -> dict[str, torch.nn.Module]:
    """Equal weights for the spiking two, equal widths for the MLP."""
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": list(WIDTHS[1:-1]),
        "steps": steps,
        "connection": {"name": "linear", "gain": 2.0, "offset": 0.0},
        "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
    }
    network = registry.configure("networks", settings, "network").build(inputs=WIDTHS[0], outputs=WIDTHS[-1])
    layers: list[torch.nn.Module] = []
    for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.ELU()]

    class Spiking(torch.nn.Module):
        """The network as a host calls it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """[B, O] -> [B, F]."""
            return self.network(x.unsqueeze(0), self.network.zero_state(x.shape[0], x))[0].squeeze(0)

    found = {
        "plain_loop": PlainLoop(network, steps),
        "spiky_rl": Spiking(),
        "mlp": torch.nn.Sequential(*layers[:-1]),
    }
    return {name: module.to(device) for name, module in found.items()}


def measure(run: Callable[[], None], device: str) -> float:
    """Milliseconds of process time of one call (wall time on a GPU), over enough calls to see."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    calls, start = 0, clock()
    while calls == 0 or clock() - start < 0.05:
        run()
        calls += 1
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / calls * 1000.0


def bench(argv: list[str]) -> int:
    """Print the table."""
    args = parser().parse_args(argv)
    device = common.check_device(args.device)
    if device == "cpu":
        torch.set_num_threads(1)
    print(
        f"network {'-'.join(map(str, WIDTHS))}, {device}, torch {torch.__version__}; ratio = plain loop's time / contender's\n"
    )
    print(f"{'mode':6} {'steps':>5} {'batch':>6}  {'contender':12} {'ms':>9} {'spread':>7} {'ratio':>6}")
    for steps in args.steps:
        modules = contenders(steps, device)
        for batch in args.batch:
            x = torch.randn(batch, WIDTHS[0], device=device)
            for mode in ("infer", "train"):
                times: dict[str, list[float]] = {name: [] for name in modules}
                for _ in range(args.rounds):
                    for name, module in modules.items():
                        times[name].append(measure(lambda m=module, i=x, t=mode: call(m, i, t), device))
                base = statistics.median(times["plain_loop"])
                for name, values in times.items():
                    ms = statistics.median(values)
                    spread = (max(values) - min(values)) / ms
                    print(
                        f"{mode:6} {steps:5d} {batch:6d}  {name:12} {ms:9.3f} {spread:7.0%} {base / ms:6.2f}"
                    )
    return 0


def call(module: torch.nn.Module, x: torch.Tensor, mode: str) -> None:
    """One forward pass, or one forward and backward pass."""
    if mode == "infer":
        with torch.inference_mode():
            module(x)
    else:
        module.zero_grad()
        module(x).pow(2).mean().backward()


def main() -> int:
    """Entry point of ``scripts/bench.py``."""
    return common.run(bench)
