"""Writes one model in another's coordinates, so that weights can be compared one by one.

Nothing that the model computes is changed by it. Where the stream was turned, its norms take the
other model's gains and what reads the stream is divided by them again; else it keeps its own gains,
unless the other's fit what was multiplied into the matrices far better.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.made import Made
from lineage.alignment.rows import BY_HEAD, IN_HEADS, Rows
from lineage.artifacts import Artifact, Item
from lineage.artifacts.dialects import layered
from lineage.errors import ArchitectureError
from lineage.fingerprints.roles import AFTER
from lineage.fingerprints.stream import ANCHORS, FED_BY, WRITERS, alike

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.alignment.base import Alignment
    from lineage.fingerprints.places import Place
    from lineage.fingerprints.stream import Stream

    Array = NDArray[np.floating]

__all__ = ["aligned"]

_BOTH_SIDES = {"cls.predictions.transform.dense"}
"""What reads the stream and writes to its coordinates, without being a block."""

_STREAM_NORMS = (
    "attn_output_norm",
    "layer_output_norm",
    "token_embd_norm",
    "transform.LayerNorm",
    *AFTER,
)
"""Norms of vectors that have the stream's coordinates themselves."""

_FAR_BETTER = 0.5
"""Of what is left with b's own gains, what a's must leave to be taken."""


def aligned(a: Stream, b: Stream, found: Alignment) -> Artifact:
    """Return b in a's coordinates, as far as the alignment tells; tensors are made when read.

    Args:
        a: The model whose coordinates are taken.
        b: The model that is written.
        found: `solve(a, b)`.

    Returns:
        An artifact of b's names and shapes, its floating tensors in float32.

    Raises:
        ArchitectureError: If their streams have not one width: what b lacks cannot be written.
    """
    if a.width != b.width:
        raise ArchitectureError(f"its stream has {b.width} numbers and the other's {a.width}", "b")
    a, b = alike(a, b)
    writer = _Writer(a, b, found)
    by_item: dict[str, list[tuple[str, Place]]] = {}
    for role, place in b.places.items():
        by_item.setdefault(place.item.name, []).append((role, place))
    items = []
    for name, item in b.arrays.items.items():
        if not item.dtype.startswith(("F", "BF", "Q", "I8")) or not item.shape:
            items.append(item)
            continue
        made = Made(partial(writer.tensor, item, by_item.get(name, [])))
        items.append(Item(name, "F32", item.shape, 4 * prod(item.shape), made))
    return Artifact("aligned", tuple(items))


class _Writer:
    """Makes tensors of b in a's coordinates."""

    def __init__(self, a: Stream, b: Stream, found: Alignment) -> None:
        self.a, self.b, self.found = a, b, found
        self.turn = found.turn
        self.rows = Rows(b, found)
        self._gains: dict[str, tuple[Array, Array] | None] = {}

    def tensor(self, item: Item, roles: list[tuple[str, Place]]) -> NDArray[np.float32]:
        """Return one tensor, of which each of some roles is the whole or a part."""
        whole: NDArray[np.floating] = np.array(self.b.arrays.whole(item))
        for role, place in roles:
            stem, _, leaf = role.rpartition(".")
            made = self._made(self.rows.source(stem) or role, leaf)
            if made is None:
                continue
            at = whole if place.layer is None else whole[place.layer]
            if place.axis is None:
                at[...] = made.reshape(at.shape)
            elif place.axis == 0:
                at[place.start : place.stop] = made.reshape(-1, *at.shape[1:])
            else:
                at[:, place.start : place.stop] = made
        single: NDArray[np.float32] = whole.astype(np.float32)
        return single

    def _made(self, stem: str, leaf: str) -> Array | None:
        """Return what has this role (`blk.0.ffn_up`, `weight`) as stored; None if unchanged."""
        last = stem.rsplit(".", 1)[-1]
        made = self._in_place(stem, last, leaf)
        order = self.found.tokens
        if order is None or last not in _BY_TOKEN:
            return made
        if made is None:
            stored = self.b.arrays.part(self.b.places[f"{stem}.{leaf}" if leaf else stem])
            made = stored.astype(np.float64)
        return made[order] if len(made) == len(order) else made

    def _in_place(self, stem: str, last: str, leaf: str) -> Array | None:
        """Return the same with its rows in their old places."""
        if last in BY_HEAD or leaf in BY_HEAD:
            return self.rows.by_head(stem, leaf)
        if last in _STREAM_LAST or any(stem.endswith(norm) for norm in _STREAM_NORMS):
            return self._of_stream(stem, last, leaf)
        if last.endswith("norm"):
            made = self._norm(stem, leaf)
            return self._other(stem, leaf) if made is None else made
        if last in FED_BY or last in WRITERS:
            return self._of_block(stem, last, leaf)
        return self._other(stem, leaf)

    def _of_stream(self, stem: str, last: str, leaf: str) -> Array | None:
        """Embeddings, and norms in the stream."""
        place = self.b.places[f"{stem}.{leaf}" if leaf else stem]
        values = self.b.arrays.part(place)
        if last not in ANCHORS:
            if values.shape != (self.b.width,):
                return None
            return self.turn.moved(values, is_signed=leaf == "bias")
        role = f"{stem}.{leaf}" if leaf else stem
        if values.shape == (self.b.width,):
            return self._one(values, role)
        if last == "patch_embd":
            turned: Array = self._written(values.T, role).T
            return turned
        return self._written(values.reshape(-1, self.b.width), role)

    def _one(self, vector: NDArray[np.floating], role: str) -> Array:
        found: Array = self._written(vector[None], role)[0]
        return found

    def _written(self, rows: NDArray[np.floating], role: str) -> Array:
        """Return what is written to the stream, in a's coordinates and of a's size."""
        return self._levelled(self.turn.apply(rows) * np.float32(self.found.scale), role)

    def _levelled(
        self, rows: Array, role: str, gain: Array | float = 1.0, *, is_folded: bool = False
    ) -> Array:
        """Give rows along a turned stream a's mean, which norms take away and which says nothing.

        Args:
            rows: In a's coordinates.
            role: What they are in b.
            gain: That of the norm in front.
            is_folded: Whether their own mean was taken out already.
        """
        is_turned = self.turn.order is None or is_folded or self.found.is_shifted
        if not is_turned or not self.b.hides_means:
            return rows
        mean = np.zeros((len(rows), 1))
        stem, _, leaf = role.rpartition(".")
        there = self._partner(stem) if stem else None
        place = None if there is None else self.a.places.get(f"{there}.{leaf}")
        if place is not None:
            target = self.a.arrays.part(place)[None] if leaf == "bias" else self.a.read(str(there))
            target = target.reshape(-1, self.a.width)
            if target.shape == rows.shape:
                order = self.found.tokens
                if order is not None and stem.rsplit(".", 1)[-1] in _BY_TOKEN:
                    target = target[np.argsort(order)]
                mean = (target * gain).mean(axis=1, keepdims=True)
        found: Array = rows - rows.mean(axis=1, keepdims=True) + mean
        return found

    def _norm(self, stem: str, leaf: str) -> Array | None:
        """A norm in front of something; one inside heads keeps what it has for every head."""
        if stem.rsplit(".", 1)[-1] in IN_HEADS:
            return self.rows.in_heads(stem, leaf)
        if f"{stem}.{leaf}" not in self.b.places or stem.rsplit(".", 1)[-1] not in FED_BY.values():
            return None
        gauge = self._gauge(stem)
        if gauge is None:
            return None
        return gauge[0] - self.b.one if leaf == "weight" else gauge[1]

    def _gauge(self, norm: str) -> tuple[Array, Array] | None:
        """Return gain and bias that a norm is given; None where it keeps what it has."""
        if norm not in self._gains:
            self._gains[norm] = self._chosen(norm)
        return self._gains[norm]

    def _chosen(self, norm: str) -> tuple[Array, Array] | None:
        stored = self.b.gain(norm)
        if stored is None or stored.shape != (self.b.width,):
            return None
        own = stored / self._tied(norm)
        theirs = self._partner(norm)
        known = self.a.gain(theirs) if theirs else None
        bias = self.a.places.get(f"{theirs}.bias") if theirs else None
        zero = np.zeros(self.a.width)
        gain = np.ones(self.a.width)
        if known is not None and known.shape == gain.shape:
            gain = known.astype(np.float64)
        given = np.where(np.abs(gain) > _NO_GAIN * np.abs(gain).max(), gain, 1.0)
        shift = zero if bias is None else self.a.arrays.whole(bias.item).astype(np.float64)
        moved = self.turn.moved(own, is_signed=False)
        if moved is None:
            return given, shift
        place = self.b.places.get(f"{norm}.bias")
        pushed = None
        if place is not None:
            shown = self.b.arrays.whole(place.item) / self._tied(norm)
            pushed = self.turn.moved(shown, is_signed=True)
        pushed = zero if pushed is None else pushed
        kept = float(np.sum((moved - gain) ** 2)) <= _SAME_GAIN * float(np.sum(gain**2))
        if kept or not theirs or not self._fits_better(norm, theirs, moved, given):
            return moved, pushed
        return given, shift

    def _tied(self, norm: str) -> float:
        """Return what the last norm is divided by where rescaled embeddings read its stream."""
        is_tied = norm == "output_norm" and "output.weight" not in self.b.places
        return self.found.scale if is_tied else 1.0

    def _fits_better(self, norm: str, theirs: str, own: Array, given: Array) -> bool:
        """Whether what reads a norm is nearer to a's under a's gain than under its own."""
        left = np.zeros(2)
        for role in self.b.places:
            stem, _, leaf = role.rpartition(".")
            if leaf != "weight" or stem.rsplit(".", 1)[-1] not in FED_BY:
                continue
            if self.b.norm_of(stem) != norm:
                continue
            there = theirs[: -len(norm.rsplit(".", 1)[-1])] + stem.rsplit(".", 1)[-1]
            if f"{there}.weight" not in self.a.places:
                continue
            folded = self.rows.ordered(stem, self.turn.apply(self.b.folded(stem)))
            target = self.a.read(there)
            if folded.shape != target.shape:
                continue
            for i, gain in enumerate((own, given)):
                safe = np.where(gain == 0, 1.0, gain)
                left[i] += float(np.sum((folded / safe - target) ** 2))
        return bool(left[1] < _FAR_BETTER * left[0])

    def _partner(self, role: str) -> str | None:
        """Return what a role of b is called in a: of blocks, in the block that it is."""
        one = layered(role)
        if one is None:
            return role if f"{role}.weight" in self.a.places else None
        match = self.rows.block(role)
        if match is None or match.a is None:
            return None
        stack, number = match.a
        last = role[-len(one.role) :]
        return f"{stack}.{number}.{last}" if stack else f"{number}.{last}"

    def _of_block(self, stem: str, last: str, leaf: str) -> Array | None:
        place = self.b.places.get(f"{stem}.{leaf}")
        if place is None:
            return None
        if leaf == "bias":
            if last in WRITERS:
                return self._one(self.b.arrays.part(place), f"{stem}.bias")
            return self._read_bias(stem)
        if last in WRITERS:
            rows = self.rows.ordered(
                stem, self.turn.apply(self.b.read(stem)) * np.float32(self.found.scale)
            )
            rows = self._levelled(rows, f"{stem}.weight")
        else:
            rows = self._reader(stem)
        along: Array = rows if (last in WRITERS) == place.is_turned else rows.T
        return along

    def _reader(self, stem: str) -> Array:
        """Return what reads the stream: turned, its rows in order, under the gain it is given."""
        gauge = None if self.b.is_post else self._gauge(self.b.norm_of(stem))
        if gauge is None:
            return self.rows.ordered(stem, self.turn.apply(self.b.read(stem)))
        own = self.b.gain(self.b.norm_of(stem))
        if own is not None:
            moved = self.turn.moved(own / self._tied(self.b.norm_of(stem)), is_signed=False)
            if moved is not None and np.array_equal(moved, gauge[0]):  # its own gain: no division
                return self.rows.ordered(stem, self.turn.apply(self.b.read(stem)))
        rows = self.rows.ordered(stem, self.turn.apply(self.b.folded(stem)))
        levelled = self._levelled(rows, f"{stem}.weight", gauge[0], is_folded=True)
        found: Array = levelled / gauge[0].astype(levelled.dtype)
        return found

    def _read_bias(self, stem: str) -> Array | None:
        if f"{stem}.weight" not in self.b.places:
            return None
        place = self.b.places[f"{stem}.bias"]
        own = self.b.arrays.part(place).astype(np.float64)
        gauge = None if self.b.is_post else self._gauge(self.b.norm_of(stem))
        if gauge is not None and f"{self.b.norm_of(stem)}.bias" in self.b.places:
            whole = self.b.bias(stem)
            assert whole is not None
            rows = self.rows.ordered(stem, whole[:, None].astype(np.float64))[:, 0]
            found: Array = rows - self._reader(stem) @ gauge[1]
            return found
        ordered: Array = self.rows.ordered(stem, own[:, None])[:, 0]
        return ordered

    def _other(self, stem: str, leaf: str) -> Array | None:
        """What no table knows: by its shape it reads the stream, unless a says otherwise.

        Of the ways in which its extents could be the stream's coordinates the one is taken by
        which it comes nearest to a's tensor of the same name, if that is far nearer.
        """
        name = f"{stem}.{leaf}" if leaf else stem
        place = self.b.places.get(name)
        if place is None or place.axis is not None or place.layer is not None:
            return None
        stored = self.b.arrays.whole(place.item)
        if stem in _BOTH_SIDES:
            return self._along(stored, tuple(range(stored.ndim)), is_signed=True)
        known = leaf in {"weight", "bias"} and stored.ndim == 2
        plain = self._along(stored, (1,)) if known and stored.shape[1] == self.b.width else None
        there = self._partner(stem) if stem and leaf else None
        target = self.a.places.get(f"{there}.{leaf}" if there else name)
        if target is None or target.item.shape != stored.shape:
            return plain
        theirs = self.a.arrays.whole(target.item)
        best, found = _off(stored if plain is None else plain, theirs), plain
        for made in self._ways(stored):
            off = _off(made, theirs)
            if off < _FAR_BETTER * best:
                best, found = off, made
        return found

    def _ways(self, stored: NDArray[np.floating]) -> Iterator[Array]:
        """Yield a tensor with each choice of its extents as the stream's coordinates."""
        width = self.b.width
        wide = [n for n, size in enumerate(stored.shape) if size in (width, 2 * width)]
        for count in range(len(wide) + 1):
            for axes in combinations(wide, count):
                for is_signed in (True, False) if axes and self.turn.order is not None else (True,):
                    yield self._along(stored, axes, is_signed=is_signed)

    def _along(
        self, stored: NDArray[np.floating], axes: tuple[int, ...], *, is_signed: bool = True
    ) -> Array:
        """Return a tensor turned along some of its axes; without signs it is one of gains."""
        found: Array = stored
        for axis in axes:
            last = np.moveaxis(found, axis, -1)
            rows = last.reshape(-1, self.b.width)
            turned = self.turn.apply(rows)
            if not is_signed:
                moved = (self.turn.moved(row, is_signed=False) for row in rows)
                turned = np.stack([row for row in moved if row is not None])
            found = np.moveaxis(turned.reshape(*last.shape[:-1], -1), -1, axis)
        return found


def _off(made: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    return float(np.sum((made.astype(np.float64) - target) ** 2))


_STREAM_LAST = frozenset(ANCHORS)

_BY_TOKEN = frozenset({"token_embd", "output"})
"""What has a row a token."""

_NO_GAIN, _SAME_GAIN = 1e-6, 1e-3
"""Of the largest gain, below which one is not divided by; and the squared difference of gains,
relative to a's, under which b keeps its own without a closer look."""
