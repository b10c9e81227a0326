"""Did one of two models lose precision or weights: values on few levels, values set to zero?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.base import Evidence
from lineage.evidence.pairing import FLOAT8
from lineage.evidence.whiteness import spikes
from lineage.relation import Relation

if TYPE_CHECKING:
    from lineage.evidence.base import Direction
    from lineage.evidence.pairing import Pairing
    from lineage.fingerprints import TensorPrint

_BITS = {8: "int8", 7: "int8", 6: "int8", 5: "int8", 4: "int4", 3: "int3", 2: "int2", 1: "int2"}

_ZEROS = 0.05
"""Share of the values by which the zeros of a pruned model differ at least."""

_MANY_ZEROS, _LOST = 0.2, (0.03, 0.8)
"""Share of zeros that no rounding to more than two bits leaves, and from which nothing else makes
them; and what they lost, squared, as a share of what as many values have on average. Training that
fills zeros changes less, and pruning leaves out little; two trainings are further apart."""

_STEPS = 0.6, 1.8
"""What rounding to steps changes, as a share of the norm, over the share of zeros that it leaves:
for values of a normal law .72 where steps are even, 1.1 to 1.3 where they are finer near zero. The
least tenth of the values has .23, a tenth by lot 3.2."""

_WHITE_BITS, _WHITE = 3, 1.1
"""Bits of a rounding from which what it changes knows little of the weights, and the most that its
singular values stand out then: .93 to .99 for all quantizers, 2 to 4 for what trainings leave."""

_USUAL = 1.6
"""What b bits change, as a share of the norm, times 2^b: 1.1 to 1.8 with a step for some dozens of
values, and up to 2.2 for a row."""

_LEAST = 0.64
"""What b bits change at least, as a share of the norm, times 2^b: the range of 16 values of a
normal law is about 3.5 deviations, a step 3.5 / 2^b, and the error that over the root of 12."""

_FLOAT8_BITS, _FLOAT8 = 8, (0.07, 7e-4)
"""What rounding to an 8-bit float changes at most: a share of the norm (.053 where two digits are
kept), and root mean square per value (a step of 2^-9, over the root of 12, near zero in E4M3)."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """One model is the other with less in it."""

    relation: Relation
    how: str
    direction: Direction
    evidence: Evidence


def levels(tensor: TensorPrint) -> int:
    """Return the bits that number the levels a tensor's values lie on; 0 where they lie on none."""
    bits = tensor.lattice.bits
    return min(bits or _FLOAT8_BITS, _FLOAT8_BITS) if holds_float8(tensor) else bits


def holds_float8(tensor: TensorPrint) -> bool:
    """Whether a tensor's values are 8-bit floats, as they are stored or in bfloat16.

    The value digest is that of the narrowest float that holds all values: for bfloat16 there are
    only the 8-bit ones.
    """
    return tensor.dtype.startswith("F8") or (
        tensor.dtype == "BF16" and bool(tensor.value) and tensor.value != tensor.content
    )


def quantized(pairing: Pairing, *, least: float = _LEAST) -> Reduction | None:
    """Find values on few levels in one model, near the other's values and not on levels there.

    Nearness: a quantizer with 2^b levels over the range moves a value by at most half a step, so a
    difference much larger than that has another cause besides. And one much smaller is no
    quantizer's: then the model on levels came first, and the other was trained on from it. Nor does
    one fill zeros in. What rounding changes is white, also where quantizers round to make up for
    each other's errors; where it is not, something else lies between the two, such as a training of
    what was rounded. Nor did matrices that are on no levels change by more than noise: those have
    an adapter on top of their levels.

    Args:
        pairing: Of two models.
        least: What b bits change at least, as a share of the norm, times 2^b.
    """
    use = pairing.is_matrix & ~pairing.same
    if not np.any(use):
        return None
    bits_a = np.array([levels(pairing.first.tensors[i]) for i in pairing.a])[use]
    bits_b = np.array([levels(pairing.second.tensors[j]) for j in pairing.b])[use]
    size, d = pairing.size[use], pairing.energy_d[use]
    share_a, share_b = (
        max((size * (bits > 0)).sum() / size.sum(), (bits > 0).mean()) for bits in (bits_a, bits_b)
    )
    direction: Direction
    if share_b >= 0.5 and share_a < 0.1:
        bits, direction, child, energy = bits_b, "a->b", "{b}", pairing.energy_a[use]
        of = [pairing.second.tensors[j] for j in pairing.b]
    elif share_a >= 0.5 and share_b < 0.1:
        bits, direction, child, energy = bits_a, "b->a", "{a}", pairing.energy_b[use]
        of = [pairing.first.tensors[i] for i in pairing.a]
    else:
        return None
    on = bits > 0
    commonest = int(np.bincount(bits[on]).argmax())
    is_float8 = commonest == _FLOAT8_BITS and (
        any(holds_float8(tensor) for tensor, used in zip(of, use, strict=True) if used)
        or _rounds_floats(d[on], energy[on])
    )
    most = (
        _FLOAT8[0] ** 2 * energy[on] + _FLOAT8[1] ** 2 * size[on]
        if is_float8
        else _most_rounding(pairing, use, forward=direction == "a->b")[on] / 4**commonest
    )
    if float(d[on].sum()) > float(most.sum()):
        return None
    zeros_a, zeros_b = (zeros.sum() for zeros in _zeros(pairing, use))
    lost = zeros_a - zeros_b if direction == "a->b" else zeros_b - zeros_a
    if lost > _ZEROS * float(size.sum()):
        return None
    if float(d[on].sum()) < (least / 2**commonest) ** 2 * float(energy[on].sum()):
        return None
    used = np.zeros(len(use), np.bool_)
    used[np.flatnonzero(use)[on]] = True
    if commonest >= _WHITE_BITS and (spikes(pairing, used) or 0.0) > _WHITE:
        return None
    inside = [layered(pairing.first.labels[i]) is not None for i in pairing.a]
    if (spikes(pairing, use & ~used & np.array(inside)) or 0.0) > _WHITE:
        return None
    words = f"{child}'s values lie on at most {2**commonest} levels, next to the other's values"
    evidence = Evidence("lattice-v1", words, statistic=float(max(share_a, share_b)))
    how = "fp8" if is_float8 else _BITS[commonest]
    return Reduction(Relation.QUANTIZED, how, direction, evidence)


def rounded_side(pairing: Pairing) -> tuple[str, Direction] | None:
    """Return how one of two models was rounded, and the way to it, by its levels alone."""
    use = np.flatnonzero(pairing.is_matrix & ~pairing.same)
    if not len(use):
        return None
    size = pairing.size[use]
    bits = [
        np.array([levels(of.tensors[places[int(n)]]) for n in use])
        for of, places in ((pairing.first, pairing.a), (pairing.second, pairing.b))
    ]
    shares = [float((size * (one > 0)).sum() / size.sum()) for one in bits]
    if max(shares) < 0.5 or min(shares) >= 0.1:
        return None
    child = int(np.argmax(shares))
    commonest = int(np.bincount(bits[child][bits[child] > 0]).argmax())
    return _BITS[commonest], "a->b" if child else "b->a"


def _rounds_floats(changes: np.ndarray, energies: np.ndarray) -> bool:
    """Whether the change is the same share of the weights that storing an 8-bit float leaves.

    Even levels of 8 bits leave a fifth of that. One digit less (E5M2) leaves twice as much.
    """
    share = float(np.median(np.sqrt(changes / energies)))
    return any(digits * FLOAT8[0] <= share <= digits * FLOAT8[1] for digits in (1, 2))


def _most_rounding(pairing: Pairing, use: np.ndarray, *, forward: bool) -> np.ndarray:
    """Return what rounding to levels one range apart would leave in each tensor, at most.

    With 2^b levels over the range the error's variance is a twelfth of a step's square, and a step
    is range / 2^b. 12 standard deviations to either side span even a heavy-tailed row. Where a few
    values lie further out, what the sum of fourth powers has above a normal law's tells how far: a
    quantizer that gives a whole tensor one step pays for them everywhere.
    """
    of, where = (pairing.first, pairing.a) if forward else (pairing.second, pairing.b)
    places = [where[int(n)] for n in np.flatnonzero(use)]
    energy, size = of.energy[places], of.sizes[places]
    fourth = np.array([0.0 if (s := of.tensors[i].sketch) is None else s.fourth for i in places])
    outliers = np.maximum(fourth - 3 * energy**2 / size, 0)
    largest_squared = np.maximum(144 * energy / size, np.sqrt(outliers))
    most: np.ndarray = size * 4 * largest_squared / 12
    return most


def pruned(pairing: Pairing, *, slack: float = 0.1) -> Reduction | None:
    """Find zeros where the other model has values, and the other's values everywhere else.

    Setting values of p to zero leaves c with <c, p> = |c|^2: the difference is orthogonal to the
    *child*, which training never does. Rounding to a quantizer's steps does both too, with levels
    that may not be seen, as where its columns had scales: few values become zero, those below half
    a step, and all others change by as much. And where many became zero in most matrices the others
    may have been moved to make up for it (Frantar and Alistarh 2023) or trained on since.

    Args:
        pairing: Of two models.
        slack: The most that the cosine of the difference and the child may be.
    """
    use = pairing.is_matrix & ~pairing.same & (pairing.energy_d > 0)
    if not np.any(use):
        return None
    zeros_a, zeros_b = _zeros(pairing, use)
    size = pairing.size[use]
    added = float((zeros_b - zeros_a).sum() / size.sum())
    if abs(added) < _ZEROS:
        return None
    inner, d = pairing.inner[use].sum(), pairing.energy_d[use].sum()
    a, b = pairing.energy_a[use].sum(), pairing.energy_b[use].sum()
    parent, child = (a, b) if added > 0 else (b, a)
    name = "{b}" if added > 0 else "{a}"
    direction: Direction = "a->b" if added > 0 else "b->a"
    change = float(np.sqrt(d / parent))
    share, became = abs(added), f"{abs(added):.0%} of {name}'s values became zero and"
    is_step = share < _MANY_ZEROS and _STEPS[0] * share <= change <= _STEPS[1] * share
    if is_step and (spikes(pairing, use) or np.inf) <= _WHITE:
        words = f"{became} the others moved as rounding to steps would move them"
        bits = int(np.clip(np.rint(np.log2(_USUAL / change)), 1, _FLOAT8_BITS))
        evidence = Evidence("steps-v1", words, statistic=change / share)
        return Reduction(Relation.QUANTIZED, _BITS[bits], direction, evidence)
    if share < _MANY_ZEROS and _are_levels(pairing, use, forward=added > 0):
        return None  # zero is one of them
    words = f"{became} the others stayed"
    if abs(inner - child) > slack * np.sqrt(d * child):
        more = (zeros_b - zeros_a) * np.sign(added) >= _ZEROS * size
        if share < _MANY_ZEROS or size[more].sum() < 0.5 * size.sum():
            return None
        if not _LOST[0] * share <= change**2 <= _LOST[1] * share:
            return None
        if (spikes(pairing, use) or 0.0) > _WHITE:
            return None  # something else lies between the two
        words = f"{became} the others moved by less"
    evidence = Evidence("zeros-v1", words, statistic=share)
    return Reduction(Relation.PRUNED, "unstructured", direction, evidence)


def _are_levels(pairing: Pairing, use: np.ndarray, *, forward: bool) -> bool:
    """Whether most values of the child's matrices lie on levels."""
    of, where = (pairing.second, pairing.b) if forward else (pairing.first, pairing.a)
    on = np.array([levels(of.tensors[where[int(n)]]) > 0 for n in np.flatnonzero(use)])
    return bool(2 * (pairing.size[use] * on).sum() >= pairing.size[use].sum())


def _zeros(pairing: Pairing, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the zeros of both models in each of the tensors used."""
    sides = ((pairing.first, pairing.a), (pairing.second, pairing.b))
    first, second = (
        np.array([
            0 if (sketch := of.tensors[where[place]].sketch) is None else sketch.zeros
            for place in np.flatnonzero(use)
        ])
        for of, where in sides
    )  # fmt: skip
    return first, second
