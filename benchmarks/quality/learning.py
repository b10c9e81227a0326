"""Networks that score arcs and models without a parent, fitted to trees whose making is known.

What is fitted is the share of the weight of all trees that the right ones have, and that those of
the right root have, by the matrix-tree theorem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from cases import NO_PARENT, UNKNOWN, Case
from numpy.typing import NDArray

from lineage.evidence.ancestry import Evidence
from lineage.evidence.gains import Gains
from lineage.evidence.nets import MOST, MOST_SPREAD, Net
from lineage.graph.odds import Nets

BATCH, RATE, DECAY, DROPOUT = 64, 0.01, 0.1, 0.1
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


def fit(of: Sequence[Example], seed: int, nets: int, hidden: int, epochs: int) -> Nets:
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
