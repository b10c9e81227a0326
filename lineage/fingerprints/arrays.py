"""The numbers of a model's tensors, read when they are asked for."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.errors import FormatError
from lineage.fingerprints.sketch import LARGEST
from lineage.fingerprints.values import affine_of, applied, as_float32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from lineage.artifacts import Item
    from lineage.fingerprints.places import Place


class Arrays:
    """Tensors as float32, what is stored with scales as what it stands for; nothing is kept."""

    def __init__(self, items: Iterable[Item], *, are_numbers: bool = True) -> None:
        """Take some tensors.

        Args:
            items: The tensors.
            are_numbers: Whether values that are NaN, infinite or huge are refused.
        """
        self._are_numbers = are_numbers
        self.items = {item.name: item for item in items}
        self._affine = affine_of(tuple(self.items.values()))

    def whole(self, item: Item) -> NDArray[np.float32]:
        """Return all values of a tensor."""
        return self._read(item, 0, prod(item.shape)).reshape(item.shape)

    def part(self, place: Place) -> NDArray[np.float32]:
        """Return the values at a place: a vector, or a matrix of its first extent by the rest."""
        item = place.item
        if place.layer is not None:
            count = prod(place.whole)
            matrix = self._read(item, place.layer * count, count).reshape(place.whole)
            if place.axis is None:
                return matrix
            return np.take(matrix, np.arange(place.start, place.stop), axis=place.axis)
        if place.axis == 0:
            width = prod(item.shape[1:])
            found = self._read(item, place.start * width, (place.stop - place.start) * width)
            return found.reshape(-1, *item.shape[1:])
        whole = self.whole(item)
        if place.axis == 1:
            return whole[:, place.start : place.stop]
        return whole if whole.ndim < 2 else whole.reshape(whole.shape[0], -1)

    def pieces(self, place: Place, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `part`, some at a time, and read them so where they lie together."""
        item = place.item
        first, last = (place.start, place.stop) if place.axis == 0 else (0, item.shape[0])
        is_apart = place.axis == 1 or place.layer is not None
        if is_apart or len(item.shape) < 2 or _is_blocks(item):
            whole = self.part(place)
            yield from (whole[at : at + rows] for at in range(0, len(whole), rows))
            return
        width = prod(item.shape[1:])
        for at in range(first, last, rows):
            count = min(rows, last - at)
            yield self._read(item, at * width, count * width).reshape(count, width)

    def rows(self, place: Place, which: NDArray[np.intp], width: int) -> NDArray[np.float32]:
        """Return some labelled vectors of `width` numbers out of a tensor of any shape.

        Args:
            place: Of embeddings: (tokens, width), (1, places, width), or a convolution's
                (width, channels, height, width), whose pixels are the labels.
            which: The numbers of the labels.
            width: Numbers in each.
        """
        item = place.item
        if item.shape[-1] != width:
            return self.whole(item).reshape(width, -1).T[which]
        if 2 * len(which) * width >= prod(item.shape):
            return self.whole(item).reshape(-1, width)[which]
        return np.stack([self._read(item, int(n) * width, width) for n in which])

    def _read(self, item: Item, start: int, count: int) -> NDArray[np.float32]:
        """Return values `start` to `start + count`; of block types the whole is read."""
        values = prod(item.shape)
        if _is_blocks(item):
            raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
            return as_float32(raw, item.dtype).reshape(-1)[start : start + count]
        size = item.size_bytes // values
        scratch = memoryview(bytearray(count * size))
        raw = item.source.piece(start * size, count * size, scratch)
        numbers = as_float32(raw, item.dtype)
        if item.dtype == "F32":  # of others these are not the file's own bytes any more
            numbers = np.array(numbers)
        affine = self._affine.get(item.name)
        if affine is not None:
            numbers = applied(numbers, affine, item.shape, start)
        if not self._are_numbers:
            return numbers
        with np.errstate(invalid="ignore"):
            if not count or (numbers.max() <= LARGEST and numbers.min() >= -LARGEST):
                return numbers
            odd = int(np.sum(~(np.abs(numbers) <= LARGEST)))
        if odd:
            reason = f"{odd} of its values are NaN, infinite or huge, so it cannot be aligned"
            raise FormatError(reason, file=item.file, tensor=item.name)
        return numbers


def _is_blocks(item: Item) -> bool:
    """Whether values are stored in blocks, which are read as a whole."""
    return item.dtype.startswith(("Q", "IQ", "TQ", "MXFP"))
