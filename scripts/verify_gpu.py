"""Run all checks that need a GPU and write one page: ``python scripts/verify_gpu.py``, or with ``--dry-run`` on a CPU."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.verify_packages import main  # pylint: disable=wrong-import-position

if __name__ == "__main__":
    raise SystemExit(main())
