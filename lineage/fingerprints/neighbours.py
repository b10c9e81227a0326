"""Tensors that lie next to each other, looked at in one call of the compiled loops.

What a call costs, and what two threads cost each other when they take the interpreter in turns, is
more than the work on a small tensor, and some of that on a large one. So what is known of them is
kept in columns, a list for each thing that is known.
"""

from __future__ import annotations

from array import array
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from blake3 import blake3

from lineage.artifacts.base import BLOCKS
from lineage.artifacts.columns import made
from lineage.fingerprints.base import TensorPrint
from lineage.fingerprints.identity import STEP, head
from lineage.fingerprints.kernel import KINDS, compiled
from lineage.fingerprints.lattice import LOOKED_ROWS, NO_LATTICE, lattice
from lineage.fingerprints.narrowing import TRIED
from lineage.fingerprints.pieces import PIECE, SMALL
from lineage.fingerprints.sketch import SIDE, Layout, Sketch, sign_bits

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from lineage.artifacts import Item
    from lineage.fingerprints.pieces import Room

_KINDS = {dtype: KINDS[dtype] for dtype in ("F32", "BF16", "F16", "I8", "U8", "F8_E4M3", "F8_E5M2")}
"""What is looked at here, and its number in the compiled loops."""

_TRIED = bytes(
    sum(1 << KINDS[to] for to in TRIED.get(dtype, ()) if dtype in _KINDS)
    for dtype in sorted(KINDS.keys() - BLOCKS.keys(), key=KINDS.__getitem__)
)
"""For each of the loops' plain dtypes a bit for each that may hold the same values in less."""

_LOOKED = 4 * PIECE
"""Bytes at the beginning of a tensor in which the compiled loops look for levels."""


class _Seen(NamedTuple):
    """What is seen of tensors, a value of each.

    Attributes:
        held: A bit for each dtype that may hold the same values in less; others do not.
        looks: Whether it is worth looking for a lattice.
        left_out: As `Sketcher.left_out`.
        sketches: None where none was asked for.
    """

    held: bytes
    looks: bytes
    left_out: list[int]
    sketches: list[Sketch] | None


def plain(items: Iterable[Item], rounded: Container[str]) -> list[Item]:
    """Return those of some tensors that can be looked at, as far as they are what is stored.

    Args:
        items: The tensors.
        rounded: Dtypes of which digests of narrower copies are kept: of large tensors these are
            hashed piece by piece beside their own.
    """
    if compiled is None:
        return []
    some = [item for item in items if item.dtype in _KINDS and item.size_bytes]
    return [item for item in some if item.size_bytes <= SMALL or item.dtype not in rounded]


def prints(
    items: Sequence[Item],
    starts: Sequence[int],
    data: memoryview,
    room: Room,
    every: int,
) -> tuple[list[TensorPrint], bytes]:
    """Look at whole tensors that are plain, some at a time, and hash these while they are near.

    It is one call: two threads cost each other much when they take the interpreter in turns, and
    least where nothing else is done in between.

    A large one that a narrower dtype may hold is left out, to be hashed in both piece by piece.

    Args:
        items: The tensors.
        starts: Where each begins in `data`.
        data: Their raw values.
        room: Memory of the thread.
        every: Of so many blocks of rows one is sketched; 0 for no sketches.

    Returns:
        What is known of each as far as narrower dtypes have no part in it, without a digest where
        it was left out, and what `dtypes_of` takes to say which may.
    """
    names, dtypes, shapes, sizes = (
        [*map(attrgetter(a), items)] for a in ("name", "dtype", "shape", "size_bytes")
    )
    kinds = map(_KINDS.__getitem__, dtypes)
    firsts = [shape[0] if len(shape) > 1 else 0 for shape in shapes]
    table = array("q", chain.from_iterable(zip(starts, sizes, kinds, firsts, strict=True)))
    heads = tuple(map(head, dtypes, shapes, sizes))
    given = blake3(), heads, data, table, room.read[:STEP]
    digests, seen = _looked(given, shapes, sizes, every)
    lattices = [NO_LATTICE] * len(items)
    for at, is_possible in enumerate(seen.looks):
        if is_possible and not seen.left_out[at]:
            with data[starts[at] : starts[at] + min(sizes[at], _LOOKED)] as first:
                layout = Layout.of(shapes[at])
                lattices[at] = lattice(first, layout, dtypes[at], has_steps=True)
    known = names, dtypes, shapes, digests, digests, ()
    return made(TensorPrint, *known, seen.sketches, seen.left_out, lattices, ()), seen.held


def _looked(
    given: tuple[Any, ...], shapes: Sequence[tuple[int, ...]], sizes: Sequence[int], every: int
) -> tuple[list[bytes], _Seen]:
    """Hash and look at tensors of which `given` has what the compiled loops take first."""
    if not every:
        digests, held = compiled.hash_each(*given, _TRIED)
        count = len(shapes)
        return digests, _Seen(held, bytes(count), [0] * count, None)
    layouts = [Layout.of(shape) for shape, size in zip(shapes, sizes, strict=True) if size > SMALL]
    most = max(SMALL // SIDE, *(max(one.rows // one.side, one.cols // SIDE) for one in layouts), 0)
    signs = sign_bits(most + 8)  # as `Sketcher` takes
    found = compiled.many(*given, _TRIED, every, LOOKED_ROWS, signs)
    digests, held, looks, left_out, *columns = found
    return digests, _Seen(held, looks, left_out, made(Sketch, *columns))


def dtypes_of(item: Item, held: int) -> tuple[str, ...]:
    """Return what may hold a tensor's values in less, from what `prints` says of it."""
    return tuple(to for to in TRIED.get(item.dtype, ()) if held >> KINDS[to] & 1)
