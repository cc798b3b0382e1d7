"""Compare agents on tasks over seeds: ``python scripts/compare.py --agents lif_ppo,mlp_ppo --tasks Isaac-Cartpole``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.compare import compare

if __name__ == "__main__":
    raise SystemExit(run(compare))
