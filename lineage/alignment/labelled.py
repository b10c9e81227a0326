"""Embeddings taken together with what reads them, and tokens put in one order.

Nothing lies between an embedding and the layer that reads it but a product, so any invertible map
may be put between the two, and is undone by it. What no such map changes is the product: what each
token says to each channel. So both are replaced by it, and the channels read labelled columns.

Which map it was is told afterwards, when it is known which channels are which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_sylvester

from lineage.alignment.made import Made
from lineage.alignment.maps import sharper
from lineage.alignment.matrices import as_matrix
from lineage.artifacts import Item
from lineage.artifacts.tokens import shared_tokens
from lineage.fingerprints.agreement import Agreement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain
    from lineage.alignment.layers import Layer, Part

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]

__all__ = ["Folded", "Turned", "folded", "in_order", "order_of_tokens", "told_tokens", "turned"]

_MOST_TOKENS = 8192
"""Tokens that are looked at, at most: evenly chosen."""

_FAR_BETTER = 0.5
"""Of what is left otherwise, what a map must leave, asked where it was not fitted, to be taken."""

_RIDGE = 1e-14


def order_of_tokens(a: Chain, b: Chain) -> Order | None:
    """Return b's tokens in a's order, those that a has not where it has others; None to leave them.

    Args:
        a: A network.
        b: The other.
    """
    counts = a.words, b.words
    if a.tokens is None or b.tokens is None or not all(counts):
        return None
    ours, theirs = shared_tokens(a.tokens[: counts[0]], b.tokens[: counts[1]])
    ours, theirs = ours[ours < counts[1]], theirs[ours < counts[1]]
    if np.array_equal(ours, theirs):
        return None
    order = np.full(counts[1], -1)
    order[ours] = theirs
    order[order < 0] = np.setdiff1d(np.arange(counts[1]), theirs)
    return order.astype(np.intp)


def in_order(chain: Chain, order: Order) -> Chain:
    """Return a network with its tokens in another order.

    Args:
        chain: The network.
        order: For each place the token that goes there.
    """
    items = {
        part.item.name: _made(part.item, partial(_rows, chain, part.item, order))
        for layer in chain.layers
        for part in layer.parts.values()
        if (layer.kind == "embedding" or part.rows is None) and part.shape[0] == len(order)
    }
    return chain.with_items(items)


def _rows(chain: Chain, item: Item, order: Order) -> NDArray[np.float32]:
    return chain.arrays.whole(item)[order]


def _made(item: Item, make: partial[NDArray[np.float32]]) -> Item:
    return Item(item.name, "F32", item.shape, 4 * prod(item.shape), Made(make))


@dataclass(frozen=True, slots=True)
class Folded:
    """Two networks whose embeddings were multiplied into what reads them.

    Attributes:
        a, b: The networks, without these embeddings.
        groups: The number of each of their groups in the whole networks.
        layers: And of each of their layers.
        readers: Group that is not there -> the layers that read it, counted without embeddings.
    """

    a: Chain
    b: Chain
    groups: tuple[int, ...]
    layers: tuple[int, ...]
    readers: Mapping[int, tuple[int, ...]]


def folded(a: Chain, b: Chain) -> Folded:
    """Multiply embeddings into what reads them, where nothing else writes what they write.

    Args:
        a: A network.
        b: One of the same layers, its tokens in a's order.
    """
    gone = [i for i in range(len(a.layers)) if all(_is_alone(one, i) for one in (a, b))]
    groups = {a.layers[i].rows: i for i in gone}
    kept = [g for g in range(len(a.sizes)) if g not in groups]
    layers = [i for i in range(len(a.layers)) if i not in gone]
    readers = {
        int(g): tuple(n for n, i in enumerate(layers) if a.layers[i].columns == (g,))
        for g in groups
        if g is not None
    }
    if not gone:
        return Folded(a, b, tuple(kept), tuple(layers), {})
    tables = {i: _tables(a, b, i) for i in gone}
    made = []
    for k, chain in enumerate((a, b)):
        items: dict[str, Item] = {}
        found = []
        for i in layers:
            layer = chain.layers[i]
            at = groups.get(layer.columns[0]) if len(layer.columns) == 1 else None
            if at is not None:
                layer = _product(chain, layer, tables[at][k], items)
            found.append(_renumbered(layer, kept))
        whole = chain.with_items(items)
        sizes = tuple(chain.sizes[g] for g in kept)
        recurrent = frozenset(kept.index(g) for g in chain.recurrent)
        made.append(
            replace(
                whole,
                layers=tuple(found),
                sizes=sizes,
                recurrent=recurrent,
                norms=(),
                joined=frozenset(),
            )
        )
    return Folded(made[0], made[1], tuple(kept), tuple(layers), readers)


def _is_alone(chain: Chain, place: int) -> bool:
    """Whether a layer is an embedding that alone writes its group, to be read as it is."""
    layer = chain.layers[place]
    group = layer.rows
    if layer.kind != "embedding" or group is None or set(layer.parts) != {"weight"}:
        return False
    readers = chain.readers(group)
    return (
        len(chain.writers(group)) == 1
        and bool(readers)
        and all(one.columns == (group,) and one.parts["weight"].positions == 1 for one in readers)
    )


def _tables(a: Chain, b: Chain, place: int) -> tuple[Matrix, Matrix]:
    """Return the embeddings of both as coordinates of tokens by numbers of each.

    All products of the two with what reads them are kept along as many directions as both have.
    """
    ours, theirs = _embeddings(a, b, place)
    if len(ours) <= ours.shape[1] + theirs.shape[1]:
        return ours, theirs
    basis = np.linalg.qr(np.concatenate([ours, theirs], axis=1))[0]
    return basis.T @ ours, basis.T @ theirs


def _embeddings(a: Chain, b: Chain, place: int) -> tuple[Matrix, Matrix]:
    """Return the embeddings of the tokens that both have, of large vocabularies of some."""
    both = [c.arrays.whole(c.layers[place].parts["weight"].item) for c in (a, b)]
    count = min(map(len, both))
    some = np.unique(np.linspace(0, count - 1, min(count, _MOST_TOKENS)).astype(np.intp))
    ours, theirs = (one[some].astype(np.float64) for one in both)
    return ours, theirs


def _product(chain: Chain, layer: Layer, table: Matrix, items: dict[str, Item]) -> Layer:
    """Return a layer that reads labelled columns instead of an embedding."""
    part = layer.parts["weight"]
    weight = as_matrix(chain, part)
    values = np.einsum("grcp,kc->grkp", weight, table).astype(np.float32)
    shape = (weight.shape[0] * weight.shape[1], len(table), *part.shape[2:])
    name = f"{part.item.name}@{layer.name}"  # one tensor may hold those of several layers
    items[name] = _made(
        Item(name, "F32", shape, 4 * prod(shape), part.item.source),
        partial(np.reshape, values, shape),
    )
    new = replace(part, item=items[name], columns=(), within=())
    return replace(layer, columns=(), parts={**layer.parts, "weight": new})


def _renumbered(layer: Layer, kept: list[int]) -> Layer:
    def part(one: Part) -> Part:
        rows = None if one.rows is None else kept.index(one.rows)
        return replace(one, rows=rows, columns=tuple(kept.index(g) for g in one.columns))

    return replace(
        layer,
        rows=None if layer.rows is None else kept.index(layer.rows),
        columns=tuple(kept.index(g) for g in layer.columns),
        parts={role: part(one) for role, one in layer.parts.items()},
    )


@dataclass(frozen=True, slots=True)
class Turned:
    """How what an embedding writes becomes the other network's: by places and signs, or by a map.

    Attributes:
        order: For each of a's numbers the place of b's.
        signs: What these are multiplied by; None for nothing.
        turn: What b's vectors, a row each, are multiplied by from the right instead; None if they
            were only moved.
    """

    order: Order
    signs: Matrix | None = None
    turn: Matrix | None = None


def turned(a: Chain, b: Chain, place: int, read: tuple[Matrix, Matrix]) -> Turned:
    """Find how b's embedding becomes a's.

    Args:
        a: A network.
        b: The other, its tokens in a's order.
        place: Of the embedding's layer in both.
        read: The rows of what reads it, of a and of b, each where a has it; shape (rows, width).
    """
    ours, theirs = _embeddings(a, b, place)
    whole = _jointly(ours, theirs, *read)
    order, signs = _as_moved(whole)
    plain = np.arange(len(whole))
    moves = [(plain, np.ones(len(plain))), (order, signs)]
    left = [_left_moved(move, (ours, theirs), read) for move in moves]
    moved = 1 if left[1] < _FAR_BETTER * left[0] else 0
    apart = _left_apart((ours, theirs), read)
    if apart >= _FAR_BETTER * left[moved]:
        order, signs = moves[moved]
        return Turned(order.astype(np.intp), signs if (signs < 0).any() else None)
    here = ours.T[None, None], theirs.T[None, None]
    there = read[0].T[None, None], read[1].T[None, None]
    turn: Matrix = sharper(whole.T[None], here, there)[0].T
    return Turned(plain, None, turn)


def told_tokens(a: Chain, b: Chain, place: int, read: tuple[Matrix, Matrix]) -> Agreement:
    """Count the tokens that a map tells which was fitted to what reads the embedding, and no more.

    Args:
        a: A network.
        b: The other, its tokens in a's order.
        place: Of the embedding's layer.
        read: As for `turned`, and found without a look at embeddings or at these rows.
    """
    ours, theirs = _embeddings(a, b, place)
    there: Matrix = theirs @ _solved(read[0], read[1]).T
    moved: Matrix = there - there.mean(axis=0)
    to: Matrix = ours - ours.mean(axis=0)
    norms = np.linalg.norm(to, axis=1) + 1e-300
    best = (moved @ (to / norms[:, None]).T).argmax(axis=1)
    return Agreement(int(np.sum(best == np.arange(len(ours)))), len(ours), 1.0)


def _solved(to: Matrix, came: Matrix) -> Matrix:
    """Return the M with `to @ M` nearest to `came`."""
    gram = to.T @ to
    gram += (_RIDGE * np.trace(gram) + 1e-300) * np.eye(len(gram))
    found: Matrix = np.asarray(np.linalg.solve(gram, to.T @ came), np.float64)
    return found


def _jointly(ours: Matrix, theirs: Matrix, read: Matrix, reads: Matrix) -> Matrix:
    """Return the T with `theirs @ T` nearest to `ours` and `read @ T'` to `reads`, together."""
    tokens, rows = float(np.sum(ours**2)) + 1e-300, float(np.sum(reads**2)) + 1e-300
    width = np.eye(ours.shape[1])
    left = theirs.T @ theirs / tokens
    right = read.T @ read / rows
    both = theirs.T @ ours / tokens + reads.T @ read / rows
    left = left + _RIDGE * np.trace(left) * width
    found: Matrix = solve_sylvester(left, right, both)
    return found


def _as_moved(turn: Matrix) -> tuple[Order, Matrix]:
    """Return the order and the signs that are nearest to a map."""
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(-np.abs(turn))
    order = np.empty(len(rows), np.intp)
    order[cols] = rows
    return order, np.where(turn[order, np.arange(len(order))] < 0, -1.0, 1.0)


def _left_moved(
    move: tuple[Order, Matrix], tokens: tuple[Matrix, Matrix], read: tuple[Matrix, Matrix]
) -> float:
    order, signs = move
    return sum(_left(came[:, order] * signs, to) for to, came in (tokens, read))


def _left_apart(tokens: tuple[Matrix, Matrix], read: tuple[Matrix, Matrix]) -> float:
    """Return what maps leave that were fitted to the one, of the other."""
    by_tokens, by_rows = _solved(tokens[1], tokens[0]), _solved(read[0], read[1])
    there = _left(tokens[1] @ by_rows.T, tokens[0])
    return there + _left(read[0] @ by_tokens.T, read[1])


def _left(values: Matrix, to: Matrix) -> float:
    return float(np.sum((values - to) ** 2) / (np.sum(to**2) + 1e-300))
