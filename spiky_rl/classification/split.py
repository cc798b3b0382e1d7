"""Which recordings are learned from, which of them choose the epoch, and which are tested on once, at the end."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiky_rl.config.registry import UserError, suggest_name
from spiky_rl.config.safe_loading import read_regular
from spiky_rl.datasets.base import PARTS, Recording

TESTED, VALIDATED = 0.2, 0.1
"""Parts that are drawn where a dataset has none of its own: to test on, and of the rest, to choose by."""


@dataclass(frozen=True)
class Split:
    """Indices, ascending; no recording stands in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def digest(self) -> str:
        """Hash of all three."""
        held = hashlib.sha256()
        for indices in (self.train, self.validation, self.test):
            held.update(np.asarray([len(indices), *indices], np.int64).tobytes())
        return held.hexdigest()[:16]

    def get_parts(self, count: int) -> list[str]:
        """The part of the split that each of ``count`` recordings belongs to; empty for one that is left out."""
        names = [""] * count
        for part in PARTS:
            for index in getattr(self, part):
                names[index] = part
        return names


def split(
    labels: np.ndarray, parts: Sequence[str], hold_out: int | None, validation: int | None, seed: int
) -> Split:
    """The dataset's own split, where it has one, else drawn by ``seed``, of every class its share.

    Args:
        labels: [recordings].
        parts: [recordings], what the dataset says that each is.
        hold_out: Recordings to test on, drawn from the training set; an official test set is then left alone. None: the official
            test set, else a fifth.
        validation: Recordings of the training set to choose the epoch by; 0: none. None: the official validation set, else a tenth.
        seed: Draws.

    Raises:
        UserError: Nothing would be left to learn from.
    """
    of = {part: np.array([own == part for own in parts], bool) for part in PARTS}
    train, test, chosen = of["train"], of["test"], of["validation"]
    if hold_out is not None or not test.any():
        test = draw_part(
            labels, train, round(TESTED * train.sum()) if hold_out is None else hold_out, [seed], "--hold_out"
        )
        train = train & ~test
    if validation is not None or not chosen.any():
        count = round(VALIDATED * train.sum()) if validation is None else validation
        chosen = (
            draw_part(labels, train, count, [seed, 1], "--validation")
            if count
            else np.zeros(len(labels), bool)
        )
        train = train & ~chosen
    return Split(*(np.flatnonzero(mask) for mask in (train, chosen, test)))


def draw_part(codes: np.ndarray, among: np.ndarray, count: int, seed: Sequence[int], flag: str) -> np.ndarray:
    """Mark ``count`` recordings among the marked ones, of every code as large a part as of all, give or take one.

    Raises UserError, which names ``flag``, where that is none of them, or all.
    """
    total = int(among.sum())
    if not 0 < count < total:
        raise UserError(
            f"{flag} {count}: must be between 1 and {total - 1}, one less than the recordings to draw from"
        )
    generator = np.random.default_rng(seed[0] if len(seed) == 1 else seed)
    members = [np.flatnonzero(among & (codes == code)) for code in np.unique(codes[among])]
    exact = np.array([count * len(m) / total for m in members])
    quota = np.floor(exact).astype(int)
    # the largest remainders get what rounding down left over
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(codes), bool)
    for of_code, share in zip(members, quota, strict=True):
        chosen[generator.permutation(of_code)[:share]] = True
    return chosen


def select_subset(recordings: Sequence[Recording], count: int | None, ids: Path | None) -> list[Recording]:
    """The recordings that ``ids`` lists, and of them ``count``, of every class and part its share: for everyone the same.

    Raises UserError for a count that there is not, and for a list that does not fit.
    """
    chosen = list(recordings) if ids is None else read_id_list(recordings, ids)
    if count is None or count == len(chosen):
        return chosen
    groups = {key: i for i, key in enumerate(sorted({(r.part, r.label) for r in chosen}))}
    codes = np.array([groups[r.part, r.label] for r in chosen])
    if count > len(chosen):
        raise UserError(f"--recordings {count}: there are {len(chosen)}")
    marked = draw_part(codes, np.ones(len(chosen), bool), count, [0], "--recordings")
    return [chosen[i] for i in np.flatnonzero(marked)]


def read_id_list(recordings: Sequence[Recording], ids: Path) -> list[Recording]:
    """The recordings whose names stand in a file, one a line, or in its column ``recording``; a column ``part`` is their split.

    A name may be its last part alone, where only one recording has that. Raises UserError that names file and line.
    """
    try:
        rows = [
            row
            for row in csv.reader(read_regular(ids).decode("utf-8-sig").splitlines())
            if row and row[0][:1] != "#"
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"--ids {str(ids)!r}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    header = (
        [cell.strip() for cell in rows.pop(0)]
        if rows and rows[0][0].strip() == "recording"
        else ["recording"]
    )
    by_name = {r.name: r for r in recordings}
    last = Counter(name.rpartition("/")[2] for name in by_name)
    by_name |= {
        name.rpartition("/")[2]: r for name, r in list(by_name.items()) if last[name.rpartition("/")[2]] == 1
    }
    chosen: dict[str, Recording] = {}
    for row in rows:
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        name, part = cells["recording"], cells.get("part")
        if name not in by_name:
            raise UserError(
                f"--ids {str(ids)!r}: there is no recording {name!r}{suggest_name(name, by_name)}"
            )
        if part == "":  # left alone by the run that wrote the list
            continue
        if part is not None and part not in PARTS:
            raise UserError(f"--ids {str(ids)!r}: {name!r}: part {part!r} is none of {', '.join(PARTS)}")
        own = by_name[name]
        chosen[own.name] = own if part is None else replace(own, part=part)
    if not chosen:
        raise UserError(f"--ids {str(ids)!r}: lists no recording")
    order = {r.name: i for i, r in enumerate(recordings)}
    return sorted(chosen.values(), key=lambda r: order[r.name])
