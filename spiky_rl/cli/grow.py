"""``spiky grow``: evolve a rule that grows the graph of a spiking reservoir."""

from __future__ import annotations

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import parse_settings
from spiky_rl.config.progress import format_count
from spiky_rl.reservoirs.growth.settings import GrowRequest


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    return common.Parser(
        "grow",
        "Evolve a graph for a spiking reservoir; Ctrl-C stops, the best graph is saved.",
        GrowRequest,
    )


def grow(argv: list[str]) -> int:
    """Evolve a graph and write the best one."""
    request = parse_settings(GrowRequest, build_parser().parse(argv)).with_drawn_seed()
    common.announce(f"evolving a graph for {request.task} into {request.out}")
    request.check_request()

    from spiky_rl.reservoirs.growth.evolution import evolve_graph

    best = evolve_graph(request, ProgressBar)
    edges = int(best.cells.adjacency.sum())
    print(
        f"{request.out}: {format_count(best.cells.size, 'node')}, {format_count(edges, 'edge')}, seed {request.seed}"
    )
    return 0
