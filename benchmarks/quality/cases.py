"""What the networks of `lineage/graph/odds.py` are fitted on: families, whole and in parts.

Tuning families of the zoo, and others whose steps are drawn numbers. Report families are not
read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from lineage.evidence import alone
from lineage.evidence.ancestry import Evidence, evidence
from lineage.evidence.gains import Gains, gains
from lineage.evidence.panel import Panel, structure
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.fingerprints.base import TensorPrint

Array = NDArray[np.float64]
PARTS = 16
NO_PARENT, UNKNOWN = -1, -2

_WHOLE, _SMALL = 30, 10
"""Models of a family that is one small case whole, and of other parts, at most."""


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
        odds: What two models alone tell, as `alone.Alone` says it.
    """

    family: str
    is_whole: bool
    seen: Evidence
    merges: frozenset[int]
    parents: list[int]
    odds: Array


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


def invented(number: int, *, varied: bool = False) -> Family:
    """Return a family whose steps are drawn: noise, with what siblings have of one signal.

    Trained networks are not all there is: these have exact right angles, many members, and steps of
    any size.

    Args:
        number: Which family.
        varied: Whether something leads in the weights where some start, and vectors move.
    """
    rng = np.random.default_rng([77, number])
    shapes: dict[str, tuple[int, ...]] = {
        "a.weight": (96, 64), "b.weight": (64, 96), "c.weight": (128, 48),
    }  # fmt: skip
    spread = {name: rng.gamma(4, 0.25, shape[1]) for name, shape in shapes.items()}
    base = {name: rng.normal(size=shape) * spread[name] for name, shape in shapes.items()}
    if varied:
        _vary(shapes, spread, base, np.random.default_rng([78, number]))
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
        frozen = str(rng.choice(list(shapes))) if rng.random() < 0.12 else None
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


def _vary(
    shapes: dict[str, tuple[int, ...]],
    spread: dict[str, Array],
    base: dict[str, Array],
    rng: np.random.Generator,
) -> None:
    """Add a mean, or what else leads, to some of a start's matrices, and up to two vectors."""
    for name, shape in shapes.items():
        one, other = (rng.normal(rng.integers(2), 1, size) for size in shape)
        base[name] += rng.choice([0.0, 0.0, 1.0, 2.0]) * np.outer(one, other) / 2
    for name in ("d.weight", "e.bias")[: rng.integers(3)]:
        shapes[name], spread[name] = (64,), rng.gamma(4, 0.25, 64)
        base[name] = ("weight" in name) + rng.uniform(0, 1) * rng.normal(size=64)


def shrunk(family: Family, rng: np.random.Generator) -> Family:
    """Return a family as it would be had its steps been against decay, of any strength.

    In every step each tensor that moved loses a share of its length, matrices alone or all of them:
    from a tenth of the step's squared relative size to ten times that, at which length says no
    more who came first, or the opposite. Merges, and what came from them, are left out.
    """
    prints: dict[str, Fingerprint] = {}
    lengths: dict[str, Array] = {}
    left = {m: set(_line(family, m)) & set(family.prints) for m in family.prints}
    for model in sorted(family.prints, key=lambda m: (len(left[m]), m)):
        own = family.prints[model].tensors
        at = family.parent(model, list(family.prints))
        if family.is_merge(model) or at == UNKNOWN:
            continue
        above = list(family.prints)[at] if at != NO_PARENT else None
        if above is None:
            lengths[model] = np.ones(len(own))
        elif above in lengths:
            theirs = family.prints[above].tensors
            size = _relative(theirs, own)
            loss = min(size, size**2 * 10 ** rng.uniform(-1, 1), 0.2)
            with_vectors = rng.random() < 0.3
            lost = [
                loss * (a.value != b.value and (with_vectors or len(b.shape) > 1))
                for a, b in zip(theirs, own, strict=True)
            ]
            lengths[model] = lengths[above] * (1 - np.array(lost))
        else:
            continue
        prints[model] = _scaled(family.prints[model], lengths[model])
    return Family(family.name, family.truth, dict(sorted(prints.items())))


def _line(family: Family, model: str) -> Iterator[str]:
    """Yield all that a model came from."""
    for parent in family.truth[model]["parents"]:
        yield parent
        yield from _line(family, parent)


def _relative(one: Sequence[TensorPrint], other: Sequence[TensorPrint]) -> float:
    """Return the norm of a step over that of its start, over all tensors."""
    step = norm = 0.0
    for a, b in zip(one, other, strict=True):
        if a.sketch is not None and b.sketch is not None:
            core = b.sketch.core.astype(np.float64) - a.sketch.core
            step, norm = step + float(np.vdot(core, core)), norm + a.sketch.energy
    return float(np.sqrt(step / max(norm, 1e-300)))


def _scaled(model: Fingerprint, lengths: Array) -> Fingerprint:
    """Return the fingerprint of a model whose tensors are as many times as long."""
    return replace(model, tensors=tuple(map(_scaled_tensor, model.tensors, lengths.tolist())))


def _scaled_tensor(tensor: TensorPrint, length: float) -> TensorPrint:
    sketch = tensor.sketch
    if length == 1 or sketch is None:
        return tensor
    core, rows, cols = (
        (part.astype(np.float64) * by).astype("<f4").tobytes()
        for part, by in (
            (sketch.core, length), (sketch.rows, length**2), (sketch.cols, length**2),
        )
    )  # fmt: skip
    energy, fourth = sketch.energy * length**2, sketch.fourth * length**4
    value = blake3(tensor.value + np.float64(length).tobytes()).digest()
    raw = core, rows + cols
    scaled = replace(sketch, raw=raw, start=(0, 0), energy=energy, fourth=fourth)
    return replace(tensor, value=value, rounded=(), sketch=scaled)


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


def steps(family: Family) -> Iterator[Gains]:
    """Yield what every step of training gained: of two models alone, the parent first."""
    for model, told in family.truth.items():
        above = told["parents"]
        is_step = len(above) == 1 and told["relation"] == "finetune"
        if is_step and model in family.prints and above[0] in family.prints:
            panel = Panel([family.prints[above[0]], family.prints[model]])
            if panel.matrices:
                yield gains(panel)


def small_cases(family: Family, rng: np.random.Generator) -> Iterator[Case]:
    """Yield steps alone and by twos, runs with what came of them, and other small parts.

    With few models at hand it is what they gained that tells the order. A family of up to 30 is
    one of the cases too.
    """
    everyone = list(family.prints)
    found = {frozenset(lot): lot for lot in _lots(family, rng) if len(lot) < len(everyone)}
    if len(everyone) <= _WHOLE:
        found[frozenset(everyone)] = everyone
    for lot in found.values():
        yield _case(family, sorted(lot), is_whole=len(lot) == len(everyone))


def _lots(family: Family, rng: np.random.Generator) -> Iterator[list[str]]:
    parents = {m: tuple(family.truth[m]["parents"]) for m in family.prints}
    steps = [
        (above[0], m) for m, above in parents.items() if len(above) == 1 and above[0] in parents
    ]
    chains = [(a, b, c) for a, b in steps for parent, c in steps if parent == b]
    forks = [(a, b, c) for a, b in steps for parent, c in steps if parent == a and b < c]
    for some, count in ((steps, 6), (chains, 3), (forks, 2)):
        for number in rng.permutation(len(some))[:count]:
            yield list(some[number])
    for way in (_with_ancestors, _with_ancestors, _with_ancestors, _few, _few, _by_share):
        lot = way(family, rng)
        if 1 < len(lot) <= _SMALL:
            yield lot
    run = [m for m in parents if family.truth[m].get("made", {}).get("by") in {"begin", "go_on"}]
    if len(run) > 1:
        yield run
        after = [m for m in parents if set(parents[m]) & set(run) and m not in run]
        yield [*run, *map(str, rng.permutation(after)[:3])]


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
    odds = alone.fitted()(seen.gains)
    return Case(family.name, is_whole, seen, frozenset(merges), parents, odds)
