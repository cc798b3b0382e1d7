"""Tune agents with equally many trials: ``python scripts/tune.py --agents lif_ppo,mlp_ppo --tasks Isaac-Cartpole --trials 30``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.tune import tune

if __name__ == "__main__":
    raise SystemExit(run(tune))
