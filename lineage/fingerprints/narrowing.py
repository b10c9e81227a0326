"""What a tensor would be in a narrower dtype: its digest, and whether that loses anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.artifacts.base import BITS
from lineage.fingerprints.identity import ContentHasher
from lineage.fingerprints.kernel import KINDS, NARROWED, compiled

if TYPE_CHECKING:
    from lineage.artifacts import Item

NARROW = ("F8_E5M2", "F8_E4M3", "BF16", "F16", "F32")
"""The floats that are tried in place of wider ones, in order: the first that holds every value of a
tensor gives its value digest."""

TRIED = {
    "F64": NARROW, "F32": NARROW[:4], "F16": NARROW[:3], "BF16": NARROW[:2],
    "F8_E4M3": NARROW[:1],
    "F8_E8M0": NARROW[:3], "F8_E5M2FNUZ": NARROW[:3], "F8_E4M3FNUZ": NARROW[:3],
}  # fmt: skip
"""For each dtype those that may hold the same values in less, or in a more common dtype."""

ROUNDED = {"F64": ("BF16", "F16", "F32"), "F32": ("BF16", "F16"), "F16": ("BF16",)}
"""The casts that people make, whose digests are kept although they lose something."""

LOOK = 8192
"""Bytes looked at first, where only an exact result is wanted: most tensors need no more."""


class Narrower:
    """Hashes a tensor in one narrower dtype while its pieces come by."""

    def __init__(self, item: Item, to: str, *, keeps_rounded: bool) -> None:
        self.to = to
        self.exact = True
        self.is_rounded = keeps_rounded and to in ROUNDED.get(item.dtype, ())
        self._dtype = item.dtype
        self._ratio = BITS[item.dtype], BITS[to]
        self._hash: ContentHasher | None = None
        self._shape = item.shape

    @property
    def is_wanted(self) -> bool:
        """Whether more pieces can change anything."""
        return self.exact or self.is_rounded

    def update(self, piece: memoryview, out: memoryview) -> None:
        """Add the next raw values; `out` has room for as many bytes."""
        if not self.is_wanted:
            return
        survived = narrow(piece, self._dtype, self.to, out, only_exact=not self.is_rounded)
        self.exact = self.exact and survived
        if self.exact or self.is_rounded:
            if self._hash is None:
                self._hash = ContentHasher(self.to, self._shape)
            stored, narrowed = self._ratio
            self._hash.update(out[: len(piece) * narrowed // stored], is_near=True)

    def digest(self) -> bytes:
        """Return the content digest of the narrowed tensor."""
        return (self._hash or ContentHasher(self.to, self._shape)).digest()


def narrow(piece: memoryview, dtype: str, to: str, out: memoryview, *, only_exact: bool) -> bool:
    """Round a piece to a narrower dtype, to nearest, ties to even.

    Args:
        piece: Raw little-endian values.
        dtype: What they are.
        to: One of `NARROW`.
        out: Where the rounded values go.
        only_exact: Stop, with `out` half written, as soon as a value does not survive.

    Returns:
        Whether every value survived bit for bit (NaNs never do).
    """
    if compiled is not None and dtype in NARROWED and to != "F32":
        return bool(compiled.narrow(piece, KINDS[dtype], KINDS[to], out, only_exact))
    from lineage.fingerprints.values import rounded

    if only_exact and len(piece) > LOOK and not rounded(piece[:LOOK], dtype, to)[1]:
        return False
    narrowed, exact = rounded(piece, dtype, to)
    out[: len(narrowed)] = narrowed
    return exact
