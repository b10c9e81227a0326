"""The values of this floor: a piece of evidence, what two models are, and what a merge is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable

Direction = Literal["a->b", "b->a"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one detector saw.

    Attributes:
        detector: Which one, with its version.
        words: One sentence for a person, in which `{a}` and `{b}` stand for the two models.
        statistic: The number it rests on, where there is one.
        log10_p: Logarithm of a p-value, where a null is known.
        null: What the p-value is valid under.
    """

    detector: str
    words: str
    statistic: float | None = None
    log10_p: float | None = None
    null: str | None = None

    def told(self, a: str, b: str) -> str:
        """Return the words with the two models' names in them."""
        return self.words.replace("{a}", a).replace("{b}", b)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "detector": self.detector,
            "words": self.told("a", "b"),
            "statistic": rounded(self.statistic),
            "log10_p": rounded(self.log10_p),
            "null": self.null,
        }


@dataclass(frozen=True, slots=True)
class Structure:
    """One model has other tensors than the other, as if made of it in a known way.

    Attributes:
        kind: `depth`, `experts`, `width` or `vocabulary`.
        relation: None where both have what the other lacks: neither was made of the other alone.
        how: A detail from `relation.HOW`, or None.
        direction: Likewise.
        is_whole: Whether, as far as this kind goes, all of the child's weights are the parent's
            still.
        evidence: Why.
    """

    kind: str
    relation: Relation | None
    how: str | None
    direction: Direction | None
    is_whole: bool
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Layers:
    """Which layers of one stack of two models are one, by their numbers."""

    stack: str
    pairs: tuple[tuple[int, int], ...]

    def reversed(self) -> Layers:
        """Return the same with the two models' places changed."""
        return Layers(self.stack, tuple(sorted((b, a) for a, b in self.pairs)))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"stack": self.stack, "pairs": [list(pair) for pair in self.pairs]}


MOST = 0.5
"""Share of both models up to which a copied part does not make relatives of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of b that is a part of a.

    Attributes:
        a: Its name there: that of a matrix, or a stack and a number.
        b: Its name here.
        values: In it, of b, that are a's.
        is_equal: Whether all of these are the same.
        cosine: Of its matrices, weighted by the root of their size.
    """

    a: str
    b: str
    values: int
    is_equal: bool
    cosine: float

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer, and no matrix outside of all."""
        return self.b.rpartition(".")[2].isdigit()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "a": self.a,
            "b": self.b,
            "values": self.values,
            "equal": self.is_equal,
            "cosine": rounded(self.cosine),
        }


@dataclass(frozen=True, slots=True)
class Copied:
    """What two models have in common, part by part.

    Attributes:
        parts: Of b that are a's, in b's order.
        share_a: Of a's values, those that b has.
        share_b: Of b's values, those that are a's.
        rest: Pooled cosine of what can be compared besides; None where nothing can.
        is_torn: Whether some layers are alike in some of their matrices only.
        has_own: Whether the model of which less is the other's has a whole stack of its own.
        is_apart: Whether the rest is strangers', or each has layers that are none of the other's.
        places: In the pairing, of all that is in the parts.
    """

    parts: tuple[Part, ...]
    share_a: float
    share_b: float
    rest: float | None
    is_torn: bool
    has_own: bool
    is_apart: bool
    places: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_partial(self) -> bool:
        """Whether no more than parts of the two are one, and the rest is not."""
        more = max(self.share_a, self.share_b)
        return bool(self.parts) and not self.is_torn and more <= MOST and self.is_apart

    @property
    def is_mixed(self) -> bool:
        """Whether layers of the two are one and the rest is strangers': each tells by itself."""
        has_layers = any(part.is_layer for part in self.parts)
        return has_layers and self.is_apart and not self.is_torn

    @property
    def is_inside(self) -> bool:
        """Whether most of one is a lesser part of the other, which has other layers besides."""
        fewer, more = sorted((self.share_a, self.share_b))
        return bool(self.parts) and not self.is_torn and fewer <= MOST < more and self.has_own

    def reversed(self) -> Copied:
        """Return the same with the two models' places changed."""
        parts = tuple(replace(part, a=part.b, b=part.a) for part in self.parts)
        return replace(self, parts=parts, share_a=self.share_b, share_b=self.share_a)

    def inside(self) -> Copied:
        """Return the same without what is outside of layers, where a turn was fitted to that.

        The share that these parts have is then not known, and not counted.
        """
        kept = tuple(part for part in self.parts if part.is_layer)
        values = sum(part.values for part in self.parts) or 1
        left = sum(part.values for part in kept) / values
        return replace(self, parts=kept, share_a=self.share_a * left, share_b=self.share_b * left)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "share_a": rounded(self.share_a),
            "share_b": rounded(self.share_b),
            "rest_cosine": rounded(self.rest),
            "parts": [part.to_json() for part in self.parts],
        }

    def evidence(self) -> Evidence:
        """Say which parts, with `{a}` and `{b}` for the models."""
        return Evidence("copied-v1", self._words(), statistic=self.share_b)

    def _words(self) -> str:
        same = "the same" if all(part.is_equal for part in self.parts) else "near to them"
        return (
            f"{_listed(part.b for part in self.parts)} of {{b}} ({self.share_b:.1%} of its values) "
            f"are {{a}}'s {_listed(part.a for part in self.parts)} ({self.share_a:.1%} of its), "
            f"{same}"
        )


def _listed(names: Iterable[str]) -> str:
    """Join names, layers as runs.

    Example:
        >>> _listed(["blk.0", "blk.1", "blk.2", "token_embd"])
        'blk.0-2, token_embd'
    """
    told = []
    apart = [(stem, int(n) if n.isdigit() else None, name)
             for name in names for stem, _, n in [name.rpartition(".")]]  # fmt: skip
    numbered = enumerate(apart)
    for _, group in groupby(numbered, lambda at: (at[1][0], (at[1][1] or 0) - at[0])):
        run = [one for _, one in group]
        first, last = run[0], run[-1]
        if len(run) == 1 or first[1] is None:
            told += [name for _, _, name in run]
        else:
            told.append(f"{first[2]}-{last[1]}")
    return ", ".join(told)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two models are to each other, from their fingerprints alone.

    Attributes:
        related: None where nothing can be said.
        relation: None where they are related but no single step is seen (siblings, or several
            steps), and where they are not related.
        how: A detail from `relation.HOW`.
        direction: None where the weights do not tell.
        margin: Positive speaks for a->b, negative for b->a; what `direction` rests on.
        share: `margin` over that of a pure step: near 1 for parent and child, 0 for siblings that
            moved alike.
        distance: Norm of the difference, over the matrices both have.
        change: That over the norm of `a`.
        step: The detail a fine-tune would have if there was a single step between the two, whether
            or not there is one; a family that knows there is reads it.
        rank: Of a difference of low rank.
        equal_share: Share of the matrices' values that are the same: bitwise equal, or laid out
            anew and the same within rounding.
        score: 1 is surely related, 0 is surely not; orders pairs, is not a probability.
        course: The most of the shorter one's course that the longer's can have; see `course`.
        is_exact: Whether the relation follows from digests and not from a measurement.
        structure: In what their structures differ, of `depth`, `experts`, `width`, `vocabulary`;
            weights of the two can be told apart one by one only where this is empty.
        layers: Which layers are one, stack by stack, where that is not simply those of one number.
        shares: Which parts of the two are one, where that was looked at.
        evidence: Why, strongest first.
    """

    related: bool | None
    relation: Relation | None = None
    how: str | None = None
    direction: Direction | None = None
    margin: float = 0.0
    share: float = 0.0
    distance: float = 0.0
    change: float | None = None
    step: str | None = None
    rank: int | None = None
    equal_share: float = 0.0
    score: float = 0.0
    course: float = inf
    is_exact: bool = False
    structure: tuple[str, ...] = ()
    layers: tuple[Layers, ...] = ()
    shares: Copied | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def log10_p(self) -> float | None:
        """The relatedness test's p-value."""
        return next((e.log10_p for e in self.evidence if e.log10_p is not None), None)

    @property
    def null(self) -> str | None:
        """What that p-value is valid under."""
        return next((e.null for e in self.evidence if e.null is not None), None)

    def reversed(self) -> Comparison:
        """Return the same with the two models' places changed."""
        turned: dict[Direction | None, Direction | None] = {"a->b": "b->a", "b->a": "a->b"}
        swapped = tuple(
            replace(e, words=e.told("\0", "{a}").replace("\0", "{b}")) for e in self.evidence
        )
        return replace(
            self,
            direction=turned.get(self.direction),
            margin=-self.margin,
            share=-self.share,
            layers=tuple(layers.reversed() for layers in self.layers),
            shares=None if self.shares is None else self.shares.reversed(),
            evidence=swapped,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without the two models' names."""
        return {
            "related": self.related,
            "relation": None if self.relation is None else str(self.relation),
            "how": self.how,
            "direction": self.direction,
            "score": rounded(self.score),
            "change": rounded(self.change),
            "rank": self.rank,
            "layers": [layers.to_json() for layers in self.layers],
            "shares": self.shares.to_json() if self.shares and self.shares.parts else None,
            "log10_p": rounded(self.log10_p),
            "null": self.null,
            "evidence": [e.to_json() for e in self.evidence],
        }


@dataclass(frozen=True, slots=True)
class Merge:
    """A model that was put together from others, without training.

    Attributes:
        parents: Places in the family's stack, in ascending order; the base is one of them.
        coefficients: What the child has of each: a share of its weights where the merge is linear
            or spherical, of its difference from the base where there is a base. The base's own is
            what the others leave of 1.
        residual: What they leave unexplained, as a share of the distance to the nearest parent.
        how: A detail from `relation.HOW`.
        base: The parent that the others' differences were taken from, where there is one.
        is_seen: Whether it was seen in single values, not only in sketches.
        is_open: Whether another of the models may as well be the one that was made.
    """

    parents: tuple[int, ...]
    coefficients: tuple[float, ...]
    residual: float
    how: str = "linear"
    base: int | None = None
    is_seen: bool = False
    is_open: bool = False


def rounded(value: float | None) -> float | None:
    """Return a number with the six digits that are printed."""
    return None if value is None else float(f"{value:.6g}")
