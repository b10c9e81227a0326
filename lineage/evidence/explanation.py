"""What was looked at between two models, as words and as JSON; `explained` looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.evidence.base import rounded
from lineage.evidence.controls import ONCE_IN, SIGNS_NULL
from lineage.evidence.kinship import RELATED, UNRELATED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.evidence.controls import Control, Test


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of change that was looked for.

    Attributes:
        name: What it would be.
        found: Whether it was; None where it cannot be told, or was not looked for.
        words: What was seen, with `{a}` and `{b}` for the models.
    """

    name: str
    found: bool | None
    words: str


@dataclass(frozen=True, slots=True)
class Size:
    """What a known operation would change.

    Attributes:
        name: Of the operation.
        change: Norm of what it changes over the norm of the weights, if those have a normal law.
    """

    name: str
    change: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that was looked at between two models.

    Attributes:
        test: The likeness of their weights against chance; None where no matrix compares.
        controls: The same with models that are not there.
        equal_share: Share of the values of all matrices that are the same.
        equal: How many matrices those are.
        patterns: What was looked for.
        change: Norm of the difference over the norm of the first model's weights.
        sizes: What that may be held against.
        direction: Why a direction is said, or is not, in several lines; with `{a}` and `{b}`.
    """

    test: Test | None
    controls: tuple[Control, ...]
    equal_share: float
    equal: int
    patterns: tuple[Pattern, ...]
    change: float | None
    sizes: tuple[Size, ...]
    direction: tuple[str, ...]

    def lines(self, a: str, b: str) -> list[str]:
        """Return all of it as lines of text that name the two models."""
        told = ["relatedness:"]
        told += [f"  {words}" for words in self._test_words()]
        if self.controls:
            told += ["controls:", *(f"  {_control_words(control)}" for control in self.controls)]
        told += ["looked for:"]
        told += [f"  {_answer(p.found)} {p.name}: {_named(p.words, a, b)}" for p in self.patterns]
        if self.change is not None and self.sizes:
            told.append(f"size: the change is {self.change:.3%} of the norm; of such weights")
            told += [f"  {_size_words(size, self.change)}" for size in self.sizes]
        return [*told, "direction:", *(f"  {_named(words, a, b)}" for words in self.direction)]

    def _test_words(self) -> Iterator[str]:
        test = self.test
        if test is None:
            yield "no matrix of one can be compared with one of the other"
            return
        yield (
            f"the weights agree in {test.agree} of {test.matrices} matrices, each by itself; over "
            f"all the cosine is {test.cosine:.4f}, z = {test.z:.3g}"
        )
        yield (
            f"independent weights leave a deviation of {test.deviation:.4f}, and |z| > "
            f"{test.once_in:.1f} once in {ONCE_IN:,} pairs; related is from {RELATED:g} on, "
            f"unrelated below {UNRELATED:g}"
        )
        if test.log10_p < 0:
            yield f"signs by lot do as well with p <= 10^{test.log10_p:.1f} (an exact bound)"
        yield (
            f"{self.equal} of the {test.matrices} matrices are equal, {self.equal_share:.1%} of "
            "their values"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        test = self.test
        return {
            "relatedness": None
            if test is None
            else {
                "matrices": test.matrices,
                "agree": test.agree,
                "cosine": rounded(test.cosine),
                "deviation": rounded(test.deviation),
                "z": rounded(test.z),
                "log10_p": rounded(test.log10_p),
                "null": SIGNS_NULL,
                "related_from": RELATED,
                "unrelated_below": UNRELATED,
            },
            "controls": [
                {
                    "name": control.name,
                    "draws": control.draws,
                    "matrices": control.matrices,
                    "cosine": rounded(control.cosine),
                    "deviation": rounded(control.deviation),
                    "words": _control_words(control),
                }
                for control in self.controls
            ],
            "equal": {"matrices": self.equal, "share": rounded(self.equal_share)},
            "patterns": [
                {"name": p.name, "found": p.found, "words": _named(p.words, "a", "b")}
                for p in self.patterns
            ],
            "sizes": [{"name": size.name, "change": rounded(size.change)} for size in self.sizes],
            "direction": [_named(words, "a", "b") for words in self.direction],
        }


def _size_words(size: Size, change: float) -> str:
    less = change >= size.change
    ratio = change / size.change if less else size.change / max(change, 1e-12)
    shown = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return f"{size.name} would leave {size.change:.3%}, {shown} times {'less' if less else 'more'}"


def _control_words(control: Control) -> str:
    if control.name == "signs":
        return (
            f"of {control.draws:,} models with the second's numbers and signs by lot the nearest "
            f"has a cosine of {control.cosine:.4f}; their deviation is {control.deviation:.4f}"
        )
    return (
        f"with the second's {control.matrices} matrices of equal shapes in each other's places the "
        f"cosine is {control.cosine:.4f}; chance leaves {control.deviation:.4f}"
    )


def _answer(found: bool | None) -> str:
    return {True: "yes", False: "no ", None: "-  "}[found]


def _named(words: str, a: str, b: str) -> str:
    return words.replace("{a}", "\0").replace("{b}", b).replace("\0", a)
