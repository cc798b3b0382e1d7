"""Splits of recordings into a training set, a validation set that chooses the epoch, and a test set that is used once, at the end."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiky_rl.classification.samples import Samples
from spiky_rl.config.registry import UserError, suggest_name
from spiky_rl.config.safe_loading import read_regular
from spiky_rl.datasets.base import PARTS, Recording

log = logging.getLogger(__name__)

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Share of the test set, and share of the validation set in the recordings outside the test set, for a dataset without an official split."""


@dataclass(frozen=True)
class Split:
    """Ascending indices of the recordings of each part; the parts are disjoint."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def digest(self) -> str:
        """Hash of all three parts."""
        digest = hashlib.sha256()
        for indices in (self.train, self.validation, self.test):
            digest.update(np.asarray([len(indices), *indices], np.int64).tobytes())
        return digest.hexdigest()[:16]

    def get_parts(self, count: int) -> list[str]:
        """Return the part of each of ``count`` recordings; empty for a recording that is not used."""
        names = [""] * count
        for part in PARTS:
            for index in getattr(self, part):
                names[index] = part
        return names


def split(samples: Samples, hold_out: int | None, validation: int | None, seed: int) -> Split:
    """Return the official split of ``samples``, with the test and validation sets that it lacks drawn from its training set, by class.

    A copy of a test recording is left out of the other sets, and a copy of a validation recording out of the training set.

    Args:
        hold_out: Number of test recordings to draw from the training set; the official test set is then not used. None for the official
            test set, or a fifth of the training set if there is none.
        validation: Number of validation recordings to draw from the training set; 0 for none. None for the official validation set, or
            a tenth of the training set if there is none.
        seed: Seed of the draws.

    Raises UserError if a number of recordings to draw is not available, or none would be left for training.
    """
    masks = {part: np.array([official == part for official in samples.parts], bool) for part in PARTS}
    copies = 0
    draws = (
        ("test", hold_out, TEST_SHARE, [seed], "--hold_out"),
        ("validation", validation, VALIDATION_SHARE, [seed, 1], "--validation"),
    )
    for part, count, share, seeds, flag in draws:
        if count is not None or not masks[part].any():
            count = round(share * masks["train"].sum()) if count is None else count
            masks[part] = np.zeros(len(samples), bool)
            if count or part == "test":
                masks[part] = draw_part(samples.labels, masks["train"], count, seeds, flag)
            masks["train"] &= ~masks[part]
        is_copy = np.isin(samples.digests, samples.digests[masks[part]])
        for other in PARTS[: PARTS.index(part)]:
            copies += (masks[other] & is_copy).sum()
            masks[other] &= ~is_copy
    if copies:
        log.warning("left out %d recordings that are copies of test or validation recordings", copies)
    if not masks["train"].any():
        raise UserError(
            f"--data: all {copies} other recordings are copies of test or validation recordings; none are left for training"
        )
    return Split(**{part: np.flatnonzero(mask) for part, mask in masks.items()})


def draw_part(codes: np.ndarray, among: np.ndarray, count: int, seed: Sequence[int], flag: str) -> np.ndarray:
    """Return a mask of ``count`` recordings drawn from the mask ``among``, stratified by code.

    Raises UserError, which names ``flag``, if ``count`` is 0, or not less than the recordings in ``among``.
    """
    total = int(among.sum())
    if not 0 < count < total:
        raise UserError(
            f"{flag} {count}: must be between 1 and {total - 1}, one less than the recordings to draw from"
        )
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(among & (codes == code)) for code in np.unique(codes[among])]
    exact = np.array([count * len(m) / total for m in members])
    quota = np.floor(exact).astype(int)
    # the codes with the largest remainders get one more each, until the total is right
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(codes), bool)
    for of_code, share in zip(members, quota, strict=True):
        chosen[generator.permutation(of_code)[:share]] = True
    return chosen


def select_subset(recordings: Sequence[Recording], count: int | None, ids: Path | None) -> list[Recording]:
    """Return ``count`` of the recordings that the file ``ids`` lists, stratified by class and part; None for all in both.

    The draw has a fixed seed. Raises UserError if there are fewer recordings, or the list is invalid.
    """
    chosen = list(recordings) if ids is None else read_id_list(recordings, ids)
    if count is None or count == len(chosen):
        return chosen
    groups = {key: i for i, key in enumerate(sorted({(r.part, r.label) for r in chosen}))}
    codes = np.array([groups[r.part, r.label] for r in chosen])
    if count > len(chosen):
        raise UserError(f"--recordings {count}: allowed: at most {len(chosen)}")
    marked = draw_part(codes, np.ones(len(chosen), bool), count, [0], "--recordings")
    return [chosen[i] for i in np.flatnonzero(marked)]


def read_id_list(recordings: Sequence[Recording], ids: Path) -> list[Recording]:
    """Return the recordings listed in a file: one name per line, or a CSV with a column ``recording`` and optionally ``part``.

    A name may be shortened to the text after its last slash if that is unique. Raises UserError that names the file and the recording.
    """
    where = f"--ids {str(ids)!r}"
    by_name = _index_by_name(recordings)
    chosen: dict[str, Recording] = {}
    for cells in _read_rows(ids):
        name, part = cells.get("recording", ""), cells.get("part")
        if name not in by_name:
            raise UserError(f"{where}: there is no recording {name!r}{suggest_name(name, by_name)}")
        if part == "":  # not used by the run that wrote the list
            continue
        if part is not None and part not in PARTS:
            raise UserError(f"{where}: {name!r}: unknown part {part!r}; allowed: {', '.join(PARTS)}")
        own = by_name[name]
        chosen[own.name] = own if part is None else replace(own, part=part)
    if not chosen:
        raise UserError(f"{where}: lists no recording")
    order = {r.name: i for i, r in enumerate(recordings)}
    return sorted(chosen.values(), key=lambda r: order[r.name])


def _read_rows(ids: Path) -> list[dict[str, str]]:
    """Return the rows of a list of recordings by column; without a header the only column is ``recording``. Raises UserError.

    Rows that begin with ``#`` are comments, except below a header, where they may be names.
    """
    try:
        rows = [*csv.reader(read_regular(ids).decode("utf-8-sig").splitlines())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--ids {str(ids)!r}: cannot be read: {reason}") from None
    rows = [[cell.strip() for cell in row] for row in rows if row]
    names = [row for row in rows if not row[0].startswith("#")]
    if not names or "recording" not in names[0]:
        return [{"recording": row[0]} for row in names]
    header, below = names[0], rows[rows.index(names[0]) + 1 :]
    return [dict(zip(header, row, strict=False)) for row in below]


def _index_by_name(recordings: Sequence[Recording]) -> dict[str, Recording]:
    """Return the ``recordings`` by name, and by the text after the last slash of a name where that is unique."""
    short_names = [r.name.rpartition("/")[2] for r in recordings]
    counts = Counter(short_names)
    unique = {name: r for name, r in zip(short_names, recordings, strict=True) if counts[name] == 1}
    return {r.name: r for r in recordings} | unique
