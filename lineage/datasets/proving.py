"""Makes proofs from saved manifests; `lineage.manifests` checks them without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lineage.datasets.sorting import Entries, counts_of, grouped
from lineage.datasets.stored import Manifest, halves, held, set_hash
from lineage.digest import SIZE
from lineage.errors import FormatError, VerificationError, printable
from lineage.manifests import opened, proofs
from lineage.manifests.opened import ADDED, NODE, SHARED, Leaf, encode
from lineage.manifests.records import hidden_digest, salt_of
from lineage.manifests.tree import BUCKET, bit

PART = 1 << 18
"""About how many entries of two manifests are compared at once."""


def prove_record(manifest: Manifest, digest: bytes, secret: bytes | None = None) -> bytes:
    """Return the proof that a record is in a data set, or that it is not, whichever is true.

    Args:
        manifest: The data set's.
        digest: The record's digest.
        secret: What hides the records of a private manifest.

    Raises:
        FormatError: If the manifest is private and no secret is given, or the other way round; or
            if the record is not in a private one, where absence cannot be proven.
    """
    if manifest.header.hidden != (secret is not None):
        what = "is private: the secret is needed" if secret is None else "is not private"
        raise FormatError(f"the manifest {what}", file=manifest.path)
    salt = None if secret is None else salt_of(secret, digest)
    inside = digest if salt is None else hidden_digest(salt, digest)
    with held(manifest):
        tree = _opened(manifest.entries, [inside], 0)
    if salt is not None and not any(leaf.digest == inside for leaf in opened.read(tree).leaves):
        reason = "the record is not there under this secret; a private manifest proves no absence"
        raise FormatError(reason, file=manifest.path)
    return proofs.of_record(manifest.head, digest, tree, salt)


def prove_file(manifest: Manifest, name: str) -> bytes:
    """Return the proof that a file is in a data set.

    Raises:
        FormatError: If there is none of this name.
    """
    for index, row in enumerate(manifest.rows):
        if row["name"] == name:
            return proofs.of_file(index, manifest.file_leaves(), row)
    raise FormatError(f"no file of the name '{printable(name)}'", file=manifest.path)


def prove_change(old: Manifest, new: Manifest) -> tuple[str, bytes]:
    """Return how one data set became another, every changed record in the open.

    Returns:
        `removal`, `append` or `change`, and the proof. Of equal sets, an `append` of nothing.
    """
    _alike(old, new)
    with held(old, new):
        changes = changes_between(old.entries, new.entries)
        tree = _Opener(is_subset=False).both(old.entries, new.entries, changes)
    if (changes.after > changes.before).all():
        kind = "append"
    elif (changes.after < changes.before).all():
        kind = "removal"
    else:
        kind = "change"
    return kind, proofs.of_two(kind, old.head, new.head, tree)


def prove_subset(old: Manifest, new: Manifest) -> bytes:
    """Return the proof that every record of `old` is in `new`, at least as often.

    Raises:
        VerificationError: If one is not.
    """
    _alike(old, new)
    with held(old, new):
        changes = changes_between(old.entries, new.entries)
        lost = int((changes.before > changes.after).sum())
        if lost:
            reason = f"no subset: {lost} distinct records are missing there, or fewer"
            raise VerificationError(reason)
        tree = _Opener(is_subset=True).both(old.entries, new.entries, changes)
    return proofs.of_two("subset", old.head, new.head, tree)


def _alike(old: Manifest, new: Manifest) -> None:
    if old.header.hidden != new.header.hidden:
        raise FormatError("one manifest is private and the other is not", file=new.path)


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """Digests of two data sets with their counts in both, in digest order.

    Args:
        digests: [n, 32].
        before: How often the older has each.
        after: How often the newer has it.
    """

    digests: npt.NDArray[np.uint8]
    before: npt.NDArray[np.uint64]
    after: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.digests)

    def part(self, rows: slice | npt.NDArray[np.bool_]) -> Compared:
        """Return some of them."""
        return Compared(self.digests[rows], self.before[rows], self.after[rows])

    def halves(self, depth: int) -> tuple[Compared, Compared]:
        """Cut where bit `depth` of the digest turns from 0 to 1."""
        low = len(halves(self.digests, depth)[0])
        return self.part(slice(low)), self.part(slice(low, None))


def changes_between(old: Entries, new: Entries) -> Compared:
    """Return the digests whose counts differ."""
    return _joined(_compared(old, new, 0, is_same=False))


def shared_by(old: Entries, new: Entries) -> Compared:
    """Return the digests that are in both."""
    return _joined(_compared(old, new, 0, is_same=True))


def _joined(parts: list[Compared]) -> Compared:
    if not parts:
        nothing = np.zeros(0, np.uint64)
        return Compared(np.zeros((0, SIZE), np.uint8), nothing, nothing)
    return Compared(
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.before for part in parts]),
        np.concatenate([part.after for part in parts]),
    )


def _compared(old: Entries, new: Entries, depth: int, *, is_same: bool | None) -> list[Compared]:
    """Return digests that are in both, or whose counts differ, or all, part by part."""
    if len(old) + len(new) > PART and depth < 64:
        pairs = zip(halves(old, depth), halves(new, depth), strict=True)
        return [part for a, b in pairs for part in _compared(a, b, depth + 1, is_same=is_same)]
    if not len(old) + len(new):
        return []
    rows = np.concatenate([old[:, :SIZE], new[:, :SIZE]])
    order, starts = grouped(rows)
    nothing = [np.zeros(len(part), np.uint64) for part in (old, new)]
    before = np.add.reduceat(np.concatenate([counts_of(old), nothing[1]])[order], starts)
    after = np.add.reduceat(np.concatenate([nothing[0], counts_of(new)])[order], starts)
    wanted = np.ones(len(before), bool)
    if is_same is not None:
        wanted = (before > 0) & (after > 0) if is_same else before != after
    return [Compared(rows[order[starts[wanted]]], before[wanted], after[wanted])]


def _opened(entries: Entries, digests: Sequence[bytes], depth: int) -> bytes:
    """Open one tree along the paths of digests."""
    if len(entries) and not digests:
        return bytes([SHARED]) + set_hash(entries, depth)
    if len(entries) <= BUCKET:
        return _shown(entries, entries)
    sides = halves(entries, depth)
    parts = [_opened(e, _side(digests, depth, n), depth + 1) for n, e in enumerate(sides)]
    return bytes([NODE]) + parts[0] + parts[1]


def _side(digests: Sequence[bytes], depth: int, wanted: int) -> list[bytes]:
    return [digest for digest in digests if bit(digest, depth) == wanted]


def _shown(old: Entries, new: Entries) -> bytes:
    """Return the step that shows all entries of both."""
    whole = _joined(_compared(old, new, 0, is_same=None))
    return encode(
        [
            Leaf(digest.tobytes(), int(before), int(after))
            for digest, before, after in zip(whole.digests, whole.before, whole.after, strict=True)
        ]
    )


@final
@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens two trees at once where they differ.

    Args:
        is_subset: Whether what is in the newer alone may stay shut.
    """

    is_subset: bool

    def both(
        self,
        old: Entries,
        new: Entries,
        changes: Compared,
        depth: int = 0,
        *,
        must_show: bool = False,
    ) -> bytes:
        """Return the steps from `depth` on.

        Args:
            old: The older's entries here.
            new: The newer's.
            changes: The digests here whose counts differ.
            depth: Bits that all have in common.
            must_show: Whether one side was few enough further up, and is hashed there.
        """
        if self.is_subset and not len(old) and len(new):
            return bytes([ADDED]) + set_hash(new, depth)
        few = (len(old) <= BUCKET, len(new) <= BUCKET)
        if all(few) and (len(changes) or must_show or not len(old)):
            return _shown(old, new)
        if not len(changes):
            return bytes([SHARED]) + set_hash(old, depth)
        must_show = must_show or any(few)
        sides = zip(halves(old, depth), halves(new, depth), changes.halves(depth), strict=True)
        low, high = (self.both(a, b, c, depth + 1, must_show=must_show) for a, b, c in sides)
        return bytes([NODE]) + low + high
