"""Counts who found what, at no false positive, and how strangers were judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isnan, nan

import numpy as np
from asking import OURS
from lists import FOLLOW_UPS
from pairs import STRANGERS, Pair
from peers import PEERS
from scipy.stats import rankdata

Over = Mapping[str, Mapping[str, float]]
"""Family -> method -> the score that must be exceeded."""
_SAME_SHARE = 0.005
_P_LIMITS = (0.5, 0.2, 0.1, 0.05, 0.01, 0.001)


def thresholds(pairs: Iterable[Pair]) -> dict[str, float]:
    """Return the score that each method must exceed so that no stranger does.

    Of our commands, which have a threshold of their own, only the strangers that they call related
    count.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        if not pair.is_positive:
            for name, score in pair.scores.items():
                counts = name not in OURS or pair.called.get(name) is True
                if counts and not isnan(score):
                    found[name] = max(found.get(name, -inf), score)
    return found


def over(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Return the thresholds of every family."""
    return {f: thresholds(p for p in pairs if p.family == f) for f in families(pairs)}


def found_by(pair: Pair, method: str, limits: Mapping[str, float]) -> bool:
    """Say whether a method finds a pair related, at no false positive among the strangers.

    Our commands must say so themselves; of a part that was copied they must tell its share, and
    not call the two related.
    """
    if pair.share is not None and method in OURS:
        told = pair.shares.get(method, nan)
        return pair.called.get(method) is not True and abs(told - pair.share) <= _SAME_SHARE
    score = pair.scores.get(method, nan)
    above = not isnan(score) and score > limits.get(method, -inf)
    return above and (method not in OURS or pair.called.get(method) is True)


def auroc(pairs: Sequence[Pair], strangers: Sequence[Pair], method: str) -> float:
    """Return how often a pair scores above a stranger, ties half; no score is below any score."""
    if not pairs or not strangers:
        return nan
    scores = np.array([p.scores.get(method, nan) for p in (*pairs, *strangers)])
    ranks = rankdata(np.where(np.isnan(scores), -inf, scores))
    count = len(pairs)
    above = ranks[:count].sum() - count * (count + 1) / 2
    return float(above / (count * len(strangers)))


def families(pairs: Iterable[Pair]) -> list[str]:
    """Return the families of pairs, in their order."""
    return list(dict.fromkeys(pair.family for pair in pairs))


def methods(pairs: Sequence[Pair]) -> list[str]:
    """Return the methods that were asked, ours first."""
    known = (*OURS, *PEERS, "modeldna")
    return [m for m in known if any(m in pair.scores for pair in pairs)]


def matrix(pairs: Sequence[Pair], method: str, family: str) -> dict[str, dict[str, list[Pair]]]:
    """Return the pairs of every disguise and follow-up of a family."""
    cells: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        if pair.family == family and pair.kind == "disguise" and method in pair.scores:
            cells.setdefault(pair.steps, {}).setdefault(pair.follow_up, []).append(pair)
    return cells


# Tables


def markdown(pairs: Sequence[Pair]) -> str:
    """Return all tables."""
    limits, asked = over(pairs), methods(pairs)
    told = [*_strangers(pairs, asked), ""]
    for family in families(pairs) if "align" in asked else ():
        told += [*_matrix(pairs, "align", family, limits), ""]
    told += [*_by_family(pairs, asked, limits), ""]
    told += [*_side_by_side(pairs, asked, limits), ""]
    told += [*_by_role(pairs, asked, limits), ""]
    told += [*_denied(pairs, asked), ""]
    told += [*_undone(pairs), "", *_calibration(pairs), "", *_seconds(pairs)]
    return "\n".join(told)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| --- |{' --- |' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)}/{len(hits)}" if hits else "-"


def _found(pairs: Sequence[Pair], method: str, limits: Over) -> str:
    """Return how many pairs a method finds of those of families that it has anything to say of."""
    spoken = {f for f in families(pairs) if method in limits[f] or method in OURS}
    return _share([found_by(p, method, limits[p.family]) for p in pairs if p.family in spoken])


def _mean(told: Iterable[float | None]) -> str:
    known = [value for value in told if value is not None]
    return f"{np.mean(known):.3f} of {len(known)}" if known else "-"


def _number(value: float, digits: int = 3) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


def _strangers(pairs: Sequence[Pair], asked: Sequence[str]) -> list[str]:
    """Return how many strangers there are of each kind, and which are called related."""
    strangers = [p for p in pairs if not p.is_positive]
    rows = []
    for family in families(pairs):
        for kind in STRANGERS:
            these = [p for p in strangers if p.family == family and p.role == kind]
            worn = [sum(p.disguised == count for p in these) for count in (0, 1, 2)]
            false = [sum(p.called.get(m) is True for p in these) for m in OURS if m in asked]
            false += [sum(p.shares.get(m, 0) > 0 for p in these) for m in OURS if m in asked]
            if these:
                rows.append([family, kind, *map(str, [len(these), *worn, *false])])
    false_of = [f"called related by {m}" for m in OURS if m in asked]
    false_of += [f"said to share parts by {m}" for m in OURS if m in asked]
    head = ["family", "strangers", "pairs", "none disguised", "one", "both", *false_of]
    positive = len(pairs) - len(strangers)
    return [f"{positive} positive pairs, {len(strangers)} of strangers.", "", *_table(head, rows)]


def _matrix(pairs: Sequence[Pair], method: str, family: str, limits: Over) -> list[str]:
    """Return disguises by follow-ups: how many pairs a method finds, and the AUROC if below 1."""
    strangers = [p for p in pairs if p.family == family and not p.is_positive]
    rows = []
    for steps, cells in matrix(pairs, method, family).items():
        row = [steps]
        for after in FOLLOW_UPS:
            these = cells.get(after, [])
            area = auroc(these, strangers, method)
            told = _found(these, method, limits)
            row.append(told + (f" ({area:.3f})" if area < 1 else ""))
        rows.append(row)
    title = f"### {family}: found by {method}, at no false positive; AUROC where it is below 1"
    return [title, "", *_table(["disguise", *FOLLOW_UPS], rows)]


def _by_family(pairs: Sequence[Pair], asked: Sequence[str], limits: Over) -> list[str]:
    """Return what every method finds of disguised pairs, family by family."""
    rows = []
    for family in families(pairs):
        these = [p for p in pairs if p.family == family]
        worn, strangers = (
            [p for p in these if p.kind == "disguise"], [p for p in these if not p.is_positive]
        )  # fmt: skip
        hits = [_found(worn, m, limits) for m in asked]
        areas = [_number(auroc(worn, strangers, m)) for m in asked]
        both = zip(hits, areas, strict=True)
        rows.append([family, *(h if h == "-" else f"{h} ({a})" for h, a in both)])
    title = "### Disguised, then anything: found at no false positive, and AUROC"
    return [title, "", *_table(["family", *asked], rows)]


def _side_by_side(pairs: Sequence[Pair], asked: Sequence[str], limits: Over) -> list[str]:
    """Return, for every kind of pair, how many each method finds."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.kind == "disguise":
            groups.setdefault(f"disguise, then {pair.follow_up}", []).append(pair)
        elif pair.is_positive:
            groups.setdefault(f"{pair.kind}: {pair.steps}, {pair.follow_up}", []).append(pair)
    rows = [
        [title, *(_found(members, m, limits) for m in asked)] for title, members in groups.items()
    ]
    return ["### All methods, at no false positive", "", *_table(["pairs", *asked], rows)]


def _by_role(pairs: Sequence[Pair], asked: Sequence[str], limits: Over) -> list[str]:
    """Return how many of what was disguised or reshaped are found beside each kind of relative."""
    rows = []
    for role in ("child", "base", "sibling", "mixture"):
        these = [p for p in pairs if p.role == role and p.kind in ("disguise", "shape")]
        hits = [_found(these, m, limits) for m in asked]
        if these:
            rows.append([role, *hits])
    return ["### By what stands beside it", "", *_table(["the other model", *asked], rows)]


def _denied(pairs: Sequence[Pair], asked: Sequence[str]) -> list[str]:
    """Return how many related pairs our commands call unrelated: worse than no answer."""
    rows = []
    for family in families(pairs):
        for kind in ("disguise", "shape", "limit", "partial"):
            these = [p for p in pairs if p.family == family and p.kind == kind]
            told = [_share([p.called.get(m) is False for p in these]) for m in OURS if m in asked]
            if these:
                rows.append([family, kind, *told])
    head = ["family", "pairs", *(m for m in OURS if m in asked)]
    return ["### Related, and said not to be", "", *_table(head, rows)]


def _undone(pairs: Sequence[Pair]) -> list[str]:
    """Return what was found besides that two models are related."""
    rows = []
    for family in families(pairs):
        these = [p for p in pairs if p.family == family and p.is_positive]
        pure = [p for p in these if p.kind == "disguise" and p.follow_up == "none"]
        own = [p for p in pure if p.role == "child"]
        moved = [p for p in these if "layers-" in p.steps and p.role == "child"]
        kin = [p for p in these if "layers-" in p.steps and p.role != "child"]
        cut = [p.units for p in these if p.steps.startswith("units-cut")]
        dense = [p.experts for p in these if p.role != "mixture"]
        mixed = [p.experts for p in these if p.role == "mixture"]
        rows.append(
            [
                family,
                _share([p.undone is not None and p.undone <= 1e-5 for p in own]),
                _share([p.layers is True for p in moved]),
                _share([p.layers is True for p in kin]),
                *(_mean(told) for told in (cut, dense, mixed)),
            ]
        )
    head = [
        "family", "pure disguises undone to 1e-5", "maps of layers right", "the same, to kin",
        "units left, right (mean)", "experts of a dense model", "experts of a mixture",
    ]  # fmt: skip
    return ["### What was found besides", "", *_table(head, rows)]


def _calibration(pairs: Sequence[Pair]) -> list[str]:
    """Return how often strangers get a p of `align` as small as that: its null, put to the test."""
    rows = []
    for family in [*families(pairs), "all"]:
        found = p_of_strangers(pairs, None if family == "all" else family)
        if len(found):
            shares = [f"{(found <= limit).mean():.4f}" for limit in _P_LIMITS]
            rows.append([family, str(len(found)), *shares, f"{found.min():.2g}"])
    head = ["family", "strangers", *(f"p <= {limit}" for limit in _P_LIMITS), "smallest"]
    return ["### Shares of strangers with a p of `align` so small", "", *_table(head, rows)]


def p_of_strangers(pairs: Iterable[Pair], family: str | None = None) -> np.ndarray:
    """Return the p that `align` gave to strangers, smallest first."""
    told = [
        p.log10_p for p in pairs
        if not p.is_positive and p.log10_p is not None and family in (None, p.family)
    ]  # fmt: skip
    return np.sort(10.0 ** np.array(told, float))


def _seconds(pairs: Sequence[Pair]) -> list[str]:
    """Return what a pair costs, in seconds of one processor."""
    rows = []
    asked = list(dict.fromkeys(name for pair in pairs for name in pair.seconds))
    for family in families(pairs):
        row = [family]
        for positive in (True, False):
            these = [p for p in pairs if p.family == family and p.is_positive == positive]
            for name in asked:
                told = [s for p in these if (s := p.seconds.get(name)) is not None]
                row.append(_number(float(np.mean(told))) if told else "-")
        rows.append(row)
    head = ["family", *asked, *(f"{name}, strangers" for name in asked)]
    return ["### Seconds a pair", "", *_table(head, rows)]
