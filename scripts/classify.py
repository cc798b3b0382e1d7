"""Train a classifier: ``python scripts/classify.py --dataset nmnist --agent lif_conv_classifier``."""

from spiky_rl.cli.classify import main

if __name__ == "__main__":
    raise SystemExit(main())
