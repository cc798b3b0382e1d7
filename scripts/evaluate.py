"""Evaluate a trained policy under conditions: ``python scripts/evaluate.py --task Isaac-Ant --agent lif_ppo``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.evaluate import evaluate

if __name__ == "__main__":
    raise SystemExit(run(evaluate))
