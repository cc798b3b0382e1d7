"""Time a spiking network, a plain loop and an MLP: ``python scripts/bench.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.start import main  # pylint: disable=wrong-import-position

if __name__ == "__main__":
    raise SystemExit(main())
