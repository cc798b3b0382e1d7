"""Show a trained robot and its spikes: ``python scripts/demo.py``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.demo import demo

if __name__ == "__main__":
    raise SystemExit(run(demo))
