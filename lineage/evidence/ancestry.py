"""What speaks for one model of a family being another's parent, for all ordered pairs at once.

A step from parent to child knows nothing of the steps before it. Four things follow.

- *Peculiar noise.* In a regression of every model on all others, what is peculiar to a model has
  the coefficient 1 in its children and 0 elsewhere. Siblings share what their data have in common
  and no noise, so theirs fall short. All these regressions are one inverse: of the centred Gram
  matrix of the family, which its squared distances give.
- *A node.* Seen from a parent, the ways to its children and to the rest of the family are at right
  angles; seen from a leaf they all begin the same way.
- *Direction.* The step is orthogonal to where it began, not to where it ended (`direction`).
- *Growth.* What training leaves in matrices grows, and so does the course of vectors (`gains`).
- *Values that are equal*, digest for digest: what was frozen in the step.

What speaks for an arc depends on others: whether w's step from its parent is in c can be asked when
there is an idea of its parent. So there is a second look, in view of what the first found likely.

No feature has a scale of the weights; most are cosines, shares or ratios. What each is worth is
fitted: see `graph.odds`.

Source: the inverse of a Gram matrix holds the coefficients of all regressions, Lauritzen (1996),
Graphical Models, 5.1.3; that of a tree's covariance is sparse, Felsenstein (1973).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.evidence.gains import gains

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.gains import Gains
    from lineage.evidence.panel import Panel

    Square = NDArray[np.float64]

__all__ = ["Evidence", "evidence", "in_view_of"]

_RIDGE = 1e-3
"""Added to the Gram matrix, as a share of each model's squared distance to the nearest."""

_LEAST_NEAR = (1e-6, 1e-3, 1.0)
"""A model's distance to the nearest counts as this share of the median at least, as some are equal;
as more where that is not enough."""

_DAMPING, _LIKELY = 0.98, 0.3
"""Of arcs one after the other, so that a ring of likely ones adds up; and what is likely."""

_SHARED = 0.003
"""Share of equal values above which it matters with whom they are shared."""

_AGAINST_BEST = (
    ("peculiar", 1), ("further", 1), ("share", 1), ("turn_back", 1),
    ("children", 1), ("turn", -1),
)  # fmt: skip
"""Features of an arc that are also held against the best other parent's, with the best's sign."""

_AGAINST_BEST_AGAIN = (("lean", 1), ("beta", 1), ("beside", -1), ("arc", 1))
"""The same of the second look."""

_MEANS = ("share", "turn", "behind", "further")
"""Features whose mean over all others, with w and with c as the first, is one of the pair's."""

_NODE = (
    "share", "margin", "turn", "further", "behind", "nearest_to", "children",
    "nearer", "change",
)  # fmt: skip
"""Features whose mean over all others is one of a model that has no parent among them."""


class Evidence(NamedTuple):
    """Features of arcs, and of having no parent; `_back` in a name is the same of c -> w.

    Attributes:
        arcs: float32, shape (models, models, features): [w, c] is of w as the parent of c.
        nodes: float32, shape (models, features): of a model that has no parent among the others.
        names: Of the features of arcs.
        squared: float64, shape (models, models): squared distances.
        gains: What models gained of what training leaves.
    """

    arcs: NDArray[np.float32]
    nodes: NDArray[np.float32]
    names: tuple[str, ...]
    squared: Square
    gains: Gains


def evidence(panel: Panel, merges: Mapping[int, Sequence[int]]) -> Evidence:
    """Measure all ordered pairs of a panel's models.

    Args:
        panel: Two models or more, of one structure.
        merges: Those that are made of several others: place -> its parents' places. A merge is
            explained by its parents whole, and would take their children from them.
    """
    n = len(panel)
    pairs, away = panel.pairs, ~np.eye(n, dtype=bool)
    squared = pairs.squared
    regression = _regressions(squared, merges)
    nearest = np.where(away, squared, np.inf).min(axis=0)
    is_nearest = (away & (squared == nearest)).astype(float)
    children = (regression > 0.5).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(away, 0.5 * np.log(np.maximum(squared / nearest, 1)), 0)
        energy = sum(m.energy for m in panel.matrices)
        change = 0.5 * np.log(np.maximum(squared, 1e-30) / np.asarray(energy)[:, None])
    far = np.nan_to_num(far, nan=0, posinf=5).clip(0, 5)
    seen = _turns(squared)
    equal = np.where(away, pairs.equal_share, 0)
    most = equal.max(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        short = np.where(most > _SHARED, 1 - equal / most, 0)
    found = {
        "peculiar": regression.clip(-1, 2),
        "peculiar_one": np.exp(-(((regression - 1) / 0.15) ** 2) / 2),
        "peculiar_back": regression.T.clip(-1, 2),
        "peculiar_both": (regression - regression.T).clip(-2, 2),
        "nearness": far,
        "nearness_back": far.T,
        "is_nearest": is_nearest,
        "share": pairs.share.clip(-1.2, 1.2),
        "margin": np.tanh(pairs.margin / 0.03),
        **seen,
        "equal": np.minimum(equal * 10, 1),
        "equal_most": ((equal > _SHARED) & (equal >= 0.999 * most)).astype(float),
        "equal_short": np.nan_to_num(short),
        "children": np.log1p(_others(children)),
        "children_back": np.log1p(_others(children)).T,
        "nearest_to": np.log1p(_others(is_nearest)),
        "nearest_to_back": np.log1p(_others(is_nearest)).T,
        "change": np.where(away, change, 0).clip(-9, 1),
    }
    nodes = _of_nodes(found, regression, away)
    for name, sign in _AGAINST_BEST:
        found[f"best_{name}"] = _against_best(sign * found[name], away)
    for name in _MEANS:
        mean = _mean(found[name], away)
        found[f"mean_{name}"] = np.broadcast_to(mean[:, None], (n, n))
        found[f"mean_{name}_back"] = np.broadcast_to(mean, (n, n))
    arcs = np.stack([np.asarray(one, np.float32) for one in found.values()], axis=-1)
    return Evidence(arcs, nodes.astype(np.float32), tuple(found), squared, gains(panel))


def in_view_of(seen: Evidence, arcs: Square) -> Evidence:
    """Look again, in view of how likely every arc is.

    Derivation. Take w, the model p it is taken to come from, and another model c; u = w - p. Where
    c comes from w, what is peculiar to u is in c - p with the coefficient 1: beta, which is
    <c - p, u> / |u|^2, is 1, and c - w does not lean on u, up to what they have of one signal. Of
    two siblings each has of the other's step the signal alone: beta falls short of 1 by the noise's
    share, and c - w leans back on u. Here p is every model, with its likelihood; what has no parent
    says nothing.

    Args:
        seen: The first look.
        arcs: [w, c], the probability of w -> c; what is missing to 1 is that c has no parent here.

    Returns:
        The features of the first look and, behind them, those of the second.
    """
    n, squared = len(arcs), seen.squared
    away = ~np.eye(n, dtype=bool)
    arcs = np.where(away, arcs, 0).clip(0, 1)
    alone = (1 - arcs.sum(axis=0)).clip(0, 1)
    upstream = np.linalg.inv(np.eye(n) - _DAMPING * arcs) - np.eye(n)
    children = arcs.sum(axis=1)[:, None] - arcs
    found = {
        "arc": arcs,
        "arc_back": arcs.T,
        "arc_log": np.log(arcs + 1e-4),
        "alone": np.broadcast_to(alone[:, None], (n, n)),
        "alone_back": np.broadcast_to(alone, (n, n)),
        "upstream": upstream.clip(0, 2),
        "upstream_back": upstream.T.clip(0, 2),
        "above": (upstream.T @ arcs).clip(0, 2),
        "likely_children": np.sqrt(children.clip(0, 10)),
        "likely_children_back": np.sqrt(children.T.clip(0, 10)),
        **_from_parents(squared, arcs),
    }
    for name in ("beta", "lean"):
        found[f"{name}_back"] = found[name].T
    for name, sign in _AGAINST_BEST_AGAIN:
        found[f"best_{name}"] = _against_best(sign * found[name], away)
    own = [alone, alone - alone.max(), arcs.sum(axis=1), arcs.max(axis=0), np.log(alone + 1e-4)]
    nodes = np.stack([*own, upstream.sum(axis=1)], axis=-1).astype(np.float32)
    more = np.stack([np.asarray(one, np.float32) for one in found.values()], axis=-1)
    return Evidence(
        np.concatenate([seen.arcs, more], axis=-1),
        np.concatenate([seen.nodes, nodes], axis=-1),
        seen.names + tuple(found),
        squared,
        seen.gains,
    )


def _from_parents(squared: Square, arcs: Square) -> dict[str, Square]:
    """Measure c - w against the step to w from its likely parents, and those to its children."""
    n = len(arcs)
    root = np.sqrt(squared)
    beta, lean, cosine, beside, nearest = np.zeros((5, n, n))
    for w in range(n):
        own, far = squared[:, w][:, None], root[:, w][:, None]
        inner = (squared + own - squared[w]) / 2  # [p, c]: <c - p, w - p>
        likely = np.repeat(arcs[:, w][:, None], n, axis=1)
        np.fill_diagonal(likely, 0)
        beta[w] = (likely * (_over(inner, own, -1, 3) - 1)).sum(axis=0)
        lean[w] = (likely * _over(inner - own, root[w] * far, -1, 1)).sum(axis=0)
        cosine[w] = (likely * _over(inner, root * far, -1, 1)).sum(axis=0)
        inner = (squared[w][:, None] + squared[w] - squared) / 2  # [c, x]: <c - w, x - w>
        turn = _over(inner, root[w][:, None] * root[w], -1, 1)
        likely = np.repeat(arcs[w][None], n, axis=0)
        np.fill_diagonal(likely, 0)
        beside[w] = (likely * turn).sum(axis=1) / np.maximum(likely.sum(axis=1), _LIKELY)
        nearest[w] = np.where(likely > _LIKELY, turn, -1).max(axis=1)
    return {"beta": beta, "lean": lean, "along": cosine, "beside": beside, "beside_most": nearest}


def _over(top: Square, bottom: Square, least: float, most: float) -> Square:
    """Divide, within bounds; by nothing it is 0."""
    found: Square = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 1e-30)
    return found.clip(least, most)


def _regressions(squared: Square, merges: Mapping[int, Sequence[int]]) -> Square:
    """Return [w, c], the coefficient of w where c is regressed on all that are not merges.

    A merge and what comes from it are regressed without the merge's parents.
    """
    found = np.zeros_like(squared)
    plain = [i for i in range(len(squared)) if i not in merges]
    found[np.ix_(plain, plain)] = _affine(squared[np.ix_(plain, plain)])
    for merge, parents in merges.items():
        some = [i for i in plain if i not in parents] + [merge]
        one = _affine(squared[np.ix_(some, some)])
        found[some[:-1], merge] = one[:-1, -1]
        found[merge, some[:-1]] = one[-1, :-1]
    return found


def _affine(squared: Square) -> Square:
    """Regress every model on all others, the coefficients of each summing to about 1.

    Args:
        squared: Squared distances, shape (models, models).

    Returns:
        [w, c]: the coefficient of w for c; 0 on the diagonal.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    n = len(squared)
    if n < 2:
        return np.zeros_like(squared)
    away = ~np.eye(n, dtype=bool)
    nearest = np.where(away, squared, np.inf).min(axis=0)
    scale = float(np.median(squared[away]))
    if scale <= 0:
        return np.zeros_like(squared)
    for least in _LEAST_NEAR:
        load = _RIDGE * np.maximum(nearest, least * scale)
        centred = -squared / 2 + np.diag(load)
        centred -= centred.mean(axis=0)
        centred -= centred.mean(axis=1)[:, None]
        # The constant direction, which centring empties, gets a weight of its own and leaves again.
        lifted = (centred + centred.T) / 2 + scale / n
        try:
            inverse = cho_solve(cho_factor(lifted), np.eye(n)) - 1 / scale / n
        except LinAlgError:  # distances as short as the rounding of the norms they come from
            continue
        found: Square = -inverse / np.diagonal(inverse)
        found[~away] = 0
        return found
    return np.zeros_like(squared)


def _turns(squared: Square) -> dict[str, Square]:
    """Measure w -> c against the ways from w, and from c, to every other model x."""
    n = len(squared)
    further, turn, behind, nearer = np.zeros((4, n, n))
    if n > 2:
        root = np.sqrt(squared)
        for w in range(n):
            inner = (squared[w][:, None] + squared[w] - squared) / 2  # [c, x]
            others = np.ones((n, n), bool)
            others[w], others[:, w] = False, False
            np.fill_diagonal(others, val=False)
            own = np.maximum(squared[w], 1e-30)[:, None]
            along = (inner / own).clip(-2, 3)
            near = np.where(others, 1 / (1 + squared[w] / own), 0)
            further[w] = 1 - 2 * (near * along).sum(axis=1) / np.maximum(near.sum(axis=1), 1e-9)
            cosine = inner / np.maximum(root[w][:, None] * root[w], 1e-30)
            cosine = np.where(others, cosine.clip(-1, 1), 0)
            turn[w] = cosine.sum(axis=1) / (n - 2)
            behind[w] = np.minimum(cosine, 0).sum(axis=1) / (n - 2)
            nearer[w] = (others & (squared[w] < squared)).sum(axis=1) / (n - 2)
            for found in (further, turn, behind, nearer):
                found[w, w] = 0
    return {
        "further": further.clip(-2, 2),
        "turn": turn,
        "turn_back": turn.T,
        "behind": behind,
        "behind_back": behind.T,
        "nearer": nearer,
    }


def _of_nodes(found: Mapping[str, Square], regression: Square, away: NDArray[np.bool_]) -> Square:
    """Return the features of every model as one without a parent: its own, and against the best."""
    n = len(away)
    own = [_mean(found[name], away) for name in _NODE]
    own.append(np.where(away, regression, -9).max(axis=0).clip(-1, 2))
    for name in ("share", "turn"):
        row = found[name][away].reshape(n, n - 1)
        own.append(np.quantile(row, 0.2, axis=1))
    features = np.stack(own, axis=-1)
    return np.concatenate([features, features - features.max(axis=0)], axis=1)


def _mean(feature: Square, away: NDArray[np.bool_]) -> Square:
    """Average over all others."""
    found: Square = np.where(away, feature, 0).sum(axis=1) / max(1, len(away) - 1)
    return found


def _others(of: Square) -> Square:
    """Count, for [w, c], of how many models but c it holds with w as the first."""
    found: Square = of.sum(axis=1)[:, None] - of
    return found


def _against_best(feature: Square, away: NDArray[np.bool_]) -> Square:
    """Hold [w, c] against the greatest [x, c] of any other x."""
    if len(away) < 3:
        return np.zeros_like(feature)
    two = np.partition(np.where(away, feature, -np.inf), -2, axis=0)[-2:]
    found: Square = np.where(feature == two[1], feature - two[0], feature - two[1])
    return np.where(away, found, 0)
