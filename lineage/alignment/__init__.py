"""From weights in other coordinates to the same ones.

A network computes the same with its units in another order, its stream turned, its heads mapped and
mapped back. `align` finds how one model's coordinates become another's, says how sure it is that
they are the same model at all, and writes the one in the coordinates of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lineage.alignment.base import Alignment, BlockMatch, MlpMatch
from lineage.alignment.solving import solve
from lineage.artifacts import read
from lineage.artifacts.tokens import tokens_of
from lineage.fingerprints.stream import Stream

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Alignment", "BlockMatch", "MlpMatch", "Stream", "align", "solve"]


def align(a: str | PathLike[str] | Any, b: str | PathLike[str] | Any) -> Alignment:
    """Find how model b's coordinates become model a's, from the weights alone.

    Args:
        a: Anything `read` takes.
        b: The same.

    Returns:
        The maps, and for every block of b the block of a that it is, if any. That nothing was
        found says nothing: it is no proof that the models are independent.

    Raises:
        FormatError: If one cannot be read.
        ArchitectureError: If one has no stream that is known by names and shapes, or they share
            no labelled vectors.
    """
    with read(a) as first, read(b) as second:
        one = Stream.of(first.items, name=_name(a), tokens=tokens_of(a))
        other = Stream.of(second.items, name=_name(b), tokens=tokens_of(b))
        found = solve(one, other)
        first.check_unchanged()
        second.check_unchanged()
        return found


def _name(source: object) -> str:
    return str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else "a model"
