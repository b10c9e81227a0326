"""Some of the weights themselves, for what no sketch can tell: whose each single value is."""

from __future__ import annotations

from contextlib import contextmanager
from math import prod
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.adapters import adapter_of
from lineage.adapters.applied import applied
from lineage.adapters.base import Unread
from lineage.adapters.names import slug
from lineage.artifacts import read
from lineage.evidence.pairing import ROUNDING_RMS
from lineage.fingerprints import SUFFIX, Fingerprint
from lineage.fingerprints.delta import delta_of
from lineage.fingerprints.lattice import ROUNDING
from lineage.fingerprints.values import as_float32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from lineage.adapters.base import Change
    from lineage.artifacts import Item
    from lineage.fingerprints.delta import Delta

__all__ = ["Weights", "rounding_of", "some_rows"]


class Weights:
    """The weights of some models, opened when they are asked for; nothing is kept.

    Attributes:
        sources: Name of a model -> anything `read` takes.
    """

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self.sources = dict(sources)

    @classmethod
    def of(cls, sources: Mapping[str, Any]) -> Weights:
        """Return those of models; what is a fingerprint, saved or not, has none."""
        return cls({name: source for name, source in sources.items() if not _is_print(source)})

    def without(self, names: Iterable[str]) -> Weights:
        """Return the same without those of some models."""
        left_out = set(names)
        return Weights({n: source for n, source in self.sources.items() if n not in left_out})

    def __contains__(self, name: object) -> bool:
        return name in self.sources

    @contextmanager
    def opened(self, name: str) -> Iterator[dict[str, Item]]:
        """Open a model: name of a tensor -> the tensor, of those with plain values.

        Raises:
            FormatError: If it can no longer be read, or changes meanwhile.
        """
        with read(self.sources[name]) as artifact:
            yield {item.name: item for item in artifact.items if item.dtype in ROUNDING}
            artifact.check_unchanged()

    @contextmanager
    def adapter(self, name: str) -> Iterator[dict[tuple[str, str], Change]]:
        """Open an adapter: the key of a change in its delta -> the change; of others, nothing.

        Raises:
            FormatError: As `opened`.
        """
        with read(self.sources[name]) as artifact:
            found = adapter_of(artifact, self.sources[name])
            changes = () if found is None or isinstance(found, Unread) else found.changes
            yield {(slug(change.name), change.kind): change for change in changes}
            artifact.check_unchanged()

    def applied(self, name: str, base: str) -> Delta | None:
        """Return what an adapter comes to on a base, all of it as differences.

        Returns:
            None where the weights of one of the two are not at hand, or the one does not fit.

        Raises:
            FormatError: As `opened`.
        """
        if name not in self or base not in self:
            return None
        with read(self.sources[name]) as artifact, self.opened(base) as tensors:
            found = adapter_of(artifact, self.sources[name], self.sources[base])
            if found is None or isinstance(found, Unread):
                return None
            on_base = applied(found, tensors, file=base)
            made = None if on_base is None else delta_of(on_base)
            artifact.check_unchanged()
            return made


def _is_print(source: Any) -> bool:
    if isinstance(source, str | PathLike):
        return Path(source).suffix == SUFFIX and Path(source).is_file()
    return isinstance(source, Fingerprint)


def some_rows(item: Item, rows: int, cols: int) -> NDArray[np.float32]:
    """Read rows of a tensor seen as a matrix, evenly spread: the same of all tensors of one shape.

    Args:
        item: Of a plain floating dtype, with two extents or more.
        rows: How many, at most.
        cols: How many values of each, at most: the first.

    Returns:
        float32, shape (rows, cols).
    """
    height, width = item.shape[0], prod(item.shape[1:])
    size = item.size_bytes // (height * width)
    count = min(width, cols)
    if height <= rows and count == width:
        whole = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
        return np.array(as_float32(whole, item.dtype)).reshape(height, width)
    scratch = memoryview(bytearray(count * size))
    places = np.unique(np.linspace(0, height - 1, min(height, rows)).astype(np.intp))
    found = np.empty((len(places), count), np.float32)
    for row, place in zip(found, places.tolist(), strict=True):
        row[:] = as_float32(
            item.source.piece(place * width * size, len(scratch), scratch), item.dtype
        )
    return found


def rounding_of(dtype: str) -> float:
    """Return the root mean square of what storing in a plain dtype changes, relative to a value."""
    return ROUNDING_RMS * ROUNDING[dtype]
