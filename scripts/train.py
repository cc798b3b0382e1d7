"""Train an agent: ``python scripts/train.py --task Isaac-Ant-v0 --agent lif_ppo``."""

from spiky_rl.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
