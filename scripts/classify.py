"""Train a classifier: ``python scripts/classify.py --dataset nmnist --agent lif_conv_classifier``."""

if __name__ == "__main__":
    try:
        from spiky_rl.cli.classify import classify
        from spiky_rl.cli.common import run
    except KeyboardInterrupt:  # during the imports
        raise SystemExit(130) from None
    raise SystemExit(run(classify))
