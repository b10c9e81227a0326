"""What others compute from two models' weights, written anew from what their papers say.

Every peer takes two models taken apart and returns a score, higher for more alike; not a number
where it has nothing to say. None of them has a null of its own that holds here, so they are judged
by how their scores of related pairs stand above those of strangers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from networks import Network
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

_TOKENS, _FEWEST = 256, 16
_LETTERS = "qkvo"


def raw_cosine(a: Network, b: Network) -> float:
    """Return the cosine of all matrices of one name and shape together (PCS of Zeng et al. 2024).

    Gains are left out: all of them are near one, of strangers too.
    """
    dot = left = right = 0.0
    for role, value in a.parts.items():
        other = b.parts.get(role)
        if other is not None and other.shape == value.shape and value.ndim > 1:
            dot += float(np.vdot(value, other))
            left += float(np.vdot(value, value))
            right += float(np.vdot(other, other))
    return dot / (left * right) ** 0.5 if left and right else np.nan


def awm(a: Network, b: Network) -> float:
    """Return AWM's similarity (Zhao et al. 2026).

    Columns of the embeddings are assigned by their absolute cosine over shared tokens, which gives
    an order and signs of the residual stream; then Wq and Wk of each layer are compared by the
    unbiased linear CKA, layers being assigned if there are more of them on one side.
    """
    shared = _embeddings(a, b)
    if shared is None:
        return np.nan
    cosine = _unit(shared[0].T) @ _unit(shared[1].T).T
    here, there = linear_sum_assignment(-np.abs(cosine))
    signs = np.sign(cosine[here, there])[:, None]
    scores = np.zeros((len(a.layers), len(b.layers)))
    for letter in "qk":
        left = [_matrix(a, f"{n}.{letter}.w").T[here] * signs for n in a.layers]
        right = [_matrix(b, f"{n}.{letter}.w").T[there] for n in b.layers]
        scores += [[_unbiased_cka(x, y) for y in right] for x in left]
    if scores.shape[0] == scores.shape[1]:
        return float(np.mean(np.diag(scores)) / 2)
    rows, cols = linear_sum_assignment(-scores)
    return float(np.mean(scores[rows, cols]) / 2)


def _unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return the CKA of two sets of features of the same samples, by unbiased HSIC (Song 2012)."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        sums: float = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
        return float((np.vdot(k, m) + sums) / (n * (n - 3)))

    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    scale = hsic(k, k) * hsic(m, m)
    return hsic(k, m) / scale**0.5 if scale > 0 else 0.0


def invariant_terms(a: Network, b: Network) -> float:
    """Return the cosine of HuRef's terms (Zeng et al. 2024).

    E Wq' Wk E', E Wv' Wo' E' and E W1' W2' E' of the last two layers, where E has the embeddings of
    shared tokens; rows standardised.
    """
    shared = _embeddings(a, b)
    if shared is None:
        return np.nan
    count = min(len(a.layers), len(b.layers), 2)
    left, right = (
        np.concatenate([_terms(net, e, n) for n in list(net.layers)[-count:]])
        for net, e in ((a, shared[0]), (b, shared[1]))
    )
    return _cosine(left, right)


def _terms(network: Network, e: np.ndarray, layer: int) -> np.ndarray:
    part = network.parts
    q, k, v, o = (part[f"{layer}.{letter}.w"] for letter in _LETTERS)
    inner = (
        np.einsum("gmir,gis->rs", q, k),
        np.einsum("gir,sgmi->rs", v, o),
        part[f"{layer}.up.w"].T @ part[f"{layer}.down.w"].T,
    )
    return np.concatenate([_standard(e @ m @ e.T).ravel() for m in inner])


def std_profiles(a: Network, b: Network) -> float:
    """Return the correlation of the spreads of Q, K, V and O over layers (Yoon et al. 2025).

    The profile of the deeper model is interpolated to the depth of the other.
    """
    depth = min(len(a.layers), len(b.layers))
    if depth < 2:
        return np.nan
    left, right = (np.concatenate([_profile(n, x, depth) for x in _LETTERS]) for n in (a, b))
    return float(np.corrcoef(left, right)[0, 1])


def _profile(network: Network, letter: str, depth: int) -> np.ndarray:
    spread = [network.parts[f"{n}.{letter}.w"].std() for n in network.layers]
    at = np.linspace(0, len(spread) - 1, depth)
    return _standard(np.interp(at, np.arange(len(spread)), spread)[None])[0]


def unit_matching(a: Network, b: Network) -> float:
    """Return the z of matching MLP units twice in raw coordinates (Zhu et al. 2025).

    By rows of gate and of up; where there is no gate, by what goes into a unit and what comes out.
    Layers are taken in their order.
    """
    found = []
    for layer in range(min(len(a.layers), len(b.layers))):
        looks = list(_looks(a, b, layer))
        if len(looks) < 2:
            return np.nan
        (rows, first), (_, second) = (
            linear_sum_assignment(-_unit(x) @ _unit(y).T) for x, y in looks
        )
        found.append(spearmanr(first, second).statistic * (len(rows) - 1) ** 0.5)
    return float(np.sum(found) / len(found) ** 0.5)


def _looks(a: Network, b: Network, layer: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    gated = f"{layer}.gate.w" in a.parts and f"{layer}.gate.w" in b.parts
    for end in ("gate", "up") if gated else ("up", "down"):
        x, y = a.parts[f"{layer}.{end}.w"], b.parts[f"{layer}.{end}.w"]
        x, y = (x.T, y.T) if end == "down" else (x, y)
        if x.shape[1] == y.shape[1]:
            yield x, y


def _embeddings(a: Network, b: Network) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the rows of tokens that both have, in one order; None if there are too few."""
    if a.vocabulary is None or b.vocabulary is None or "embed.w" not in a.parts:
        return None
    shared = sorted(a.vocabulary.keys() & b.vocabulary.keys())
    if len(shared) < _FEWEST or a.parts["embed.w"].shape[1] != b.parts["embed.w"].shape[1]:
        return None
    step = max(1, len(shared) // _TOKENS)
    chosen = shared[::step]
    left, right = (
        n.parts["embed.w"][[n.vocabulary[word] for word in chosen]]  # type: ignore[index]
        for n in (a, b)
    )
    return left, right


def _matrix(network: Network, role: str) -> np.ndarray:
    value = network.parts[role]
    return value.reshape(-1, value.shape[-1])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _standard(x: np.ndarray) -> np.ndarray:
    spread = np.maximum(x.std(1, keepdims=True), 1e-12)
    standard: np.ndarray = (x - x.mean(1, keepdims=True)) / spread
    return standard


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12))


Peer = Callable[[Network, Network], float]
PEERS: dict[str, Peer] = {
    "raw cosine": raw_cosine,
    "AWM": awm,
    "invariant terms": invariant_terms,
    "std profiles": std_profiles,
    "unit matching": unit_matching,
}
_FOR_TRANSFORMERS = tuple(name for name in PEERS if name != "raw cosine")


def scores(a: Network, b: Network) -> dict[str, float]:
    """Return what every peer says of two models."""
    both = a.kind == b.kind == "transformer"
    return {
        name: peer(a, b) if both or name not in _FOR_TRANSFORMERS else np.nan
        for name, peer in PEERS.items()
    }
