"""A copy whose matrices are packed integers: many values in one, in tensors that are not read.

GPTQ, AWQ, compressed-tensors, bitsandbytes and MLX store a matrix as whole numbers of 8 or 32 bits
that hold some values of 2 to 8 bits each, beside their scales. What they stand for is not known
here; but how many values they hold is, and under which name. Where each matrix of a model has such
a counterpart in another, and all that can be read is the same, or that in fewer bits, digest for
digest, the other is that model quantized: or one that was trained in these matrices alone, as with
an adapter, of which nothing would show. So such an edge is not sure.

Sources: the layouts of AutoGPTQ (`qweight`), AutoAWQ (the same), compressed-tensors
(`weight_packed`), bitsandbytes (`weight`, a byte for two values) and MLX (`weight`, `scales`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.base import BITS
from lineage.artifacts.dialects import canonical_name
from lineage.evidence.base import Comparison, Evidence
from lineage.relation import Relation

if TYPE_CHECKING:
    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing

__all__ = ["PACKED", "hides_most", "packed_copy", "rest_of"]

PACKED = "packed-v1"
"""The detector's name."""

_HOW = {2: "int2", 3: "int3", 4: "int4", 5: "int8", 6: "int8", 8: "int8"}
"""Bits of a value -> what such a copy is called."""

_WHOLE = frozenset({"U8", "I32", "U32", "I64"})
"""Dtypes that values are packed in."""

_PACKED_WORDS = frozenset({"qweight", "weight_packed", "weight"})
"""Last words of the names of packed matrices."""

_TELLING = 16
"""Values of a vector that two strangers do not have alike."""

_MOST = 0.5
"""Share of the bits of all weights from which what is packed hides what a model is."""


def packed_copy(pairing: Pairing) -> Comparison | None:
    """Find a model whose matrices another has packed, and all of the rest as it is or rounded."""
    for forward in (True, False):
        how = _packs(pairing, forward=forward)
        if how is not None:
            child, parent = ("{b}", "{a}") if forward else ("{a}", "{b}")
            words = (
                f"{child} has a matrix of packed integers for each that it lacks of {parent}, and "
                f"all that can be read of it is {parent}'s, digest for digest"
            )
            found = Comparison(
                related=True,
                relation=Relation.QUANTIZED,
                how=how,
                direction="a->b",
                margin=1.0,
                share=1.0,
                score=1.0,
                evidence=(Evidence(PACKED, words),),
            )
            return found if forward else replace(found, direction="b->a", margin=-1.0, share=-1.0)
    return None


def hides_most(of: Table) -> bool:
    """Whether most of what a model has is packed: what can be read does not say what it is."""
    hidden = whole = 0.0
    for place in range(of.whole):
        tensor = of.tensors[place]
        bits = float(tensor.size * BITS.get(tensor.dtype, 8))
        whole += bits
        hidden += bits if _may_be_packed(of, place) else 0.0
    return hidden > _MOST * whole


def rest_of(of: Table) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the digests of what is not packed and tells models apart, and of the same rounded."""
    told = [
        of.tensors[place]
        for place in range(of.whole)
        if _tells(of, place) and not _may_be_packed(of, place) and of.usable[place]
    ]
    stored = frozenset(digest for tensor in told for digest in (tensor.value, tensor.content))
    return stored, frozenset(digest for tensor in told for _, digest in tensor.rounded)


def _may_be_packed(of: Table, place: int) -> bool:
    tensor = of.tensors[place]
    has_word = tensor.name.rpartition(".")[2] in _PACKED_WORDS
    return has_word and len(tensor.shape) > 1 and tensor.dtype in _WHOLE


def _packs(pairing: Pairing, *, forward: bool) -> str | None:
    """Return how the second of two models has the first's matrices packed, if it has them so."""
    sides = (pairing.first, pairing.a), (pairing.second, pairing.b)
    (parent, used_a), (child, used_b) = sides if forward else sides[::-1]
    packed = {
        canonical_name(child.names[place].rpartition(".")[0] + ".weight"): place
        for place in range(child.whole)
        if _may_be_packed(child, place)
    }
    if not packed:
        return None
    pairs = [
        (i, j)
        for i, j in zip(used_a, used_b, strict=True)
        if not _may_be_packed(child, j) and i < parent.whole and j < child.whole
    ]
    if not any(_tells(parent, i) for i, _ in pairs) or not all(
        _is_rounded(parent, i, child, j) for i, j in pairs
    ):
        return None
    read = {i for i, _ in pairs}
    bits: Counter[int] = Counter()
    for place in np.flatnonzero(parent.is_matrix[: parent.whole]):
        if int(place) in read:
            continue
        tensor = parent.tensors[int(place)]
        at = packed.get(parent.labels[int(place)])
        if at is None:
            return None
        held = child.tensors[at].size * BITS[child.tensors[at].dtype]
        if held % tensor.size or held // tensor.size not in _HOW:
            return None
        bits[held // tensor.size] += tensor.size
    return _HOW[bits.most_common(1)[0][0]] if bits else None


def _tells(of: Table, place: int) -> bool:
    """Whether two strangers would not have a tensor alike."""
    return bool(of.tensors[place].size >= _TELLING and not of.is_flat[place])


def _is_rounded(parent: Table, i: int, child: Table, j: int) -> bool:
    """Whether a tensor is another, or that in fewer bits, digest for digest."""
    one, other = parent.tensors[i], child.tensors[j]
    digests = {one.value, *(digest for _, digest in one.rounded)}
    return bool(digests & {other.value, other.content})
