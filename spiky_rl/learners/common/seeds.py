"""Seeds that are derived from other numbers."""

from __future__ import annotations

import numpy as np


def derive_seed(*numbers: int) -> int:
    """Return a seed below 2**31 for ``numbers``, such as seed and rank; any other numbers give an unrelated one."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) % 2**31
