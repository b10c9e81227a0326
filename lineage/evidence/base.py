"""The values of this floor: a piece of evidence, what two models are, and what a merge is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

from lineage.relation import Relation

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
    """

    parents: tuple[int, ...]
    coefficients: tuple[float, ...]
    residual: float
    how: str = "linear"
    base: int | None = None
    is_seen: bool = False


def rounded(value: float | None) -> float | None:
    """Return a number with the six digits that are printed."""
    return None if value is None else float(f"{value:.6g}")
