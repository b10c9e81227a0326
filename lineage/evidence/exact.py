"""What digests decide, copies, casts and rounded copies; and copies that were laid out anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import is_no_weight
from lineage.evidence.base import Comparison, Evidence
from lineage.evidence.matching import COUNTS
from lineage.evidence.pairing import SAME_WITHIN
from lineage.relation import Relation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing
    from lineage.fingerprints import Fingerprint, TensorPrint

_UNDERFLOW = 2.0**-25
"""The most that half precision changes a value too small for its normal range: half its step."""

_SPELLED = {"BF16": "bf16", "F16": "fp16"}


def identical(a: Fingerprint, b: Fingerprint) -> Comparison | None:
    """Find a copy: the same tensors, perhaps renamed, perhaps stored in a wider dtype."""
    if a.root == b.root:
        how, words = "same", "every name, dtype, shape and byte is the same"
    elif a.content_id == b.content_id:
        how, words = "renamed", "every tensor has the same bytes under another name"
    elif a.value_id == b.value_id:
        how, words = "cast", "every tensor has the same values in another precision"
    else:
        return None
    return Comparison(
        related=True,
        relation=Relation.IDENTICAL,
        how=how,
        change=0.0,
        score=1.0,
        is_exact=True,
        evidence=(Evidence("identity-v1", words),),
    )


def converted(pairing: Pairing) -> Comparison | None:
    """Find a copy in another format: renamed, transposed, reshaped, its tensors fused or split.

    No digest is the same of a tensor and its transpose, so this rests on the sketches, to within
    rounding (see `Pairing.same`). What only one of the two has must hold no weights: whole numbers
    (positions, counters), a single value, or one value repeated (masks).
    """
    if not pairing.is_matrix.any() or not pairing.same.all() or pairing.maps:
        return None
    if any(left_over(pairing)):
        return None
    counts = [
        f"{sum(way == one for way in pairing.way)} {one}"
        for one in ("turned", "reordered")
        if one in pairing.way
    ]
    parts = sum(i >= pairing.first.whole for i in pairing.a)
    parts += sum(j >= pairing.second.whole for j in pairing.b)
    counts += [f"{parts} as parts of fused ones"] if parts else []
    how = f" ({', '.join(counts)})" if counts else ""
    is_exact = bool(pairing.equal.all())
    exactly = "digest for digest" if is_exact else "within rounding"
    words = f"every weight of one is in the other, {exactly}, in another format{how}"
    return Comparison(
        related=True,
        relation=Relation.IDENTICAL,
        how="converted",
        change=0.0,
        score=1.0,
        equal_share=1.0,
        is_exact=is_exact,
        evidence=(Evidence("converted-v1", words, statistic=float(len(pairing.a))),),
    )


def left_over(pairing: Pairing) -> tuple[int, int]:
    """Count the weights that only the first has, and those that only the second has.

    What is stored twice, as an embedding that is the head too, counts once.
    """
    return _left_over(pairing.first, pairing.a), _left_over(pairing.second, pairing.b)


def _left_over(of: Table, used: tuple[int, ...]) -> int:
    stored = {of.tensors[place].value for place in used}
    left = (of.tensors[place] for place in of.left_over(used))
    return sum(_is_weight(tensor) and tensor.value not in stored for tensor in left)


def _is_weight(tensor: TensorPrint) -> bool:
    is_flat = tensor.sketch is not None and tensor.sketch.is_flat
    is_counted = tensor.dtype in COUNTS or is_no_weight(tensor.name)
    return tensor.size > 1 and not is_counted and not is_flat


def rounded_copy(pairing: Pairing) -> Comparison | None:
    """Find a copy in fewer bits: each tensor of one is the other's, rounded, digest for digest.

    There is no error rate: a digest either is that of the other's rounded values or is not.
    """
    forward = _rounds_to(pairing, forward=True)
    backward = None if forward else _rounds_to(pairing, forward=False)
    how = forward or backward
    if how is None:
        return None
    words = f"every tensor of {{child}} is {{parent}}'s rounded to {how}, digest for digest"
    return _rounding(pairing, "rounded-digests-v1", words, how, forward=bool(forward), exact=True)


def only_rounded(pairing: Pairing) -> NDArray[np.bool_]:
    """Say of which tensors one model has the other's values in fewer bits, digest for digest."""
    found = []
    for i, j in zip(pairing.a, pairing.b, strict=True):
        one, other = pairing.first.tensors[i], pairing.second.tensors[j]
        ours = {digest for _, digest in one.rounded}, {digest for _, digest in other.rounded}
        found.append(
            not ours[0].isdisjoint({other.value, other.content})
            or not ours[1].isdisjoint({one.value, one.content})
        )
    return np.array(found, np.bool_)


def underflowed(pairing: Pairing) -> Comparison | None:
    """Find a copy of a bfloat16 model in half precision, which holds all but its smallest values.

    No digest of a bfloat16 tensor in half precision is kept. What such a cast changes is below its
    least step, and less than any training leaves.
    """
    places = [n for n, same in enumerate(pairing.same) if not same]
    stored = {
        (pairing.first.tensors[pairing.a[n]].dtype, pairing.second.tensors[pairing.b[n]].dtype)
        for n in places
    }
    whole = {pairing.first.whole, pairing.second.whole}
    if stored not in ({("BF16", "F16")}, {("F16", "BF16")}) or whole != {len(pairing.a)}:
        return None
    forward = stored == {("BF16", "F16")}
    most = _UNDERFLOW**2 * pairing.size + SAME_WITHIN**2 * pairing.energy_a
    if not (pairing.energy_d <= most)[places].all():
        return None
    words = "{child} is {parent} but for values too small for half precision"
    return _rounding(pairing, "underflow-v1", words, "fp16", forward=forward, exact=False)


def _rounding(
    pairing: Pairing, detector: str, words: str, how: str, *, forward: bool, exact: bool
) -> Comparison:
    """Say that one of two models is the other rounded, in words with `{child}` and `{parent}`."""
    child, parent = ("{b}", "{a}") if forward else ("{a}", "{b}")
    words = words.replace("{child}", child).replace("{parent}", parent)
    return Comparison(
        related=True,
        relation=Relation.QUANTIZED,
        how=how,
        direction="a->b" if forward else "b->a",
        margin=1.0 if forward else -1.0,
        distance=pairing.distance,
        change=pairing.change,
        score=1.0,
        is_exact=exact,
        evidence=(Evidence(detector, words),),
    )


def _rounds_to(pairing: Pairing, *, forward: bool) -> str | None:
    """Return the dtype to which one model's every tensor was rounded to give the other's."""
    whole = {pairing.first.whole, pairing.second.whole}
    if not pairing.a or whole != {len(pairing.a)}:
        return None
    dtypes: set[str] = set()
    for i, j in zip(pairing.a, pairing.b, strict=True):
        one, other = pairing.first.tensors[i], pairing.second.tensors[j]
        parent, child = (one, other) if forward else (other, one)
        if parent.value == child.value:
            continue
        # Small values may fit an even narrower dtype once they are rounded: then the value's digest
        # is in that one, and what is stored has the other.
        ours = {child.value, child.content}
        named = next((d for d, digest in parent.rounded if digest in ours), None)
        if named is None:
            return None
        dtypes.add(named)
    return _SPELLED.get(dtypes.pop()) if len(dtypes) == 1 else None
