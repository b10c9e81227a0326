"""Whether parts of a data set are in it, and have no record twice between them."""

from __future__ import annotations

from collections.abc import Sequence

from lineage.datasets.proving import changes_between
from lineage.datasets.sorting import merged
from lineage.datasets.stored import Manifest
from lineage.errors import FormatError, VerificationError


def hold_parts(whole: Manifest, parts: Sequence[Manifest]) -> None:
    """Check that all parts together are in the whole, each record at most as often as it is there.

    Raises:
        FormatError: If some are private and others not.
        VerificationError: If a record is not there, or claimed more often than it is.
    """
    for part in parts:
        if part.header.hidden != whole.header.hidden:
            raise FormatError("one manifest is private and the other is not", file=part.path)
    together = merged([part.entries for part in parts])
    changes = changes_between(together, whole.entries)
    over = changes.part(changes.before > changes.after)
    unknown = int((over.after == 0).sum())
    if unknown:
        raise VerificationError(f"{unknown} distinct records of the parts are not in the data set")
    if len(over):
        raise VerificationError(
            f"{len(over)} distinct records are claimed more often than the data set has them"
        )
