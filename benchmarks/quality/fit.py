"""Fits the networks of `lineage/graph/odds.py` and writes them beside it.

    python benchmarks/quality/fit.py [--zoo DIR ...] [--held-out] [--seed N]

Needs torch. Every tuning family of the zoos, of one structure and one root, is a case, whole and
with members left out by lot; families by lot come from `python benchmarks/zoo --drawn N --out DIR`.
What is fitted is the share of the weight of all trees that the right ones have, by the matrix-tree
theorem. Families whose steps are drawn numbers are added; report families are never read. With
`--held-out` nothing is written: a third of the families is left out in turn, and what is right in
it is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lineage.evidence.ancestry import Evidence, evidence, in_view_of
from lineage.evidence.panel import Panel, structure
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.graph import odds
from lineage.graph.odds import Nets
from lineage.graph.tree import marginals

Array = NDArray[np.float64]
HIDDEN, NETS, FOLDS = 24, 3, 3
EPOCHS, BATCH, RATE, DECAY, DROPOUT = 40, 64, 0.01, 0.1, 0.1
PARTS = 16
INVENTED = 90
LEAST_EDGE = 0.4
NO_PARENT, UNKNOWN = -1, -2


@dataclass(frozen=True)
class Family:
    """Models of one structure that come from one root.

    Attributes:
        name: Of the zoo's family.
        truth: Model -> what the truth file says of it.
        prints: Model -> its fingerprint, those that belong here.
    """

    name: str
    truth: Mapping[str, Mapping[str, Any]]
    prints: Mapping[str, Fingerprint]

    def is_merge(self, model: str) -> bool:
        """Return whether a model was merged."""
        return bool(self.truth[model]["relation"] == "merge")

    def parent(self, model: str, among: Sequence[str]) -> int:
        """Return the place of the nearest ancestor at hand, if there is one."""
        while parents := self.truth[model]["parents"]:
            if len(parents) > 1:
                return UNKNOWN  # behind a merge that is not at hand
            (model,) = parents
            if model in among:
                return among.index(model)
        return NO_PARENT


class Case(NamedTuple):
    """Some members of a family.

    Attributes:
        family: Its name.
        is_whole: Whether all are there.
        seen: The evidence.
        merges: Places of merges, which have no parent to find.
        parents: Of each the place of its parent, `NO_PARENT` or `UNKNOWN`.
    """

    family: str
    is_whole: bool
    seen: Evidence
    merges: frozenset[int]
    parents: list[int]


def families(zoo: Path) -> Iterator[Family]:
    """Yield the parts of the tuning families that inference solves as one tree."""
    for path in sorted(zoo.glob("*.truth.json")):
        document = json.loads(path.read_text())
        if document["split"] != "tuning":
            continue
        truth = {model["id"]: model for model in document["models"]}
        groups: dict[object, dict[str, Fingerprint]] = {}
        for model, told in truth.items():
            is_trained = told["relation"] in {"finetune", "merge"} or not told["parents"]
            if told["path"] is None or not is_trained:
                continue
            found = fingerprint(zoo / document["family"] / told["path"], cache=True)
            if _zeros(found) < 0.05:
                at = structure(found), _root(truth, model)
                groups.setdefault(at, {})[model] = found
        for prints in groups.values():
            if len(prints) > 1:
                yield Family(document["family"], truth, dict(sorted(prints.items())))


def invented(number: int) -> Family:
    """Return a family whose steps are drawn: noise, with what siblings have of one signal.

    Trained networks are not all there is: these have exact right angles, many members, and steps of
    any size.
    """
    rng = np.random.default_rng([77, number])
    shapes = {"a.weight": (96, 64), "b.weight": (64, 96), "c.weight": (128, 48)}
    spread = {name: rng.gamma(4, 0.25, shape[1]) for name, shape in shapes.items()}
    base = {name: rng.normal(size=shape) * spread[name] for name, shape in shapes.items()}
    signals = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(3)]
    common = rng.choice([0.0, 0.2, 0.5, 0.7])
    decay = rng.choice([0.0, 0.0, 0.1])
    count = int(rng.integers(2, 9) if number % 2 else rng.integers(8, 40) if number % 30 else 90)
    made: dict[str, dict[str, Array]] = {"m000": base}
    truth: dict[str, dict[str, Any]] = {"m000": {"parents": [], "relation": None}}
    liking, hidden = {"m000": float(rng.choice([2.0, 6.0]))}, set()
    for k in range(1, count):
        model, parent = f"m{k:03}", str(rng.choice(list(liking), p=_shares(liking)))
        size, data = 10 ** rng.uniform(-2.5, 0), signals[rng.integers(3)]
        frozen = rng.choice(list(shapes)) if rng.random() < 0.12 else None
        made[model] = {
            name: values
            if name == frozen
            else (1 - decay * size) * values
            + size
            * (common**0.5 * data[name] + (1 - common) ** 0.5 * rng.normal(size=values.shape))
            * spread[name]
            for name, values in made[parent].items()
        }
        truth[model] = {"parents": [parent], "relation": "finetune"}
        liking[model] = float(rng.choice([0.2, 1.0]))
        if count > 8 and rng.random() < 0.1:
            hidden.add(model)
    prints = {
        model: fingerprint({name: v.astype(np.float32) for name, v in weights.items()})
        for model, weights in made.items()
        if model not in hidden
    }
    return Family(f"invented-{number:02}", truth, prints)


def _shares(liking: Mapping[str, float]) -> Array:
    found = np.array(list(liking.values()))
    return found / found.sum()


def _root(truth: Mapping[str, Mapping[str, Any]], model: str) -> str:
    while parents := truth[model]["parents"]:
        model = parents[0]
    return model


def _zeros(model: Fingerprint) -> float:
    matrices = [t for t in model.tensors if t.sketch is not None and len(t.shape) > 1]
    return sum(t.sketch.zeros for t in matrices if t.sketch) / max(1, sum(t.size for t in matrices))


def cases(family: Family, rng: np.random.Generator) -> Iterator[Case]:
    """Yield the family whole, and parts of it."""
    everyone = list(family.prints)
    yield _case(family, everyone, is_whole=True)
    for part in range(min(PARTS, 2 * len(everyone))):
        members = _WAYS[part % len(_WAYS)](family, rng)
        if 1 < len(members) < len(everyone):
            yield _case(family, members, is_whole=False)


def _without_leaves(family: Family, rng: np.random.Generator) -> list[str]:
    inner = {p for m in family.prints for p in family.truth[m]["parents"]}
    return [m for m in family.prints if rng.random() > (0.04 if m in inner else 0.35)]


def _by_share(family: Family, rng: np.random.Generator) -> list[str]:
    share = rng.uniform(0.15, 0.6)
    return [m for m in family.prints if rng.random() < share]


def _few(family: Family, rng: np.random.Generator) -> list[str]:
    everyone = list(family.prints)
    count = int(rng.integers(2, min(5, len(everyone)) + 1))
    return sorted(map(str, rng.choice(everyone, count, replace=False)))


def _with_ancestors(family: Family, rng: np.random.Generator) -> list[str]:
    """Return a few, and most of those they come from: what people have at hand is no random lot."""
    some = {str(m) for m in rng.choice(list(family.prints), int(rng.integers(1, 5)))}
    left = list(some)
    while left:
        for parent in family.truth[left.pop()]["parents"]:
            if parent not in some:
                left.append(parent)
                some.add(parent)
    return [m for m in family.prints if m in some and rng.random() < 0.9]


_WAYS = (_without_leaves, _with_ancestors, _by_share, _with_ancestors, _without_leaves, _few)


def _case(family: Family, members: Sequence[str], *, is_whole: bool) -> Case:
    place = {m: n for n, m in enumerate(members)}
    merges = {
        place[m]: [place[p] for p in family.truth[m]["parents"] if p in place]
        for m in members
        if family.is_merge(m)
    }
    seen = evidence(Panel([family.prints[m] for m in members]), merges)
    parents = [UNKNOWN if family.is_merge(m) else family.parent(m, members) for m in members]
    return Case(family.name, is_whole, seen, frozenset(merges), parents)


class Scorer(torch.nn.Module):
    """`odds.Net`, to be fitted."""

    def __init__(self, examples: torch.Tensor) -> None:
        """Take means and deviations from examples of the features."""
        super().__init__()
        self.mean, self.spread = examples.mean(0), examples.std(0) + 1e-6
        count = examples.shape[1]
        self.linear = torch.nn.Linear(count, 1)
        self.hidden = torch.nn.Sequential(
            torch.nn.Linear(count, HIDDEN), torch.nn.Tanh(), torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Tanh(), torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN, 1),
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return a score for the features along the last axis."""
        z = ((features - self.mean) / self.spread).clamp(-5, 5)
        found: torch.Tensor = (self.linear(z) + self.hidden(z)).squeeze(-1).clamp(-15, 15)
        return found

    def plain(self) -> odds.Net:
        """Return the network in NumPy."""
        first, _, _, second, _, _, last = self.hidden
        of = [
            self.mean, self.spread, self.linear.weight[0], first.weight, first.bias, second.weight,
            second.bias, last.weight[0], self.linear.bias[0] + last.bias[0],
        ]  # fmt: skip
        return odds.Net(*(one.detach().numpy().astype(np.float32) for one in of))


class Batch(NamedTuple):
    """Cases side by side, filled up to one number of models.

    Attributes:
        arcs: float32, shape (cases, models, models, features).
        nodes: float32, shape (cases, models, features).
        possible: bool, shape (cases, models + 1, models): arcs, and having no parent.
        right: bool: those of them that a right tree may have.
        is_there: bool, shape (cases, models).
        weight: Of each case.
    """

    arcs: torch.Tensor
    nodes: torch.Tensor
    possible: torch.Tensor
    right: torch.Tensor
    is_there: torch.Tensor
    weight: torch.Tensor


def batches(of: Sequence[Case]) -> list[Batch]:
    """Put cases of one size together; a family weighs as the root of its models' number."""
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
        found.append(_batch([of[k] for k in some], weight))
    return found


def _batch(of: Sequence[Case], weight: Sequence[float]) -> Batch:
    count, n = len(of), max(len(case.parents) for case in of)
    arcs = np.zeros((count, n, n, of[0].seen.arcs.shape[-1]), np.float32)
    nodes = np.zeros((count, n, of[0].seen.nodes.shape[-1]), np.float32)
    possible = np.zeros((count, n + 1, n), bool)
    right = np.zeros((count, n + 1, n), bool)
    is_there = np.zeros((count, n), bool)
    for k, case in enumerate(of):
        m = len(case.parents)
        arcs[k, :m, :m], nodes[k, :m], is_there[k, :m] = case.seen.arcs, case.seen.nodes, True
        possible[k, :m, :m] = ~np.eye(m, dtype=bool)
        possible[k, :m, list(case.merges)] = False
        possible[k, n, :m] = True
        right[k] = possible[k]
        for c, parent in enumerate(case.parents):
            if parent != UNKNOWN:
                right[k, :, c] = False
                right[k, n if parent == NO_PARENT else parent, c] = True
    return Batch(*map(torch.tensor, (arcs, nodes, possible, right, is_there, weight)))


def _log_weight(score: torch.Tensor, allowed: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the weight of all forests, shape (cases,)."""
    masked = torch.where(allowed, score, -1e9)
    most = torch.where(is_there, masked.max(1).values, 0.0).detach()
    weight = torch.where(allowed, torch.exp(masked - most[:, None]).clamp(min=1e-12), 0.0)
    arcs, none = weight[:, :-1], torch.where(is_there, weight[:, -1] + 1e-9, 1.0)
    laplacian = torch.diag_embed(arcs.sum(1) + none) - arcs
    return torch.logdet(laplacian.double()) + (most * is_there).sum(1).double()


def fit(of: Sequence[Case], seed: int, nets: int) -> Nets:
    """Fit networks of arcs and of models without a parent, each pair from another start."""
    data = batches(of)
    pairs = [_fit_one(data, seed + k) for k in range(nets)]
    return Nets(tuple(arcs for arcs, _ in pairs), tuple(nodes for _, nodes in pairs))


def _fit_one(data: Sequence[Batch], seed: int) -> tuple[odds.Net, odds.Net]:
    torch.manual_seed(seed)
    by_arc = Scorer(torch.cat([one.arcs[one.possible[:, :-1]] for one in data]))
    by_node = Scorer(torch.cat([one.nodes[one.is_there] for one in data]))
    parts = [*by_arc.parameters(), *by_node.parameters()]
    optimizer = torch.optim.AdamW(parts, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for k in torch.randperm(len(data)).tolist():
            one = data[k]
            score = torch.cat([by_arc(one.arcs), by_node(one.nodes)[:, None]], 1)
            good = _log_weight(score, one.right, one.is_there)
            loss = (_log_weight(score, one.possible, one.is_there) - good) @ one.weight.double()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parts, 1.0)
            optimizer.step()
        schedule.step()
    return by_arc.plain(), by_node.plain()


def arcs_of(nets: Nets, case: Case) -> NDArray[np.float64]:
    """Return the probabilities of arcs."""
    score = nets(case.seen)
    score[:-1, list(case.merges)] = -np.inf
    return marginals(score)


def _again(case: Case, first: Nets) -> Case:
    return case._replace(seen=in_view_of(case.seen, arcs_of(first, case)))


def looks(of: Sequence[Case], seed: int, nets: int) -> tuple[Nets, Nets]:
    """Fit both looks; the second on first looks at families the first was not fitted on."""
    names = sorted({case.family for case in of})
    again: list[Case] = []
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        first = fit([case for case in of if case.family not in out], seed, 1)
        again += [_again(case, first) for case in of if case.family in out]
    return fit(of, seed, nets), fit(again, seed, nets)


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


def count(nets: Nets, case: Case) -> Counts:
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


def held_out(of: Sequence[Case], seed: int, nets: int) -> None:
    """Print what is right in families that were left out."""
    names = sorted({case.family for case in of})
    whole: dict[str, Counts] = {}
    parts = Counts()
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        first, second = looks([case for case in of if case.family not in out], seed, nets)
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
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found: list[Case] = []
    number = 0
    for zoo in chosen.zoo:
        for family in families(zoo):
            print(f"{family.name}: {len(family.prints)} models", file=sys.stderr)
            found += cases(family, np.random.default_rng([chosen.seed, number]))
            number += 1
    if not found:
        print("no tuning families; make them with python benchmarks/zoo", file=sys.stderr)
        return 3
    for number in range(INVENTED):
        found += cases(invented(number), np.random.default_rng([chosen.seed, 1000 + number]))
    if chosen.held_out:
        held_out(found, chosen.seed, 1)
        return 0
    path = Path(odds.__file__).with_name(odds.WEIGHTS)
    odds.save(looks(found, chosen.seed, NETS), path)
    count_of = len({case.family for case in found})
    print(
        f"wrote {path.name}: twice {NETS} networks from {len(found)} cases of {count_of} families"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
