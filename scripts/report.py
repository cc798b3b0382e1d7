"""Write a study's report again: ``python scripts/report.py studies/bio_plausibility_cartpole``."""

from spiky_rl.cli.common import run
from spiky_rl.cli.report import report

if __name__ == "__main__":
    raise SystemExit(run(report))
