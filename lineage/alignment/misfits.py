"""What of an alignment from elsewhere cannot be of the two models that it is applied to."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.base import Alignment, ChainAlignment
from lineage.alignment.chain import Chain
from lineage.fingerprints.fused import Layout
from lineage.fingerprints.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.alignment.base import Aligned
    from lineage.alignment.head_rows import Heads


def misfits(found: Aligned, a: Stream | Chain, b: Stream | Chain) -> Iterator[str]:
    """Yield why it cannot be theirs; what comes after the first may rest on it, and fail.

    Args:
        found: An alignment.
        a: The model whose coordinates are taken.
        b: The one that is written in them.
    """
    if isinstance(found, ChainAlignment) and isinstance(a, Chain) and isinstance(b, Chain):
        return _of_chain(found, a, b)
    if isinstance(found, Alignment) and isinstance(a, Stream) and isinstance(b, Stream):
        return chain(_of_stream(found, a, b), _of_blocks(found, a, b))
    return iter(["they are made differently"])


def _of_chain(found: ChainAlignment, a: Chain, b: Chain) -> Iterator[str]:
    """Yield what of an alignment of chains is not of their sizes."""
    sizes = tuple(len(group.order) for group in found.groups)
    if not sizes == a.sizes == b.sizes:
        yield "its groups of channels have other sizes"
    if not all(np.all(np.isfinite(g.scales)) for g in found.groups if g.scales is not None):
        yield "a channel has no scale"
    if any(g.turn is not None and not _has_inverse(g.turn) for g in found.groups):
        yield "a turn has no inverse"
    if found.tokens is not None and not is_order(found.tokens, b.words):
        yield "its tokens are no order"
    gates = [p.gates for layer in b.layers for p in layer.parts.values() if p.gates > 1]
    signs = [one for g in b.recurrent if (one := found.groups[g].scales) is not None]
    if signs and gates and (found.candidate is None or not 0 <= found.candidate < min(gates)):
        yield "its candidate is no gate"
    if any(np.any(np.abs(one) != 1) for one in signs):
        yield "a unit of a recurrent layer has another scale than a sign"
    for place, before in found.before.items():
        if not (place < len(b.layers) and _has_norms(a, b, place)):
            yield f"layer {place} has no norm"
        if len(before) != b.sizes[b.layers[place].rows or 0]:
            yield f"layer {place} has other rows"
        if not np.all(np.isfinite(before) & (before != 0)):
            yield f"a row of layer {place} has no scale"


def _of_stream(found: Alignment, a: Stream, b: Stream) -> Iterator[str]:
    """Yield what an alignment says of two streams as a whole and cannot be."""
    turn = found.turn
    if turn.matrix.shape != (b.width, a.width) or not np.all(np.isfinite(turn.matrix)):
        yield "its turn has other widths"
    if turn.order is not None and len(np.unique(turn.order)) != len(turn.order):
        yield "its turn takes two coordinates to one place"
    if not (np.isfinite(found.scale) and found.scale > 0):
        yield "its scale is none"
    if [block.b for block in found.blocks] != [*b.blocks, *b.seconds]:
        yield "its blocks are others"
    tokens = b.labels().get("token_embd", 0)
    if found.tokens is not None and not is_order(found.tokens, tokens):
        yield "its tokens are no order"


def _of_blocks(found: Alignment, a: Stream, b: Stream) -> Iterator[str]:
    """Yield what an alignment says of single blocks and cannot be."""
    for block in found.blocks:
        if block.a is None:
            continue
        if block.a not in (a.seconds if block.b in b.seconds else a.blocks):
            yield f"block {block.b[1]} is said to be one that is not there"
        if block.heads is not None and (why := _misfit(block.heads, b, block.b)):
            yield f"block {block.b[1]} {why}"
        ours = {mlp.label: len(mlp.up) for mlp in a.block(*block.a).mlps}
        theirs = {mlp.label: len(mlp.up) for mlp in b.block(*block.b).mlps}
        for mlp in block.mlps:
            counts = (mlp.units.a, ours.get(mlp.a, 0)), (mlp.units.b, theirs.get(mlp.b, 0))
            if any(len(u) == 0 or u.min() < 0 or u.max() >= count for u, count in counts):
                yield f"block {block.b[1]} has units that are not there"
            scales = mlp.units.scales
            if scales is not None and not np.all(np.isfinite(scales) & (scales != 0)):
                yield f"block {block.b[1]} has a unit without a scale"


def _has_inverse(turn: NDArray[np.float64]) -> bool:
    return bool(np.all(np.isfinite(turn))) and np.linalg.matrix_rank(turn) == len(turn)


def _has_norms(a: Chain, b: Chain, place: int) -> bool:
    return all("var" in chain.layers[place].parts for chain in (a, b))


def _misfit(heads: Heads, b: Stream, where: tuple[str, int]) -> str | None:
    """Return why maps of heads cannot be those of a block; None if they can."""
    if heads.inner is None or heads.outer is None:
        return None
    layout = _layout(heads)
    if (layout is None) != (b.fused(*where) is None):
        return "has no heads that are known"
    try:
        seen = b.attention(*where, layout)
    except ValueError:
        return "has other heads"
    if seen is None:
        return "has no heads that are known"
    size, rest = divmod(len(seen.k), len(heads.inner))
    if rest or len(seen.q) != size * len(heads.outer) or len(seen.v) != len(seen.k):
        return "has other heads"
    for maps in (heads.inside, heads.values):
        if maps is not None and (maps.shape[1] != size or not np.all(np.isfinite(maps))):
            return "has maps of other heads"
    return None


def _layout(heads: Heads) -> Layout | None:
    return None if heads.way is None or heads.size is None else Layout(heads.way, heads.size)


def is_order(order: NDArray[np.intp], count: int) -> bool:
    """Whether each of so many numbers comes once."""
    return len(order) == count and bool(np.array_equal(np.sort(order), np.arange(count)))
