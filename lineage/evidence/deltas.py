"""What two adapters are to each other, and of what others one is made: from their deltas alone.

Two factorisations of one change are the same here, and so are two roundings of it: the sketches of
changes are compared, and no factor is looked at.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.base import KINDS
from lineage.evidence.base import Comparison, Evidence
from lineage.evidence.fitting import NULL, Fit, fit
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.base import Direction
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import ChangePrint, Delta

__all__ = ["EXACT", "ROUNDED", "between", "combined", "distance"]

Key = tuple[str, str]

EXACT = 1e-5
"""Changes that differ by less of their norm are one: float32 leaves less, a training step more."""

ROUNDED = 6e-3
"""Changes that differ by less are one but for rounding: of 10,000 adapters bfloat16 left at most
0.49 %, and a training that moved one by 1 % at least 0.73 %."""

_KIN, _SURE_P, _SURE_COSINE = 0.05, -3.0, 0.3
"""Adapters are kin if their cosine is above the first with a p-value below 10 to the second, or
above the third: of few modules no p-value is small."""

_CLEAR_LEAN = 0.5
"""By how much of a pure step one must lean on the other to be its parent."""

_ERRORS = 3.0
"""And by how many times what chance leans: of a small step even a little of it hides the order."""

_SCALED = 1e-4
"""Share of the squared norm that a multiple of a change may leave."""


def distance(a: Delta, b: Delta) -> float:
    """Return how far two adapters are apart, over the norm of the first.

    Of each group of changes by itself, and the farthest counts. A change of nothing is none.
    """
    ours, theirs = _cores(a), _cores(b)
    apart: dict[str, float] = {}
    whole: dict[str, float] = {}
    for key in ours.keys() | theirs.keys():
        group = KINDS[key[1]]  # type: ignore[index]
        one, other = ours.get(key), theirs.get(key)
        if one is None or other is None or one.shape != other.shape:
            step = sum(float(np.vdot(core, core)) for core in (one, other) if core is not None)
        else:
            step = float(np.vdot(one - other, one - other))
        apart[group] = apart.get(group, 0.0) + step
        whole[group] = whole.get(group, 0.0) + (0.0 if one is None else float(np.vdot(one, one)))
    ratios = [apart[g] / whole[g] if whole[g] else float("inf") for g in apart if apart[g]]
    return float(np.sqrt(max(ratios, default=0.0)))


def between(first: Fingerprint, second: Fingerprint) -> Comparison | None:
    """Say what two adapters are to each other; None where one of them is none."""
    a, b = first.delta, second.delta
    if a is None or b is None:
        return None
    apart = distance(a, b)
    change = apart if isfinite(apart) else None
    if apart <= EXACT:
        words = f"the change is the same in all {len(a.changes)} tensors, whatever its factors"
        return Comparison(
            True, Relation.IDENTICAL, "converted", distance=apart * a.norm, change=apart, score=1.0,
            rank=a.rank, evidence=(Evidence("delta-v1", words, apart),),
        )  # fmt: skip
    if apart <= ROUNDED:
        return _rounded(first, second, apart)
    ours, theirs = _cores(a, "delta"), _cores(b, "delta")
    shared = [key for key in ours if key in theirs and ours[key].shape == theirs[key].shape]
    if not shared:
        words = "the two adapters change no tensor of one name and shape in common"
        return Comparison(None, evidence=(Evidence("delta-v1", words),))
    return _related(a, b, change, shared)


def _rounded(first: Fingerprint, second: Fingerprint, apart: float) -> Comparison:
    dtypes = [_dtype(one) for one in (first, second)]
    order = {"F32": 0, "F16": 1, "BF16": 2, "Q8_0": 3}
    known = [order.get(dtype, 0) for dtype in dtypes]
    how = {1: "fp16", 2: "bf16", 3: "int8"}.get(max(known))
    direction: Direction | None = None
    if known[0] != known[1]:
        direction = "a->b" if known[1] > known[0] else "b->a"
    words = f"the changes differ by {apart:.2%} of their norm: one rounded"
    return Comparison(
        True, Relation.QUANTIZED if how else None, how, direction, change=apart, score=1.0,
        evidence=(Evidence("delta-v1", words, apart),),
    )  # fmt: skip


def _dtype(model: Fingerprint) -> str:
    sizes: dict[str, int] = {}
    for tensor in model.tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _related(a: Delta, b: Delta, change: float | None, shared: Sequence[Key]) -> Comparison:
    ours, theirs = _cores(a, "delta"), _cores(b, "delta")
    energy_a, energy_b = (sum(float(np.vdot(c, c)) for c in of.values()) for of in (ours, theirs))
    inner = sum(float(np.vdot(ours[key], theirs[key])) for key in shared)
    cosine = inner / float(np.sqrt(energy_a * energy_b)) if energy_a and energy_b else 0.0
    found = fit(theirs, [ours], {})
    log10_p = 0.0 if found is None else found.shares[0].log10_p
    words = f"over {len(shared)} tensors the changes have a cosine of {cosine:.3f}"
    seen = Evidence("delta-cosine-v1", words, cosine, log10_p, NULL)
    is_kin = cosine >= _SURE_COSINE or (cosine >= _KIN and log10_p <= _SURE_P)
    base = Comparison(
        is_kin, change=change, distance=(change or 0.0) * a.norm, score=max(0.0, min(1.0, cosine)),
        evidence=(seen,),
    )  # fmt: skip
    if not is_kin:
        more = "adapters of one base need have nothing in common, and these have not"
        return _with(base, Evidence("delta-v1", more))
    if found is not None and len(shared) == len(ours) == len(theirs):
        weight = found.shares[0].weight
        if 1 - cosine**2 <= _SCALED:
            return _with(base, Evidence("delta-v1", f"{{b}} is {{a}} times {weight:.4g}", weight))
    one, other = a.rank, b.rank
    if one is not None and other is not None and one != other:
        more = f"{{a}} has rank {one}, {{b}} {other}: trained on, or merged with others"
        return _with(base, Evidence("delta-v1", more))
    step = energy_a + energy_b - 2 * inner
    lean = (energy_b - energy_a) / step
    words = f"the difference leans by {lean:+.2f} of a step on {{a}}'s side"
    free = sum(_free(c) for c in a.changes if c.key in shared)
    error = 2 * float(np.sqrt(energy_a / step / free))
    if abs(lean) < max(_CLEAR_LEAN, _ERRORS * error):
        more = f"{words}: siblings, or the order is not in them"
        return _with(base, Evidence("delta-v1", more, lean))
    direction: Direction = "a->b" if lean > 0 else "b->a"
    return Comparison(
        True, Relation.FINETUNE, None, direction, margin=lean, share=lean, rank=one,
        distance=base.distance, change=base.change, score=base.score,
        evidence=(Evidence("delta-step-v1", words, lean), seen),
    )  # fmt: skip


def _free(change: ChangePrint) -> int:
    """Return in how many directions a step of one change may go, in its core."""
    height, width = change.core.shape
    rank = min(height, width) if change.rank is None else min(change.rank, height, width)
    free: int = rank * (height + width - rank)
    return free


def _with(base: Comparison, evidence: Evidence) -> Comparison:
    return Comparison(
        base.related, change=base.change, distance=base.distance, score=base.score,
        evidence=(evidence, *base.evidence),
    )  # fmt: skip


def combined(whole: Delta, parts: Sequence[Delta]) -> Fit | None:
    """Say of what adapters one is a weighted sum; None where it changes nothing."""
    cores = _cores(whole, "delta")
    if not cores:
        return None
    fitting = [
        {k: c for k, c in _cores(part, "delta").items() if k in cores and c.shape == cores[k].shape}
        for part in parts
    ]
    return fit(cores, fitting, {})


def _cores(delta: Delta, kind: str | None = None) -> dict[Key, NDArray[np.float64]]:
    return {
        change.key: change.core
        for change in delta.changes
        if change.energy > 0 and kind in {None, change.kind}
    }
