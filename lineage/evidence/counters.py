"""What two models counted: the batches that each norm of a network has seen.

PyTorch's batch normalization keeps `num_batches_tracked` beside its statistics and adds 1 to it at
every batch of training. A model that is trained on goes on counting from where it was loaded, so
along a line of descent the number never falls, and copies, roundings and merges in which nothing is
trained leave it. Of two relatives the one that counted further cannot come from the other. Siblings
may have counted differently far, so that alone makes no one a parent; and strangers count too, so
it makes no relatives.

The counts of all norms must agree on it. A model whose counts are all 0 but whose statistics are no
new norm's came from a framework that does not count, or had its counters set anew. Where its
statistics are not the other's it was most likely counted on from; but weights that went through
such a framework and were trained there would look the same, so that it is doubted and not ruled
out. `torch.optim.swa_utils.update_bn` counts anew too. And a counter is one number in a file: who
wants to can write another.

Source: `torch.nn.BatchNorm2d`, `track_running_stats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.artifacts.dialects import canonical_name
from lineage.evidence.base import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.fingerprints import Fingerprint

__all__ = ["COUNTERS", "Counted", "counted", "counts", "evidence", "order"]

COUNTERS = "counters-v1"
"""The detector's name."""

_COUNTER, _STATISTICS = "num_batches_tracked", ("running_mean", "running_var")

_DTYPES = {"I64", "I32", "U64", "U32"}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a model counted.

    Attributes:
        batches: Norm -> how many batches it saw.
        statistics: Digests of the values of each norm's statistics, in the order of their names.
    """

    batches: Mapping[str, int]
    statistics: Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Counted:
    """How two models' counts differ.

    Attributes:
        steps: How much further the second counted, in the norm where that is most; negative where
            it was the first.
        even: Whether that is the same in all norms.
        norms: How many there are.
        counts: What the first has in that norm, and the second.
        is_sure: Whether the one behind has counted at all.
    """

    steps: int
    even: bool
    norms: int
    counts: tuple[int, int]
    is_sure: bool


def counts(model: Fingerprint) -> Counts | None:
    """Return what a model counted, if its norms do: a fingerprint has the square of every count."""
    batches: dict[str, int] = {}
    statistics: dict[str, list[bytes]] = {}
    for tensor in model.tensors:
        norm, _, leaf = tensor.name.rpartition(".")
        if leaf == _COUNTER:
            sketch = tensor.sketch
            if tensor.dtype not in _DTYPES or tensor.size != 1 or sketch is None:
                return None
            batches[canonical_name(norm)] = round(sketch.energy**0.5)
        elif leaf in _STATISTICS:
            statistics.setdefault(canonical_name(norm), []).append(tensor.value)
    if not batches:
        return None
    return Counts(batches, {norm: tuple(statistics.get(norm, ())) for norm in batches})


def counted(first: Counts | None, second: Counts | None) -> Counted | None:
    """Compare what two relatives counted.

    Returns:
        None if they did not count the same norms, or counted alike, or their norms do not agree on
        who counted further, or one never counted and has the other's statistics.
    """
    if first is None or second is None or first.batches.keys() != second.batches.keys():
        return None
    norms = list(first.batches)
    steps = [second.batches[norm] - first.batches[norm] for norm in norms]
    if min(steps) < 0 < max(steps) or not any(steps):
        return None
    most = max(range(len(norms)), key=lambda n: abs(steps[n]))
    behind = first if steps[most] > 0 else second
    is_sure = any(behind.batches.values())
    if not is_sure and any(_is_same(first, second, norm) for norm in norms):
        return None
    return Counted(
        steps[most],
        len(set(steps)) == 1,
        len(norms),
        (first.batches[norms[most]], second.batches[norms[most]]),
        is_sure,
    )


def _is_same(first: Counts, second: Counts, norm: str) -> bool:
    """Whether two models have one norm's statistics, or one of them has none."""
    ours, theirs = first.statistics[norm], second.statistics[norm]
    return not ours or not theirs or ours == theirs


def evidence(seen: Counted) -> Evidence:
    """Say in words who counted further."""
    ahead, behind = ("{b}", "{a}") if seen.steps > 0 else ("{a}", "{b}")
    less, more = sorted(seen.counts)
    where = f"in each of {seen.norms} norms" if seen.even else f"in one of {seen.norms} norms"
    words = f"{ahead} counted {abs(seen.steps)} batches more than {behind} {where} ({less}, {more})"
    if seen.is_sure:
        words += f": a count never falls along a line of descent, so {behind} cannot come from it"
    else:
        words += f": {behind} never counted, and was most likely counted on from"
    words += "; it is a number in the file that anyone can write"
    return Evidence(COUNTERS, words, statistic=float(seen.steps))


def order(
    models: Sequence[Fingerprint],
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Say which arcs of a family its counters rule out, and which they make doubtful.

    Args:
        models: Relatives.

    Returns:
        Pairs (later, earlier) of places: those ruled out, and those doubted.
    """
    told = [counts(model) for model in models]
    ruled_out: set[tuple[int, int]] = set()
    doubted: set[tuple[int, int]] = set()
    for a, first in enumerate(told):
        for b in range(a):
            seen = counted(first, told[b])
            if seen is not None:
                pair = (b, a) if seen.steps > 0 else (a, b)
                (ruled_out if seen.is_sure else doubted).add(pair)
    return ruled_out, doubted
