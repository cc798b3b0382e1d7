"""Grow a reservoir's graph: ``python scripts/grow.py --out grown.json --tournaments 200``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.grow import grow

if __name__ == "__main__":
    raise SystemExit(run(grow))
