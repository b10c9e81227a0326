"""Fits the networks of `lineage/graph/odds.py` and writes them beside it.

    python benchmarks/quality/fit.py [--zoo DIR ...] [--gains | --alone] [--held-out] [--seed N]

Needs torch. Every tuning family of the zoos, of one structure and one root, is a case, whole and
with members left out by lot, and again as it would be against decay; families by lot come from
`python benchmarks/zoo --drawn N --out DIR`. What is fitted is the share of the weight of all trees
that the right ones have, and that those of the right root have, by the matrix-tree theorem.
Families whose steps are drawn numbers are added; report families are never read. With `--held-out`
nothing is written: a third of the families is left out in turn, and what is right in it is printed.

Three parts are fitted one after the other: what two models alone tell (`--alone`), what the
evidence of a family is worth, and, with `--gains`, what gains and what two models alone tell are
worth beside that. The last has to be fitted on families on which the first two were not: of those
that they know they leave too little open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lone
import numpy as np
from cases import (
    NO_PARENT,
    UNKNOWN,
    Case,
    Family,
    cases,
    families,
    invented,
    shrunk,
    small_cases,
    steps,
)
from learning import Example, fit
from numpy.typing import NDArray

from lineage.evidence import alone
from lineage.evidence.alone import with_odds
from lineage.evidence.ancestry import in_view_of
from lineage.graph import odds
from lineage.graph.odds import Look, Nets
from lineage.graph.tree import LEAST_EDGE, marginals

HIDDEN, GAINS_HIDDEN, EPOCHS, GAINS_EPOCHS, NETS, FOLDS = 24, 8, 40, 25, 3, 3
INVENTED, MORE_INVENTED, ALONE_INVENTED = range(90), range(91, 181), range(60)


def arcs_of(nets: Nets | Look, case: Case) -> NDArray[np.float64]:
    """Return the probabilities of arcs."""
    score = nets(case.seen, case.odds) if isinstance(nets, Look) else nets(case.seen)
    score[:-1, list(case.merges)] = -np.inf
    return marginals(score)


def _again(case: Case, first: Nets | Look) -> Case:
    return case._replace(seen=in_view_of(case.seen, arcs_of(first, case)))


def _seen(of: Sequence[Case]) -> list[Example]:
    return [Example(case, case.seen) for case in of]


def looks(of: Sequence[Case], seed: int, nets: int) -> tuple[Nets, Nets]:
    """Fit both looks; the second on first looks at families the first was not fitted on."""
    names = sorted({case.family for case in of})
    again: list[Case] = []
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        first = fit(_seen([case for case in of if case.family not in out]), seed, 1, HIDDEN, EPOCHS)
        again += [_again(case, first) for case in of if case.family in out]
    first, second = (fit(_seen(cases), seed, nets, HIDDEN, EPOCHS) for cases in (of, again))
    return first, second


def with_gains(
    of: Sequence[Case], by: tuple[Nets, Nets], seed: int, nets: int
) -> tuple[Look, Look]:
    """Fit what gains are worth in both looks, beside the networks of the other evidence."""

    def beside(known: Nets, cases: Sequence[Case]) -> Look:
        examples = [
            Example(case, with_odds(case.seen.gains, case.odds), known(case.seen)) for case in cases
        ]
        return Look(known, fit(examples, seed, nets, GAINS_HIDDEN, GAINS_EPOCHS))

    first = beside(by[0], of)
    return first, beside(by[1], [_again(case, first) for case in of])


class Counts(NamedTuple):
    """What was right: of models, those with a parent, and edges said."""

    models: int = 0
    loss: float = 0.0
    children: int = 0
    first_right: int = 0
    said: int = 0
    right: int = 0
    alone: int = 0
    alone_right: int = 0

    def __add__(self, other: tuple[Any, ...]) -> Counts:  # type: ignore[override]
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return (
            f"loss {self.loss / max(1, self.models):.3f}, first right "
            f"{self.first_right / max(1, self.children):.3f}, recall "
            f"{self.right / max(1, self.children):.3f}, precision "
            f"{self.right / max(1, self.said):.3f}, without parent right "
            f"{self.alone_right / max(1, self.alone):.3f}"
        )


def count(nets: Nets | Look, case: Case) -> Counts:
    """Count what is right in a case."""
    found, total = arcs_of(nets, case), Counts()
    for c, parent in enumerate(case.parents):
        if parent == UNKNOWN:
            continue
        none = 1 - float(found[:, c].sum())
        first = int(found[:, c].argmax())
        chance = none if parent == NO_PARENT else float(found[parent, c])
        is_said = bool(found[first, c] >= LEAST_EDGE)
        is_child = parent != NO_PARENT
        total += (
            1, -float(np.log(max(chance, 1e-4))), is_child, is_child and first == parent, is_said,
            is_said and first == parent, not is_child, not is_child and none > 0.5,
        )  # fmt: skip
    return total


def held_out(of: Sequence[Case], chosen: argparse.Namespace) -> None:
    """Print what is right in families that were left out of the fit."""
    names = sorted({case.family for case in of})
    whole: dict[str, Counts] = {}
    parts = Counts()
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        others = [case for case in of if case.family not in out]
        first, second = _fitted(others, chosen, 1)
        for case in of:
            if case.family in out:
                told = count(second, _again(case, first))
                if case.is_whole:
                    whole[case.family] = whole.get(case.family, Counts()) + told
                else:
                    parts += told
    for name, counts in whole.items():
        print(f"{name}: {counts}")
    print(f"whole families: {sum(whole.values(), Counts())}\nparts: {parts}", flush=True)


def main() -> int:
    home = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, nargs="+", default=[home / ".cache" / "zoo"])
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--gains", action="store_true", help="fit what gains are worth")
    only.add_argument("--alone", action="store_true", help="fit what is said of two models alone")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.alone:
        return _alone(chosen)
    found: list[Case] = []
    count = 0
    for count, family in enumerate((of for zoo in chosen.zoo for of in families(zoo)), 1):
        print(f"{family.name}: {len(family.prints)} models", file=sys.stderr)
        rng = np.random.default_rng([chosen.seed, count])
        for of in (family, shrunk(family, rng)):
            if len(of.prints) > 1:
                found += _cases(of, rng, chosen)
    if not count:
        print("no tuning families; make them with python benchmarks/zoo", file=sys.stderr)
        return 3
    for number in MORE_INVENTED if chosen.gains else INVENTED:
        family = invented(number, varied=chosen.gains)
        found += _cases(family, np.random.default_rng([chosen.seed, number, 1]), chosen)
    if chosen.held_out:
        held_out(found, chosen)
        return 0
    path = Path(odds.__file__).with_name(odds.WEIGHTS)
    odds.save(_fitted(found, chosen, NETS), path)
    print(f"wrote {path.name}: from {len(found)} cases, {count} families of them trained")
    return 0


def _cases(family: Family, rng: np.random.Generator, chosen: argparse.Namespace) -> Iterator[Case]:
    yield from cases(family, rng)
    if chosen.gains:
        yield from small_cases(family, rng)


def _fitted(of: Sequence[Case], chosen: argparse.Namespace, nets: int) -> tuple[Look, Look]:
    """Fit what is chosen: the gains, or all else; the other stays as it is."""
    first, second = odds.fitted()
    if chosen.gains:
        return with_gains(of, (first.seen, second.seen), chosen.seed, nets)
    one, two = looks(of, chosen.seed, nets)
    return first._replace(seen=one), second._replace(seen=two)


def _alone(chosen: argparse.Namespace) -> int:
    of: list[lone.Step] = []
    for zoo in chosen.zoo:
        for number, family in enumerate(families(zoo)):
            print(f"{family.name}: {len(family.prints)} models", file=sys.stderr)
            of += lone.steps_of(family, np.random.default_rng([chosen.seed, number]))
    if not of:
        print("no tuning families; make them with python benchmarks/zoo", file=sys.stderr)
        return 3
    for number in ALONE_INVENTED:
        of += [lone.Step(f"invented-{number}", 1.0, seen) for seen in steps(invented(number))]
    if chosen.held_out:
        lone.held_out(of, chosen.seed)
        return 0
    alone.save(lone.fit(of, chosen.seed), Path(alone.__file__).with_name(alone.WEIGHTS))
    print(f"wrote {alone.WEIGHTS}: from {len(of)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
