"""Time a spiking network beside a plain loop and an MLP: ``python scripts/bench.py``."""

from spiky_rl.cli.bench import main

if __name__ == "__main__":
    raise SystemExit(main())
