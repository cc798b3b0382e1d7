"""Run what waits for a GPU and write one page: ``python scripts/verify_gpu.py``, or with ``--dry-run`` on a CPU."""

from spiky_rl.cli.verify_gpu import main

if __name__ == "__main__":
    raise SystemExit(main())
