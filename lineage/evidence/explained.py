"""Why two models are said to be what they are to each other: all that was looked at, in words.

`compare` names what it found. This tells what was looked for besides and was not there, how large
the change is beside what known operations leave, what speaks for the direction, and what the same
test says of models that are not there (see `controls`).
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.alone import ALONE, SAID
from lineage.evidence.controls import controls, relatedness
from lineage.evidence.counters import COUNTERS
from lineage.evidence.deeper import DECAY
from lineage.evidence.depth import depth
from lineage.evidence.direction import (
    ADAPTER_MARGIN,
    ADAPTER_SHARES,
    leans,
    orthogonality,
    slope,
)
from lineage.evidence.exact import converted, identical, left_over, rounded_copy
from lineage.evidence.experts import experts
from lineage.evidence.explanation import Explanation, Pattern, Size
from lineage.evidence.low_rank import low_rank
from lineage.evidence.noise import noise
from lineage.evidence.pairing import ROUNDING_RMS, Pairing, pair
from lineage.evidence.projected import PROJECTED
from lineage.evidence.reduced import pruned, quantized
from lineage.evidence.replaced import DRAWN
from lineage.evidence.vocabulary import vocabulary
from lineage.evidence.width import width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.evidence.base import Comparison, Evidence
    from lineage.evidence.reduced import Reduction
    from lineage.fingerprints import Fingerprint

__all__ = ["Explanation", "explain"]

DIGITS = {"fp16": 11, "bf16": 8, "fp8 (E4M3)": 4}
"""Binary digits that a float keeps, the hidden one among them."""

LEVELS = {"int8, a scale a row": (127, None), "int4, a scale for 32 values": (7, 32)}
"""Levels on either side of zero, and values that share a scale; None is a row."""

_CLOCKS = {
    COUNTERS: "the batches that both counted, which anyone can write anew",
    DECAY: "the rows that no example touched",
    DRAWN: "a matrix that is still as it was drawn",
}
"""What tells the direction before all else, the last of them first."""


def explain(a: Fingerprint, b: Fingerprint, found: Comparison) -> Explanation:
    """Tell what was looked at between two models.

    Args:
        a: The first.
        b: The second.
        found: What `compare_fingerprints` says of the two.
    """
    pairing = pair(a, b)
    has_weights = bool(pairing.is_matrix.any())
    change = found.change if has_weights else None
    use = pairing.is_matrix & (pairing.energy_a > 0) & (pairing.energy_b > 0)
    size = pairing.size[use]
    is_step = bool(found.related) and bool(change)
    return Explanation(
        test=relatedness(pairing),
        controls=controls(pairing),
        equal_share=float(size[pairing.same[use]].sum() / size.sum()) if has_weights else 0.0,
        equal=int(np.count_nonzero(pairing.same[use])),
        patterns=tuple(_patterns(a, b, pairing, found)),
        change=change,
        sizes=tuple(_sizes(pairing)) if is_step else (),
        direction=tuple(_direction(pairing, found)),
    )


def _patterns(
    a: Fingerprint, b: Fingerprint, pairing: Pairing, found: Comparison
) -> Iterator[Pattern]:
    copied = identical(a, b)
    yield Pattern(
        "copy",
        copied is not None,
        "names, bytes and values differ" if copied is None else copied.evidence[0].words,
    )
    yield _rounded(pairing, is_copy=copied is not None)
    moved = converted(pairing)
    ours, theirs = left_over(pairing)
    words = (
        f"{int(pairing.same.sum())} of {len(pairing.a)} tensors have the same values; {{a}} has "
        f"{ours} weight tensors besides, {{b}} {theirs}"
    )
    is_moved = moved is not None and copied is None
    yield Pattern(
        "other format", is_moved, moved.evidence[0].words if is_moved and moved else words
    )
    if not found.related:
        words = "not looked for between models that are not known to be related"
        for name in ("structure", "levels", "zeros", "noise", "low rank"):
            yield Pattern(name, None, words)
        return
    yield _structure(pairing)
    coarse = quantized(pairing)
    yield from _reduced(pairing, coarse)
    yield from _spectrum(pairing, coarse)


def _rounded(pairing: Pairing, *, is_copy: bool) -> Pattern:
    seen = rounded_copy(pairing)
    if seen is not None:
        return Pattern("rounded copy", True, seen.evidence[0].words)
    if is_copy:
        return Pattern("rounded copy", False, "no value differs")
    counts = [0, 0]
    for i, j in zip(pairing.a, pairing.b, strict=True):
        ends = pairing.first.tensors[i], pairing.second.tensors[j]
        for side, (parent, child) in enumerate((ends, ends[::-1])):
            digests = {digest for _, digest in parent.rounded}
            is_other = parent.value != child.value
            counts[side] += is_other and bool(digests & {child.value, child.content})
    words = (
        f"{counts[0]} of {len(pairing.a)} tensors of {{b}} are {{a}}'s in fewer bits, digest for "
        f"digest; {counts[1]} the other way"
    )
    return Pattern("rounded copy", False, words)


def _structure(pairing: Pairing) -> Pattern:
    seen = [room(pairing) for room in (depth, experts, width, vocabulary)]
    found = [structure.evidence.words for structure in seen if structure is not None]
    ours, theirs = left_over(pairing)
    words = "both have the same layers, rows and columns"
    if ours or theirs:
        words = f"{{a}} has {ours} weight tensors that {{b}} has not, {{b}} {theirs}; why is unseen"
    return Pattern("structure", bool(found), "; ".join(found) or words)


def _reduced(pairing: Pairing, coarse: Reduction | None) -> Iterator[Pattern]:
    sides = (pairing.first, pairing.a), (pairing.second, pairing.b)
    use = np.flatnonzero(pairing.is_matrix)
    total = max(1.0, float(pairing.size[use].sum()))
    on, zeros = [], []
    for of, places in sides:
        tensors = [of.tensors[places[int(n)]] for n in use]
        on.append(sum(t.lattice.bits > 0 for t in tensors))
        zeros.append(sum(t.sketch.zeros for t in tensors if t.sketch is not None) / total)
    cut = None if coarse is not None else pruned(pairing)  # zero is one of the levels
    words = (
        f"of {len(use)} matrices {on[0]} of {{a}} and {on[1]} of {{b}} have values on a "
        "quantizer's levels"
    )
    yield _pattern("levels", None if coarse is None else coarse.evidence, words)
    words = f"{zeros[0]:.1%} of the values of {{a}} and {zeros[1]:.1%} of {{b}} are zero"
    yield _pattern("zeros", None if cut is None else cut.evidence, words)


def _spectrum(pairing: Pairing, coarse: Reduction | None) -> Iterator[Pattern]:
    """Hold the singular values of the difference against those of noise of the same shape."""
    tops, ranks, whole = [], [], []
    for place in np.flatnonzero(pairing.is_matrix & ~pairing.same):
        core = pairing.difference(int(place))
        m, n = core.shape
        values = np.linalg.svd(core, compute_uv=False) ** 2
        if min(m, n) < 2 or values.sum() == 0:
            continue
        tops.append(np.sqrt(values[0] / values.sum()) * np.sqrt(m * n) / (np.sqrt(m) + np.sqrt(n)))
        ranks.append(values.sum() ** 2 / np.sum(values**2))
        whole.append(m * n / (m + n))
    if not ranks:
        words = (
            "no matrix differs" if pairing.same.all() else "the matrices that differ are too small"
        )
        yield Pattern("noise", False, words)
        yield Pattern("low rank", False, words)
        return
    white = None if coarse is not None else noise(pairing)  # a rounding to levels is white too
    words = (
        f"the difference's largest direction is {np.mean(tops):.2f} times that of noise, over "
        f"{len(tops)} matrices"
    )
    yield Pattern("noise", white is not None, words)
    adapter = low_rank(pairing)
    words = (
        f"the difference spreads over {np.median(ranks):.1f} directions in the middle matrix, "
        f"where noise would over {np.median(whole):.1f}"
    )
    if adapter is not None:
        words = f"rank {adapter.rank} in {adapter.modules} matrices, as a merged LoRA leaves"
    yield Pattern("low rank", adapter is not None, words)


def _pattern(name: str, seen: Evidence | None, otherwise: str) -> Pattern:
    return Pattern(name, seen is not None, otherwise if seen is None else seen.words)


def _sizes(pairing: Pairing) -> Iterator[Size]:
    """Yield what storing the weights in fewer bits would change, for values of a normal law.

    A float's error is uniform in half a unit in the last place, see `pairing.ROUNDING_RMS`. Levels
    one step apart leave a twelfth of a step's square; the largest of n values is near
    sqrt(2 ln 2n) standard deviations.
    """
    for name, digits in DIGITS.items():
        yield Size(name, ROUNDING_RMS * 2.0**-digits)
    use = np.flatnonzero(pairing.is_matrix)
    shapes = [pairing.first.shapes[pairing.a[int(n)]] for n in use]
    row = float(np.median([np.prod(shape[1:]) for shape in shapes]))
    for name, (levels, group) in LEVELS.items():
        count = row if group is None else float(group)
        yield Size(name, float(np.sqrt(2 * np.log(2 * count) / 12)) / levels)


def _direction(pairing: Pairing, found: Comparison) -> list[str]:
    if found.related is None:
        return ["not asked: it is not known whether the two are related"]
    if not found.related:
        return ["not asked: the two are not related by descent"]
    if found.relation == "identical":
        return ["equal weights do not tell which copy came first"]
    if found.direction is not None and abs(found.margin) == 1:
        child = "{b}" if found.direction == "a->b" else "{a}"
        return [f"by the pattern found above: it can only have made {child} of the other"]
    if found.evidence[0].detector == PROJECTED:
        return ["by a direction that one has nothing left along, where weights lean the other way"]
    if found.structure:
        return [
            "undetermined: each of the two has what the other lacks, or which is older is unseen"
        ]
    lean, (_, each) = orthogonality(pairing), leans(pairing)
    first, second = ("{a}", "{b}") if lean.margin >= 0 else ("{b}", "{a}")
    growth = slope(pairing)
    agree = int(np.count_nonzero(each > 0 if lean.margin >= 0 else each < 0))
    said = f"{first} -> {second}: a lean and no proof, strong weight decay turns it round"
    for detector, what in _CLOCKS.items():
        if found.direction and any(seen.detector == detector for seen in found.evidence):
            ends = ("{a}", "{b}") if found.direction == "a->b" else ("{b}", "{a}")
            said = f"{ends[0]} -> {ends[1]}: by {what}, whatever is below"
    return [
        "undetermined" if found.direction is None else said,
        *_odds(found),
        f"the difference is nearer to orthogonal to {first} in {agree} of {len(each)} matrices, by "
        f"a margin of {abs(lean.margin):.3f}",
        f"that is {abs(lean.share):.2f} of what one step would have, where 0 is siblings",
        f"over rows and columns energy grows from {first} with the change by "
        f"{growth if lean.margin >= 0 else -growth:.1f} deviations",
    ]


def _odds(found: Comparison) -> list[str]:
    """Say by what the direction is said, or would be."""
    if found.rank is not None:
        return [
            f"of a difference of low rank it is said by the margin below, from {ADAPTER_MARGIN:g} "
            f"on, and between {ADAPTER_SHARES[0]:g} and {ADAPTER_SHARES[1]:g} of one step"
        ]
    seen = [one for one in found.evidence if one.detector == ALONE]
    return [f"{one.words}; said from {exp(SAID):.0f} to 1 on" for one in seen]
