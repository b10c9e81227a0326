"""Runs of n words of some texts, each with a number, found again exactly and without hashes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

UNKNOWN = -1
"""Stands for a word or run that has no number, and between two strings."""


@final
class Index:
    """The runs of n words of some texts, numbered from 0.

    A run is a pair of shorter runs: of two as long, or of one and a word. The pairs of each step
    are kept in order, and a pair's place there is its number in the next.

    Args:
        length: How many words a run has.
        words: The words in the order of their numbers.
        pairs: The pairs of each step.
    """

    def __init__(self, length: int, words: Iterable[str], pairs: list[Numbers]) -> None:
        self.length = length
        self.numbers = {word: number for number, word in enumerate(words)}
        self.pairs = pairs

    def size(self) -> int:
        """Return how many runs there are."""
        return len(self.pairs[-1]) if self.pairs else len(self.numbers)

    def runs(self, words: Numbers) -> Numbers:
        """Return the number of the run that begins at each word, where it is known."""
        whole = words
        for (shift, is_double), known in zip(_steps(self.length), self.pairs, strict=True):
            size, at, pairs = _paired(whole, whole if is_double else words, shift)
            whole = np.full(size, UNKNOWN, np.int64)
            if len(known):
                places = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
                is_known = known[places] == pairs
                whole[at[is_known]] = places[is_known]
        return whole

    def save(self, folder: Path) -> None:
        """Write it for other processes."""
        (folder / "words").write_text("\n".join(self.numbers), encoding="utf-8")
        np.savez(folder / "pairs.npz", *self.pairs)

    @classmethod
    def load(cls, length: int, folder: Path) -> Index:
        """Read what was written."""
        words = (folder / "words").read_text(encoding="utf-8")
        with np.load(folder / "pairs.npz", allow_pickle=False) as found:
            pairs = [found[name] for name in found.files]
        return cls(length, words.split("\n") if words else (), pairs)


def index_of(length: int, numbers: dict[str, int], words: Numbers) -> Index:
    """Return the index of all runs of some words, given by their numbers."""
    whole = words
    pairs = []
    for shift, is_double in _steps(length):
        size, at, found = _paired(whole, whole if is_double else words, shift)
        known, places = np.unique(found, return_inverse=True)
        whole = np.full(size, UNKNOWN, np.int64)
        whole[at] = places
        pairs.append(known)
    return Index(length, numbers, pairs)


def _steps(length: int) -> list[tuple[int, bool]]:
    """Return how runs of a length are put together: the first part's words; whether to double.

    Example:
        >>> _steps(13)
        [(1, True), (2, False), (3, True), (6, True), (12, False)]
    """
    steps, whole = [], 1
    for bit in f"{length:b}"[1:]:
        steps.append((whole, True))
        whole *= 2
        if bit == "1":
            steps.append((whole, False))
            whole += 1
    return steps


def _paired(left: Numbers, right: Numbers, shift: int) -> tuple[int, npt.NDArray[np.intp], Numbers]:
    """Pair every run with the one `shift` words on.

    Returns:
        How many places there are, those where both are known, and the pairs there as one number.
    """
    right = right[shift:]
    left = left[: len(right)]
    at = np.flatnonzero((left >= 0) & (right >= 0))
    return len(right), at, left[at] << 32 | right[at]
