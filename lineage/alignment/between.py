"""The turn between two streams, from what is labelled alike in both.

These are vectors of the same tokens, places and pixels. Where they leave directions open, a turn is
fitted to units, too, that it already tells apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.neurons import LOOKED_AT, agreement, partners, view
from lineage.alignment.turning import Turn, fitted, quiet, unturned
from lineage.artifacts.tokens import shared_tokens
from lineage.errors import ArchitectureError
from lineage.fingerprints.agreement import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints.stream import Block, Stream

    Pair = tuple[NDArray[np.floating], NDArray[np.floating]]

LABELLED = 4096
"""Labelled vectors of each kind that a turn is fitted on, at most; of a wide stream a quarter more
than it has numbers, which fixes all directions well."""

_GLANCES, _AS_WELL = 2, 0.8
"""Blocks that are looked at to see whether anything was turned at all, and the share of the units
that agree under a turn that must agree without it."""

_ROUNDS = 4
"""How often a turn that labelled vectors leave open is fitted to the units found, at most."""

_SEED = 0


def turns_between(a: Stream, b: Stream) -> tuple[Turn, Sequence[Turn], NDArray[np.float64]]:
    """Return the turn, those under which blocks are looked at, and directions to look along.

    Raises:
        ArchitectureError: If they have no labelled vectors in common.
    """
    pairs = labelled_pairs(a, b)
    if not pairs:
        raise ArchitectureError("has no tokens, places or pixels in common with the other", "b")
    turn = fitted(pairs)
    looks: Sequence[Turn] = (turn,)
    if turn.is_whole:
        directions = quiet((one for one, _ in pairs), np.random.default_rng(_SEED))
    else:
        turn, looks = _completed(a, b, pairs, turn)
        directions = np.eye(a.width)
    is_open = turn.kind != "same" and not turn.is_exact and a.width == b.width
    if is_open and _is_in_place(a, b, looks, directions):
        turn = unturned(a.width)
        looks = (turn,)
    return turn, looks, directions


def _is_in_place(
    a: Stream, b: Stream, looks: Sequence[Turn], directions: NDArray[np.float64]
) -> bool:
    """Whether units agree as well if nothing is turned: then nothing was.

    Trainings of one initialisation that went far apart have embeddings that a turn fits better.
    """
    plain, turned = Agreement(0, 0, 0.0), Agreement(0, 0, 0.0)
    for place, (where, other) in enumerate(zip(a.blocks, b.blocks, strict=False)):
        if place == _GLANCES:
            break
        turn = looks[place % len(looks)]
        for x, y in zip(a.block(*where).mlps, b.block(*other).mlps, strict=False):
            seen = view(x, directions)
            plain += agreement(seen, view(y, directions, LOOKED_AT))
            turned += agreement(seen, view(y, turn.undone(directions), LOOKED_AT))
    return plain.tells() and plain.share > _AS_WELL * turned.share


def _completed(
    a: Stream, b: Stream, pairs: list[Pair], turn: Turn
) -> tuple[Turn, tuple[Turn, Turn]]:
    """Fit a turn that labelled vectors leave open to units that they already tell apart.

    Returns:
        The turn fitted to the units of all blocks; and, to look at b's blocks of even and of odd
        place, those fitted to the others, so that nothing is scored by what it was fitted to.
    """
    blocks = [(a.block(*x), b.block(*y)) for x, y in zip(a.blocks, b.blocks, strict=False)]
    looks = turn, turn
    agreed: list[Pair] = []
    most = 0
    for _ in range(_ROUNDS):
        halves = [
            [pair for one, other in blocks[half::2] for pair in _agreed(one, other, looks[half])]
            for half in (0, 1)
        ]
        count = sum(len(one) for half in halves for one, _ in half)
        if count <= most:
            break
        most, agreed = count, halves[0] + halves[1]
        looks = fitted(pairs + halves[1]), fitted(pairs + halves[0])
    return fitted(pairs + agreed), looks


def _agreed(one: Block, other: Block, turn: Turn) -> Iterable[Pair]:
    """Yield what units of two blocks read and write, of those on which two looks agree."""
    for x, y in zip(one.mlps, other.mlps, strict=False):
        at_a, at_b = partners(x, y, turn)
        if len(at_a):
            yield x.up[at_a], y.up[at_b]
            yield x.down[at_a], y.down[at_b]


def labelled_pairs(a: Stream, b: Stream) -> list[Pair]:
    """Return the labelled vectors that two models share, by kind, evenly spread.

    Tokens are the same by their strings where both models have them, else by their numbers.
    """
    found: list[Pair] = []
    counts, others = a.labels(), b.labels()
    most = max(LABELLED, b.width + b.width // 4)
    for role in sorted(counts.keys() & others.keys()):
        ours = theirs = np.arange(min(counts[role], others[role]))
        if role == "token_embd" and (shared := _shared_tokens(a, b)) is not None:
            ours, theirs = shared
        if len(ours) > most:
            some = np.unique(np.linspace(0, len(ours) - 1, most).astype(np.intp))
            ours, theirs = ours[some], theirs[some]
        if len(ours):
            found.append((a.labelled(role, ours), b.labelled(role, theirs)))
    return found


def order_of_tokens(a: Stream, b: Stream) -> NDArray[np.intp] | None:
    """Return b's tokens in a's order, those that a has not behind; None to leave them so."""
    have_tokens = "token_embd" in a.labels() and "token_embd" in b.labels()
    shared = _shared_tokens(a, b) if have_tokens else None
    if shared is None or np.array_equal(*shared):
        return None
    rest = np.setdiff1d(np.arange(b.labels()["token_embd"]), shared[1])
    return np.concatenate([shared[1], rest]).astype(np.intp)


def _shared_tokens(a: Stream, b: Stream) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the numbers of the tokens that both have, in a and in b; None if that is not known."""
    if a.tokens is None or b.tokens is None:
        return None
    rows = a.labels()["token_embd"], b.labels()["token_embd"]
    return shared_tokens(a.tokens[: rows[0]], b.tokens[: rows[1]])
