"""What is done today, written anew from the papers' descriptions, on the same models.

Each is told more than `lineage` is: MoTHer how many families there are and in which stage they were
trained, the distance trees their true root. Each answers in the form of `scores.Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import inf
from pathlib import Path

import networkx as nx
import numpy as np
import weights
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scores import Answer, Said, edges
from truth import Truth

PENALTY = 0.3
"""MoTHer's weight of the direction, as a share of the mean distance."""

FAR = 10.0
"""The distance of models that no tensor can be held against, in largest distances."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything the baselines need of some models, from one pass over their tensors.

    Attributes:
        names: Of the models that could be read, in the order of the matrices' rows.
        mean_distance: Mean over common tensors of the norm of the difference; inf if none.
        relative: Norm of the whole difference over the geometric mean of both norms.
        kurtosis: Sum over square matrices of their weights' kurtosis.
        stable_rank: Mean over matrices of the squared Frobenius norm over the squared spectral one.
        deviations: Model -> kind of matrix -> standard deviation, layer after layer.
    """

    names: tuple[str, ...]
    mean_distance: np.ndarray
    relative: np.ndarray
    kurtosis: np.ndarray
    stable_rank: np.ndarray
    deviations: Mapping[str, Mapping[str, Mapping[int, float]]]


def measure(paths: Mapping[str, Path]) -> Measured:
    """Read every tensor once, of all models that have it."""
    models = weights.open_all(paths)
    names = tuple(models)
    place = {name: i for i, name in enumerate(names)}
    n = len(names)
    squares, norms_a, norms_b = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    lengths, counts = np.zeros((n, n)), np.zeros((n, n))
    kurtosis, ranks, matrices = np.zeros(n), np.zeros(n), np.zeros(n)
    for _, shape, having, rows in weights.tensors(models):
        at = np.array([place[model] for model in having])
        block = np.ix_(at, at)
        between, energy = _between(rows)
        squares[block] += between
        norms_a[block] += energy[:, None]
        norms_b[block] += energy[None, :]
        lengths[block] += np.sqrt(between)
        counts[block] += 1
        if len(shape) >= 2 and min(shape[:2]) > 1:
            ranks[at] += [_stable_rank(row.reshape(shape[0], -1)) for row in rows]
            matrices[at] += 1
            if shape[0] == shape[1]:
                kurtosis[at] += [_kurtosis(row) for row in rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(counts > 0, lengths / counts, np.inf)
        relative = np.where(counts > 0, np.sqrt(squares) / (norms_a * norms_b) ** 0.25, np.inf)
        stable = ranks / matrices
    return Measured(names, mean, relative, kurtosis, stable, _deviations(models))


def _between(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distances of all rows, and their squared norms.

    The mean row is taken off first, so that near rows do not cancel.
    """
    wide = rows.astype(np.float64)
    energy = np.einsum("ij,ij->i", wide, wide)
    wide -= wide.mean(axis=0)
    gram = wide @ wide.T
    own = np.diag(gram)
    return np.maximum(own[:, None] + own[None, :] - 2 * gram, 0.0), energy


def _kurtosis(values: np.ndarray) -> float:
    centred = values.astype(np.float64) - values.mean(dtype=np.float64)
    variance = float(np.mean(centred**2))
    return float(np.mean(centred**4) / variance**2) if variance else 0.0


def _stable_rank(matrix: np.ndarray) -> float:
    wide = matrix.astype(np.float64)
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    energies = np.linalg.eigvalsh(wide @ wide.T)
    return float(energies.sum() / energies[-1]) if energies[-1] > 0 else 0.0


def _deviations(models: Mapping[str, weights.Weights]) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for model, opened in models.items():
        kinds = found.setdefault(model, {})
        for name, shape in opened.shapes.items():
            if len(shape) == 2:
                layers = kinds.setdefault(weights.kind_of(name), {})
                layers[weights.layer_of(name)] = float(opened.read(name).std(dtype=np.float64))
    return found


def mother(truth: Truth, measured: Measured) -> Answer:
    """Answer as MoTHer does (Horwitz et al., 2024), for full fine-tunes.

    Ward's clustering into the true number of families; in each the spanning arborescence that is
    the least in distance plus a penalty where the kurtosis of the square matrices speaks against
    the arrow. Which sign speaks for it depends on the stage of training, which the paper takes as
    given: of the two signs the one that finds more true edges is taken.
    """
    if len(measured.names) < 2:
        return Answer()
    distance = _finite(measured.mean_distance)
    families = min(len(measured.names), len({truth.component[name] for name in measured.names}))
    ward = linkage(squareform(distance, checks=False), "ward")
    cluster = fcluster(ward, families, "maxclust")
    against = measured.kurtosis[:, None] < measured.kurtosis[None, :]
    answers = [
        _arborescences(measured, distance + PENALTY * distance.mean() * votes, cluster)
        for votes in (against, against.T)
    ]
    found = max(answers, key=lambda a: sum(e["found"] for e in edges(truth, a)))
    related = {
        frozenset((measured.names[i], measured.names[j])): bool(cluster[i] == cluster[j])
        for i, j in combinations(range(len(measured.names)), 2)
    }
    return Answer(found.edges, _scores(measured, -measured.mean_distance), related)


def _arborescences(measured: Measured, cost: np.ndarray, cluster: np.ndarray) -> Answer:
    said: list[Said] = []
    for number in sorted(set(cluster)):
        members = np.flatnonzero(cluster == number)
        tree = _edmonds({(i, j): cost[i, j] for i in members for j in members if i != j})
        said += [Said(measured.names[i], measured.names[j]) for i, j in tree]
    return Answer(tuple(said))


def _edmonds(costs: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    graph = nx.DiGraph()
    graph.add_weighted_edges_from((int(i), int(j), float(cost)) for (i, j), cost in costs.items())
    return list(nx.minimum_spanning_arborescence(graph).edges) if costs else []


def distance_tree(truth: Truth, measured: Measured) -> Answer:
    """Answer with the shortest spanning tree of each true family, hung from its true root."""
    said: list[Said] = []
    for members, root in _families(truth, measured):
        graph = nx.Graph()
        graph.add_weighted_edges_from(
            (i, j, measured.relative[i, j]) for i, j in combinations(members, 2)
            if np.isfinite(measured.relative[i, j])
        )  # fmt: skip
        if root in graph:
            tree = nx.bfs_edges(nx.minimum_spanning_tree(graph), root)
            said += [Said(measured.names[i], measured.names[j]) for i, j in tree]
    return Answer(tuple(said), _scores(measured, -measured.relative))


def edmonds_tree(truth: Truth, measured: Measured) -> Answer:
    """Answer with the least arborescence of each true family, in distance and stable rank.

    An arrow against which the stable rank speaks (that of a child is lower) costs a penalty, as in
    MoTHer.
    """
    said: list[Said] = []
    distance = _finite(measured.relative)
    for members, _ in _families(truth, measured):
        inside = [distance[i, j] for i in members for j in members if i != j]
        penalty = PENALTY * float(np.mean(inside)) if inside else 0.0
        costs = {
            (i, j): distance[i, j]
            + penalty * bool(measured.stable_rank[i] < measured.stable_rank[j])
            for i in members for j in members if i != j
        }  # fmt: skip
        said += [Said(measured.names[i], measured.names[j]) for i, j in _edmonds(costs)]
    return Answer(tuple(said), _scores(measured, -measured.relative))


def _families(truth: Truth, measured: Measured) -> list[tuple[list[int], int]]:
    """Return the true families and, of each, a root at hand: the eldest where it is hidden."""
    parts: dict[int, list[int]] = {}
    for i, name in enumerate(measured.names):
        parts.setdefault(truth.component[name], []).append(i)

    def age(i: int) -> tuple[int, bool, str]:
        name = measured.names[i]
        standing = truth.standing_for(name)
        return len(truth.ancestors(standing)), name != standing, name

    return [(members, min(members, key=age)) for members in parts.values()]


def profiles(truth: Truth, measured: Measured) -> Answer:
    """Answer with intrinsic fingerprints (2507.03014): no edges, only how alike two models are.

    For each kind of matrix the standard deviations of its layers; the score is Pearson's
    correlation, averaged over the kinds with three layers or more that both models have.
    """
    del truth
    scores = {
        frozenset((a, b)): _profile(measured.deviations[a], measured.deviations[b])
        for a, b in combinations(measured.names, 2)
    }
    return Answer(scores=scores)


def _profile(a: Mapping[str, Mapping[int, float]], b: Mapping[str, Mapping[int, float]]) -> float:
    found = []
    for kind in a.keys() & b.keys():
        layers = sorted(a[kind].keys() & b[kind].keys())
        if len(layers) >= 3:
            x = np.array([a[kind][layer] for layer in layers])
            y = np.array([b[kind][layer] for layer in layers])
            if x.std() > 0 and y.std() > 0:
                found.append(float(np.corrcoef(x, y)[0, 1]))
    return float(np.mean(found)) if found else -inf


def _scores(measured: Measured, matrix: np.ndarray) -> dict[frozenset[str], float]:
    return {
        frozenset((measured.names[i], measured.names[j])): float(matrix[i, j])
        for i, j in combinations(range(len(measured.names)), 2)
    }


def _finite(distance: np.ndarray) -> np.ndarray:
    """Put models that cannot be held against each other far apart."""
    known = distance[np.isfinite(distance)]
    far = FAR * float(known.max()) if known.size and known.max() > 0 else 1.0
    filled = np.where(np.isfinite(distance), distance, far)
    np.fill_diagonal(filled, 0.0)
    return filled


BASELINES: dict[str, Callable[[Truth, Measured], Answer]] = {
    "MoTHer": mother,
    "distance tree": distance_tree,
    "Edmonds tree": edmonds_tree,
    "std profiles": profiles,
}

TOLD_THE_ROOT = frozenset({"distance tree", "modeldna"})
"""Those whose root is the true one because it is given."""
