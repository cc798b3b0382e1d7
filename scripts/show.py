"""List components, agents and tasks: ``python scripts/show.py agents`` or ``python scripts/show.py agents lif_ppo --task Isaac-Ant``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.show import show

if __name__ == "__main__":
    raise SystemExit(run(show))
