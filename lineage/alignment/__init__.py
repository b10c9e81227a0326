"""From weights in other coordinates to the same ones.

A network computes the same with its units in another order, its stream turned, its heads mapped and
mapped back. `align` finds how one model's coordinates become another's, says how sure it is that
they are the same model at all, and writes the one in the coordinates of the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lineage.alignment import solving
from lineage.alignment.applied import aligned as restreamed
from lineage.alignment.base import Aligned, Alignment, BlockMatch, ChainAlignment, Group, MlpMatch
from lineage.alignment.chain import Chain
from lineage.alignment.channels import solved
from lineage.alignment.rewired import rewired
from lineage.alignment.turning import unturned
from lineage.artifacts import read
from lineage.artifacts.tokens import tokens_of
from lineage.errors import ArchitectureError, printable
from lineage.fingerprints.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from lineage.artifacts import Artifact, Item

__all__ = [
    "Aligned",
    "Alignment",
    "BlockMatch",
    "Chain",
    "ChainAlignment",
    "Group",
    "MlpMatch",
    "Stream",
    "align",
    "aligned",
    "can_be_written",
    "decide",
    "described",
    "in_token_order",
    "solve",
]


def align(a: str | PathLike[str] | Any, b: str | PathLike[str] | Any) -> Aligned:
    """Find how model b's coordinates become model a's, from the weights alone.

    Args:
        a: Anything `read` takes.
        b: The same.

    Returns:
        The maps, and for every part of b the part of a that it is, if any. That nothing was
        found says nothing: it is no proof that the models are independent.

    Raises:
        FormatError: If one cannot be read.
        ArchitectureError: If names and shapes do not tell how one is made, or they are made
            differently.
    """
    with read(a) as first, read(b) as second:
        one = described(first.items, name=_name(a), tokens=tokens_of(a))
        other = described(second.items, name=_name(b), tokens=tokens_of(b))
        found = solve(one, other)
        first.check_unchanged()
        second.check_unchanged()
        return found


def described(
    items: Iterable[Item], *, name: str, tokens: tuple[str, ...] | None = None
) -> Stream | Chain:
    """Read off a model's tensors how it is made: around a stream, or as a chain of layers.

    Args:
        items: Its tensors.
        name: What errors call it.
        tokens: The strings of its tokens, by their numbers.

    Raises:
        ArchitectureError: If names and shapes do not tell; it says why it is no stream.
    """
    found = list(items)
    try:
        return Stream.of(found, name=name, tokens=tokens)
    except ArchitectureError as error:
        try:
            return Chain.of(found, name=name, tokens=tokens)
        except ArchitectureError as other:
            why = str(other).removeprefix(f"{printable(name)}: ")
            raise ArchitectureError(
                f"{str(error).removeprefix(f'{printable(name)}: ')}; and as a chain {why}", name
            ) from other


def can_be_written(a: Stream | Chain, b: Stream | Chain) -> bool:
    """Whether b can be written in a's coordinates: streams of two widths cannot."""
    return not (isinstance(a, Stream) and isinstance(b, Stream)) or a.width == b.width


def solve(a: Stream | Chain, b: Stream | Chain, like: Aligned | None = None) -> Aligned:
    """Find how b's coordinates become a's.

    Args:
        a: One model.
        b: The other.
        like: How they become those of a relative of a that has a's coordinates, from which it is
            sooner found in chains.

    Raises:
        ArchitectureError: If they are not made alike.
    """
    if isinstance(a, Stream) and isinstance(b, Stream):
        return solving.solve(a, b)
    if isinstance(a, Chain) and isinstance(b, Chain):
        return solved(a, b, like if isinstance(like, ChainAlignment) else None)
    raise ArchitectureError("only one of the two models has a stream", "b")


def decide(a: Stream | Chain, b: Stream | Chain) -> Aligned:
    """Find whether b is a in any coordinates, and of large models no more than that.

    Of streams a few blocks and some units of each are looked at, so what is returned is no way to
    write b. Chains are small: of these everything is solved.

    Args:
        a: One model.
        b: The other.

    Raises:
        ArchitectureError: If they are not made alike.
    """
    if isinstance(a, Stream) and isinstance(b, Stream):
        return solving.decide(a, b)
    return solve(a, b)


def aligned(a: Stream | Chain, b: Stream | Chain, found: Aligned) -> Artifact:
    """Return b in a's coordinates, as far as the alignment tells.

    Args:
        a: The model whose coordinates are taken.
        b: The model that is written.
        found: `solve(a, b)`.
    """
    if isinstance(found, ChainAlignment) and isinstance(a, Chain) and isinstance(b, Chain):
        return rewired(a, b, found)
    if isinstance(found, Alignment) and isinstance(a, Stream) and isinstance(b, Stream):
        return restreamed(a, b, found)
    raise ArchitectureError("the alignment is of models of another make", "b")


def in_token_order(a: Stream | Chain, b: Stream | Chain, found: Aligned) -> Artifact | None:
    """Return b with its tokens in a's order and nothing else done; None if they are already.

    Args:
        a: The model whose tokens' order is taken.
        b: The model that is written.
        found: `solve(a, b)`, whatever it found.
    """
    if not (isinstance(found, Alignment) and isinstance(a, Stream)) or found.tokens is None:
        return None
    if not can_be_written(a, b):
        return None
    blocks = tuple(replace(block, a=None, mlps=(), heads=None) for block in found.blocks)
    plain = replace(found, turn=unturned(a.width), scale=1.0, blocks=blocks)
    return aligned(a, b, plain)


def _name(source: object) -> str:
    return str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else "a model"
