"""Whether parts of a data set are in it, and have no record twice between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from lineage.datasets.proving import changes_between
from lineage.datasets.sorting import Entries, counts_of, grouped, merged
from lineage.datasets.stored import Manifest, held
from lineage.digest import SIZE
from lineage.errors import FormatError, VerificationError, printable


def hold_parts(whole: Manifest, parts: Mapping[str, Sequence[Manifest]]) -> int:
    """Check that the parts of each role are in the whole, each record at most as often as there.

    Args:
        whole: The data set's.
        parts: By role: one wrote a record and another labelled it, but no two wrote it.

    Returns:
        How many records of the whole are in no part.

    Raises:
        FormatError: If some are private and others not.
        VerificationError: If a record is not there, or claimed more often than it is.
    """
    every = list(chain.from_iterable(parts.values()))
    for part in every:
        if part.header.hidden != whole.header.hidden:
            raise FormatError("one manifest is private and the other is not", file=part.path)
    with held(whole, *every):
        together = [merged([part.entries for part in each]) for each in parts.values()]
        for role, entries in zip(parts, together, strict=True):
            _hold(whole, entries, role)
    return whole.head.records - _covered(together)


def _hold(whole: Manifest, entries: Entries, role: str) -> None:
    changes = changes_between(entries, whole.entries)
    over = changes.part(changes.before > changes.after)
    unknown = int((over.after == 0).sum())
    by = f"of the parts of role '{printable(role)}'"
    if unknown:
        raise VerificationError(f"{unknown} distinct records {by} are not in the data set")
    if len(over):
        raise VerificationError(
            f"{len(over)} distinct records {by} are claimed more often than the data set has them"
        )


def _covered(roles: list[Entries]) -> int:
    """Return how many records are in some part: each as often as the role that has it most."""
    every = np.concatenate(roles) if roles else np.zeros((0, SIZE + 8), np.uint8)
    if not len(every):
        return 0
    order, starts = grouped(every[:, :SIZE])
    return int(np.maximum.reduceat(counts_of(every)[order], starts).astype(object).sum())
