"""Fits the odds of `lineage/graph/odds.py` on the tuning families and prints the two tables.

    python benchmarks/quality/fit.py [--zoo DIR] [--seed N]

From every family of one structure and one root, whole and with members left out by lot, it takes
cases: does c come from w, where w is held against its parent or against one further up; and which
of the members is the root, if any. What is missed with each family left out in turn is printed too.
Report families are never read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lineage.evidence.ancestry import peculiar, way
from lineage.evidence.panel import Panel, structure
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.graph.odds import DESCENT, ROOT, descent_features, root_features

Array = NDArray[np.float64]
RIDGE = 1e-3
PARTS_OF_A_FAMILY, PARTS_FOR_ROOTS = 12, 40
SHARED_WAY = 0.25
"""Where w and c have more of the way from a far pivot in common, neither answer would be right."""


@dataclass(frozen=True)
class Family:
    """Models of one structure that come from one root.

    Attributes:
        name: Of the zoo's family.
        truth: Model -> what the truth file says of it.
        prints: Model -> its fingerprint, those that belong here.
        root: The model all come from, perhaps not at hand.
    """

    name: str
    truth: Mapping[str, Mapping[str, Any]]
    prints: Mapping[str, Fingerprint]
    root: str

    def is_merge(self, model: str) -> bool:
        """Return whether a model was merged."""
        return self.truth[model]["relation"] == "merge"

    def chain(self, model: str) -> list[str]:
        """Return the model, its parent and so on; of several parents the first."""
        found = [model]
        while self.truth[found[-1]]["parents"]:
            found.append(self.truth[found[-1]]["parents"][0])
        return found

    def upstream(self, model: str) -> set[str]:
        """Return every ancestor."""
        found: set[str] = set()
        left = list(self.truth[model]["parents"])
        while left:
            found.add(left[-1])
            left += self.truth[left.pop()]["parents"]
        return found

    def single(self, model: str) -> set[str]:
        """Return the ancestors that are reached without passing a merge."""
        found: set[str] = set()
        while len(self.truth[model]["parents"]) == 1:
            model = self.truth[model]["parents"][0]
            found.add(model)
        return found

    def parent(self, model: str, among: Sequence[str]) -> str | None:
        """Return the nearest ancestor at hand; None for roots, and behind a merge that is not."""
        while len(self.truth[model]["parents"]) == 1:
            model = self.truth[model]["parents"][0]
            if model in among:
                return model
        return None


def families(zoo: Path) -> Iterator[Family]:
    """Yield the parts of the tuning families that inference solves as one tree."""
    for path in sorted(zoo.glob("*.truth.json")):
        document = json.loads(path.read_text())
        if document["split"] != "tuning":
            continue
        truth = {model["id"]: model for model in document["models"]}
        groups: dict[object, dict[str, Fingerprint]] = {}
        whole = Family(document["family"], truth, {}, "")
        for model, told in truth.items():
            is_trained = told["relation"] in {"finetune", "merge"} or not told["parents"]
            if told["path"] is None or not is_trained:
                continue
            print(f"{document['family']}: {told['name']}", file=sys.stderr)
            found = fingerprint(zoo / document["family"] / told["path"], cache=True)
            if _zeros(found) < 0.05:
                at = structure(found), whole.chain(model)[-1]
                groups.setdefault(at, {})[model] = found
        for (_, root), prints in groups.items():  # type: ignore[misc]
            if len(prints) > 1:
                yield Family(document["family"], truth, dict(sorted(prints.items())), root)


def _zeros(model: Fingerprint) -> float:
    matrices = [t for t in model.tensors if t.sketch is not None and len(t.shape) > 1]
    return sum(t.sketch.zeros for t in matrices if t.sketch) / max(1, sum(t.size for t in matrices))


def descents(family: Family, rng: np.random.Generator) -> Iterator[tuple[Array, bool]]:
    """Yield the features of pairs and whether the second comes from the first."""
    for part in range(PARTS_OF_A_FAMILY):
        members = list(family.prints) if part < 2 else _thinned(family, rng)
        plain = [m for m in members if not family.is_merge(m)]
        parents = {m: family.parent(m, members) for m in plain}
        roots = [m for m in plain if parents[m] is None]
        if len(roots) != 1 or len(members) < 3:
            continue
        (root,) = roots
        for m in members:
            if family.is_merge(m):
                known = [p for p in family.truth[m]["parents"] if p in members]
                parents[m] = known[0] if known else root
        parents[root] = root
        yield from _pairs(family, members, root, parents, rng, far=part % 2 == 1)


def _pairs(
    family: Family, members: list[str], root: str, parents: Mapping[str, str | None],
    rng: np.random.Generator, *, far: bool,
) -> Iterator[tuple[Array, bool]]:  # fmt: skip
    panel = Panel([family.prints[m] for m in members])
    place = {m: n for n, m in enumerate(members)}
    pivot = {m: _pivot(m, parents, rng) if far else str(parents[m]) for m in members}
    squared = panel.pairs.squared
    for w in members:
        if w == root:
            continue
        p = pivot[w]
        seen = way(panel, place[w], place[p])
        for c in members:
            if c in {w, root} or family.is_merge(c):
                continue
            if family.is_merge(w) and c in family.upstream(w):
                continue
            comes = w in family.single(c)
            if not comes and (w in family.upstream(c) or _common(family, place, squared, w, c, p)):
                continue
            beside = [m for m in members if pivot[m] == p and m not in {p, c}]
            found = peculiar(squared, place[p], [place[m] for m in beside], place[c])
            coefficient = float(found[beside.index(w)]) if w in beside else 0.0
            yield descent_features(seen, coefficient, panel.pairs, place[w], place[c]), comes


def _pivot(model: str, parents: Mapping[str, str | None], rng: np.random.Generator) -> str:
    up = [str(parents[model])]
    while parents[up[-1]] != up[-1]:
        up.append(str(parents[up[-1]]))
    return up[rng.integers(len(up))]


def _common(
    family: Family, place: Mapping[str, int], squared: Array, w: str, c: str, p: str
) -> bool:
    """Whether much of the way from p to w is also on the way to c."""
    up, other = family.chain(w), set(family.chain(c))
    met = next((m for m in up if m in other), None)
    while met is not None and met not in place:
        met = next(iter(family.truth[met]["parents"]), None)
    if met is None or p not in up or met not in up or up.index(met) >= up.index(p):
        return False
    whole = max(float(squared[place[p], place[w]]), 1e-30)
    return float(squared[place[p], place[met]]) / whole > SHARED_WAY


def _thinned(family: Family, rng: np.random.Generator) -> list[str]:
    inner = {p for m in family.prints for p in family.truth[m]["parents"]}
    return [m for m in family.prints if rng.random() > (0.04 if m in inner else 0.35)]


def root_cases(family: Family, rng: np.random.Generator) -> Iterator[tuple[Array, int]]:
    """Yield the members' features as the root, and which is; their number where none is."""
    plain = [m for m in family.prints if not family.is_merge(m)]
    if len(plain) < 2:
        return
    pairs = Panel([family.prints[m] for m in plain]).pairs
    for part in range(PARTS_FOR_ROOTS):
        count = rng.integers(2, len(plain) + 1)
        some = set(plain if part == 0 else rng.choice(plain, size=count, replace=False))
        if part % 2 and family.root in plain:
            some.add(family.root)
        members = [m for m in plain if m in some]
        parents = [family.parent(m, members) for m in members]
        behind = [m for m, p in zip(members, parents, strict=True)
                  if p is None and len(family.chain(m)) != len(family.single(m)) + 1]  # fmt: skip
        roots = [n for n, p in enumerate(parents) if p is None]
        if not behind:
            at = np.array([plain.index(m) for m in members])
            yield root_features(pairs.among(at)), roots[0] if len(roots) == 1 else len(members)


def fit_descents(cases: Sequence[tuple[Array, bool]]) -> Array:
    """Fit a logistic regression with a constant last."""
    x = np.array([[*features, 1.0] for features, _ in cases])
    y = np.array([float(answer) for _, answer in cases])

    def loss(w: Array) -> tuple[float, Array]:
        z = x @ w
        ridge = np.append(w[:-1], 0)
        value = float(np.mean(np.logaddexp(0, z) - y * z) + RIDGE * ridge @ ridge / 2)
        return value, x.T @ (1 / (1 + np.exp(-z.clip(-500, 500))) - y) / len(y) + RIDGE * ridge

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def fit_roots(cases: Sequence[tuple[Array, int]]) -> Array:
    """Fit a conditional logit; the score of none is last."""

    def loss(w: Array) -> tuple[float, Array]:
        value, slope = 0.0, np.zeros_like(w)
        for x, answer in cases:
            off = _chances(x, w)
            value -= float(np.log(off[answer] + 1e-12))
            off[answer] -= 1
            slope += np.append(x.T @ off[:-1], off[-1])
        ridge = np.append(w[:-1], 0)
        return value / len(cases) + RIDGE * float(ridge @ ridge) / 2, (
            slope / len(cases) + RIDGE * ridge
        )

    return np.asarray(minimize(loss, np.zeros(len(ROOT) + 1), jac=True, method="L-BFGS-B").x)


def _chances(x: Array, w: Array) -> Array:
    scores = np.append(x @ w[:-1], w[-1])
    odds: Array = np.exp(scores - scores.max())
    return odds / odds.sum()


def main() -> int:
    home = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=home / ".cache" / "zoo")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    ways: dict[str, list[tuple[Array, bool]]] = {}
    roots: dict[str, list[tuple[Array, int]]] = {}
    for number, family in enumerate(families(chosen.zoo)):
        rng = np.random.default_rng([chosen.seed, number])
        ways.setdefault(family.name, []).extend(descents(family, rng))
        roots.setdefault(family.name, []).extend(root_cases(family, rng))
    if not ways:
        print("no tuning families; make them with python benchmarks/zoo", file=sys.stderr)
        return 3
    for name in ways:
        w = fit_descents([case for n, cases in ways.items() if n != name for case in cases])
        z = np.array([[*x, 1.0] for x, _ in ways[name]]) @ w
        y = np.array([answer for _, answer in ways[name]])
        v = fit_roots([case for n, cases in roots.items() if n != name for case in cases])
        right = [int(_chances(x, v).argmax() == answer) for x, answer in roots[name]]
        print(
            f"{name} left out: descents missed {int(np.sum(y & (z < 0)))} of {int(y.sum())}, "
            f"false {int(np.sum(~y & (z > 0)))} of {int((~y).sum())}; "
            f"roots right {sum(right)} of {len(right)}"
        )
    for title, names, w in (
        ("DESCENT_WEIGHTS", DESCENT, fit_descents([c for cases in ways.values() for c in cases])),
        ("ROOT_WEIGHTS", ROOT, fit_roots([c for cases in roots.values() for c in cases])),
    ):
        print(f"{title} = ({', '.join(f'{x:.2f}' for x in w)})  # {', '.join(names)}, constant")
    return 0


if __name__ == "__main__":
    sys.exit(main())
