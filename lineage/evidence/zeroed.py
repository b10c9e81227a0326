"""Whose weights of least magnitude were set to zero?

Magnitude pruning sets those weights to zero that are least in size, in each matrix or in all
together. So in the model that was pruned, and in no other, the places of the zeros are those of the
least weights. Training that keeps the zeros leaves that as it is.

Source: magnitude pruning as in Han et al., "Learning both Weights and Connections for Efficient
Neural Networks" (2015); that its mask names the source is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.evidence.masked import Values

__all__ = ["misplaced"]


def misplaced(values: Values, child: int, source: int) -> float:
    """Return which share of a child's zeros is not among a source's least weights.

    Args:
        values: Some values of both, the same places in each.
        child: Which model has the zeros.
        source: Which may have been pruned.

    Returns:
        0 of the source of a pruned model, 1 where there are no zeros: the less of what is out of
        place by matrices and over all of them. Models drawn at random have as many out of place as
        there are other weights.
    """
    zeros, sizes = values.numbers[child] == 0, np.abs(values.numbers[source])
    if not zeros.any() or np.isnan(sizes).any():
        return 1.0
    stops = [*values.starts[1:], len(zeros)]
    parts = [slice(start, stop) for start, stop in zip(values.starts, stops, strict=True)]
    wrong = min(_wrong(zeros, sizes, parts), _wrong(zeros, sizes, [slice(None)]))
    return wrong / int(zeros.sum())


def _wrong(zeros: NDArray[np.bool_], sizes: NDArray[np.float32], parts: Iterable[slice]) -> int:
    """Count zeros that are not among the least of their part."""
    wrong = 0
    for part in parts:
        size, is_zero = sizes[part], zeros[part]
        count = int(is_zero.sum())
        if count:
            least = np.partition(size, count - 1)[count - 1]
            wrong += int(np.sum(size[is_zero] > least))
    return wrong
