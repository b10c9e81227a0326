"""A model as what reads and writes one stream: the architecture, derived from names and shapes.

A transformer adds what its blocks compute to one stream of vectors. Every weight matrix has a side
that lies along that stream and a side of its own: tokens, pixels, feed-forward units, heads. What
is alike in two models whose streams have other coordinates shows on the other side.

Norms in front of a block scale the stream coordinate by coordinate. That gain says no more than the
matrices behind it, so it is multiplied into them here; a norm that takes the mean away (one with a
bias) hides the direction of ones, so that is taken out of what is read and written. The table of
roles is GGUF's words (`artifacts.dialects`); which norm feeds which matrices is the table below.

Source: computational invariance, Ashkboos et al., "SliceGPT" (2024), section 3; QuaRot (2024).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.errors import ArchitectureError, FormatError, printable
from lineage.fingerprints.arrays import Arrays
from lineage.fingerprints.fused import FUSED
from lineage.fingerprints.places import CROSS, Place, named, of_one_width, places_of
from lineage.fingerprints.roles import settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from lineage.artifacts import Item
    from lineage.fingerprints.fused import Layout

    Matrix = NDArray[np.float32]

__all__ = ["Attention", "Block", "Mlp", "Place", "Stream", "alike"]

FED_BY = {
    "attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm",
    FUSED: "attn_norm",
    "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm",
    "ffn_gate_inp": "ffn_norm", "ffn_gate_inp_shexp": "ffn_norm",
    "output": "output_norm", "classifier": "output_norm",
}  # fmt: skip
"""What reads the stream -> the norm in front of it."""

WRITERS = frozenset({"attn_output", "ffn_down"})
"""What adds to the stream; their biases are of the stream."""

ANCHORS = ("token_embd", "position_embd", "token_types", "class_embd", "patch_embd")
"""What writes to the stream at its start, one labelled vector a token, place or pixel."""

_POST_NORMS = ("attn_output_norm", "layer_output_norm")


@dataclass(frozen=True, slots=True)
class Mlp:
    """One feed-forward part of a block, a unit a row: float32, shape (units, width).

    Attributes:
        label: Empty, or the number of an expert.
        up: What each unit reads, the norm's gain multiplied in.
        gate: What its gate reads, where it has one.
        down: What it writes.
        bias: What is added before the activation; None where there is nothing.
    """

    label: str
    up: Matrix
    gate: Matrix | None
    down: Matrix
    bias: Matrix | None

    def pair(self) -> tuple[Matrix, Matrix]:
        """Return two independent looks at the units: gate and up, or what is read and written."""
        return (self.gate, self.up) if self.gate is not None else (self.up, self.down)


@dataclass(frozen=True, slots=True)
class Attention:
    """One block's attention: float32, shape (rows, width), rows in the order of heads.

    Attributes:
        q: What queries read, the gain multiplied in.
        k: What keys read.
        v: What values read.
        o: What heads write, transposed.
        biases: Of queries, keys and values; nothing where there are none.
        has_norms: Whether queries and keys pass a norm of their own.
    """

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    biases: tuple[Matrix | None, Matrix | None, Matrix | None]
    has_norms: bool


@dataclass(frozen=True, slots=True)
class Block:
    """The feed-forward parts of one layer, in the coordinates of its model's stream."""

    stack: str
    number: int
    mlps: tuple[Mlp, ...]


@dataclass
class Stream:
    """A model, ready to be read block by block.

    Attributes:
        width: Numbers in a vector of the stream.
        places: Role (`token_embd.weight`, `blk.3.ffn_up.weight`) -> where it is.
        is_centred: Whether its norms take the mean away.
        is_post: Whether norms stand in the stream itself, as in BERT, so that their gains are
            coordinates of the stream and only permutations and signs keep what is computed.
        blocks: Stack and number of each block, in order.
        tokens: What the rows of its embeddings stand for, where that is known.
        adds_one: Whether gains are stored less one, as in Gemma; None to take what its own say.
    """

    width: int
    places: Mapping[str, Place]
    is_centred: bool
    is_post: bool
    blocks: tuple[tuple[str, int], ...]
    arrays: Arrays = field(repr=False)
    tokens: tuple[str, ...] | None = field(default=None, repr=False)
    adds_one: bool | None = None

    @classmethod
    def of(
        cls,
        items: Iterable[Item],
        *,
        name: str,
        tokens: tuple[str, ...] | None = None,
        are_numbers: bool = True,
    ) -> Stream:
        """Read the architecture off a model's tensors.

        Args:
            items: Its tensors.
            name: What errors call it.
            tokens: The strings of its tokens, by their numbers.
            are_numbers: Whether a tensor with values that are NaN, infinite or huge is refused when
                it is read.

        Raises:
            ArchitectureError: If no stream with labelled vectors and feed-forward blocks is found.
        """
        found = list(items)
        arrays = Arrays(found, are_numbers=are_numbers)
        places = of_one_width(places_of(found))
        norms = [p for role, p in places.items() if _is_norm(role) and len(p.item.shape) == 1]
        widths = Counter(p.item.shape[0] for p in norms)
        if not widths and "token_embd.weight" in places:  # of norms without gains, as in OLMo
            widths[places["token_embd.weight"].item.shape[-1]] = 1
        if not widths:
            raise ArchitectureError(
                "has no norms in front of blocks, so its stream is not known", name
            )
        width = widths.most_common(1)[0][0]
        places = settled(named(_fitting(places, width), width), width)
        blocks = sorted({
            (one.stack, one.number)
            for role in places
            if (one := layered(role)) is not None and one.role.endswith(("ffn_down.weight",))
        })  # fmt: skip
        places = {role: _turned(place, role, width) for role, place in places.items()}
        ups = [p for role, p in places.items() if role.endswith("ffn_up.weight")]
        if any(p.is_turned for p in ups if p.layer is None):
            places = {role: _turned(p, role, width, always=True) for role, p in places.items()}
        anchors = [role for role in ANCHORS if f"{role}.weight" in places]
        if not anchors or not blocks:
            raise ArchitectureError(
                "has no embeddings or no feed-forward blocks by known names", name
            )
        return cls(
            width=width,
            places=places,
            is_centred=any(role.endswith("norm.bias") for role in places),
            is_post=any(role.endswith(f".{n}.weight") for role in places for n in _POST_NORMS),
            blocks=tuple(blocks),
            arrays=arrays,
            tokens=tokens,
        )

    def gain(self, norm: str) -> NDArray[np.float32] | None:
        """Return the gain of a norm in front of something; None where it is part of the stream."""
        if self.is_post or f"{norm}.weight" not in self.places:
            return None
        place = self.places[f"{norm}.weight"]
        if place.item.shape != (self.width,):
            self._refuse(place)
        return self.arrays.whole(place.item) + np.float32(self.one)

    @property
    def one(self) -> int:
        """What is added to stored gains."""
        adds = self.says_one is True if self.adds_one is None else self.adds_one
        return int(adds)

    @cached_property
    def says_one(self) -> bool | None:
        """Whether its own gains say that one is added to them; None where they could be either.

        No name says it. Gains begin at one, and what is folded away is left as one.
        """
        if self.is_post:
            return None
        off = []
        for role, place in self.places.items():
            stem, _, leaf = role.rpartition(".")
            is_gain = leaf == "weight" and stem.rsplit(".", 1)[-1] in FED_BY.values()
            if is_gain and place.item.shape == (self.width,):
                try:
                    values = self.arrays.whole(place.item).astype(np.float64)
                except FormatError:  # that is said where it is used, if it is
                    continue
                off.append((np.mean(values**2), np.mean((values - 1) ** 2)))
        if not off:
            return None
        of_none, of_one = np.sqrt(np.median(off, axis=0))
        if _FAR_NEARER * of_none < of_one:
            return True
        return False if _FAR_NEARER * of_one < of_none else None

    def norm_of(self, role: str) -> str:
        """Return the name of the norm in front of what has this role (without `.weight`).

        Keys and values of a second attention read what the encoder's last norm gives.
        """
        one = layered(role)
        if one is not None and one.stack.endswith(CROSS) and one.role in {"attn_k", "attn_v"}:
            return FED_BY["output"]
        prefix, last = ("", role) if one is None else (role[: -len(one.role)], one.role)
        last = last.rsplit(".", 1)[-1] if last not in FED_BY else last
        norm = prefix + FED_BY[last]
        if f"{norm}.weight" not in self.places and FED_BY[last] == "ffn_norm":
            return prefix + "attn_norm"  # one norm for both, as in GPT-J
        return norm

    def read(self, role: str) -> Matrix:
        """Return the matrix of a role with the stream along its columns, as it is stored."""
        place = self.places[f"{role}.weight"]
        matrix = self.arrays.part(place)
        is_across = self._is_across(role)
        if matrix.ndim != 2 or matrix.shape[0 if is_across else 1] != self.width:
            self._refuse(place)
        return matrix.T if is_across else matrix

    def pieces(self, role: str, rows: int) -> Iterator[Matrix]:
        """Yield the rows of `read`, some at a time."""
        if self._is_across(role):
            matrix = self.read(role)
            yield from (matrix[at : at + rows] for at in range(0, len(matrix), rows))
        else:
            place = self.places[f"{role}.weight"]
            for piece in self.arrays.pieces(place, rows):
                if piece.ndim != 2 or piece.shape[1] != self.width:
                    self._refuse(place)
                yield piece

    def _is_across(self, role: str) -> bool:
        """Whether a matrix is stored with the stream along its rows."""
        last = role.rsplit(".", 1)[-1]
        is_turned = self.places[f"{role}.weight"].is_turned
        return (last in WRITERS or last == "patch_embd") != is_turned

    def _refuse(self, place: Place) -> NoReturn:
        item = place.item
        reason = f"shape {list(item.shape)} does not fit a stream of {self.width} numbers"
        raise ArchitectureError(f"tensor '{printable(item.name)}': {reason}", item.file or "memory")

    def folded(self, role: str) -> Matrix:
        """Return the same with the gain of the norm in front multiplied in, and centred."""
        matrix, gain = self.read(role), self.gain_of(role)
        if gain is not None:
            matrix *= gain  # what was read is nobody else's
        if self.hides_means:
            matrix = matrix - matrix.mean(axis=1, keepdims=True)
        return matrix

    @property
    def hides_means(self) -> bool:
        """Whether what is read does not see the mean of the stream's coordinates."""
        return self.is_centred and not self.is_post

    def gain_of(self, role: str) -> NDArray[np.float32] | None:
        """Return the gain of the norm in front of what has this role; None where there is none."""
        return self.gain(self.norm_of(role)) if role.rsplit(".", 1)[-1] in FED_BY else None

    def labels(self) -> dict[str, int]:
        """Return what writes labelled vectors to the stream, and how many each writes."""
        found = {}
        for role in ANCHORS:
            if f"{role}.weight" in self.places:
                shape = self.places[f"{role}.weight"].item.shape
                found[role] = prod(shape) // self.width
        return found

    def labelled(self, role: str, which: NDArray[np.intp]) -> Matrix:
        """Return some labelled vectors: of tokens, places, pixels.

        Args:
            role: A key of `labels`.
            which: Their numbers.

        Returns:
            float32, shape (numbers, width).
        """
        found = self.arrays.rows(self.places[f"{role}.weight"], which, self.width)
        if self.hides_means:
            found = found - found.mean(axis=1, keepdims=True)
        return found

    def block(self, stack: str, number: int) -> Block:
        """Read one block."""
        prefix = _prefix(stack, number)
        mlps = [
            Mlp(
                label,
                self.folded(f"{stem}ffn_up"),
                self.folded(f"{stem}ffn_gate") if f"{stem}ffn_gate.weight" in self.places else None,
                self.folded(f"{stem}ffn_down"),
                self.bias(f"{stem}ffn_up"),
            )
            for label, stem in self._mlps(prefix)
        ]
        for mlp, (_, stem) in zip(mlps, self._mlps(prefix), strict=True):
            sides = [one for one in (mlp.gate, mlp.up, mlp.down) if one is not None]
            if len({len(one) for one in sides}) > 1:
                self._refuse(self.places[f"{stem}ffn_up.weight"])
        return Block(stack, number, tuple(mlps))

    def written(self, stack: str, number: int, label: str) -> Matrix:
        """Return what the units of one part of a block write, as it is stored, a unit a row."""
        stems = dict(self._mlps(_prefix(stack, number)))
        return self.read(f"{stems[label]}ffn_down")

    def first_mlp(self, stack: str, number: int) -> str | None:
        """Return what the roles of a block's first feed-forward part begin with."""
        return next((stem for _, stem in self._mlps(_prefix(stack, number))), None)

    def size(self, stack: str, number: int) -> int:
        """Return how many values the matrices of one block have."""
        prefix = _prefix(stack, number)
        return sum(
            place.size
            for role, place in self.places.items()
            if role.startswith(prefix) and len(place.item.shape) > 1
        )

    def _mlps(self, prefix: str) -> list[tuple[str, str]]:
        found = []
        for role in self.places:
            if role.startswith(prefix) and role.endswith("ffn_down.weight"):
                stem = role.removesuffix("ffn_down.weight")
                if f"{stem}ffn_up.weight" in self.places:
                    found.append(
                        (stem[len(prefix) :].removesuffix(".").removeprefix("expert."), stem)
                    )
        return sorted(found, key=lambda one: (len(one[0]), one[0]))

    def bias(self, role: str) -> Matrix | None:
        """Return a reader's bias with what the norm's own bias adds to it."""
        place = self.places.get(f"{role}.bias")
        bias = None if place is None else self.arrays.part(place)
        if place is not None and bias is not None and bias.shape != self.read(role).shape[:1]:
            self._refuse(place)
        norm = None if self.is_post else self.places.get(f"{self.norm_of(role)}.bias")
        if norm is None:
            return bias
        added = self.read(role) @ self.arrays.whole(norm.item)
        return added if bias is None else bias + added

    def attention(self, stack: str, number: int, layout: Layout | None = None) -> Attention | None:
        """Read one block's attention.

        Args:
            stack: The block's.
            number: The same.
            layout: Of a matrix that holds queries, keys and values, as far as there is one.

        Returns:
            None where its parts are not known one by one.
        """
        prefix = _prefix(stack, number)
        has_norms = f"{prefix}attn_q_norm.weight" in self.places
        roles = [f"{prefix}attn_{one}" for one in ("q", "k", "v", "output")]
        fused = self.fused(stack, number)
        if fused is not None and layout is not None:
            both, o = self.folded(fused), self.folded(roles[3])
            parts = layout.rows(len(o), (len(both) - len(o)) // 2)
            bias = self.bias(fused)
            q, k, v = (both[at] for at in parts)
            cut = tuple(None if bias is None else bias[at] for at in parts)
            return Attention(q, k, v, o, (cut[0], cut[1], cut[2]), has_norms=has_norms)
        if not all(f"{role}.weight" in self.places for role in roles):
            return None
        q, k, v, o = (self.folded(role) for role in roles)
        biases = (self.bias(roles[0]), self.bias(roles[1]), self.bias(roles[2]))
        return Attention(q, k, v, o, biases, has_norms=has_norms)

    def fused(self, stack: str, number: int) -> str | None:
        """Return the role of what holds a block's queries, keys and values, rows not known by name.

        None where there is none, or they are no whole number of heads.
        """
        prefix = _prefix(stack, number)
        own = re.compile(rf"{re.escape(prefix)}(?:[^.]+\.)?{FUSED}\.weight")
        found = [role for role in self.places if own.fullmatch(role)]
        if len(found) != 1 or f"{prefix}attn_output.weight" not in self.places:
            return None
        role = found[0].removesuffix(".weight")
        rows, heads = (
            self.places[f"{one}.weight"].size // self.width
            for one in (role, self.output(stack, number))
        )
        keys = rows - heads
        return role if keys > 0 and keys % 2 == 0 and heads % (keys // 2) == 0 else None

    def second(self, stack: str, number: int) -> tuple[str, int] | None:
        """Return the stack and the number under which a block's second attention is, if any is."""
        where = stack.removesuffix("blk") + CROSS, number
        return where if f"{self.output(*where)}.weight" in self.places else None

    @property
    def seconds(self) -> tuple[tuple[str, int], ...]:
        """Stack and number of all second attentions, in the order of their blocks."""
        return tuple(one for block in self.blocks if (one := self.second(*block)) is not None)

    def output(self, stack: str, number: int) -> str:
        """Return the role of what a block's heads write."""
        return f"{_prefix(stack, number)}attn_output"


_FAR_NEARER = 3.0
"""How much nearer to nothing than to one gains are, or the other way round, to say which."""


def alike(a: Stream, b: Stream) -> tuple[Stream, Stream]:
    """Return two models, the gains of both read as those of one say, where only one's say it."""
    said = {one.says_one for one in (a, b)} - {None}
    if len(said) != 1:
        return a, b
    adds_one = said.pop()
    return replace(a, adds_one=adds_one), replace(b, adds_one=adds_one)


def _prefix(stack: str, number: int) -> str:
    return f"{stack}.{number}." if stack else f"{number}."


def _fitting(places: Mapping[str, Place], width: int) -> dict[str, Place]:
    """Call heads that read something else than the stream alone by no known name."""
    heads = {f"{role}.weight" for role, norm in FED_BY.items() if norm == "output_norm"}
    return {
        f"wider_{role}" if role in heads and place.whole[-1] != width else role: place
        for role, place in places.items()
    }


def _is_norm(role: str) -> bool:
    return role.removesuffix(".weight").endswith("norm") and role.endswith(".weight")


def _turned(place: Place, role: str, width: int, *, always: bool = False) -> Place:
    """Say of a block's matrix whether it is stored as GPT-2 stores it: inputs by outputs."""
    shape = place.whole
    one = layered(role)
    if one is None or len(shape) != 2 or not role.endswith(".weight"):
        return place
    last = role.removesuffix(".weight").rsplit(".", 1)[-1]
    reads = last in FED_BY
    if not reads and last not in WRITERS:
        return place
    along = 1 if reads else 0
    is_turned = always or (shape[along] != width and shape[1 - along] == width)
    return replace(place, is_turned=is_turned)
