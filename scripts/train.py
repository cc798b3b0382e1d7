"""Train an agent: ``python scripts/train.py --task Isaac-Ant --agent lif_ppo``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.train import train

if __name__ == "__main__":
    raise SystemExit(run(train))
