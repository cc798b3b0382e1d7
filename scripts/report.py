"""Write a study's report again: ``python scripts/report.py studies/bio_plausibility_cartpole``."""

from spiky_rl.cli.report import main

if __name__ == "__main__":
    raise SystemExit(main())
