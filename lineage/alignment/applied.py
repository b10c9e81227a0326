"""Writes one model in another's coordinates, so that weights can be compared one by one.

Nothing that the model computes is changed by it. Where the stream was turned, its norms take the
other model's gains and what reads the stream is divided by them again; else it keeps its own gains,
unless the other's fit what was multiplied into the matrices far better.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.stream import ANCHORS, FED_BY, WRITERS
from lineage.artifacts import Artifact, Item
from lineage.artifacts.dialects import layered

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lineage.alignment.base import Alignment, BlockMatch
    from lineage.alignment.stream import Place, Stream

    Array = NDArray[np.float64]

__all__ = ["aligned"]

_BOTH_SIDES = {"cls.predictions.transform.dense"}
"""What reads the stream and writes to its coordinates, without being a block."""

_STREAM_NORMS = ("attn_output_norm", "layer_output_norm", "token_embd_norm", "transform.LayerNorm")
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
    """
    writer = _Writer(a, b, found)
    by_item: dict[str, list[tuple[str, Place]]] = {}
    for role, place in b.places.items():
        by_item.setdefault(place.item.name, []).append((role, place))
    items = []
    for name, item in b.arrays.items.items():
        if not item.dtype.startswith(("F", "BF", "Q", "I8")) or not item.shape:
            items.append(item)
            continue
        made = Made(lambda name=name: writer.tensor(b.arrays.items[name], by_item.get(name, [])))
        items.append(Item(name, "F32", item.shape, 4 * prod(item.shape), made))
    return Artifact("aligned", tuple(items))


@dataclass
class Made:
    """A tensor that is computed when it is read, and forgotten when its last bytes were."""

    make: Callable[[], NDArray[np.float32]]
    _held: memoryview | None = None
    _lock: Lock = field(default_factory=Lock)

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:  # noqa: ARG002
        """Return a view of the tensor's bytes; see `artifacts.base.Source`."""
        with self._lock:
            if self._held is None:
                array = np.ascontiguousarray(self.make(), "<f4").reshape(-1)
                self._held = memoryview(array.view(np.uint8).data)
            held = self._held
            if start + size >= len(held):
                self._held = None
        return held[start : start + size]


class _Writer:
    """Makes tensors of b in a's coordinates."""

    def __init__(self, a: Stream, b: Stream, found: Alignment) -> None:
        self.a, self.b, self.found = a, b, found
        self.turn = found.turn
        self.blocks = {block.b: block for block in found.blocks}
        self._gains: dict[str, tuple[Array, Array] | None] = {}

    def tensor(self, item: Item, roles: list[tuple[str, Place]]) -> NDArray[np.float32]:
        """Return one tensor, of which each of some roles is the whole or a part."""
        whole = np.array(self.b.arrays.whole(item))
        for role, place in roles:
            stem, _, leaf = role.rpartition(".")
            made = self._made(stem or role, leaf)
            if made is None:
                continue
            if place.axis is None:
                whole = made.reshape(whole.shape)
            elif place.axis == 0:
                whole[place.start : place.stop] = made.reshape(-1, *whole.shape[1:])
            else:
                whole[:, place.start : place.stop] = made
        return whole.astype(np.float32)

    def _made(self, stem: str, leaf: str) -> Array | None:
        """Return what has this role (`blk.0.ffn_up`, `weight`) as it is stored, or None: unchanged."""
        last = stem.rsplit(".", 1)[-1]
        if last in _STREAM_LAST or any(stem.endswith(norm) for norm in _STREAM_NORMS):
            return self._of_stream(stem, last, leaf)
        if last.endswith("norm"):
            return self._norm(stem, leaf)
        if last in FED_BY or last in WRITERS:
            return self._of_block(stem, last, leaf)
        return self._other(stem, leaf)

    def _of_stream(self, stem: str, last: str, leaf: str) -> Array | None:
        """Embeddings, and norms in the stream."""
        place = self.b.places[f"{stem}.{leaf}" if leaf else stem]
        values = self.b.arrays.part(place)
        if last not in ANCHORS:
            if self.turn.order is None or values.shape != (self.b.width,):
                return None
            moved = np.empty(self.a.width)
            moved[self.turn.order] = values * (self.turn.signs if leaf == "bias" else 1.0)
            return moved
        if values.shape == (self.b.width,):
            return self._written(values[None])[0]
        if last == "patch_embd":
            return self._written(values.T).T
        return self._written(values.reshape(-1, self.b.width))

    def _written(self, rows: NDArray[np.floating]) -> Array:
        return self.turn.apply(rows) * self.found.scale

    def _norm(self, stem: str, leaf: str) -> Array | None:
        """A norm in front of something; of one inside heads nothing is changed."""
        if f"{stem}.{leaf}" not in self.b.places or stem.rsplit(".", 1)[-1] not in FED_BY.values():
            return None
        gauge = self._gauge(stem)
        return None if gauge is None else gauge[0 if leaf == "weight" else 1]

    def _gauge(self, norm: str) -> tuple[Array, Array] | None:
        """Return gain and bias that a norm is given; None where it keeps what it has."""
        if norm not in self._gains:
            self._gains[norm] = self._chosen(norm)
        return self._gains[norm]

    def _chosen(self, norm: str) -> tuple[Array, Array] | None:
        own = self.b.gain(norm)
        if own is None or own.shape != (self.b.width,):
            return None
        theirs = self._partner(norm)
        gain = self.a.gain(theirs) if theirs else None
        bias = self.a.places.get(f"{theirs}.bias") if theirs else None
        zero = np.zeros(self.a.width)
        if gain is None or gain.shape != (self.a.width,):
            gain = np.ones(self.a.width)
        given = np.where(np.abs(gain) > _NO_GAIN * np.abs(gain).max(), gain, 1.0).astype(np.float64)
        shift = zero if bias is None else self.a.arrays.whole(bias.item).astype(np.float64)
        if self.turn.order is None:
            return given, shift
        moved, pushed = zero.copy(), zero.copy()
        moved[self.turn.order] = own
        place = self.b.places.get(f"{norm}.bias")
        if place is not None:
            pushed[self.turn.order] = self.b.arrays.whole(place.item) * self.turn.signs
        kept = float(np.sum((moved - gain) ** 2)) <= _SAME_GAIN * float(np.sum(gain**2))
        if kept or not theirs or not self._fits_better(norm, theirs, moved, given):
            return moved, pushed
        return given, shift

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
            folded = self._rows(stem, self.turn.apply(self.b.folded(stem)))
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
        match = self.blocks.get((one.stack, one.number))
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
                return self._written(self.b.arrays.part(place)[None])[0]
            return self._read_bias(stem)
        if last in WRITERS:
            rows = self._rows(stem, self._written(self.b.read(stem)))
            return rows if place.is_turned else rows.T
        rows = self._reader(stem)
        return rows.T if place.is_turned else rows

    def _reader(self, stem: str) -> Array:
        """Return what reads the stream: turned, its rows in order, under the gain it is given."""
        gauge = None if self.b.is_post else self._gauge(self.b.norm_of(stem))
        if gauge is None:
            return self._rows(stem, self.turn.apply(self.b.read(stem)))
        own = self.b.gain(self.b.norm_of(stem))
        if self.turn.order is not None and own is not None:
            moved = np.zeros(self.a.width)
            moved[self.turn.order] = own
            if np.array_equal(moved, gauge[0]):  # its own gain: nothing is divided
                return self._rows(stem, self.turn.apply(self.b.read(stem)))
        return self._rows(stem, self.turn.apply(self.b.folded(stem))) / gauge[0]

    def _read_bias(self, stem: str) -> Array | None:
        place = self.b.places[f"{stem}.bias"]
        own = self.b.arrays.part(place).astype(np.float64)
        gauge = None if self.b.is_post else self._gauge(self.b.norm_of(stem))
        if gauge is not None and f"{self.b.norm_of(stem)}.bias" in self.b.places:
            whole = self.b.bias(stem)
            assert whole is not None
            rows = self._rows(stem, whole[:, None].astype(np.float64))[:, 0]
            found: Array = rows - self._reader(stem) @ gauge[1]
            return found
        return self._rows(stem, own[:, None])[:, 0]

    def _rows(self, stem: str, rows: Array) -> Array:
        """Put the rows of a block's matrix in a's order: units, or heads."""
        one = layered(stem)
        match = None if one is None else self.blocks.get((one.stack, one.number))
        if match is None or match.a is None:
            return rows
        last = stem.rsplit(".", 1)[-1]
        if last.startswith("attn"):
            return self._heads(match, last, rows)
        label = stem.rsplit(".", 2)[-2] if ".expert." in stem else ""
        for mlp in match.mlps:
            if mlp.b == label and not mlp.units.is_same and len(mlp.units.b) == len(rows):
                moved = rows[mlp.units.b]
                scales = mlp.units.scales
                if scales is not None and last != "ffn_gate":
                    moved = moved * (scales if last == "ffn_up" else 1 / scales)[:, None]
                return moved
        return rows

    def _heads(self, match: BlockMatch, last: str, rows: Array) -> Array:
        found = match.heads
        if found is None:
            return rows
        by = {"attn_q": found.q, "attn_k": found.k, "attn_v": found.v, "attn_output": found.o}[last]
        return rows if by is None or len(by) != len(rows) else by @ rows

    def _other(self, stem: str, leaf: str) -> Array | None:
        """Heads and projections without a name of their own: by their shape they read the stream."""
        place = self.b.places.get(f"{stem}.{leaf}" if leaf else stem)
        if place is None or leaf not in {"weight", "bias"}:
            return None
        values = self.b.arrays.part(place)
        if stem in _BOTH_SIDES:
            if values.ndim == 1:
                return self._written(values[None])[0]
            return self.turn.apply(self.turn.apply(values).T).T
        if values.ndim != 2 or values.shape[1] != self.b.width:
            return None
        return self.turn.apply(values)


_STREAM_LAST = frozenset(ANCHORS)

_NO_GAIN, _SAME_GAIN = 1e-6, 1e-3
"""Of the largest gain, below which one is not divided by; and the squared difference of gains,
relative to a's, under which b keeps its own without a closer look."""
