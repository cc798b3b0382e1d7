"""Add a run's policy to policies/: ``python scripts/publish.py logs/rsl_rl/ant/2026-11-29_06-08-52``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.publish import publish

if __name__ == "__main__":
    raise SystemExit(run(publish))
