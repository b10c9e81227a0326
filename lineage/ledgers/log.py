"""The log itself: appending, finding and proving, written once for every store.

A store is never believed. The head must carry the log's signature; it must add to every head seen
before; and what is read under it must hash to it before anything new is signed on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from lineage import merkle
from lineage.errors import LedgerError, ReceiptError, StaleHeadError
from lineage.ledgers import tiles
from lineage.ledgers.base import LogStore
from lineage.ledgers.checkpoint import Checkpoint, check_origin, open_checkpoint
from lineage.ledgers.receipt import Receipt
from lineage.ledgers.sqlite import SqliteStore
from lineage.signing import Ed25519Key, PublicKey

MAX_TRIES = 1000
"""Each failed try means that another writer succeeded, so this many is not a busy log but a bug."""


@final
class Ledger:
    """An append-only log of byte strings.

    Args:
        store: Where it is kept.
        key: The log's key: private to append, public to read.
        origin: The log's name; by default the one the store was made for. Give it where the store
            is not your own.

    Raises:
        ReceiptError: If the head is another log's or another key's.
    """

    def __init__(
        self, store: LogStore, key: Ed25519Key | PublicKey, origin: str | None = None
    ) -> None:
        self._store = store
        self._signer = key if isinstance(key, Ed25519Key) else None
        self._key = key.public if isinstance(key, Ed25519Key) else key
        self.origin = store.info().origin if origin is None else origin
        self._note = store.head()
        self._head = open_checkpoint(self._note, self._key, self.origin)
        self._tree = tiles.Tree(store.read, self._head.size)
        self._index: dict[bytes, int] = {}  # leaf hash to index, of the first `_indexed` leaves
        self._indexed = 0

    @classmethod
    def create(cls, path: Path | str, key: Ed25519Key, origin: str) -> Ledger:
        """Make a new, empty log in one file.

        Raises:
            FileExistsError: If there is a file already.
            FormatError: If `origin` cannot name a log.
        """
        empty = Checkpoint(check_origin(origin), 0, merkle.root([]))
        return cls(SqliteStore.create(path, origin, empty.sign(key)), key, origin)

    @classmethod
    def open(
        cls, path: Path | str, key: Ed25519Key | PublicKey, origin: str | None = None
    ) -> Ledger:
        """Open the log in a file; the private key to append, the public one to read.

        Raises:
            FileNotFoundError: If there is none.
            FormatError: If the file is not a log.
            ReceiptError: If it is another log's or another key's.
        """
        return cls(SqliteStore(path), key, origin)

    def __len__(self) -> int:
        """Return the number of entries at the newest head."""
        return self.checkpoint().size

    def checkpoint(self) -> Checkpoint:
        """Return the newest head, checked against the log's key and every head seen before."""
        self._advance()
        return self._head

    def signed_checkpoint(self) -> bytes:
        """Return the newest head as the log signed it, to be pinned by others."""
        self._advance()
        return self._note

    def append(self, entries: Sequence[bytes]) -> list[Receipt]:
        """Append every entry that is not there yet; all or none, in one head.

        An entry that is there keeps its index, however often and by whom it is appended.

        Args:
            entries: At most 65,535 bytes each.

        Returns:
            A receipt for each entry, in the given order, all under one head.

        Raises:
            LedgerError: If the log is open for reading only or an entry is too long.
        """
        if self._signer is None:
            raise LedgerError("the log is open for reading: appending needs its private key")
        limit = self._store.info().max_entry_bytes
        for entry in entries:
            if len(entry) > limit:
                raise LedgerError(f"an entry of {len(entry)} bytes; the log takes {limit}")
        by_leaf = {merkle.leaf_hash(entry): entry for entry in entries}
        for _ in range(MAX_TRIES):
            self._advance()
            self._read_leaves()
            new = [entry for leaf, entry in by_leaf.items() if leaf not in self._index]
            if not new:
                break
            try:
                self._write(self._signer, new)
            except StaleHeadError:
                continue
        else:
            raise StaleHeadError(f"other writers were faster {MAX_TRIES} times")
        return [self._receipt(self._index[merkle.leaf_hash(entry)]) for entry in entries]

    def get(self, index: int) -> bytes:
        """Return entry `index`, checked against the head.

        Raises:
            LedgerError: If there is none.
        """
        self._require(index)
        number, at = divmod(index, tiles.WIDTH)
        entry = self._tree.bundle(number)[at]
        self._prove(merkle.leaf_hash(entry), index)
        return entry

    def __iter__(self) -> Iterator[bytes]:
        """Return the entries of the head at hand in order, a bundle in memory at a time."""
        tree = self._tree
        for number in range(-(-tree.size // tiles.WIDTH)):
            leaves = tree.tile(0, number)
            for entry, leaf in zip(tree.bundle(number), leaves, strict=True):
                if merkle.leaf_hash(entry) != leaf:
                    raise LedgerError(f"an entry of bundle {number} is not what its tile says")
                yield entry

    def find(self, leaf: bytes) -> int | None:
        """Return the index of the entry with this leaf hash, or None.

        The first call reads 32 bytes an entry; later ones only what was added.
        """
        self._advance()
        self._read_leaves()
        return self._index.get(leaf)

    def receipt(self, index: int) -> Receipt:
        """Return the proof that the newest head covers entry `index`, for use without the log.

        Raises:
            LedgerError: If there is no such entry.
        """
        self._require(index)
        return self._receipt(index)

    def consistency_proof(self, old_size: int) -> tuple[bytes, ...]:
        """Return the proof that the newest head adds to the log's first `old_size` entries.

        Raises:
            LedgerError: If the log has fewer.
        """
        self._advance()
        return self._consistency(self._tree, old_size)

    def check_since(self, pinned: Checkpoint) -> Checkpoint:
        """Check that the newest head adds to one that was pinned before, and return it.

        Raises:
            ReceiptError: If the log has forgotten or rewritten something since.
        """
        head = self.checkpoint()
        if pinned.origin != self.origin or pinned.size > head.size:
            raise ReceiptError(
                f"the log '{self.origin}' has {head.size} entries; "
                f"the pinned head is of '{pinned.origin}' with {pinned.size}"
            )
        proof = self._consistency(self._tree, pinned.size)
        merkle.verify_consistency(pinned.size, pinned.root, head.size, head.root, proof)
        return head

    def audit(self) -> Checkpoint:
        """Read the whole log, recompute every hash from the entries, and return the head.

        Raises:
            LedgerError: If entries or tiles are missing, damaged or do not match.
            ReceiptError: If they do not hash to the signed root.
        """
        self._advance()
        leaves = [merkle.leaf_hash(entry) for entry in self]
        if merkle.root(leaves) != self._head.root:
            raise ReceiptError("the entries do not hash to the root that the log signed")
        level, row = 1, leaves
        while row := [
            merkle.root(row[at : at + tiles.WIDTH])
            for at in range(0, len(row) - tiles.WIDTH + 1, tiles.WIDTH)
        ]:
            for at in range(0, len(row), tiles.WIDTH):
                if self._tree.tile(level, at // tiles.WIDTH) != row[at : at + tiles.WIDTH]:
                    raise LedgerError(f"tile {at // tiles.WIDTH} of level {level} is wrong")
            level += 1
        return self._head

    def _advance(self) -> None:
        """Take the store's head, which must add to the one at hand."""
        note = self._store.head()
        if note == self._note:
            return
        head = open_checkpoint(note, self._key, self.origin)
        if head.size < self._head.size:
            raise ReceiptError(
                f"the log went back from {self._head.size} entries to {head.size} entries"
            )
        tree = tiles.Tree(self._store.read, head.size)
        proof = self._consistency(tree, self._head.size)
        merkle.verify_consistency(self._head.size, self._head.root, head.size, head.root, proof)
        self._note, self._head, self._tree = note, head, tree

    def _write(self, signer: Ed25519Key, entries: Sequence[bytes]) -> None:
        """Append `entries` on top of the head at hand, or raise StaleHeadError."""
        # A log must never sign what contradicts its older heads, so the tiles to build on are
        # checked against the signed root first: a damaged store stops the log, not its honesty.
        if self._tree.root() != self._head.root:
            raise LedgerError("the stored tiles do not hash to the signed root: the log is damaged")
        puts = self._tree.grow(entries)
        size = self._head.size + len(entries)
        grown = tiles.Tree(lambda name: puts.get(name) or self._store.read(name), size)
        note = Checkpoint(self.origin, size, grown.root()).sign(signer)
        self._store.commit(self._head.size, size, puts, note)

    def _read_leaves(self) -> None:
        """Bring the index of leaf hashes up to the head at hand."""
        size = self._head.size
        for number in range(self._indexed // tiles.WIDTH, -(-size // tiles.WIDTH)):
            for at, leaf in enumerate(self._tree.tile(0, number), start=number * tiles.WIDTH):
                self._index.setdefault(leaf, at)  # the first, should another program write two
        self._indexed = size

    def _receipt(self, index: int) -> Receipt:
        leaf = self._tree.tile(0, index // tiles.WIDTH)[index % tiles.WIDTH]
        return Receipt(index, self._prove(leaf, index), self._note)

    def _prove(self, leaf: bytes, index: int) -> tuple[bytes, ...]:
        """Return the inclusion proof of `leaf` under the head at hand, after checking it."""
        ranges = merkle.inclusion_ranges(index, self._head.size)
        proof = tuple(self._tree.root(low, high) for low, high in ranges)
        merkle.verify_inclusion(leaf, index, self._head.size, proof, self._head.root)
        return proof

    def _consistency(self, tree: tiles.Tree, old_size: int) -> tuple[bytes, ...]:
        if not 0 <= old_size <= tree.size:
            raise LedgerError(f"the log has {tree.size} entries, not {old_size}")
        ranges = merkle.consistency_ranges(old_size, tree.size)
        return tuple(tree.root(low, high) for low, high in ranges)

    def _require(self, index: int) -> None:
        self._advance()
        if not 0 <= index < self._head.size:
            raise LedgerError(f"there is no entry {index} in a log of {self._head.size}")
