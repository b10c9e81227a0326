"""The seam between a log and the place that keeps it: four methods, and nothing about trees.

A store holds named bytes and one head. It needs no trust: everything read from it is checked
against a head that the log's key signed. So a new backend is four methods and no cryptography.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final


@final
@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store says of itself.

    Args:
        name: What to call it in an error: a path, an address.
        origin: The origin it was made for.
        max_entry_bytes: The longest entry it takes.
    """

    name: str
    origin: str
    max_entry_bytes: int


class LogStore(Protocol):
    """Where a log's tiles, entries and head are kept."""

    def info(self) -> StoreInfo:
        """Return what the store is; the same answer for as long as the log lives."""

    def head(self) -> bytes:
        """Return the newest signed checkpoint, byte for byte as it was committed.

        Every resource that a tree of that size has can be read from now on, for good.
        """

    def read(self, name: str) -> bytes:
        """Return the resource of this C2SP tlog-tiles path.

        A partial tile or bundle is the beginning of every wider one, so it may be cut from one.

        Raises LedgerError when there is no such resource, whatever `name` is.
        """

    def commit(
        self, expected_size: int, size: int, puts: Mapping[str, bytes], checkpoint: bytes
    ) -> None:
        """Write `puts` and move the head, all or nothing, if the head's size is `expected_size`.

        When this returns, both survive a crash. When it raises, neither happened: StaleHeadError
        when another writer moved the head first, LedgerError or OSError when it could not write.
        Killed in between, it leaves the old head.
        """
