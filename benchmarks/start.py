"""``spiky bench``: times of a spiking policy, a plain loop, peers and an equal-size ANN, in one run.

The start is light: it answers before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import importlib
import sys

from spiky_rl.cli.common import announce


def main() -> int:
    """Say that times are measured, import the benchmark and run it; return its exit code."""
    kind = next(iter(sys.argv[1:2]), "")
    announce(f"timing {'networks' if kind.startswith('-') or not kind else kind}; PyTorch is imported first")
    return importlib.import_module("benchmarks.run").main()
