"""Play a trained policy: ``python scripts/play.py --task Isaac-Ant --agent lif_ppo --checkpoint latest``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.play import play

if __name__ == "__main__":
    raise SystemExit(run(play))
