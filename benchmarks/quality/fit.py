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

import numpy as np
import torch
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
from numpy.typing import NDArray

from lineage.evidence import alone
from lineage.evidence.alone import Alone, with_odds
from lineage.evidence.ancestry import Evidence, in_view_of
from lineage.evidence.gains import Gains
from lineage.evidence.nets import MOST, MOST_SPREAD, Net
from lineage.graph import odds
from lineage.graph.odds import Look, Nets
from lineage.graph.tree import LEAST_EDGE, marginals

HIDDEN, GAINS_HIDDEN, NETS, FOLDS = 24, 8, 3, 3
EPOCHS, GAINS_EPOCHS, BATCH, RATE, DECAY, DROPOUT = 40, 25, 64, 0.01, 0.1, 0.1
INVENTED, MORE_INVENTED = range(90), range(91, 181)
ALONE_EPOCHS, ALONE_BATCH, ALONE_DECAY, ALONE_INVENTED, SHRUNK = 60, 128, 0.3, 60, 2
SHRUNK_WEIGHT = 0.7
"""Of a step as it would be against decay, beside one as it is."""
ROOT_WEIGHT = 1.0
"""Of all trees of the right root, beside the right trees: a root is one of many arcs, and decides
where all of them lead."""


class Scorer(torch.nn.Module):
    """`Net`, to be fitted."""

    def __init__(self, examples: torch.Tensor, hidden: int) -> None:
        """Take means and deviations from examples of the features."""
        super().__init__()
        self.mean, self.spread = examples.mean(0), examples.std(0) + 1e-6
        count = examples.shape[1]
        self.linear = torch.nn.Linear(count, 1)
        self.hidden = torch.nn.Sequential(
            torch.nn.Linear(count, hidden), torch.nn.Tanh(), torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(hidden, hidden), torch.nn.Tanh(), torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return a score for the features along the last axis."""
        z = ((features - self.mean) / self.spread).clamp(-MOST_SPREAD, MOST_SPREAD)
        found: torch.Tensor = (self.linear(z) + self.hidden(z)).squeeze(-1).clamp(-MOST, MOST)
        return found

    def plain(self) -> Net:
        """Return the network in NumPy."""
        first, _, _, second, _, _, last = self.hidden
        of = [
            self.mean, self.spread, self.linear.weight[0], first.weight, first.bias, second.weight,
            second.bias, last.weight[0], self.linear.bias[0] + last.bias[0],
        ]  # fmt: skip
        return Net(*(one.detach().numpy().astype(np.float32) for one in of))


class Batch(NamedTuple):
    """Cases side by side, filled up to one number of models.

    Attributes:
        arcs: float32, shape (cases, models, models, features).
        nodes: float32, shape (cases, models, features).
        known: float32, shape (cases, models + 1, models): what is added to the scores.
        possible: bool, shape (cases, models + 1, models): arcs, and having no parent.
        right: bool: those of them that a right tree may have.
        rooted: bool: those that a tree of the right root may have.
        is_there: bool, shape (cases, models).
        weight: Of each case.
        root_weight: Of its root; 0 where it has several, or two models alone.
    """

    arcs: torch.Tensor
    nodes: torch.Tensor
    known: torch.Tensor
    possible: torch.Tensor
    right: torch.Tensor
    rooted: torch.Tensor
    is_there: torch.Tensor
    weight: torch.Tensor
    root_weight: torch.Tensor


class Example(NamedTuple):
    """A case, what is looked at in it, and what is known of its arcs' scores."""

    case: Case
    seen: Evidence | Gains
    known: NDArray[np.float64] | None = None


def batches(examples: Sequence[Example]) -> list[Batch]:
    """Put cases of one size together; a family weighs as the root of its models' number."""
    of = [example.case for example in examples]
    models: dict[str, int] = {}
    for case in of:
        models[case.family] = models.get(case.family, 0) + len(case.parents)
    weights = [models[case.family] ** -0.5 for case in of]
    total = sum(w * len(case.parents) for w, case in zip(weights, of, strict=True))
    order = sorted(range(len(of)), key=lambda k: len(of[k].parents))
    found = []
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        weight = [weights[k] / total * len(of) / len(some) for k in some]
        found.append(_batch([examples[k] for k in some], weight))
    return found


def _batch(of: Sequence[Example], weight: Sequence[float]) -> Batch:
    count, n = len(of), max(len(one.case.parents) for one in of)
    arcs = np.zeros((count, n, n, of[0].seen.arcs.shape[-1]), np.float32)
    nodes = np.zeros((count, n, of[0].seen.nodes.shape[-1]), np.float32)
    known = np.zeros((count, n + 1, n), np.float32)
    possible = np.zeros((count, n + 1, n), bool)
    right, rooted = np.zeros((2, count, n + 1, n), bool)
    root_weight = np.zeros(count, np.float32)
    is_there = np.zeros((count, n), bool)
    for k, (case, seen, score) in enumerate(of):
        m = len(case.parents)
        arcs[k, :m, :m], nodes[k, :m], is_there[k, :m] = seen.arcs, seen.nodes, True
        if score is not None:
            known[k, :m, :m], known[k, n, :m] = np.maximum(score[:-1], -MOST), score[-1]
        possible[k, :m, :m] = ~np.eye(m, dtype=bool)
        possible[k, :m, list(case.merges)] = False
        possible[k, n, :m] = True
        right[k] = possible[k]
        rooted[k] = possible[k]
        if (root := _root(case)) is not None:
            root_weight[k] = weight[k] * ROOT_WEIGHT
            rooted[k, n, [c for c in range(m) if c not in case.merges]] = False
            rooted[k, :, root] = False
            rooted[k, n, root] = True
        for c, parent in enumerate(case.parents):
            if parent != UNKNOWN:
                right[k, :, c] = False
                right[k, n if parent == NO_PARENT else parent, c] = True
    masks = possible, right, rooted, is_there
    return Batch(*map(torch.tensor, (arcs, nodes, known, *masks, weight, root_weight)))


def _root(case: Case) -> int | None:
    """Return the one model that all others of a case of three or more come from."""
    plain = [c for c in range(len(case.parents)) if c not in case.merges]
    tops = [c for c in plain if case.parents[c] == NO_PARENT]
    is_told = all(case.parents[c] != UNKNOWN for c in plain)
    return tops[0] if len(tops) == 1 and is_told and len(case.parents) > 2 else None


def _log_weight(score: torch.Tensor, allowed: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the weight of all forests, shape (cases,)."""
    masked = torch.where(allowed, score, -1e9)
    most = torch.where(is_there, masked.max(1).values, 0.0).detach()
    weight = torch.where(allowed, torch.exp(masked - most[:, None]).clamp(min=1e-12), 0.0)
    arcs, none = weight[:, :-1], torch.where(is_there, weight[:, -1] + 1e-9, 1.0)
    laplacian = torch.diag_embed(arcs.sum(1) + none) - arcs
    return torch.logdet(laplacian.double()) + (most * is_there).sum(1).double()


def fit(
    of: Sequence[Example], seed: int, nets: int, hidden: int = HIDDEN, epochs: int = EPOCHS
) -> Nets:
    """Fit networks of arcs and of models without a parent, each pair from another start."""
    data = batches(of)
    pairs = [_fit_one(data, seed + k, hidden, epochs) for k in range(nets)]
    return Nets(*zip(*pairs, strict=True), names=of[0].seen.names)


def _fit_one(data: Sequence[Batch], seed: int, hidden: int, epochs: int) -> tuple[Net, Net]:
    torch.manual_seed(seed)
    by_arc = Scorer(torch.cat([one.arcs[one.possible[:, :-1]] for one in data]), hidden)
    by_node = Scorer(torch.cat([one.nodes[one.is_there] for one in data]), hidden)
    parts = [*by_arc.parameters(), *by_node.parameters()]
    optimizer = torch.optim.AdamW(parts, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for k in torch.randperm(len(data)).tolist():
            one = data[k]
            score = torch.cat([by_arc(one.arcs), by_node(one.nodes)[:, None]], 1) + one.known
            every, good, rooted = (
                _log_weight(score, allowed, one.is_there)
                for allowed in (one.possible, one.right, one.rooted)
            )
            loss = (every - good) @ one.weight.double()
            loss += (every - rooted) @ one.root_weight.double()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parts, 1.0)
            optimizer.step()
        schedule.step()
    return by_arc.plain(), by_node.plain()


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
        first = fit(_seen([case for case in of if case.family not in out]), seed, 1)
        again += [_again(case, first) for case in of if case.family in out]
    return fit(_seen(of), seed, nets), fit(_seen(again), seed, nets)


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


class Step(NamedTuple):
    """One step of training alone: the gains of its two models, parent first."""

    family: str
    weight: float
    seen: Gains


def lone_steps(family: Family, rng: np.random.Generator) -> list[Step]:
    """Return a family's steps, as they are and as they would be against decay."""
    found = [Step(family.name, 1.0, seen) for seen in steps(family)]
    for _ in range(SHRUNK):
        found += [Step(family.name, SHRUNK_WEIGHT, seen) for seen in steps(shrunk(family, rng))]
    return found


def fit_alone(of: Sequence[Step], seed: int) -> Alone:
    """Fit networks whose score of a step is above that of the step back."""
    sizes: dict[str, int] = {}
    for one in of:
        sizes[one.family] = sizes.get(one.family, 0) + 1
    weight = torch.tensor([one.weight * sizes[one.family] ** -0.5 for one in of])
    weight /= weight.mean()
    there, back = (torch.tensor(np.stack([one.seen.arcs[at] for one in of]))
                   for at in ((0, 1), (1, 0)))  # fmt: skip
    nets = []
    for k in range(NETS):
        torch.manual_seed(seed + k)
        scorer = Scorer(torch.cat([there, back]), GAINS_HIDDEN)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=RATE, weight_decay=ALONE_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ALONE_EPOCHS)
        for _ in range(ALONE_EPOCHS):
            for lot in torch.randperm(len(of)).split(ALONE_BATCH):
                odds_of = scorer(there[lot]) - scorer(back[lot])
                loss = (torch.nn.functional.softplus(-odds_of) * weight[lot]).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
                optimizer.step()
            schedule.step()
        nets.append(scorer.plain())
    return Alone(tuple(nets), of[0].seen.names)


def alone_held_out(of: Sequence[Step], seed: int) -> None:
    """Print how often the order of steps of families that were left out is said, and right."""
    names = sorted({one.family for one in of})
    found: list[float] = []
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        by = fit_alone([one for one in of if one.family not in out], seed)
        found += [float(by(one.seen)[0, 1]) for one in of if one.family in out and one.weight == 1]
    odds_of = np.array(found)
    for least in (0.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        said = np.abs(odds_of) >= least
        print(f"odds of {np.exp(least):.1f} and more: said {said.mean():.3f}, right "
              f"{(odds_of[said] > 0).mean():.3f}")  # fmt: skip


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
    of: list[Step] = []
    for zoo in chosen.zoo:
        for number, family in enumerate(families(zoo)):
            print(f"{family.name}: {len(family.prints)} models", file=sys.stderr)
            of += lone_steps(family, np.random.default_rng([chosen.seed, number]))
    if not of:
        print("no tuning families; make them with python benchmarks/zoo", file=sys.stderr)
        return 3
    for number in range(ALONE_INVENTED):
        of += [Step(f"invented-{number}", 1.0, seen) for seen in steps(invented(number))]
    if chosen.held_out:
        alone_held_out(of, chosen.seed)
        return 0
    alone.save(fit_alone(of, chosen.seed), Path(alone.__file__).with_name(alone.WEIGHTS))
    print(f"wrote {alone.WEIGHTS}: from {len(of)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
