"""Export a trained policy for other programs and chips: ``python scripts/export.py --task Isaac-Ant --agent lif_ppo --to c``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.export import export

if __name__ == "__main__":
    raise SystemExit(run(export))
